"""Flashcards: when a card comes back, a file that survives what happens to files, and a sitting by buttons alone."""

from __future__ import annotations

import datetime
import json
import os

import pytest

from lora_lab import panel, whole_file
from lora_lab.interview import bank, flashcards
from lora_lab.interview.flashcards import Card, answered, queue
from tests.test_html import Reading

TODAY = datetime.date(2026, 3, 1)


def day(days: int) -> str:
    return (TODAY + datetime.timedelta(days=days)).isoformat()


def question(name: str) -> bank.Question:
    return bank.Question(name, "screen", "rank", "05", f"{name}?", f"{name}!", "no", "because", "a book", "proof")


QUESTIONS = [question(name) for name in "abc"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cards.json"


def deck(file, questions=QUESTIONS, today=TODAY, new=10):
    return flashcards.Deck(questions, file, lambda: today, new)


# --- when a card comes back -------------------------------------------------------------------------------------------


def test_what_is_known_waits_longer_each_time_and_never_less():
    card, waits = None, []
    for _ in range(8):
        card = answered(card, "good", TODAY)
        waits.append((datetime.date.fromisoformat(card.due) - TODAY).days)
    assert waits == [1, 3, 7, 16, 35, 35, 35, 35] and card.seen == 8


def test_what_is_not_known_is_back_in_the_first_box_on_the_same_day():
    assert answered(Card(4, day(0), 9), "again", TODAY) == Card(0, day(0), 10)


def test_with_effort_stays_in_its_box_but_not_in_the_first():
    assert answered(Card(3, day(0), 2), "hard", TODAY) == Card(3, day(7), 3)
    assert answered(Card(0, day(0), 2), "hard", TODAY) == Card(1, day(1), 3)
    assert answered(None, "hard", TODAY) == Card(1, day(1), 1)


def test_a_grade_that_is_none_is_refused():
    with pytest.raises(ValueError, match="grade must be one of again, hard, good, got 'easy'"):
        answered(None, "easy", TODAY)


def test_due_ones_come_first_the_longest_waiting_before_all_then_a_few_new_ones():
    cards = {"a": Card(1, day(1)), "b": Card(2, day(-3)), "c": Card(1, day(0)), "gone": Card(1, day(-9))}
    assert queue(["new1", "a", "c", "b", "new2", "new3"], cards, TODAY, new=2) == ["b", "c", "new1", "new2"]
    assert flashcards.next_due(["a", "b"], cards) == day(-3) and flashcards.next_due(["x"], cards) is None


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_state_is_written_read_again_and_says_what_it_is(file):
    first = deck(file)
    first.grade("good")
    first.grade("again")
    again = deck(file)
    assert again.cards == first.cards == {"a": Card(1, day(1)), "b": Card(0, day(0))}
    assert "Delete this file" in json.loads(file.read_text())["about"]
    assert [path.name for path in file.parent.iterdir()] == ["cards.json"]  # no half-written file lies about


def test_nothing_is_written_until_something_is_graded(file):
    deck(file)
    assert not file.exists()


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '{"cards": 3}', '{"cards": {"a": {"box": 1}}}', '{"cards": {"a": 1}}', "\udce9"]
    + [
        json.dumps({"cards": {"a": dict(box=1, due="2026-01-01", seen=1) | bad}})
        for bad in ({"box": 9}, {"box": -1}, {"box": True}, {"box": "1"}, {"due": "soon"}, {"due": 3}, {"seen": 0})
    ]
    + ["[" * 100_000],
)
def test_a_damaged_file_is_set_aside_and_is_not_lost(file, damage):
    content = damage.encode(errors="surrogateescape")
    file.write_bytes(content)
    mine = deck(file)
    assert mine.message == "cards.json is damaged: it is now called cards.json.damaged, and the cards begin anew."
    assert (file.parent / "cards.json.damaged").read_bytes() == content
    assert mine.current.id == "a"
    mine.grade("good")
    assert deck(file).cards == {"a": Card(1, day(1))}


def test_a_second_damaged_file_does_not_replace_the_first(file):
    for content in ("{1", "{2"):
        file.write_text(content)
        deck(file)
    assert sorted(path.read_text() for path in file.parent.glob("*.damaged*")) == ["{1", "{2"]


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_a_file_that_cannot_be_read_is_not_written_over(file, monkeypatch):
    deck(file).grade("again")
    before = file.read_bytes()
    with monkeypatch.context() as locked:
        locked.setattr(flashcards.Path, "read_text", refuse)
        mine = deck(file)
    assert mine.message == "cards.json cannot be read (Permission denied): this sitting is not kept."
    mine.grade("good")
    assert file.read_bytes() == before and mine.current.id == "b" and list(mine.cards) == ["a"]


