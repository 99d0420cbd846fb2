"""Pictures of lesson 09: every seed of every variant in a row of its own, and NF4's levels under a normal curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_lab import figures


@figures.in_style
def strips(panels: Mapping[str, Mapping[str, Sequence[float]]], reference: str | None = None) -> Figure:
    """One panel for each entry of `panels` (label of its x axis -> row -> the seeds' values), with the same rows.

    A seed is a dot, the mean of a row a tall bar. The span of the row `reference` is shaded behind all rows: what
    lies in it does not differ from it. Raises ValueError where rows are missing or empty.
    """
    rows = list(next(iter(panels.values()), {}))
    if not rows or any(list(panel) != rows or not all(map(len, panel.values())) for panel in panels.values()):
        raise ValueError(f"every panel needs the same rows, none of them empty: {rows}")
    figure, all_axes = figures.new_figure(7.5, 1.1 + 0.3 * len(rows), widths=[1] * len(panels))
    for axes, (xlabel, panel) in zip(all_axes, panels.items(), strict=True):
        if reference is not None:
            axes.axvspan(min(panel[reference]), max(panel[reference]), color=figures.GREY, alpha=0.25, lw=0)
        for at, values in enumerate(panel.values()):
            axes.plot(values, [at] * len(values), "o", ms=5.5, mew=0.5, mec="white", color=figures.BLUE)
            axes.plot([math.fsum(values) / len(values)], [at], "|", ms=13, mew=2, color=figures.INK)
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), rows if axes is all_axes[0] else [""] * len(rows))
        axes.grid(axis="y", visible=False)
    return figure


@figures.in_style
def levels(kinds: Mapping[str, Sequence[float]], deviation: float) -> Figure:
    """Levels from -1 to 1, one row of marks for each kind, under the normal curve of this standard deviation."""
    figure, (axes,) = figures.new_figure(7.0, 2.9)
    x = [i / 100 for i in range(-110, 111)]
    density = [math.exp(-0.5 * (value / deviation) ** 2) for value in x]
    axes.fill_between(x, density, color=figures.GREY, alpha=0.25, lw=0)
    axes.plot(x, density, color=figures.GREY, lw=1)
    for row, (label, values) in enumerate(kinds.items()):
        look = figures.cues(row) | {"linestyle": "none"}
        axes.plot(values, [-0.15 * (row + 1)] * len(values), label=label, clip_on=False, **look)
    axes.set(
        xlabel="weight / largest of its block", ylabel="how common (peak = 1)", ylim=(-0.15 * len(kinds) - 0.1, 1.05)
    )
    axes.set_yticks([0, 0.5, 1])
    axes.legend(loc="upper left")
    return figure
