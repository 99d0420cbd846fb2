"""A mixed batch is the same as one run per adapter: every layer kind, variant and family, and peft's own."""

from __future__ import annotations

import itertools

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_lab.adapters import add_adapter, delete_adapter, disable_adapters, set_adapter, set_scale
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLayer, LoraLinear
from lora_lab.merging import merge, unmerge
from lora_lab.mixed_batch import mixed_batch
from lora_lab.record import record_of
from tests.lora.tiny import FAMILIES, TARGETS, logits, randomize, same, snapshot, tiny, to_peft, tokens

NAMES = ["a", None, "b", "c", "a", "base"]


def adapted(family: str = "llama", dtype: torch.dtype = torch.float32, **more) -> nn.Module:
    """Adapters "a" and "b" of unlike ranks and scalings, "c" on one kind of module only."""
    model = tiny(family, dtype)
    for name, rank, alpha, targets in (
        ("a", 2, 6, TARGETS[family]),
        ("b", 5, 10, TARGETS[family]),
        ("c", 3, 7, TARGETS[family][:1]),
    ):
        config = LoraConfig(rank=rank, alpha=alpha, target_modules=targets, **more)
        randomize(add_adapter(model, config, name), name, seed=ord(name))
    set_adapter(model, "b")
    return model


def alone(model: nn.Module, run, name: str | None):
    """What `run` gives with `name` alone."""
    if name in (None, "base"):
        with disable_adapters(model), torch.no_grad():
            return run(model)
    before = list(record_of(model).active)
    set_adapter(model, name)
    with torch.no_grad():
        result = run(model)
    set_adapter(model, before)
    return result


def check(model: nn.Module, names: list, run, tolerance: float = 1e-6) -> torch.Tensor:
    """Row by row against separate runs, relative to the largest output; the model is left as it was."""
    before = snapshot(model)
    with torch.no_grad(), mixed_batch(model, names) as inside:
        assert inside is model
        mixed = run(model)
    assert same(before, snapshot(model)) and not any(m._forward_hooks for m in model.modules())
    wanted = torch.stack([alone(model, run, name)[i] for i, name in enumerate(names)])
    assert mixed.dtype == wanted.dtype and mixed.shape == wanted.shape
    assert (mixed - wanted).abs().max() <= tolerance * wanted.abs().max()
    if len({n for n in names if n != "base"}) > 1:  # the rows do differ
        assert not torch.allclose(mixed, alone(model, run, names[0]), rtol=1e-3)
    return mixed


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_separate_runs(family):
    check(adapted(family), NAMES, lambda m: m(tokens(6)).logits)


def test_to_the_last_digits_in_float64():
    check(adapted("llama", torch.float64), NAMES, lambda m: m(tokens(6)).logits, 1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    model = nn.Sequential(nn.Linear(12, 16)).to(dtype).eval()
    for name in "ab":
        randomize(add_adapter(model, LoraConfig(rank=3, target_modules=r"\d"), name), name, seed=ord(name))
    x = torch.randn(4, 12, dtype=dtype)
    check(model, ["b", "a", None, "a"], lambda m: m(x), torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    "more", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"use_rslora": True}], ids=["dora", "pissa", "rslora"]
)
def test_variants(more):
    check(adapted(**more), NAMES, lambda m: m(tokens(6)).logits)


def test_plain_and_dora_side_by_side():
    model = adapted()
    delete_adapter(model, "c")
    config = LoraConfig(rank=2, target_modules=TARGETS["llama"], use_dora=True)
    randomize(add_adapter(model, config, "c"), "c")
    check(model, NAMES, lambda m: m(tokens(6)).logits)


def test_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, dilation=2)).eval()
    for name in "ab":
        randomize(add_adapter(model, LoraConfig(rank=2, target_modules=["0", "2"]), name), name, seed=ord(name))
    x = torch.randn(3, 3, 9, 9)
    check(model, ["b", None, "a"], lambda m: m(x))


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 5)])
def test_inputs_of_any_number_of_dimensions(shape):
    model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 8)).eval()
    for name in "abc":
        randomize(add_adapter(model, LoraConfig(rank=2, target_modules=r"\d"), name), name, seed=ord(name))
    x = torch.randn(*shape, 12)
    check(model, NAMES, lambda m: m(x))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=9))
def test_any_assignment(names):
    check(MODEL, names, lambda m: m(tokens(len(names))).logits)


MODEL = adapted("gpt2")


def test_many_adapters_go_group_by_group(monkeypatch):
    """Stacked, their ranks would cost more than the layer itself."""
    calls, update = [], LoraLinear.update
    monkeypatch.setattr(LoraLinear, "update", lambda self, name, *args: calls.append(name) or update(self, name, *args))
    model = nn.Sequential(nn.Linear(12, 16)).eval()
    for i in range(9):
        randomize(add_adapter(model, LoraConfig(rank=3, target_modules=r"\d"), f"n{i}"), f"n{i}", seed=i)
    x = torch.randn(9, 12)
    check(model, ["n0", "n1"], lambda m: m(x[:2]))
    assert calls == []
    check(model, ["n0", "n1"], lambda m: m(x[:2, None].expand(2, 20, 12)))  # and so they would for many rows
    assert calls == ["n0", "n1"]
    calls.clear()
    check(model, [f"n{i}" for i in range(9)], lambda m: m(x))
    assert calls == [f"n{i}" for i in range(9)]


def test_a_broken_adapter_breaks_its_own_row_alone():
    model = adapted()
    with torch.no_grad():
        record_of(model).layers["model.layers.0.self_attn.v_proj"].B["a"].weight[0] = float("nan")
    with torch.no_grad(), mixed_batch(model, ["a", "b", None]):
        mixed = model(tokens(3)).logits
    assert mixed.isnan().any(-1).any(-1).tolist() == [True, False, False]


