"""Pictures of matrices and of their ranks, as `figures` draws: numbers in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from lora_lab.figures import GREY, INK, cues, in_style, ink_on, new_figure


@in_style
def equation(*parts: tuple[str, ArrayLike] | str) -> Figure:
    """Small matrices in a row with signs between: ("W", W), "+", ("B", B), ("A", A). Each square shows its number.

    Colour gives sign and size, on one scale for all. Raises ValueError if no part is a matrix.
    """
    matrices = [np.atleast_2d(part[1]) for part in parts if not isinstance(part, str)]
    if not matrices:
        raise ValueError('parts holds no matrix: give at least one ("name", matrix)')
    largest = max(np.abs(matrix).max() for matrix in matrices) or 1
    tallest = max(len(matrix) for matrix in matrices)
    shade, left = matplotlib.colormaps["PuOr"], 0.0
    across = sum(m.shape[1] for m in matrices) + len(parts)
    figure, (axes,) = new_figure(min(9.0, 0.45 * across + 0.3), 0.45 * tallest + 0.75)
    for part in parts:
        if isinstance(part, str):
            axes.text(left, tallest / 2, part, ha="center", va="center", fontsize=15, color=INK)
            left += 0.5
            continue
        name, matrix = part[0], np.atleast_2d(part[1])
        top = (tallest - len(matrix)) / 2
        for (row, column), value in np.ndenumerate(matrix):
            colour = shade(0.5 - 0.35 * value / largest)
            axes.add_patch(Rectangle((left + column, top + row), 1, 1, facecolor=colour, edgecolor="white", lw=1.5))
            ink = ink_on(colour)
            axes.text(left + column + 0.5, top + row + 0.5, f"{value:g}", ha="center", va="center", color=ink)
        label = f"{name}\n[{matrix.shape[0]}, {matrix.shape[1]}]"
        axes.text(left + matrix.shape[1] / 2, top - 0.15, label, ha="center", va="bottom", fontsize=9, color=INK)
        left += matrix.shape[1] + 0.5
    axes.set(xlim=(-0.4, left), ylim=(tallest, -1.3), aspect="equal")
    axes.set_axis_off()
    return figure


@in_style
def pictures(named: Mapping[str, ArrayLike]) -> Figure:
    """Matrices as pictures side by side, on one grey scale: dark is the smallest number of all, light the largest.

    `named` is title -> matrix. Raises ValueError if there is none.
    """
    if not named:
        raise ValueError("named is empty: give at least one title: matrix")
    arrays = {title: np.asarray(matrix) for title, matrix in named.items()}
    low, high = min(a.min() for a in arrays.values()), max(a.max() for a in arrays.values())
    figure, row = new_figure(min(9.0, 1.9 * len(arrays)), 2.3, widths=[1] * len(arrays))
    for axes, (title, array) in zip(row, arrays.items(), strict=True):
        axes.imshow(array, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    return figure


@in_style
def energy_curves(kept: Mapping[str, Sequence[float]], mark: float | None = 0.9) -> Figure:
    """What the best rank r keeps, in % of the squared singular values, against r: one line per entry of `kept`.

    `kept` is label -> cumulative shares for r = 1, 2, ... (`lowrank.energy`); a dotted line stands at `mark`. Raises
    ValueError if there is none.
    """
    if not kept:
        raise ValueError("kept is empty: give at least one label: shares")
    figure, (axes,) = new_figure()
    for i, (label, shares) in enumerate(kept.items()):
        percent = 100 * np.asarray(shares)
        axes.plot(range(1, len(percent) + 1), percent, label=label, markevery=max(1, len(percent) // 16), **cues(i))
    if mark is not None:
        axes.axhline(100 * mark, color=GREY, linestyle=":", lw=1.2, zorder=0)
    axes.set(xlabel="rank of the approximation", ylabel="squares kept (%)", ylim=(0, 103))
    if len(kept) > 1:
        axes.legend()
    return figure


@in_style
def missing_by_rank(ranks: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Share of the change left missing against rank (log scale), one panel per entry: title -> label -> shares.

    Raises ValueError if there is no panel, or a series that is not as long as `ranks`.
    """
    if not panels:
        raise ValueError("panels is empty: give at least one title: {label: shares}")
    for title, series in panels.items():
        for label, shares in series.items():
            if len(shares) != len(ranks):
                raise ValueError(f"{title!r}, {label!r}: {len(shares)} shares for {len(ranks)} ranks")
    figure, row = new_figure(4.2 * len(panels), 3.4, widths=[1] * len(panels))
    for axes, (title, series) in zip(row, panels.items(), strict=True):
        for i, (label, shares) in enumerate(series.items()):
            line = {"linestyle": "none", "markersize": 7} if "trained" in label else {}  # points are measured
            axes.plot(ranks, shares, label=label, **{**cues(i), **line})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(r) for r in ranks])
        axes.minorticks_off()
        axes.set(title=title, xlabel="rank of the correction", ylim=(0, 1.02))
        axes.set_ylabel("share of the change missing")
        axes.legend(fontsize=9)
    return figure
