"""A drill on the page: judged by Enter or Check, another, the way shown; and the front door's other rooms."""

from __future__ import annotations

import pytest

from lora_lab import interview, panel
from lora_lab.interview import bank, drills, flashcards
from tests.test_html import Reading


@pytest.fixture
def drill():
    return interview.drill("gqa", seed=3)


def test_check_and_enter_judge_what_is_typed(drill):
    drill.given.value = "many"
    assert "I read no single number" in Reading(drill.said.value).words
    wrong = drill.drill.mistakes["forgot grouped-query heads"]
    drill.given.value = f"{wrong:,}"  # Enter sends the value
    assert "forgot grouped-query heads" in drill.said.value
    drill.given.value = f"{drill.drill.answer:,}"
    panel.say(drill.said)
    drill.buttons[0].click()
    assert "Right: " in drill.said.value


def test_nothing_typed_is_answered_too(drill):
    drill.buttons[0].click()
    assert "not yet: I read no single number" in Reading(drill.said.value).words


def test_the_way_is_shown_when_asked_for(drill):
    drill.buttons[1].click()
    assert Reading(drill.said.value).words == drill.drill.solution.replace("`", "")


def test_another_has_other_numbers_and_an_empty_box(drill):
    before = drill.drill
    drill.given.value = "3"
    drill.buttons[2].click()
    assert drill.drill.kind == "gqa" and drill.drill != before
    assert drill.given.value == "" and drill.said.value == ""
    assert drill.drill.text.replace("`", "") in Reading(drill.head.value).words


def test_check_without_widgets(drill, capsys):
    assert drill.check(drill.drill.answer).passed and "Right: " in capsys.readouterr().out


def test_a_seed_gives_the_same_and_none_gives_others():
    assert interview.drill("count", 5).drill == interview.drill("count", 5).drill
    assert len({interview.drill("count").drill.text for _ in range(20)}) > 5


@pytest.mark.parametrize("kind", drills.KINDS)
def test_without_a_kernel_the_way_is_folded(kind, monkeypatch):
    shown = []
    monkeypatch.setattr(panel, "display", lambda data, **_: shown.append(data))
    drill = interview.drill(kind, 1)
    drill._ipython_display_()
    page = Reading(shown[0]["text/html"])
    assert "details" in [name for name, _ in page.tags]
    assert drill.drill.text.replace("`", "") in page.words and drill.drill.solution.replace("`", "") in page.words


def test_cards_begin_with_what_a_first_call_asks(tmp_path):
    cards = interview.cards(file=tmp_path / "cards.json")
    levels = [question.level for question in cards.deck.questions.values()]
    assert levels == sorted(levels, key=bank.LEVELS.index) and len(levels) == len(bank.every())
    assert len(cards.deck.waiting) == flashcards.NEW
    some = interview.cards(topic="counting", file=tmp_path / "cards.json")
    assert {question.topic for question in some.deck.questions.values()} == {"counting"}


def test_mock_takes_seed_and_level():
    one, other = interview.mock(3, "onsite"), interview.mock(3, "onsite")
    assert [t.question for t in one.session.turns] == [t.question for t in other.session.turns]
    assert {turn.question.level for turn in one.session.turns} == {"onsite"}
    assert len({tuple(t.question.id for t in interview.mock().session.turns) for _ in range(9)}) > 1
