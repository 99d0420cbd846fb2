"""`python -m tests.bench`: time LoRA Lab against peft in one process, and print the bars beside the ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import psutil
import torch

from tests.bench import cases
from tests.bench.timing import quartiles, time_pair

# (start of a row's name, size) -> least and most median ratio of ours / theirs
BARS = {
    ("training step", "d=1024"): (0, 1.02),
    ("training step", "d=4096"): (0, 1.02),
    ("merge + exact unmerge", "d=4096"): (0, 0.25),
    ("switch", "24 x 1024"): (0, 0.1),
    ("merged inference", "d=1024"): (0.97, 1.03),
    ("merged inference", "d=4096"): (0.97, 1.03),
}


def measure(case: cases.Case, rounds: int, round_seconds: float = 0.25) -> Iterator[dict]:
    """Time a case: one row of the table for each of its entries, times in milliseconds for one run."""
    ours, against = case.sides
    results, runs = time_pair(case.sides, rounds, round_seconds)
    for what, parts in case.rows.items():

        def spent(side: str, clock: int, parts: tuple[str, ...] = parts) -> list[float]:
            return [1e3 / runs * sum(round_[side][part][clock] for part in parts) for round_ in results]

        wall, processor = ((spent(ours, clock), spent(against, clock)) for clock in (0, 1))
        low, median, high = quartiles(*wall)
        bar = next((b for (start, size), b in BARS.items() if what.startswith(start) and size == case.size), None)
        yield {
            "what": what,
            "size": case.size,
            "against": against,
            "milliseconds": [statistics.median(side) for side in wall],
            "ratio": median,
            "quartiles": [low, high],
            # None where the processor's clock is too coarse for a run so short
            "processor_ratio": quartiles(*processor)[1] if all(processor[1]) else None,
            "rounds": rounds,
            "runs_per_round": runs,
            "bar": bar,
            "met": None if bar is None else bar[0] <= median <= bar[1],
        }


HEAD = f"{'':<29}{'size':<10}{'ours ms':>9} {'theirs ms':>9} {'':<6} {'ratio':>6} {'[quartiles]':^16}  {'CPU':<5}  bar"


def line(row: dict) -> str:
    """A row as text."""
    (ours, theirs), (low, high), processor = row["milliseconds"], row["quartiles"], row["processor_ratio"]
    text = f"{row['what']:<29}{row['size']:<10}{ours:9.3f} {theirs:9.3f} {row['against']:<6} {row['ratio']:6.3f} "
    text += f"[{low:6.3f}, {high:6.3f}]  {'-' if processor is None else format(processor, '.3f'):<5}"
    if row["bar"]:
        least, most = row["bar"]
        text += f"  {least} to {most}" if least else f"  at most {most}"
        text += ": met" if row["met"] else ": NOT met"
    return text.rstrip()


def main(argv: list[str] | None = None) -> int:
    """Run every case. The exit status is 0 whatever the ratios are: a time is no test."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds per case, at least 2 (default 21)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1: more need an idle machine)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only the cases with these words in a row's name")
    parser.add_argument("--quick", action="store_true", help="5 rounds: to see that it works, not to publish")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it all to FILE too")
    args = parser.parse_args(argv)
    rounds = 5 if args.quick else args.rounds
    if rounds < 2 or args.threads < 1:
        parser.error(f"expected at least 2 rounds and 1 thread, got {rounds} and {args.threads}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"no folder {args.json.parent} to write {args.json.name} to")
    torch.set_num_threads(args.threads)
    report: dict = {
        "machine": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "peft": peft.__version__},
        "load_before": round(psutil.getloadavg()[0], 1),
    }
    print(*(f"{key}: {value}" for key, value in report.items()), sep="; ")
    print(f"{rounds} rounds" + (": a look, not a result; that takes 15 and an idle machine" if rounds < 15 else ""))
    print(f"float32, 512 tokens, rank {cases.RANK}, dropout 0. Ratio: ours / theirs; below 1 ours is faster\n\n{HEAD}")
    rows = report["rows"] = []
    for case in cases.all_cases((1024, 4096)):
        if any(args.only in what for what in case.rows):
            for row in measure(case, rounds):
                print(line(row), flush=True)
                rows.append(row)
    if not args.only:
        report["restore_error"] = {str(t): cases.restore_error(1024, t) for t in (torch.float32, torch.bfloat16)}
        report["kept_for_backward"] = {size: cases.kept_for_backward(size) for size in (1024, 4096)}
        print("\nlargest change of a weight after 100 merges and unmerges, d=1024:")
        for dtype, error in report["restore_error"].items():
            print(f"  {dtype}: ours {error['ours']:g}, peft {error['peft']:.2g}")
        print("bytes one layer keeps for the backward besides its parameters:")
        for size, kept in report["kept_for_backward"].items():
            print(f"  d={size}: ours {kept['ours']:,}, peft {kept['peft']:,}")
    report["load_after"] = round(psutil.getloadavg()[0], 1)
    judged = [row for row in rows if row["bar"]]
    print(f"\nbars met: {sum(row['met'] for row in judged)} of {len(judged)}; load at the end: {report['load_after']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
