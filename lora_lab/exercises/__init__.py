"""The course's exercises: one file for each lesson, in it a function for each exercise, which checks an answer.

    @exercise("04", "too large?", difficulty=1, importance=2, minutes=3, hints=(..., ...), expect=(...,))
    def break_even(attempt: Attempt) -> str | None:
        '''What is asked, in a sentence.'''
        attempt.agree(attempt.whole(attempt(4096, 4096)), 2048, {"...": 1024}, case="W [4096, 4096]")
        return 'what a learner reads after "Right."'

The function's name is the exercise's. It raises NotYet (through `attempt`, or `expect`) with a line that names the
mistake. tests/mutants holds the wrong answers that each must refuse by name.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from lora_lab.attempt import Attempt
from lora_lab.config import did_you_mean

Check = Callable[[Attempt], str | None]


@dataclass(frozen=True)
class Exercise:
    """One exercise. `difficulty` and `importance` are 1 to 3; `hints` are the second and the third one, since the first
    is the check's own answer; `expect` says which wrong answers a teacher will see, and what is behind each."""

    name: str
    lesson: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    hints: tuple[str, ...]
    expect: tuple[str, ...]
    check: Check

    @property
    def line(self) -> str:
        """The line under the exercise's heading in its lesson."""
        dots = {n: "●" * n + "○" * (3 - n) for n in (1, 2, 3)}
        return f"*difficulty {dots[self.difficulty]}, importance {dots[self.importance]}, {self.minutes} minutes*"


def exercise(
    lesson: str,
    title: str,
    *,
    difficulty: int,
    importance: int,
    minutes: int,
    hints: tuple[str, str],
    expect: tuple[str, ...],
) -> Callable[[Check], Check]:
    """Mark a check function as an exercise of `lesson` ("04")."""

    def mark(check: Check) -> Check:
        check.exercise = Exercise(check.__name__, lesson, title, difficulty, importance, minutes, hints, expect, check)
        return check

    return mark


@functools.cache
def every() -> dict[str, Exercise]:
    """All exercises by name, in the order of the lessons."""
    found: dict[str, Exercise] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for function in vars(loaded).values():
            made = getattr(function, "exercise", None)
            if isinstance(made, Exercise) and function.__module__ == loaded.__name__:
                if made.name in found:
                    raise ValueError(f"two exercises are called {made.name!r}")
                found[made.name] = made
    return found


def find(name: str) -> Exercise:
    """The exercise of that name. Raises ValueError, with the nearest name, for one that is not there."""
    if not isinstance(name, str):
        raise ValueError("the exercise's name comes first, in quotes, and then your answer.")
    if name not in every():
        raise ValueError(f"no exercise {name!r}.{did_you_mean(name, every())}")
    return every()[name]
