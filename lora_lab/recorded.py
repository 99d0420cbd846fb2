"""What a GPU showed, if one did: reads the record that `tests/bench/gpu` makes, and judges its bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "assets" / "results" / "gpu.json"
FIELDS = (
    "id part status reason card at what model targets rank rows length checkpointing seconds quartiles count "
    "tokens_per_second flops mfu peak_memory memory_predicted losses loss_difference ratio memory_ratio tflops gbs "
    "shares more"
).split()
BASELINE = "peft default"
# Another base, other numbers to train, other rows to read: no bar on speed or loss is met with these.
APART = ("NF4", "bf16 adapters", "lengths")


@dataclass(frozen=True)
class Recorded:
    """card, memory (bytes), date, versions; rows with FIELDS each; bars as `bars` gives them."""

    card: str
    memory: int
    date: str
    versions: dict[str, str]
    rows: tuple[dict, ...]
    bars: tuple[dict, ...]

    def part(self, name: str, everything: bool = False) -> list[dict]:
        """The rows of part "A" to "E" that were measured; with `everything` also those that failed or did not fit."""
        return [row for row in self.rows if row["part"] == name and (everything or row["status"] == "ok")]

    def row(self, name: str) -> dict | None:
        """The row with this id, or None."""
        return next((row for row in self.rows if row["id"] == name), None)


def gpu(path: Path = FILE) -> Recorded | None:
    """The recorded results, or None where no GPU was ever had.

    Raises ValueError for a file that is broken, of a CPU, or of a tiny trial run: none of these is a GPU's result.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    wanted = ("card", "memory", "date", "versions", "rows", "bars", "tiny")
    if not isinstance(found, dict) or (missing := [field for field in wanted if field not in found]):
        raise ValueError(f"{path.name} lacks {', '.join(missing) if isinstance(found, dict) else 'everything'}")
    if found["tiny"] or found["card"] == "CPU" or not found["memory"]:
        raise ValueError(
            f"{path.name} is of {found['card']}{', with tiny sizes' * bool(found['tiny'])}: "
            "only what was measured on a GPU at full size is a GPU's result"
        )
    if odd := [row.get("id") for row in found["rows"] if set(row) != set(FIELDS)]:
        raise ValueError(f"{path.name}: row {odd[0]!r} has other fields than {', '.join(FIELDS)}")
    fields = {field: found[field] for field in wanted[:4]}
    return Recorded(**fields, rows=tuple(found["rows"]), bars=tuple(found["bars"]))


