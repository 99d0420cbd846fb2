"""Properties of several adapters on one model: choosing, merging some, names, deleting, mixed batches, combining."""

from __future__ import annotations

import warnings

import torch

from tests.conformance.cells import holds
from tests.conformance.models import ROWS, gap
from tests.conformance.one_adapter import CHANGED, EXACT, MERGED, THEIR_MERGED, THEIRS, raises, rounded
from tests.lora.tiny import same, snapshot

FLOAT = ("float32",)
LINEAR = ("plain", "rsLoRA")  # variants whose update is s B A alone
NAMES = ("first", "f", "weight", "a", "lora_A", "base_layer", "default_2")


def two(impl, case):
    """Adapters a (both layers, rank 3) and b (the second layer, rank 2), both random; b is active."""
    model = impl.trained(case.model(), case.config(), "a", seed=3)
    return impl.trained(model, case.config(rank=2, alpha=3, targets=("second",)), "b", seed=8)


def outputs(impl, case, model, *choices):
    found = []
    for names in choices:
        impl.choose(model, names)
        found.append(impl(model, case.x))
    return found


def merged_in_every_way(impl, case, model) -> float:
    a, b, both = outputs(impl, case, model, "a", "b", ["a", "b"])
    impl.merge(model, ["b"])
    alone = impl(model, case.x)
    impl.merge(model, ["a"])
    in_turn = impl(model, case.x)
    impl.unmerge(model)
    impl.merge(model, ["a", "b"])
    together = impl(model, case.x)
    assert gap(together, a) > CHANGED and gap(together, b) > CHANGED
    return max(gap(alone, b), gap(in_turn, both), gap(together, both))


@holds("7", "merging both is neither; merging b alone is b; one after the other is together", MERGED,
       theirs=rounded(1e-3))  # fmt: skip
def merging_some_adapters(impl, case):
    model = impl.trained(case.model(), case.config(), "a", seed=3)
    return merged_in_every_way(impl, case, impl.trained(model, case.config(rank=2), "b", seed=8))


@holds("7", "the same where b is on fewer layers than a", MERGED, theirs=rounded(1e-3))
def merging_some_adapters_of_other_targets(impl, case):
    return merged_in_every_way(impl, case, two(impl, case))


