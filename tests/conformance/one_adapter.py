"""Properties of one adapter on a model: how it starts, learns, merges, is put aside and taken off."""

from __future__ import annotations

import warnings

import torch
from safetensors.torch import save as to_bytes
from torch.utils.checkpoint import checkpoint

from tests.conformance.cells import EVERYTHING, holds
from tests.conformance.implementations import NotBuilt
from tests.conformance.models import gap

EXACT = 0.0


def rounded(float32: float) -> dict[str, float]:
    """A bar by dtype. float16's is peft's; bfloat16 has 3 bits less, and no test in peft."""
    return {"float32": float32, "float16": 1e-3, "bfloat16": 1e-2}


MERGED, THEIRS, THEIR_MERGED = rounded(1e-5), rounded(1e-5), rounded(1e-4)
HALF = ("bfloat16", "float16")
CHANGED = 1e-2  # two outputs that should differ do, by more than any rounding here


def raises(call) -> bool:
    """Whether the call raises an error, other than one that says that the test itself is wrong."""
    try:
        call()
    except (AttributeError, NameError, NotBuilt):
        raise
    except Exception:  # noqa: BLE001 - any refusal will do
        return True
    return False


def values(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def base_values(impl, model, *names: str) -> dict[str, torch.Tensor]:
    """Every parameter that is not an adapter's."""
    mine = {id(p) for name in names or ("default",) for p in impl.parameters(model, name).values()}
    return {n: p.detach().clone() for n, p in model.named_parameters() if id(p) not in mine}


def largest(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    assert before.keys() == after.keys(), sorted(before.keys() ^ after.keys())[:3]
    return max(gap(after[n], before[n]) for n in before)


@holds("1", "an untrained adapter changes no output", EXACT, theirs=THEIRS, kinds=EVERYTHING)
def starts_as_the_base(impl, case):
    base = impl(case.model(), case.x)
    return gap(impl(impl.add(case.model(), case.config()), case.x), base)


@holds("2", "training moves every parameter of the adapter and nothing else", EXACT, theirs=1e-4, kinds=EVERYTHING)
def training_moves_the_adapter_alone(impl, case):
    model = impl.add(case.model(), case.config()).train()
    mine = {n: p.detach().clone() for n, p in impl.parameters(model).items()}
    before = base_values(impl, model)
    lr = 0.3 if case.kind == "Llama" else 0.1  # its attention is flat at first, and its gradients small
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(3):
        optimizer.zero_grad()
        model(case.x).float().square().sum().backward()
        optimizer.step()
    moved = {n: (p - mine[n]).abs().max().item() for n, p in impl.parameters(model).items()}
    assert min(moved.values()) > 1e-4, min(moved.items(), key=lambda item: item[1])
    return largest(before, base_values(impl, model))


@holds("4", "merged, and merged for good, the model computes what it did; no adapter module is left",
       MERGED, theirs=THEIR_MERGED, kinds=EVERYTHING)  # fmt: skip
def merged_equals_unmerged(impl, case):
    model = impl.trained(case.model(), case.config())
    expected = impl(model, case.x)
    assert gap(expected, impl(case.model(), case.x)) > CHANGED
    impl.merge(model)
    merged = impl(model, case.x)
    impl.unmerge(model)
    plain = impl.merge_and_unload(model)
    assert not impl.is_wrapped(plain)
    return max(gap(merged, expected), gap(impl(plain, case.x), expected))


@holds("4", "with dilation and circular padding a merged convolution computes what it did", MERGED,
       theirs=THEIR_MERGED, kinds=("Conv2d",))  # fmt: skip
def merged_equals_unmerged_in_a_dilated_convolution(impl, case):
    def base():
        model, old = case.model(), case.model().first
        new = torch.nn.Conv2d(3, 8, 3, padding=2, dilation=2, padding_mode="circular", dtype=case.torch_dtype)
        new.load_state_dict(old.state_dict())
        model.first = new
        return model

    model = impl.trained(base(), case.config(targets=("first",)))
    expected = impl(model, case.x)
    impl.merge(model)
    return gap(impl(model, case.x), expected)


@holds("5", "merging twice adds once, with a warning", 1e-6, theirs=1e-6)
def merging_twice_adds_once(impl, case):
    model = impl.trained(case.model(), case.config())
    impl.merge(model)
    once = impl(model, case.x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        impl.merge(model)
    assert caught, "no warning"
    return gap(impl(model, case.x), once)


@holds("5", "a safe merge equals the merge, and its weights can be saved by safetensors", rounded(1e-6))
def a_safe_merge_is_the_merge(impl, case):
    one, two = (impl.trained(case.model(), case.config()) for _ in range(2))
    impl.merge(one, safe=False)
    impl.merge(two, safe=True)
    plain = impl.merge_and_unload(two).state_dict()
    assert to_bytes({n: t.contiguous() for n, t in plain.items()})
    return gap(impl(two, case.x), impl(one, case.x))


def broken(impl, case):
    """A model whose second layer's adapter holds a NaN."""
    model = impl.trained(case.model(), case.config())
    with torch.no_grad():
        next(p for n, p in impl.parameters(model).items() if "second" in n).view(-1)[0] = float("nan")
    return model


@holds("6", "an adapter with a NaN is refused by a safe merge, and its layer stays as it was", EXACT)
def a_broken_adapter_is_refused(impl, case):
    model = broken(impl, case)
    before = {n: v for n, v in base_values(impl, model).items() if "second" in n}
    assert raises(lambda: impl.merge(model, safe=True))
    return largest(before, {n: v for n, v in base_values(impl, model).items() if n in before})


@holds("6", "a refused merge leaves every layer as it was", EXACT)
def a_refused_merge_changes_no_layer(impl, case):
    model = broken(impl, case)
    before = base_values(impl, model)
    assert raises(lambda: impl.merge(model, safe=True))
    assert impl.status(model)["merged"] == [], impl.status(model)["merged"]
    return largest(before, base_values(impl, model))


@holds("7", "unmerging gives the base weights back", EXACT, theirs=THEIRS, kinds=EVERYTHING)
def unmerging_restores_the_base(impl, case):
    model = impl.trained(case.model(), case.config())
    before = base_values(impl, model)
    impl.merge(model)
    impl.unmerge(model)
    return largest(before, base_values(impl, model))


@holds(
    "8", "without its adapter the model is the base; afterwards it is as it was", EXACT, theirs=THEIRS, kinds=EVERYTHING
)
def disabled_is_the_base(impl, case):
    base = impl(case.model(), case.x)
    model = impl.trained(case.model(), case.config())
    expected = impl(model, case.x)
    with impl.disabled(model):
        inside = impl(model, case.x)
    return max(gap(inside, base), gap(impl(model, case.x), expected))


@holds("8", "the same while merged", MERGED, theirs=THEIR_MERGED, kinds=EVERYTHING)
def disabled_is_the_base_while_merged(impl, case):
    base = impl(case.model(), case.x)
    model = impl.trained(case.model(), case.config())
    impl.merge(model)
    expected = impl(model, case.x)
    with impl.disabled(model):
        inside = impl(model, case.x)
    return max(gap(inside, base), gap(impl(model, case.x), expected))


@holds("8", "disabled within disabled stays disabled; a merged model is merged again afterwards", EXACT)
def the_state_before_is_restored(impl, case):
    model = impl.trained(case.model(), case.config())
    with impl.disabled(model):
        with impl.disabled(model):
            pass
        assert not impl.status(model)["enabled"]
    assert impl.status(model)["enabled"]
    impl.merge(model)
    with impl.disabled(model):
        impl(model, case.x)
    assert impl.status(model)["merged"] == ["default"], impl.status(model)["merged"]
    return 0.0


@holds("8", "unloading gives the plain base model", EXACT, theirs=THEIRS, kinds=EVERYTHING)
def unloaded_is_the_base(impl, case):
    plain = impl.unload(impl.trained(case.model(), case.config()))
    assert not impl.is_wrapped(plain)
    return largest(values(case.model()), values(plain))


@holds("8", "unloading a merged model gives the plain base model", EXACT, theirs=THEIRS, kinds=EVERYTHING)
def unloaded_is_the_base_after_a_merge(impl, case):
    model = impl.trained(case.model(), case.config())
    impl.merge(model)
    return largest(values(case.model()), values(impl.unload(model)))


@holds("11", "deleting the only adapter leaves the base", EXACT, theirs=THEIRS, kinds=EVERYTHING)
def deleting_the_only_adapter_leaves_the_base(impl, case):
    model = impl.trained(case.model(), case.config())
    impl.delete(model, "default")
    return gap(impl(model, case.x), impl(case.model(), case.x))


@holds("16", "the update is multiplied by alpha / rank, by alpha / sqrt(rank) for rsLoRA, and by layer", 1e-7)
def scaling_is_alpha_over_rank(impl, case):
    config = case.config(rank=4, alpha=6, rank_pattern={"second": 2}, alpha_pattern={"first": 5.0})
    model = impl.add(case.model(), config)
    power = 0.5 if case.variant == "rsLoRA" else 1
    found = impl.scaling(model)
    assert impl.rank(model) == {"first": 4, "second": 2}
    return max(abs(found["first"] - 5 / 4**power), abs(found["second"] - 6 / 2**power))


def singular_start(layer, a, b, scaling: float) -> float:
    weight = layer.weight.detach().float()
    weight = weight if isinstance(layer, torch.nn.Linear) else weight.T
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    rank = a.shape[0]
    return gap(scaling * b.float() @ a.float(), u[:, :rank] * s[:rank] @ v[:rank])


@holds("17", "PiSSA starts at the largest part of the weight", rounded(1e-5), kinds=("Linear", "Conv1D"),
       variants=("PiSSA",))  # fmt: skip
def pissa_starts_at_the_largest_singular_values(impl, case):
    model = impl.add(case.model(), case.config())
    scaling, plain = impl.scaling(model), case.model()
    worst = 0.0
    for path in ("first", "second"):
        a, b = (p for n, p in impl.parameters(model).items() if path in n)
        worst = max(worst, singular_start(plain.get_submodule(path), a, b, scaling[path]))
    return worst


@holds("17", "PiSSA is refused where there is no matrix to start from, not left out in silence", EXACT,
       kinds=("Embedding", "Conv2d"), dtypes=("float32",), variants=("PiSSA",))  # fmt: skip
def pissa_is_refused_where_there_is_no_matrix(impl, case):
    model = case.model()
    before = values(model)
    assert raises(lambda: impl.add(model, case.config()))
    return largest(before, values(model))


@holds("19", "DoRA is finite where a row of the weight is zero, and starts as the base there", EXACT, theirs=1e-5,
       kinds=("Linear", "Conv1D", "Conv2d"), variants=("DoRA",))  # fmt: skip
def dora_is_safe_on_zero_rows(impl, case):
    base = case.model()
    with torch.no_grad():
        (base.first.weight.T if case.kind == "Conv1D" else base.first.weight)[0] = 0
    expected = impl(base, case.x)
    model = impl.add(base, case.config())
    start = impl(model, case.x)
    assert impl(impl.fill(model), case.x).isfinite().all()
    return gap(start, expected)


@holds("20", "the status says what is the case", EXACT)
def the_status_is_true(impl, case):
    model = impl.trained(case.model(), case.config())
    now = impl.status(model)
    assert now == {"adapters": ["default"], "active": ["default"], "merged": [], "enabled": True,
                   "trainable": {"default": True}}, now  # fmt: skip
    impl.merge(model)
    assert impl.status(model)["merged"] == ["default"]
    impl.unmerge(model)
    with impl.disabled(model):
        assert impl.status(model)["enabled"] is False
    assert impl.status(model) == now
    return 0.0


@holds("21", "through a checkpoint every adapter parameter gets the same gradient, in both modes",
       rounded(1e-6), kinds=EVERYTHING)  # fmt: skip
def checkpointing_reaches_every_parameter(impl, case):
    worst = 0.0
    for reentrant in (False, True):
        found = []
        for through in (False, True):
            model = impl.trained(case.model(), case.config()).train()
            # A reentrant checkpoint needs an input that asks for a gradient, and token ids cannot: so one more does.
            run = lambda one, m=model: m(case.x) * one  # noqa: E731
            one = torch.ones((), requires_grad=True)
            y = checkpoint(run, one, use_reentrant=reentrant) if through else run(one)
            y.float().square().mean().backward()
            found.append({n: p.grad for n, p in impl.parameters(model).items()})
        assert all(g is not None for g in found[1].values()), "a gradient is None"
        worst = max(worst, *(gap(found[1][n], found[0][n]) for n in found[0]))
    return worst


@holds("22", "over a half-precision base the adapter is float32 and the output the base's dtype", EXACT, dtypes=HALF)
def half_precision_has_float32_adapters(impl, case):
    model = impl.trained(case.model(), case.config())
    assert {p.dtype for p in impl.parameters(model).values()} == {torch.float32}
    y = impl(model, case.x)
    assert y.dtype == case.torch_dtype and y.isfinite().all()
    return 0.0


@holds("23", "a merge changes exactly the targeted weights; the merged checkpoint loads into a plain model", EXACT)
def the_merged_checkpoint_is_a_plain_one(impl, case):
    plain = impl.merge_and_unload(impl.trained(case.model(), case.config(targets=("second",))))
    fresh = case.model()
    changed = {n for n, p in plain.named_parameters() if not torch.equal(p, fresh.get_parameter(n))}
    assert changed == {"second.weight"}, changed
    expected = impl(plain, case.x)
    fresh.load_state_dict(plain.state_dict())
    return gap(impl(fresh, case.x), expected)
