"""Base and adapter as one operation: the same numbers, fewer bytes kept, and the layer's own order where it cannot."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lora_lab import fused
from lora_lab.adapters import add_adapter, set_adapter, set_scale
from lora_lab.config import LoraConfig
from lora_lab.hot_swap import prepare_hot_swap
from lora_lab.quantise import quantise_linears

WIDE, TOKENS = 64, (2, 24)


def network(bias: bool = False, dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    """Three adapted layers, of which the first two read the same input; B is not zero any more."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.gate = nn.Linear(WIDE, 96, bias=bias), nn.Linear(WIDE, 96, bias=bias)
            self.down = nn.Linear(96, WIDE, bias=bias)

        def forward(self, x):
            return self.down(torch.tanh(self.gate(x)) * self.up(x))

    torch.manual_seed(0)
    model = add_adapter(nn.Sequential(Block(), Block()).to(dtype), LoraConfig(rank=4, alpha=6, **options))
    for name, p in model.named_parameters():
        if ".B." in name:
            nn.init.normal_(p, std=0.1)
    return model


def run(model: nn.Module, x: torch.Tensor, half: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
        y = model(x)
    y.float().square().sum().backward()
    return y.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"x": x.grad.clone()}


def pair(half: bool = False, **options):
    """The same network in its own order and fused, run on one input: outputs and gradients."""
    plain = network(**options)
    one = copy.deepcopy(plain)
    assert fused.fuse(one) == 6
    both = []
    for model in (plain, one):
        x = torch.linspace(-1, 1, TOKENS[0] * TOKENS[1] * WIDE).view(*TOKENS, WIDE)
        both.append(run(model, x.to(plain[0].up.base.weight.dtype).requires_grad_(), half))
    return both


@pytest.mark.parametrize("bias", [False, True])
def test_the_same_numbers_in_float64(bias):
    (y, grads), (fused_y, fused_grads) = pair(bias=bias, dtype=torch.float64)
    assert fused_grads.keys() == grads.keys() and len(grads) == 13
    torch.testing.assert_close(fused_y, y, rtol=1e-12, atol=1e-12)
    for name, grad in grads.items():
        torch.testing.assert_close(fused_grads[name], grad, rtol=1e-10, atol=1e-10, msg=name)


def test_within_rounding_under_autocast_over_a_bfloat16_base():
    (y, grads), (fused_y, fused_grads) = pair(half=True, dtype=torch.bfloat16)
    assert fused_y.dtype == y.dtype == torch.bfloat16
    assert (fused_y - y).norm() < 0.02 * y.norm()
    for name, grad in grads.items():
        assert fused_grads[name].dtype == grad.dtype, name
        assert (fused_grads[name] - grad).float().norm() < 0.03 * grad.float().norm(), name


def test_its_error_under_autocast_is_no_larger_than_the_unfused_one():
    exact = pair(dtype=torch.float64)[0]
    plain, one = pair(half=True)
    for grads in (plain[1], one[1]):
        assert grads.keys() == exact[1].keys()
    off = [[(g[name].double() - e).norm() / e.norm() for name, e in exact[1].items()] for g in (plain[1], one[1])]
    assert sum(off[1]) < 1.1 * sum(off[0])


def kept(model: nn.Module, half: bool) -> int:
    """Bytes that autograd keeps besides parameters, each storage once."""
    own, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    x = torch.ones(*TOKENS, WIDE, dtype=torch.bfloat16 if half else torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), torch.autocast("cpu", torch.bfloat16, half):
        y = model(x)
    assert y.requires_grad
    return sum(n for n, _ in seen.values())


def test_it_keeps_one_input_for_all_that_read_it():
    plain = network(dtype=torch.bfloat16)
    before = kept(plain, half=True)
    fused.fuse(plain)
    tokens = TOKENS[0] * TOKENS[1]
    # Of each block gone: a cast copy for each of three adapters, except one of the shared input and one of down's,
    # which the block before, or the product of gate and up, had not kept for itself.
    assert before - kept(plain, half=True) >= 2 * tokens * 2 * WIDE


