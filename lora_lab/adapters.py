"""Adapters on a whole model, in place: add, choose, disable, delete, scale.

The record of what was added lives on the model itself, so that a deep copy of the model is complete. Give these
functions the same module that `add_adapter` was given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLayer, SavedModule, layer_class
from lora_lab.matching import find_saved, find_targets
from lora_lab.record import (
    RECORD,
    Record,
    check_enabled,
    check_known,
    check_name,
    check_one_head,
    own_parameters,
    record_of,
    regroup,
    restore_pristine,
    scaled_config,
    show,
    show_current,
    swap_biases,
)
from lora_lab.report import (
    ParameterCount,
    Status,
    adapter_names,
    adapter_parameters,
    count_parameters,
    get_config,
    status,
    trainable_parameters,
)
from lora_lab.variants import Dora, Pissa

__all__ = [
    "ParameterCount",
    "Status",
    "adapter_names",
    "adapter_parameters",
    "add_adapter",
    "count_parameters",
    "delete_adapter",
    "disable_adapters",
    "get_config",
    "set_adapter",
    "set_scale",
    "status",
    "trainable_parameters",
]
LARGEST_RANK = 1000  # or 16 times the larger side of the matrix; a file may ask for anything


def add_adapter(model: nn.Module, config: LoraConfig, name: str = "default") -> nn.Module:
    """Wrap the modules that `config` targets, freeze all else, and make `name` the active adapter.

    Works in place and returns the same model: give it `copy.deepcopy(model)` to keep a plain one as well. An
    untrained adapter changes no output. Raises ValueError, and changes
    nothing, for a bad or taken name, targets that match nothing, a merged model, or a model adapted elsewhere.
    Warns for a rank that a layer cannot use and for patterns that match nothing.
    """
    return install(model, config, name, trainable=True, strict=True)


def install(model: nn.Module, config: LoraConfig, name: str, trainable: bool, strict: bool) -> nn.Module:
    """`add_adapter`, with the leniency and the frozen state that a file from elsewhere needs."""
    if not isinstance(config, LoraConfig):
        raise TypeError(f"config must be a LoraConfig, got {type(config).__name__}")
    check_name(name)
    record = model.__dict__.get(RECORD)
    _check_addable(model, record, config, name)
    targets, complaints = find_targets(model, config, strict)
    saved = find_saved(model, config, strict)
    check_ranks(targets, config)
    if config.init_lora_weights == "pissa":
        check_pissa(targets, config)
    if record is not None:
        _check_apart(record, targets, saved)
    for text in complaints + _wide_ranks(targets, config):
        warnings.warn(text, stacklevel=3)

    if record is None:
        record = Record({n: p.requires_grad for n, p in model.named_parameters()})
        model.requires_grad_(False)
        model.__dict__[RECORD] = record
    for path in targets:
        layer = record.layers.get(path) or _wrap(model, path, record)
        layer.add(
            name, config.rank_for(path), config.scaling(path), config.dropout, config.init_lora_weights is not False
        )
        if config.use_dora or config.init_lora_weights == "pissa":
            layer.variants[name] = (Dora if config.use_dora else Pissa)(layer, name)
    for path in saved:
        _save_module(model, path, record).add(name)
    regroup(record)
    record.configs[name], record.trainable[name], record.scale[name] = config, trainable, 1.0
    record.parameters[name] = list(own_parameters(record, name).values())
    if config.bias != "none":
        _keep_biases(model, record, name)
    _choose(record, [name])
    return model


def _check_addable(model: nn.Module, record: Record | None, config: LoraConfig, name: str) -> None:
    if record is None:
        for path, module in model.named_modules():
            if isinstance(module, (LoraLayer, SavedModule)):
                raise ValueError(
                    f"'{path}' is already adapted through another module: pass that module, or unload it first"
                )
            if type(module).__module__.startswith("peft."):
                raise ValueError(f"'{path or type(module).__name__}' is peft's: call its unload() first, then add here")
        return
    if name in record.configs:
        raise ValueError(f"adapter {name!r} exists already: choose another name, or delete_adapter first")
    check_enabled(record)
    if record.merged:
        raise ValueError(f"adapter {', '.join(map(repr, record.merged))} is merged: unmerge before adding another")
    if config.bias != "none" and record.bias_owner:
        raise ValueError(f"adapter {record.bias_owner!r} trains biases already: only one adapter of a model can")


def _check_apart(record: Record, targets: dict[str, nn.Module], saved: dict[str, nn.Module]) -> None:
    """Raises ValueError where one adapter would update what another replaces whole."""
    for path in targets:
        whole = next((p for p in record.saved if f"{path}.".startswith(f"{p}.")), None)
        if whole is not None:
            raise ValueError(f"'{path}' cannot be adapted: another adapter saves '{whole}' whole (modules_to_save)")
    for path in saved:
        inside = next((p for p in (*record.layers, *record.saved) if p != path and p.startswith(f"{path}.")), None)
        if path in record.layers or inside is not None:
            raise ValueError(f"'{path}' cannot be saved whole: another adapter is on '{inside or path}'")


def check_ranks(targets: dict[str, nn.Module], config: LoraConfig) -> None:
    """Raises ValueError for a rank far beyond any use, before memory is taken for it."""
    for path, module in targets.items():
        if (rank := config.rank_for(path)) > max(LARGEST_RANK, 16 * max(module.weight.shape[:2])):
            size = list(module.weight.shape)
            raise ValueError(f"rank {rank} at '{path}', whose weight is {size}: no adapter is that large")


def check_pissa(targets: dict[str, nn.Module], config: LoraConfig) -> None:
    """Raises ValueError where PiSSA cannot start: not a matrix of a linear layer, a rank it lacks, or alpha below 0."""
    for path, module in targets.items():
        weight, rank = module.weight, config.rank_for(path)
        if weight.ndim != 2 or isinstance(module, nn.Embedding) or not weight.is_floating_point():
            raise ValueError(f"PiSSA starts from the matrix of a linear layer; '{path}' is a {type(module).__name__}")
        if rank > min(weight.shape):
            raise ValueError(
                f"PiSSA at '{path}': rank {rank}, but {list(weight.shape)} has {min(weight.shape)} at most"
            )
        if config.scaling(path) < 0:
            raise ValueError(f"PiSSA at '{path}': alpha must be above 0, got {config.alpha_for(path)}")


def _wide_ranks(targets: dict[str, nn.Module], config: LoraConfig) -> list[str]:
    """One sentence on the first layer whose rank is more than its matrix can use, and how many more there are."""
    wide = []
    for path, module in targets.items():
        rank, (rows, columns) = config.rank_for(path), module.weight.flatten(1).shape
        if rank > min(rows, columns):
            wide.append((path, rank, rows, columns))
    if not wide:
        return []
    path, rank, rows, columns = wide[0]
    more = f" (and {len(wide) - 1} more layers)" if len(wide) > 1 else ""
    return [
        f"rank {rank} is more than {path} can use: min{rows, columns} = {min(rows, columns)}. This adapter has "
        f"{rank * (rows + columns):,} parameters; the matrix itself has {rows * columns:,}.{more}"
    ]


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` where `path` is."""
    parent_path, _, child = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    setattr(parent, child, new)
    if isinstance(parent, nn.TransformerEncoderLayer):
        # In eval mode its fast path reads the weights and never calls the layers: this flag turns that path off.
        parent.activation_relu_or_gelu = 0


