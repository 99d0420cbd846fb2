"""Lesson 12's pictures: roofs with a corner at the ridge, fields that say their word, dots where the numbers are."""

from __future__ import annotations

import pytest

from lora_lab import figures, figures_hardware


def test_a_roof_rises_by_the_bandwidth_and_ends_at_the_peak():
    figure = figures_hardware.roofline({"card": (1e14, 1e12)}, {"thin": (10, 1e13), "thick": (1000, 9e13)})
    (axes,) = figure.axes
    (roof,) = [line for line in axes.lines if line.get_gid() == "roof"]
    (x0, corner, x1), heights = roof.get_xdata(), roof.get_ydata()
    assert corner == 100 and x0 < 10 and x1 > 1000
    assert list(heights) == [x0 * 1e12 / 1e12, 100, 100]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_gid() == "point"]
    assert points == [(10, 10), (1000, 90)]
    assert axes.get_xscale() == axes.get_yscale() == "log" and "byte" in axes.get_xlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["card", "thin", "thick"]


def test_a_field_says_its_word_and_looks_like_it():
    rows = {"small": {"m": "none", "n": "full"}, "large": {"m": "full", "n": "none"}}
    (axes,) = figures_hardware.fit_map(rows, ["none", "full"]).axes
    words = {(round(t.get_position()[0]), round(t.get_position()[1] - 0.5)): t.get_text() for t in axes.texts}
    assert words == {(1, 0): "none", (2, 0): "full", (1, 1): "full", (2, 1): "none"}
    strips = [patch for patch in axes.patches if patch.get_width() < 0.5]
    assert len({(p.get_facecolor(), p.get_hatch()) for p in strips}) == 2
    assert [t.get_text() for t in axes.get_yticklabels()] == ["small", "large"]


def test_dots_stand_at_their_values_and_what_is_none_has_none():
    rows = {"one": {"predicted": 1.0, "measured": 2.0}, "two": {"predicted": 3.0, "measured": None}}
    (axes,) = figures_hardware.dots(rows, "ms").axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn == {"predicted": ([1, 3], [0, 1]), "measured": ([2], [0])}
    assert axes.get_xlim()[0] == 0 and axes.get_xscale() == "linear"
    assert figures_hardware.dots(rows, "ms", log=True).axes[0].get_xscale() == "log"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: figures_hardware.roofline({}, {}), "roofs is empty"),
        (lambda: figures_hardware.fit_map({"a": {"b": "yes"}}, ["no"]), "one of no"),
        (lambda: figures_hardware.dots({"a": {"b": None}}, "x"), "nothing to draw"),
    ],
)
def test_nothing_to_draw_is_said(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def test_the_same_picture_every_time():
    make = lambda: figures.png(figures_hardware.dots({"a": {"s": 1.0}}, "x"))  # noqa: E731
    assert make() == make()
