"""Flashcards over the question bank: what you know comes back later and later, what you do not comes back at once.

Leitner's boxes (Leitner 1972, "So lernt man lernen"): a card that you knew moves up a box and waits longer, one that
you did not know returns to the first. The state is a small JSON file in the working folder, yours to read, move and
delete: `lora_lab_cards.json`, or where LORA_LAB_CARDS says.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_lab import whole_file
from lora_lab.interview.bank import Question, answer, folded
from lora_lab.markup import Html, join, prose, tag

NAME, VARIABLE = "lora_lab_cards.json", "LORA_LAB_CARDS"
WAITS = (0, 1, 3, 7, 16, 35)  # days until a card of box 0, 1, 2 ... is due again
GRADES = {"again": "I did not know it", "hard": "With effort", "good": "I knew it"}
NEW = 10  # cards never seen before in one sitting: more, and the next days are too full


@dataclass(frozen=True)
class Card:
    """Where a card stands: its box, the day on which it is due (ISO), how often it was answered."""

    box: int
    due: str
    seen: int = 1


Cards = dict[str, Card]


# --- when a card comes back -------------------------------------------------------------------------------------------


def answered(card: Card | None, grade: str, today: datetime.date) -> Card:
    """The card after an answer; None is one that was never seen.

    "again" puts it into box 0, due the same day; "hard" leaves it in its box (box 1 at least); "good" moves it up one.
    Raises ValueError for another grade.
    """
    if grade not in GRADES:
        raise ValueError(f"grade must be one of {', '.join(GRADES)}, got {grade!r}")
    box = card.box if card else 0
    box = {"again": 0, "hard": max(1, box), "good": min(box + 1, len(WAITS) - 1)}[grade]
    due = today + datetime.timedelta(days=WAITS[box])
    return Card(box, due.isoformat(), (card.seen if card else 0) + 1)


def queue(ids: Sequence[str], cards: Mapping[str, Card], today: datetime.date, new: int = NEW) -> list[str]:
    """Ids to ask today, in order: those that are due, longest waiting first, then up to `new` never seen."""
    due = [name for name in ids if name in cards and cards[name].due <= today.isoformat()]
    due.sort(key=lambda name: (cards[name].due, cards[name].box))
    return due + [name for name in ids if name not in cards][:new]


def next_due(ids: Iterable[str], cards: Mapping[str, Card]) -> str | None:
    """The day on which the next card of `ids` is due; None if none was ever seen."""
    return min((cards[name].due for name in ids if name in cards), default=None)


# --- the file ---------------------------------------------------------------------------------------------------------


def path() -> Path:
    """Where the state is, or will be."""
    return Path(os.environ.get(VARIABLE) or NAME).absolute()


def load(file: Path) -> tuple[Cards, str]:
    """(cards, message). A damaged file is set aside under another name, and the message says so; it is "" otherwise.

    Raises OSError for a file that is there and may not be read, or that cannot be set aside.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["cards"]
        return {str(name): _card(row) for name, row in rows.items()}, ""
    except FileNotFoundError:
        return {}, ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, f"{file.name} is damaged: it is now called {_set_aside(file)}, and the cards begin anew."


def _card(row: Mapping[str, object]) -> Card:
    box, due, seen = row["box"], row["due"], row["seen"]
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (box, seen))
    if not whole or not 0 <= box < len(WAITS) or seen < 1:
        raise ValueError(row)
    return Card(box, datetime.date.fromisoformat(due).isoformat(), seen)


