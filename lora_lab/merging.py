r"""Merging: put the update into the weight, and take it out again to the bit.

.. math:: W' = W + s\,BA

Taking it out by subtraction rounds twice: a bfloat16 base is 2.4e-2 off after 100 cycles. So the weight itself is
kept, and put back by pointer. The price is one more copy of every merged weight; `keep_backup=False` saves it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lora_lab.adapters import as_names, unwrap
from lora_lab.layers import LoraLayer
from lora_lab.record import (
    Record,
    check_enabled,
    check_known,
    check_one_head,
    finite,
    record_of,
    restore_pristine,
    show,
)

_LARGE = 4 * 2**20  # bytes: two huge pages


def merge(model: nn.Module, names: str | Sequence[str] | None = None, keep_backup: bool = True) -> None:
    """Add the updates of `names` (default: the active adapters) to the weights: no cost at inference.

    Until `unmerge` the model computes with what is merged and nothing else, whichever adapters are active.
    Everything is checked before the first weight is touched, so a failure leaves all layers as they were. A
    half-precision base is computed in float32 and rounded once. keep_backup: put new weights in place and keep the
    old ones for `unmerge`. Without, the merge is for good and changes each weight in its own memory: no second copy,
    and whoever else holds that tensor (a view, an open `state_dict`) sees it change.

    Warns, and does nothing, where all are merged already. Raises ValueError for an unknown adapter, a result that is
    not finite, or a weight tied to another module's; RuntimeError while adapters are disabled.
    """
    record = record_of(model)
    check_enabled(record)
    names = list(record.active) if names is None else as_names(names)
    check_known(record, names)
    merged = record.merged
    fresh = [n for n in names if n not in merged]
    if not fresh:
        warnings.warn(f"{', '.join(map(repr, names))}: merged already, nothing to do", stacklevel=2)
        return
    check_one_head(record, [*merged, *fresh])
    layers = {p: m for p, m in record.layers.items() if any(n in m.scaling for n in fresh)}
    _check_writable(model, layers)
    if keep_backup and record.merged_for_good:
        raise ValueError("an earlier merge kept no backup, so this one cannot: pass keep_backup=False")
    if record.merged_for_good and (late := [n for n in fresh if any(n in m.variants for m in layers.values())]):
        raise ValueError(f"{late[0]!r} is computed from the plain weight, and an earlier merge kept no backup of it")
    if keep_backup:
        weights = [_merged_weight(path, layer, fresh) for path, layer in layers.items()]
        for layer, weight in zip(layers.values(), weights, strict=True):
            if layer.pristine is None:
                layer.pristine = layer.base.weight.data
            layer.base.weight.data = weight
            layer.merged += [n for n in fresh if n in layer.scaling]
    else:
        for path, layer in layers.items():
            if not _surely_finite(layer, fresh):
                _merged_weight(path, layer, fresh)  # only to look at it: keeping all would be the second copy
        record.merged_for_good = True
        for path, layer in layers.items():
            _merge_in_place(path, layer, fresh)
        for layer in record.layers.values():
            layer.pristine = None
    show(record, updates=(), whole=[*merged, *fresh])


@torch.no_grad()
def _merged_weight(path: str, layer: LoraLayer, names: list[str]) -> Tensor:
    """The weight with the updates in it, as a new tensor. Raises ValueError if it is not finite."""
    weight = layer.base.weight
    start = weight.detach().to(layer.adapter_dtype)
    out = _room_for(start) if start.data_ptr() == weight.data_ptr() else start
    result = _sum_into(out, start, layer, names).to(weight.dtype)
    here = [n for n in names if n in layer.scaling]
    # The matrices too: a scale of 0 leaves a NaN out of the result, though not out of the unmerged output.
    if not _surely_finite(layer, names) and not finite(result, *(m for n in here for m in layer.matrices(n))):
        broken = [n for n in here if not finite(layer.delta(n))]
        whose = f"adapter {broken[0]!r}" if broken else f"their sum with the {weight.dtype} weight"
        raise ValueError(f"merging would make '{path}' not finite (NaN or infinity), from {whose}. Nothing was merged.")
    return result


@torch.no_grad()
def _merge_in_place(path: str, layer: LoraLayer, names: list[str]) -> None:
    """The same sum, in the weight's own memory; half precision goes through one float32 copy of this layer."""
    weight, names = layer.base.weight.detach(), [n for n in names if n in layer.scaling]
    if any(n in layer.variants for n in names):  # which may read the plain weight while they add to it
        layer.base.weight.data = _merged_weight(path, layer, names)
    else:
        wide = weight.to(layer.adapter_dtype)  # the weight itself, unless it is in half precision
        _sum_into(wide, wide, layer, names)
        if wide is not weight:
            weight.copy_(wide)
    layer.merged += names


