"""Checks of lesson 11, when it breaks: the unmerge, ties, and keys of a file."""

from __future__ import annotations

from typing import Any

from lora_lab.attempt import Attempt, NotYet, close, expect, short
from lora_lab.exercises import exercise
from lora_lab.exercises.lesson_11 import names_in, patient, quiet

NEAR = 1e-4  # float32


@exercise(
    "11",
    "an unmerge that cannot be wrong",
    difficulty=2,
    importance=3,
    minutes=7,
    hints=(
        "Keep the weight itself, layer.base.weight.data. And keep it only if nothing is kept yet.",
        "Write the sum as a new tensor, layer.base.weight.data = layer.kept + layer.delta(), since += would change the "
        "kept one; on unmerging forget what was kept.",
    ),
    expect=(
        "subtracting s B A of today's A and B",
        "`+=` on a weight that is kept without a copy",
        "merged twice when called twice",
        "kept for ever: the next merge does nothing, or the next unmerge is out of date",
    ),
)
def unmerge_to_the_bit(attempt: Attempt) -> str:
    """Two functions, merge(layer) and unmerge(layer), whatever happens to A and B in between."""
    import torch

    merge, unmerge = attempt.several(attempt.answer, 2, "the answer (merge, unmerge)")
    expect(callable(merge) and callable(unmerge), "pass both functions, without brackets: one of the two is none.")
    layer = patient()(5, 4)
    plain, first = _weight(layer).clone(), layer.delta()
    for again in (False, True):
        delta = layer.delta()
        for call in (1, 2):
            attempt(layer, may_change=True, of=merge)
            got = attempt.array(_weight(layer), (5, 4), "the merged weight")
            mistakes = _mistakes(plain, delta, first, call, again)
            attempt.agree(got, plain + delta, mistakes, case="the weight after merge(layer)", tolerance=NEAR)
        with quiet(), torch.no_grad():  # tomorrow's adapter
            layer.A.mul_(1.5)
            layer.B.copy_(0.3 * torch.randn(layer.B.shape) + 0.2)
        handed = layer.A.detach().clone(), layer.B.detach().clone()
        attempt(layer, may_change=True, of=unmerge)
        back = attempt.array(_weight(layer), (5, 4), "the weight after unmerge")
        if not torch.equal(_weight(layer), plain):
            _blame(back, plain, delta, layer.delta())
        same = torch.equal(layer.A, handed[0]) and torch.equal(layer.B, handed[1])
        expect(same, "unmerge changes A or B: only the weight is its business.")
    return "It costs a second copy of the weight, and nothing is rounded."


def _weight(layer: Any) -> Any:
    """The tensor in the place of the weight. Raises NotYet if there is none."""
    weight = getattr(layer.base, "weight", None)
    expect(hasattr(weight, "detach"), f"layer.base.weight is {short(weight)}: leave a tensor there.")
    return weight.detach()


def _mistakes(plain: Any, delta: Any, first: Any, call: int, again: bool) -> dict[str, Any]:
    """What may be in the weight after merge was called once or twice, for the first time or again."""
    if again and call == 1:
        return {
            "merged again after an unmerge, the weight is still the plain one: your merge believes that all is in it. "
            "Unmerge must forget what was kept (hasattr is true for None as well), and take back a flag.": plain,
            "the second merge put the *first* update in again: ask layer.delta() anew.": plain + first,
            "the second merge holds both updates, the old one and the new one.": plain + first + delta,
        }
    if call == 1:
        return {
            "after merge the weight is still the plain one: layer.delta() is to be added.": plain,
            "the update was taken away instead of added.": plain - delta,
            "only the update is in the weight: W + s B A was wanted.": delta,
            "s is counted twice: layer.delta() has it already.": plain + 2 * delta,
            "s is left out: layer.delta() is s B A.": plain + delta / 2,
        }
    return {
        "merge was called twice, and the update is in the weight twice: if it is in there, do nothing.": (
            plain + 2 * delta
        ),
        "merge was called twice, and the second call took the update out again: then it should do nothing.": plain,
    }


def _blame(back: Any, plain: Any, delta: Any, now: Any) -> None:
    """Raise NotYet with what `back` is, since it is not the plain weight to the bit."""
    if close(back, plain + delta, NEAR):
        raise NotYet(
            "after unmerge the weight is still the merged one: put the kept one back. (If you kept the Parameter, or a "
            "tensor without a copy, += changed it as well.)"
        )
    if close(back, plain + delta - now, NEAR):
        raise NotYet(
            "unmerge took away what A and B make *now*; since the merge they have changed. Put back the weight that "
            "was there."
        )
    if close(back, plain, 0.01):
        raise NotYet("nearly the plain weight, but not to the bit: to add and subtract rounds. Keep the weight itself.")
    raise NotYet("after unmerge the weight is not the plain one: what was kept, and when?")


