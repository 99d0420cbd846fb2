"""Pictures of matrices and ranks: what they draw is what they were given, with two cues and named axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from lora_lab import figures_lowrank


def series(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def two_cues(axes) -> bool:
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    return len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == len(lines)


def test_an_equation_shows_every_number_in_its_place_and_its_shape():
    matrix = np.array([[1, -2, 0], [0.5, 4, 0]])
    (axes,) = figures_lowrank.equation(("W", matrix), "+", ("b", [[7], [8]])).axes
    squares = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(squares) == 8
    texts = [(t.get_text(), t.get_position()) for t in axes.texts]
    at = {position: text for text, position in texts}
    for (row, column), value in np.ndenumerate(matrix):
        assert at[(column + 0.5, row + 0.5)] == f"{value:g}"
    said = [text for text, _ in texts]
    assert "W\n[2, 3]" in said and "b\n[2, 1]" in said and "+" in said and {"7", "8"} <= set(said)


def test_colour_tells_sign_and_size_on_one_scale():
    (axes,) = figures_lowrank.equation(("W", [[-4, 0, 2, 4]]), ("zero", [[0]])).axes
    low, none, half, high, zero = (to_rgb(p.get_facecolor()) for p in axes.patches)
    assert low[2] > low[0] and high[0] > high[2]  # negative is violet, positive orange
    assert none == zero and sum(high) < sum(half) < sum(none)  # paler towards zero
    assert len(figures_lowrank.equation(("zeros", np.zeros((2, 2)))).axes[0].patches) == 4


def test_pictures_share_one_scale_and_keep_their_values():
    named = {"first": np.arange(6.0).reshape(2, 3), "second": np.full((2, 3), 9.0)}
    axes = figures_lowrank.pictures(named).axes
    assert [a.get_title(loc="left") for a in axes] == list(named)
    for a, matrix in zip(axes, named.values(), strict=True):
        assert np.array_equal(a.images[0].get_array(), matrix)
        assert a.images[0].get_clim() == (0, 9)


def test_energy_is_drawn_in_percent_from_rank_one():
    (axes,) = figures_lowrank.energy_curves({"W": [0.5, 0.75, 1.0], "change": [1.0, 1.0, 1.0]}).axes
    lines = series(axes)
    assert lines["W"] == ([1, 2, 3], [50, 75, 100]) and lines["change"] == ([1, 2, 3], [100, 100, 100])
    assert "%" in axes.get_ylabel() and "rank" in axes.get_xlabel()
    assert two_cues(axes)
    (mark,) = [line for line in axes.lines if line.get_label().startswith("_")]
    assert list(mark.get_ydata()) == [90, 90]
    assert len(figures_lowrank.energy_curves({"W": [1.0]}, mark=None).axes[0].lines) == 1


def test_missing_by_rank_draws_each_panel_and_only_points_for_what_was_trained():
    panels = {"white": {"floor": [0.9, 0.5], "trained": [0.9, 0.6]}, "uneven": {"floor": [0.4, 0.1]}}
    figure = figures_lowrank.missing_by_rank([1, 8], panels)
    for axes, (title, drawn) in zip(figure.axes, panels.items(), strict=True):
        assert axes.get_title(loc="left") == title and axes.get_xscale() == "log"
        assert series(axes) == {label: ([1, 8], shares) for label, shares in drawn.items()}
        assert "missing" in axes.get_ylabel() and "rank" in axes.get_xlabel()
        assert two_cues(axes)
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert styles["trained"] == "None" and styles["floor"] != "None"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: figures_lowrank.equation("+"), "no matrix"),
        (lambda: figures_lowrank.pictures({}), "named is empty"),
        (lambda: figures_lowrank.energy_curves({}), "kept is empty"),
        (lambda: figures_lowrank.missing_by_rank([1], {}), "panels is empty"),
        (lambda: figures_lowrank.missing_by_rank([1], {"white": {"floor": [1, 2]}}), "'floor': 2 shares for 1 ranks"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