def _sum_into(out: Tensor, start: Tensor, layer: LoraLayer, names: list[str]) -> Tensor:
    """`start` + the updates of those of `names` that the layer has, written into `out`."""
    for name in names:
        if name in layer.scaling:
            start = layer.add_delta(start, name, out)
    return out


def _surely_finite(layer: LoraLayer, names: list[str]) -> bool:
    """Whether A and B alone settle that a finite weight stays finite; they are small, so this costs nothing.

    An update below half the spacing of the largest floats cannot make a weight overflow.
    """
    limits = torch.finfo(layer.base.weight.dtype)
    return sum(_largest(layer, n) for n in names if n in layer.scaling) < limits.max * limits.eps / 4


def _room_for(weight: Tensor) -> Tensor:
    """An empty tensor like `weight`. A large one on a CPU comes in huge pages where the system has them.

    Touching 64 MiB of fresh memory page by page costs Linux twice the arithmetic of the merge that fills it.
    """
    if weight.device.type != "cpu" or weight.nbytes < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty_like(weight)
    memory = mmap.mmap(-1, weight.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=weight.dtype).view(weight.shape)


def _largest(layer: LoraLayer, name: str) -> float:
    """A bound on every entry of s B A: |s| r max|A| max|B|. NaN or infinite if A or B is, or where there is none."""
    if name in layer.variants:
        return math.inf
    a, b = layer.matrices(name)
    return abs(float(layer.scaling[name])) * a.shape[0] * a.abs().max().item() * b.abs().max().item()


def _check_writable(model: nn.Module, layers: dict[str, LoraLayer]) -> None:
    """Raises ValueError if a weight to be changed is computed, or another module's too (by parameter or memory)."""
    users: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(parameter.data_ptr(), []).append(path)
    for path, layer in layers.items():
        if not isinstance(layer.base.weight, nn.Parameter):
            raise ValueError(
                f"'{path}' is a {type(layer.base).__name__}, which computes its weight anew each time: nothing can be "
                "merged into it. For an NF4 base call quantise.dequantise_linears(model) first."
            )
        own = f"{path}.base.weight"
        others = [p for p in users.get(layer.base.weight.data_ptr(), []) if p != own and layer.base.weight.numel()]
        if others:
            other = others[0].removesuffix(".weight").removesuffix(".base")
            table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
            if table is not None and table.weight.data_ptr() != layer.base.weight.data_ptr():
                raise ValueError(  # untied, it would be tied again, and lost, on loading
                    f"the weight of '{path}' is tied to '{other}': blocks of a {type(model).__name__} share it, and it "
                    "cannot hold a sum for each. Serve the adapter beside the base, or exclude_modules what is shared."
                )
            raise ValueError(
                f"the weight of '{path}' is tied to '{other}': merging would change both. To untie them, on the plain "
                f"model: model.{other}.weight = torch.nn.Parameter(model.{other}.weight.detach().clone()), and "
                "model.config.tie_word_embeddings = False if there is such a setting; then load the adapter again."
            )


def unmerge(model: nn.Module) -> None:
    """Put the weights back as they were before `merge`, to the bit, whatever happened to the adapters since.

    Warns where nothing is merged. Raises ValueError after keep_backup=False, RuntimeError while disabled.
    """
    record = record_of(model)
    check_enabled(record)
    if not record.merged:
        warnings.warn("nothing is merged, nothing to do", stacklevel=2)
        return
    _check_backup(record)
    restore_pristine(record)


def _check_backup(record: Record) -> None:
    if record.merged_for_good:
        raise ValueError("merged with keep_backup=False: the weights before it were not kept, so they cannot come back")


def merge_and_unload(model: nn.Module, names: str | Sequence[str] | None = None) -> nn.Module:
    """Merge for good and take the wrappers off: a plain model that computes what the adapted one did.

    names: what to merge beside what is merged already (default: the active adapters, if nothing is merged).
    Whole saved modules and trained biases of active adapters stay. Works in place and returns the same model.
    """
    record = record_of(model)
    check_enabled(record)
    wanted = list(record.merged or record.active) if names is None else as_names(names)
    if any(n not in record.merged for n in wanted):
        merge(model, wanted, keep_backup=False)
    return unwrap(model, record, keep_trained=True)


def unload(model: nn.Module) -> nn.Module:
    """Take all adapters off: the plain base model, to the bit. Unmerges first. In place; returns the same model.

    Raises ValueError after keep_backup=False.
    """
    record = record_of(model)
    check_enabled(record)
    if record.merged:
        _check_backup(record)
        restore_pristine(record)
    return unwrap(model, record, keep_trained=False)
