"""Load thousands of damaged adapters: each is refused by an error of ours or loaded as its files say.

python -m tests.fuzz --files 10000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch

from tests.fuzz.mutations import KINDS
from tests.fuzz.run import LOADED, REFUSED, WRONG, Outcome, make, try_file


def table(outcomes: list[Outcome]) -> str:
    """One row for each kind of mutation: how many files, and what came of them."""
    counts = Counter((o.kind, o.result) for o in outcomes)
    lines = [f"{'mutation':<40} {'files':>6} {'loaded':>7} {'refused':>8} {'wrong':>6}"]
    for kind in KINDS:
        row = [counts[kind, result] for result in (LOADED, REFUSED, WRONG)]
        if sum(row):
            lines.append(f"{kind:<40} {sum(row):>6,} {row[0]:>7,} {row[1]:>8,} {row[2]:>6,}")
    total = Counter(o.result for o in outcomes)
    sums = f"{total[LOADED]:>7,} {total[REFUSED]:>8,} {total[WRONG]:>6,}"
    return "\n".join([*lines, f"{'together':<40} {len(outcomes):>6,} {sums}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="how many (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files (default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="file number N alone, shown")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only is not None:
        kind, files, strict = make(args.seed, args.only)
        for file, content in files.items():
            print(f"--- {file}, {len(content):,} bytes\n{content[:3000]!r}")
        print(f"--- {kind}, strict={strict}\n{try_file(args.seed, args.only)}")
        return 0
    start = time.perf_counter()
    outcomes = []
    for number in range(args.files):
        outcomes.append(try_file(args.seed, number))
        if outcomes[-1].result == WRONG:
            print(f"WRONG {outcomes[-1].kind}: {outcomes[-1].why}")
            print(f"      again with: python -m tests.fuzz --seed {args.seed} --only {number}", flush=True)
    print(table(outcomes))
    print(
        "refused by:",
        ", ".join(f"{k} {n:,}" for k, n in Counter(o.why for o in outcomes if o.result == REFUSED).items()),
    )
    print(f"seed {args.seed}, {time.perf_counter() - start:.0f} seconds")
    return int(any(o.result == WRONG for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