def test_a_file_that_cannot_be_written_is_said_and_the_sitting_goes_on(file, monkeypatch):
    mine = deck(file)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file, "write", full)
    mine.grade("good")
    assert mine.message == "Not kept: cards.json cannot be written (No space left on device)."
    assert mine.current.id == "b"


def test_a_crash_while_writing_leaves_the_old_file(file, monkeypatch):
    mine = deck(file)
    mine.grade("good")
    before = file.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        mine.grade("good")
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == ["cards.json"]


def test_two_notebooks_do_not_undo_each_other(file):
    one, other = deck(file), deck(file, QUESTIONS[1:])
    one.grade("good")
    other.grade("good")
    assert set(deck(file).cards) == {"a", "b"}


def test_cards_of_questions_that_are_gone_are_kept(file):
    flashcards.save(file, {"old": Card(3, day(5))})
    deck(file).grade("good")
    assert flashcards.load(file)[0]["old"] == Card(3, day(5))


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORA_LAB_CARDS", raising=False)
    assert flashcards.path() == tmp_path / "lora_lab_cards.json"
    monkeypatch.setenv("LORA_LAB_CARDS", str(tmp_path / "elsewhere.json"))
    assert flashcards.path() == tmp_path / "elsewhere.json"


# --- a sitting --------------------------------------------------------------------------------------------------------


def test_again_asks_once_more_in_the_same_sitting_and_known_cards_are_counted(file):
    mine = deck(file)
    mine.grade("again")
    assert [mine.current.id, *mine.waiting] == ["b", "b", "c", "a"]
    for _ in range(3):
        mine.grade("good")
    assert mine.current is None and mine.known == 3
    assert mine.boxes() == [0, 3, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="no card to grade"):
        mine.grade("good")
    assert f"The next card is due on {day(1)}" in flashcards.front(mine)


def test_the_next_day_they_are_asked_again(file):
    mine = deck(file)
    for _ in range(3):
        mine.grade("good")
    assert deck(file).current is None
    assert deck(file, today=TODAY + datetime.timedelta(days=1)).current.id == "a"


@pytest.fixture
def focused(monkeypatch):
    found = []
    monkeypatch.setattr(panel, "focus", found.append)
    return found


def test_buttons_lead_through_a_sitting_and_the_focus_goes_along(file, focused):
    mine = flashcards.CardPanel(deck(file))
    assert "a?" in mine.front.value and "a!" not in mine.front.value + mine.back.value
    assert [panel.hidden(b) for b in (mine.reveal, *mine.grades.values())] == [False, True, True, True]
    mine.reveal.click()
    assert "a!" in mine.back.value and "Loses marks" in mine.back.value
    assert [panel.hidden(b) for b in (mine.reveal, *mine.grades.values())] == [True, False, False, False]
    assert focused == [mine.grades["good"]]
    mine.grades["again"].click()
    assert "b?" in mine.front.value and mine.back.value == "" and focused[-1] is mine.reveal
    for _ in range(3):
        mine.reveal.click()
        mine.grades["good"].click()
    assert "No more cards for today" in mine.front.value
    assert [panel.hidden(button) for button in mine.buttons] == [True] * 4 + [False] and focused[-1] is mine.again
    assert flashcards.load(file)[0]["a"] == Card(1, day(1), 2)


def test_a_kernel_left_on_overnight_deals_what_is_due_in_the_morning(file, focused):
    days = [TODAY]
    mine = flashcards.CardPanel(flashcards.Deck(QUESTIONS, file, lambda: days[0], new=2))
    for _ in range(2):
        mine.reveal.click()
        mine.grades["good"].click()
    mine.again.click()  # the same day: one card has never been seen
    assert "c?" in mine.front.value and focused[-1] is mine.reveal
    mine.reveal.click()
    mine.grades["good"].click()
    days[0] += datetime.timedelta(days=1)
    mine.again.click()
    assert "3 to go, 0 known" in mine.front.value and "a?" in mine.front.value


def test_the_message_about_the_file_is_shown(file):
    file.write_text("?")
    assert "is damaged" in flashcards.CardPanel(deck(file)).note.value


def test_without_a_kernel_the_first_cards_are_there_with_folded_answers(file, monkeypatch):
    shown = []
    monkeypatch.setattr(panel, "display", lambda data, **_: shown.append(data))
    flashcards.CardPanel(deck(file))._ipython_display_()
    page = Reading(shown[0]["text/html"])
    assert [name for name, _ in page.tags].count("details") == 3
    assert "a!" in page.words and "application/vnd.jupyter.widget-view+json" in shown[0]
    assert not file.exists()
