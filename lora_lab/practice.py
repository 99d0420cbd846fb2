"""Exercises that answer back: `practice.check("lora_forward", lora_forward)`.

practice.check(name, answer)    "Right.", or "not yet:" and the mistake by name; never an error
practice.hint(name)             the second hint, and asked again, the third
practice.progress()             what you have tried and solved, as a picture and a table
practice.quiz("04")             a lesson's closing questions
"""

from __future__ import annotations

from typing import Any

from lora_lab import exercises, quizzes
from lora_lab import progress as progress_file
from lora_lab.attempt import SECONDS, Attempt, NotYet, TookTooLong, Verdict, is_stub

_hints_given: dict[str, int] = {}


def judge(name: str, answer: Any, *, seconds: float = SECONDS, **given: Any) -> Verdict:
    """Whether `answer` solves exercise `name`, and the line to say about it. Raises ValueError for an unknown name.

    A question of a quiz ("04-1") is answered by its letter.

    `seconds` is what one call of the learner's function may take; `given` is what a lesson hands to its check.
    """
    question = quizzes.find(name)
    if question:
        return quizzes.judge(question, answer)
    task = exercises.find(name)
    if is_stub(answer):
        return Verdict(False, "not yet: this is still the stub. Put your answer where the three dots are.")
    try:
        praise = task.check(Attempt(name, answer, given, seconds))
    except NotYet as mistake:
        return Verdict(False, f"not yet: {mistake}")
    except (Exception, TookTooLong) as error:  # what no check foresaw: still a sentence, never a traceback
        return Verdict(False, f"not yet: the check could not use this answer ({type(error).__name__}: {error}).")
    return Verdict(True, f"Right. {praise or ''}".rstrip())


def check(name: str, answer: Any, **given: Any) -> None:
    """Print what `judge` says, and keep the try in the progress file (an untouched stub is no try)."""
    try:
        verdict = judge(name, answer, **given)
    except ValueError as error:  # a name mistyped is no reason for a traceback either
        print(f"not yet: {error}")
        return
    print(verdict.message)
    if is_stub(answer) or "three dots" in verdict.message:
        return
    if not verdict.passed and not quizzes.find(name):
        print(f'(More help: practice.hint("{name}"). The solution is folded below.)')
    progress_file.record(name, verdict.passed)


def hint(name: str, number: int | None = None) -> None:
    """Print hint `number` (2 or 3; the first is what the check says), or the next one not yet shown."""
    task = exercises.find(name)
    last = len(task.hints) + 1
    if number is None:
        number = min(_hints_given.get(name, 1) + 1, last)
    if number not in range(2, last + 1):
        raise ValueError(f"hint {number} of {name!r}: there are hints 2 to {last}; the first is the check's answer")
    _hints_given[name] = number
    print(f"Hint {number} of {last}: {task.hints[number - 2]}")


def quiz(lesson: str) -> None:
    """Show the closing questions of a lesson ("04")."""
    quizzes.show(lesson)


def progress() -> None:
    """Show what was tried and solved, by lesson, as a picture and a table, and say where that is kept."""
    from IPython.display import Markdown, display

    from lora_lab import figures, figures_practice

    done = progress_file.load()
    rows = by_lesson(done)
    figures.show(figures_practice.solved(rows), figures_practice.finding(rows))
    display(Markdown(table(done)))
    print(f"Kept in {progress_file.path().name}, in this folder unless {progress_file.VARIABLE} says where.")
    print("Move it, or delete it to begin again.")


def by_lesson(done: dict[str, dict]) -> dict[str, tuple[int, int, int]]:
    """Lesson -> (solved, tried and not solved, all exercises), in order."""
    rows: dict[str, tuple[int, int, int]] = {}
    for task in exercises.every().values():
        entry = done.get(task.name)
        solved, tried, all_of_them = rows.get(task.lesson, (0, 0, 0))
        rows[task.lesson] = (
            solved + bool(entry and entry["solved"]),
            tried + bool(entry and not entry["solved"]),
            all_of_them + 1,
        )
    return rows


def table(done: dict[str, dict]) -> str:
    """Every exercise as a row of Markdown: lesson, title, difficulty, tries, solved on."""
    lines = ["| lesson | exercise | difficulty | tries | solved |", "|---|---|---|---|---|"]
    for task in exercises.every().values():
        entry = done.get(task.name, {"tries": 0, "solved": None})
        dots = "●" * task.difficulty + "○" * (3 - task.difficulty)
        lines.append(f"| {task.lesson} | {task.title} | {dots} | {entry['tries'] or ''} | {entry['solved'] or ''} |")
    return "\n".join(lines)