@exercise(
    "11",
    "who else uses it?",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "named_parameters(remove_duplicate=False) lists all names. Where a tensor's numbers lie: tensor.data_ptr().",
        "Make a dict of all names, doubles too; list those whose data_ptr() is that of `name`, without `name` itself.",
    ),
    expect=(
        "named_parameters(), which hides doubles",
        "`is`: two parameters can share their memory and be two objects",
        "torch.equal: equal numbers in two places are not tied",
        "the name itself in the list",
    ),
)
def tied_to(attempt: Attempt) -> str:
    """Names of the other parameters whose numbers lie where those of parameter `name` lie."""
    import torch
    from torch import nn

    with quiet():
        model = nn.ModuleDict(
            {"embed": nn.Embedding(6, 4), "body": nn.Linear(4, 4), "twin": nn.Linear(4, 4), "head": nn.Linear(4, 6)}
        )
        model["copy"] = nn.Linear(4, 4, bias=False)
        model["other"] = nn.Linear(4, 4, bias=False)
    model["head"].weight = model["embed"].weight  # one object under two names
    model["twin"].weight = nn.Parameter(model["body"].weight.data)  # another object around the same numbers
    model["copy"].weight = nn.Parameter(model["body"].weight.data.clone())  # equal numbers in another place
    before = {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}
    one = (
        "one matrix has two names here, and yours misses the other. named_parameters() hides the second, unless you "
        "say remove_duplicate=False; and p.data is a new object each time, so compare data_ptr()."
    )
    memory = (
        "two parameters can be two objects and share their memory: compare data_ptr() (mind the brackets), and not the "
        "objects."
    )
    apart = "equal numbers in two places are not tied: changing one leaves the other. Compare where they lie."
    for name, right, missing, extra in (
        ("embed.weight", ["head.weight"], one, "head.weight alone shares the memory of embed.weight."),
        ("head.weight", ["embed.weight"], one, "embed.weight alone shares the memory of head.weight."),
        ("twin.weight", ["body.weight"], memory, apart),
        ("body.weight", ["twin.weight"], memory, apart),
        ("copy.weight", [], "", apart),
        ("head.bias", [], "", "nobody shares the memory of head.bias."),
    ):
        got = names_in(attempt(model, name, may_change=True), "tied_to")
        now = dict(model.named_parameters(remove_duplicate=False))
        expect(
            list(now) == list(before) and all(torch.equal(now[n], p) for n, p in before.items()),
            "tied_to changes the model: to look at it is enough.",
        )
        expect(name not in got, f"{name} itself is in the list: asked are the others.")
        same_shape = {n for n, p in now.items() if p.shape == now[name].shape} - {name}
        expect(
            set(got) != same_shape or set(right) == same_shape,
            "those are all of the same shape; tied means the same memory.",
        )
        expect(set(right) <= set(got), missing)
        expect(set(got) <= set(right), extra)
        expect(got == right, f"a name is in the list twice: {short(got)}.")
    return "Look there before you merge: a merge into one of them changes the other."


@exercise(
    "11",
    "mend a key",
    difficulty=2,
    importance=2,
    minutes=7,
    hints=(
        "Everything before the *first* `base_model.` goes. At the other end, what stands between `lora_A` and `weight` "
        "goes.",
        'key.split("base_model.", 1)[-1] drops the wrappers; then split at the dots and look at the last but one part.',
    ),
    expect=(
        'lstrip("_orig_mod."), which strips letters',
        "every `module.` removed, also one inside the model",
        "only an adapter called `default` removed",
        "the last `base_model.` taken in place of the first",
    ),
)
def file_key(attempt: Attempt) -> str:
    """The key as it belongs in the file: no wrapper's prefix, no adapter's name."""
    right = "base_model.model.first.lora_A.weight"
    inner = "base_model.model.module.first.lora_B.weight"
    default = "base_model.model.default.lora_A.weight"
    double = "base_model.model.base_model.model.first.lora_B.weight"
    for prefix, wanted, name in (
        ("", right, ""),
        ("_orig_mod.", right, "default"),
        ("module.", right, "default"),
        ("module._orig_mod.", right, "pirate"),
        ("_orig_mod.module.", right, "default"),
        ("", right, "model"),
        ("", right, "old-pirate"),
        ("module.", inner, ""),
        ("", inner, "default"),
        ("", default, "default"),
        ("_orig_mod.", double, "default"),
        ("", double, ""),
    ):
        key = prefix + (wanted.replace(".weight", f".{name}.weight") if name else wanted)
        got = attempt(key)
        expect(isinstance(got, str), f"file_key({key!r}) gives {short(got)}: a key is a string.")
        if got != wanted:
            raise NotYet(f"{_fault(got, wanted, prefix, name)} {key} became {got[:100] or 'nothing'}.")
    return "First aid, for a file that you cannot make again."


def _fault(got: str, wanted: str, prefix: str, name: str) -> str:
    """What is wrong with `got`, in a sentence."""
    if name and f".{name}.weight" in got:
        return f"The adapter's name, here {name!r}, is still in it; an adapter may have any name."
    if got.startswith(("_orig_mod.", "module.")):
        return "A wrapper's prefix is still there: _orig_mod. and module., in any order, do not belong in the file."
    if wanted.count("base_model.") == 2 and got.count("base_model.") < 2:
        return "An adapter on an adapted model has base_model. twice: cut before the *first* one."
    if got.replace(".", "") == wanted.replace(".", ""):
        return "The parts are joined without dots, or with too many."
    if not got.startswith("base_model."):
        if prefix:
            return "The front was cut in the wrong place: strip() takes letters, not words. Use removeprefix, or split."
        return "base_model.model. is peft's own and stays in the file."
    if not got.endswith(".weight"):
        return ".weight belongs in the file."
    if not name and not prefix:
        return "A key that is right already stays as it is."
    if ".module." in wanted and ".module." not in got:
        return "This model has a part that is called module: inside the path it stays."
    if ".default." in wanted and ".default." not in got:
        return "This model has a layer that is called default: only what stands between lora_A and weight goes."
    if "lora_" not in got:
        return (
            "lora_A or lora_B, which of the two matrices it is, belongs in the file. (A path has any number of parts.)"
        )
    return "That is not the key that belongs in the file:"
