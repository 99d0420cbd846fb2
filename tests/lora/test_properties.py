"""What holds for every rank, alpha and size: properties tried by hypothesis."""

from __future__ import annotations

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_lab.adapters import adapter_parameters, add_adapter, count_parameters, disable_adapters, set_scale
from lora_lab.config import LoraConfig, first_match, most_specific_first
from lora_lab.merging import merge, unload, unmerge
from lora_lab.record import record_of
from tests.lora.tiny import randomize

sizes = st.integers(1, 12)
ranks = st.integers(1, 8)
alphas = st.floats(0.01, 100)
KINDS = ("Linear", "Conv1D", "Embedding")


def layer_of(kind: str, into: int, out: int) -> nn.Module:
    return {"Linear": nn.Linear, "Embedding": nn.Embedding}[kind](into, out) if kind != "Conv1D" else Conv1D(out, into)


def adapted(kind: str, into: int, out: int, seed: int = 0, **fields) -> tuple[nn.Module, torch.Tensor]:
    """A model of one layer with a random adapter, and an input that shows all of its weight."""
    torch.manual_seed(seed)
    model = nn.Sequential(layer_of(kind, into, out))
    randomize(add_adapter(model, LoraConfig(target_modules=("0",), **fields)), seed=seed)
    return model, torch.arange(into) if kind == "Embedding" else torch.eye(into)


some = {"kind": st.sampled_from(KINDS), "into": sizes, "out": sizes, "seed": st.integers(0, 99)}
quiet = settings(max_examples=40)


@given(rank=ranks, alpha=alphas, rslora=st.booleans())
def test_scaling_is_alpha_over_rank(rank, alpha, rslora):
    expected = alpha / (math.sqrt(rank) if rslora else rank)
    assert LoraConfig(rank=rank, alpha=alpha, use_rslora=rslora).scaling("any") == expected
    model = add_adapter(nn.Sequential(nn.Linear(9, 9)), LoraConfig(rank=rank, alpha=alpha, use_rslora=rslora))
    assert model[0].scaling == {"default": expected}


@quiet
@given(**some, rank=ranks, alpha=alphas)
def test_merged_equals_unmerged_and_unmerging_is_exact(kind, into, out, seed, rank, alpha):
    assume(rank <= min(into, out))
    model, x = adapted(kind, into, out, seed, rank=rank, alpha=alpha)
    before = model[0].base.weight.clone()
    unmerged = model(x)
    merge(model)
    largest = max(1.0, unmerged.abs().max().item())
    assert torch.allclose(model(x), unmerged, atol=2e-6 * largest * (1 + alpha))
    unmerge(model)
    assert torch.equal(model[0].base.weight, before)
    assert torch.equal(model(x), unmerged)


@quiet
@given(**some, rank=ranks)
def test_the_update_has_at_most_the_rank(kind, into, out, seed, rank):
    assume(rank <= min(into, out))
    model, _ = adapted(kind, into, out, seed, rank=rank)
    delta = model[0].delta("default")
    assert delta.shape == model[0].base.weight.shape
    values = torch.linalg.svdvals(delta.double())
    assert (values[rank:] < 1e-5 * values[0]).all()
    assert values[rank - 1] > 1e-5 * values[0]  # and no less, for random A and B


@given(into=sizes, out=sizes, rank=ranks, kind=st.sampled_from(KINDS))
def test_the_adapter_has_rank_times_in_plus_out_parameters(into, out, rank, kind):
    assume(rank <= min(into, out))
    model, _ = adapted(kind, into, out, rank=rank)
    count = count_parameters(model)
    assert count.adapter == count.trainable == rank * (into + out)
    assert count.total - count.base == count.adapter


@quiet
@given(**some, rank=ranks)
def test_freezing_is_total(kind, into, out, seed, rank):
    assume(rank <= min(into, out))
    model, x = adapted(kind, into, out, seed, rank=rank)
    base = {n: p.detach().clone() for n, p in model[0].base.named_parameters()}
    mine = {id(p) for p in adapter_parameters(model).values()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == mine
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        assert all(p.grad is None for p in model[0].base.parameters())
        optimizer.step()
    assert all(torch.equal(p, base[n]) for n, p in model[0].base.named_parameters())
    with disable_adapters(model):
        within = model(x)
    assert torch.equal(unload(model)(x), within)


@quiet
@given(**some, factor=st.floats(-4, 4))
def test_the_scale_multiplies_the_update(kind, into, out, seed, factor):
    model, _ = adapted(kind, into, out, seed, rank=1)
    delta = model[0].delta("default").clone()
    set_scale(model, factor)
    assert torch.allclose(model[0].delta("default"), factor * delta, rtol=1e-5, atol=1e-6)
    set_scale(model, 1.0)
    assert torch.equal(model[0].delta("default"), delta)


names = st.sampled_from(("q_proj", "v_proj", "attn", "layers", "0", "1"))
paths = st.lists(names, min_size=1, max_size=4).map(".".join)


@given(patterns=st.lists(paths, unique=True, max_size=6), path=paths)
def test_of_plain_overlapping_patterns_the_longest_wins(patterns, path):
    ordered = most_specific_first(patterns)
    assert sorted(ordered) == sorted(patterns)
    matching = [p for p in patterns if path == p or path.endswith(f".{p}")]
    assert first_match(ordered, path) == (max(matching, key=len) if matching else None)


@given(**some)
def test_an_adapter_added_in_any_dtype_computes_in_float32_or_better(kind, into, out, seed):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        model = add_adapter(
            nn.Sequential(layer_of(kind, into, out)).to(dtype), LoraConfig(rank=1, target_modules=("0",))
        )
        expected = torch.float64 if dtype == torch.float64 else torch.float32
        assert {m.dtype for m in record_of(model).layers["0"].matrices("default")} == {expected}
