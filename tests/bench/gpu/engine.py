"""Runs rows in order, within a time, and writes each as it comes. A row that fails is a result, never a crash."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import sys
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
HANGS = 60  # seconds beyond three times what a row is said to take, likewise
LAST = 9  # the turn of what went wrong once
LOST = 3  # the status of a process that left a row behind, or a device that answers no more: a new one goes on


def order(specs: Sequence[Spec], done: set[str], tried: set[str] = frozenset()) -> list[Spec]:
    """What is to be done, turn by turn; a baseline with whatever is compared to it. What was `tried` in vain waits."""
    due, turns = [], {s.id: LAST if s.id in tried else s.turn for s in specs}
    for turn in sorted(set(turns.values())):
        chosen = {s.id for s in specs if not s.again and turns[s.id] == turn and s.id not in done}
        groups = {s.group for s in specs if s.id in chosen}
        due += [s for s in specs if s.id in chosen or (s.again and s.group in groups)]
    return due


def run(specs: Sequence[Spec], bench: Bench, journal: Journal, minutes: float, say=print) -> int:
    """Do what is due until the time is over; how many rows are left for another run.

    A row is not begun when it would take longer than what is left, nor one whose baseline this process has not. One
    that hangs ends the process (status LOST), and so does a device that answers no more: the rows before it are in the
    file, and so is the fact that it was begun.
    """
    end = time.monotonic() + 60 * minutes
    bench.until = end
    left, due = 0, order(specs, journal.done(), journal.tried())
    for spec in due:
        start = time.monotonic()
        alone = spec.group and not spec.again and f"{spec.group}/{recorded.BASELINE}" not in bench.lately
        if alone or end - start < spec.about * bench.sizes.pace:
            left += not spec.again
            continue
        journal.add("start", id=spec.id, at=now())
        latest = end + LATE if spec.open else min(end + LATE, start + 3 * spec.about + HANGS)
        with _watched(latest, spec.id, journal, say):
            row, sound = one(spec, bench)
        row["more"] = (row["more"] or {}) | {"spent": round(time.monotonic() - start, 1)}
        journal.add("row", **row)
        bench.lately[spec.id] = row
        left += row["status"] == "unfinished"
        say(line(row))
        if not sound:
            say("the device is not as it was before: this process ends here")
            _leave()
    if left:
        say(f"{left} rows are left, the first of them as --list says: run the same command again to go on")
    return left


def one(spec: Spec, bench: Bench) -> tuple[dict, bool]:
    """The row of `spec`, whatever happens, with every field of a row; and whether others can follow in this process."""
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
        try:  # what the error held on to is free only now
            bench.drop()
            card.wait(bench.device)
        except Exception:  # a kernel that failed takes all that follow with it
            return row, False
    return row, True


@contextlib.contextmanager
def _watched(until: float, name: str, journal: Journal, say):
    """End this process at `until`, come what may: a compilation or a kernel that hangs listens to nobody."""

    def end() -> None:
        journal.add("late", id=name, at=now())
        say(f"{name} went on for too long: this process ends here")
        _leave()

    timer = threading.Timer(max(1.0, until - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave() -> None:
    sys.stdout.flush()
    os._exit(LOST)  # whatever hangs would hang at an ordinary end too


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
