"""The closing questions of a lesson: a few options each, and for every option the reason why it is right or wrong.

They stand in assets/quizzes/NN.toml. With a kernel they are buttons, reached with Tab and pressed with Space; without
one the same questions are text with folded answers. `practice.check("04-1", "B")` answers one without any widget.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_lab import progress
from lora_lab.attempt import Verdict
from lora_lab.markup import Html, join, prose, tag

FOLDER = Path(__file__).parent / "assets" / "quizzes"
LETTERS = "ABCDEF"


@dataclass(frozen=True)
class Option:
    """What a learner may choose, whether it is right, and why or why not."""

    text: str
    say: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """One question of a quiz; its id is the lesson's number and its own, "04-1"."""

    id: str
    ask: str
    options: tuple[Option, ...]

    @property
    def right(self) -> str:
        """The letter of the right option."""
        return LETTERS[next(at for at, option in enumerate(self.options) if option.right)]


@functools.cache
def of(lesson: str) -> tuple[Question, ...]:
    """The questions of a lesson ("04"). Raises ValueError where it has none."""
    file = FOLDER / f"{lesson}.toml"
    if not file.exists():
        raise ValueError(f"no quiz for lesson {lesson!r}; there are {', '.join(lessons())}")
    read = tomllib.loads(file.read_text(encoding="utf-8"))["question"]
    return tuple(Question(q["id"], q["ask"], tuple(Option(**option) for option in q["option"])) for q in read)


def lessons() -> list[str]:
    """Numbers of the lessons that have a quiz."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def find(name: str) -> Question | None:
    """The question of that id, or None."""
    lesson = str(name).partition("-")[0]
    return next((q for q in (of(lesson) if lesson in lessons() else ()) if q.id == name), None)


def judge(question: Question, answer: Any) -> Verdict:
    """The verdict on a letter, upper or lower case; what is no letter of an option gets a line that says so."""
    letters = LETTERS[: len(question.options)]
    letter = str(answer).strip().upper()
    if len(letter) != 1 or letter not in letters:
        return Verdict(False, f"not yet: answer {question.id} with one of the letters {', '.join(letters)}.")
    option = question.options[letters.index(letter)]
    return Verdict(option.right, f"Right. {option.say}" if option.right else f"not yet: {option.say}")


def show(lesson: str) -> None:
    """Display the quiz of a lesson: buttons with a kernel, folded answers without one."""
    from lora_lab import panel

    questions = of(lesson)
    box = panel.column(*map(asked, questions))
    panel.show(box, join(map(folded, questions)), f"{len(questions)} questions")


def asked(question: Question) -> Any:
    """One question as widgets: its text, a button for each option, and below them what the chosen one deserves."""
    from lora_lab import panel

    said = panel.words()

    def answer(letter: str) -> None:
        verdict = judge(question, letter)
        panel.say(said, tag("b", f"{letter}:"), " ", prose(verdict.message))
        progress.record(question.id, verdict.passed)

    buttons = [
        panel.button(letter, functools.partial(answer, letter), f"{letter}: {option.text}")
        for letter, option in zip(LETTERS, question.options, strict=False)
    ]
    return panel.column(panel.words(join(listed(question))), panel.row(*buttons), said)


def listed(question: Question) -> list[Html]:
    """The question and its options, lettered."""
    options = [tag("li", prose(option.text)) for option in question.options]
    return [tag("p", tag("b", prose(question.ask))), tag("ol", *options, style="list-style-type: upper-alpha")]


def folded(question: Question) -> Html:
    """One question as HTML for readers without a kernel; the answer is folded."""
    right = next(option for option in question.options if option.right)
    answer = f"{question.right}: {right.say}"
    return join([*listed(question), tag("details", tag("summary", "The answer to this one"), prose(answer))])
