"""What is on a model: its adapters, their parameters, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lora_lab.config import LoraConfig
from lora_lab.record import RECORD, check_known, own_parameters, record_of


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model with adapters; each is counted once, however many modules share it. (VeRA's A and B are
    views into shared ones, a parameter of each layer, and counted at each.)

    base: the model without them. adapter: A and B of every adapter. head: whole copies of `modules_to_save`.
    trainable: what an optimizer would change now. share_of_base: adapter / base. share_of_total: trainable / total.
    """

    total: int
    base: int
    adapter: int
    head: int
    trainable: int

    @property
    def share_of_base(self) -> float:
        return self.adapter / self.base

    @property
    def share_of_total(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        head = f" and {self.head:,} in modules saved whole" if self.head else ""
        return (
            f"{self.trainable:,} of {self.total:,} parameters are trainable ({self.share_of_total:.2%}): the adapters "
            f"have {self.adapter:,}{head}, the base {self.base:,}"
        )


@dataclass(frozen=True)
class Status:
    """The state of a model's adapters. layers: {adapter: number of layers}; ranks: {adapter: its ranks, ascending}."""

    adapters: tuple[str, ...]
    active: tuple[str, ...]
    merged: tuple[str, ...]
    enabled: bool
    layers: dict[str, int]
    ranks: dict[str, tuple[int, ...]]
    scale: dict[str, float]
    trainable: dict[str, bool]
    dtype: dict[str, str]

    def __str__(self) -> str:
        if not self.adapters:
            return "no adapter: the plain model"
        lines = [] if self.enabled else ["adapters are disabled: the model is its base now"]
        for name in self.adapters:
            state = [
                "merged" if name in self.merged else "active" if name in self.active else "not active",
                "trainable" if self.trainable[name] else "frozen",
                f"rank {', '.join(map(str, self.ranks[name]))}",
                f"{self.layers[name]} layers",
                self.dtype[name],
            ]
            if self.scale[name] != 1:
                state.append(f"scaled by {self.scale[name]:g}")
            lines.append(f"{name}: {', '.join(state)}")
        return "\n".join(lines)


def status(model: nn.Module) -> Status:
    """Which adapters the model has, which are active, merged, trainable, and on how many layers. Plain models too."""
    record = model.__dict__.get(RECORD)
    if record is None:
        return Status((), (), (), True, {}, {}, {}, {}, {})
    layers = {n: [m for m in record.layers.values() if n in m.scaling] for n in record.configs}
    parameters = {n: record.parameters[n] for n in record.configs}
    return Status(
        adapters=tuple(record.configs),
        active=tuple(record.active),
        merged=tuple(record.merged),
        enabled=not record.disabled,
        layers={n: len(found) for n, found in layers.items()},
        ranks={n: tuple(sorted({m.rank[n] for m in found})) for n, found in layers.items()},
        scale=dict(record.scale),
        trainable={n: any(p.requires_grad for p in found) for n, found in parameters.items()},
        dtype={n: str(parameters[n][0].dtype).removeprefix("torch.") for n in record.configs},
    )


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the base, the adapters, whole saved modules and what is trainable. Plain models too."""
    record = model.__dict__.get(RECORD)
    adapter: dict[int, int] = {}
    head: dict[int, int] = {}
    if record is not None:
        for layer in record.layers.values():
            for name in layer.scaling:
                adapter |= {id(p): p.numel() for p in layer.matrices(name)}
            adapter |= {id(p): p.numel() for p in layer.variants.parameters()}
        for module in record.saved.values():
            head |= {id(p): p.numel() for p in module.copies.parameters()}
    everything = list(model.parameters())
    total = sum(p.numel() for p in everything)
    in_adapter, in_head = sum(adapter.values()), sum(head.values())
    return ParameterCount(
        total=total,
        base=total - in_adapter - in_head,
        adapter=in_adapter,
        head=in_head,
        trainable=sum(p.numel() for p in everything if p.requires_grad),
    )


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What to give to an optimizer. Raises ValueError, saying why, where there is nothing to train."""
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        record = record_of(model)
        named = ", ".join(map(repr, record.active))
        raise ValueError(
            f"nothing here is trainable: adapter {named} was loaded frozen. To go on training, load it with "
            "trainable=True"
        )
    return found


def get_config(model: nn.Module, name: str = "default") -> LoraConfig:
    """The configuration that adapter `name` was made with."""
    record = record_of(model)
    check_known(record, [name])
    return record.configs[name]


def adapter_names(model: nn.Module) -> list[str]:
    """Names of all adapters, in the order in which they were added; empty for a plain model."""
    record = model.__dict__.get(RECORD)
    return list(record.configs) if record else []


def adapter_parameters(model: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """{path: parameter} of adapter `name` (default: of the active ones): A, B, whole modules, trained biases."""
    record = record_of(model)
    names = record.active if name is None else [name]
    check_known(record, names)
    found = {}
    for n in names:
        found |= {(p if len(names) == 1 else f"{n}:{p}"): q for p, q in own_parameters(record, n).items()}
        if record.bias_owner == n:
            found |= record.biases
    return found
