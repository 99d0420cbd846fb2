"""A combined adapter's update is the weighted sum of the others': against numpy, against peft, and through files."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_lab.adapters import add_adapter, set_adapter, set_scale
from lora_lab.combining import combine
from lora_lab.config import LoraConfig
from lora_lab.merging import merge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from lora_lab.training_variants import add_vera
from tests.lora.tiny import FAMILIES, TARGETS, logits, randomize, same, snapshot, tiny, to_peft


def adapted(family: str = "llama", a: dict | None = None, b: dict | None = None) -> nn.Module:
    """Adapters "a" and "b" of unlike ranks, targets and scalings."""
    model = tiny(family)
    for name, rank, alpha, targets, more in (
        ("a", 2, 6, TARGETS[family][:2], a or {}),
        ("b", 5, 10, TARGETS[family][1:], b or {}),
    ):
        config = LoraConfig(**{"rank": rank, "alpha": alpha, "target_modules": targets} | more)
        randomize(add_adapter(model, config, name), name, seed=ord(name))
    return model


def change(layer: nn.Module, name: str) -> np.ndarray:
    """The change of the weight by an adapter, as float64, computed here from A, B and the scaling."""
    if name not in layer.scaling:
        return np.zeros(layer.base.weight.shape)
    a, b = (m.detach().double().flatten(1).numpy() for m in layer.matrices(name))
    product = float(layer.scaling[name]) * (b @ a)
    return (product if layer.stored_as_out_in else product.T).reshape(layer.base.weight.shape)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-6) -> bool:
    return np.linalg.norm(found - wanted) <= tolerance * max(np.linalg.norm(wanted), 1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_is_the_weighted_sum_at_the_sum_of_the_ranks(family, capsys):
    model = adapted(family)
    set_scale(model, 0.5, "a")
    made = combine(model, {"a": 0.75, "b": -1.5}, "ab")
    layers = record_of(model).layers
    assert set(made.ranks) == set(layers) and set(made.ranks.values()) == {2, 5, 7}
    for path, layer in layers.items():
        assert close(change(layer, "ab"), 0.75 * change(layer, "a") - 1.5 * change(layer, "b"))
        assert made.ranks[path] == layer.rank["ab"] and layer.scaling["ab"] == 1
    assert made.error == 0 and set(made.errors.values()) == {0} and capsys.readouterr().out == ""
    assert record_of(model).active == ["ab"]
    set_adapter(model, ["a", "b"])
    set_scale(model, 0.75 * 0.5, "a")
    set_scale(model, -1.5, "b")
    together = logits(model)
    set_adapter(model, "ab")
    assert torch.allclose(logits(model), together, atol=1e-4 * together.abs().max().item())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(1, 6), st.floats(-3, 3, width=16), st.booleans()), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(0, 99),
)
def test_against_numpy(into, out, adapters, rank, seed):
    """The exact sum, or numpy's best approximation of it and its error, for any sizes, ranks and weights."""
    model, weights = nn.Sequential(nn.Linear(into, out)), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranks above what so small a matrix can use
        for i, (own_rank, weight, rslora) in enumerate(adapters):
            config = LoraConfig(own_rank, alpha=3, target_modules=["0"], use_rslora=rslora)
            randomize(add_adapter(model, config, f"n{i}"), f"n{i}", seed=seed + i)
            weights[f"n{i}"] = weight
    if not any(weights.values()):
        with pytest.raises(ValueError, match="nothing to combine"):
            combine(model, weights, "new", rank=rank)
        return
    made = combine(model, weights, "new", rank=rank)
    wanted = sum(weight * change(model[0], name) for name, weight in weights.items())
    u, values, v = np.linalg.svd(wanted)
    kept = made.ranks["0"]
    total = sum(own_rank for own_rank, weight, _ in adapters if weight)
    assert kept == model[0].rank["new"] == min(rank or total, total, into, out)
    best = u[:, :kept] * values[:kept] @ v[:kept]
    size = max(np.linalg.norm(wanted), 1e-12)
    assert (
        np.linalg.norm(change(model[0], "new") - best) <= 1e-5 * size
        or np.linalg.norm(change(model[0], "new") - wanted) <= np.linalg.norm(best - wanted) + 1e-5 * size
    )  # equal singular values: another, equally good, one
    assert made.error == pytest.approx(np.linalg.norm(values[kept:]) / size, abs=1e-6)
    assert made.errors == {"0": pytest.approx(made.error)}


