"""Merging to the last bit, and unmerging: what comes back is the very weight."""

from __future__ import annotations

import copy
import gc

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import (
    add_adapter,
    disable_adapters,
    set_adapter,
    set_scale,
)
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, merge_and_unload, unload, unmerge
from lora_lab.record import record_of
from tests.lora.tiny import Q, logits, ours, randomize, tiny, to_peft, two_adapters


def test_merging_equals_pefts_merge():
    config = LoraConfig(rank=4, alpha=10, target_modules=("q_proj", "down_proj"))
    model = ours("llama", config)
    its = peft.get_peft_model(tiny("llama"), to_peft(config))
    for path, layer in record_of(model).layers.items():
        wrapped = its.get_submodule(f"base_model.model.{path}")
        with torch.no_grad():
            wrapped.lora_A["default"].weight.copy_(layer.matrices("default")[0])
            wrapped.lora_B["default"].weight.copy_(layer.matrices("default")[1])
        assert torch.equal(layer.delta("default"), wrapped.get_delta_weight("default"))
    merge(model)
    its.merge_adapter()
    for path, layer in record_of(model).layers.items():
        weight = its.get_submodule(f"base_model.model.{path}").base_layer.weight
        assert torch.allclose(layer.base.weight, weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_a_half_precision_merge_is_rounded_once(dtype):
    model = ours("llama", Q, dtype=dtype)
    layer = model.model.layers[0].self_attn.q_proj
    exact = layer.base.weight.double() + layer.delta("default").double()
    plain = layer.base.weight.clone()
    merge(model)
    error = (layer.base.weight.double() - exact).abs()
    assert layer.base.weight.dtype == dtype
    assert (error <= exact.abs() * torch.finfo(dtype).eps / 2 * 1.01 + 1e-9).all()  # half a unit in the last place
    unmerge(model)
    assert torch.equal(layer.base.weight, plain)


def test_merging_one_after_the_other_is_merging_together_to_the_bit():
    model, weights = two_adapters(), []
    for order in (["b"], ["a", "b"]), (["b", "a"],):
        for names in order:
            merge(model, names)
        weights.append([layer.base.weight.clone() for layer in record_of(model).layers.values()])
        unmerge(model)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_merging_one_adapter_uses_its_head_alone():
    model = ours("bert", LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",)), "a")
    randomize(add_adapter(model, LoraConfig(rank=2, target_modules=("key",)), "b"), "b", seed=8)
    with torch.no_grad():
        record_of(model).saved["classifier"].copies["a"].bias += 1
    alone = logits(model)
    set_adapter(model, "a")
    before = logits(model)
    merge(model, "b")
    with disable_adapters(model):
        assert torch.equal(logits(model), logits(tiny("bert")))
    assert torch.allclose(logits(model), alone, atol=1e-5)
    unmerge(model)
    assert torch.equal(logits(model), before)


def test_keep_backup_false_merges_for_good():
    model = ours("llama", Q)
    expected = logits(model)
    with_backup = copy.deepcopy(model)
    merge(with_backup)
    merge(model, keep_backup=False)
    assert torch.equal(logits(model), logits(with_backup))
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert all(layer.pristine is None for layer in record_of(model).layers.values())
    for call in (lambda: unmerge(model), lambda: unload(model), lambda: set_adapter(model, "default")):
        with pytest.raises(ValueError, match="merged with keep_backup=False"):
            call()
    with pytest.raises(ValueError, match="merged with keep_backup=False"), disable_adapters(model):
        pass
    assert torch.equal(logits(merge_and_unload(model)), logits(with_backup))


def test_unmerging_puts_the_very_tensor_back():
    model = ours("llama", Q)
    pointers = [p.data_ptr() for p in model.parameters()]
    parameters = [id(p) for p in model.parameters()]
    merge(model)
    assert [id(p) for p in model.parameters()] == parameters
    assert sum(a != b for a, b in zip(pointers, (p.data_ptr() for p in model.parameters()), strict=True)) == 2
    unmerge(model)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_large_weights_merge_and_come_back_to_the_bit():
    """From 4 MiB on the merged weight lies in memory of another kind; it must outlive what made it."""
    torch.manual_seed(0)
    model = randomize(add_adapter(nn.Sequential(nn.Linear(1024, 1100)), LoraConfig(rank=3)))
    layer, x = model[0], torch.randn(2, 1024)
    before, expected, base = model(x), layer.base.weight + layer.delta("default"), layer.base.weight.clone()
    merge(model)
    assert torch.allclose(layer.base.weight, expected, atol=1e-5)
    kept = copy.deepcopy(model)
    unmerge(model)
    gc.collect()
    assert torch.equal(layer.base.weight, base) and torch.equal(model(x), before)
    plain = merge_and_unload(kept)
    gc.collect()
    assert torch.allclose(plain[0].weight, expected, atol=1e-5)
    assert torch.allclose(plain(x), before, atol=1e-3)


def test_unloading_a_merged_model_keeps_what_it_computes_whatever_is_active():
    model = two_adapters()  # b is active
    merge(model, "a")
    merged = logits(model)
    assert torch.equal(logits(merge_and_unload(model)), merged)


def test_a_broken_adapter_is_refused_even_if_it_is_scaled_to_nothing():
    model = ours("llama", Q)
    set_scale(model, 0.0)
    with torch.no_grad():
        record_of(model).layers["model.layers.1.self_attn.q_proj"].matrices("default")[1][0, 0] = float("nan")
    for keep_backup in (True, False):
        with pytest.raises(ValueError, match="layers.1.self_attn.q_proj' not finite .* from adapter 'default'"):
            merge(model, keep_backup=keep_backup)