def _wrap(model: nn.Module, path: str, record: Record) -> LoraLayer:
    base = model.get_submodule(path)
    layer = layer_class(base)(base).train(base.training)
    replace_module(model, path, layer)
    record.layers[path] = layer
    return layer


def _save_module(model: nn.Module, path: str, record: Record) -> SavedModule:
    if path not in record.saved:
        original = model.get_submodule(path)
        record.saved[path] = SavedModule(original).train(original.training)
        replace_module(model, path, record.saved[path])
    return record.saved[path]


def _keep_biases(model: nn.Module, record: Record, name: str) -> None:
    """Note the biases that adapter `name` trains, with a copy of what they were."""
    only_adapted = record.configs[name].bias == "lora_only"
    modules = [(p, layer.base) for p, layer in record.layers.items() if name in layer.scaling]
    if not only_adapted:
        skip = tuple(f"{p}." for p in (*record.layers, *record.saved))
        modules += [(p, m) for p, m in model.named_modules() if p not in record.layers and not p.startswith(skip)]
    for path, module in modules:
        if module._parameters.get("bias") is not None:
            record.biases[f"{path}.bias"] = module.bias
    record.hidden_biases = [(b, b.detach().clone()) for b in record.biases.values()]
    record.bias_owner, record.biases_trained = name, True


def _choose(record: Record, names: list[str]) -> None:
    """Make exactly `names` active, in this order. Only flags and lists change: nothing is computed or copied."""
    for old in record.active:
        if old not in names:
            for parameter in record.parameters[old]:
                parameter.requires_grad = False
    for name in names:
        trainable = record.trainable[name]
        for parameter in record.parameters[name]:
            parameter.requires_grad = trainable
    for bias in record.biases.values():
        bias.requires_grad = record.bias_owner in names and record.trainable[record.bias_owner]
    record.active[:] = names
    show(record, updates=names, whole=names)