def test_a_smaller_rank_prints_the_error_it_makes(capsys):
    model = adapted(a={"rank": 3}, b={"rank": 3})
    made = combine(model, {"a": 1.0, "b": 1.0}, "small", rank=2)
    layers = record_of(model).layers
    wanted = {p: change(layer, "a") + change(layer, "b") for p, layer in layers.items()}
    lost = {p: np.linalg.norm(change(layer, "small") - wanted[p]) for p, layer in layers.items()}
    norms = {p: np.linalg.norm(w) for p, w in wanted.items()}
    overall = np.linalg.norm([*lost.values()]) / np.linalg.norm([*norms.values()])
    assert made.error == pytest.approx(overall, rel=1e-4) and 0.1 < made.error < 1
    assert made.errors == {p: pytest.approx(lost[p] / norms[p], rel=1e-4) for p in layers}
    assert set(made.ranks.values()) == {2}
    assert capsys.readouterr().out == f"'small': 6 layers of rank 2, relative error {overall:.3g}\n"


def test_no_matrix_of_the_weights_size_is_made(monkeypatch):
    model = nn.Sequential(nn.Linear(300, 200))
    for name in "ab":
        randomize(add_adapter(model, LoraConfig(2, target_modules=["0"]), name), name, seed=ord(name))
    largest = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            largest.extend(
                t.numel() for t in (result if isinstance(result, tuple) else (result,)) if torch.is_tensor(t)
            )
            return result

    with Largest():
        combine(model, {"a": 1.0, "b": 1.0}, "ab", rank=3)
    assert 4 * 300 <= max(largest) < 300 * 200 / 10


def test_linear_averages_apart_and_says_how_far_off_that_is():
    same_rank = {"rank": 3, "target_modules": TARGETS["llama"]}
    model = adapted(a=same_rank, b=same_rank)
    with pytest.warns(UserWarning, match=r"averaged apart, .* the update is (\d+)% off the sum .*exact"):
        made = combine(model, {"a": 0.5, "b": 0.5}, "apart", method="linear")
    combine(model, {"a": 0.5, "b": 0.5}, "exact")
    layers = record_of(model).layers.values()
    exact, apart = (np.concatenate([change(layer, n).ravel() for layer in layers]) for n in ("exact", "apart"))
    assert made.error == pytest.approx(np.linalg.norm(apart - exact) / np.linalg.norm(exact), rel=1e-4)
    assert 0.5 < made.error < 2 and set(made.ranks.values()) == {3}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert combine(model, {"a": 1.0}, "alone", method="linear").error < 1e-6  # one adapter: nothing to cross
    assert "0% off" in str(said[0].message)


def in_peft(model: nn.Module, names: str = "ab") -> peft.PeftModel:
    """The same adapters in peft."""
    config = record_of(model).configs
    its = peft.get_peft_model(tiny("llama"), to_peft(config[names[0]]), adapter_name=names[0])
    for name in names[1:]:
        its.add_adapter(name, to_peft(config[name]))
    with torch.no_grad():
        for name, (path, layer) in itertools.product(names, record_of(model).layers.items()):
            if name in layer.scaling:
                wrapped = its.get_submodule(f"base_model.model.{path}")
                wrapped.lora_A[name].weight.copy_(layer.A[name].weight)
                wrapped.lora_B[name].weight.copy_(layer.B[name].weight)
    return its.eval()


@pytest.mark.parametrize(("method", "its_method"), [("exact", "cat"), ("linear", "linear")])
def test_the_same_as_peft(method, its_method):
    same_rank = {"rank": 3, "target_modules": TARGETS["llama"]}
    model = adapted(a=same_rank, b=same_rank | {"alpha": 9})
    its = in_peft(model)
    its.add_weighted_adapter(["a", "b"], [0.7, -0.4], "new", combination_type=its_method)
    its.set_adapter("new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        combine(model, {"a": 0.7, "b": -0.4}, "new", method=method)
    assert torch.allclose(logits(model), logits(its), atol=1e-4)


def test_row_P_the_default_has_no_cross_terms():
    same_rank = {"rank": 3, "target_modules": TARGETS["llama"]}
    model = adapted(a=same_rank, b=same_rank)
    combine(model, {"a": 0.5, "b": 0.5}, "ab")
    for layer in record_of(model).layers.values():
        assert close(change(layer, "ab"), 0.5 * change(layer, "a") + 0.5 * change(layer, "b"))


@pytest.mark.parametrize("how", [{}, {"rank": 2}, {"method": "linear"}], ids=["exact", "svd", "linear"])
@pytest.mark.filterwarnings("ignore:A and B were averaged")
def test_row_P2_the_scale_is_right_with_rslora(how):
    """One adapter with the weight 1 is that adapter, whichever way its scaling is computed."""
    rslora = {"use_rslora": True, "rank": 2, "target_modules": TARGETS["llama"]}
    model = adapted(a=rslora)
    set_adapter(model, "a")
    alone = logits(model)
    combine(model, {"a": 1.0}, "copy", **how)
    assert torch.allclose(logits(model), alone, atol=1e-5 * alone.abs().max().item())


@pytest.mark.parametrize("how", [{}, {"rank": 3}], ids=["exact", "svd"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_and_loaded_here_and_in_peft(family, how, tmp_path):
    model = adapted(family)
    combine(model, {"a": 0.5, "b": 2.0}, "ab", **how)
    wanted, folder = logits(model), save_adapter(model, tmp_path, "ab")
    assert torch.equal(logits(load_adapter(tiny(family), folder)), wanted)
    its = peft.PeftModel.from_pretrained(tiny(family), folder).eval()
    assert torch.allclose(logits(its), wanted, atol=1e-5 * wanted.abs().max().item())


def test_paths_that_end_alike_keep_their_own_ranks(tmp_path):
    """Layer "0" and layer "block.0": neither the targets nor the ranks of one may reach the other."""

    def build() -> nn.Module:
        torch.manual_seed(4)
        inner = nn.ModuleDict({"block": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), "0": nn.Linear(8, 8)})
        inner.forward = lambda x: inner["0"](inner["block"](x))
        return inner

    for targets in ({"a": r"0", "b": r"0"}, {"a": r"0", "b": r"0|block\.0"}, {"a": r"block\.0", "b": r"0"}):
        model = build()
        for name, rank in (("a", 2), ("b", 3)):
            randomize(add_adapter(model, LoraConfig(rank, target_modules=targets[name]), name), name, seed=ord(name))
        made = combine(model, {"a": 1.0, "b": 1.0}, "ab")
        layers = record_of(model).layers
        assert set(made.ranks) == set(layers)
        for layer in layers.values():
            assert close(change(layer, "ab"), change(layer, "a") + change(layer, "b"))
        x, folder = torch.randn(2, 8), save_adapter(model, tmp_path / targets["b"].replace("|", "_"), "ab")
        assert torch.equal(load_adapter(build(), folder)(x), model(x))


@pytest.mark.parametrize("more", [{"init_lora_weights": "pissa"}, "vera"], ids=["pissa", "vera"])
def test_variants_that_come_to_plain_lora(more):
    model = tiny("llama")
    if more == "vera":
        add_vera(model, 2, ("q_proj", "v_proj"), "a")
        with torch.no_grad():
            for layer in record_of(model).layers.values():
                layer.variants["a"].b.normal_()
    else:
        randomize(add_adapter(model, LoraConfig(rank=2, target_modules=("q_proj", "v_proj"), **more), "a"), "a")
    randomize(add_adapter(model, LoraConfig(rank=3, target_modules=("q_proj",)), "b"), "b")
    combine(model, {"a": 0.5, "b": 2.0}, "ab")
    for layer in record_of(model).layers.values():
        wanted = 0.5 * layer.delta("a") + (2.0 * layer.delta("b") if "b" in layer.scaling else 0)
        assert close(layer.delta("ab").detach().numpy(), wanted.detach().numpy(), 1e-5)


def test_convolutions_and_embeddings():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1))
    for name, rank in (("a", 2), ("b", 4)):
        randomize(add_adapter(model, LoraConfig(rank, target_modules=r"\d"), name), name, seed=ord(name))
    made = combine(model, {"a": 1.0, "b": -0.5}, "ab")
    assert made.ranks == {"0": 6, "1": 5}  # 2 + 4, and no more than the 5 channels there are
    for layer in model:
        assert close(change(layer, "ab"), change(layer, "a") - 0.5 * change(layer, "b"), 1e-5)


