"""The mock interview: what is drawn, the clock, the order of things, the report; and the same by buttons."""

from __future__ import annotations

import asyncio

import pytest

from lora_lab import panel
from lora_lab.interview import bank, mock_interview
from lora_lab.interview.mock_interview import MockPanel, Session, draw, report
from tests.test_html import Reading


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def session(clock):
    return Session(draw(bank.every(), 0), clock)


def read(html: str) -> str:
    return Reading(html).words


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_five_from_easy_to_hard_all_different_and_on_different_topics():
    for seed in range(50):
        drawn = draw(bank.every(), seed)
        assert [question.level for question in drawn] == ["screen", "screen", "onsite", "onsite", "expert"]
        assert len({question.id for question in drawn}) == len({question.topic for question in drawn}) == 5


@pytest.mark.parametrize("level", bank.LEVELS)
def test_or_five_of_one_level(level):
    drawn = draw(bank.every(), 1, level)
    assert [question.level for question in drawn] == [level] * 5 and len({q.id for q in drawn}) == 5


def test_few_topics_are_asked_twice_but_no_question_is():
    few = [question for question in bank.every() if question.level == "onsite"][:6]
    for seed in range(20):
        assert len({question.id for question in draw(few, seed, "onsite")}) == 5


def test_a_seed_draws_the_same_and_others_draw_others():
    assert draw(bank.every(), 4) == draw(bank.every(), "4")
    assert len({tuple(q.id for q in draw(bank.every(), seed)) for seed in range(30)}) > 25


def test_a_level_that_is_none_and_a_bank_too_small_are_refused():
    with pytest.raises(ValueError, match="level must be one of screen, onsite, expert, got 'easy'"):
        draw(bank.every(), 0, "easy")
    with pytest.raises(ValueError, match="too few questions of level 'expert'"):
        draw(bank.chosen("screen") + bank.chosen("onsite"), 0)


# --- a session --------------------------------------------------------------------------------------------------------


def test_each_question_has_its_own_clock(session, clock):
    session.begin()
    clock.now += 30
    assert session.elapsed == 30
    session.reveal(" so ")
    clock.now += 500  # reading the answer costs nothing
    session.grade([True, False, True])
    assert session.elapsed == 0 and session.at == 1
    first = session.turns[0]
    assert (first.used, first.said, first.score, first.late) == (30, "so", 2, False)
    clock.now += 61
    session.reveal()
    assert session.turn.late  # a screen's question has 60 seconds


def test_times_by_level(session):
    assert [turn.allotted for turn in session.turns] == [60, 60, 120, 120, 180]


def test_things_out_of_their_turn_are_refused_and_change_nothing(session):
    for early in (session.reveal, lambda: session.grade([True] * 3)):
        with pytest.raises(ValueError, match="the interview is 'ready'"):
            early()
    session.begin()
    with pytest.raises(ValueError, match="the interview is 'asked'"):
        session.begin()
    session.reveal()
    with pytest.raises(ValueError, match="3 ticks are needed, got 2"):
        session.grade([True, False])
    assert session.stage == "revealed" and session.at == 0


def play(session, clock, ticks, seconds=30):
    session.begin()
    for had in ticks:
        clock.now += seconds
        session.reveal()
        session.grade(had)
    assert session.stage == "over"


def test_a_report_of_a_poor_one_says_what_to_read_again_and_what_to_unlearn(session, clock):
    play(session, clock, [(True, True, True), (False, False, True), (True, True, False), (True,) * 3, (False,) * 3], 90)
    said, questions = report(session), [turn.question for turn in session.turns]
    words = read(said)
    assert "9 of 15 points." in words and "2 of 5 answers took longer than allotted." in words
    for question in (questions[1], questions[2], questions[4]):
        assert f'href="{bank.lesson_file(question.lesson)}"' in said
    for point in questions[4].rubric + questions[1].rubric[:2] + questions[2].rubric[2:]:
        assert point.replace("`", "") in words
    assert questions[0].rubric[0] not in words.replace(questions[0].question, "")
    for question, weak in zip(questions, [False, True, False, False, True], strict=True):
        assert (question.wrong.replace("`", "") in words) == weak
    assert words.count("1:30") == 5 and words.count("(late)") == 2


def test_a_report_of_a_perfect_one_has_nothing_to_read(session, clock):
    play(session, clock, [(True,) * 3] * 5)
    words = read(report(session))
    assert "15 of 15 points. Every answer was in time." in words and "Nothing was missing." in words
    assert "Read again" not in words and "unlearn" not in words


