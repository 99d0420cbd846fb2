"""No meaning by colour alone: in every picture, what differs in colour differs in something else; words can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.text import Text

from lora_lab import figures
from tests.accessibility.samples import LIVE, SAMPLES, drawing_functions, drawn

NEUTRAL = {to_hex(c) for c in ("white", "black", figures.GREY, figures.INK, figures.GRID, figures.FAINT, figures.PAGE)}
NEUTRAL.add(to_hex(figures.WORSE))
EVERY = [*(function.__name__ for function in SAMPLES), *LIVE]


def look_of_a_line(line: Line2D) -> tuple | None:
    """(colour, everything else that tells it from others); None for one that is grey, or not seen."""
    colour = to_hex(line.get_color() if line.get_marker() in ("None", "", None) else line.get_markeredgecolor())
    marker = line.get_marker() if line.get_marker() not in ("None", "", None) else ""
    style = (
        (line.get_linestyle(), getattr(line, "_unscaled_dash_pattern", None)) if line.get_linestyle() != "None" else ""
    )
    filled = line.get_fillstyle() if marker else ""
    seen = line.get_visible() and (marker or style)
    return (colour, (marker, style, filled)) if seen and colour not in NEUTRAL else None


def look_of_a_patch(patch: Patch) -> tuple | None:
    """(colour, its hatch and the words inside it)."""
    colour = to_hex(patch.get_facecolor())
    if patch.get_facecolor()[3] < 0.9 and not patch.get_gid():  # a band behind a line of its colour
        return None
    corners = patch.get_transform().transform(patch.get_path().vertices)
    low, high = corners.min(0) - 1, corners.max(0) + 1
    texts = [text for text in patch.axes.texts if text.get_text().strip()] if patch.axes else []
    places = [(text.get_transform().transform(text.get_position()), text.get_text()) for text in texts]
    inside = tuple(sorted(words for place, words in places if np.all(place >= low) and np.all(place <= high)))
    return (colour, (patch.get_hatch() or "", inside)) if colour not in NEUTRAL else None


def alike(figure: Figure) -> list[tuple]:
    """Pairs of looks that differ in colour and in nothing else."""
    figure.canvas.draw()
    bars = [box for axes in figure.axes for box in axes.containers if isinstance(box, ErrorbarContainer)]
    caps = {line for box in bars for line in box.lines[1]}  # they stand around a mark, which has its own look
    lines = {look_of_a_line(line) for axes in figure.axes for line in axes.lines if line not in caps}
    patches = {look_of_a_patch(patch) for axes in figure.axes for patch in axes.patches}
    found = []
    for looks in (lines, patches):
        pairs = itertools.combinations(sorted(filter(None, looks), key=repr), 2)
        found += [(one, other) for one, other in pairs if one[0] != other[0] and one[1] == other[1]]
    return found


def test_every_drawing_function_has_a_sample():
    missing = {function.__name__ for function in drawing_functions() - set(SAMPLES)}
    assert missing == set(), "add it to tests/accessibility/samples.py"


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_told_by_colour_alone(name):
    assert alike(drawn(name)) == []


@pytest.mark.parametrize("name", ["training_curves", "singular_values", "energy_curves", "log_curves", "levels"])
def test_eight_series_are_eight_looks_and_stand_in_the_legend(name):
    figure = drawn(name)
    (legend,) = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    handles = [look_of_a_line(line)[1] for line in legend.get_lines()]
    assert len(handles) == 8 and (len(set(handles)) == 8 or name == "levels")
    assert len({text.get_text() for text in legend.get_texts()}) == 8


@pytest.mark.parametrize("cue", ["marker and line", "hatch"])
def test_a_missing_cue_would_be_seen(cue):
    if cue == "hatch":
        figure = drawn("stacked_bars")
        for patch in figure.axes[0].patches:
            patch.set_hatch(None)
    else:
        figure = drawn("training_curves")
        for line in figure.axes[0].lines:
            line.set(marker="o", linestyle="-", fillstyle="full")
    assert alike(figure)


# --- words ----------------------------------------------------------------------------------------------------------


def backgrounds(figure: Figure) -> list[tuple[Text, str]]:
    """Every text that is seen, and the commonest colour behind it."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    places = [text.get_window_extent() for text in texts]
    inks = [text.get_color() for text in texts]
    for text in texts:
        text.set_color((0, 0, 0, 0))
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].copy()
    found = []
    for text, ink, place in zip(texts, inks, places, strict=True):
        text.set_color(ink)
        (left, low), (right, high) = np.clip(np.round(place.get_points()).astype(int), 0, None)
        part = picture[low:high, left:right].reshape(-1, 3)
        if len(part):
            colours, counts = np.unique(part, axis=0, return_counts=True)
            found.append((text, to_hex(colours[counts.argmax()] / 255)))
    return found


@pytest.mark.parametrize("name", EVERY)
def test_every_word_in_a_picture_can_be_read(name):
    figure = drawn(name)
    seen = backgrounds(figure)
    assert seen
    faint = [(t.get_text(), t.get_color(), on) for t, on in seen if figures.contrast(t.get_color(), on) < 4.5]
    assert faint == []


def test_dark_squares_have_light_numbers():
    inks = {to_hex(text.get_color()) for text in drawn("equation").axes[0].texts}
    assert {to_hex("white"), figures.INK} <= inks


@pytest.mark.parametrize("name", EVERY)
def test_every_line_and_mark_stands_out_from_white(name):
    """Marks need 3:1 (WCAG 2.2, 1.4.11), through whatever lets the ground shine through. Grid lines mean nothing."""
    faint = []
    for axes in drawn(name).axes:
        for line in [*axes.lines, *(c for c in axes.collections if isinstance(c, LineCollection))]:
            colours = line.get_colors() if isinstance(line, LineCollection) else [line.get_color()]
            alpha = line.get_alpha() if line.get_alpha() is not None else 1
            seen = [to_hex(1 - alpha * (1 - np.array(to_rgb(colour)))) for colour in colours]
            if line.get_zorder() > 0 and line.get_linewidth() < 6:  # no guide in the background, no band
                faint += [colour for colour in seen if figures.contrast(colour, "white") < 3]
    assert faint == []


def test_the_reader_of_patches_knows_words_and_hatches():
    figure, (axes,) = figures.new_figure()
    axes.add_patch(Rectangle((0, 0), 0.4, 1, facecolor=figures.BLUE, hatch="//"))
    axes.add_patch(Polygon([(0.5, 0), (1, 0), (1, 1), (0.5, 1)], facecolor=figures.RED))
    axes.text(0.7, 0.5, "word")
    figure.canvas.draw()
    assert [look_of_a_patch(patch)[1] for patch in axes.patches] == [("//", ()), ("", ("word",))]
