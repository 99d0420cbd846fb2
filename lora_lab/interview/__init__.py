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

from lora_lab.interview import bank, drill_panel, drills, flashcards, mock_interview, sheet


def questions(level: str | None = None, topic: str | None = None, lesson: str | None = None) -> None:
    """Show the questions of a level, topic and lesson as a table. Raises ValueError for one that none has."""
    from lora_lab import panel

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


def drill(kind: str, seed: int | str | None = None) -> drill_panel.DrillPanel:
    """A whiteboard drill: drills.KINDS names the kinds. Without a seed: other numbers each time."""
    return drill_panel.DrillPanel(drills.make(kind, _seed(seed)))


def _seed(seed: int | str | None) -> int | str:
    return random.randrange(10**6) if seed is None else seed


def cheat_sheet() -> None:
    """Show the cheat sheet, and say how to print it."""
    from lora_lab import panel

    panel.show_html(sheet.in_notebook(), sheet.HOW_TO_PRINT)
    print(sheet.HOW_TO_PRINT)
