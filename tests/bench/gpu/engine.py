"""Runs rows in order, within a time, and writes each as it comes. A row that fails is a result, never a crash."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import threading
import time
import traceback
from collections.abc import Sequence

import torch

from lora_lab import recorded

from . import card
from .bench import Bench, Spec, Unfinished
from .journal import Journal, now

LATE = 30  # seconds after the limit, when a row that hangs is left behind with the whole process


def order(specs: Sequence[Spec], done: set[str]) -> list[Spec]:
    """What is to be done, turn by turn; a baseline with whatever is compared to it."""
    due = []
    for turn in sorted({s.turn for s in specs}):
        chosen = {s.id for s in specs if not s.again and s.turn == turn and s.id not in done}
        groups = {s.group for s in specs if s.id in chosen}
        due += [s for s in specs if s.id in chosen or (s.again and s.group in groups)]
    return due


def run(specs: Sequence[Spec], bench: Bench, journal: Journal, minutes: float, say=print) -> int:
    """Do what is due until the time is over; how many rows are left for another run.

    A row is not begun when it would take longer than what is left. One that goes on past the limit ends the process
    (status 3): the rows before it are in the file, and so is the fact that it was begun.
    """
    end = time.monotonic() + 60 * minutes
    bench.until = end
    left, due = 0, order(specs, journal.done())
    for spec in due:
        rest = end - time.monotonic()
        if rest < spec.about * bench.sizes.pace:
            left += not spec.again
            continue
        journal.add("start", id=spec.id, at=now())
        start = time.perf_counter()
        with _watched(end + LATE, spec.id, journal, say):
            row = one(spec, bench)
        row["more"] = (row["more"] or {}) | {"spent": round(time.perf_counter() - start, 1)}
        journal.add("row", **row)
        bench.lately[spec.id] = row
        left += row["status"] == "unfinished"
        say(line(row))
    if left:
        say(f"{left} rows are left, the first of them as --list says: run the same command again to go on")
    return left


def one(spec: Spec, bench: Bench) -> dict:
    """The row of `spec`, whatever happens: every field of a row, None where there is nothing to say."""
    row = dict.fromkeys(recorded.FIELDS) | {"id": spec.id, "part": spec.part, "at": now()}
    row["card"] = card.name(bench.device)
    try:
        row |= spec.make(bench) | {"status": "ok"}
    except Unfinished as error:
        row |= {"status": "unfinished", "reason": str(error)}
    except Exception as error:
        fits = not card.did_not_fit(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f" ({os.path.basename(last.filename)}:{last.lineno})" if fits else ""
        row |= {"status": "failed" if fits else "did not fit"}
        row["reason"] = f"{type(error).__name__}: {str(error).strip()[:300]}{where}"
    if row["status"] != "ok":
        with contextlib.suppress(Exception):  # what the error held on to is free only now
            bench.drop()
    return row


@contextlib.contextmanager
def _watched(until: float, name: str, journal: Journal, say):
    """End this process at `until`, come what may: a compilation or a kernel that hangs listens to nobody."""

    def end() -> None:
        journal.add("late", id=name, at=now())
        say(f"{name} went on past the limit: this process ends here; run the same command again to go on")
        os._exit(3)

    timer = threading.Timer(max(1.0, until - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def line(row: dict) -> str:
    """A row as text, its figures first."""
    parts = [f"{row['id']}: {row['status']}"]
    if row["reason"]:
        parts.append(row["reason"])
    said = (
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("ratio", "{:.3f} x peft"),
        ("mfu", "MFU {:.1%}"),
        ("tflops", "{:.1f} TFLOP/s"),
        ("gbs", "{:.0f} GB/s"),
        ("loss_difference", "loss differs by {:.1e}"),
    )
    parts += [text.format(row[field]) for field, text in said if row[field] is not None]
    if row["seconds"] is not None:
        parts.append(f"{1e3 * row['seconds']:.4g} ms")
    if row["peak_memory"] is not None:
        parts.append(f"{row['peak_memory'] / 1e9:.2f} GB")
    if row["memory_predicted"] is not None:
        parts.append(f"predicted {row['memory_predicted'] / 1e9:.2f} GB")
    return ", ".join(parts + [f"[{row['more']['spent']} s]"] * ("spent" in (row["more"] or {})))


def provenance(device, sizes, command: Sequence[str]) -> dict:
    """What a run says of itself: the card, the versions, the command, the moment."""
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda or "none", "torch": torch.__version__}
    for package in ("transformers", "peft", "accelerate"):
        versions[package] = importlib.metadata.version(package)
    return {
        "at": now(),
        "command": " ".join(["python tests/bench/gpu/run.py", *command]),
        "card": card.name(device),
        "cards": torch.cuda.device_count() if device.type == "cuda" else 0,
        "memory": card.total_memory(device),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": versions,
        "tiny": sizes.tiny,
        "sizes": dataclasses.asdict(sizes),
    }
