"""The picture of the recorded benchmark: each operation's time over what it is measured against, and its bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_lab import figures


@figures.in_style
def bench(rows: Sequence[Mapping]) -> Figure:
    """Median ratios of the rows that have a bar, with their quartiles; peft's beside ours; the bars as black ticks.

    `rows` are those of `experiments.recorded("bench")`. Where the ratio is to peft's time, peft stands at 1. Raises
    ValueError if no row has a bar.
    """
    judged = [row for row in rows if row["bar"]]
    if not judged:
        raise ValueError("no row has a bar: there is nothing to draw")
    beside = {(row["what"], row["size"]): row for row in rows if row["side"] == "peft"}
    figure, (axes,) = figures.new_figure(7.6, 0.9 + 0.42 * len(judged))
    axes.axvline(1, color=figures.GREY, lw=1, zorder=0)
    series: dict[str, list[tuple[float, float, float, float]]] = {"LoRA Lab": [], "peft": []}
    for height, row in enumerate(judged):
        theirs = beside.get((row["what"], row["size"]))
        if theirs is None and row["against"] == "peft":
            theirs = {"ratio": 1.0, "quartiles": (1.0, 1.0)}
        for label, shift, side in (("LoRA Lab", -0.13, row), ("peft", 0.13, theirs)):
            if side:
                series[label].append((height + shift, side["ratio"], *side["quartiles"]))
        for limit in filter(None, row["bar"]):
            axes.plot([limit] * 2, [height - 0.36, height + 0.36], color=figures.INK, lw=2.4, gid="bar")
    for i, (label, points) in enumerate(series.items()):
        if points:
            heights, middle, low, high = zip(*points, strict=True)
            spread = [
                [m - at for m, at in zip(middle, low, strict=True)],
                [at - m for m, at in zip(middle, high, strict=True)],
            ]
            look = figures.cues(i) | {"linestyle": "none"}
            axes.errorbar(middle, heights, xerr=spread, label=label, capsize=3, elinewidth=1.5, **look)
    axes.plot(
        [], [], color=figures.INK, marker="|", markersize=10, markeredgewidth=2.4, linestyle="none", label="the bar"
    )
    axes.set_yticks(range(len(judged)), [f"{row['what']}, {row['size']}\nover {row['against']}" for row in judged])
    axes.set(
        xscale="log", ylim=(len(judged) - 0.4, -0.6), xlabel="ratio of times, paired by round (median and quartiles)"
    )
    low, high = (math.log10(end) for end in axes.get_xlim())
    axes.set_xlim(10 ** math.floor(low), 10 ** math.ceil(high))  # whole powers of ten, so that both ends have a number
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(False, axis="y")
    figure.legend(loc="outside upper right", ncols=3)
    return figure
