"""What this machine has, and what still works without the rest. It imports no other module: torch may be broken.

python -m lora_lab doctor
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

BASE = Path(__file__).parent / "assets" / "base"
BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "training.json")
ENOUGH_MEMORY_GB, ENOUGH_DISK_GB = 1.5, 1  # a kernel that trains as in lesson 07 takes about 1 GB in all


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked for, what was found, is it as it should be, and what that means."""

    what: str
    found: str
    fine: bool = True
    advice: str = ""


def findings(base: Path = BASE) -> list[Finding]:
    """Look at everything once, in about the time that `import torch` takes. Never raises."""
    return [
        python(),
        torch(),
        device(),
        cores(),
        memory(),
        disk(),
        package("jupyterlab", "JupyterLab", "open the notebooks in another program that runs Jupyter notebooks"),
        package("ipywidgets", "ipywidgets", "sliders are missing; each has a picture in its place, and code beside it"),
        package("transformers", "transformers", "no language model loads; lessons on plain matrices and layers work"),
        package("peft", "peft", "cells and tests that compare with peft fail; lora_lab itself does not use it"),
        package("matplotlib", "matplotlib", "no figure is drawn; `finetune` and `generate` work"),
        base_model(base),
    ]


def report(found: list[Finding] | None = None) -> str:
    """The findings as plain text, one line each, advice indented below the line it belongs to."""
    rows = findings() if found is None else found
    width = max(len(row.what) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{'ok' if row.fine else '--':4}{row.what:{width}}  {row.found}")
        if row.advice:
            lines.append(" " * (width + 6) + row.advice)
    wrong = [row.what for row in rows if not row.fine]
    lines.append("Everything the course needs is here." if not wrong else "Look at: " + ", ".join(wrong) + ".")
    return "\n".join(lines)


def python() -> Finding:
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] <= (3, 14):
        return Finding("Python", f"{version} on {system}")
    return Finding("Python", f"{version} on {system}", False, "the course is tested on 3.11 to 3.14; others may fail")


def _import_torch():
    """The module, or the sentence that says why there is none."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        return str(error)
    except Exception as error:  # a broken installation raises anything, OSError for a missing system library
        return f"installed, but it does not load ({str(error).splitlines()[0][:120]})"


def torch() -> Finding:
    module = _import_torch()
    if isinstance(module, str):
        advice = "without it lesson 00 works, and no model or layer runs; `python course.py` installs it"
        return Finding("torch", module, False, advice)
    return Finding("torch", f"{module.__version__}, {module.get_num_threads()} threads")


def device() -> Finding:
    """Where models run: the first CUDA GPU, else the CPU. Having no GPU is fine."""
    module = _import_torch()
    if isinstance(module, str):
        return Finding("device", "unknown without torch", False)
    if module.cuda.is_available():
        properties = module.cuda.get_device_properties(0)
        return Finding("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB; models load in bf16")
    if shutil.which("nvidia-smi") and module.version.cuda is None:
        advice = "an NVIDIA driver is here, but this torch is the CPU build: for the GPU type  python course.py --gpu"
        return Finding("device", "CPU, in float32", True, advice)
    return Finding("device", "CPU, in float32 (no CUDA GPU; every lesson is made for that)")


def cores() -> Finding:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable > 1:
        return Finding("cores", str(usable))
    return Finding("cores", "1", True, "the times in the lessons are for two cores: expect twice as long")


def memory_found() -> tuple[int, int]:
    """Bytes of memory in all, and free, within the limit of a container where there is one."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8")))
        total = min(total, limit)
    except (OSError, ValueError):
        pass  # no container, no limit, or no Linux
    return total, free


def memory() -> Finding:
    """Total and free memory in GiB, within the limit of a container where there is one."""
    try:
        total, free = memory_found()
    except ImportError:
        return Finding("memory", "unknown without psutil", False, "training works, but its memory is not measured")
    text = f"{total / 2**30:.0f} GiB, {free / 2**30:.1f} GiB of it free"
    if free >= ENOUGH_MEMORY_GB * 2**30:
        return Finding("memory", text)
    return Finding(
        "memory", text, False, "training may be stopped for lack of memory: close programs, or smaller batches"
    )


def disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free >= ENOUGH_DISK_GB:
        return Finding("disk", f"{free:.0f} GiB free here")
    return Finding(
        "disk", f"{free:.1f} GiB free here", False, "checkpoints may not be written; reading and running works"
    )


def package(name: str, label: str, without: str) -> Finding:
    try:
        return Finding(label, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(label, "not installed", False, f"without it: {without}; `python course.py` installs it")


def base_model(folder: Path = BASE) -> Finding:
    """Is the embedded model whole? Its weights are compared with the hash that its training recorded."""
    advice = "without it fine-tune a folder or a hub model (--model); to get it back: git checkout -- lora_lab/assets"
    missing = [name for name in BASE_FILES if not (folder / name).is_file()]
    if missing:
        return Finding("base model", "missing: " + ", ".join(missing), False, advice)
    try:
        recorded = json.loads((folder / "training.json").read_text(encoding="utf-8"))["weights_sha256"]
        weights = (folder / "model.safetensors").read_bytes()
        parameters = parameters_in(weights)
    except Exception as error:  # whatever stands in a damaged file
        return Finding("base model", f"damaged ({type(error).__name__}: {error})", False, advice)
    if hashlib.sha256(weights).hexdigest() != recorded:
        return Finding("base model", "its weights are not the ones that its training recorded", False, advice)
    return Finding("base model", f"{parameters:,} parameters, {len(weights) / 1e6:.1f} MB, hash as recorded")


def parameters_in(weights: bytes) -> int:
    """Parameters in a safetensors file, from its header alone. Raises ValueError where the file is cut or garbled.

    Layout: 8 bytes little-endian header length, a JSON header, the data that the header's offsets point into.
    """
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != len(weights):
        raise ValueError(f"{len(weights)} bytes where its header says {8 + length + end}")
    count = 0
    for entry in header.values():
        size = 1
        for n in entry["shape"]:
            size *= n
        count += size
    return count


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def main(args: argparse.Namespace) -> int:
    found = findings()
    print(report(found))
    return 0 if all(row.fine for row in found) else 1