def bars(rows: Sequence[dict]) -> tuple[dict, ...]:
    """Each bar with what was measured: bar, says, target, measured, met (None where the rows do not tell)."""
    done = [row for row in rows if row["status"] == "ok"]
    ours = [row for row in done if row["part"] == "A" and row["what"].startswith("ours")]
    ours = [row for row in ours if not any(word in row["what"] for word in APART)]
    found = []

    def bar(name: str, says: str, target: float | None, measured, met: bool | None) -> None:
        found.append({"bar": name, "says": says, "target": target, "measured": measured, "met": met})

    def limit(name: str, says: str, target: float, measured: float | None, least: bool) -> None:
        met = None if measured is None else measured >= target if least else measured <= target
        bar(name, says, target, measured, met)

    for model in ("Llama-2-7B", "Llama-3.1-8B"):
        wide = [(speed, _lean(row, done)) for row, speed in _faster(done, ours, model, "all-linear", 16)]
        lean = max((speed for speed, memory in wide if memory), default=None)
        says = (
            f"{model}, all-linear, r = 16: tokens a second over peft's default, of a configuration with at most 0.9 "
            "of its memory"
        )
        judged = None if not [memory for _, memory in wide if memory is not None] else bool(lean and lean >= 1.3)
        bar(f"speed all-linear {model}", says, 1.3, lean, judged)  # not met where no configuration is lean enough
        narrow = [speed for _, speed in _faster(done, ours, model, "q_proj,v_proj", 8)]
        says = f"{model}, q and v, r = 8: tokens a second over peft's default"
        limit(f"speed q,v {model}", says, 1.1, max(narrow, default=None), True)
        mfu = [row["mfu"] for row in ours if row["model"] == model and row["mfu"] is not None]
        says = f"{model}: LoRA's own FLOPs over what the card could do"
        limit(f"MFU {model}", says, 0.45, max(mfu, default=None), True)
    off = [_off(row) for row in done if row["part"] in "AB" and _off(row) is not None]
    limit("memory", "peak memory predicted, the worst row", 0.05, max(off, default=None), False)
    differ = [row["loss_difference"] for row in ours if row["loss_difference"] is not None]
    says = "loss against peft's over 20 steps from the same start, with float32 adapters: the largest difference"
    limit("loss", says, 1e-3, max(differ, default=None), False)
    small = [r for r in done if (r["model"], r["targets"], r["rank"]) == ("Llama-2-7B", "q_proj,v_proj", 8)]
    for name, most, nf4 in (("24 GB", 24e9, False), ("12 GB", 12e9, True)):
        peaks = [r["peak_memory"] for r in small if r["checkpointing"] and ("NF4" in r["what"]) == nf4]
        says = f"Llama-2-7B, q and v, r = 8, checkpointing{', 4-bit base' * nf4}: peak memory in bytes"
        limit(name, says, most, min((p for p in peaks if p), default=None), False)
    full = [r for r in rows if r["part"] == "B" and "/full" in r["id"] and r["status"] != "failed"]
    peaks = [f"{r['peak_memory'] / 1e9:.1f} GB" if r["peak_memory"] else r["status"] for r in full]
    said = [f"{r['id'].rsplit('/', 1)[1]}: {peak}" for r, peak in zip(full, peaks, strict=True)]
    says = "full fine-tuning of Llama-2-7B: its peak memory, or that it did not fit"
    bar("full", says, None, "; ".join(said) or None, True if said else None)
    ranks = [r for r in done if r["part"] == "B" and r["targets"] == "all-linear"]
    off = [
        abs(r["memory_predicted"] / r["peak_memory"] - 1) for r in ranks if r["peak_memory"] and r["memory_predicted"]
    ]
    says = "Llama-2-7B, all-linear, rank 1 to 256: memory as predicted, the worst rank"
    limit("ranks", says, 0.05, max(off) if len(off) >= 5 else None, False)
    return tuple(found)


def _off(row: dict) -> float | None:
    """How far the memory predicted is from that measured, as a share of it."""
    there = row["memory_predicted"] and row["peak_memory"]
    return abs(row["memory_predicted"] / row["peak_memory"] - 1) if there else None


def _baseline(done: list[dict], row: dict, field: str) -> float | None:
    """peft's default in the row's own group and on its card: its best run where there are two."""
    same = ("model", "targets", "rank", "card")
    found = [
        other[field]
        for other in done
        if other["part"] == "A" and other["what"].startswith(BASELINE) and all(other[f] == row[f] for f in same)
    ]
    found = [value for value in found if value]
    return (max if field == "tokens_per_second" else min)(found, default=None)


def _faster(done: list[dict], ours: list[dict], model: str, targets: str, rank: int) -> list[tuple[dict, float]]:
    """Our rows of a group, each with its speed over peft's default."""
    return [
        (row, row["tokens_per_second"] / speed)
        for row in ours
        if row["tokens_per_second"] and (row["model"], row["targets"], row["rank"]) == (model, targets, rank)
        if (speed := _baseline(done, row, "tokens_per_second"))
    ]


def _lean(row: dict, done: list[dict]) -> bool | None:
    """Whether a row takes at most 0.9 of the memory of peft's default; None where that was not measured."""
    memory = _baseline(done, row, "peak_memory")
    return row["peak_memory"] <= 0.9 * memory if memory and row["peak_memory"] else None
