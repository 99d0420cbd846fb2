"""Whiteboard drills: a small sum with fresh numbers, judged exactly, its usual mistakes known by name.

    drill = drills.make("gqa", seed=3)
    drill.check("3,407,872")

A kind and a seed give the same drill on every machine and Python. What each kind asks is in `drill_kinds`.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from lora_lab.attempt import Verdict
from lora_lab.interview import drill_kinds

KINDS: dict[str, str] = {kind: title for kind, (title, _) in drill_kinds.KINDS.items()}
HINTS: Mapping[str, str] = drill_kinds.HINTS
Number = int | float


@dataclass(frozen=True)
class Drill:
    """A question with one number for an answer.

    tolerance is absolute, in `unit`; 0 means that the answer is a whole number and must be met exactly. mistakes: name
    of a usual mistake -> the value that it gives; no two values, and none and the answer, can be taken for each other.
    text and solution are Markdown.
    """

    kind: str
    seed: int | str
    text: str
    answer: Number
    unit: str
    tolerance: float
    mistakes: Mapping[str, Number]
    solution: str

    def check(self, value: object) -> Verdict:
        """Judge a value, print the message, and return the verdict."""
        verdict = judge(self, value)
        print(verdict.message)
        return verdict


def make(kind: str, seed: int | str) -> Drill:
    """The drill of this kind and seed. Raises ValueError, with the kinds there are, for another kind."""
    if kind not in KINDS:
        raise ValueError(f"no drill {kind!r}. Kinds are {', '.join(KINDS)}.")
    # Only random() gives the same numbers for the same seed in every Python; choice() and sample() may change.
    uniform = random.Random(f"{kind} {seed}").random
    for _ in range(200):
        drawn = drill_kinds.KINDS[kind][1](lambda options: options[int(uniform() * len(options))])
        if _told_apart(drawn):
            return Drill(kind, seed, **drawn)
    raise AssertionError(f"{kind} {seed}: no numbers found that tell the mistakes apart")


def judge(drill: Drill, value: object) -> Verdict:
    """Whether a number, or a text with one in it, is the drill's answer; never raises.

    A value that a usual mistake gives is answered with that mistake's name and a hint.
    """
    number = read_number(value)
    if number is None:
        return Verdict(
            False, f"not yet: I read no single number in {str(value)[:40]!r}. Write one such as {_example(drill)}."
        )
    if _near(number, drill.answer, drill):
        return Verdict(True, f"Right: {said(drill.answer, drill.unit)}.")
    for name, wrong in drill.mistakes.items():
        if _near(number, wrong, drill):
            return Verdict(False, f"not yet: {said(number, drill.unit)} looks like this mistake: {name}. {HINTS[name]}")
    if number == 0 or not math.isfinite(number) or (number < 0) != (drill.answer < 0):
        return Verdict(False, "not yet: look at the sign and the size first.")
    ratio = number / drill.answer
    size = "too large" if abs(ratio) > 1 else "too small"
    look = "look for a slip in the arithmetic."
    if drill.tolerance == 0:
        look = "the whole number is asked exactly, so look for rounding, or for a slip in the arithmetic."
    near = f" You are near: {look}" if 0.9 < ratio < 1.1 else ""
    return Verdict(False, f"not yet: {said(number, drill.unit)} is {size}.{near}")


def read_number(value: object) -> Number | None:
    """The number that a learner gave: an int, a float, or a text with exactly one number in it; None for anything else.

    >>> read_number("4,194,304"), read_number("0.39 %"), read_number("about 4.2 million"), read_number("8 x 4096")
    (4194304, 0.39, 4200000.0, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    if not isinstance(value, str):  # a number of numpy or torch
        try:
            return read_number(float(value))
        except Exception:
            return None
    text = re.sub(r"(?<=\d)[,_\s\u202f\u00a0](?=\d{3}(?!\d))", "", value[:200].replace("\u2212", "-"))
    number_and_word = r"(?<![\w.])([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\d|\.\d)(?:\s*(million|billion)s?\b)?"
    found = re.findall(number_and_word, text)
    if len(found) != 1:
        return None
    digits, word = found[0]
    number = float(Decimal(digits) * {"million": 10**6, "billion": 10**9}.get(word, 1))  # as written: 4.19 million
    if not math.isfinite(number):
        return None
    return int(digits) if re.fullmatch(r"[-+]?\d+", digits) and not word else number


def said(value: Number, unit: str) -> str:
    """A value as people write it.

    >>> said(4194304, "parameters"), said(0.39062, "%"), said(16.777216, "MB")
    ('4,194,304 parameters', '0.3906 %', '16.78 MB')
    """
    if abs(value) >= 1e15:
        return f"{float(value):.3g} {unit}".strip()
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def _example(drill: Drill) -> str:
    return "12,288" if drill.tolerance == 0 else f"12.3{' ' if drill.unit else ''}{drill.unit}"


def _radius(value: Number, answer: Number, tolerance: float) -> float:
    """A mistake's value is met with the answer's relative tolerance where it is the larger of the two."""
    return tolerance * max(1.0, abs(value / answer))


def _near(number: Number, target: Number, drill: Drill) -> bool:
    return abs(number - target) <= _radius(target, drill.answer, drill.tolerance)


def _told_apart(drawn: Mapping) -> bool:
    """No value can be taken for another: their ranges do not meet."""
    answer, tolerance = drawn["answer"], drawn["tolerance"]
    if answer == 0:
        return False
    ranges = [(value, _radius(value, answer, tolerance)) for value in (answer, *drawn["mistakes"].values())]
    return all(abs(a - b) > 1.01 * (ra + rb) for (a, ra), (b, rb) in itertools.combinations(ranges, 2))
