"""The course's pictures: pure functions from numbers to a matplotlib Figure, and one way to show them.

Nothing here knows torch or pyplot. Every series has two cues, a colour (Okabe and Ito's, safe for colour-blind
readers) and a marker or a line style; every axis says its quantity and unit; alt text says what was found.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

# Okabe & Ito 2008: "Color Universal Design", in the order in which series take them.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, INK = "#8a8a8a", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))

STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
INCH = 100  # pixels a reader sees per inch of figure; the PNG itself is finer, for sharp screens


def new_figure(width: float = 7.0, height: float = 3.4, columns: int = 1) -> tuple[Figure, list]:
    """An empty Figure (inches) and its list of axes in one row, in the course's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG bytes: no time, path or version in them, so equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display `figure` in a notebook with `alt`, the finding in words, as its alternative text.

    Raises ValueError when `alt` is empty: a figure without it says nothing to a reader who cannot see it.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    from IPython.display import display

    width = round(figure.get_figwidth() * INCH)
    data = {"image/png": base64.b64encode(png(figure)).decode(), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def training_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str = "validation loss (nats per token)",
    xlabel: str = "training step",
    title: str | None = None,
) -> Figure:
    """Loss against step, one line per entry of `curves`: label -> (steps, losses).

    Raises ValueError if there is no curve, or one whose steps and losses differ in number.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one label: (steps, losses)")
    for label, (steps, losses) in curves.items():
        if len(steps) != len(losses):
            raise ValueError(f"{label!r} has {len(steps)} steps but {len(losses)} losses")
    figure, (axes,) = new_figure()
    for i, (label, (steps, losses)) in enumerate(curves.items()):
        axes.plot(steps, losses, label=label, markevery=max(1, len(steps) // 10), **cues(i))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title)
    if len(curves) > 1:
        axes.legend()
    return figure


def singular_values(
    spectra: Mapping[str, Sequence[float]] | Sequence[Sequence[float]],
    labels: Sequence[str] | None = None,
    ylabel: str = "singular value",
    title: str | None = None,
    log: bool = False,
) -> Figure:
    """Singular values in falling order against their number, counted from 1: one line per spectrum.

    `spectra` is label -> values, or a list of values with `labels` beside it. `log` draws a logarithmic y axis.
    """
    if not isinstance(spectra, Mapping):
        names = labels if labels is not None else [f"matrix {i + 1}" for i in range(len(spectra))]
        spectra = dict(zip(names, spectra, strict=True))
    if not spectra:
        raise ValueError("spectra is empty: give at least one list of singular values")
    figure, (axes,) = new_figure()
    for i, (label, values) in enumerate(spectra.items()):
        values = sorted((float(v) for v in values), reverse=True)
        axes.plot(range(1, len(values) + 1), values, label=label, markevery=max(1, len(values) // 32), **cues(i))
    axes.set(xlabel="number of the singular value, largest first", ylabel=ylabel)
    if log:
        axes.set_yscale("log")
    if title:
        axes.set_title(title)
    if len(spectra) > 1:
        axes.legend()
    return figure


def cues(i: int) -> dict:
    """Colour, marker and line style of series number `i`, so that no series rests on colour alone."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }
