"""The interview room: everything that lesson 10 opens.

interview.questions(level=, topic=, lesson=)   the bank as a table, answers folded
interview.prove("count-one-matrix", rank=16)   what is behind an answer, computed, with inputs changed
interview.cards()                              flashcards that come back when you are about to forget
interview.mock(seed=3)                         five questions against the clock, and a report
interview.drill("gqa", seed=3)                 a sum with fresh numbers
interview.cheat_sheet()                        one page to take along
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lora_lab.attempt import Verdict
from lora_lab.interview import bank, drills, flashcards, mock_interview, sheet
from lora_lab.markup import Html, join, prose, tag

Question = bank.Question


def questions(level: str | None = None, topic: str | None = None, lesson: str | None = None) -> None:
    """Show the questions of a level, topic and lesson as a table. Raises ValueError for one that none has."""
    from lora_lab.interview import panel

    found = bank.chosen(level, topic, lesson)
    panel.show_html(bank.table(found), "\n".join(f"{q.id}: {q.question}" for q in found))


def prove(name: str, **changed: Any) -> None:
    """Run the proof of question `name` and print its inputs and results, those of the answer marked.

    Raises ValueError for a question that is not there, or an input that its proof has not.
    """
    print(bank.proof_text(name, **changed))


def cards(level: str | None = None, topic: str | None = None, file: str | Path | None = None) -> flashcards.CardPanel:
    """Flashcards of the bank, or of a level or topic. What you know is kept in `file`: `lora_lab_cards.json` here."""
    easy_first = sorted(bank.chosen(level, topic), key=lambda question: bank.LEVELS.index(question.level))
    return flashcards.CardPanel(flashcards.Deck(easy_first, Path(file) if file else None))


def mock(seed: int | str | None = None, level: str | None = None) -> mock_interview.MockPanel:
    """A timed mock interview of five questions, easy to hard, or all of one level. Without a seed: others each time."""

    def session(seed: int | str) -> mock_interview.Session:
        return mock_interview.Session(mock_interview.draw(bank.every(), seed, level))

    return mock_interview.MockPanel(session(_seed(seed)), another=lambda: session(_seed(None)))


def drill(kind: str, seed: int | str | None = None) -> DrillPanel:
    """A whiteboard drill: drills.KINDS names the kinds. Without a seed: other numbers each time."""
    return DrillPanel(drills.make(kind, _seed(seed)))


def _seed(seed: int | str | None) -> int | str:
    return random.randrange(10**6) if seed is None else seed


def cheat_sheet() -> None:
    """Show the cheat sheet, and say how to print it."""
    from lora_lab.interview import panel

    panel.show_html(sheet.in_notebook(), sheet.HOW_TO_PRINT)
    print(sheet.HOW_TO_PRINT)


class DrillPanel:
    """A drill with a box to type into: Enter or Check judges it, Another draws new numbers, the way can be shown.

    `check(value)` judges without the widgets; `drill` is the drill that is on.
    """

    def __init__(self, drill: drills.Drill) -> None:
        import ipywidgets

        from lora_lab.interview import panel

        self.panel = panel
        self.head, self.said = panel.words(), panel.words()
        layout = ipywidgets.Layout(width="260px")
        self.given = ipywidgets.Text(
            description="Answer", placeholder="a number", continuous_update=False, layout=layout
        )
        self.unit = ipywidgets.Label()
        self.given.observe(lambda change: change["new"].strip() and self.judge(), names="value")
        self.buttons = [
            panel.button("Check", self.judge),
            panel.button("Show the way", self.show_way),
            panel.button("Another", self.another),
        ]
        self.box = panel.column(self.head, panel.row(self.given, self.unit), panel.row(*self.buttons), self.said)
        self.put(drill)

    def put(self, drill: drills.Drill) -> None:
        """Ask this drill."""
        self.drill = drill
        self.given.value = ""
        self.unit.value = drill.unit
        self.panel.say(self.head, tag("p", tag("b", drills.KINDS[drill.kind])), tag("p", prose(drill.text)))
        self.panel.say(self.said)

    def check(self, value: object) -> Verdict:
        """Judge a value, print the message, and return the verdict."""
        return self.drill.check(value)

    def judge(self) -> None:
        """Judge what stands in the box."""
        self.panel.say(self.said, tag("p", prose(drills.judge(self.drill, self.given.value).message)))

    def show_way(self) -> None:
        """Show the worked solution."""
        self.panel.say(self.said, tag("p", prose(self.drill.solution)))

    def another(self) -> None:
        """Draw other numbers of the same kind."""
        self.put(drills.make(self.drill.kind, random.randrange(10**6)))
        self.panel.focus(self.given)

    def twin(self) -> Html:
        """The drill with its solution folded, for readers without a kernel."""
        way = tag("details", tag("summary", "The way"), tag("p", prose(self.drill.solution)))
        return join([tag("p", tag("b", drills.KINDS[self.drill.kind])), tag("p", prose(self.drill.text)), way])

    def _ipython_display_(self) -> None:
        self.panel.show(self.box, self.twin(), self.drill.text)
