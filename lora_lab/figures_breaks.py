"""Picture of lesson 11: which check goes red on which broken model."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lora_lab import figures


@figures.in_style
def verdicts(table: Mapping[str, Mapping[str, bool | None]]) -> Figure:
    """A grid of checks (rows) and models (columns) from `table`: model -> check -> passed, or None where not run.

    Each cell has a colour and a word. Raises ValueError if the table is empty or two models had other checks.
    """
    columns = [list(checks) for checks in table.values()]
    if not columns or not columns[0] or any(names != columns[0] for names in columns):
        raise ValueError(f"table must be model -> check -> passed, the same checks for each model, got {table!r}")
    names = columns[0]
    figure, (axes,) = figures.new_figure(7.5, 1.0 + 0.36 * len(names))
    for x, checks in enumerate(table.values()):
        for y, passed in enumerate(checks.values()):
            look = {"facecolor": "white", "edgecolor": figures.GREY, "lw": 0.8}
            word = "not run"
            if passed is not None:
                word = "green" if passed else "RED"
                look |= {"facecolor": figures.GREEN + "40"} if passed else {"facecolor": figures.RED, "hatch": "////"}
            axes.add_patch(Rectangle((x - 0.47, y - 0.42), 0.94, 0.84, **look))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if passed is False else None
            weight = "bold" if passed is False else "normal"
            axes.text(x, y, word, ha="center", va="center", fontsize=9, fontweight=weight, color=figures.INK, bbox=box)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="model", ylabel="check")
    axes.set(xticks=range(len(columns)), xticklabels=list(table), yticks=range(len(names)), yticklabels=names)
    axes.tick_params(length=0)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure
