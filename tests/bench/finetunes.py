"""`python -m tests.bench.finetunes`: the fine-tunes of README's table, each in a process of its own.

Time is processor time of one thread, so that other work on the machine does not count; `--record` writes the rows to
tests/bench/finetunes.json, with which tests/elsewhere/test_documents.py compares README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

from lora_lab import whole_file

RECORDED = Path(__file__).with_name("finetunes.json")
RUNS = [("query", "lora"), ("pirate", "lora"), ("pirate", "full")]


def measure(task: str, method: str) -> dict:
    """One fine-tune with its defaults, seed 0. Seconds are the processor's, scoring before and after included."""
    import torch

    from lora_lab.finetune import finetune

    torch.set_num_threads(1)
    start = time.process_time()
    result = finetune(task=task, method=method, quiet=True)
    row = {"task": task, "method": method, "steps": result.settings["steps"], "best": result.best_step}
    row |= {"seconds": round(time.process_time() - start, 1)}
    row |= {name: round(getattr(result, name), 4) for name in ("loss_before", "loss_after")}
    row |= {name: getattr(result, name) for name in ("exact_match_before", "exact_match_after")}
    return row | {"memory": result.peak_memory, "memory_predicted": sum(result.memory_predicted.values())}


def report(runs: list[tuple[str, str]], **versions: str) -> dict:
    """Measure `runs` one after another, each printed when it is done."""
    rows = []
    for run in runs:
        # A pool for each: what one leaves in memory would be missing from what the next one measures.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, *run).result())
        print(rows[-1], flush=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    about = {"command": "python -m tests.bench.finetunes --record", "date": str(date.today()), "machine": machine}
    return about | {"versions": versions, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.finetunes", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    args = parser.parse_args(argv)
    import torch
    import transformers

    got = report(RUNS, python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__)
    if args.record:
        whole_file.write(RECORDED, json.dumps(got, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
