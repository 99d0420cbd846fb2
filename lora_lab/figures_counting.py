"""Pictures of lesson 04: what a total is made of, one bar beside another."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lora_lab import figures


@figures.in_style
def stacked_bars(bars: Mapping[str, Mapping[str, float]], xlabel: str, form: str = "{:,.0f}") -> Figure:
    """One horizontal bar for each entry of `bars`: label -> part -> size, in the unit that `xlabel` names.

    The sum stands at each bar's end, written by `form`. A part that one bar lacks has no length there. Raises
    ValueError if there is no bar, or a size below zero.
    """
    if not bars or min(size for parts in bars.values() for size in parts.values()) < 0:
        raise ValueError(f"bars must be label -> part -> size, with sizes of at least 0, got {bars!r}")
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    figure, (axes,) = figures.new_figure(7.5, 1.4 + 0.45 * len(bars))
    ends = [0.0] * len(bars)
    for i, name in enumerate(names):
        sizes = [parts.get(name, 0) for parts in bars.values()]
        look = {"color": figures.COLOURS[i], "hatch": figures.HATCHES[i], "edgecolor": "white", "lw": 0.4}
        axes.barh(range(len(bars)), sizes, 0.6, left=ends, label=name, **look)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    for y, end in enumerate(ends):
        axes.text(end + 0.01 * max(ends), y, form.format(end), va="center", color=figures.INK)
    axes.set(xlabel=xlabel, xlim=(0, 1.13 * max(ends)), yticks=range(len(bars)), yticklabels=list(bars))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    figure.legend(loc="outside upper left", ncols=len(names), handlelength=1.5, columnspacing=1.2)
    return figure
