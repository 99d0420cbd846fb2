"""Wrong answers (mutants) and different right ones for every exercise, kept as the functions learners would write.

@wrong("break_even", says="round down")          # a phrase of the message that names this fault
def not_rounded(o, i):
    return o * i / (o + i)

wrong_value("needed", 64, says="...")            # an exercise whose answer is a value
@wrong("...", says="...", plain=True)            # a wrong type or a constant: at most one for each exercise
@right("break_even")                             # at least two for each exercise, written differently
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An answer to `exercise`; `says` is what the message must contain, `given` what the lesson hands to the check."""

    exercise: str
    label: str
    answer: Any
    says: str = ""
    plain: bool = False
    given: dict[str, Any] = field(default_factory=dict)


# By exercise and label: pytest imports these files twice, once for their doctests.
_right: dict[tuple[str, str], Answer] = {}
_wrong: dict[tuple[str, str], Answer] = {}


def _keep(store: dict[tuple[str, str], Answer], answer: Answer) -> None:
    key = answer.exercise, answer.label
    old = getattr(store.get(key, answer).answer, "__code__", None)
    new = getattr(answer.answer, "__code__", None)
    if old and new and old.co_firstlineno != new.co_firstlineno:
        raise ValueError(f"two answers to {answer.exercise} are called {answer.label}")
    store[key] = answer


def answers_right() -> list[Answer]:
    """Every right answer kept so far."""
    return list(_right.values())


def answers_wrong() -> list[Answer]:
    """Every mutant kept so far."""
    return list(_wrong.values())


def right(exercise: str, **given: Any) -> Callable[[Callable], Callable]:
    """Mark a function as a right answer."""

    def keep(function: Callable) -> Callable:
        _keep(_right, Answer(exercise, function.__name__, function, given=given))
        return function

    return keep


def wrong(exercise: str, says: str, plain: bool = False, **given: Any) -> Callable[[Callable], Callable]:
    """Mark a function as a wrong answer, whose message must contain `says` (in any case)."""

    def keep(function: Callable) -> Callable:
        _keep(_wrong, Answer(exercise, function.__name__, function, says, plain, given))
        return function

    return keep


def right_value(exercise: str, value: Any, label: str = "", **given: Any) -> None:
    """Keep a value (or several functions in a tuple) as a right answer; the label tells it from others."""
    _keep(_right, Answer(exercise, label or repr(value)[:60], value, given=given))


def wrong_value(exercise: str, value: Any, says: str, label: str = "", plain: bool = False, **given: Any) -> None:
    """Keep a value (or several functions in a tuple) as a wrong answer."""
    _keep(_wrong, Answer(exercise, label or repr(value)[:60], value, says, plain, given))
