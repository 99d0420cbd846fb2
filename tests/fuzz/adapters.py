"""A small model with every kind of layer, and adapters of it as files: what is mutated."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

import peft
import torch
from torch import nn

from lora_lab.adapters import adapter_parameters, add_adapter
from lora_lab.config import LoraConfig
from lora_lab.storage import save_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Small(nn.Module):
    """An embedding, a convolution, two layers of projections with and without bias, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.conv = nn.Embedding(10, 8), nn.Conv2d(2, 3, (3, 2))
        projections = [{"q_proj": nn.Linear(8, 6), "v_proj": nn.Linear(8, 6, bias=False)} for _ in range(2)]
        self.layers = nn.ModuleList(nn.ModuleDict({"attn": nn.ModuleDict(pair)}) for pair in projections)
        self.norm, self.lm_head = nn.LayerNorm(8), nn.Linear(6, 10)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


@functools.cache
def plain() -> Small:
    """The model before any adapter, always the same. Copy it."""
    torch.manual_seed(4)
    return Small()


QV = {"target_modules": ("q_proj", "v_proj")}
CONFIGS = {
    "plain": {"rank": 3, "alpha": 6, **QV},
    "patterns": {"rank_pattern": {"v_proj": 2, "1.attn.q_proj": 4}, "alpha_pattern": {"q_proj": 5}, **QV},
    "rslora, one layer": {"use_rslora": True, "layers_to_transform": (1,), "layers_pattern": "layers", **QV},
    "embedding and convolution": {"target_modules": ("embed_tokens", "conv")},
    "regex": {"target_modules": r".*\.(q|v)_proj", "exclude_modules": r".*\.1\..*v_proj"},
    "dora": {"use_dora": True, "target_modules": ("q_proj", "conv")},
    "head and biases": {"modules_to_save": ("lm_head",), "bias": "all", **QV},
    "biases of adapted layers": {"bias": "lora_only", **QV},
}


@functools.cache
def folders() -> dict[str, dict[str, bytes]]:
    """{name: {file: bytes}} of whole adapters, one of them written by peft."""
    generator = torch.Generator().manual_seed(8)

    def trained(parameters) -> None:
        with torch.no_grad():
            for parameter in parameters:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)

    found = {}
    for name, fields in CONFIGS.items():
        torch.manual_seed(1)  # A's first values
        model = add_adapter(copy_of_plain(), LoraConfig(**{"rank": 2, "alpha": 4} | fields))
        trained(adapter_parameters(model).values())
        found[name] = _written(lambda folder, model=model: save_adapter(model, folder))
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy_of_plain(), peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
        trained(p for p in theirs.parameters() if p.requires_grad)
        found["written by peft"] = _written(theirs.save_pretrained)
    return found


def copy_of_plain() -> Small:
    """A fresh model, made without going through a deep copy's memo."""
    model = Small()
    model.load_state_dict(plain().state_dict())
    return model


def _written(save) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        return {file: (Path(folder) / file).read_bytes() for file in (CONFIG, WEIGHTS)}
