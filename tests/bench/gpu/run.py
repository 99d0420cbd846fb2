"""Measures on a GPU, a part at a time: `python tests/bench/gpu/run.py --part A --out FOLDER`; README.md says the rest.

Needs torch, transformers, peft and accelerate, and nothing else that the course uses; builds and downloads nothing.
Every row is printed and written to FOLDER/rows.jsonl as it comes. Run the same command again to go on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

START = time.monotonic()  # the imports count towards the minutes
HERE = Path(__file__).resolve().parent
# The package beside this file, and the course: neither has to be installed.
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent.parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PARTS = {"A": "side_by_side", "B": "bars", "C": "roofline", "D": "base_model", "E": "devices"}

LEFT = 4  # the status that says: run it again
RESTARTS = 6  # times that a process which was lost is followed by another


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python tests/bench/gpu/run.py", description=__doc__)
    p.add_argument("--part", nargs="+", choices=[*PARTS, "all"], default=["all"], help="which parts, in which order")
    p.add_argument("--out", type=Path, help="folder to write to; run again with it to go on")
    p.add_argument("--earlier", type=Path, nargs="*", default=[], help="folders of earlier runs: what they did is done")
    p.add_argument("--minutes", type=float, default=8.0, help="end after so long (default: 8)")
    p.add_argument("--only", default="", metavar="WORDS", help="only rows with these words in their id")
    p.add_argument("--text", type=Path, help="part D: the folder of texts for the base model, or a .tar of it")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="part D: runs of a sweep at a time")
    p.add_argument("--list", action="store_true", help="print the rows that are due, and about how long each takes")
    p.add_argument("--tiny", action="store_true", help="tiny models on the CPU: does every line of this run?")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # the process that `supervised` starts
    p.add_argument("--collect", type=Path, nargs="+", metavar="FOLDER", help="make one record of these folders' rows")
    p.add_argument("--record", type=Path, help="with --collect: where to (default: the package's recorded result)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Status 0 when all is done or collected, LEFT when rows are left for another run, 2 for a wrong command."""
    p = parser()
    args = p.parse_args(argv)
    if args.collect:
        from gpu import collect

        return collect.main(args.collect, args.record)
    if args.out is None and not args.list:
        p.error("--out FOLDER is needed: everything is written there")
    if not (args.list or args.worker):
        return supervised(sys.argv[1:] if argv is None else argv, args.minutes)
    import gc
    import importlib

    import torch

    from gpu import bench, engine, journal, sizes

    size = sizes.TINY if args.tiny else sizes.REAL
    specs = []
    for part in PARTS if "all" in args.part else dict.fromkeys(args.part):
        found = importlib.import_module(f"gpu.{PARTS[part]}").specs(size)
        specs += [s for s in found if args.only in s.id or s.again]  # what is chosen may be compared with a baseline
    if args.list:
        due = engine.order(specs, journal.Journal(args.out, args.earlier).done())
        for spec in due:
            print(f"{spec.about:4.0f} s  {spec.id}")
        print(f"{len(due)} rows, about {sum(spec.about for spec in due) / 60:.0f} minutes")
        return 0
    device = torch.device("cpu" if args.tiny else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        p.error(f"torch {torch.__version__} sees no CUDA GPU; --tiny tries everything out on the CPU")
    log = journal.Journal(args.out, args.earlier)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--worker"]
    log.add("run", **engine.provenance(device, size, words))
    b = bench.Bench(device, size, args.out.resolve(), args.text, max(1, args.workers))
    gc.freeze()  # what was imported is there to stay: looking through it anew took most of the time of a small row
    try:
        return LEFT if engine.run(specs, b, log, args.minutes - (time.monotonic() - START) / 60) else 0
    except Exception:  # between two rows: what is done is written, and another process may get further
        traceback.print_exc()
        return engine.LOST


def supervised(words: list[str], minutes: float) -> int:
    """The rows in a process of their own, and another one where that is lost: a row that hangs, a card that is upset.

    Nothing heavy is imported here, so that this process outlives whatever happens in the other.
    """
    for _ in range(RESTARTS):
        rest = minutes - (time.monotonic() - START) / 60
        status = subprocess.call([sys.executable, str(HERE / "run.py"), *words, "--minutes", str(rest), "--worker"])
        if status in (0, 1, 2, LEFT) or rest < 1.5:  # 1: it did not even begin, and no other would
            break
        print(f"the process ended with status {status}: another one goes on", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
