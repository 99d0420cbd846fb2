"""Checks of lesson 11, when it breaks: does it train, by what factor, and is merged the same as unmerged."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from lora_lab.attempt import Attempt, NotYet, expect, short
from lora_lab.exercises import exercise


def quiet() -> Any:
    """A context in which torch's random numbers are as for seed 11, and afterwards as they were."""
    import torch

    stack = contextlib.ExitStack()
    stack.enter_context(torch.random.fork_rng(devices=[]))
    torch.manual_seed(11)
    return stack


@functools.cache
def patient() -> type:
    """The class of the package's layer under the names of the lesson's hand-written one, to put bugs in on purpose."""
    import torch
    from torch import Tensor, nn

    from lora_lab.layers import LoraLinear

    class Patient(nn.Module):
        """`factor` is what the update is really multiplied by, whatever `scaling`, `alpha` and `rank` say.

        `transposed` is a fault of every merge, `shift` [out] what it adds to the bias.
        """

        def __init__(self, out: int, wide: int, factor: float = 2.0, fresh: bool = False) -> None:
            super().__init__()
            with quiet():
                self.inner = LoraLinear(nn.Linear(wide, out).requires_grad_(False))
                self.inner.add("default", rank=4, scaling=factor)
                if not fresh:
                    nn.init.normal_(self.B, std=0.5)
            self.inner.active = ["default"]
            self.rank, self.alpha, self.scaling, self.merged = 4, 8, 2.0, False
            self.transposed, self.shift = False, torch.zeros(out)

        base = property(lambda self: self.inner.base)
        A = property(lambda self: self.inner.matrices("default")[0])
        B = property(lambda self: self.inner.matrices("default")[1])

        def __setattr__(self, name: str, value: Any) -> None:
            if name in ("A", "B"):
                getattr(self.inner, name)["default"].weight = nn.Parameter(value)
            elif name == "base":
                self.inner.base = value
            else:
                super().__setattr__(name, value)

        def delta(self) -> Tensor:
            """s B A, [out, in]."""
            return self.inner.delta("default").detach()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

        def merge(self) -> None:
            """Add what A and B make now; again, if it is called again."""
            self.base.weight.data += self.delta().T if self.transposed else self.delta()
            self.base.bias.data += self.shift
            self.inner.active, self.merged = [], True

        def unmerge(self) -> None:
            """Take away what A and B make now, as peft does."""
            self.base.weight.data -= self.delta()
            self.inner.active, self.merged = ["default"], False

    return Patient


def names_in(value: Any, what: str) -> list[str]:
    """`value` as a list of names. Raises NotYet for anything else."""
    expect(value is not None, f"{what} returns None: is there a return? (Where there is nothing to list, return [].)")
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise NotYet(f"{what} should return a list of names (strings), not {short(value)}.")
    return list(value)


@exercise(
    "11",
    "is anything training?",
    difficulty=2,
    importance=3,
    minutes=6,
    hints=(
        'named_parameters() gives you the live tensors. After the step your "before" has changed with them, unless you '
        "kept copies.",
        "before = {name: p.detach().clone() for name, p in model.named_parameters()}, then step(), then torch.equal.",
    ),
    expect=(
        "no clone: each tensor is compared with itself, and nothing ever moves",
        "what has a gradient, or requires one, in place of what moved",
        "allclose: small steps are overlooked",
    ),
)
def moved(attempt: Attempt) -> str:
    """Names of the parameters that differ after `step()`, in the model's order."""
    import torch
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    with quiet():
        plain = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        model = add_adapter(plain, LoraConfig(rank=2, alpha=4, target_modules=["0", "2"]))
        x = torch.randn(7, 5)
    named = dict(model.named_parameters())
    train = torch.optim.SGD([p for p in named.values() if p.requires_grad], lr=0.5)
    stray = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)

    def learn(optimizer: Any) -> None:
        model.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    def exchange() -> None:
        weight = named["2.base.weight"].data
        weight[1], weight[2] = weight[2].clone(), weight[1].clone()

    cases: tuple[tuple[Callable[[], Any], str, str], ...] = (
        (
            lambda: learn(train),
            "B of both layers moved, and one is not in the list: is the return inside of the loop?",
            "in a first step only B moves: A's gradient is zero while B is. What may train has not moved yet.",
        ),
        (
            lambda: learn(train),
            "from the second step on A moves as well as B.",
            "the frozen W and its bias do not move in a training step.",
        ),
        (
            lambda: learn(stray),
            "nothing should be missing here.",
            "here nothing moves: there are gradients, but the optimizer holds other parameters. A gradient is no step.",
        ),
        (
            lambda: named["0.base.weight"].data.add_(1),
            "a frozen weight moved here, and it is not in the list: look at all parameters, not only those that train.",
            "only the weight 0.base.weight moves here, and others are in the list.",
        ),
        (
            lambda: named["2.base.bias"].data.mul_(1 + 1e-6),
            "a change of one millionth is a change: torch.equal, not allclose.",
            "only 2.base.bias moves here, and others are in the list.",
        ),
        (
            exchange,
            "two rows changed places and it was not seen: compare all entries, not their sum or norm or the first, and "
            "let one that differs be enough.",
            "only 2.base.weight moves here, and others are in the list.",
        ),
    )
    for step, missing, extra in cases:
        got, right = _watched(attempt, model, step)
        expect(
            not (right and set(got) == set(named) - set(right)),
            "those are the parameters that stayed as they were: asked are the others.",
        )
        expect(
            got or not right or step is not cases[0][0],
            "it says that nothing moved, but B did. named_parameters() gives the live tensors: keep copies, p.clone(), "
            "made before the step.",
        )
        expect(set(right) <= set(got), missing)
        objects = "not one entry of the frozen W changed, and it is in the list: compare the numbers, torch.equal."
        expect(step is not cases[0][0] or not any(".base." in name for name in got), objects)
        expect(set(got) <= set(right), extra)
        expect(got == right, f"the names are right, but not in the model's order, or there twice: {short(got)}.")
    return "And what is level to the last bit shows up here as an empty list."


