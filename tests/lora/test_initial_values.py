"""How A and B start: A Kaiming uniform and B zero; for an embedding A zero and B normal. Distributions, not draws."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from tests.lora.tiny import logits, tiny, to_peft


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
    return lambda x: ((x + bound) / (2 * bound)).clamp(0, 1)


def normal(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@pytest.fixture(scope="module")
def wide():
    torch.manual_seed(0)
    model = nn.ModuleDict({"linear": nn.Linear(500, 300), "embedding": nn.Embedding(400, 350)})
    return add_adapter(model, LoraConfig(rank=100, target_modules=("linear", "embedding")))


def test_row_16_a_linear_starts_kaiming_uniform_and_zero(wide):
    a, b = wide["linear"].matrices("default")
    bound = 1 / math.sqrt(500)  # Kaiming uniform with a = sqrt 5: sqrt(6 / ((1 + 5) * in))
    assert a.abs().max() <= bound
    assert kolmogorov_smirnov(a, uniform(bound)) > 0.05
    assert kolmogorov_smirnov(a / a.std(), normal) < 1e-6
    assert not b.any()


def test_row_16_an_embedding_starts_zero_and_normal(wide):
    a, b = wide["embedding"].matrices("default")
    assert kolmogorov_smirnov(b, normal) > 0.05
    assert kolmogorov_smirnov(b, uniform(b.abs().max().item())) < 1e-6
    assert not a.any()


def test_the_distributions_are_those_of_peft(wide):
    torch.manual_seed(1)
    model = nn.ModuleDict({"linear": nn.Linear(500, 300), "embedding": nn.Embedding(400, 350)})
    config = LoraConfig(rank=100, target_modules=("linear", "embedding"))
    its = peft.inject_adapter_in_model(to_peft(config), model)
    for mine, other in (
        (wide["linear"].matrices("default")[0], its["linear"].lora_A["default"].weight),
        (wide["embedding"].matrices("default")[1], its["embedding"].lora_embedding_B["default"]),
    ):
        assert mine.shape == other.shape
        assert mine.mean().abs() < 0.01 * mine.std() + 0.002 and abs(mine.std() / other.std() - 1) < 0.02
        ordered = other.detach().flatten().double().sort().values
        empirical = lambda x, o=ordered: torch.searchsorted(o, x, right=True).double() / len(o)  # noqa: E731
        assert kolmogorov_smirnov(mine.detach().flatten()[:5000], empirical) > 0.05


def test_row_1_an_untrained_adapter_changes_no_bit():
    for family in ("llama", "gpt2", "bert"):
        base = logits(tiny(family))
        targets = (
            ("embed_tokens", "q_proj") if family == "llama" else ("wte", "c_attn") if family == "gpt2" else "all-linear"
        )
        assert torch.equal(logits(add_adapter(tiny(family), LoraConfig(rank=2, target_modules=targets))), base)


def test_init_lora_weights_false_starts_with_a_change():
    model = add_adapter(tiny("llama"), LoraConfig(rank=2, target_modules=("q_proj",), init_lora_weights=False))
    assert not torch.equal(logits(model), logits(tiny("llama")))


def test_at_first_only_b_has_a_gradient():
    """A's gradient passes through B, which is zero."""
    layer = add_adapter(nn.Sequential(nn.Linear(6, 5)), LoraConfig(rank=2))[0]
    torch.manual_seed(0)
    layer(torch.randn(4, 6)).square().sum().backward()
    a, b = layer.matrices("default")
    assert not a.grad.any() and b.grad.abs().max() > 0


def test_the_seed_decides_the_adapter():
    drawn = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append(add_adapter(nn.Sequential(nn.Linear(6, 5)), LoraConfig(rank=2))[0].matrices("default")[0])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
