"""Pictures of lesson 10: how many sentences stand as they are, and when a flashcard comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_lab.figures import COLOURS, HATCHES, INK, cues, in_style, new_figure


@in_style
def by_verdict(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Bars, one for each row of `counts` (label -> verdict -> number), in parts by verdict, with the numbers on them.

    Raises ValueError if there is nothing to draw.
    """
    if not any(sum(row.values()) for row in counts.values()):
        raise ValueError("counts is empty: give at least one label: {verdict: number}")
    figure, (axes,) = new_figure(7.5, 1.3 + 0.55 * len(counts))
    kinds = list(dict.fromkeys(kind for row in counts.values() for kind in row))
    for y, row in enumerate(counts.values()):
        left, whole = 0.0, sum(row.values())
        for kind in kinds:
            share, at = 100 * row.get(kind, 0) / whole, kinds.index(kind)
            look = {"color": COLOURS[at], "hatch": HATCHES[at], "edgecolor": INK, "lw": 0.6}
            axes.barh(y, share, left=left, height=0.6, label=kind if y == 0 else None, **look)
            if row.get(kind):
                paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axes.text(left + share / 2, y, row[kind], ha="center", va="center", color=INK, bbox=paper)
            left += share
    axes.set_yticks(range(len(counts)), list(counts))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of the sentences (%), with their number")
    axes.grid(False)
    figure.legend(ncols=len(kinds), loc="outside upper right")
    return figure


@in_style
def card_days(histories: Mapping[str, tuple[Sequence[int], Sequence[int]]], boxes: int) -> Figure:
    """When a card is shown, and the box in which it then lies until the next time: label -> (days, boxes)."""
    if not histories:
        raise ValueError("histories is empty: give at least one label: (days, boxes)")
    figure, (axes,) = new_figure(7.5, 3.0)
    for i, (label, (days, held)) in enumerate(histories.items()):
        axes.plot(days, held, drawstyle="steps-post", label=label, **cues(i))
    axes.set(xlabel="day", ylabel="box", yticks=range(boxes), ylim=(-0.3, boxes - 0.7))
    axes.legend()
    return figure