def test_a_report_before_the_end_counts_what_was_answered(session, clock):
    assert read(report(session)) == "No question was answered yet."
    session.begin()
    session.reveal()
    session.grade([True, True, True])
    assert "3 of 3 points." in read(report(session))


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def focused(monkeypatch):
    found = []
    monkeypatch.setattr(panel, "focus", found.append)
    return found


def shown(mock):
    assert all(part.disabled == panel.hidden(part) for part in mock.parts), "each speaks for itself when its turn comes"
    return [part for part in mock.parts if not panel.hidden(part)]


def test_a_whole_interview_by_buttons(session, clock, focused):
    mock = MockPanel(session)
    assert shown(mock) == [mock.start] and "8:00 minutes" not in mock.head.value and "9:00 minutes" in mock.head.value
    mock.start.click()
    for number, question in enumerate((turn.question for turn in session.turns), start=1):
        assert f"Question {number} of 5" in mock.head.value and read(question.question).replace("`", "") in read(
            mock.head.value
        )
        assert shown(mock) == [mock.said, mock.reveal] and mock.back.value == "" and focused[-1] is mock.said
        assert mock.said.value == ""  # what was said before is gone
        clock.now += 200
        mock.said.value = "my answer" if number == 1 else ""
        mock.reveal.click()
        assert question.answer.replace("`", "") in read(mock.back.value)
        assert [tick.description for tick in mock.ticks] == list(question.rubric)
        assert [tick.value for tick in mock.ticks] == [False] * 3 and focused[-1] is mock.ticks[0]
        assert shown(mock) == [*([mock.said] if number == 1 else []), *mock.ticks, mock.onward]
        assert "3:20 of" in mock.clock.value and "over time" in mock.clock.value
        mock.ticks[0].value = True
        assert mock.onward.description == ("To the report" if number == 5 else "Next question")
        mock.onward.click()
    assert shown(mock) == [] and "5 of 15 points." in read(mock.head.value)
    assert "5 of 5 answers took longer" in read(mock.head.value)
    assert session.turns[0].said == "my answer"


def test_another_interview_follows_the_report(session, clock, focused):
    other = Session(draw(bank.every(), 1), clock)
    mock = MockPanel(session, another=lambda: other)
    mock.start.click()
    for _ in range(5):
        mock.reveal.click()
        mock.onward.click()
    assert shown(mock) == [mock.anew] and focused[-1] is mock.anew
    mock.anew.click()
    assert mock.session is other and shown(mock) == [mock.start] and focused[-1] is mock.start
    mock.start.click()
    assert other.turns[0].question.question.replace("`", "") in read(mock.head.value)


def test_the_clock_ticks_while_a_question_is_on_and_stops(session, clock, monkeypatch):
    async def go():
        naps = []

        async def nap(seconds):
            naps.append(seconds)
            clock.now += seconds
            if len(naps) == 3:
                mock.reveal.click()
            await real_sleep(0)

        real_sleep = asyncio.sleep
        monkeypatch.setattr(mock_interview.asyncio, "sleep", nap)
        mock = MockPanel(session)
        mock.start.click()
        await mock.ticking
        return mock, naps

    mock, naps = asyncio.run(go())
    assert naps == [1, 1, 1] and "0:03 of 1:00" in mock.clock.value


def test_the_clock_of_a_question_ends_with_it(session, clock, monkeypatch):
    """Also when the next one is on by the time it looks again."""

    async def go():
        mock = MockPanel(session)
        mock.start.click()
        first = mock.ticking
        await asyncio.sleep(0)
        mock.reveal.click()
        mock.onward.click()
        await asyncio.wait_for(first, 60)
        assert not mock.ticking.done()
        mock.ticking.cancel()

    real_sleep = asyncio.sleep
    monkeypatch.setattr(mock_interview.asyncio, "sleep", lambda seconds: real_sleep(min(seconds, 0.01)))
    asyncio.run(go())


def test_no_two_widgets_share_a_layout(session):
    layouts = [part.layout.model_id for part in MockPanel(session).parts]
    assert len(set(layouts)) == len(layouts)


def test_without_a_kernel_it_can_be_done_on_paper(session, monkeypatch):
    displayed = []
    monkeypatch.setattr(panel, "display", lambda data, **_: displayed.append(data))
    MockPanel(session)._ipython_display_()
    page = Reading(displayed[0]["text/html"])
    assert [name for name, _ in page.tags].count("details") == 5
    for turn in session.turns:
        assert turn.question.rubric[2].replace("`", "") in page.words