# --- row P3: mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "how", "says"),
    [
        ({"a": 1.0}, {"name": "b"}, "adapter 'b' exists already"),
        ({"a": 1.0}, {"name": "a.b"}, "without dot or slash"),
        ({"a": 1.0, "bb": 1.0}, {}, "no adapter 'bb'.*Did you mean 'b'"),
        ({"a": float("nan")}, {}, "weight of 'a' must be a finite number, got nan"),
        ({"a": 1.0, "b": "2"}, {}, "weight of 'b' must be a finite number, got '2'"),
        ({"a": 0.0, "b": 0}, {}, "nothing to combine"),
        ({}, {}, "nothing to combine"),
        ({"a": 1.0}, {"method": "liner"}, "unknown method 'liner': exact or linear. Did you mean 'linear'"),
        ({"a": 1.0}, {"method": "ties"}, "unknown method 'ties'"),
        ({"a": 1.0}, {"rank": 0}, "rank must be a whole number from 1 on, or None for the exact sum, got 0"),
        ({"a": 1.0}, {"rank": 2.0}, "rank must be a whole number"),
        ({"a": 1.0}, {"rank": 2, "method": "linear"}, "leave rank out"),
        ({"a": 1.0, "b": 1.0}, {"method": "linear"}, r"needs equal ranks; at 'model.layers.0.self_attn.v_proj' .*2, 5"),
    ],
)
def test_row_P3_mistakes(weights, how, says):
    model = adapted()
    before = snapshot(model)
    with pytest.raises(ValueError, match=says):
        combine(model, weights, **{"name": "new"} | how)
    assert same(before, snapshot(model))


def test_row_P3_weights_beside_the_names():
    with pytest.raises(TypeError, match="weights must map adapters to numbers"):
        combine(adapted(), ["a", "b"], "new")


def test_row_P3_what_is_no_low_rank_update():
    model = adapted(a={"use_dora": True})
    add_adapter(model, LoraConfig(2, target_modules=("q_proj",), modules_to_save=("lm_head",)), "head")
    biased = add_adapter(tiny("bert"), LoraConfig(2, target_modules=("query",), bias="all"), "a")
    broken, merged = adapted(), adapted()
    with torch.no_grad():
        list(record_of(broken).layers.values())[-1].B["b"].weight[0, 0] = float("inf")
    merge(merged, "a")
    for its, weights, says in (
        (model, {"b": 1.0, "a": 1.0}, "'a' is Dora at 'model.layers.0.self_attn.q_proj': it also rescales the rows"),
        (model, {"head": 1.0}, "'head' brings its own whole 'lm_head'"),
        (biased, {"a": 1.0}, "'a' trains biases"),
        (broken, {"a": 1.0, "b": 1.0}, "values at .* that are not finite"),
        (merged, {"a": 1.0}, "'a' is merged: unmerge before adding"),
    ):
        before = snapshot(its)
        with pytest.raises(ValueError, match=says):
            combine(its, weights, "new")
        assert same(before, snapshot(its))
