"""NF4: the published levels, a round trip that is near, exact where it can be, and a base that adapters train on."""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_lab import quantise as module
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLinear
from lora_lab.quantise import (
    BLOCK,
    LEVELS,
    NF4,
    BitsandbytesLinear,
    NF4Linear,
    best_linear,
    dequantise,
    dequantise_linears,
    quantise,
    quantise_linears,
)

# QLoRA, appendix E; the same digits stand in bitsandbytes, torchao and ONNX Runtime.
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(weight: torch.Tensor, found: torch.Tensor) -> float:
    return ((found - weight).norm() / weight.norm()).item()


def test_the_levels_are_the_published_ones_to_every_digit():
    assert LEVELS.tolist() == PUBLISHED


def test_bits_per_number_are_the_papers():
    weight = random(1024, 1024)
    assert quantise(weight).bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4)
    assert quantise(weight, double=False).bits == pytest.approx(4.5, abs=1e-4)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(256, 256), (3, 5), (1,), (7, 2, 9), (65,)])
def test_a_round_trip_keeps_the_shape_and_is_near(shape, double):
    weight = random(*shape)
    q = quantise(weight, double)
    found = dequantise(q)
    assert found.shape == weight.shape and found.dtype == torch.float32
    assert len(q.codes) == -(-weight.numel() // BLOCK) * BLOCK // 2
    assert relative_error(weight, found) < 0.15


def test_every_number_takes_its_nearest_level():
    weight = random(64, 64)
    found = dequantise(quantise(weight, double=False)).view(-1, BLOCK)
    blocks = weight.view(-1, BLOCK)
    absmax = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / absmax[..., None] - LEVELS).abs().argmin(-1)
    torch.testing.assert_close(found, LEVELS[nearest] * absmax, rtol=0, atol=0)


def test_the_largest_of_a_block_is_kept_and_a_second_round_trip_changes_nothing():
    weight = random(128, 64)
    once = dequantise(quantise(weight, double=False))
    largest = weight.view(-1, BLOCK).abs().argmax(1, keepdim=True)
    # -1 and 1 are both levels, so it stays itself whatever its sign
    assert torch.equal(once.view(-1, BLOCK).gather(1, largest), weight.view(-1, BLOCK).gather(1, largest))
    assert torch.equal(dequantise(quantise(once, double=False)), once)


def test_normal_weights_lose_less_than_with_sixteen_levels_evenly_apart():
    weight = random(512, 512)
    blocks = weight.view(-1, BLOCK)
    step = blocks.abs().amax(1, keepdim=True) / 7
    int4 = ((blocks / step).round().clamp(-8, 7) * step).view_as(weight)
    even = torch.linspace(-1, 1, 16)
    nearest = torch.bucketize(blocks / blocks.abs().amax(1, keepdim=True), (even[1:] + even[:-1]) / 2)
    sixteen = (even[nearest] * blocks.abs().amax(1, keepdim=True)).view_as(weight)
    nf4, doubled = (relative_error(weight, dequantise(quantise(weight, d))) for d in (False, True))
    assert nf4 == pytest.approx(0.092, abs=0.001) and nf4 < doubled < 1.01 * nf4
    assert nf4 < 0.9 * relative_error(weight, int4) and nf4 < 0.95 * relative_error(weight, sixteen)


@given(st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=150))
def test_order_is_kept_within_a_block(numbers):
    weight = torch.tensor(numbers)
    found = dequantise(quantise(weight, double=False))
    for start in range(0, len(numbers), BLOCK):
        block = slice(start, start + BLOCK)
        assert (found[block][weight[block].argsort()].diff() >= 0).all()


@pytest.mark.parametrize("double", [True, False])
def test_zeros_stay_zeros_beside_others(double):
    weight = random(4, BLOCK)
    weight[1] = 0
    found = dequantise(quantise(weight, double))
    assert not found[1].any() and found[0].any()
    assert not dequantise(quantise(torch.zeros(3, 3), double)).any()


@pytest.mark.parametrize("weight", [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")]), torch.zeros(0, 4)])
def test_what_has_no_scale_is_refused(weight):
    with pytest.raises(ValueError, match="finite"):
        quantise(weight)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_change_no_bit_and_hold_back_what_is_in_float32(double, dtype, monkeypatch):
    weight = random(100, 333).to(dtype)  # more than two slices, the last one short
    whole = quantise(weight, double)
    found, largest = dequantise(whole), []
    monkeypatch.setattr(module, "SLICE", module.BLOCK * module.GROUP)
    embedding = module.F.embedding
    monkeypatch.setattr(module.F, "embedding", lambda *a: largest.append(2 * len(a[0])) or embedding(*a))
    sliced = quantise(weight, double)
    assert all(torch.equal(one, other) for one, other in zip(sliced[:4], whole[:4], strict=True))
    assert torch.equal(dequantise(sliced), found) and max(largest) == module.SLICE
    assert torch.equal(dequantise(sliced, torch.bfloat16), found.bfloat16())


def test_shapes_alone():
    q = quantise(torch.empty(64, 96, device="meta", dtype=torch.bfloat16))
    assert q.bits == quantise(random(64, 96)).bits and dequantise(q, torch.bfloat16).shape == (64, 96)


# --- as the base of an adapter ----------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """A small model on NF4, and one that computes the same with ordinary layers; with equal adapters on both."""
    torch.manual_seed(0)
    stored = quantise_linears(nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 32, bias=False)))
    plain = dequantise_linears(copy.deepcopy(stored))
    for model in (stored, plain):
        torch.manual_seed(1)
        add_adapter(model, LoraConfig(rank=4, target_modules=["0", "2"]))
    return stored, plain


