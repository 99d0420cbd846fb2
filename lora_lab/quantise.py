r"""QLoRA's 4-bit NormalFloat (NF4): a frozen weight stored in 4.127 bits a number, computed with in 32.

Blocks of 64 numbers share one scale, their largest absolute value; each number keeps the index of the nearest of 16
levels, the quantiles of a normal distribution. The scales are quantised in turn. Source: Dettmers et al. 2023 (QLoRA),
section 3 and appendix E.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64  # numbers that share a scale
GROUP = 256  # scales that share a scale of their own


def normal_levels() -> Tensor:
    """The 16 levels [16], ascending from -1 to 1: quantiles of N(0, 1), eight above zero and seven below.

    The outermost is at 0.9677083, between 1 - 1/30 and 1 - 1/32: the middles of the last of 15 and of 16 equal shares.
    """
    above, below = (
        torch.special.ndtri(torch.linspace(0.9677083, 0.5, count, dtype=torch.float32)[:-1].double()).float()
        for count in (9, 8)
    )
    return torch.cat([-below, torch.zeros(1), above.flip(0)]) / above.max()


LEVELS = normal_levels()  # to the bit what the paper prints and bitsandbytes uses
_BETWEEN = (LEVELS[1:] + LEVELS[:-1]) / 2
_PAIRS = torch.stack([LEVELS.repeat_interleave(16), LEVELS.repeat(16)], dim=1)  # [256, 2]: the levels of a byte


class NF4(NamedTuple):
    """A quantised tensor. Without double quantisation the scales are float32 and `spread` is empty.

    codes: uint8, two indices of a level a byte, the first one in the high half. scales: int8 [blocks], steps of
    spread / 127 from `mean`. spread: float32 [groups]. mean: float32 [].
    """

    codes: Tensor
    scales: Tensor
    spread: Tensor
    mean: Tensor
    shape: torch.Size

    @property
    def bits(self) -> float:
        """Bits per number, scales and all; 4 + 8/64 + 32/(64 * 256) = 4.127 for a large tensor."""
        stored = (self.codes, self.scales, self.spread, self.mean)
        return 8 * sum(part.nbytes for part in stored) / self.shape.numel()


def quantise(weight: Tensor, double: bool = True) -> NF4:
    """`weight`, of any shape, as NF4. double: keep the scales as 8-bit whole numbers in groups of 256, mean taken off.

    (The paper keeps them as 8-bit floats; bits and idea are the same.) Raises ValueError for numbers not finite.
    """
    flat = weight.detach().float().flatten()
    if not flat.numel() or not torch.isfinite(flat).all():
        raise ValueError(f"only finite numbers can be quantised, and at least one: got a tensor {list(weight.shape)}")
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    nearest = torch.bucketize(blocks / absmax.clamp_min(torch.finfo(torch.float32).tiny)[:, None], _BETWEEN.to(flat))
    high, low = nearest.to(torch.uint8).view(-1, 2).unbind(1)
    codes, mean = high << 4 | low, absmax.new_zeros(())
    if not double:
        return NF4(codes, absmax, absmax.new_zeros(0), mean, weight.shape)
    mean = absmax.mean()
    groups = F.pad(absmax - mean, (0, -len(absmax) % GROUP)).view(-1, GROUP)
    spread = groups.abs().amax(dim=1)
    steps = groups / spread.clamp_min(torch.finfo(torch.float32).tiny)[:, None] * 127
    return NF4(codes, steps.round().to(torch.int8).flatten()[: len(absmax)], spread, mean, weight.shape)


def dequantise(q: NF4) -> Tensor:
    """The float32 tensor that `q` stands for, in its shape."""
    scales = q.scales
    if len(q.spread):
        scales = q.mean + scales * (q.spread / 127).repeat_interleave(GROUP)[: len(scales)]
    numbers = F.embedding(q.codes.int(), _PAIRS.to(q.codes.device)).view(-1, BLOCK) * scales[:, None]
    return numbers.flatten()[: q.shape.numel()].view(q.shape)


class _Product(torch.autograd.Function):
    """W x + b that keeps no float32 W for the backward pass: it dequantises again there."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight, None


class NF4Linear(nn.Linear):
    """A frozen linear layer whose weight [out, in] is stored as NF4; a LoRA layer's base like any other.

    `weight` is computed whenever it is asked for, in the dtype of the layer it was made from: writing into it changes
    nothing, so an adapter cannot be merged here (`dequantise_linears` first).
    """

    def __init__(self, linear: nn.Linear, double: bool = True) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = linear.weight.shape
        self.dtype = linear.weight.dtype
        *parts, self.shape = quantise(linear.weight, double)
        for name, part in zip(NF4._fields, parts, strict=False):
            self.register_buffer(name, part)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight [out, in], a new tensor at each call."""
        return dequantise(NF4(self.codes, self.scales, self.spread, self.mean, self.shape)).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] for x [..., in]; only x gets a gradient."""
        return _Product.apply(x, self)

    def dequantised(self) -> nn.Linear:
        """An ordinary frozen layer with the weight as it is now, rounding and all."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.weight, requires_grad=False), self.bias
        return linear.train(self.training)


def quantise_linears(model: nn.Module, exclude: tuple[str, ...] = ("lm_head",)) -> nn.Module:
    """Put an `NF4Linear` in the place of every Linear whose last name is not in `exclude`. In place, before adapters.

    Embeddings and norms stay as they are. Returns the same model.
    """
    return _swap(model, lambda name, m: type(m) is nn.Linear and name not in exclude, NF4Linear)


def dequantise_linears(model: nn.Module) -> nn.Module:
    """Put an ordinary Linear in the place of every `NF4Linear`, under an adapter too. In place; the same model."""
    return _swap(model, lambda name, m: isinstance(m, NF4Linear), NF4Linear.dequantised)


def _swap(model: nn.Module, chosen, make) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if chosen(name, child):
                setattr(parent, name, make(child))
    return model
