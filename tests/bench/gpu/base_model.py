"""Part D: the base model's sweeps, wider than a CPU has time for, and the base model itself trained anew."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import psutil

from lora_lab import sweeps

from . import card
from .bench import Bench, Spec, Unfinished
from .sizes import Sizes

SWEEPS = ("rank", "targets", "variants", "confirm", "grid")
ROOT = Path(__file__).resolve().parent.parent.parent.parent
STORIES = "tinystories.txt"  # what is looked for in the archive of texts


def specs(sizes: Sizes) -> list[Spec]:
    """The sweep over ranks first. A sweep that was cut off goes on where it stopped, so its time is no condition."""
    names = SWEEPS[:1] if sizes.tiny else SWEEPS
    found = [
        Spec(f"D/sweep {name}", 60, partial(sweep, name=name), turn=6 + (name != "rank"), open=True) for name in names
    ]
    return [*found[:1], Spec("D/pretrain", 60, pretrained, turn=6, open=True), *found[1:]]


def sweep(b: Bench, name: str) -> dict:
    """`python -m lora_lab sweep NAME --large` in processes beside one another, until it is complete or time is up.

    The file beside the rows, NAME_large.json, is what the lessons' recorded results are; .partial while it grows.
    """
    plan, output = sweeps.PLANS[name](large=True), b.out / f"{name}_large.json"
    command = ["-m", "lora_lab", "sweep", name, "--large", "--workers", str(b.workers), "--output", str(output)]
    start = time.monotonic()
    run_until([sys.executable, *command], min(b.until, start + b.sizes.sweep_seconds))
    seconds = time.monotonic() - start
    partial_file = output.with_suffix(".partial")
    if not output.exists():
        rows = json.loads(partial_file.read_text(encoding="utf-8"))["rows"] if partial_file.exists() else []
        raise Unfinished(f"{len(rows)} runs of {name} are done, {len(sweeps.due(plan, rows))} or more are left")
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    more = {"runs": len(rows), "run_seconds": sum(row["seconds"] for row in rows), "workers": b.workers}
    return {"what": f"sweep {name}", "seconds": seconds, "count": 1, "more": more | {"file": output.name}}


def pretrained(b: Bench) -> dict:
    """The base model from its first token on; `--text` names the folder of texts, or an archive of it."""
    from lora_lab.pretrain import pretrain

    if b.text is None:
        raise Unfinished("the base model is trained from texts that are not in the repository: --text names them")
    text = unpacked(b.text, b.out)
    card.clean(b.device)
    start = time.perf_counter()
    last = pretrain(text, b.out / "base", b.sizes.pretrain_tokens, save_minutes=0.5, device=b.device.type,
                    compile=not b.sizes.tiny)  # fmt: skip
    return {
        "what": "pretrain",
        "model": "base",
        "seconds": last["seconds"],
        "count": 1,
        "tokens_per_second": last["tokens"] / max(1, last["seconds"]),
        "peak_memory": card.peak_memory(b.device),
        "more": last | {"wall": time.perf_counter() - start},
    }


def unpacked(text: Path, out: Path) -> Path:
    """The folder that holds tinystories.txt: `text` itself, or what is in the archive `text`."""
    if text.is_dir():
        return text
    target = out / "unpacked"
    if not target.exists():
        part = target.with_name("unpacked.part")
        with tarfile.open(text) as archive:
            archive.extractall(part, filter="data")
        os.replace(part, target)
    found = sorted(target.rglob(STORIES))
    if not found:
        raise FileNotFoundError(f"{text.name} holds no {STORIES}")
    return found[0].parent


def run_until(command: list[str], until: float, listen: bool = False) -> str:
    """Run a command from the repository's root; at time.monotonic() = `until` end it and all it started.

    Returns what it printed, with `listen`. Raises RuntimeError where it fails by itself.
    """
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    said = {"stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"} if listen else {}
    process = psutil.Popen(command, cwd=ROOT, env=environment, **said)
    try:
        text, _ = process.communicate(timeout=max(1.0, min(until - time.monotonic(), 3600.0)))
    except subprocess.TimeoutExpired:
        return ""
    finally:
        family = [*process.children(recursive=True), process] if process.is_running() else []
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=10)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with status {process.returncode}")
    return text or ""
