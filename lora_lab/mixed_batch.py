r"""Several adapters in one forward pass: each row of the batch names its own.

.. math:: y_i = W x_i + s_{a(i)}\, B_{a(i)} (A_{a(i)} x_i)

The A of all adapters are stacked to one matrix [R, in] and the B to one [out, R], with R the sum of the ranks: two
products serve every row, and between them each row keeps only the columns of its own adapter. That multiplies more
numbers than it must, and is still faster than a product per adapter as long as R is small beside the layer; beyond
that, each adapter takes its own rows. Engines that serve thousands of adapters have kernels that gather: Chen et al.
2023 (Punica), Sheng et al. 2023 (S-LoRA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_lab.layers import LoraConv2d, LoraEmbedding, LoraLayer, SavedModule
from lora_lab.record import Record, check_enabled, check_known, finite, record_of, show, show_current

BASE = "base"


@contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    """Within it row i of every batch goes through adapter `names[i]`; None or "base" is the base model.

    The same as one run per adapter, in one pass: `model(...)` and `model.generate(...)`, in eval mode (for beams,
    give each row's name `num_beams` times). Adapters may differ in rank and targets. A and B are read on entry.
    Afterwards the active adapters are as before.

    Raises ValueError for an unknown name, a model that trains or is merged, and adapters with biases of their own;
    RuntimeError within another mixed batch or `disable_adapters`. A layer that is given another number of rows than
    there are names raises ValueError at the forward.
    """
    record = record_of(model)
    check_enabled(record)
    names = _checked(model, record, names)
    masks: dict = {}
    hooks = [layer.register_forward_hook(_hook(path, layer, names, masks)) for path, layer in record.layers.items()]
    hooks += [module.register_forward_hook(_whole(path, names)) for path, module in record.saved.items()]
    show(record, updates=(), whole=())
    record.mixed = True
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()
        record.mixed = False
        show_current(record)


def _checked(model: nn.Module, record: Record, names: Sequence[str | None]) -> list[str | None]:
    """One adapter or None per row. Raises ValueError for what `mixed_batch` cannot run."""
    if isinstance(names, str) or not len(names):
        raise ValueError(f"expected one adapter's name (or None) for each row of the batch, got {names!r}")
    base_too = BASE not in record.configs
    names = [None if name == BASE and base_too else name for name in names]
    check_known(record, [name for name in names if name is not None])
    if model.training or any(layer.training for layer in record.layers.values()):
        raise ValueError("a mixed batch is for inference: call model.eval() first")
    if record.merged:
        raise ValueError(f"{', '.join(map(repr, record.merged))} is merged, so no row is without it: unmerge first")
    if record.bias_owner is not None and record.bias_owner in names:
        raise ValueError(f"adapter {record.bias_owner!r} trains the base's biases, which all rows share")
    return names


def _hook(path: str, layer: LoraLayer, names: list[str | None], masks: dict) -> Callable:
    """What runs after the layer, which computes its base alone meanwhile."""
    used = [n for n in dict.fromkeys(names) if n is not None and layer.has(n)]
    grouped, (stacked, work) = _grouped(layer, used, names), _stacked(layer, used, names, masks)

    def after(layer: LoraLayer, args: tuple, y: Tensor) -> Tensor:
        _check_rows(path, y, names)
        if layer.training:
            raise ValueError("a mixed batch is for inference: call model.eval() first")
        if not used:
            return y
        # Stacked, every row meets every adapter. For few rows a product more costs less than a step more; for many
        # it costs more from an eighth of the layer's own work on (measured at 1024 x 1024).
        if stacked is None or work > 1 or (work > 1 / 8 and y[..., 0].numel() > 16 * len(used)):
            return grouped(args[0], y)
        return stacked(args[0], y)

    return after


def _check_rows(path: str, y: Tensor, names: list[str | None]) -> None:
    if y.dim() < 2 or len(y) != len(names):
        raise ValueError(
            f"mixed_batch names the adapters of {len(names)} rows, but '{path}' was given {len(y)} (its output is "
            f"{list(y.shape)}). With num_beams=n, give each name n times."
        )


def _stacked(layer: LoraLayer, used: list[str], names: list[str | None], masks: dict) -> tuple[Callable | None, float]:
    """Two products for all adapters (None where that cannot be), and their work over that of the layer itself."""
    pairs = [layer.folded(name) for name in used]
    if isinstance(layer, (LoraEmbedding, LoraConv2d)) or None in pairs or not pairs:
        return None, 0.0
    ranks = [len(a) for a, _ in pairs]
    all_a, all_b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1).T
    if not finite(all_a, all_b):  # 0 times NaN is NaN: one broken adapter would break every row
        return None, 0.0
    scaling = {name: float(layer.scaling[name]) for name in used}
    key = (*scaling.items(), *ranks, all_a.dtype, all_a.device)
    if key not in masks:  # [rows, R]: the scaling where the column belongs to the row's adapter, else 0
        rows = [[scaling[n] if n == name else 0.0 for n in used] for name in names]
        mask = torch.tensor(rows, dtype=all_a.dtype, device=all_a.device)
        masks[key] = mask.repeat_interleave(torch.tensor(ranks, device=all_a.device), dim=1)
    mask = masks[key]

    def add(x: Tensor, y: Tensor) -> Tensor:
        h = F.linear(x.to(all_a.dtype), all_a)
        h = h * mask.view(len(mask), *[1] * (h.dim() - 2), -1)
        if y.dtype != h.dtype:
            return (y + h @ all_b).to(y.dtype)  # float32 adapters over a bfloat16 base: rounded once, as in the layer
        return torch.addmm(y.flatten(0, -2), h.flatten(0, -2), all_b).view_as(y)

    return add, sum(ranks) * (1 / layer.in_features + 1 / layer.out_features)


def _grouped(layer: LoraLayer, used: list[str], names: list[str | None]) -> Callable:
    """One update per adapter, on its rows: for whatever is not two products (DoRA, embeddings, convolutions)."""

    def add(x: Tensor, y: Tensor) -> Tensor:
        total = y.to(torch.promote_types(y.dtype, layer.adapter_dtype), copy=True)
        for name in used:
            rows = _rows(name, names, y)
            total.index_add_(0, rows, layer.update(name, x[rows], y[rows]).to(total.dtype))
        return total.to(y.dtype)

    return add


def _whole(path: str, names: list[str | None]) -> Callable:
    """What runs after a module that some adapters replace whole: their rows go through their own copy."""

    def after(module: SavedModule, args: tuple, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or len(args) != 1:
            raise ValueError(f"'{path}' is saved whole by an adapter and is no function of one tensor: run one by one")
        _check_rows(path, y, names)
        for name in dict.fromkeys(names):
            if name in module.copies:
                rows = _rows(name, names, y)
                y = y.index_copy(0, rows, module.copies[name](args[0][rows]))
        return y

    return after


def _rows(name: str, names: list[str | None], like: Tensor) -> Tensor:
    return torch.tensor([i for i, n in enumerate(names) if n == name], device=like.device)
