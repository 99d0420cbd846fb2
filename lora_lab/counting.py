"""Parameters and bytes of LoRA, as exact arithmetic: no torch, nothing measured, every number can be redone by hand."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

ALL_LINEAR = "all-linear"


def check_rank(rank: int) -> int:
    """Return `rank` if it is an int of at least 1; raise ValueError naming the value if not."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"rank must be a whole number such as 8, got {rank!r}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return rank


def lora_parameters(out_features: int, in_features: int, rank: int) -> int:
    """Trainable parameters of one adapter: A is [rank, in], B is [out, rank].

    >>> lora_parameters(4096, 4096, rank=8)
    65536

    Raises ValueError if rank < 1. Source: Hu et al. 2021, section 4.1.
    """
    return check_rank(rank) * (in_features + out_features)


def break_even_rank(out_features: int, in_features: int) -> int:
    """The largest rank at which an adapter is still no larger than the matrix [out, in] that it corrects.

    >>> break_even_rank(4096, 4096)
    2048
    >>> lora_parameters(4096, 4096, 2048) == 4096 * 4096
    True
    """
    return out_features * in_features // (out_features + in_features)


@dataclass(frozen=True)
class Matrix:
    """`count` matrices [out, in] of one size, one in each layer; "{}" in the path stands for the layer's number."""

    path: str
    out_features: int
    in_features: int
    count: int = 1
    bias: bool = False

    @property
    def name(self) -> str:
        """The path's last part, which is what target names name."""
        return self.path.rpartition(".")[2]

    @property
    def parameters(self) -> int:
        """Of all of them, biases included."""
        return self.count * self.out_features * (self.in_features + self.bias)


class Model(Protocol):
    """What has its linear layers as `matrices`: a `shapes.Shape`."""

    matrices: tuple[Matrix, ...]


Targets = str | Sequence[str]
Matrices = Model | Iterable[Matrix]


def chosen(model: Matrices, targets: Targets = ALL_LINEAR) -> list[Matrix]:
    """The matrices that `targets` name, in the model's order.

    targets: last names ("q_proj") or longer endings ("mlp.c_proj"), as a list or with commas between them, or
    "all-linear": every linear layer except the output head, as in peft. Raises ValueError for a name that is not there.
    """
    matrices = list(getattr(model, "matrices", model))
    if targets == ALL_LINEAR:
        return matrices
    wanted = [name.strip() for name in targets.split(",")] if isinstance(targets, str) else list(targets)
    for target in wanted:
        if not any(_ends_in(m.path, target) for m in matrices):
            there = list(dict.fromkeys(m.name for m in matrices))
            near = difflib.get_close_matches(target, there, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no matrix is called {target!r}. Names in this model: {', '.join(there)}.{hint}")
    return [m for m in matrices if any(_ends_in(m.path, target) for target in wanted)]


def _ends_in(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def lora(model: Matrices, rank: int, targets: Targets = ALL_LINEAR) -> int:
    """Trainable parameters of an adapter on the `targets` of a model or of a list of matrices (see `chosen`).

    >>> from lora_lab import shapes
    >>> lora(shapes.known("Llama-2-7B"), 8, "q_proj,v_proj")
    4194304
    """
    return sum(m.count * lora_parameters(m.out_features, m.in_features, rank) for m in chosen(model, targets))


def share_of_base(adapter: int, base: int) -> float:
    """Adapter over the model without it: 4,194,304 of 6,738,415,616 are 0.06224 %."""
    return adapter / base


def share_of_total(adapter: int, base: int) -> float:
    """Adapter over all there is, itself included, as peft prints it: 4,194,304 of 6,742,609,920 are 0.06221 %."""
    return adapter / (base + adapter)


def break_even(model: Matrices, targets: Targets = ALL_LINEAR) -> int:
    """The largest rank at which an adapter on all of `targets` is no larger than those matrices together."""
    matrices = chosen(model, targets)
    whole = sum(m.count * m.out_features * m.in_features for m in matrices)
    return whole // sum(m.count * (m.out_features + m.in_features) for m in matrices)


# safetensors writes 8 bytes with the header's size, the header as JSON padded to a multiple of 8, then the numbers.
_DTYPES = {4: "F32", 2: "BF16"}


def adapter_bytes(model: Matrices, rank: int, targets: Targets = ALL_LINEAR, bytes_per_number: int = 4) -> int:
    """Size of adapter_model.safetensors in the PEFT format, header included; 2 bytes per number is bfloat16.

    >>> adapter_bytes([Matrix("0", 4096, 4096)], 8) - 4 * lora_parameters(4096, 4096, 8)
    240
    """
    sizes = {}
    for m in chosen(model, targets):
        for layer in range(m.count):
            key = f"base_model.model.{m.path.replace('{}', str(layer))}"
            sizes[f"{key}.lora_A.weight"] = [check_rank(rank), m.in_features]
            sizes[f"{key}.lora_B.weight"] = [m.out_features, rank]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in sorted(sizes):
        start, end = end, end + sizes[key][0] * sizes[key][1] * bytes_per_number
        header[key] = {"dtype": _DTYPES[bytes_per_number], "shape": sizes[key], "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-text // 8) * 8 + end
