"""The panels of lesson 06 show the numbers they were given, with two cues, a band, and a cross where a run diverged."""

from __future__ import annotations

import numpy as np
import pytest

from lora_lab.figures_scaling import panels

CURVES = {
    "one rule": {"rank 1": ([1, 10, 100], [1.0, 0.5, None], [0.9, 0.4, None], [1.1, 0.6, None])},
    "another": {"rank 1": ([1, 10], [0.2, 0.1]), "rank 4": ([1, 10], [0.02, 0.01])},
}


def test_lines_bands_and_crosses_are_the_numbers_given():
    figure = panels(CURVES, "learning rate", "loss")
    left, right = figure.axes
    line, cross, whose = left.lines
    assert line.get_xydata().tolist() == [[1, 1.0], [10, 0.5]]
    assert cross.get_xdata().tolist() == [100] and cross.get_marker() == "x"
    assert whose.get_xydata().tolist() == cross.get_xydata().tolist()
    assert (whose.get_color(), whose.get_marker()) == (line.get_color(), line.get_marker())
    (band,) = left.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(1.0, 0.9), (1.0, 1.1), (10.0, 0.4), (10.0, 0.6)} <= corners
    assert [one.get_ydata().tolist() for one in right.lines] == [[0.2, 0.1], [0.02, 0.01]]
    assert not right.collections


def test_a_label_keeps_its_two_cues_from_panel_to_panel_and_axes_are_named_and_alike():
    left, right = panels(CURVES, "learning rate", "loss").axes
    same, other = right.lines
    assert (left.lines[0].get_color(), left.lines[0].get_marker()) == (same.get_color(), same.get_marker())
    assert same.get_color() != other.get_color() and same.get_marker() != other.get_marker()
    assert same.get_linestyle() != other.get_linestyle()
    assert [axes.get_title(loc="left") for axes in (left, right)] == list(CURVES)
    assert left.get_xlabel() == right.get_xlabel() == "learning rate" and left.get_ylabel() == "loss"
    assert left.get_ylim() == right.get_ylim()


@pytest.mark.parametrize("log", ["xy", "x", ""])
def test_everything_is_inside_the_axes_and_crosses_are_above_the_lines(log):
    figure = panels(CURVES, "rank", "loss", log)
    left, right = figure.axes
    low, high = left.get_ylim()
    assert low < 0.01 and 1.1 < high
    figure.canvas.draw()
    cross, top = left.lines[1], left.transData.transform((1, 1.1))[1]
    assert cross.get_transform().transform(cross.get_xydata())[0, 1] > top
    assert left.get_yscale() == ("log" if "y" in log else "linear")
    assert left.get_xscale() == ("log" if "x" in log else "linear")


def test_the_legend_names_each_label_once_and_what_a_cross_is():
    names = [text.get_text() for text in panels(CURVES, "x", "y").legends[0].get_texts()]
    assert names == ["rank 1", "rank 4", "diverged"]
    assert not panels({"": {"only": ([1, 2], [1.0, 1.0])}}, "x", "y").legends


@pytest.mark.parametrize(
    ("curves", "says"),
    [
        ({}, "nothing to draw"),
        ({"a": {"b": ([1], [None])}}, "nothing to draw"),
        ({"a": {"b": ([1, 2], [1.0])}}, "'b' must be"),
        ({"a": {"b": ([1], [1.0], [1.0])}}, "'b' must be"),
    ],
)
def test_what_cannot_be_drawn_is_refused(curves, says):
    with pytest.raises(ValueError, match=says):
        panels(curves, "x", "y")


def test_numpy_arrays_are_welcome():
    (axes,) = panels({"": {"curve": (np.arange(1, 4), np.ones(3))}}, "x", "y", "").axes
    assert axes.lines[0].get_ydata().tolist() == [1, 1, 1]
