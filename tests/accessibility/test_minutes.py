"""A lesson's header says its minutes, and they are within a factor of two of reading, exercises and the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lora_lab import reading_time

NOTEBOOKS = sorted((Path(reading_time.__file__).parent.parent / "notebooks").glob("*.ipynb"))
FACTOR = 2


def cell(kind: str, source: str, outputs: tuple = ()) -> dict:
    return {"cell_type": kind, "source": source.splitlines(keepends=True), "outputs": list(outputs)}


def notebook(*cells: dict, seconds: int | None = None) -> dict:
    return {"cells": list(cells), "metadata": {"lora_lab": {} if seconds is None else {"seconds": seconds}}}


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def lesson(request) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_the_header_says_how_long_the_lesson_takes(lesson):
    assert reading_time.said("".join(lesson["cells"][0]["source"]))


def test_the_run_is_recorded(lesson):
    seconds = lesson["metadata"].get("lora_lab", {}).get("seconds")
    assert isinstance(seconds, int), "how long the lesson runs is not recorded in it: python -m lora_lab render"


def test_the_header_is_within_a_factor_of_two(lesson):
    minutes, more = reading_time.said("".join(lesson["cells"][0]["source"]))
    takes = reading_time.load(lesson)
    assert takes.minutes / FACTOR <= minutes + more <= takes.minutes * FACTOR, f"{takes} is {takes.minutes:.0f} minutes"
    if more:  # and so is what it says of the exercises alone
        assert takes.exercises / FACTOR <= more <= takes.exercises * FACTOR, f"exercises: {takes.exercises} minutes"


# --- what is counted ------------------------------------------------------------------------------------------------

TASK = "### Exercise 1: try it\n\n*difficulty ●○○, importance ●●○, 4 minutes*\n\nfour more words here"


def test_words_lines_pictures_and_exercises_are_counted():
    picture = {"output_type": "display_data", "data": {"image/png": ""}}
    made = reading_time.load(
        notebook(
            cell("markdown", "# A title\n\nIt's **three** words: don't count `a == b` twice.\n\n![alt](x.png)"),
            cell("code", "x = 1\n\ny = 2", (picture, {"output_type": "stream", "text": "z"})),
            cell("markdown", TASK),
            cell("markdown", "<details><summary>Solution</summary>\n\nmany words\n\n```python\nx\n```\n\n</details>"),
            cell("markdown", "text\n```python\nx = 1\ny\n```\n"),
            seconds=90,
        )
    )
    assert (made.lines, made.pictures, made.exercises, made.seconds) == (4, 2, 4, 90)
    # A title; It's three words don't count a b twice; alt x png; Exercise 1 try it; the line of minutes; 4 words; text
    assert made.words == 2 + 8 + 3 + 4 + 4 + 4 + 1
    assert made.minutes == pytest.approx(made.words / 200 + 4 / 10 + 2 / 2 + 4 + 1.5)


def test_a_missing_time_is_no_time():
    with pytest.raises(ValueError, match="not recorded"):
        reading_time.load(notebook(cell("markdown", "one"))).minutes  # noqa: B018


def test_an_exercise_says_its_minutes():
    with pytest.raises(ValueError, match="minutes: ### Exercise 1: try it"):
        reading_time.load(notebook(cell("markdown", re.sub(r"\*diff.*", "", TASK))))


@pytest.mark.parametrize(
    ("header", "minutes"),
    [
        ("**Minutes:** 15, of which the machine needs less than one.", (15, 0)),
        ("**Minutes:** 40. **Run** takes three.", (40, 0)),
        ("**Minutes:** 60, and 35 more for the exercises and\nthe quiz; one.", (60, 35)),
    ],
)
def test_the_headers_forms(header, minutes):
    assert reading_time.said(header) == minutes


@pytest.mark.parametrize("header", ["**Time:** about 40 minutes.", "**Minutes:** many", "**Minutes:** 40 to 50."])
def test_a_header_that_does_not_say_it_is_named(header):
    with pytest.raises(ValueError, match="no line"):
        reading_time.said(header)