def _watched(attempt: Attempt, model: Any, step: Callable[[], Any]) -> tuple[list[str], list[str]]:
    """What the learner's function says that `step` moved, and what it did move."""
    import torch

    seen: list[dict] = []

    def state() -> dict:
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    def watched() -> None:
        before = state()
        step()
        seen.append({"before": before, "after": state()})

    watched.__name__ = watched.__qualname__ = "step"  # an error names the function as the learner knows it

    start = state()
    got = names_in(attempt(model, watched, may_change=True), "moved")
    expect(len(seen) > 0, "the step was never made: call step() between the two looks.")
    expect(len(seen) == 1, f"step() was called {len(seen)} times: once is asked.")
    before, after, now = seen[0]["before"], seen[0]["after"], state()
    expect(
        all(torch.equal(start[n], before[n]) and torch.equal(after[n], now[n]) for n in start),
        "moved changes the model itself: only step() may.",
    )
    return got, [name for name in before if not torch.equal(before[name], after[name])]


@exercise(
    "11",
    "measure the factor",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "Take the base's output away. What is left is s times a matrix that you can compute. Which s fits best, in "
        "least squares?",
        "added = layer(x) - layer.base(x); plain = (x @ layer.A.T) @ layer.B.T; s = (added * plain).sum() / "
        "plain.square().sum().",
    ),
    expect=(
        "an attribute read instead of a measurement",
        "a ratio of norms, which cannot see a minus",
        "the base's output, or its bias, not taken away",
    ),
)
def measured_scaling(attempt: Attempt) -> str:
    """The number by which the layer really multiplies its update, from outputs alone."""
    import torch

    with quiet():
        x = torch.randn(9, 6)
    for factor in (0.3, -3.0, 8.0):
        layer = patient()(5, 6, factor)
        with torch.no_grad():
            out, below, plain = layer(x), layer.base(x), x @ layer.A.T @ layer.B.T
            no_bias = out - x @ layer.base.weight.T
            added = out - below
        got = attempt.number(attempt(layer, x), "the factor")
        size = plain.square().sum()
        attempt.agree(
            got,
            factor,
            {
                "that is the attribute `scaling` (or alpha / rank). It may lie: measure, from outputs.": layer.scaling,
                "that is the attribute `alpha`. It may lie: measure, from outputs.": float(layer.alpha),
                "the size is right, the sign is lost: a ratio of norms cannot see that an update is subtracted.": (
                    abs(factor)
                ),
                "the base's output is still in it: take layer.base(x) away first.": (out * plain).sum() / size,
                "the base's output is still in it, and norms hide the sign: take layer.base(x) away first.": (
                    out.norm() / plain.norm()
                ),
                "the base's bias is still in it: layer.base(x) is more than x W.T.": (no_bias * plain).sum() / size,
                "upside down: that is the plain update over what the layer adds.": 1 / factor,
                "that is what the layer adds over what its base gives; compare it with (x A.T) B.T.": (
                    (added * below).sum() / below.square().sum()
                ),
                "that is the mean of what is added; compare it with (x A.T) B.T.": added.mean(),
                "that measures against x A.T B.T times the scaling of the attribute, which may lie.": (
                    factor / layer.scaling
                ),
                "the other way round: the layer's output less the base's, or the sign is turned.": -factor,
                "that is the attribute `rank`: measure, from outputs.": float(layer.rank),
                "that is 1 for any factor: the cosine, or a division by an update that has the factor in it.": (
                    (added * plain).sum() / added.norm() / plain.norm()
                ),
                "divided by the length of the plain update; the factor takes its square.": (
                    (added * plain).sum() / plain.norm()
                ),
                "divided by the sum of the plain update; the factor takes the sum of its squares.": (
                    (added * plain).sum() / plain.sum()
                ),
                "norms cannot be subtracted: take layer.base(x) away first, and the norm then.": (
                    (out.norm() - below.norm()) / plain.norm()
                ),
                "that is the whole output over the base's; compare what is added with (x A.T) B.T.": (
                    out.norm() / below.norm()
                ),
                "the base's bias is still in it: layer.base(x) is more than x W.T. (And norms hide the sign.)": (
                    no_bias.norm() / plain.norm()
                ),
                "that is an inner product, not yet a factor: divide by the plain update with itself.": (
                    (added * plain).sum()
                ),
            },
            case=f"a layer that multiplies by {factor:g}",
            tolerance=1e-3,
        )
    return "Whatever the attributes say: all three layers lied about it, one of them in the sign."


