"""Part E: the course's own fine-tune on one card and on all of them, as `torchrun` starts it."""

from __future__ import annotations

import json
import sys
from functools import partial

import torch

from . import base_model
from .bench import Bench, Spec, Unfinished
from .sizes import Sizes

STEPS = 60
WAYS = {"one process": (False, ()), "DDP": (True, ()), "FSDP2": (True, ("--fsdp",))}


def specs(sizes: Sizes) -> list[Spec]:
    """None where there is one card, or none."""
    cards = torch.cuda.device_count()
    if cards < 2 or sizes.tiny:
        return []
    return [
        Spec(f"E/{cards} cards/{what}", 60, partial(finetuned, what=what, cards=cards), turn=4, open=True)
        for what in WAYS
    ]


def finetuned(b: Bench, what: str, cards: int) -> dict:
    """`pirate` for a few steps; every way sees the same examples in the same order, so the losses are to agree."""
    several, more = WAYS[what]
    folder = b.out / f"devices-{what.split()[0]}"
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cards}"] if several else []
    command += [
        "-m",
        "lora_lab",
        "finetune",
        "--steps",
        str(STEPS),
        "--quiet",
        "--json",
        "--output",
        str(folder),
        *more,
    ]
    said = base_model.run_until([sys.executable, *command], b.until, listen=True)
    found = next((line for line in reversed(said.splitlines()) if line.startswith("{")), None)
    if found is None:
        raise Unfinished(f"{what} was not done in time, or said nothing")
    result = json.loads(found)
    one = b.lately.get(f"E/{cards} cards/one process")
    losses = [result["loss_before"], result["loss_after"]]
    row = {"what": what, "model": "base", "losses": losses, "count": STEPS, "more": {"cards": cards if several else 1}}
    row |= {field: result[field] for field in ("seconds", "tokens_per_second", "peak_memory")}
    if one and one["status"] == "ok":
        row["loss_difference"] = max(abs(ours - its) for ours, its in zip(losses, one["losses"], strict=True))
        row["ratio"] = row["tokens_per_second"] / one["tokens_per_second"]
    return row
