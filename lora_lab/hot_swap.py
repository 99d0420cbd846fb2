"""Another adapter's numbers in the place of one that is loaded: no new parameter, no new layer, no new compilation.

Serving many adapters from one model, `load_adapter` and `set_adapter` would do; but code compiled by `torch.compile`
holds on to shapes and Python numbers. So A and B get room for the largest rank, filled up with zeros, which change
nothing; the scaling becomes a tensor; and a swap only copies into them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLayer
from lora_lab.peft_format import PREFIX, matrix_keys
from lora_lab.record import Record, check_enabled, check_known, record_of
from lora_lab.storage import read_adapter

Read = tuple[LoraConfig, dict[str, Tensor], dict[str, Tensor], Path]  # what `read_adapter` returns


def prepare_hot_swap(model: nn.Module, rank: int) -> None:
    """Give every adapter's A and B room for `rank`, and make the scalings tensors. No output changes.

    Call it once, before `torch.compile` and before an optimizer is made; parameters stay the same objects. Adapters
    that are not plain LoRA are left alone: they cannot be swapped. Raises ValueError, and changes nothing, for a rank
    below one that is loaded, or a merged model.
    """
    record = record_of(model)
    check_enabled(record)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a whole number from 1 on, got {rank!r}")
    _check_not_merged(record)
    plain = [(p, m, n) for p, m in record.layers.items() for n in m.scaling if n not in m.variants]
    for path, layer, name in plain:
        if (room := len(layer.matrices(name)[0])) > rank:
            raise ValueError(f"adapter {name!r} has rank {room} at '{path}': prepare for at least that, not {rank}")
    for _, layer, name in plain:
        a, b = layer.matrices(name)
        layer.used_rank[name] = layer.rank[name]
        _room(a, (rank, *a.shape[1:]))
        _room(b, (len(b), rank, *b.shape[2:]))
        # On the CPU and in float64, where it stands for a Python number: it takes part in no other dtype or device.
        layer.scaling[name] = torch.tensor(float(layer.scaling[name]), dtype=torch.float64)


def _room(parameter: nn.Parameter, shape: tuple[int, ...]) -> None:
    """Let the same parameter hold its values and zeros after them, in the shape given."""
    if parameter.shape != shape:
        filled = parameter.data.new_zeros(shape)
        filled[tuple(map(slice, parameter.shape))] = parameter.data
        parameter.data, parameter.grad = filled, None


@torch.no_grad()
def hot_swap(model: nn.Module, source: str | Path | Read, name: str = "default") -> None:
    """Put the adapter in `source` in the place of adapter `name`: weights, scaling, ranks and configuration.

    source: a folder (or one that holds `name`'s folder), or what `storage.read_adapter(model, folder)` returned, for
    adapters kept in memory. Parameters are overwritten, whole saved modules included; layers that the new adapter
    lacks become zero; it is active, trainable, and has dropout, if the old one was, and had. `save_adapter` then
    writes the new one, at its own rank.

    Raises ValueError, and changes nothing, for what `load_adapter` refuses, a merged adapter, one that is not plain
    LoRA or has biases, layers or whole modules that `name` is not on, and a rank for which there is no room (see
    `prepare_hot_swap`).
    """
    record = record_of(model)
    check_enabled(record)
    check_known(record, [name])
    _check_not_merged(record, name)
    config, tensors, bases, where = source if isinstance(source, tuple) else read_adapter(model, source, name)
    _check_kind(record, config, bases, name, where)
    layers = {p: m for p, m in record.layers.items() if name in m.scaling}
    pairs = {p: tuple(map(tensors.get, matrix_keys(p, type(m)))) for p, m in layers.items()}
    pairs = {p: pair for p, pair in pairs.items() if None not in pair}
    whole = {k: v for p, m in record.saved.items() if name in m.copies for k, v in _state(p, m.copies[name]).items()}
    _check_places(tensors, layers, pairs, whole, name, where)
    for path, (a, b) in pairs.items():
        _check_room(path, layers[path], a, b, name, where)
    for path, layer in layers.items():
        for parameter, new in zip(layer.matrices(name), pairs.get(path, (None, None)), strict=True):
            if new is None or new.shape != parameter.shape:
                parameter.zero_()
            if new is not None:
                parameter[tuple(map(slice, new.shape))].copy_(new)
        layer.used_rank[name] = len(pairs[path][0]) if path in pairs else 0
        if path in pairs:
            layer.set_scaling(name, config.scaling(path))
    for key, value in whole.items():
        value.copy_(tensors[key])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the file said what there was to say
        record.configs[name] = replace(config, dropout=record.configs[name].dropout)
    record.scale[name] = 1.0


def _state(path: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{PREFIX}{path}.{key}": value for key, value in module.state_dict().items()}


def _check_not_merged(record: Record, name: str | None = None) -> None:
    if record.merged if name is None else name in record.merged:
        raise ValueError(f"{', '.join(map(repr, record.merged))} is merged: unmerge first, or the weights keep the old")


def _check_kind(record: Record, config: LoraConfig, bases: dict[str, Tensor], name: str, where: Path) -> None:
    """Raises ValueError where there is more to an adapter, old or new, than A, B and whole modules."""
    old = next((type(m.variants[name]).__name__ for m in record.layers.values() if name in m.variants), None)
    new = "Dora" if config.use_dora else "Pissa" if config.init_lora_weights == "pissa" else None
    for what, kind in ((f"adapter {name!r}", old), (str(where), new)):
        if kind:
            raise ValueError(f"{what} is {kind}: only plain LoRA can be swapped; use load_adapter and set_adapter")
    for what, has in ((f"adapter {name!r}", record.bias_owner == name), (str(where), config.bias != "none")):
        if has:
            raise ValueError(f"{what} has biases of its own, which cannot be swapped: use load_adapter and set_adapter")
    if bases:
        raise ValueError(f"{where} brings its own base weight for '{next(iter(bases))}': use load_adapter")


def _check_places(tensors: dict, layers: dict, pairs: dict, whole: dict, name: str, where: Path) -> None:
    """Raises ValueError for a tensor that has no place here, and for a whole module that gets none."""
    used = {key for path in pairs for key in matrix_keys(path, type(layers[path]))} | whole.keys()
    strange = sorted(
        {k.removeprefix(PREFIX).partition(".lora_")[0] for k in tensors if k not in used and ".base_layer." not in k}
    )
    if strange:
        first = ", ".join(map(repr, strange[:3]))
        raise ValueError(
            f"{where} adapts {len(strange)} places that adapter {name!r} is not on: {first}. To have room for all, "
            "add the adapter with the most layers first"
        )
    for key, value in whole.items():
        if key not in tensors or tensors[key].shape != value.shape:
            raise ValueError(f"adapter {name!r} has a module of its own, but {where} has no such {key}")


def _check_room(path: str, layer: LoraLayer, a: Tensor, b: Tensor, name: str, where: Path) -> None:
    own_a, own_b = layer.matrices(name)
    if len(a) > len(own_a):
        raise ValueError(
            f"{where} has rank {len(a)} at '{path}', but adapter {name!r} has room for {len(own_a)}: "
            f"call prepare_hot_swap(model, {len(a)}) first"
        )
    if a.shape[1:] != own_a.shape[1:] or len(b) != len(own_b) or b.shape[1] != len(a):
        raise ValueError(f"{where}: A {list(a.shape)} and B {list(b.shape)} do not fit '{path}' of this model")