@holds("9", "each row of a mixed batch is computed with its own adapter, or with none", MERGED, theirs=THEIR_MERGED)
def a_mixed_batch_equals_separate_runs(impl, case):
    base = impl(case.model(), case.x)
    model = two(impl, case)
    a, b = outputs(impl, case, model, "a", "b")
    expected = base.clone()
    expected[1::3], expected[2::3] = a[1::3], b[2::3]
    return gap(impl.mixed(model, case.x, [None, "a", "b"] * (ROWS // 3)), expected)


@holds("9", "a mixed batch refuses a wrong length, an unknown name, training and a merged model", EXACT, dtypes=FLOAT)
def a_mixed_batch_refuses_what_it_cannot_do(impl, case):
    model = two(impl, case)
    impl.mixed(model, case.x, ["a"] * ROWS)
    assert raises(lambda: impl.mixed(model, case.x, ["a"])), "too few names"
    assert raises(lambda: impl.mixed(model, case.x, ["c"] * ROWS)), "an unknown name"
    model.train()
    assert raises(lambda: impl.mixed(model, case.x, ["a"] * ROWS)), "while training"
    model.eval()
    impl.merge(model)
    assert raises(lambda: impl.mixed(model, case.x, ["a"] * ROWS)), "while merged"
    return 0.0


@holds("10", "an adapter's name changes neither its output nor another's", EXACT, theirs=1e-5, dtypes=FLOAT)
def names_do_not_matter(impl, case):
    expected = impl(impl.trained(case.model(), case.config()), case.x)
    worst = 0.0
    for name in NAMES:
        model = impl.trained(case.model(), case.config(), name)
        worst = max(worst, gap(impl(model, case.x), expected))
    return worst


@holds("10", "names that contain each other stay apart", EXACT, theirs=1e-5, dtypes=FLOAT)
def names_within_names_stay_apart(impl, case):
    model, config, worst = case.model(), case.config(), 0.0
    for seed, name in enumerate(("a", "aa", "aaa")):
        model = impl.trained(model, config, name, seed)
    for seed, name in enumerate(("a", "aa", "aaa")):
        impl.choose(model, name)
        worst = max(worst, gap(impl(model, case.x), impl(impl.trained(case.model(), config, "x", seed), case.x)))
    return worst


@holds("11", "a name that is taken is refused and nothing changes", EXACT, dtypes=FLOAT)
def a_taken_name_changes_nothing(impl, case):
    model = two(impl, case)
    before = snapshot(model)
    assert raises(lambda: impl.add(model, case.config(rank=1), "a"))
    assert same(before, snapshot(model))
    return 0.0


@holds("11", "deleting an adapter takes its weights and moves the choice; an unknown or merged one is refused", EXACT,
       theirs=THEIRS)  # fmt: skip
def deleting_one_of_two(impl, case):
    model = two(impl, case)
    a, _ = outputs(impl, case, model, "a", "b")
    assert raises(lambda: impl.delete(model, "c")), "an unknown name"
    merged = two(impl, case)
    impl.merge(merged)
    assert raises(lambda: impl.delete(merged, "b")), "a merged adapter"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        impl.delete(model, "b")
    assert caught, "no warning that another adapter is active now"
    assert not any(".b." in n or n.endswith(".b") for n, _ in model.named_parameters())
    assert impl.status(model)["active"] == ["a"], impl.status(model)["active"]
    return gap(impl(model, case.x), a)


def trainable(impl, model) -> dict[str, bool]:
    """{adapter: whether every one of its parameters is trainable}; mixed is an error."""
    found = {}
    for name in impl.status(model)["adapters"]:
        flags = {p.requires_grad for p in impl.parameters(model, name).values()}
        assert len(flags) == 1, f"{name}: some parameters are trainable, some are not"
        found[name] = flags.pop()
    return found


@holds("12", "what is trainable follows what is active", EXACT, dtypes=FLOAT)
def what_is_trainable(impl, case):
    model = impl.add(case.model(), case.config(), "a")
    assert trainable(impl, model) == {"a": True}
    impl.add(model, case.config(), "b")
    assert trainable(impl, model) == {"a": False, "b": True}
    for names, expected in ((["a"], (True, False)), (["a", "b"], (True, True)), (["b"], (False, True))):
        impl.choose(model, names)
        assert tuple(trainable(impl, model).values()) == expected, names
    mine = {id(p) for n in "ab" for p in impl.parameters(model, n).values()}
    assert not any(p.requires_grad for p in model.parameters() if id(p) not in mine)
    return 0.0


@holds("13", "adapters of other ranks and targets live beside each other; chosen together, their updates add",
       rounded(1e-6))  # fmt: skip
def several_ranks_and_targets(impl, case):
    model = impl.trained(case.model(), case.config(rank=3, targets=("first",)), "a", seed=3)
    impl.trained(model, case.config(rank=5, alpha=2, targets=("second",)), "b", seed=8)
    impl.trained(model, case.config(rank=1, alpha=2), "c", seed=9)
    assert impl.rank(model, "a") == {"first": 3} and impl.rank(model, "b") == {"second": 5}
    assert impl.rank(model, "c") == {"first": 1, "second": 1}
    a, b, together = outputs(impl, case, model, "a", "b", ["a", "b"])
    alone = impl.trained(case.model(), case.config(rank=5, alpha=2, targets=("second",)), seed=8)
    assert gap(together, a) > CHANGED and gap(together, b) > CHANGED
    return gap(b, impl(alone, case.x))


def updates(impl, model, *names):
    return [impl.delta(model, name) for name in names]


@holds("18", "one adapter combined with weight w has w times its update, whatever its sign", 1e-5, theirs=1e-4,
       dtypes=FLOAT, variants=LINEAR)  # fmt: skip
def combining_one_adapter_scales_its_update(impl, case):
    worst = 0.0
    for weight in (1.0, 0.4, -1.5):
        model = impl.trained(case.model(), case.config(), "a")
        impl.combine(model, {"a": weight}, "new")
        one, new = updates(impl, model, "a", "new")
        worst = max(worst, *(gap(new[p], weight * one[p]) for p in one))
    return worst


@holds("18", "two adapters combined exactly have the weighted sum of their updates", 1e-5, theirs=1e-4, dtypes=FLOAT,
       variants=LINEAR)  # fmt: skip
def combining_is_exact(impl, case):
    model = two(impl, case)
    impl.combine(model, {"a": 0.7, "b": -0.3}, "new")
    a, b, new = updates(impl, model, "a", "b", "new")
    assert sorted(new) == ["first", "second"]
    return max(gap(new["first"], 0.7 * a["first"]), gap(new["second"], 0.7 * a["second"] - 0.3 * b["second"]))


@holds("18", "a combination cut to rank r has rank r and is the nearest such matrix", 1e-5, theirs=1e-4, dtypes=FLOAT,
       variants=LINEAR)  # fmt: skip
def combining_to_a_rank(impl, case):
    model = two(impl, case)
    impl.combine(model, {"a": 0.7, "b": -0.3}, "new", how="svd", rank=2)
    a, b, new = updates(impl, model, "a", "b", "new")
    assert set(impl.rank(model, "new").values()) == {2}
    worst = 0.0
    for path in new:
        total = 0.7 * a[path] - 0.3 * b.get(path, torch.zeros(()))
        u, s, v = torch.linalg.svd(total.flatten(1), full_matrices=False)
        worst = max(worst, gap(new[path].flatten(1), u[:, :2] * s[:2] @ v[:2]))
    return worst


@holds("18", "a combination refuses a taken name, an unknown adapter, and A and B apart for unequal ranks", EXACT,
       dtypes=FLOAT, variants=("plain",))  # fmt: skip
def combining_refuses_what_it_cannot_do(impl, case):
    model = two(impl, case)
    assert raises(lambda: impl.combine(model, {"a": 1.0, "b": 1.0}, "new", how="apart")), "unequal ranks"
    assert raises(lambda: impl.combine(model, {"a": 1.0, "c": 1.0}, "new")), "an unknown adapter"
    assert raises(lambda: impl.combine(model, {"a": 1.0}, "b")), "a taken name"
    return 0.0
