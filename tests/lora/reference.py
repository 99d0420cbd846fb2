"""A model with a layer of every kind, and what it should compute, from tensors alone in float64.

An adapter is its configuration and its values, {path.A, path.B, path.magnitude, path.a0, path.b0: tensor}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_lab.config import LoraConfig
from lora_lab.record import own_parameters, record_of

PATHS = ("embedding", "convolution", "conv1d", "linear")
MATRICES = ("conv1d", "linear")  # of linear layers: PiSSA's
IDS = torch.randint(0, 7, (4, 6), generator=torch.Generator().manual_seed(1))


class EveryKind(nn.Module):
    """Token ids [4, 6] -> embedding -> convolution over (token, dim) -> Conv1D -> linear -> [4, 6, 4]."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(7, 6)
        self.convolution = nn.Conv2d(1, 3, 3, padding=2, dilation=2, padding_mode="circular")
        self.conv1d, self.linear = Conv1D(5, 6), nn.Linear(5, 4)
        nn.init.normal_(self.conv1d.weight, std=0.4)
        self.to(dtype).eval()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.convolution(self.embedding(ids)[:, None]).mean(1)
        return self.linear(torch.tanh(self.conv1d(x)))


def expected(weights: Mapping[str, Tensor]) -> Tensor:
    """The outputs of an `EveryKind` with these weights and biases, in float64."""
    w = {n: t.detach().double() for n, t in weights.items()}
    x = F.embedding(IDS, w["embedding.weight"])[:, None]
    x = F.pad(x, (2, 2, 2, 2), mode="circular")
    x = F.conv2d(x, w["convolution.weight"], w["convolution.bias"], dilation=2).mean(1)
    x = torch.tanh(x @ w["conv1d.weight"] + w["conv1d.bias"])
    return x @ w["linear.weight"].T + w["linear.bias"]


@dataclass
class Adapter:
    """What an adapter is. scale: set_scale's factor."""

    config: LoraConfig
    values: dict[str, Tensor]
    scale: float = 1.0
    trainable: bool = True

    @property
    def paths(self) -> list[str]:
        return [p for p in PATHS if f"{p}.A" in self.values]

    @property
    def is_plain(self) -> bool:
        """Whether it is plain LoRA."""
        return not self.config.use_dora and self.config.init_lora_weights != "pissa"

    def rank(self, path: str) -> int:
        return len(self.values[f"{path}.A"])

    def delta(self, path: str, weight: Tensor) -> Tensor:
        """The change of `weight` at `path`, in float64: the papers' formulas, with the weight as [out, in]."""
        value = {k.rpartition(".")[2]: v.double() for k, v in self.values.items() if k.startswith(f"{path}.")}
        rank = value["A"].shape[0]
        scaling = self.config.alpha_for(path) * self.scale / (rank**0.5 if self.config.use_rslora else rank)
        product = scaling * value["B"].flatten(1) @ value["A"].flatten(1)
        as_rows = weight.double().T if path in ("embedding", "conv1d") else weight.double().flatten(1)
        if "magnitude" in value:
            moved = as_rows + product
            product = value["magnitude"].view(-1, 1) * moved / moved.norm(dim=1, keepdim=True) - as_rows
        if "a0" in value:
            product = product - scaling * value["b0"] @ value["a0"]
        return (product.T if path in ("embedding", "conv1d") else product).reshape(weight.shape)


def values_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A copy of adapter `name`'s values."""
    return {key: tensor.detach().clone() for key, tensor in _places(model, name).items()}


def write_values(model: nn.Module, name: str, values: Mapping[str, Tensor]) -> None:
    """Put `values` into adapter `name`."""
    with torch.no_grad():
        for key, tensor in _places(model, name).items():
            tensor.copy_(values[key])


def _places(model: nn.Module, name: str) -> dict[str, Tensor]:
    record = record_of(model)
    found = dict(own_parameters(record, name))
    for path, layer in record.layers.items():
        if name in layer.variants:
            found |= {f"{path}.{n}": b for n, b in layer.variants[name].named_buffers()}
    return found


def read(folder: Path) -> Adapter:
    """The adapter in a folder, read by hand."""
    content = json.loads((folder / "adapter_config.json").read_text())
    values = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        path, _, what = key.removeprefix("base_model.model.").partition(".lora_")
        what = {"magnitude_vector": "magnitude"}.get(what) or what.removeprefix("embedding_")[0]
        values[f"{path}.{what}"] = tensor.flatten() if what == "magnitude" else tensor
    config = LoraConfig(
        rank=content["r"],
        alpha=content["lora_alpha"],
        target_modules=content["target_modules"],
        rank_pattern=content["rank_pattern"],
        alpha_pattern=content["alpha_pattern"],
        use_rslora=content["use_rslora"],
        use_dora=content["use_dora"],
        patterns_in_order=True,
    )
    return Adapter(config, values, trainable=False)