def test_the_scale_in_force_counts():
    model = adapted()
    set_scale(model, 0.25, "a")
    check(model, NAMES, lambda m: m(tokens(6)).logits)


def test_generation_equals_generation_alone():
    model, names = adapted("qwen2"), ["a", "base", "b"]
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with mixed_batch(model, names):
        mixed = model.generate(tokens(3), **how)
    wanted = [alone(model, lambda m: m.generate(tokens(3), **how), name)[i] for i, name in enumerate(names)]
    assert [row.tolist() for row in mixed] == [row.tolist() for row in wanted]
    assert len({tuple(row.tolist()) for row in wanted}) == 3
    with mixed_batch(model, [name for name in names for _ in range(2)]):
        beams = model.generate(tokens(3), num_beams=2, **how)
    one = alone(model, lambda m: m.generate(tokens(3), num_beams=2, **how), "b")
    assert beams[2].tolist() == one[2].tolist()


def test_whole_heads_by_row():
    model = tiny("bert")
    for name in "ab":
        config = LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",))
        randomize(add_adapter(model, config, name), name, seed=ord(name))
        torch.manual_seed(ord(name))
        nn.init.normal_(record_of(model).saved["classifier"].copies[name].weight)
    check(model, ["b", "a", None, "b"], lambda m: m(tokens(4)).logits)


def test_equal_to_peft():
    mine, names = adapted("llama"), ["a", "b", None, "a"]
    config = record_of(mine).configs
    its = peft.get_peft_model(tiny("llama"), to_peft(config["a"]), adapter_name="a").eval()
    its.add_adapter("b", to_peft(config["b"]))
    with torch.no_grad():
        for name, (path, layer) in itertools.product("ab", record_of(mine).layers.items()):
            wrapped = its.get_submodule(f"base_model.model.{path}")
            wrapped.lora_A[name].weight.copy_(layer.A[name].weight)
            wrapped.lora_B[name].weight.copy_(layer.B[name].weight)
        wanted = its(tokens(4), adapter_names=[name or "__base__" for name in names]).logits
    with mixed_batch(mine, names):
        assert torch.allclose(logits(mine, tokens(4)), wanted, atol=1e-6 * wanted.abs().max().item())


def test_gradients_reach_the_rows_own_adapters():
    model = adapted()
    set_adapter(model, ["a", "b"])
    with mixed_batch(model, ["a", None]):
        model(tokens(2)).logits.sum().backward()
    gradients = {
        name: sum(layer.matrices(name)[1].grad.abs().sum() for layer in record_of(model).layers.values())
        for name in "a"
    }
    assert gradients["a"] > 0
    assert all(layer.matrices("b")[1].grad is None for layer in record_of(model).layers.values())


# --- row U: mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "bb"], "no adapter 'bb'. Adapters here: 'a', 'b', 'c'. Did you mean 'b'?"),
        (["a", ""], "no adapter ''"),
        ("ab", "expected one adapter's name .* for each row of the batch, got 'ab'"),
        ([], r"for each row of the batch, got \[\]"),
    ],
)
def test_row_U_names(names, says):
    model = adapted()
    before = snapshot(model)
    with pytest.raises(ValueError, match=says), mixed_batch(model, names):
        pass
    assert same(before, snapshot(model))


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_row_U_a_wrong_number_of_rows_names_the_layer_and_both_numbers(rows):
    model = adapted()
    before = snapshot(model)
    says = f"adapters of 3 rows, but 'model.layers.0.self_attn.q_proj' was given {rows} "
    with pytest.raises(ValueError, match=says), mixed_batch(model, ["a", "b", "a"]):
        model(tokens(rows))
    assert same(before, snapshot(model)) and not any(m._forward_hooks for m in model.modules())


def test_row_U_states():
    model = adapted()
    enter = mixed_batch(model, ["a", "b"])
    model.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"), mixed_batch(model, ["a", "b"]):
        pass
    model.eval()
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"), enter:
        model.train()
        model(tokens(2))
    model.eval()
    merge(model, "a")
    with pytest.raises(ValueError, match="'a' is merged.* unmerge first"), mixed_batch(model, ["b", None]):
        pass
    unmerge(model)
    with disable_adapters(model), pytest.raises(RuntimeError, match="disabled"), mixed_batch(model, ["a", "b"]):
        pass
    biased = add_adapter(tiny("bert"), LoraConfig(rank=2, target_modules=("query",), bias="all"), "a")
    with pytest.raises(ValueError, match="'a' trains the base's biases"), mixed_batch(biased, ["a", None]):
        pass
    check(model, NAMES, lambda m: m(tokens(6)).logits)


def test_row_U_nothing_else_may_change_within_it():
    model = adapted()
    before = snapshot(model)
    with mixed_batch(model, ["a", "b"]):
        for call in (
            lambda: mixed_batch(model, ["a", "b"]).__enter__(),
            lambda: disable_adapters(model).__enter__(),
            lambda: set_adapter(model, "a"),
            lambda: set_scale(model, 2.0, "a"),
            lambda: merge(model),
            lambda: unmerge(model),
            lambda: delete_adapter(model, "a"),
            lambda: add_adapter(model, LoraConfig(rank=2), "d"),
        ):
            with pytest.raises(RuntimeError, match="leave mixed_batch first"):
                call()
    assert same(before, snapshot(model))


def test_no_third_kind_of_layer():
    model = adapted()
    kinds = {type(m) for m in model.modules() if isinstance(m, LoraLayer)}
    with mixed_batch(model, ["a"]):
        assert {type(m) for m in model.modules() if isinstance(m, LoraLayer)} == kinds