def set_adapter(model: nn.Module, names: str | Sequence[str]) -> None:
    """Choose the active adapter, or several whose updates are added in this order.

    Its parameters are trainable again if they were before (see `load_adapter`); all others are frozen. Raises
    ValueError for an unknown name. While merged, it unmerges first, with a warning.
    """
    record = record_of(model)
    names = as_names(names)
    check_known(record, names)
    check_enabled(record)
    check_one_head(record, names)
    if record.merged:
        if record.merged_for_good:
            raise ValueError(
                "merged with keep_backup=False: there is no plain weight left to choose another adapter on"
            )
        warnings.warn(f"{', '.join(map(repr, record.merged))} was merged: unmerging before choosing", stacklevel=2)
        restore_pristine(record)
    _choose(record, names)


def as_names(names: str | Sequence[str]) -> list[str]:
    """One name or several as a list. Raises ValueError for none, or for the same one twice."""
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no adapter named: to run without any, use disable_adapters(model)")
    if len(set(names)) < len(names):
        raise ValueError(f"an adapter is named twice in {names}: its update would be added twice")
    return names


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model is the base model, to the bit; after it everything is as before, merged weights too.

    Raises ValueError if the adapters were merged with keep_backup=False: the base weights are gone.
    """
    record = record_of(model)
    if record.disabled:  # within another one
        yield model
        return
    check_enabled(record)
    if record.merged_for_good and record.merged:
        raise ValueError("merged with keep_backup=False: the base weights are gone, so nothing can be disabled")
    merged = [layer for layer in record.layers.values() if layer.merged]
    _swap_weights(merged)
    show(record, updates=(), whole=())
    record.disabled = True
    try:
        yield model
    finally:
        record.disabled = False
        _swap_weights(merged)
        show_current(record)


def _swap_weights(layers: list[LoraLayer]) -> None:
    for layer in layers:
        layer.base.weight.data, layer.pristine = layer.pristine, layer.base.weight.data


def delete_adapter(model: nn.Module, name: str) -> None:
    """Take adapter `name` off. Deleting the last one leaves the plain base model, unwrapped.

    If it was the only active one, the first that is left becomes active, with a warning. Raises ValueError for an
    unknown or merged adapter.
    """
    record = record_of(model)
    check_known(record, [name])
    check_enabled(record)
    if record.merged:
        raise ValueError(f"{', '.join(map(repr, record.merged))} is merged: unmerge before deleting an adapter")
    if list(record.configs) == [name]:
        unwrap(model, record, keep_trained=False)
        return
    left = [n for n in record.active if n != name]
    if not left:
        left = [next(n for n in record.configs if n != name)]
        warnings.warn(f"adapter {name!r} was the active one; {left[0]!r} is active now", stacklevel=2)
    _choose(record, left)
    if record.bias_owner == name:
        record.bias_owner, record.biases, record.hidden_biases = None, {}, []
    for path, layer in list(record.layers.items()):
        layer.remove(name)
        if not layer.scaling:
            replace_module(model, path, record.layers.pop(path).base)
    for path, module in list(record.saved.items()):
        if name in module.copies:
            del module.copies[name]
        if not module.copies:
            replace_module(model, path, record.saved.pop(path).original)
    for notes in (record.configs, record.trainable, record.scale, record.parameters):
        del notes[name]


def unwrap(model: nn.Module, record: Record, keep_trained: bool) -> nn.Module:
    """Put every original module back and forget the record.

    keep_trained: leave the whole modules and biases in place that are in use now (after a merge).
    """
    if record.biases:
        swap_biases(record, trained=keep_trained and record.biases_trained)
    for path, layer in record.layers.items():
        replace_module(model, path, layer.base.train(layer.training))
    for path, module in record.saved.items():
        kept = module.current if keep_trained else module.original
        replace_module(model, path, kept.train(module.training))
    del model.__dict__[RECORD]
    for path, parameter in model.named_parameters():
        parameter.requires_grad = record.was_trainable.get(path, parameter.requires_grad)
    return model


def set_scale(model: nn.Module, factor: float, name: str | None = None) -> None:
    """Multiply alpha / rank of adapter `name` (default: of every active one) by `factor`; 1.0 is as trained.

    It is not cumulative, and it is saved with the adapter. Raises ValueError for a factor that is not finite, an
    unknown adapter, or a merged one.
    """
    record = record_of(model)
    if record.mixed:
        check_enabled(record)
    names = list(record.active) if name is None else [name]
    check_known(record, names)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
        raise ValueError(f"the scale must be a finite number, got {factor!r}")
    merged = [n for n in names if n in record.merged]
    if merged:
        raise ValueError(f"adapter {merged[0]!r} is merged with the old scale: unmerge, set the scale, merge again")
    for n in names:
        record.scale[n] = factor
        config = scaled_config(record, n) if factor else None
        for path, layer in record.layers.items():
            if n in layer.scaling:
                layer.set_scaling(n, config.scaling(path) if config else 0.0)
