"""The alpha dial: it stands on the recorded points and shows the recorded text."""

from __future__ import annotations

import pytest

from lora_lab import experiments, explore_dial, explorers


@pytest.fixture
def dial(monkeypatch, tmp_path):
    """The alpha dial over made-up numbers, so that these tests do not depend on what was recorded."""
    rows = [
        {
            "scale": i / 4,
            "pirate_loss": 4 - i / 8,
            "story_loss": 2 + i / 8,
            "marker_words": 2.0 * i,
            "texts": [f" a <b>cat</b> {i}", f", ye be {i}", f" th' dog {i}"],
        }
        for i in range(9)
    ]
    header = {field: "x" for field in experiments.HEADER}
    experiments.write(header | {"prompts": ["Once", "One day", "The old"], "rows": rows}, tmp_path / "dial.json")
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    return explorers.alpha_dial()


def test_the_rings_sit_on_the_recorded_points(dial):
    dial.controls["scale"].value = 1.5
    points = [(float(r.get_xdata()[0]), float(r.get_ydata()[0])) for r in dial.artists]
    assert sorted(points) == sorted([(1.5, 3.25), (1.5, 2.75), (1.5, 12.0)])


def test_the_finding_is_a_sentence_with_the_numbers_of_this_setting(dial):
    dial.controls["scale"].value = 1
    assert dial.text == (
        "Scale 1.00: loss 3.50 on pirate stories, 2.50 on plain stories (nats per token); "
        "8 pirate words in 100 written."
    )
    assert dial.text in dial.finding.value


def test_scale_and_beginning_choose_the_recorded_text(dial):
    dial.controls["scale"].value = 0.75
    dial.controls["prompt"].value = 1
    assert "<i>One day</i>, <mark><b>ye</b></mark> be 3<table>" in dial.detail.value
    dial.controls["prompt"].value = 0
    assert "&lt;b&gt;cat&lt;/b&gt; 3" in dial.detail.value


def test_a_value_between_two_recorded_ones_shows_the_nearer(dial):
    dial.controls["scale"].value = 0.9
    assert dial.text.startswith("Scale 1.00:")


def test_the_slider_stops_only_where_something_was_recorded(dial):
    slider = dial.controls["scale"]
    assert (slider.min, slider.max, slider.step, slider.value) == (0, 2, 0.25, 0)


def test_pirate_words_are_marked_and_bold_and_others_are_not():
    assert explore_dial.mark_pirate("Ahoy,\nlittle <cat>") == "<mark><b>Ahoy,</b></mark>\nlittle &lt;cat&gt;"
