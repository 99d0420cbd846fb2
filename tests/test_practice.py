"""practice.check and what stands behind it: messages, hints, the progress file, quizzes, misbehaving functions."""

from __future__ import annotations

import json
import os
import threading
import time

import numpy as np
import pytest

from lora_lab import exercises, figures_practice, practice, progress, quizzes
from lora_lab.attempt import Attempt, NotYet, TookTooLong, at_most, close, same, short


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "mine.json"))
    return tmp_path / "mine.json"


def right(o, i):
    return o * i // (o + i)


# --- check and hint ---------------------------------------------------------------------------------------------------


def test_check_prints_one_helpful_line_and_returns_nothing(capsys):
    assert practice.check("break_even", lambda o, i: o * i / (o + i)) is None
    said = capsys.readouterr().out
    assert said.startswith("not yet: ") and "round down" in said and 'practice.hint("break_even")' in said
    assert practice.check("break_even", right) is None
    assert capsys.readouterr().out.startswith("Right. ")


def test_an_untouched_stub_is_no_try(file, capsys):
    practice.check("break_even", ...)
    practice.check("break_even", lambda o, i: ...)
    assert capsys.readouterr().out.count("not yet: ") == 2 and not file.exists()


def test_an_unknown_exercise_names_the_nearest(capsys):
    practice.check("brake_even", right)
    assert capsys.readouterr().out == "not yet: no exercise 'brake_even'. Did you mean 'break_even'?\n"
    with pytest.raises(ValueError, match="no exercise 'brake_even'"):
        practice.judge("brake_even", right)
    practice.check(right, "break_even")
    assert "name comes first" in capsys.readouterr().out
    practice.check("zzzz", right)
    assert capsys.readouterr().out.startswith("not yet: no exercise 'zzzz'")


def test_hints_come_one_after_the_other(capsys):
    practice._hints_given.clear()
    second, third = exercises.find("break_even").hints
    practice.hint("break_even")
    practice.hint("break_even")
    practice.hint("break_even")
    practice.hint("break_even", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Hint 2 of 3: {second}", *[f"Hint 3 of 3: {third}"] * 2, f"Hint 2 of 3: {second}"]
    with pytest.raises(ValueError, match="hints 2 to 3"):
        practice.hint("break_even", 1)


def test_a_check_that_trips_over_an_answer_is_a_line_all_the_same(monkeypatch):
    @exercises.exercise(
        "99", "trips", difficulty=1, importance=1, minutes=1, hints=("a b c d e", "f g h i j"), expect=("nothing",)
    )
    def trips(attempt):
        """A check with a bug of ours in it."""
        return attempt.answer["missing"]

    monkeypatch.setattr(exercises, "find", lambda name: trips.exercise)
    verdict = practice.judge("trips", {})
    assert not verdict and verdict.message.startswith("not yet: the check could not use this answer (KeyError")


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_counts_tries_until_it_is_solved(file):
    for answer in (lambda o, i: 1, lambda o, i: 2, right, lambda o, i: 3):
        practice.check("break_even", answer)
    entry = json.loads(file.read_text())["done"]["break_even"]
    assert entry["tries"] == 3 and entry["solved"] == entry["first"]
    assert practice.by_lesson(progress.load())["04"][0] == 1
    assert "| 04 | when is an adapter too large? | ●○○ | 3 | " in practice.table(progress.load())


def test_a_damaged_file_is_set_aside(file, capsys):
    for damage in ("{", "[]", '{"done": {"a": 1}}', '{"done": {"a": {"tries": "x", "solved": null}}}'):
        file.write_text(damage)
        assert progress.load() == {}
        assert file.with_name("mine.json.damaged").read_text() == damage and not file.exists()
        assert "could not be read" in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_old_file(file, monkeypatch, capsys):
    progress.record("break_even", True)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    progress.record("other", True)
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]
    assert "was not kept" in capsys.readouterr().out


def test_a_folder_that_is_not_there_does_not_stop_the_learner(file, monkeypatch, capsys):
    (file.parent / "no").write_text("a file, where a folder should be")
    monkeypatch.setenv(progress.VARIABLE, str(file.parent / "no" / "mine.json"))
    practice.check("break_even", right)
    said = capsys.readouterr().out
    assert said.startswith("Right. ") and "was not kept" in said


def test_progress_is_a_picture_a_table_and_a_place(capsys):
    practice.check("break_even", right)
    practice.check("break_even", right)
    capsys.readouterr()
    practice.progress()
    said = capsys.readouterr().out
    assert "mine.json" in said and "delete" in said


def test_the_picture_and_its_finding_follow_the_numbers():
    rows = {"01": (4, 0, 4), "04": (1, 2, 4)}
    axes = figures_practice.solved(rows).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [4, 0, 0, 1, 2, 1]
    assert [text.get_text() for text in axes.texts] == ["4 of 4", "1 of 4"]
    assert figures_practice.finding(rows) == (
        "Exercises solved so far: 5 of 8. The first lesson with exercises still open is 04."
    )
    assert "Nothing is left open" in figures_practice.finding({"01": (4, 0, 4)})


# --- what a learner's function may do to us ---------------------------------------------------------------------------


def attempt(function, seconds=0.2):
    return Attempt("task", function, seconds=seconds)


def test_a_loop_that_catches_everything_ends_all_the_same():
    def stubborn(x):
        while True:
            try:
                time.sleep(0.01)
            except:  # noqa: E722
                if time.monotonic() - begun > 0.5:
                    raise

    begun = time.monotonic()
    with pytest.raises(NotYet, match="did not end within 0.2 seconds"):
        attempt(stubborn)(1)


@pytest.mark.parametrize("signals", [True, False])
def test_time_limits_work_with_and_without_signals(monkeypatch, signals):
    if not signals:
        monkeypatch.delattr("signal.setitimer")
    with pytest.raises(TookTooLong), at_most(0.1):
        while True:
            pass
    with at_most(5):
        pass


def test_time_limits_work_outside_the_main_thread():
    seen = []

    def work():
        try:
            with at_most(0.1):
                while True:
                    pass
        except TookTooLong:
            seen.append("ended")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == ["ended"]


def test_arguments_are_copies_unless_the_exercise_is_to_change_them():
    given = np.zeros(3)

    def fill(array):
        array += 1
        return array

    with pytest.raises(NotYet, match="changes its input"):
        attempt(fill)(given)
    assert not given.any()
    attempt(fill)(given, may_change=True)
    assert given.all()


def test_messages_show_the_call():
    with pytest.raises(NotYet, match=r"half\(x=16, y \[2\]\) raised ZeroDivisionError: division by zero"):

        def half(x, y):
            return x / 0

        attempt(half)(16, np.ones(2))
    with pytest.raises(NotYet, match="is there a return"):
        attempt(lambda x: None)(1)
    with pytest.raises(NotYet, match=r'without brackets: practice.check\("task", task\). This is 2,048, an int'):
        attempt(2048)(1)
    with pytest.raises(NotYet, match=r"still three dots"):
        attempt(lambda x: x * ...)(1)
    with pytest.raises(NotYet, match="RuntimeError: first$"):
        attempt(lambda x: exec('raise RuntimeError("first\\nsecond")'))(1)


@pytest.mark.parametrize(
    ("value", "says"), [("8", "a str"), (True, "a bool"), (np.ones(2), "array"), (float("inf"), "divided by zero")]
)
def test_what_is_no_number(value, says):
    with pytest.raises(NotYet, match=says):
        attempt(None).number(value)


def test_numbers_of_every_kind():
    import torch

    for value in (3, 3.0, np.float32(3), np.array([3]), torch.tensor(3), torch.tensor([[3.0]], requires_grad=True)):
        assert attempt(None).number(value) == 3 == attempt(None).whole(value)
    with pytest.raises(NotYet, match="whole number"):
        attempt(None).whole(3.5)