def product(into, left, right, out_shape=None, **_) -> int:
    return 2 * left[0] * left[1] * right[1]


def test_the_matrix_products_are_the_same():
    counts, addmm_ = [], torch.ops.aten.addmm_
    for on in (False, True):
        model = network()
        fused.fuse(model, on)
        # Torch counts addmm, and not the one that writes in place.
        with FlopCounterMode(display=False, custom_mapping={addmm_: product}) as counter:
            model(torch.ones(*TOKENS, WIDE, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def off(model, change) -> bool:
    """Whether the fused model gives, to the bit, what its own order gives after `change`: it fell back."""
    fused.fuse(model)
    change(model)
    x = torch.linspace(-1, 1, WIDE).repeat(3, 1)
    torch.manual_seed(2)
    got = model(x)
    fused.fuse(model, on=False)
    torch.manual_seed(2)
    assert torch.allclose(got, model(x), atol=1e-5)
    return not any("_Linear" in type(f).__name__ for f in functions(got))


def functions(tensor: torch.Tensor) -> set:
    """Every node of the backward graph."""
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions]
    return seen


def test_it_is_used_where_it_can_be():
    assert not off(network(), lambda m: None)
    assert not off(network(dropout=0.5), lambda m: m.eval())  # no dropout in eval mode


@pytest.mark.parametrize(
    "options, change",
    [
        ({"dropout": 0.5}, lambda m: m.train()),
        ({"use_dora": True}, lambda m: None),
        ({"bias": True, "bias_trained": True}, lambda m: None),
        ({}, lambda m: [b.base.register_forward_hook(lambda *_: None) for b in m.modules() if hasattr(b, "fused")]),
    ],
    ids=["dropout", "DoRA", "a bias that trains", "somebody looks on"],
)
def test_it_falls_back(options, change):
    options = dict(options)
    if options.pop("bias_trained", False):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE))
        assert off(add_adapter(plain, LoraConfig(rank=2, bias="all", target_modules=("0", "1"))), change)
    else:
        assert off(network(**options), change)


def test_it_falls_back_on_two_adapters_and_for_a_layer_of_another_kind():
    model = network()
    add_adapter(model, LoraConfig(rank=2), "second")
    assert off(model, lambda m: set_adapter(m, ["default", "second"]))

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert off(add_adapter(nn.Sequential(Doubled(WIDE, WIDE)), LoraConfig(rank=2)), lambda m: None)


def test_without_gradients_nothing_changes_by_a_bit():
    model, x = network(), torch.linspace(-1, 1, WIDE).repeat(3, 1)
    with torch.no_grad():
        before = model(x)
        fused.fuse(model)
        assert torch.equal(model(x), before)


def test_scale_and_hot_swap_are_seen():
    model, x = network(), torch.linspace(-1, 1, WIDE).repeat(3, 1)
    fused.fuse(model)
    base, one = (set_scale(model, factor) or model(x).detach() for factor in (0.0, 1.0))
    assert not torch.allclose(one, base)
    prepare_hot_swap(model, 4)  # the scaling is a tensor now
    assert torch.allclose(model(x), one, atol=1e-6)


def test_over_a_base_in_four_bits():
    torch.manual_seed(0)
    plain = add_adapter(quantise_linears(nn.Sequential(nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 8))), LoraConfig(rank=4))
    one = copy.deepcopy(plain)
    assert fused.fuse(one) == 2
    results = [run(m, torch.linspace(-1, 1, 6 * WIDE).view(6, WIDE).requires_grad_()) for m in (plain, one)]
    torch.testing.assert_close(results[1][0], results[0][0])
    for name, grad in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], grad, msg=name)
    assert any("_Linear" in type(f).__name__ for f in functions(one(torch.ones(1, WIDE))))


def test_off_again_is_the_layers_own_order():
    model, x = network(), torch.linspace(-1, 1, WIDE).repeat(3, 1)
    before = model(x)
    fused.fuse(model)
    fused.fuse(model, on=False)
    assert torch.equal(model(x), before)