def test_a_stored_layer_computes_and_differentiates_as_the_ordinary_one(pair):
    x = random(5, 3, 64)
    for model in pair:
        for n in (0, 2):
            nn.init.normal_(model[n].B["default"].weight, generator=torch.Generator().manual_seed(n))
    stored, plain = (x.clone().requires_grad_() for _ in pair)
    for model, given_x in zip(pair, (stored, plain), strict=True):
        model(given_x).square().mean().backward()
    assert stored.grad.abs().max() > 0
    torch.testing.assert_close(stored.grad, plain.grad)
    for n in (0, 2):
        for one, other in zip(*(m[n].matrices("default") for m in pair), strict=True):
            assert one.grad.any()
            torch.testing.assert_close(one.grad, other.grad)


def test_the_base_is_frozen_small_and_trains_an_adapter(pair):
    stored, _ = pair
    assert isinstance(stored[0], LoraLinear) and isinstance(stored[0].base, NF4Linear)
    assert stored[0].adapter_dtype == torch.float32 and (stored[0].in_features, stored[0].out_features) == (64, 96)
    codes = stored[0].base.codes.clone()
    trained = [p for p in stored.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for n in (0, 2) for p in stored[n].matrices("default")}
    optimizer, x = torch.optim.AdamW(trained, lr=1e-2), random(8, 64)
    losses = []
    for _ in range(20):
        losses.append(stored(x).square().mean())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0] and torch.equal(stored[0].base.codes, codes)


def test_no_float_copy_of_the_weight_is_kept_for_the_backward_pass():
    layer, kept = NF4Linear(nn.Linear(512, 512, bias=False)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(random(2, 512).requires_grad_()).sum()
    assert all(count < 512 * 512 for count in kept)


def test_a_half_precision_layer_keeps_its_dtype_and_gets_adapters_in_float32():
    model = quantise_linears(nn.Sequential(nn.Linear(64, 64).to(torch.bfloat16)))
    add_adapter(model, LoraConfig(rank=2, target_modules=["0"]))
    assert model[0].adapter_dtype == torch.float32
    assert model(random(2, 64).to(torch.bfloat16)).dtype == torch.bfloat16


def test_heads_and_other_modules_are_left_alone():
    model = nn.ModuleDict({"emb": nn.Embedding(8, 64), "fc": nn.Linear(64, 64), "lm_head": nn.Linear(64, 8)})
    assert quantise_linears(model) is model
    assert [type(m) for m in model.values()] == [nn.Embedding, NF4Linear, nn.Linear]
    assert type(dequantise_linears(model)["fc"]) is nn.Linear


def test_another_dtype_leaves_the_stored_scales_exact():
    linear = nn.Linear(256, 256)
    stored = NF4Linear(linear)
    wide = stored.weight
    model = nn.Sequential(stored).to(torch.bfloat16)
    assert model[0].spread.dtype == torch.float32 and torch.equal(model[0].weight, wide.bfloat16())
    assert model[0].bias.dtype == torch.bfloat16
    assert torch.equal(model.float()[0].weight, wide)
    assert quantise_linears(nn.Sequential(linear), device=torch.device("meta"))[0].codes.is_meta


# --- bitsandbytes: not installed here, so a stand-in with its functions' signatures


@pytest.fixture
def bitsandbytes(monkeypatch):
    """Its two functions, with our own arithmetic behind them and its flat bytes [n / 2, 1]."""

    def quantize_4bit(A, blocksize, quant_type, compress_statistics):
        assert (blocksize, quant_type) == (64, "nf4")
        q = quantise(A, compress_statistics)
        state = SimpleNamespace(parts=q[1:4], shape=A.shape, dtype=A.dtype, to=lambda device: None)
        return q.codes[:, None], state

    def dequantize_4bit(A, quant_state):
        return dequantise(NF4(A[:, 0], *quant_state.parts, quant_state.shape)).to(quant_state.dtype)

    package, functional = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    functional.quantize_4bit, functional.dequantize_4bit = quantize_4bit, dequantize_4bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)
    package.__spec__ = SimpleNamespace()


def test_its_layer_computes_and_trains_as_ours(bitsandbytes):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 32, bias=False)).to(torch.bfloat16)
    ours = quantise_linears(copy.deepcopy(plain))
    theirs = quantise_linears(plain, linear=BitsandbytesLinear)
    assert isinstance(theirs[0], BitsandbytesLinear) and [*theirs[0]._buffers] == ["codes"]
    for model in (ours, theirs):
        torch.manual_seed(1)
        add_adapter(model, LoraConfig(rank=4, target_modules=["0", "2"], init_lora_weights=False))
    assert theirs[0].adapter_dtype == torch.float32
    grads = []
    for model in (ours, theirs):
        x = random(5, 64).bfloat16().requires_grad_()
        model(x).float().square().mean().backward()
        grads.append([x.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert len(grads[0]) == 5 and all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
    assert type(dequantise_linears(theirs)[0].base) is nn.Linear


def test_it_is_taken_on_a_gpu_where_it_is_installed(bitsandbytes, monkeypatch):
    assert best_linear(torch.device("cuda")) is BitsandbytesLinear
    assert best_linear(torch.device("cpu")) is NF4Linear
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    assert best_linear(torch.device("cuda")) is NF4Linear
