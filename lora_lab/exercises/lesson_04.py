"""Checks of lesson 04, counting."""

from __future__ import annotations

from lora_lab import counting
from lora_lab.attempt import Attempt
from lora_lab.exercises import exercise


@exercise(
    "04",
    "when is an adapter too large?",
    difficulty=1,
    importance=2,
    minutes=3,
    hints=(
        "Write down both counts: rank × (in + out) for A and B, in × out for W. Where are they equal?",
        "rank = in × out / (in + out), and a rank is a whole number: at most, so round down.",
    ),
    expect=(
        "half the width: true for a square W only",
        "a fraction, or rounded up: at the rank above, A and B are larger than W",
    ),
)
def break_even(attempt: Attempt) -> str:
    """The largest whole rank at which A and B have at most as many numbers as W [out, in]."""
    for o, i in ((1024, 4096), (4096, 4096), (10, 512), (7, 9), (3, 100), (1, 8)):
        got = attempt.number(attempt(o, i), f"break_even({o}, {i})")
        attempt.agree(
            got,
            counting.break_even_rank(o, i),
            {
                "that is exact, but a rank is a whole number: round down, so that A and B are at most as large as W.": (
                    o * i / (o + i)
                ),
                "that is the largest rank B A can have at all, not the one at which it stops being smaller.": min(o, i),
                "rounded up: at that rank A and B together are larger than W. Round down.": -(-o * i // (o + i)),
                "half the width is right for a square W only. Set rank × (in + out) = in × out.": min(o, i) // 2,
                "half the width is right for a square W only; in and out count separately.": (o + i) // 4,
                "twice too large: A has rank × in numbers and B another rank × out.": 2 * o * i // (o + i),
            },
            case=f"W [{o}, {i}]",
            tolerance=0,
        )
    return f"For [10, 512] it is 9; rank 32 there costs {32 * 522:,} numbers, W only {10 * 512:,}."