def _set_aside(file: Path) -> str:
    aside, number = file.with_name(f"{file.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = file.with_name(f"{file.name}.damaged{number}")
    os.replace(file, aside)
    return aside.name


def save(file: Path, cards: Mapping[str, Card]) -> str:
    """Write the state whole or not at all; returns "" or a sentence that says why it could not be written."""
    about = "LoRA Lab's flashcards: box 0 to 5, and the day on which a card is due. Delete this file to begin again."
    try:
        kept = {"about": about, "format": 1, "cards": {name: asdict(card) for name, card in cards.items()}}
        whole_file.write(file, json.dumps(kept, indent=1) + "\n")
    except OSError as error:
        return f"Not kept: {file.name} cannot be written ({error.strerror})."
    return ""


# --- the sitting ------------------------------------------------------------------------------------------------------


class Deck:
    """A sitting: one card after another. `current` is the question asked, None when there is no more for today."""

    def __init__(
        self,
        questions: Sequence[Question],
        file: Path | None = None,
        today: Callable[[], datetime.date] = datetime.date.today,
        new: int = NEW,
    ) -> None:
        self.questions, self.today = {question.id: question for question in questions}, today
        self.file: Path | None = path() if file is None else Path(file)
        self.new = new
        self.cards, self.message = self._load()
        self.deal()

    def deal(self) -> None:
        """Begin a sitting: what is due today, and a few new cards."""
        self.waiting = queue(list(self.questions), self.cards, self.today(), self.new)
        self.known = 0

    @property
    def current(self) -> Question | None:
        return self.questions[self.waiting[0]] if self.waiting else None

    def grade(self, grade: str) -> None:
        """Grade the current card and go on; "again" asks it once more at the end of this sitting."""
        if self.current is None:
            raise ValueError("there is no card to grade: come back when the next one is due")
        name = self.waiting[0]
        card = answered(self.cards.get(name), grade, self.today())
        del self.waiting[0]
        if grade == "again":
            self.waiting.append(name)
        else:
            self.known += 1
        if self.file is None:
            self.cards = {**self.cards, name: card}
            return
        stored, damage = self._load()  # another notebook may have written it since
        self.cards = {**stored, name: card}
        self.message = " ".join(filter(None, [damage, save(self.file, self.cards) if self.file else ""]))

    def _load(self) -> tuple[Cards, str]:
        try:
            return load(self.file)
        except OSError as error:  # what cannot be read must not be written over
            name, self.file = self.file.name, None
            return {}, f"{name} cannot be read ({error.strerror}): this sitting is not kept."

    def boxes(self) -> list[int]:
        """How many of these questions lie in each box."""
        held = [self.cards[name].box for name in self.questions if name in self.cards]
        return [held.count(box) for box in range(len(WAITS))]


# --- on the page ------------------------------------------------------------------------------------------------------


def front(deck: Deck) -> Html:
    """What is asked, or that there is nothing more today."""
    question = deck.current
    if question is None:
        due = next_due(deck.questions, deck.cards)
        when = f"The next card is due on {due}." if due else "There are no cards."
        return tag("p", tag("b", "No more cards for today. "), when, f" In the boxes: {_boxes(deck)}.")
    left = f"{len(deck.waiting)} to go, {deck.known} known. Level: {question.level}. Topic: {question.topic}."
    return join([tag("p", left), tag("p", tag("b", prose(question.question)))])


def _boxes(deck: Deck) -> str:
    return ", ".join(f"{count} in box {box}" for box, count in enumerate(deck.boxes()) if count) or "none yet"


def twin(deck: Deck, how_many: int = 3) -> Html:
    """The first questions with folded answers, for readers without a kernel."""
    first = list(deck.questions.values())[:how_many]
    said = f"The first {len(first)} of {len(deck.questions)} cards; with a kernel they are dealt one by one."
    return join([tag("p", said), *map(folded, first)])


class CardPanel:
    """The sitting as buttons: Show the answer, then one of three grades. Tab and Space (or Enter) are enough."""

    def __init__(self, deck: Deck) -> None:
        from lora_lab import panel

        self.deck, self.panel = deck, panel
        self.front, self.back, self.note = panel.words(), panel.words(), panel.words()
        self.reveal = panel.button("Show the answer", self.turn)
        self.grades = {
            grade: panel.button(label, lambda grade=grade: self.grade(grade)) for grade, label in GRADES.items()
        }
        self.again = panel.button("Deal again", self.deal, "what is due by now, and new cards")
        self.buttons = (self.reveal, *self.grades.values(), self.again)
        self.box = panel.column(self.front, self.back, panel.row(*self.buttons), self.note)
        self.ask()

    def ask(self) -> None:
        """Show the front of the current card."""
        self.panel.say(self.front, front(self.deck))
        self.panel.say(self.back)
        self.panel.say(self.note, self.deck.message)
        self.onward = self.reveal if self.deck.current else self.again
        self.panel.only([self.onward], self.buttons)

    def turn(self) -> None:
        """Show the back of the current card, and ask how well it was known."""
        if self.deck.current is None:
            return
        self.panel.say(self.back, answer(self.deck.current))
        self.panel.only(self.grades.values(), self.buttons)
        self.panel.focus(self.grades["good"])

    def grade(self, grade: str) -> None:
        """Note how well the current card was known, and show the next."""
        self.deck.grade(grade)
        self.ask()
        self.panel.focus(self.onward)

    def deal(self) -> None:
        """Begin another sitting."""
        self.deck.deal()
        self.ask()
        self.panel.focus(self.onward)

    def _ipython_display_(self) -> None:
        count = len(self.deck.questions)
        self.panel.show(self.box, twin(self.deck), f"{count} flashcards")
