"""Pictures of recorded sweeps: bands go from the lowest to the highest seed, marks are means, None is left out."""

from __future__ import annotations

import numpy as np
import pytest

from lora_lab import figures_results as results

ROWS = [
    {"label": label, "rank": rank, "loss": loss, "base_loss": base}
    for label, rank, loss, base in [
        ("rank 1", 1, 4.0, 3.4),
        ("rank 1", 1, 4.5, 3.6),
        ("rank 4", 4, 3.0, 3.5),
        ("rank 4", 4, 3.5, 3.9),
        ("diverged", 8, None, None),
    ]
]


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def data(line):
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def test_over_rank_draws_the_mean_and_a_band_from_lowest_to_highest():
    figure = results.over_rank(
        {"LoRA": {4: [3.0, 3.5], 1: [4.0, 4.5]}, "other": {1: [5.0], 4: [4.0]}}, {"full": [2, 3]}
    )
    (axes,) = figure.axes
    found = lines(axes)
    assert data(found["LoRA"]) == ([1, 4], [4.25, 3.25])
    assert list(found["full"].get_ydata()) == [2.5, 2.5]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in np.round(corners, 6)} == {(1, 4.0), (1, 4.5), (4, 3.0), (4, 3.5)}
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["1", "4"]
    assert "nats per token" in axes.get_ylabel() and axes.get_xlabel() == "rank"
    looks = [(line.get_color(), line.get_linestyle()) for line in found.values()]
    assert len({colour for colour, _ in looks}) == len({dash for _, dash in looks}) == 3


def test_pareto_puts_each_run_and_each_mean_where_it_belongs_and_skips_what_diverged():
    figure = results.pareto(ROWS, before=(4.75, 3.3), task="pirate stories")
    (axes,) = figure.axes
    found = lines(axes)
    assert list(found) == ["rank 1", "rank 4", "base model, before"]
    assert data(found["rank 1"]) == ([4.25], [3.5])
    assert data(axes.lines[0]) == ([4.0, 4.5], [3.4, 3.6])
    assert data(found["base model, before"]) == ([4.75], [3.3])
    assert found["rank 1"].get_marker() != found["rank 4"].get_marker()
    assert "pirate stories" in axes.get_xlabel() and "plain stories" in axes.get_ylabel()


def test_more_settings_than_colours_still_differ_in_a_second_cue():
    rows = [{"label": f"setting {i}", "loss": 3.0 + i, "base_loss": 3.0} for i in range(9)]
    found = lines(results.pareto(rows).axes[0]).values()
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in found}
    assert len(looks) == 9


def test_by_setting_draws_seeds_spread_and_mean_in_the_rows_order():
    figure = results.by_setting(ROWS, before=4.75)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["rank 1", "rank 4"]
    bar, seeds, mean = axes.lines[3:6]
    assert data(bar) == ([3.0, 3.5], [1, 1])
    assert data(seeds) == ([3.0, 3.5], [1, 1])
    assert data(mean) == ([3.25], [1])
    assert list(axes.lines[6].get_xdata()) == [4.75, 4.75]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first stands on top


@pytest.mark.parametrize(
    "draw",
    [
        lambda: results.over_rank({}),
        lambda: results.over_rank({"LoRA": {}}),
        lambda: results.pareto(ROWS[-1:]),
        lambda: results.by_setting(ROWS[-1:]),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(ValueError, match="empty|nothing to draw"):
        draw()
