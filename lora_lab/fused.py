r"""A frozen linear layer and its one adapter as a single operation: fewer passes over [tokens, out] than one by one.

Same mathematics as `LoraLinear.forward`, other bits, so it is used where asked for: `fuse(model)`. Under autocast the
layer's own order casts x to float32 and back for each adapter, multiplies the output by the scaling in a pass of its
own, and adds in another; here x is read as it is, kept once for all adapters that read it, and both products are added
in place. Source of the idea: Unsloth's `fast_lora`; the formulas are the chain rule on y = W x + b + s B A x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fuse(model: nn.Module, on: bool = True) -> int:
    """Let every adapted linear layer of `model` use the single operation where it can; how many layers that are.

    A layer falls back on its own order, for this call, with several adapters or none active, an adapter with dropout
    or of a variant's own arithmetic (DoRA), a base other than a frozen `nn.Linear` (an `NF4Linear` is one), or no
    gradient to compute. `on=False` puts it back.
    """
    layers = [m for m in model.modules() if hasattr(m, "fused")]
    for layer in layers:
        layer.fused = on
    return len(layers)


def usable(base: nn.Module) -> bool:
    """Whether `base` computes W x + bias and nothing else, from a weight and a bias that do not train."""
    plain = type(base).forward is nn.Linear.forward or hasattr(base, "dequantised")  # ours in 4 bits
    hooks = base._forward_hooks or base._forward_pre_hooks  # whoever looks on would miss it
    return plain and not hooks and not any(p.requires_grad for p in base._parameters.values() if p is not None)


def linear(base: nn.Linear, x: Tensor, a: Tensor, b: Tensor, scaling: float | Tensor) -> Tensor:
    """W x + bias + scaling B A x [..., out] for x [..., in], A [r, in], B [out, r]; in autocast's type."""
    half = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if half else x.dtype
    return _Linear.apply(x, a, b, base, scaling, dtype)


class _Linear(torch.autograd.Function):
    """Kept for the backward pass: x in the computing type (x itself where it has it), s A x [tokens, r], A and B."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor, base: nn.Linear, scaling: float | Tensor, dtype: torch.dtype):
        rows = x.to(dtype).flatten(0, -2)
        scaled = (rows @ a.to(dtype).T) * scaling
        y = F.linear(rows, base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype))
        y = y.to(dtype).addmm_(scaled.to(dtype), b.to(dtype).T)
        ctx.save_for_backward(rows, scaled, a, b)
        ctx.base, ctx.scaling, ctx.given = base, scaling, (x.dtype, x.shape)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, scaled, a, b = ctx.saved_tensors
        dtype, shape = ctx.given
        grad = grad.flatten(0, -2).to(rows.dtype)
        into_a = (grad @ b.to(rows.dtype)) * ctx.scaling
        grad_a = (into_a.T @ rows).to(a.dtype) if ctx.needs_input_grad[1] else None
        grad_b = (grad.T @ scaled.to(rows.dtype)).to(b.dtype) if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:  # the weight is asked of the layer again: a 4-bit one is not kept in full
            grad_x = (grad @ ctx.base.weight.to(rows.dtype)).addmm_(into_a.to(rows.dtype), a.to(rows.dtype))
            grad_x = grad_x.to(dtype).view(shape)
        return grad_x, grad_a, grad_b, None, None, None
