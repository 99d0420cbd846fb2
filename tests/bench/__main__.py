"""`python -m tests.bench`: time LoRA Lab against peft in one process, and print the bars beside the ratios."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import peft
import psutil
import torch

from lora_lab import experiments
from tests.bench import cases, serving
from tests.bench.timing import quartiles, time_pair

ROOT = Path(__file__).parent.parent.parent
RECORDED = experiments.FOLDER / "bench.json"
# (start of a row's name, size) -> least and most median ratio of ours to what it is measured against
BARS = {
    ("training step", "d=1024"): (0, 1.02),
    ("training step", "d=4096"): (0, 1.02),
    ("DoRA training step", "d=4096"): (0, 0.77),  # 1.3 times as fast
    ("merge, keep_backup=False", "d=4096"): (0, 1.3),  # of one addmm_
    ("merge, exact backup", "d=4096"): (0, 2.2),
    ("merge + exact unmerge", "d=4096"): (0, 0.25),
    ("mixed batch", "24 x 1024"): (0, 1.5),  # of the base model's forward
    ("switch", "24 x 1024"): (0, 0.05),
    ("attach", "24 x 1024"): (0, 1),
    ("merged inference", "d=1024"): (0.97, 1.03),
    ("merged inference", "d=4096"): (0.97, 1.03),
}


def all_cases(sizes: tuple[int, ...], tokens: int = 512, stack: tuple[int, int] = (1024, 24)) -> Iterator[cases.Case]:
    """Every case, made one at a time: the copies of a 4096 x 4096 layer take hundreds of megabytes."""
    for size in sizes:
        for setting in ("mid-network", "first layer", "with AdamW"):
            yield cases.training_step(size, tokens, setting)
        yield serving.dora_step(size, tokens)
        yield cases.inference(size, tokens, merged=False)
        yield cases.inference(size, tokens, merged=True)
        yield cases.merging(size, safe=False)
        yield cases.merging(size, safe=True)
        yield serving.merge_once(size, keep_backup=True)
        yield serving.merge_once(size, keep_backup=False)
    yield serving.mixed(*stack, rows=64)
    yield cases.switching(*stack)
    yield serving.attach(*stack)
    with tempfile.TemporaryDirectory() as folder:
        yield cases.disk(*stack, Path(folder))
        yield serving.swapping(*stack, Path(folder))


def measure(case: cases.Case, rounds: int, round_seconds: float = 0.25) -> Iterator[dict]:
    """Time a case: a row of the table for each of its entries and each side but the last, times in ms for one run."""
    *sides, against = case.sides
    results, runs = time_pair(case.sides, rounds, round_seconds)

    def spent(side: str, clock: int, parts: tuple[str, ...]) -> list[float]:
        return [1e3 / runs * sum(round_[side][part][clock] for part in parts) for round_ in results]

    for (what, parts), side in itertools.product(case.rows.items(), sides):
        wall, processor = ((spent(side, clock, parts), spent(against, clock, parts)) for clock in (0, 1))
        low, median, high = quartiles(*wall)
        bar = next((b for (start, size), b in BARS.items() if what.startswith(start) and size == case.size), None)
        bar = bar if side == "ours" else None
        yield {
            "what": what,
            "size": case.size,
            "side": side,
            "against": against,
            "milliseconds": [statistics.median(times) for times in wall],
            "ratio": median,
            "quartiles": [low, high],
            # None where the processor's clock is too coarse for a run so short
            "processor_ratio": quartiles(*processor)[1] if all(processor[1]) else None,
            "rounds": rounds,
            "runs_per_round": runs,
            "bar": bar,
            "met": None if bar is None else bar[0] <= median <= bar[1],
        }


HEAD = (
    f"{'':<29}{'size':<10}{'':<5}{'ms':>9} {'against':>9} {'ms':<6} {'ratio':>6} {'[quartiles]':^16}  {'CPU':<5}  bar"
)


def line(row: dict) -> str:
    """A row as text."""
    (ours, theirs), (low, high), processor = row["milliseconds"], row["quartiles"], row["processor_ratio"]
    text = f"{row['what']:<29}{row['size']:<10}{row['side']:<5}{ours:9.3f} {theirs:9.3f} {row['against']:<6} "
    text += (
        f"{row['ratio']:6.3f} [{low:6.3f}, {high:6.3f}]  {'-' if processor is None else format(processor, '.3f'):<5}"
    )
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
    parser.add_argument("--record", action="store_true", help=f"write it all to {RECORDED.relative_to(ROOT)} too")
    args = parser.parse_args(argv)
    rounds = 5 if args.quick else args.rounds
    if rounds < 2 or args.threads < 1:
        parser.error(f"expected at least 2 rounds and 1 thread, got {rounds} and {args.threads}")
    if args.record and (args.only or rounds < 15 or args.threads > 1):
        parser.error("what is recorded has every case, 15 rounds or more and one thread")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"no folder {args.json.parent} to write {args.json.name} to")
    torch.set_num_threads(args.threads)
    start, load = time.monotonic(), psutil.getloadavg()[0]
    machine = f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    print(f"{machine}, {os.cpu_count()} cores, {args.threads} threads, load {load:.1f}", end="; ")
    print(f"torch {torch.__version__}, peft {peft.__version__}")
    print(f"{rounds} rounds" + (": a look, not a result; that takes 15 and an idle machine" if rounds < 15 else ""))
    print(f"float32, 512 tokens, rank {cases.RANK}, dropout 0. A ratio below 1 is faster than what it is against")
    print(f"\n{HEAD}")
    rows = []
    for case in all_cases((1024, 4096)):
        if any(args.only in what for what in case.rows):
            for row in measure(case, rounds):
                print(line(row), flush=True)
                rows.append(row)
    more = {} if args.only else beside_time()
    judged = [row for row in rows if row["bar"]]
    settings = {"rounds": rounds, "threads": args.threads, "tokens": 512, "rank": cases.RANK, "processor": machine}
    settings |= {"load_before": round(load, 1), "load_after": round(psutil.getloadavg()[0], 1)}
    print(
        f"\nbars met: {sum(row['met'] for row in judged)} of {len(judged)}; load at the end: {settings['load_after']}"
    )
    result = experiments.provenance("bench", 0, time.monotonic() - start) | {
        "command": " ".join(["python -m tests.bench", *(sys.argv[1:] if argv is None else argv)]),
        "about": "the time of each operation over peft's, or over the least it could take; paired by round",
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings,
        **more,
        "rows": rows,
    }
    result["versions"]["peft"] = peft.__version__
    for path in [args.json] * bool(args.json) + [RECORDED] * args.record:
        experiments.write(result, path)
    return 0


def beside_time() -> dict:
    """What is compared beside times: exactness of unmerging, memory, and DoRA's gradients. Prints them."""
    restored = {str(t): cases.restore_error(1024, t) for t in (torch.float32, torch.bfloat16)}
    kept = {str(size): cases.kept_for_backward(size) for size in (1024, 4096)}
    gradients = serving.dora_gradients(4096)
    print("\nlargest change of a weight after 100 merges and unmerges, d=1024:")
    for dtype, error in restored.items():
        print(f"  {dtype}: ours {error['ours']:g}, peft {error['peft']:.2g}")
    print("bytes one layer keeps for the backward besides its parameters:")
    for size, sides in kept.items():
        print(f"  d={size}: ours {sides['ours']:,}, peft {sides['peft']:,}")
    print("DoRA's gradients, relative difference from peft's, d=4096:")
    print("  " + ", ".join(f"{of} {error:.1e}" for of, error in gradients.items()))
    return {"restore_error": restored, "kept_for_backward": kept, "dora_gradients": gradients}


if __name__ == "__main__":
    sys.exit(main())
