"""Whether values come from a distribution: the Kolmogorov-Smirnov test."""

from __future__ import annotations

import math

import torch


def kolmogorov_smirnov(values: torch.Tensor, cumulative) -> float:
    """The p-value of the one-sample Kolmogorov-Smirnov test (asymptotic; Marsaglia et al. 2003)."""
    ordered = values.flatten().double().sort().values
    n = len(ordered)
    expected = cumulative(ordered)
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    distance = max((ranks / n - expected).max().item(), (expected - (ranks - 1) / n).max().item())
    scaled = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101))))


def uniform(bound: float):
    """The cumulative distribution of the uniform one from -bound to bound."""
    return lambda x: ((x + bound) / (2 * bound)).clamp(0, 1)


def normal(x: torch.Tensor) -> torch.Tensor:
    """The cumulative standard normal distribution."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))
