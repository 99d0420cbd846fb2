"""How A and B start, beside the distributions that tests/conformance checks."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from tests.lora.distributions import kolmogorov_smirnov
from tests.lora.tiny import logits, tiny, to_peft


@pytest.fixture(scope="module")
def wide():
    torch.manual_seed(0)
    model = nn.ModuleDict({"linear": nn.Linear(500, 300), "embedding": nn.Embedding(400, 350)})
    return add_adapter(model, LoraConfig(rank=100, target_modules=("linear", "embedding")))


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
