"""Lesson 10's pictures show the numbers they are given, in two cues."""

from __future__ import annotations

import numpy as np
import pytest

from lora_lab import figures, figures_interview

COUNTS = {"the card": {"exact": 1, "depends": 3}, "lessons": {"exact": 8, "approximate": 2}}


def test_bars_are_shares_and_carry_their_numbers():
    axes = figures_interview.by_verdict(COUNTS).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert sorted(width for width in widths if width) == [20, 25, 75, 80]
    assert sorted(int(text.get_text()) for text in axes.texts) == [1, 2, 3, 8]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(COUNTS)
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}
    assert len(looks) == 3 and len({hatch for _, hatch in looks}) == 3


def test_a_line_for_each_history_that_waits_until_the_next_time():
    axes = figures_interview.card_days({"known": ([0, 1, 4], [1, 2, 3]), "not": ([0, 0], [0, 1])}, boxes=6).axes[0]
    assert [list(map(int, line.get_xdata())) for line in axes.lines] == [[0, 1, 4], [0, 0]]
    assert {line.get_drawstyle() for line in axes.lines} == {"steps-post"}
    assert len({line.get_linestyle() for line in axes.lines}) == len({line.get_marker() for line in axes.lines}) == 2


def test_nothing_to_draw_is_refused():
    for draw in (lambda: figures_interview.by_verdict({}), lambda: figures_interview.card_days({}, 6)):
        with pytest.raises(ValueError, match="is empty"):
            draw()


def test_they_can_be_encoded():
    drawn = figures_interview.by_verdict(COUNTS)
    assert figures.png(drawn).startswith(b"\x89PNG") and np.all(drawn.get_size_inches() > 1)
