r"""QLoRA's 4-bit NormalFloat (NF4): a frozen weight stored in 4.127 bits a number, computed with in 16 or 32.

Blocks of 64 numbers share one scale, their largest absolute value; each number keeps the index of the nearest of 16
levels, the quantiles of a normal distribution. The scales are quantised in turn. Source: Dettmers et al. 2023 (QLoRA),
section 3 and appendix E.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64  # numbers that share a scale
GROUP = 256  # scales that share a scale of their own
SLICE = 2**22  # numbers that are in float32 at once on their way in or out: 16 MiB, a multiple of BLOCK * GROUP


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
    flat = weight.detach().flatten()
    if not flat.numel() or not (flat.is_meta or torch.isfinite(flat).all()):
        raise ValueError(f"only finite numbers can be quantised, and at least one: got a tensor {list(weight.shape)}")
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1).float()
    codes, mean, between = (
        flat.new_empty(blocks.numel() // 2, dtype=torch.uint8),
        absmax.new_zeros(()),
        _BETWEEN.to(absmax),
    )
    step = SLICE // BLOCK
    for start in range(0, len(blocks), step):
        scales = absmax[start : start + step, None].clamp_min(torch.finfo(torch.float32).tiny)
        nearest = torch.bucketize(blocks[start : start + step] / scales, between, out_int32=True).to(torch.uint8)
        high, low = nearest.view(-1, 2).unbind(1)
        codes[start * BLOCK // 2 :][: len(high)] = high << 4 | low
    if not double:
        return NF4(codes, absmax, absmax.new_zeros(0), mean, weight.shape)
    mean = absmax.mean()
    groups = F.pad(absmax - mean, (0, -len(absmax) % GROUP)).view(-1, GROUP)
    spread = groups.abs().amax(dim=1)
    steps = groups / spread.clamp_min(torch.finfo(torch.float32).tiny)[:, None] * 127
    return NF4(codes, steps.round().to(torch.int8).flatten()[: len(absmax)], spread, mean, weight.shape)


def dequantise(q: NF4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor that `q` stands for, in its shape; another dtype is float32's result, rounded.

    Only `SLICE` numbers at a time are there in float32 beside it.
    """
    scales = q.scales
    if len(q.spread):
        scales = q.mean + scales * (q.spread / 127).repeat_interleave(GROUP)[: len(scales)]
    pairs = _pairs(q.codes.device)
    found = torch.empty(2 * len(q.codes), dtype=dtype, device=q.codes.device)
    for some, by, out in zip(
        *(t.split(n) for t, n in ((q.codes, SLICE // 2), (scales, SLICE // BLOCK), (found, SLICE))), strict=True
    ):
        torch.mul(F.embedding(some.int(), pairs).view(-1, BLOCK), by[:, None], out=out.view(-1, BLOCK))
    return found[: q.shape.numel()].view(q.shape)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    return _PAIRS.to(device)


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

    package = "lora_lab"

    def __init__(self, linear: nn.Linear, double: bool = True) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = linear.weight.shape
        self.dtype = linear.weight.dtype
        self._store(linear.weight, double)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def _store(self, weight: Tensor, double: bool) -> None:
        *parts, self.shape = quantise(weight, double)
        for name, part in zip(NF4._fields, parts, strict=False):
            self.register_buffer(name, part)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight [out, in], a new tensor at each call."""
        return dequantise(NF4(self.codes, self.scales, self.spread, self.mean, self.shape), self.dtype)

    def _apply(self, fn, recurse: bool = True) -> NF4Linear:
        """To another device or dtype: the scales stay as exact as they are, whatever the weight is computed in."""
        exact = {name: part for name, part in self._buffers.items() if part.is_floating_point()}
        super()._apply(fn, recurse)
        for name, part in exact.items():
            self._buffers[name] = part.to(self.codes.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        return self

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] for x [..., in]; only x gets a gradient."""
        return _Product.apply(x, self)

    def dequantised(self) -> nn.Linear:
        """An ordinary frozen layer with the weight as it is now, rounding and all."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.weight, requires_grad=False), self.bias
        return linear.train(self.training)


class BitsandbytesLinear(NF4Linear):
    """The same with the weight stored and dequantised by bitsandbytes, whose CUDA kernels are faster.

    Its own `Linear4bit` has a weight of another shape and dtype than it stands for; this one looks like any Linear, so
    that adapters, `fused` and the rest need not know. Both dequantise the whole weight for a product of many tokens.
    """

    package = "bitsandbytes"

    def _store(self, weight: Tensor, double: bool) -> None:
        from bitsandbytes.functional import quantize_4bit

        codes, self.state = quantize_4bit(
            weight.detach().contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=double
        )
        self.register_buffer("codes", codes)

    @property
    def weight(self) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.codes, self.state).to(self.dtype)

    def _apply(self, fn, recurse: bool = True) -> BitsandbytesLinear:
        super()._apply(fn, recurse)
        self.state.to(self.codes.device)
        return self


def best_linear(device: torch.device) -> type[NF4Linear]:
    """`BitsandbytesLinear` on a CUDA GPU where that package is installed, else `NF4Linear`."""
    there = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    return BitsandbytesLinear if there else NF4Linear


def quantise_linears(
    model: nn.Module,
    exclude: tuple[str, ...] = ("lm_head",),
    linear: type[NF4Linear] = NF4Linear,
    device: torch.device | None = None,
) -> nn.Module:
    """Put a `linear` in the place of every Linear whose last name is not in `exclude`. In place, before adapters.

    Embeddings and norms stay as they are. device: where the quantised weights go, one layer at a time, so that a model
    too large for a GPU in 16 bits can come from the CPU. Returns the same model.
    """

    def made(layer: nn.Linear) -> NF4Linear:
        return linear(layer if device is None else layer.to(device))

    return _swap(model, lambda name, m: type(m) is nn.Linear and name not in exclude, made)


def numbers_stored(model: nn.Module) -> int:
    """How many weights `model` holds in 4 bits; they are no parameters, so no count of those sees them."""
    return sum(m.out_features * m.in_features for m in model.modules() if isinstance(m, NF4Linear))


def dequantise_linears(model: nn.Module) -> nn.Module:
    """Put an ordinary Linear in the place of every `NF4Linear`, under an adapter too. In place; the same model."""
    return _swap(model, lambda name, m: isinstance(m, NF4Linear), NF4Linear.dequantised)


def _swap(model: nn.Module, chosen, make) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if chosen(name, child):
                setattr(parent, name, make(child))
    return model
