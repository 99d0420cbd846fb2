"""Every check refuses every wrong answer and says why, and accepts right ones however they are written."""

from __future__ import annotations

import importlib
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from lora_lab import exercises, practice
from tests.mutants import answers_right, answers_wrong

for _file in sorted(Path(__file__).parent.glob("lesson_*.py")):
    importlib.import_module(f"tests.mutants.{_file.stem}")

NAMES = list(exercises.every())
RIGHT, WRONG = answers_right(), answers_wrong()
LEAST_WRONG, LEAST_RIGHT, LEAST_EXERCISES = 6, 2, 40


def label(answer):
    return f"{answer.exercise}-{answer.label}"


def given(name):
    """What the lesson hands to this exercise's check, as its first right answer has it."""
    return next(answer.given for answer in RIGHT if answer.exercise == name)


def test_there_are_enough_exercises():
    assert len(NAMES) >= LEAST_EXERCISES


def test_answers_belong_to_exercises():
    assert {answer.exercise for answer in RIGHT + WRONG} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_has_enough_answers_and_says_what_it_is(name):
    task = exercises.find(name)
    wrong = [answer for answer in WRONG if answer.exercise == name]
    assert len(wrong) - sum(answer.plain for answer in wrong) + min(1, sum(a.plain for a in wrong)) >= LEAST_WRONG
    assert sum(answer.plain for answer in wrong) <= 1, "at most one wrong type or constant"
    assert sum(answer.exercise == name for answer in RIGHT) >= LEAST_RIGHT
    assert len({answer.says.lower() for answer in wrong}) >= 4, "the messages hardly differ"
    assert all(len(answer.says) >= 8 for answer in wrong)
    assert {task.difficulty, task.importance} <= {1, 2, 3} and 1 <= task.minutes <= 15
    assert len(task.hints) == 2 and all(len(hint.split()) >= 5 for hint in task.hints)
    assert task.expect and task.check.__doc__


@pytest.mark.parametrize("answer", RIGHT, ids=label)
def test_right_answers_pass(answer):
    verdict = practice.judge(answer.exercise, answer.answer, **answer.given)
    assert verdict.passed, verdict.message
    assert verdict.message.startswith("Right.")


@pytest.mark.parametrize("answer", WRONG, ids=label)
def test_mutants_are_killed_by_name(answer):
    verdict = practice.judge(answer.exercise, answer.answer, **answer.given)
    assert not verdict.passed
    assert verdict.message.startswith("not yet: ") and "could not use" not in verdict.message
    assert answer.says.lower() in verdict.message.lower()


def test_an_exercise_tells_its_mistakes_apart():
    """A message that fits everything names nothing: no one message may answer most mutants of an exercise."""
    said = defaultdict(list)
    for answer in WRONG:
        said[answer.exercise].append(practice.judge(answer.exercise, answer.answer, **answer.given).message)
    dull = {n: Counter(m).most_common(1)[0] for n, m in said.items() if Counter(m).most_common(1)[0][1] > len(m) / 2}
    assert dull == {}


FUNCTIONS = [answer for name in NAMES for answer in RIGHT if answer.exercise == name and callable(answer.answer)]
FIRST = list({answer.exercise: answer for answer in reversed(FUNCTIONS)}.values())


def for_ever(*args, **kwargs):
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            pass


def raises(*args, **kwargs):
    raise KeyError("weight")


def leaves(*args, **kwargs):
    raise SystemExit


@pytest.mark.parametrize("answer", FIRST, ids=label)
def test_whatever_a_function_does_the_answer_is_a_line_that_helps(answer):
    def judged(function):
        return practice.judge(answer.exercise, function, seconds=0.2, **answer.given)

    strange = {
        for_ever: "did not end",
        raises: "KeyError",
        leaves: "SystemExit",
        lambda *a, **k: ...: "three dots",
        lambda: 1: "argument",
    }
    for function, says in strange.items():
        verdict = judged(function)
        assert not verdict.passed and says in verdict.message, (says, verdict.message)
    for nonsense in (None, "eight", {}, [], np.zeros((2, 3, 5)), float("nan"), object(), (1, 2, 3, 4, 5)):
        verdict = judged(lambda *a, _nonsense=nonsense, **k: _nonsense)
        assert not verdict.passed and verdict.message.startswith("not yet: "), nonsense
        assert "could not use" not in verdict.message, (nonsense, verdict.message)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value", [None, "eight", -1.5, [], object(), np.zeros((2, 3, 5))], ids=lambda v: type(v).__name__
)
def test_a_value_in_the_place_of_an_answer_gets_a_line_too(name, value):
    verdict = practice.judge(name, value, **given(name))
    assert not verdict.passed and verdict.message.startswith("not yet: ")
    assert "could not use" not in verdict.message, verdict.message
    assert not practice.judge(name, ..., **given(name)).passed


def spoiled(value):
    """Write into an argument where that is possible; says whether it was."""
    if isinstance(value, list) and value:
        value.append(value[0])
        return True
    if isinstance(value, dict) and value:
        value["spoiled"] = 1
        return True
    if isinstance(value, np.ndarray) and value.ndim:
        value += 1
        return True
    if hasattr(value, "state_dict") and any(True for _ in value.parameters()):
        next(iter(value.parameters())).data.add_(1)
        return True
    if hasattr(value, "detach") and value.ndim:
        value.data.add_(1)
        return True
    return False


@pytest.mark.parametrize("answer", FIRST, ids=label)
def test_an_answer_that_changes_its_input_is_told_so(answer):
    """Unless changing it is the exercise, which the check shows by taking `may_change`."""
    could = []

    def changing(*args, **kwargs):
        result = answer.answer(*args, **kwargs)
        could.append([spoiled(arg) for arg in args])
        return result

    verdict = practice.judge(answer.exercise, changing, **answer.given)
    if any(any(row) for row in could):
        assert not verdict.passed and ("changes its input" in verdict.message or "chang" in verdict.message)
    else:
        assert verdict.passed, verdict.message
