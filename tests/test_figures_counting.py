"""Stacked bars: their lengths are the sizes given, each part has two cues, the sums are written out."""

import pytest
from matplotlib.colors import to_hex

from lora_lab import figures_counting

BARS = {"full": {"weights": 3.0, "gradients": 2.0}, "LoRA": {"weights": 3.0, "logits": 0.5}}


def test_each_part_begins_where_the_one_before_ends_and_the_sum_stands_at_the_end():
    (axes,) = figures_counting.stacked_bars(BARS, "gigabytes", "{:.1f} GB").axes
    parts = {c.get_label(): [(bar.get_x(), bar.get_width()) for bar in c] for c in axes.containers}
    assert parts == {"weights": [(0, 3), (0, 3)], "gradients": [(3, 2), (3, 0)], "logits": [(5, 0), (3, 0.5)]}
    assert [text.get_text() for text in axes.texts] == ["5.0 GB", "3.5 GB"]
    assert axes.get_xlabel() == "gigabytes"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BARS)
    assert all(text.get_position()[0] > end for text, end in zip(axes.texts, (5, 3.5), strict=True))


def test_no_part_rests_on_colour_alone():
    (axes,) = figures_counting.stacked_bars(BARS, "gigabytes").axes
    first = [container[0] for container in axes.containers]
    assert len({to_hex(bar.get_facecolor()) for bar in first}) == len({bar.get_hatch() for bar in first}) == 3


@pytest.mark.parametrize("bars", [{}, {"full": {"weights": -1.0}}])
def test_nothing_to_draw_is_said(bars):
    with pytest.raises(ValueError, match="at least 0"):
        figures_counting.stacked_bars(bars, "gigabytes")
