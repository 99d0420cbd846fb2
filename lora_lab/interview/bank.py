"""The bank of interview questions: what is asked, a good answer, the usual wrong one, and a proof that runs.

It is kept in `assets/interview.toml`. Nothing here needs a notebook; `interview` shows it in one.
"""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_lab import lessons, proofs
from lora_lab.config import did_you_mean
from lora_lab.markup import Html, join, prose, tag

FILE = Path(__file__).parent.parent / "assets" / "interview.toml"
LEVELS = ("screen", "onsite", "expert")  # a first call, a day of talks, a specialist


@dataclass(frozen=True)
class Question:
    """One question of the bank.

    lesson: number of the lesson to read again. proof: name of the function in `proofs` that shows the answer; numbers:
    a number as the answer writes it -> its key in the proof's result. fixed: other numbers -> where they come from.
    change: inputs with which the numbers move. rubric: the three things that a full answer has.
    """

    id: str
    level: str
    topic: str
    lesson: str
    question: str
    answer: str
    wrong: str
    why: str
    source: str
    proof: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    change: tuple[Mapping[str, Any], ...] = ()
    rubric: tuple[str, ...] = ()


@functools.cache
def every() -> tuple[Question, ...]:
    """All questions, in the order of the file. Raises ValueError for an id that stands there twice."""
    read: dict[str, Question] = {}
    for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["question"]:
        if row["id"] in read:
            raise ValueError(f"{FILE.name}: the id {row['id']!r} is taken")
        lists = {name: tuple(row.get(name, ())) for name in ("change", "rubric")}
        read[row["id"]] = Question(**row | lists)
    return tuple(read.values())


def chosen(level: str | None = None, topic: str | None = None, lesson: str | None = None) -> list[Question]:
    """The questions of a level, topic and lesson ("04"). Raises ValueError for one that no question has."""
    questions = list(every())
    for name, wanted in (("level", level), ("topic", topic), ("lesson", lesson)):
        if wanted is not None:
            there = dict.fromkeys(getattr(question, name) for question in every())
            if wanted not in there:
                raise ValueError(f"no question has the {name} {wanted!r}.{_near(wanted, there)}")
            questions = [question for question in questions if getattr(question, name) == wanted]
    return questions


def find(name: str) -> Question:
    """The question of that id. Raises ValueError, with the nearest id, for one that is not there."""
    questions = {question.id: question for question in every()}
    if name not in questions:
        raise ValueError(f"no question {name!r}.{_near(name, questions)}")
    return questions[name]


def _near(name: object, known: Mapping[str, object]) -> str:
    return did_you_mean(str(name), known) or f" There are {', '.join(list(known)[:20])}."


def proved(name: str, **changed: Any) -> tuple[dict[str, Any], proofs.Result]:
    """(inputs, results) of a question's proof, at its defaults or with inputs changed.

    Raises ValueError for an input that the proof has not, naming those it has.
    """
    question = find(name)
    parameters = inspect.signature(proofs.find(question.proof)).parameters
    inputs = {key: parameter.default for key, parameter in parameters.items()}
    for key in changed:
        if key not in inputs:
            raise ValueError(
                f"{question.proof} has no input {key!r}.{_near(key, inputs) if inputs else ' It has none.'}"
            )
    return inputs | changed, proofs.run(question.proof, **changed)


def proof_text(name: str, **changed: Any) -> str:
    """What a question's proof was given and found, one a line, with the numbers of the answer beside theirs."""
    question = find(name)
    inputs, results = proved(name, **changed)
    written = {key: [text for text, where in question.numbers.items() if where == key] for key in results}
    wide, long = max(map(len, [*inputs, *results])), max(len(proofs.said(value)) for value in results.values())
    lines = [question.question, f"proof: {question.proof}", *(["inputs"] if inputs else [])]
    lines += [f"  {key:{wide}}  {proofs.said(inputs[key])}{'   (changed)' if key in changed else ''}" for key in inputs]
    lines.append("results" if inputs else "results (it has no inputs)")
    for key, value in results.items():
        texts = " and ".join(written[key])
        lines.append(f"  {key:{wide}}  {proofs.said(value):{long}}{f'   the answer says {texts}' if texts else ''}")
    return "\n".join(line.rstrip() for line in lines)


def lesson_file(number: str) -> str:
    """File name of a lesson's notebook.

    >>> lesson_file("03")
    '03_lora_from_scratch.ipynb'
    """
    return f"{number}_{_lesson_name(number).replace(' ', '_').replace('-', '').lower()}.ipynb"


def _lesson_name(number: str) -> str:
    return {n: name for n, name, _ in lessons.LESSONS}[number]


def lesson_link(number: str) -> Html:
    """A link to a lesson, for a page or notebook that lies beside it."""
    words = f"lesson {number}, {_lesson_name(number)}"
    return tag("a", words, href=lesson_file(number), target="_blank", style="text-decoration: underline")


def answer(question: Question) -> Html:
    """All that is kept about a question, as it stands below it."""
    return join(
        [
            tag("p", prose(question.answer)),
            tag("p", tag("b", "Loses marks: "), tag("i", prose(question.wrong)), " ", prose(question.why)),
            tag(
                "p",
                "Source: ",
                prose(question.source),
                ". Read again: ",
                lesson_link(question.lesson),
                ". Proof: ",
                tag("code", f'interview.prove("{question.id}")', style="white-space: nowrap"),
            ),
        ]
    )


def folded(question: Question) -> Html:
    """A question whose answer opens when it is asked for."""
    return tag("details", tag("summary", prose(question.question)), answer(question))


def table(questions: list[Question]) -> Html:
    """Questions as a table: level, topic, and the question with its answer folded below it."""
    head = tag("tr", *(tag("th", name, scope="col", style=LEFT) for name in ("level", "topic", "question")))
    rows = [
        tag("tr", *(tag("td", cell, style=LEFT) for cell in (question.level, question.topic, folded(question))))
        for question in questions
    ]
    return tag("table", head, *rows)


LEFT = "text-align: left; vertical-align: top"