def test_arrays_of_every_kind_and_of_the_wrong_shape():
    import torch

    for value in ([[1, 2]], np.ones((1, 2)), torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)):
        assert attempt(None).array(value, (1, 2)).shape == (1, 2)
    with pytest.raises(NotYet, match=r"\[1, 2\]; it should be \[2, 1\]. It is transposed"):
        attempt(None).array(np.ones((1, 2)), (2, 1))
    with pytest.raises(NotYet, match="not finite"):
        attempt(None).array([float("nan")], (1,))


def test_a_mistake_that_gives_the_right_value_here_is_not_named():
    tell = {"squared": 4, "doubled": 6}
    attempt(None).agree(4, 4, tell)
    with pytest.raises(NotYet, match="doubled"):
        attempt(None).agree(6, 4, tell)
    with pytest.raises(NotYet, match="for x: it gives 5; it should be 4|for x it gives 5; it should be 4"):
        attempt(None).agree(5, 4, tell, case="x")
    with pytest.raises(NotYet, match="^not so$"):  # where the right value would be the solution
        attempt(None).agree(5, 4, tell, case="x", otherwise="not so")


def test_same_and_close_and_short():
    import torch

    layer = torch.nn.Linear(2, 2)
    assert same({"a": [np.ones(2), layer]}, {"a": [np.ones(2), layer]})
    assert not same([1], (1,)) and not same(np.ones(2), np.ones(3)) and not same(np.ones(2), np.ones(2, np.float32))
    assert close([1.0, 2.0], [1.0, 2.0 + 1e-9]) and not close([1.0], [[1.0]]) and not close(1, 1.1)
    assert short(4194304) == "4,194,304" and short(np.float32(0.5)) == "0.5" and short(True) == "True"
    assert short(layer) == "a Linear" and short(dict(layer.state_dict())) == "a dict of 2 entries"
    assert short((1, np.ones(3))) == "(1, an array of shape [3])" and short([layer] * 9) == "a list of 9 things"
    assert short(object()) == "an object" and short(len) == "the function len" and short(int) == "the class int"
    assert short(None) == "None" and short("eight") == "'eight'" and short(torch.tensor(2.0)) == "2"


# --- quizzes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", quizzes.lessons())
def test_a_quiz_is_whole(lesson):
    questions = quizzes.of(lesson)
    assert not [q.id for q in questions for option in q.options if option.say.startswith("Right")], "said already"
    assert len(questions) >= 3 and [q.id for q in questions] == [f"{lesson}-{n + 1}" for n in range(len(questions))]
    for question in questions:
        assert 3 <= len(question.options) <= 5 and sum(option.right for option in question.options) == 1
        assert all(len(option.say.split()) >= 4 for option in question.options)
        assert len({option.text for option in question.options}) == len(question.options)
    assert len({question.right for question in questions}) > 1, "the right answer always has the same letter"


def test_a_quiz_can_be_answered_without_widgets_and_with_them(file, capsys):
    lesson = quizzes.lessons()[0]
    question = quizzes.of(lesson)[0]
    wrong = next(letter for letter in "ABC" if letter != question.right)
    practice.check(question.id, wrong)
    assert progress.load()[question.id] == progress.load()[question.id] | {"tries": 1, "solved": None}
    assert not practice.judge(question.id, wrong) and practice.judge(question.id, question.right)
    practice.check(question.id, question.right.lower())
    practice.check(question.id, "Z")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(".")[0] for line in lines] == ["not yet", "Right", "not yet"]
    assert "one of the letters A, B, C" in lines[2]
    box = quizzes.asked(question)
    buttons, said = box.children[1].children, box.children[2]
    next(button for button in buttons if button.description == wrong).click()
    assert f"<b>{wrong}:</b> not yet" in said.value and 'role="status"' in said.value
    next(button for button in buttons if button.description == question.right).click()
    assert f"<b>{question.right}:</b> Right." in said.value
    assert progress.load()[question.id]["solved"]


def test_a_quiz_stands_as_text_where_no_kernel_runs(capsys):
    question = quizzes.of(quizzes.lessons()[0])[0]
    page = quizzes.folded(question)
    assert "<details>" in page and page.index("<details>") > page.index("</ol>")
    with pytest.raises(ValueError, match="no quiz for lesson '99'"):
        practice.quiz("99")
