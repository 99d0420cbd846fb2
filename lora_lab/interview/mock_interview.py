"""A mock interview: five questions against the clock, graded by yourself, and a report that says what to read again.

`Session` and `report` know nothing of widgets; `MockPanel` puts a session on the page.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_lab.interview import bank
from lora_lab.interview.bank import Question
from lora_lab.markup import Html, join, prose, tag

SECONDS = {"screen": 60, "onsite": 120, "expert": 180}  # allotted to a spoken answer
LADDER = ("screen", "screen", "onsite", "onsite", "expert")
POINTS = 3  # of a rubric


def draw(questions: Sequence[Question], seed: int | str, level: str | None = None) -> list[Question]:
    """Five questions, from easy to hard, or all of one level; of different topics as far as there are enough.

    The same seed draws the same questions from the same bank. Raises ValueError for a level with too few.
    """
    if level is not None and level not in bank.LEVELS:
        raise ValueError(f"level must be one of {', '.join(bank.LEVELS)}, got {level!r}")
    uniform = random.Random(f"mock {seed}").random
    drawn: list[Question] = []
    for wanted in LADDER if level is None else [level] * len(LADDER):
        left = [question for question in questions if question.level == wanted and question not in drawn]
        if not left:
            raise ValueError(f"the bank has too few questions of level {wanted!r}")
        topics = {question.topic for question in drawn}
        fresh = [question for question in left if question.topic not in topics] or left
        drawn.append(fresh[int(uniform() * len(fresh))])
    return drawn


@dataclass
class Turn:
    """One question of a session: seconds allotted and used, what was said, and which points of the rubric it had."""

    question: Question
    allotted: int
    used: float | None = None
    said: str = ""
    ticks: tuple[bool, ...] | None = None

    @property
    def score(self) -> int:
        return sum(self.ticks or ())

    @property
    def late(self) -> bool:
        return self.used is not None and self.used > self.allotted


class Session:
    """An interview as it goes: ready, then asked and revealed for each question in turn, then over.

    begin() asks the first question; reveal(said) stops its clock; grade(ticks) notes the rubric and asks the next.
    Each raises ValueError when it is not its turn. `clock` gives seconds, and only goes forward.
    """

    def __init__(self, questions: Sequence[Question], clock: Callable[[], float] = time.monotonic) -> None:
        self.turns = [Turn(question, SECONDS[question.level]) for question in questions]
        self.clock, self.at, self.stage, self.started = clock, 0, "ready", 0.0

    @property
    def turn(self) -> Turn:
        """The turn that is on; the last one when all are over."""
        return self.turns[min(self.at, len(self.turns) - 1)]

    @property
    def elapsed(self) -> float:
        """Seconds of the current question."""
        return self.clock() - self.started if self.stage == "asked" else self.turn.used or 0.0

    def begin(self) -> None:
        self._must_be("ready")
        self.stage, self.started = "asked", self.clock()

    def reveal(self, said: str = "") -> None:
        self._must_be("asked")
        self.turn.used, self.turn.said = self.clock() - self.started, said.strip()
        self.stage = "revealed"

    def grade(self, ticks: Sequence[bool]) -> None:
        self._must_be("revealed")
        if len(ticks) != len(self.turn.question.rubric):
            raise ValueError(f"{len(self.turn.question.rubric)} ticks are needed, got {len(ticks)}")
        self.turn.ticks = tuple(map(bool, ticks))
        self.at += 1
        self.stage = "asked" if self.at < len(self.turns) else "over"
        self.started = self.clock()

    def _must_be(self, stage: str) -> None:
        if self.stage != stage:
            raise ValueError(f"the interview is {self.stage!r}; this can be done only when it is {stage!r}")


def minutes(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> minutes(59.6), minutes(125)
    ('1:00', '2:05')
    """
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def report(session: Session) -> Html:
    """What came of a session: points and times, what to read again, which wrong answers to unlearn."""
    turns = [turn for turn in session.turns if turn.ticks is not None]
    if not turns:
        return tag("p", "No question was answered yet.")
    points, whole = sum(turn.score for turn in turns), POINTS * len(turns)
    late = sum(turn.late for turn in turns)
    over = f" {late} of {len(turns)} answers took longer than allotted." if late else " Every answer was in time."
    parts = [tag("p", tag("b", f"{points} of {whole} points."), over), _times(turns)]
    again: dict[str, list[str]] = {}
    for turn in turns:
        missing = [point for point, had in zip(turn.question.rubric, turn.ticks or (), strict=True) if not had]
        if missing:
            again.setdefault(turn.question.lesson, []).extend(missing)
    if again:
        items = [tag("li", bank.lesson_link(lesson), ": ", prose("; ".join(again[lesson]))) for lesson in sorted(again)]
        parts += [tag("p", tag("b", "Read again, for what was missing")), tag("ul", *items)]
    weak = [turn.question for turn in turns if turn.score < 2]
    if weak:
        items = [tag("li", "Not: ", tag("i", prose(question.wrong)), " ", prose(question.why)) for question in weak]
        parts += [tag("p", tag("b", "Wrong answers to unlearn")), tag("ul", *items)]
    if not again:
        parts.append(tag("p", "Nothing was missing. Take a harder level, or another seed."))
    return join(parts)


