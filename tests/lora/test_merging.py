"""Merging for good, in the weight's own memory, and merging what is not plain LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_lab.adapters import add_adapter, set_adapter
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLayer
from lora_lab.merging import merge, unmerge
from lora_lab.quantise import dequantise_linears, quantise_linears
from tests.lora.tiny import randomize, same, snapshot

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))


def adapted(dtype: torch.dtype = torch.float32, **second) -> nn.Module:
    """Two linear layers with adapters "a", plain, and "b", as `second` says."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8)).to(dtype).eval()
    for name, more in (("a", {}), ("b", second)):
        randomize(add_adapter(model, LoraConfig(rank=2, target_modules=r"[02]", **more), name), name, seed=ord(name))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_for_good_is_the_same_sum_in_the_weights_own_memory(dtype):
    kept, changed = adapted(dtype), adapted(dtype)
    places = [layer.base.weight.data_ptr() for layer in (changed[0], changed[2])]
    merge(kept, ["a", "b"])
    merge(changed, ["a", "b"], keep_backup=False)
    for i, place in zip((0, 2), places, strict=True):
        assert changed[i].base.weight.data_ptr() == place and changed[i].pristine is None
        assert torch.equal(changed[i].base.weight, kept[i].base.weight)  # half precision: rounded once there too
    unmerge(kept)
    assert not torch.equal(changed[0].base.weight, kept[0].base.weight)


def test_for_good_computes_nothing_twice_where_the_bound_settles_it(monkeypatch):
    calls, add_delta = [], LoraLayer.add_delta
    monkeypatch.setattr(LoraLayer, "add_delta", lambda self, *args: calls.append(self) or add_delta(self, *args))
    merge(adapted(), "a", keep_backup=False)
    assert len(calls) == 2
    model = adapted()
    with torch.no_grad():
        model[2].B["a"].weight[0, 0] = 1e32  # finite, but too large for the bound to say that all will be
    calls.clear()
    merge(model, "a", keep_backup=False)
    assert len(calls) == 3 and model[2].base.weight.isfinite().all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("keep_backup", [True, False])
def test_a_broken_last_layer_leaves_the_first_alone(broken, keep_backup):
    model = adapted()
    with torch.no_grad():
        model[2].B["a"].weight[0, 0] = broken
        model[2].A["a"].weight[0] = 10
    before = snapshot(model)
    with pytest.raises(ValueError, match="'2' not finite .* from adapter 'a'. Nothing was merged"):
        merge(model, "a", keep_backup=keep_backup)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("keep_backup", [True, False])
@pytest.mark.parametrize("second", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["dora", "pissa"])
@pytest.mark.parametrize("names", [["b"], ["a", "b"], ["b", "a"]])
def test_variants_merge_to_what_they_compute(names, second, keep_backup):
    model = adapted(**second)
    set_adapter(model, names)
    with torch.no_grad():
        unmerged = model(X)
        merge(model, keep_backup=keep_backup)
        assert torch.allclose(model(X), unmerged, atol=1e-5) and not torch.equal(model(X), unmerged)


def test_one_after_the_other_and_dora_reads_the_kept_weight():
    model = adapted(use_dora=True)
    set_adapter(model, ["a", "b"])
    with torch.no_grad():
        unmerged = model(X)
        merge(model, "a")
        merge(model, "b", keep_backup=False)
        assert torch.allclose(model(X), unmerged, atol=1e-5)


def test_dora_after_a_merge_for_good_is_refused():
    model = adapted(use_dora=True)
    merge(model, "a", keep_backup=False)
    before = snapshot(model)
    with pytest.raises(ValueError, match="'b' is computed from the plain weight, and an earlier merge kept no backup"):
        merge(model, "b", keep_backup=False)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("keep_backup", [True, False])
def test_a_broken_variant_is_refused_though_its_a_and_b_are_fine(keep_backup):
    model = adapted(use_dora=True)
    with torch.no_grad():
        model[2].variants["b"].magnitude[0] = float("nan")
    before = snapshot(model)
    with pytest.raises(ValueError, match="'2' not finite .* from adapter 'b'"):
        merge(model, "b", keep_backup=keep_backup)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("keep_backup", [True, False])
def test_a_weight_that_is_computed_cannot_be_merged_into(keep_backup):
    model = quantise_linears(nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 8)))
    randomize(add_adapter(model, LoraConfig(rank=2, target_modules=r"\d")))
    before = snapshot(model)
    with pytest.raises(ValueError, match="'0' .*NF4Linear.*dequantise_linears"):
        merge(model, keep_backup=keep_backup)
    assert same(before, snapshot(model))
    with torch.no_grad():
        unmerged = model(X)
        merge(dequantise_linears(model), keep_backup=keep_backup)
        assert torch.allclose(model(X), unmerged, atol=1e-5)


@pytest.mark.parametrize("keep_backup", [True, False])
def test_a_model_whose_adapter_was_turned_to_bfloat16_with_it_merges_in_float32(keep_backup):
    model = adapted().bfloat16()
    wide = model[0].base.weight.float() + model[0].delta("a").float()
    merge(model, "a", keep_backup=keep_backup)
    assert model[0].base.weight.dtype == torch.bfloat16
    assert torch.allclose(model[0].base.weight.float(), wide, rtol=2**-7, atol=2**-9)
    if keep_backup:
        unmerge(model)
        assert torch.equal(model[0].base.weight, adapted().bfloat16()[0].base.weight)
