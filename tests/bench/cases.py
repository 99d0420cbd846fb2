"""What is measured: the same weights and adapter in peft and here, and one case per operation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from lora_lab.adapters import add_adapter, delete_adapter, set_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, unmerge
from lora_lab.storage import load_adapter, save_adapter
from tests.bench.timing import Steps

RANK, ALPHA, TARGETS = 8, 16, r"\d+"


@dataclass(frozen=True)
class Case:
    """Sides to time; the last is what the others are measured against. rows: {name of a row: the parts it sums}."""

    size: str
    sides: Mapping[str, Steps]
    rows: Mapping[str, tuple[str, ...]]


def pair(
    size: int,
    layers: int = 1,
    dtype: torch.dtype = torch.float32,
    names: Sequence[str] = ("default", "second"),
    **more,
) -> tuple[nn.Module, nn.Module]:
    """A stack of square layers with the same non-zero adapters `names`, the first active, here and in peft."""
    torch.manual_seed(0)
    ours = nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(layers))).to(dtype)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, **more)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter name")  # 'a' is part of 'lora_'
        theirs = peft.get_peft_model(copy.deepcopy(ours), config, names[0])
    for name in names[1:]:
        theirs.add_adapter(name, copy.deepcopy(config))
    for name in names:
        add_adapter(ours, LoraConfig(rank=RANK, alpha=ALPHA, target_modules=TARGETS, **more), name)
        with torch.no_grad():
            for mine, its in zip(ours, theirs.base_model.model, strict=True):
                nn.init.normal_(mine.B[name].weight, std=0.02)
                its.lora_A[name].weight.copy_(mine.A[name].weight)
                its.lora_B[name].weight.copy_(mine.B[name].weight)
    set_adapter(ours, names[0])
    return ours, theirs


def single(size: int, **more) -> tuple[nn.Module, nn.Module]:
    """One adapted layer here and in peft over the very same W, so that where it lies in memory favours neither."""
    ours, theirs = pair(size, **more)
    mine, its = ours[0], theirs.base_model.model[0]
    mine.base.weight.data = its.base_layer.weight.data
    x = torch.randn(4, size)
    if not torch.allclose(mine(x), its(x), rtol=1e-5 if more else 0, atol=1e-5 if more else 0):
        raise RuntimeError("the two layers do not compute the same, so their times cannot be compared")
    return mine, its


def training_step(size: int, tokens: int, setting: str, **more) -> Case:
    """Forward and backward of one layer. Only the first layer of a network needs no gradient of its input."""

    def side(layer: nn.Module) -> Steps:
        adam = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=1e-5)
        own_x = x.clone().requires_grad_(setting != "first layer")

        def step() -> None:
            own_x.grad = None
            adam.zero_grad()
            layer(own_x).backward(gradient)
            if setting == "with AdamW":
                adam.step()

        return [("step", step)]

    mine, its = single(size, **more)
    x, gradient = torch.randn(2, tokens, size)
    return Case(f"d={size}", {"ours": side(mine), "peft": side(its)}, {f"training step, {setting}": ("step",)})


def inference(size: int, tokens: int, merged: bool) -> Case:
    """The forward alone: merged against the plain layer, unmerged against peft."""
    mine, its = single(size)
    against, row = "peft", "unmerged inference"
    if merged:
        model, _ = pair(size)
        mine, its = model[0], copy.deepcopy(model[0].base)
        merge(model)
        against, row = "plain", "merged inference"
    x = torch.randn(tokens, size)
    forward = torch.inference_mode()(lambda layer: layer(x))
    sides = {"ours": [("forward", lambda: forward(mine))], against: [("forward", lambda: forward(its))]}
    return Case(f"d={size}", sides, {row: ("forward",)})


def merging(size: int, safe: bool) -> Case:
    """Merge and unmerge in turn; safe: peft's safe_merge, which like ours looks for NaN first."""
    ours, theirs = pair(size)
    sides = {
        "ours": [("merge", lambda: merge(ours)), ("unmerge", lambda: unmerge(ours))],
        "peft": [("merge", lambda: theirs.merge_adapter(safe_merge=safe)), ("unmerge", theirs.unmerge_adapter)],
    }
    rows = {"merge": ("merge",), "unmerge": ("unmerge",), "merge + exact unmerge": ("merge", "unmerge")}
    return Case(f"d={size}", sides, {"merge (peft: safe_merge)": ("merge",)} if safe else rows)


def switching(size: int, layers: int) -> Case:
    """From one adapter to the other and back."""

    def side(switch: Callable[[str], None]) -> Steps:
        return [("switch", lambda: switch("second")), ("switch", lambda: switch("default"))]

    ours, theirs = pair(size, layers)
    sides = {"ours": side(lambda name: set_adapter(ours, name)), "peft": side(theirs.set_adapter)}
    return Case(f"{layers} x {size}", sides, {"switch there and back": ("switch",)})


def disk(size: int, layers: int, folder: Path) -> Case:
    """Save the adapter; load one more from what peft wrote, as it lies in the system's file cache."""
    ours, theirs = pair(size, layers)
    theirs.save_pretrained(folder / "source", selected_adapters=["default"])
    sides = {
        "ours": [
            ("save", lambda: save_adapter(ours, folder / "ours")),
            ("load", lambda: load_adapter(ours, folder / "source", "extra")),
            ("", lambda: (set_adapter(ours, "default"), delete_adapter(ours, "extra"))),
        ],
        "peft": [
            ("save", lambda: theirs.save_pretrained(folder / "peft", selected_adapters=["default"])),
            ("load", lambda: theirs.load_adapter(folder / "source", "extra")),
            ("", lambda: (theirs.set_adapter("default"), theirs.delete_adapter("extra"))),
        ],
    }
    return Case(f"{layers} x {size}", sides, {"save": ("save",), "load from disk": ("load",)})


def restore_error(size: int, dtype: torch.dtype, cycles: int = 100) -> dict[str, float]:
    """The largest change of any weight after so many merges and unmerges, ours and peft's."""
    ours, theirs = pair(size, dtype=dtype)
    weights = {"ours": ours[0].base.weight, "peft": theirs.base_model.model[0].base_layer.weight}
    before = weights["ours"].detach().clone()
    for _ in range(cycles):
        merge(ours)
        unmerge(ours)
        theirs.merge_adapter()
        theirs.unmerge_adapter()
    return {side: (weight.detach() - before).abs().max().item() for side, weight in weights.items()}


def kept_for_backward(size: int, tokens: int = 512) -> dict[str, int]:
    """Bytes that one layer's forward keeps for the backward besides its parameters, ours and peft's."""
    kept = {}
    for side, layer in zip(("ours", "peft"), single(size), strict=True):
        found: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t, f=found: f.setdefault(t.data_ptr(), t), lambda t: t):
            layer(torch.randn(tokens, size))
        own = {p.data_ptr() for p in layer.parameters()}
        kept[side] = sum(t.nbytes for place, t in found.items() if place not in own)
    return kept
