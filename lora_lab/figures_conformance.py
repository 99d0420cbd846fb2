"""The conformance report as a picture: which property holds in this package, and which in peft."""

from __future__ import annotations

import re
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_lab import figures

# What came of a property, by mark and colour; the first that fits.
STATES = {
    "holds in every cell": ("o", figures.BLUE, figures.BLUE),
    "holds within the tolerance of peft's own tests": ("o", figures.BLUE, "white"),
    "refused in some cells, by an error that says so": ("s", figures.GREY, "white"),
    "fails in some cells": ("v", figures.OCHRE, figures.OCHRE),
    "fails in every cell": ("X", figures.RED, figures.RED),
}


def state(row: Mapping) -> str:
    """What a row of the report comes to: one of STATES.

    >>> state({"cells": 4, "passed": 3, "within": 0, "failed": 1, "refused": 0})
    'fails in some cells'
    """
    every, near, refused, some, none = STATES
    if row["failed"]:
        return none if row["failed"] == row["cells"] else some
    return refused if row["refused"] else near if row["within"] else every


def where(row: Mapping) -> str:
    """What the failing cells have in common, if it is the adapter's variant and other variants do not fail.

    >>> where({"results": {"Linear float32 plain": ["pass", 0.0], "Linear float32 PiSSA": ["fail", 0.5]}})
    'PiSSA'
    """
    tried = {case.split()[2] for case in row["results"]}
    failing = {case.split()[2] for case, (result, _) in row["results"].items() if result in ("fail", "refuses")}
    return ", ".join(sorted(failing)) if len(failing) < len(tried) else ""


@figures.in_style
def conformance(report: Mapping) -> Figure:
    """One line for each property, one column for each implementation: a mark, and how many cells pass if not all do.

    report: the recorded one (`experiments.recorded("conformance")`). A cell is one kind of layer, dtype and variant.
    """
    rows = report["rows"]
    names = list(dict.fromkeys((row["number"], row["property"]) for row in rows))
    columns = list(dict.fromkeys(row["implementation"] for row in rows))
    figure, (axes,) = figures.new_figure(6.4, 1.2 + 0.165 * len(names))
    for row in rows:
        x, y = columns.index(row["implementation"]), names.index((row["number"], row["property"]))
        axes.plot([x], [y], **_look(state(row)))
        if row["passed"] < row["cells"]:
            text = f"{row['passed']} of {row['cells']}" + (f", not {where(row)}" if where(row) else "")
            axes.text(
                x + 0.1,
                y,
                text,
                va="center",
                fontsize=7.5,
                color=figures.INK,
                bbox={"fc": "white", "ec": "none", "pad": 1},
            )
    heads = []
    for column in columns:
        mine = [row for row in rows if row["implementation"] == column]
        passed, cells = (sum(row[k] for row in mine) for k in ("passed", "cells"))
        heads.append(f"{column} {report['versions'].get(column, '')}\n{passed:,} of {cells:,} cells pass")
    axes.set(
        xlim=(-0.4, len(columns) + 0.02),
        ylim=(len(names) - 0.4, -0.6),
        xticks=range(len(columns)),
        xticklabels=heads,
        yticks=range(len(names)),
        yticklabels=[f"{_in_words(name)}  {number:>2}" for number, name in names],
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7.5)
    axes.grid(False, axis="x")
    for side in axes.spines.values():
        side.set_visible(False)
    used = [s for s in STATES if any(state(row) == s for row in rows)]
    marks = [Line2D([], [], **_look(s)) for s in used]
    figure.legend(marks, used, loc="outside lower left", ncols=2, handletextpad=0.2, columnspacing=1.2, fontsize=7.5)
    return figure


def _in_words(name: str) -> str:
    for word in ("DoRA", "PiSSA", "LoRA"):
        name = re.sub(rf"(?<![a-z]){word.lower()}(?![a-z])", word, name)
    return name.replace("_", " ")


def _look(state: str) -> dict:
    marker, edge, face = STATES[state]
    look = {"marker": marker, "markeredgecolor": edge, "markerfacecolor": face}
    return look | {"linestyle": "", "markersize": 6, "markeredgewidth": 1.3}
