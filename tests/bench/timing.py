"""Paired timing: both sides take turns, in random order, and only their ratio within a round counts.

A machine's speed drifts with its load and heat, so a time says little and a ratio of neighbours says much.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

# What one side does, in order: (part, call). Parts are timed by name; a part named "" is run but not timed.
Steps = Sequence[tuple[str, Callable[[], object]]]
Spent = dict[str, tuple[float, float]]  # {part: (seconds on the wall clock, seconds of processor time)}
MOST_REPEATS = 200


def quartiles(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of ours / theirs, one ratio per round (linear interpolation).

    Raises ValueError for fewer than two rounds, or unequal numbers of them.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"expected at least two pairs of times, got {len(ours)} and {len(theirs)}")
    low, median, high = statistics.quantiles(
        [a / b for a, b in zip(ours, theirs, strict=True)], n=4, method="inclusive"
    )
    return low, median, high


def run_steps(steps: Steps, spent: Spent) -> Spent:
    """Run one side once, and add what it took to `spent`."""
    for part, call in steps:
        wall, processor = time.perf_counter(), time.process_time()
        call()
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        if part:
            before = spent.get(part, (0.0, 0.0))
            spent[part] = (before[0] + wall, before[1] + processor)
    return spent


def time_pair(sides: Mapping[str, Steps], rounds: int, round_seconds: float) -> tuple[list[dict[str, Spent]], int]:
    """What each side spent in each round, and how often it ran in a round: the sides interleaved, in random order.

    Two runs of each side warm it up; the second says how often a side must run to fill `round_seconds`, so that
    short operations are far above the clock's resolution. Garbage is collected between rounds, never inside one.
    """
    shuffle = random.Random(0).shuffle
    order, results = list(sides), []
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there now need not be looked through again, so that collecting is quick
    try:
        warm = [[run_steps(sides[side], {}) for side in order] for _ in range(2)][-1]
        slowest = max(sum(wall for wall, _ in spent.values()) for spent in warm)
        repeats = min(MOST_REPEATS, max(1, math.ceil(round_seconds / slowest)))
        for _ in range(rounds):
            gc.collect()
            results.append({side: {} for side in sides})
            for _ in range(repeats):
                shuffle(order)
                for side in order:
                    run_steps(sides[side], results[-1][side])
    finally:
        gc.unfreeze()
        gc.enable()
    return results, repeats
