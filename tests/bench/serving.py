"""What serving does: adapters in one batch, merged, switched, attached and swapped, beside the least it could cost."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import torch
from peft.utils.hotswap import hotswap_adapter, hotswap_adapter_from_state_dict
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.hot_swap import hot_swap
from lora_lab.merging import merge, unload, unmerge
from lora_lab.mixed_batch import mixed_batch
from lora_lab.record import record_of, show_current
from lora_lab.storage import read_adapter
from tests.bench.cases import ALPHA, RANK, TARGETS, Case, pair, single, training_step
from tests.bench.timing import Steps


def mixed(size: int, layers: int, rows: int) -> Case:
    """Four adapters in one batch, row after row, against the base model on the same rows."""
    names = ("a", "b", "c", "d")
    ours, theirs = (model.eval() for model in pair(size, layers, names=names))
    base = nn.Sequential(*(copy.deepcopy(layer.base) for layer in ours))
    x, of_row = torch.randn(rows, size), [names[i % 4] for i in range(rows)]

    def ours_forward() -> torch.Tensor:
        with mixed_batch(ours, of_row):
            return ours(x)

    sides = {"ours": ours_forward, "peft": lambda: theirs(x, adapter_names=of_row), "base": lambda: base(x)}
    if not torch.allclose(sides["ours"](), sides["peft"](), rtol=1e-4):
        raise RuntimeError("the two do not compute the same, so their times cannot be compared")
    sides = {side: [("forward", torch.inference_mode()(call))] for side, call in sides.items()}
    return Case(f"{layers} x {size}", sides, {"mixed batch of 4 adapters": ("forward",)})


def merge_once(size: int, keep_backup: bool) -> Case:
    """One merge, check included, against the arithmetic alone: one `addmm_` into a weight. Undoing is not timed.

    Each side runs once untimed right before it is timed: a merge into memory that was not touched for a while took
    two to three times as long on a busy virtual machine. Its host's paging is the likely reason; that is not proved.
    """
    ours, theirs = pair(size)
    record, layer = record_of(ours), ours[0]
    a, b = (matrix.detach() for matrix in layer.matrices("default"))
    weight, scaling = layer.base.weight.detach().clone(), layer.scaling["default"]

    def undo() -> None:
        """Back to the unmerged state, though nothing was kept for it."""
        layer.merged.clear()
        record.merged_for_good = False
        show_current(record)
        layer.base.weight.data.addmm_(b, a, alpha=-scaling)

    sides = {
        "ours": [
            ("merge", lambda: merge(ours, keep_backup=keep_backup)),
            ("", (lambda: unmerge(ours)) if keep_backup else undo),
        ],
        "peft": [("merge", theirs.merge_adapter), ("", theirs.unmerge_adapter)],
        "addmm_": [
            ("merge", lambda: weight.addmm_(b, a, alpha=scaling)),
            ("", lambda: weight.addmm_(b, a, alpha=-scaling)),
        ],
    }
    sides = {side: [("", call) for _, call in steps] + steps for side, steps in sides.items()}
    return Case(f"d={size}", sides, {"merge, exact backup" if keep_backup else "merge, keep_backup=False": ("merge",)})


def dora_step(size: int, tokens: int) -> Case:
    """Forward and backward of one DoRA layer in the middle of a network."""
    case = training_step(size, tokens, "mid-network", use_dora=True)
    return Case(case.size, case.sides, {"DoRA training step": ("step",)})


def dora_gradients(size: int, tokens: int = 512) -> dict[str, float]:
    """Relative difference (Frobenius) of our DoRA gradients from peft's: of x, A, B and the magnitude."""
    mine, its = single(size, use_dora=True)
    x, gradient = torch.randn(2, tokens, size)
    found = []
    for layer in (mine, its):
        own_x = x.clone().requires_grad_()
        layer(own_x).backward(gradient)
        found.append([own_x.grad])
    (a, b), magnitude = mine.matrices("default"), mine.variants["default"].magnitude
    found[0] += [a.grad, b.grad, magnitude.grad]
    theirs = its.lora_A["default"], its.lora_B["default"], its.lora_magnitude_vector["default"]
    found[1] += [module.weight.grad for module in theirs]
    errors = (((m - t).norm() / t.norm()).item() for m, t in zip(*found, strict=True))
    return dict(zip(("x", "A", "B", "magnitude"), errors, strict=True))


def attach(size: int, layers: int) -> Case:
    """Put an adapter on every layer of a plain model. Taking it off again is not timed."""
    torch.manual_seed(0)
    base = nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(layers)))
    plain, wrapped = copy.deepcopy(base), {}
    config = LoraConfig(rank=RANK, alpha=ALPHA, target_modules=TARGETS)

    def theirs() -> None:
        wrapped["model"] = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))

    def take_off() -> None:
        wrapped["model"].unload()
        base.__dict__.pop("peft_config", None)  # if peft left it, it would warn of it the next time

    sides: dict[str, Steps] = {
        "ours": [("attach", lambda: add_adapter(plain, config)), ("", lambda: unload(plain))],
        "peft": [("attach", theirs), ("", take_off)],
    }
    return Case(f"{layers} x {size}", sides, {"attach": ("attach",)})


def swapping(size: int, layers: int, folder: Path) -> Case:
    """One adapter's numbers in the place of another's, from the file cache and from memory."""
    ours, theirs = pair(size, layers)
    theirs.save_pretrained(folder, selected_adapters=["second"])
    place = folder / "second"
    read = read_adapter(ours, place)
    config = peft.LoraConfig.from_pretrained(place)
    state = peft.load_peft_weights(place, device="cpu")
    state = {key.replace(".weight", ".default.weight"): tensor for key, tensor in state.items()}
    sides = {
        "ours": [("disk", lambda: hot_swap(ours, place)), ("memory", lambda: hot_swap(ours, read))],
        "peft": [
            ("disk", lambda: hotswap_adapter(theirs, str(place), "default", torch_device="cpu")),
            # It takes keys out of what it is given.
            ("memory", lambda: hotswap_adapter_from_state_dict(theirs, dict(state), "default", config)),
        ],
    }
    rows = {"hot swap from disk": ("disk",), "hot swap from memory": ("memory",)}
    return Case(f"{layers} x {size}", sides, rows)
