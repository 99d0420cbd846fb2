"""What each variant of LoRA costs: parameters, bytes on disk and in memory, time of a step beside LoRA's."""

from __future__ import annotations

import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lora_lab import scoring
from lora_lab.adapters import adapter_names
from lora_lab.quantise import NF4Linear
from lora_lab.runs import RECIPES, Recipe, Run
from lora_lab.short_runs import Lab
from lora_lab.storage import save_adapter
from lora_lab.sweeps import variants_plan

ROUNDS = 15


def variant_costs(seed: int = 0) -> dict:
    """One row for each setting of the sweep `variants`, before any training but that of the timed steps.

    file_bytes: the adapter's file, VeRA's vectors alone (A and B follow from a seed), full fine-tuning's matrices.
    matrix_bytes: the frozen or trained matrices of the base in memory. kept_bytes: what autograd keeps of a batch for
    the backward pass, parameters left out. step: processor time of a step, in parts of a LoRA step's beside it, with
    quartiles. start, start_base: losses before training.
    """
    torch.set_num_threads(1)  # processor time is then the time that a free machine would take
    recipe = RECIPES["pirate"]
    groups = [dataclasses.replace(group, seed=seed, lr=1e-4) for group in variants_plan().groups]
    beside, lab = Lab(), Lab()
    rows = []
    for group in groups:
        with beside.prepared(groups[0]) as lora, lab.prepared(group) as chosen:
            before = lab.measure("pirate", recipe, seed)
            row = {"label": group.label, "trainable": sum(p.numel() for p in chosen)}
            row |= {"file_bytes": _file_bytes(lab.model, group, chosen), "matrix_bytes": _matrix_bytes(lab.model)}
            row |= {"kept_bytes": _kept_bytes(lab, _batch(lab, recipe))}
            low, median, high = _ratio(_step(lab, chosen, group, recipe), _step(beside, lora, groups[0], recipe))
            row |= {"step_low": round(low, 3), "step": round(median, 3), "step_high": round(high, 3)}
            rows.append(row | {"start": before["loss"], "start_base": before["base_loss"]})
    return {
        "about": "costs of the settings of the sweep 'variants'; step: processor time in parts of LoRA's, one thread",
        "settings": {"same_runs_as": "variants", "rounds": ROUNDS},
        "rows": rows,
    }


def _batch(lab: Lab, recipe: Recipe) -> dict[str, Tensor]:
    rows = lab.rows("pirate", recipe.length)[: recipe.batch_size]
    return scoring.collate(rows, lab.tokenizer.pad_token_id)


def _file_bytes(model: nn.Module, group: Run, chosen: list[nn.Parameter]) -> int:
    if group.method == "vera" or not adapter_names(model):
        return len(save({str(i): p.detach() for i, p in enumerate(chosen)}))
    with tempfile.TemporaryDirectory() as folder:
        return (save_adapter(model, Path(folder)) / "adapter_model.safetensors").stat().st_size


def _matrix_bytes(model: nn.Module) -> int:
    """Bytes of the blocks' matrices, as they are stored."""
    adapter = (".A.", ".B.")
    linears = [
        module
        for path, module in model.model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in f"{path}." for part in adapter)
    ]
    return sum(sum(b.nbytes for b in m.buffers()) if isinstance(m, NF4Linear) else m.weight.nbytes for m in linears)


def _kept_bytes(lab: Lab, batch: dict[str, Tensor]) -> int:
    own = {p.untyped_storage().data_ptr() for p in [*lab.model.parameters(), *lab.model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = lab.loss(batch)
    del loss
    return sum(size for place, size in kept.items() if place not in own)


def _step(lab: Lab, chosen: list[nn.Parameter], run: Run, recipe: Recipe) -> Callable[[], None]:
    optimizer, batch = lab.optimizer(chosen, run), _batch(lab, recipe)

    def step() -> None:
        lab.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ratio(one: Callable[[], None], other: Callable[[], None]) -> tuple[float, float, float]:
    """Quartiles of the processor time of `one` over that of `other`, the two taking turns in random order."""
    sides, ratios, shuffle = [one, other], [], random.Random(0).shuffle
    for _ in range(2 + ROUNDS):
        spent = {}
        shuffle(sides)
        for side in sides:
            start = time.process_time()
            side()
            spent[side] = time.process_time() - start
        ratios.append(spent[one] / spent[other])
    return tuple(statistics.quantiles(ratios[2:], n=4, method="inclusive"))