def _times(turns: Sequence[Turn]) -> Html:
    names = ("question", "level", "points", "time used", "allotted")
    rows = [tag("tr", *(tag("th", name, scope="col", style=bank.LEFT) for name in names))]
    for turn in turns:
        used = minutes(turn.used or 0) + (" (late)" if turn.late else "")
        cells = (
            prose(turn.question.question),
            turn.question.level,
            f"{turn.score} of {POINTS}",
            used,
            minutes(turn.allotted),
        )
        rows.append(tag("tr", *(tag("td", cell, style=bank.LEFT) for cell in cells)))
    return tag("table", *rows)


def twin(questions: Sequence[Question]) -> Html:
    """The interview on paper, for readers without a kernel: time, question, folded answer and rubric."""
    parts = [
        tag("p", f"{len(questions)} questions. Answer aloud, then open; give yourself a point for each that you said.")
    ]
    for number, question in enumerate(questions, start=1):
        points = tag("ul", *(tag("li", prose(point)) for point in question.rubric))
        head = tag(
            "summary", f"{number}. ({question.level}, {minutes(SECONDS[question.level])}) ", prose(question.question)
        )
        parts.append(tag("details", head, bank.answer(question), tag("p", "A full answer"), points))
    return join(parts)


class MockPanel:
    """A session on the page: Start; type or say the answer; Show the answer; tick what you said; Next; the report.

    `another` makes the session that "Another interview" begins after the report.
    """

    def __init__(self, session: Session, another: Callable[[], Session] | None = None) -> None:
        import ipywidgets

        from lora_lab import panel

        self.panel, self.another = panel, another
        self.head, self.clock, self.back = panel.words(), panel.words(), panel.words()
        wide = {"width": "100%", "max_width": panel.WIDTH}
        self.said = ipywidgets.Textarea(
            description="Answer", placeholder="Say it aloud, or type it here", rows=4, layout=ipywidgets.Layout(**wide)
        )
        self.ticks = [ipywidgets.Checkbox(indent=False, layout=ipywidgets.Layout(**wide)) for _ in range(POINTS)]
        self.start = panel.button("Start the clock", self.begin)
        self.reveal = panel.button("Show the answer", self.show_answer)
        self.onward = panel.button("Next question", self.go_on)
        self.anew = panel.button("Another interview", self.begin_anew)
        self.buttons = (self.start, self.reveal, self.onward, self.anew)
        self.parts = (self.said, *self.ticks, *self.buttons)
        self.box = panel.column(self.head, self.clock, self.said, self.back, *self.ticks, panel.row(*self.buttons))
        self.put(session)

    def put(self, session: Session) -> None:
        """Offer this session."""
        self.session = session
        allotted = sum(turn.allotted for turn in session.turns)
        self.panel.say(
            self.head,
            f"{len(session.turns)} questions, {minutes(allotted)} minutes in all. Each has a clock of its own.",
        )
        self.panel.say(self.back)
        self.panel.only([self.start], self.parts)

    def begin_anew(self) -> None:
        """Offer other questions."""
        if self.another is not None:
            self.put(self.another())
            self.panel.focus(self.start)

    def begin(self) -> None:
        self.session.begin()
        self.ask()

    def ask(self) -> None:
        """Show the question that is on, and start its clock."""
        turn, number = self.session.turn, self.session.at + 1
        self.said.value = ""
        self.panel.say(
            self.head,
            tag(
                "p",
                f"Question {number} of {len(self.session.turns)}. Level: {turn.question.level}. "
                f"Topic: {turn.question.topic}.",
            ),
            tag("p", tag("b", prose(turn.question.question))),
        )
        self.panel.say(self.back)
        self.panel.only([self.said, self.reveal], self.parts)
        self.show_clock()
        self.panel.focus(self.said)
        try:
            self.ticking = asyncio.get_running_loop().create_task(self._tick(self.session.at))
        except RuntimeError:  # no kernel's loop: the time used is shown at the end all the same
            self.ticking = None

    async def _tick(self, at: int) -> None:
        while self.session.stage == "asked" and self.session.at == at:
            self.show_clock()
            await asyncio.sleep(1)

    def show_clock(self) -> None:
        """Write the time used and allotted; words, not colour, say that it is over."""
        turn, used = self.session.turn, self.session.elapsed
        over = ", over time" if used > turn.allotted else ""
        self.clock.value = str(tag("p", f"{minutes(used)} of {minutes(turn.allotted)}{over}"))

    def show_answer(self) -> None:
        """Stop the clock and show the answer with its rubric."""
        self.session.reveal(self.said.value)
        self.show_clock()
        turn = self.session.turn
        self.panel.say(self.back, bank.answer(turn.question), tag("p", tag("b", "Tick what your answer had.")))
        for box, point in zip(self.ticks, turn.question.rubric, strict=True):
            box.value, box.description = False, point
        last = self.session.at == len(self.session.turns) - 1
        self.onward.description = "To the report" if last else "Next question"
        shown = [*([self.said] if turn.said else []), *self.ticks, self.onward]
        self.panel.only(shown, self.parts)
        self.panel.focus(self.ticks[0])

    def go_on(self) -> None:
        """Note the ticks; ask the next question, or show the report."""
        self.session.grade([box.value for box in self.ticks])
        if self.session.stage == "over":
            self.panel.say(self.head, report(self.session))
            self.panel.say(self.back)
            self.clock.value = ""
            self.panel.only([self.anew] if self.another else [], self.parts)
            self.panel.focus(self.anew)
        else:
            self.ask()

    def _ipython_display_(self) -> None:
        questions = [turn.question for turn in self.session.turns]
        self.panel.show(self.box, twin(questions), f"a mock interview of {len(questions)} questions")
