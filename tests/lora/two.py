"""A model of two linear layers, and what a bad call must do: raise, say why, and leave the model as it was."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.record import record_of
from tests.lora.tiny import randomize, same, snapshot


class Two(nn.Module):
    """lin0 -> relu -> lin1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lin0, self.relu, self.lin1 = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)

    def forward(self, x):
        return self.lin1(self.relu(self.lin0(x)))


X = torch.linspace(-1, 1, 48).view(3, 16)


def refused(call, model: nn.Module, match: str, error: type[Exception] = ValueError) -> None:
    """`call` raises, its message matches, and the model is as before."""
    before = snapshot(model)
    with pytest.raises(error, match=match):
        call()
    assert same(before, snapshot(model))


def with_adapter(config: LoraConfig | None = None, name: str = "default") -> nn.Module:
    return randomize(add_adapter(Two(), config or LoraConfig(rank=2)), name)


def plain_warnings(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught]


def break_one(model: nn.Module, path: str = "lin1") -> None:
    with torch.no_grad():
        record_of(model).layers[path].matrices("default")[1][0, 0] = float("nan")
