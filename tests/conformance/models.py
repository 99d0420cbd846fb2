"""What every property is tried on: a small model of two layers of one kind, in one dtype, and an adapter's variant."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_lab.config import LoraConfig
from tests.lora.tiny import tiny, tokens

KINDS = ("Linear", "Conv1D", "Embedding", "Conv2d")
WHOLE = {"Llama": ("q_proj", "down_proj"), "GPT-2": ("c_attn", "c_fc")}  # whole models, in float32, and their targets
DTYPES = ("float32", "bfloat16", "float16")
VARIANTS = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
}
ROWS = 6  # of the input


class Chain(nn.Module):
    """first -> tanh -> second -> head."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.second(torch.tanh(self.first(x))).flatten(1))


class Lookup(Chain):
    """first + second of the same tokens -> head."""

    def forward(self, x):
        return self.head(torch.tanh(self.first(x) + self.second(x)).flatten(1))


class Logits(nn.Module):
    """A language model's logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, use_cache=False).logits


@functools.cache
def built(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """(model, input) of a kind, in float32: the same weights each time."""
    torch.manual_seed(2)
    x = torch.randn(ROWS, 10)
    if kind == "Linear":
        model = Chain(nn.Linear(10, 12), nn.Linear(12, 8), 8)
    elif kind == "Conv1D":
        model = Chain(Conv1D(12, 10), Conv1D(8, 12), 8)
        for layer in (model.first, model.second):
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.normal_(layer.bias, std=0.2)
    elif kind == "Embedding":
        model, x = Lookup(nn.Embedding(11, 8), nn.Embedding(11, 8), 24), torch.randint(0, 11, (ROWS, 3))
    elif kind in WHOLE:
        model, x = Logits(tiny(kind.lower().replace("-", ""))), tokens(ROWS)
    else:
        model = Chain(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, stride=2, padding=1), 24)
        x = torch.randn(ROWS, 3, 4, 4)
    return model.eval(), x


@dataclass(frozen=True)
class Case:
    """One cell's subject: a kind of layer, a dtype of the base, a variant of the adapter."""

    kind: str = "Linear"
    dtype: str = "float32"
    variant: str = "plain"

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype} {self.variant}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def model(self) -> nn.Module:
        """A fresh plain model, in eval mode."""
        return copy.deepcopy(built(self.kind)[0]).to(self.torch_dtype)

    @property
    def x(self) -> torch.Tensor:
        x = built(self.kind)[1]
        return x.to(self.torch_dtype) if x.is_floating_point() else x

    def config(self, rank: int = 3, alpha: float = 4, targets: tuple[str, ...] | None = None, **fields):
        """An adapter of this variant, on both layers. rank and alpha make a scaling that is not 1."""
        targets = targets or WHOLE.get(self.kind, ("first", "second"))
        return LoraConfig(rank=rank, alpha=alpha, target_modules=targets, **VARIANTS[self.variant], **fields)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest t for which allclose(a, b, atol=t, rtol=t) holds: NaN and another shape give infinity."""
    if a.shape != b.shape:
        return float("inf")
    apart = (a.double() - b.double()).abs() / (1 + b.double().abs())
    return apart.nan_to_num(nan=float("inf")).max().item()


def torch_can_run(case: Case) -> bool:
    """Whether this CPU runs the plain model in this dtype."""
    try:
        case.model()(case.x)
    except RuntimeError:
        return False
    return True
