"""What was predicted, and beside it what a recorded run measured: None where there is no record, or no such row in it.

A step's prediction is its least time (`roofline`, which says where it is not quite the least): how far above it the
measured one stands says how much of the time is none of the parts that were counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lora_lab import shapes
from lora_lab.hardware import cost, roofline
from lora_lab.hardware.cards import Card, card, every
from lora_lab.recorded import Recorded

MODEL, LENGTH, ROWS, RANKS = "Llama-2-7B", 2048, 2, (1, 4, 16, 64, 256)
FUSED = "ours fused layer"  # how the rows of part B are called
# Parts of a prediction -> what stands for them here, and what the record calls these, where it has more than one word.
SHARES = {
    "base matmuls": "base matmuls",
    "adapter matmuls": "adapter matmuls",
    "attention": "attention",
    "adapter passes": "elementwise",
    "elementwise": "elementwise",
    "loss": "loss",
    "optimizer": "optimizer",
}
RECORDED = {"base matmuls": ("base matmuls", "output head"), "elementwise": ("elementwise", "casts and copies")}


@dataclass(frozen=True)
class Pair:
    """One thing, in `unit`, as it was predicted, and as it was measured or None."""

    what: str
    unit: str
    predicted: float
    measured: float | None


def of(record: Recorded | None, otherwise: str = "H200") -> Card:
    """The card that was recorded, as the table has it; without a record the one called `otherwise`.

    Raises ValueError for a recorded card that is not in the table.
    """
    if record is None:
        return card(otherwise)
    words = set(re.findall(r"[A-Z]*\d+\w*|SXM", record.card))  # of "NVIDIA H100 80GB HBM3": H100, 80GB, HBM3
    fits = [one for one in every().values() if one.name.split()[0 if "RTX" not in one.name else 1] in words]
    if not fits:
        raise ValueError(f"the record is of {record.card}, which is not in the table: {', '.join(every())}")
    return min(fits, key=lambda one: abs(one.memory - record.memory))


def steps(record: Recorded | None, on: Card) -> list[Pair]:
    """Seconds of a step on 2 x 2,048 tokens, LoRA of each rank on all linear layers, fused: the least, and measured."""
    shape, found = shapes.known(MODEL), []
    for rank in RANKS:
        least = sum(roofline.seconds(roofline.step(shape, "lora", LENGTH, ROWS, rank, fused=True), on).values())
        row = f"B/{MODEL}/all-linear/r{rank}/{FUSED}"
        found.append(Pair(f"rank {rank}", "s", least, _measured(record, row, "seconds")))
    return found


def shares(record: Recorded | None, on: Card) -> list[Pair]:
    """What each part takes of a LoRA step of rank 16 on all linear layers; an adapter's passes are elementwise."""
    times = roofline.seconds(roofline.step(shapes.known(MODEL), "lora", LENGTH, ROWS, 16), on)
    predicted = dict.fromkeys(SHARES.values(), 0.0)
    for part, time in times.items():
        predicted[SHARES[part]] += time / sum(times.values())
    row = (record.row(f"C/{MODEL}/step, ours plain") if record else None) or {}
    measured, found = row.get("shares") or {}, []
    for part, share in predicted.items():
        seen = [measured[name] for name in RECORDED.get(part, (part,)) if name in measured]
        found.append(Pair(part, "share", share, sum(seen) if seen else None))
    return found


def peaks(record: Recorded | None) -> list[Pair]:
    """Bytes at the peak of a fused LoRA step on q and v at rank 8, with checkpointing; with a base in 4 bits too."""
    shape, found = shapes.known(MODEL), []
    for what, method in (("checkpointing", "lora-fused"), ("NF4 base, checkpointing", "qlora-bf16")):
        need = cost.need(shape, method, LENGTH, ROWS, 8, "q_proj,v_proj")
        name = f"B/{MODEL}/q_proj,v_proj/r8/{FUSED}, {what}"
        need = _measured(record, name, "memory_predicted") or need  # as it was predicted then
        found.append(Pair(what, "bytes", need, _measured(record, name, "peak_memory")))
    return found


def _measured(record: Recorded | None, name: str, field: str) -> float | None:
    """The field of the row with this id, if it was measured."""
    row = record.row(name) if record else None
    return row[field] if row and row["status"] == "ok" else None
