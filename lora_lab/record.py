"""The record that `add_adapter` leaves on a model: which adapters there are, where, and in what state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lora_lab.config import LoraConfig, did_you_mean
from lora_lab.layers import LoraLayer, SavedModule

RECORD = "_lora_lab"


@dataclass
class Record:
    """What `add_adapter` did to a model. Paths are those of the model before any adapter."""

    was_trainable: dict[str, bool]
    configs: dict[str, LoraConfig] = field(default_factory=dict)
    trainable: dict[str, bool] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    layers: dict[str, LoraLayer] = field(default_factory=dict)
    saved: dict[str, SavedModule] = field(default_factory=dict)
    groups: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # {adapters of a layer: its active ones}
    parameters: dict[str, list[nn.Parameter]] = field(default_factory=dict)
    biases: dict[str, nn.Parameter] = field(default_factory=dict)  # trained ones by path, tied ones under each path
    hidden_biases: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)  # the values not in the model now
    biases_trained: bool = True  # whether the model shows the trained values
    bias_owner: str | None = None
    merged_for_good: bool = False
    disabled: bool = False
    mixed: bool = False  # within mixed_batch

    @property
    def merged(self) -> list[str]:
        """Adapters whose update is inside some layer's weight now."""
        return list(dict.fromkeys(name for layer in self.layers.values() for name in layer.merged))


def record_of(model: nn.Module) -> Record:
    """The model's record. Raises ValueError where no adapter was added to this very module."""
    record = model.__dict__.get(RECORD)
    if record is None:
        inside = next((p for p, m in model.named_modules() if isinstance(m, (LoraLayer, SavedModule))), None)
        hint = f" ('{inside}' is adapted: pass the module that add_adapter was given)" if inside else ""
        raise ValueError(f"this {type(model).__name__} has no adapter{hint}. Call add_adapter or load_adapter first.")
    return record


def check_enabled(record: Record) -> None:
    """Raises RuntimeError within `disable_adapters` and `mixed_batch`."""
    if record.mixed:
        raise RuntimeError("a mixed batch is open: leave mixed_batch first")
    if record.disabled:
        raise RuntimeError("adapters are disabled here: leave disable_adapters first")


def check_known(record: Record, names: Sequence[str]) -> None:
    """Raises ValueError naming the first unknown adapter and listing those there are."""
    for name in names:
        if name not in record.configs:
            known = ", ".join(map(repr, record.configs))
            raise ValueError(f"no adapter {name!r}. Adapters here: {known}.{did_you_mean(str(name), record.configs)}")


def check_one_head(record: Record, names: Sequence[str]) -> None:
    """Raises ValueError if two of the adapters bring a whole module for the same place."""
    for path, module in record.saved.items():
        several = [n for n in names if n in module.copies]
        if len(several) > 1:
            raise ValueError(
                f"{', '.join(map(repr, several))} each bring their own whole '{path}': choose one of them at a time"
            )


def check_name(name: object) -> None:
    """Raises ValueError for a name that cannot be a key of a module and a folder."""
    rule = "an adapter's name is a non-empty string of printable characters without dot or slash"
    if not isinstance(name, str) or not name or not name.isprintable() or any(c in name for c in "./\\"):
        raise ValueError(f"adapter name {name!r}: {rule}")
    if name in ("lora", "lora_"):
        raise ValueError(f"adapter name {name!r} would be confused with peft's 'lora_' parameter names: choose another")
    if hasattr(nn.ModuleDict, name) or name in nn.ModuleDict().__dict__:
        raise ValueError(f"adapter name {name!r} is a method of torch.nn.Module: choose another")


def own_parameters(record: Record, name: str) -> dict[str, nn.Parameter]:
    """Adapter `name`'s own parameters by path; its trained biases are the base's and come apart."""
    found = {}
    for path, layer in record.layers.items():
        if name in layer.scaling:
            found[f"{path}.A"], found[f"{path}.B"] = layer.matrices(name)
            if name in layer.variants:
                found |= {f"{path}.{n}": p for n, p in layer.variants[name].named_parameters()}
    for path, module in record.saved.items():
        if name in module.copies:
            found |= {f"{path}.{n}": p for n, p in module.copies[name].named_parameters()}
    return found


def restore_pristine(record: Record) -> None:
    """Put every kept weight back: the very tensor, so nothing is rounded."""
    for layer in record.layers.values():
        if layer.merged:
            layer.base.weight.data, layer.pristine = layer.pristine, None
            layer.merged.clear()
    show_current(record)


def show_current(record: Record) -> None:
    """Let the model compute what the record says: what is merged, or else what is active."""
    merged = record.merged
    show(record, updates=() if merged else record.active, whole=merged or record.active)


def regroup(record: Record) -> None:
    """Let all layers that have the same adapters share one `active` list: to switch is to change that one list."""
    record.groups = {}
    for layer in record.layers.values():
        layer.active = record.groups.setdefault(tuple(layer.scaling), [])


def show(record: Record, updates: Sequence[str], whole: Sequence[str]) -> None:
    """Let the layers add the updates of `updates`, and use the whole modules and the biases of `whole`."""
    for names, active in record.groups.items():
        active[:] = [n for n in updates if n in names]
    for module in record.saved.values():
        module.active[:] = [n for n in whole if n in module.copies]
    if record.biases:
        swap_biases(record, trained=record.bias_owner in whole)


def swap_biases(record: Record, trained: bool) -> None:
    """Put the trained biases, or the original ones, into the model; the others are kept by pointer."""
    if record.biases_trained != trained:
        shown = [bias.data for bias, _ in record.hidden_biases]
        for bias, other in record.hidden_biases:
            bias.data = other
        record.hidden_biases = [(b, kept) for (b, _), kept in zip(record.hidden_biases, shown, strict=True)]
        record.biases_trained = trained


def scaled_config(record: Record, name: str) -> LoraConfig:
    """The adapter's configuration with `set_scale`'s factor inside alpha: what is saved."""
    config, factor = record.configs[name], record.scale[name]
    if factor == 1:
        return config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a negative alpha was asked for
        return replace(
            config,
            alpha=config.alpha * factor,
            alpha_pattern={k: v * factor for k, v in config.alpha_pattern.items()},
            patterns_in_order=True,
        )


def finite(*tensors: Tensor) -> bool:
    """Whether every entry is finite: one pass, by a sum, and a second only if the sum overflowed."""
    return all(bool(torch.isfinite(t.sum())) or bool(torch.isfinite(t).all()) for t in tensors)
