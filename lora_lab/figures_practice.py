"""How far a learner has come: exercises solved, tried and open, lesson by lesson."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lora_lab.figures import BLUE, INK, in_style, new_figure

Rows = Mapping[str, tuple[int, int, int]]  # lesson -> (solved, tried and not solved, all)


@in_style
def solved(rows: Rows) -> Figure:
    """Bars of exercises for each lesson: solved filled, tried hatched, open white, with the count beside each."""
    figure, (axes,) = new_figure(height=1.4 + 0.3 * len(rows))
    for at, (done, tried, every) in enumerate(rows.values()):
        axes.barh(at, done, color=BLUE, edgecolor=INK, label="solved" if at == 0 else None)
        axes.barh(at, tried, left=done, color="white", hatch="////", edgecolor=BLUE, label="tried" if at == 0 else None)
        rest = every - done - tried
        axes.barh(at, rest, left=done + tried, color="white", edgecolor=INK, label="open" if at == 0 else None)
        axes.text(every + 0.1, at, f"{done} of {every}", va="center", color=INK)
    axes.set_yticks(range(len(rows)), [f"lesson {lesson}" for lesson in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max((every for *_, every in rows.values()), default=1) + 2)
    axes.set_xlabel("exercises")
    axes.grid(False)
    axes.legend(loc="lower right")
    return figure


def finding(rows: Rows) -> str:
    """The picture in a sentence."""
    done, every = sum(row[0] for row in rows.values()), sum(row[2] for row in rows.values())
    begun = [lesson for lesson, row in rows.items() if row[0] < row[2]]
    following = f" The first lesson with exercises still open is {begun[0]}." if begun else " Nothing is left open."
    return f"Exercises solved so far: {done} of {every}.{following}"
