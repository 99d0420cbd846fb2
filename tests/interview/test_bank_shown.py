"""The bank as the interview room shows it: found by level and topic, proofs printed, their numbers marked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_lab import interview, panel, proofs
from lora_lab.interview import bank
from lora_lab.markup import Html, join, prose, tag
from tests.test_html import HOSTILE, Reading

ROOT = Path(bank.__file__).parent.parent


def test_every_question_has_a_level_a_lesson_and_three_points():
    assert len(bank.every()) >= 40
    for question in bank.every():
        assert question.level in bank.LEVELS and len(question.rubric) == 3
        bank.lesson_link(question.lesson)


def test_they_are_chosen_by_level_topic_and_lesson():
    found = bank.chosen("screen", "counting", "04")
    assert found and all((q.level, q.topic, q.lesson) == ("screen", "counting", "04") for q in found)
    assert sum(len(bank.chosen(level)) for level in bank.LEVELS) == len(bank.every())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bank.chosen(topic="countin"), "no question has the topic 'countin'. Did you mean 'counting'?"),
        (lambda: bank.chosen(level="zzz"), "no question has the level 'zzz'. There are "),
        (lambda: bank.find("count-one-matrx"), "no question 'count-one-matrx'. Did you mean 'count-one-matrix'?"),
        (lambda: bank.proved("count-one-matrix", rnk=3), "has no input 'rnk'. Did you mean 'rank'?"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest(call, says):
    with pytest.raises(ValueError) as refused:
        call()
    assert says in str(refused.value)


def test_an_id_that_stands_twice_is_refused(tmp_path, monkeypatch):
    texts = "level topic lesson question answer wrong why source proof".split()
    entry = '[[question]]\nid = "a"\n' + "".join(f'{field} = "x"\n' for field in texts)
    (tmp_path / "bank.toml").write_text(2 * entry)
    monkeypatch.setattr(bank, "FILE", tmp_path / "bank.toml")
    with pytest.raises(ValueError, match="bank.toml: the id 'a' is taken"):
        bank.every.__wrapped__()


def test_a_proof_is_printed_with_inputs_results_and_the_answers_numbers(capsys):
    interview.prove("count-one-matrix")
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["rank", "8"] in lines and "proof: count_one_matrix" in said
    assert next(line for line in said.splitlines() if line.split()[:2] == ["parameters", "65,536"]).endswith(
        "the answer says 65,536"
    )
    interview.prove("count-one-matrix", rank=16)
    said = capsys.readouterr().out
    assert "16   (changed)" in said and re.search("131,072 +the answer says 65,536", said)


def test_the_proof_shown_is_the_proof_run():
    inputs, results = bank.proved("count-one-matrix", rank=32)
    assert inputs["rank"] == 32 and results == proofs.run("count_one_matrix", rank=32)


def test_a_table_with_folded_answers(monkeypatch):
    displayed = []
    monkeypatch.setattr(panel, "display", lambda data, **_: displayed.append(data))
    interview.questions(level="screen", topic="counting")
    page, wanted = Reading(displayed[0]["text/html"]), bank.chosen("screen", "counting")
    assert [name for name, _ in page.tags].count("details") == len(wanted)
    for question in wanted:
        assert question.answer.replace("`", "") in page.words and question.why.replace("`", "") in page.words
        assert question.question in displayed[0]["text/plain"]


def test_lesson_files_are_those_there_are():
    there = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert there <= {bank.lesson_file(number) for number, *_ in bank.lessons.LESSONS}


# --- nothing is put into a page unescaped -----------------------------------------------------------------------------


def test_tags_escape_texts_and_attributes_and_leave_html():
    page = tag("p", HOSTILE, tag("b", HOSTILE), title=HOSTILE)
    read = Reading(page)
    assert [name for name, _ in read.tags] == ["p", "b"] and read.words == HOSTILE * 2
    assert read.tags[0][1] == {"title"}
    assert isinstance(join([page, "<"]), Html) and join([page, "<"]) == page + "&lt;"


def test_prose_sets_code_and_nothing_else():
    assert prose("a `b < c` d") == "a <code>b &lt; c</code> d"
    assert Reading(prose(HOSTILE)).words == HOSTILE and Reading(prose(HOSTILE)).tags == []


def test_a_hostile_question_is_shown_as_it_is():
    fields = dict.fromkeys("id level topic question answer wrong why source proof".split(), HOSTILE)
    page = Reading(bank.table([bank.Question(**fields, lesson="04", rubric=(HOSTILE,) * 3)]))
    assert {name for name, _ in page.tags} <= set("table tr th td details summary p b i a code".split())
    assert page.words.count(HOSTILE) >= 6
