"""The pictures of lesson 09 show the numbers they were given."""

from __future__ import annotations

import pytest

from lora_lab import figures
from lora_lab.figures_variants import levels, strips

LOSS = {"LoRA": [3.7, 3.8, 3.75], "DoRA": [3.6]}
PANELS = {"loss": LOSS, "forgetting": {"LoRA": [0.1, 0.2, 0.3], "DoRA": [0.5]}}


def test_each_seed_is_a_dot_and_each_mean_a_bar_in_the_row_of_its_name():
    left, right = strips(PANELS, "LoRA").axes
    dots, mean, other, _ = left.lines
    assert dots.get_xydata().tolist() == [[3.7, 0], [3.8, 0], [3.75, 0]]
    assert mean.get_xydata().tolist() == [[pytest.approx(3.75), 0]] and mean.get_marker() != dots.get_marker()
    assert other.get_xydata().tolist() == [[3.6, 1]]
    assert [text.get_text() for text in left.get_yticklabels()] == ["LoRA", "DoRA"]
    assert (left.get_xlabel(), right.get_xlabel()) == ("loss", "forgetting")
    assert left.get_ylim() == right.get_ylim() == (1.5, -0.5)  # the first row on top


def test_the_span_of_the_reference_is_shaded():
    for axes, (low, high) in zip(strips(PANELS, "LoRA").axes, [(3.7, 3.8), (0.1, 0.3)], strict=True):
        (band,) = axes.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((low, high))
    assert not strips(PANELS).axes[0].patches


@pytest.mark.parametrize("panels", [{}, {"loss": {}}, {"loss": {"a": []}}, {"loss": LOSS, "other": {"LoRA": [1.0]}}])
def test_rows_that_are_missing_or_empty_are_refused(panels):
    with pytest.raises(ValueError, match="same rows"):
        strips(panels)


def test_levels_have_a_row_and_two_cues_for_each_kind_under_a_curve_that_peaks_at_zero():
    figure = levels({"NF4": [-1, 0, 1], "even": [-1, 1]}, deviation=0.5)
    (axes,) = figure.axes
    curve, first, second = axes.lines
    assert first.get_xdata().tolist() == [-1, 0, 1] and second.get_xdata().tolist() == [-1, 1]
    assert first.get_marker() != second.get_marker() and first.get_color() != second.get_color()
    assert max(first.get_ydata()) < 0 and max(second.get_ydata()) < min(first.get_ydata())
    x, y = curve.get_data()
    assert x[y.argmax()] == 0 and y.max() == 1
    assert y[list(x).index(0.5)] == pytest.approx(0.6065, abs=1e-3)  # one deviation from the middle
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["NF4", "even"]


def test_they_can_be_drawn():
    for figure in (strips(PANELS, "LoRA"), levels({"NF4": [0]}, 1.0)):
        assert figures.png(figure).startswith(b"\x89PNG")
