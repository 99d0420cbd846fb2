"""Pictures of lesson 08: each curve, point and mark where it was put, on the axes that were asked for."""

from __future__ import annotations

import pytest

from lora_lab import figures_merging

CURVES = {"fp32": ([0.01, 0.1], [1e-6, 1e-7]), "bf16": ([0.01, 0.1], [0.2, 0.02])}


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_curves_points_and_mark_stand_where_they_were_put():
    figure = figures_merging.log_curves(CURVES, "size", "error (share)", {"bf16": ([0.05], [0.03])}, mark=(1, "all"))
    (axes,) = figure.axes
    drawn = lines(axes)
    for label, (x, y) in CURVES.items():
        assert (list(drawn[label].get_xdata()), list(drawn[label].get_ydata())) == (x, y)
    point = drawn["_bf16"]
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([0.05], [0.03])
    assert point.get_linestyle() == "None"
    assert (point.get_color(), point.get_marker()) == (drawn["bf16"].get_color(), drawn["bf16"].get_marker())
    assert [t.get_text() for t in axes.texts] == ["all"]
    assert any(list(line.get_ydata()) == [1, 1] for line in axes.lines)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("size", "error (share)")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(CURVES)


def test_every_curve_has_two_cues_of_its_own():
    many = {str(i): ([1, 2], [1, 2]) for i in range(5)}
    (axes,) = figures_merging.log_curves(many, "x", "y").axes
    assert len({line.get_color() for line in axes.lines}) == len({line.get_marker() for line in axes.lines}) == 5


@pytest.mark.parametrize(("log", "scales"), [("xy", ["log", "log"]), ("x", ["log", "linear"]), ("", ["linear"] * 2)])
def test_only_the_axes_named_are_logarithmic(log, scales):
    (axes,) = figures_merging.log_curves(CURVES, "x", "y", log=log).axes
    assert [axes.get_xscale(), axes.get_yscale()] == scales


def test_zero_is_welcome_where_the_axis_is_not_logarithmic():
    (axes,) = figures_merging.log_curves({"a": ([1, 2], [0, 1])}, "x", "y", log="x").axes
    assert list(lines(axes)["a"].get_ydata()) == [0, 1]


@pytest.mark.parametrize(
    ("curves", "points", "says"),
    [
        ({}, {}, "must be a curve"),
        (CURVES, {"int8": ([1], [1])}, "int8"),
        ({"a": ([1, 2], [1])}, {}, "'a' has 2 values of x but 1 of y"),
        ({"a": ([1, 2], [1, 0])}, {}, "y is logarithmic, so 0 cannot"),
        ({"a": ([1, 2], [1, 2])}, {"a": ([0], [1])}, "x is logarithmic, so 0 cannot"),
    ],
)
def test_what_cannot_be_drawn_is_refused(curves, points, says):
    with pytest.raises(ValueError, match=says):
        figures_merging.log_curves(curves, "x", "y", points)
