r"""Several adapters in one: the weighted sum of their updates, exact or cut to a smaller rank.

.. math:: \sum_i w_i s_i B_i A_i = [\,w_1 s_1 B_1 \;\cdots\; w_n s_n B_n\,]\,[A_1; \cdots; A_n]

Concatenation is exact, at the sum of the ranks. Its best approximation of rank k (Eckart and Young 1936) comes from
the singular values of a small core, through QR of the two thin factors: no [out, in] matrix is ever made. Averaging
A and B apart is another thing altogether: (A1 + A2) and (B1 + B2) multiply to B1 A1 + B2 A2 and two cross terms.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_lab.adapters import install
from lora_lab.config import LoraConfig, did_you_mean
from lora_lab.matching import find_targets, shortest_names
from lora_lab.record import Record, check_enabled, check_known, check_name, record_of

METHODS = ("exact", "linear")


@dataclass(frozen=True)
class Combined:
    """What `combine` made. error: Frobenius norm of what was lost over that of the exact sum, all layers together.

    errors and ranks: the same error, and the rank, by layer.
    """

    name: str
    error: float
    errors: dict[str, float]
    ranks: dict[str, int]

    def __str__(self) -> str:
        ranks = sorted(set(self.ranks.values()))
        span = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
        return f"{self.name!r}: {len(self.ranks)} layers of rank {span}, relative error {self.error:.3g}"


def combine(
    model: nn.Module, weights: Mapping[str, float], name: str, rank: int | None = None, method: str = "exact"
) -> Combined:
    """Add adapter `name`, whose update is the sum of `weights[other]` times each other's, and make it the active one.

    The scaling of each adapter, `set_scale` included, is part of its update; the new adapter's scaling is 1. A layer's
    rank is the sum of the ranks there, or min(out, in) where that is less. rank: at most this, by the best
    approximation; its error is printed. method="linear": average A and B apart, as peft's "linear" does, and warn with
    the error. Adapters may sit on different layers. PiSSA and VeRA count as the plain LoRA they come to.

    Raises ValueError, and changes nothing, for a name that is taken, an unknown adapter, weights that are not finite
    or all 0, DoRA, adapters with whole saved modules or biases, and, for "linear", unequal ranks.
    """
    record = record_of(model)
    check_enabled(record)
    check_name(name)
    weights = _checked(record, weights, name, rank, method)
    made, lost, whole = {}, {}, {}
    for path, layer in record.layers.items():
        parts = [(w, *layer.folded(n), float(layer.scaling[n])) for n, w in weights.items() if layer.has(n)]
        if parts:
            made[path], lost[path], whole[path] = _one_layer(path, parts, rank, method)
    install(model, _config(model, made), name, trainable=True, strict=True)
    with torch.no_grad():
        for path, matrices in made.items():
            for parameter, values in zip(record.layers[path].matrices(name), matrices, strict=True):
                parameter.copy_(values.view(parameter.shape))
    result = Combined(
        name,
        _share(math.hypot(*lost.values()), math.hypot(*whole.values())),
        {path: _share(lost[path], whole[path]) for path in made},
        {path: len(a) for path, (a, _) in made.items()},
    )
    if method == "linear":
        warnings.warn(
            f"A and B were averaged apart, which adds cross terms: the update is {result.error:.0%} off the sum of the "
            'updates (relative, Frobenius). method="exact" has no such error.',
            stacklevel=2,
        )
    elif rank is not None:
        print(result)
    return result


def _checked(record: Record, weights: Mapping[str, float], name: str, rank: int | None, method: str) -> dict:
    """The weights that are not 0. Raises ValueError or TypeError for what cannot be combined."""
    if name in record.configs:
        raise ValueError(f"adapter {name!r} exists already: choose another name, or delete_adapter first")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: exact or linear.{did_you_mean(str(method), METHODS)}")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank must be a whole number from 1 on, or None for the exact sum, got {rank!r}")
    if rank is not None and method == "linear":
        raise ValueError("method='linear' keeps the adapters' own rank: leave rank out")
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must map adapters to numbers, like {{'a': 0.5, 'b': 0.5}}, got {weights!r}")
    check_known(record, list(weights))
    for other, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ValueError(f"the weight of {other!r} must be a finite number, got {weight!r}")
    weights = {n: w for n, w in weights.items() if w}
    if not weights:
        raise ValueError("no adapter has a weight other than 0: there is nothing to combine")
    for other in weights:
        if saved := [p for p, module in record.saved.items() if other in module.copies]:
            raise ValueError(f"adapter {other!r} brings its own whole '{saved[0]}', which is no low-rank update to add")
        if record.bias_owner == other:
            raise ValueError(f"adapter {other!r} trains biases, which are no low-rank update to add")
        for path, layer in record.layers.items():
            if other in layer.scaling and layer.folded(other) is None:
                kind = type(layer.variants[other]).__name__
                raise ValueError(
                    f"adapter {other!r} is {kind} at '{path}': it also rescales the rows of W by lengths that depend "
                    "on all of W + sBA, so its change is no product of two thin matrices that could be added"
                )
    return weights


@torch.no_grad()
def _one_layer(path: str, parts: list, rank: int | None, method: str) -> tuple:
    """(A [rank, in], B [out, rank]) of the sum; the norm of what is lost; the exact sum's (0: not asked for)."""
    all_a = torch.cat([a.flatten(1) for _, a, _, _ in parts])
    all_b = torch.cat([b.flatten(1) * (w * s) for w, _, b, s in parts], dim=1)
    if not torch.isfinite(all_a).all() or not torch.isfinite(all_b).all():
        raise ValueError(f"an adapter has values at '{path}' that are not finite (NaN or infinity)")
    if method == "linear":
        if len(ranks := {len(a) for _, a, _, _ in parts}) > 1:
            raise ValueError(f"method='linear' needs equal ranks; at '{path}' they are {sorted(ranks)}")
        a = sum(a.flatten(1) * math.copysign(math.sqrt(abs(w * s)), w * s) for w, a, _, s in parts)
        b = sum(b.flatten(1) * math.sqrt(abs(w * s)) for w, _, b, s in parts)
        off = _core(torch.cat([a, all_a]), torch.cat([b, -all_b], dim=1))[1]
        return (a, b), off.norm().item(), _core(all_a, all_b)[1].norm().item()
    wanted = min(rank or len(all_a), *all_a.shape, len(all_b))
    if rank is None and wanted == len(all_a):
        return (all_a, all_b), 0.0, 0.0
    (left, right), core = _core(all_a, all_b)
    if wanted == len(all_a):
        return (all_a, all_b), 0.0, core.norm().item()
    u, values, v = torch.linalg.svd(core, full_matrices=False)
    root = values[:wanted].sqrt()
    a, b = (root[:, None] * v[:wanted]) @ right.T, left @ (u[:, :wanted] * root)
    return (a, b), values[wanted:].norm().item(), values.norm().item()


def _core(a: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Orthonormal (left [out, p], right [in, q]) and core [p, q] with B A = left core right.T, in float64."""
    left, upper = torch.linalg.qr(b.double())
    right, lower = torch.linalg.qr(a.double().T)
    return (left, right), upper @ lower.T


def _share(lost: float, whole: float) -> float:
    return lost / whole if whole else 0.0


def _config(model: nn.Module, made: dict) -> LoraConfig:
    """The configuration of exactly these layers and ranks, with the scaling 1 everywhere."""
    ranks = {path: len(a) for path, (a, _) in made.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # Every path, the longest first: one that ends like another meets its own entry before the other's.
    pattern = {p: ranks[p] for p in sorted(ranks, key=len, reverse=True)} if len(set(ranks.values())) > 1 else {}
    config = LoraConfig(
        usual,
        usual,
        target_modules=shortest_names(model, list(made)),
        rank_pattern=pattern,
        alpha_pattern=pattern,
        patterns_in_order=True,
    )
    if find_targets(model, config)[0].keys() == made.keys():
        return config
    return replace(config, target_modules="|".join(map(re.escape, made)))  # a path ends like one that is not adapted