@exercise(
    "11",
    "a check that cannot be fooled",
    difficulty=3,
    importance=3,
    minutes=8,
    hints=(
        "copy.deepcopy first, as_if_trained second, and only then the first of the two outputs.",
        "probe = as_if_trained(copy.deepcopy(layer)); apart = probe(x); probe.merge(); compare probe(x) with apart.",
    ),
    expect=(
        "run on a fresh adapter, where B is zero and every merge is right",
        "merged the layer itself instead of a copy",
        "the outputs belong to two different B",
        "no abs(): a difference downwards is overlooked",
    ),
)
def merge_error(attempt: Attempt) -> str:
    """Largest difference of the outputs unmerged and merged, with a B that is not zero; the layer stays as it is."""
    import torch

    with quiet():
        x = torch.randn(9, 6)
    good, low, transposed = (patient()(6, 6, fresh=True) for _ in range(3))
    low.shift, transposed.transposed = torch.tensor([-0.6, -0.3, -0.3, -0.3, -0.05, 0.2]), True
    got = _measured(attempt, good, x)
    expect(
        abs(got) < 1e-3,
        "this layer merges rightly, yet you find a difference: do both outputs belong to one B, and "
        "is merge() called once?",
    )
    got = _measured(attempt, low, x)
    wrong = low.shift.abs()
    expect(
        abs(got) > 1e-3,
        "this merge changes the outputs by 0.6 and you find nothing: call the layer's own merge(), and compare the "
        "outputs (not the weights) from before with those after.",
    )
    attempt.agree(
        got,
        0.6,
        {
            "what a merge lowers is overlooked: take abs() before max().": 0.2,
            "what a merge lowers may come out negative: take abs() before max().": -0.6,
            "what a merge lowers may come out negative: take abs() before max(), and the later less the former.": -0.2,
            "that is the mean difference; asked is the largest, so that one wrong output cannot hide.": wrong.mean(),
            "that is the smallest difference; asked is the largest.": 0.05,
            "that is the square of the difference: asked is the difference itself.": 0.36,
            "that is a mean of squares; asked is the largest difference.": wrong.square().mean(),
            "that adds up all differences; asked is the largest.": wrong.sum() * len(x),
            "that is the norm of all differences; asked is the largest.": wrong.norm() * len(x) ** 0.5,
            "that adds the differences up, and a minus takes from a plus; asked is the largest.": low.shift.sum()
            * len(x),
            "that is a mean in which a minus takes from a plus; asked is the largest difference.": low.shift.mean(),
        },
        case="a merge that changes outputs by 0.6 at most",
        tolerance=0.002,
    )
    got = _measured(attempt, transposed, x)
    expect(
        abs(got) > 1e-3,
        "this merge is transposed, and your check lets it pass: B is zero in a fresh layer, and zero transposed is "
        "zero. Fill B first.",
    )
    return "It catches a transpose that a fresh adapter hides, and a shift that only the outputs show."


def _measured(attempt: Attempt, layer: Any, x: Any) -> float:
    """What the learner's function says of `layer`. Raises NotYet if it changes the layer or x."""
    import torch

    before, handed = {name: t.clone() for name, t in layer.state_dict().items()}, x.clone()
    with quiet():
        result = attempt(layer, handed, may_change=True)
    now = layer.state_dict()
    expect(
        not layer.merged and now.keys() == before.keys() and all(torch.equal(now[n], t) for n, t in before.items()),
        "the layer was changed: work on a copy, copy.deepcopy(layer).",
    )
    expect(torch.equal(handed, x), "x was changed: leave it as it is.")
    expect(result is not None, "merge_error returns None: is there a return?")
    return attempt.number(result, "the largest difference")
