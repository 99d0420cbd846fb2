"""Explorers: moving a control changes the picture, the finding and the text, each without a new figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lora_lab import experiments, explorers, figures


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


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_each_move_changes_the_picture_and_coming_back_restores_it(dial):
    seen = []
    for scale in [0, 0.25, 1, 2]:
        dial.controls["scale"].value = scale
        seen.append(dial.image.value)
    assert len(set(seen)) == 4
    dial.controls["scale"].value = 0
    assert dial.image.value == seen[0]


def test_the_size_of_the_picture_never_changes(dial):
    sizes = set()
    for scale in (0, 1, 2):
        dial.controls["scale"].value = scale
        sizes.add(pixels(dial.image.value).shape)
    assert len(sizes) == 1
    assert (dial.image.layout.width, dial.image.layout.height) == ("750px", "325px")


def test_a_move_draws_on_the_same_figure_and_the_same_axes(dial):
    figure, axes = dial.figure, list(dial.figure.axes)
    places = [a.get_position().bounds for a in axes]
    artists = [len(a.get_children()) for a in axes]
    dial.controls["scale"].value = 2
    assert dial.figure is figure and list(figure.axes) == axes
    assert [a.get_position().bounds for a in axes] == places
    assert [len(a.get_children()) for a in axes] == artists


def test_the_live_picture_is_the_static_picture_to_the_pixel(dial):
    dial.controls["scale"].value = 0.5
    assert np.array_equal(pixels(dial.image.value), pixels(figures.png(dial.figure, dpi=explorers.DPI)))


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
    assert dial.detail.value == "<i>One day</i>, <mark><b>ye</b></mark> be 3"
    dial.controls["prompt"].value = 0
    assert "&lt;b&gt;cat&lt;/b&gt; 3" in dial.detail.value


def test_a_value_between_two_recorded_ones_shows_the_nearer(dial):
    dial.controls["scale"].value = 0.9
    assert dial.text.startswith("Scale 1.00:")


def test_the_slider_stops_only_where_something_was_recorded(dial):
    slider = dial.controls["scale"]
    assert (slider.min, slider.max, slider.step, slider.value) == (0, 2, 0.25, 0)


def test_displaying_gives_the_widgets_and_a_picture_with_alt_text(dial, monkeypatch):
    calls = []
    monkeypatch.setattr(explorers, "display", lambda data, raw, metadata: calls.append((data, metadata)))
    dial._ipython_display_()
    ((data, metadata),) = calls
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == dial.box.model_id
    assert len(data["image/png"]) > 1000
    alt = metadata["image/png"]["alt"]
    assert alt == data["text/plain"] == f"{dial.summary} {dial.text}"
    assert "falls from 4.00 to 3.00 at 2 and ends at 3.00; on plain stories it goes from 2.00 to 3.00" in alt


def test_pirate_words_are_marked_and_bold_and_others_are_not():
    assert explorers.mark_pirate("Ahoy,\nlittle <cat>") == "<mark><b>Ahoy,</b></mark>\nlittle &lt;cat&gt;"
