"""Rank, alpha, learning rate and targets over results that were really trained: loss, forgetting, and the text."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lora_lab import counting, experiments, explorer, figures, figures_results, shapes, tasks
from lora_lab.explore_dial import mark_pirate

BASE = Path(__file__).parent / "assets" / "base" / "config.json"
Setting = tuple[str, float, int, float]  # targets, alpha / rank, rank, learning rate
Cell = list[dict]  # the rows of one setting: one per seed
ORDER = ("targets", "ratio", "rank", "lr")


def by_setting(rows: Sequence[Mapping]) -> dict[Setting, Cell]:
    """The runs of each setting, sorted by seed. Raises ValueError unless every combination was run."""
    cells: dict[Setting, Cell] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        cells.setdefault((row["targets"], row["alpha"] / row["rank"], row["rank"], row["lr"]), []).append(row)
    for setting in itertools.product(*values(cells)):
        if setting not in cells:
            raise ValueError(f"nothing is recorded for (targets, alpha / rank, rank, lr) = {setting}")
    return cells


def values(cells: Mapping[Setting, Cell]) -> list[list]:
    """What was recorded of targets, alpha / rank, rank and learning rate, in rising order (targets as they come)."""
    targets, *numbers = zip(*cells, strict=True)
    return [list(dict.fromkeys(targets)), *(sorted(set(column)) for column in numbers)]


def spread(cell: Cell, field: str) -> tuple[float, float, float]:
    """(lowest, mean, highest) over the seeds; a run without a number counts as infinite."""
    return figures_results.spread([math.inf if row[field] is None else row[field] for row in cell])


def diverged(cell: Cell, before: Mapping[str, float]) -> int:
    """How many seeds ended no better than they began."""
    return sum(row["loss"] is None or row["loss"] >= before["loss"] for row in cell)


@figures.in_style
def results_figure(cells: Mapping[Setting, Cell], before: Mapping[str, float]) -> tuple[Figure, Callable[..., None]]:
    """An empty picture, and `draw(targets, ratio, rank, lr)`, which fills it.

    Left: loss on the task against learning rate, a line and seed band per rank. Right: the same runs' loss on plain
    stories against their loss on the task. The axes are those of all settings, so that a move can be seen; what lies
    beyond them stands at the edge with a cross. `before` is the base model's "loss" and "base_loss".
    """
    targets, ratios, ranks, rates = values(cells)
    lowest = min(spread(cell, "loss")[0] for cell in cells.values())
    calmest = min(spread(cell, "base_loss")[0] for cell in cells.values())
    gain = before["loss"] - lowest
    top, forgotten = before["loss"] + gain / 6, before["base_loss"] + gain / 2
    figure, (left, right) = figures.new_figure(7.8, 3.6, widths=(1.15, 1))
    worse = {"color": figures.WORSE, "lw": 0, "zorder": 0}
    left.axhspan(before["loss"], 2 * top, **worse)
    right.axvspan(before["loss"], 2 * top, **worse)
    left.axhline(before["loss"], color=figures.INK, lw=1, ls="--")
    left.text(0.02, before["loss"] + gain / 12, "worse than before training", va="center", fontsize=8.5, zorder=2,
              transform=left.get_yaxis_transform())  # fmt: skip
    right.plot(before["loss"], before["base_loss"], "*", color=figures.INK, ms=13)
    right.text(
        before["loss"] - gain / 30, before["base_loss"], "before", ha="right", va="center", fontsize=8.5, zorder=2
    )
    left.set(xscale="log", xlim=(rates[0] / 1.4, rates[-1] * 1.4), ylim=(lowest - gain / 12, top))
    left.set_xticks(rates, [f"{lr:g}" for lr in rates])
    left.minorticks_off()
    left.set(xlabel="learning rate", ylabel="loss on pirate stories (nats per token)")
    right.set(xlim=(lowest - gain / 12, top), ylim=(calmest - gain / 24, forgotten))
    right.set(xlabel="loss on pirate stories", ylabel=figures_results.FORGETTING)
    # Drawn at each move, over all that stays (the frame has 2.5); they move no axes.
    moving = {"animated": True, "in_layout": False, "zorder": 3}
    lines = []
    for i, rank in enumerate(ranks):
        look = figures.cues(i) | moving
        band = left.fill_between(rates, 0, 0, color=look["color"], alpha=0.25, lw=0, **moving)
        lines.append((band, *(axes.plot([], [], label=f"rank {rank}", **look)[0] for axes in (left, right))))
    ends = {"marker": "x", "ls": "", "ms": 8, "mew": 2, "color": figures.INK, "clip_on": False} | moving
    ring = {"marker": "o", "color": figures.RED, "ms": 14, "fillstyle": "none", "mew": 2.2, "clip_on": False} | moving
    crosses = [axes.plot([], [], label="beyond the axes", **ends)[0] for axes in (left, right)]
    rings = [axes.plot([], [], **ring)[0] for axes in (left, right)]
    figure.legend(handles=[*(line[1] for line in lines), crosses[0]], ncols=len(ranks) + 1, loc="outside upper left")

    def draw(targets: str, ratio: float, rank: int, lr: float) -> None:
        beyond: list[list[tuple[float, float]]] = [[], []]
        for r, (band, *pair) in zip(ranks, lines, strict=True):
            row = [cells[targets, ratio, r, rate] for rate in rates]
            low, loss, high = np.array([spread(cell, "loss") for cell in row]).T
            base = np.array([spread(cell, "base_loss")[1] for cell in row])
            band.set_data(rates, np.minimum(low, top), np.minimum(high, top))
            shown = (rates, np.minimum(loss, top)), (np.minimum(loss, top), np.minimum(base, forgotten))
            over = loss > top, (loss > top) | (base > forgotten)
            for line, (x, y), out, found in zip(pair, shown, over, beyond, strict=True):
                line.set_data(x, y)
                found += zip(np.array(x)[out], y[out], strict=True)
            if r == rank:
                for mark, (x, y) in zip(rings, shown, strict=True):
                    mark.set_data([x[rates.index(lr)]], [y[rates.index(lr)]])
        for cross, found in zip(crosses, beyond, strict=True):
            cross.set_data(*zip(*found, strict=True)) if found else cross.set_data([], [])

    return figure, draw


def finding(cells: Mapping[Setting, Cell], before: Mapping[str, float], chosen: Setting) -> str:
    """The chosen setting's result in two sentences: its numbers, and what they mean beside its neighbours'."""
    targets, ratio, rank, lr = chosen
    cell = cells[chosen]
    low, mean, high = spread(cell, "loss")
    text = (
        f"Rank {rank}, alpha {ratio * rank:g}, learning rate {lr:g}, {targets}: loss {_nats(mean)} ({_nats(low)} to "
        f"{_nats(high)} over {len(cell)} seeds) from {_nats(before['loss'])} on pirate stories, "
        f"{_nats(spread(cell, 'base_loss')[1])} from {_nats(before['base_loss'])} on plain ones."
    )
    if bad := diverged(cell, before):
        return f"{text} {bad} of {len(cell)} diverged: steps grow with learning rate, alpha / rank and rank."
    best = min(values(cells)[3], key=lambda rate: spread(cells[targets, ratio, rank, rate], "loss")[1])
    if best == lr:
        return f"{text} No other learning rate here has a lower mean."
    reached = _nats(spread(cells[targets, ratio, rank, best], "loss")[1])
    return f"{text} {'Larger' if best > lr else 'Smaller'} steps do better here: {best:g} reaches {reached}."


def twin(cells: Mapping[Setting, Cell], chosen: Setting) -> str:
    """The picture in numbers: an HTML table with a row per rank and a column per learning rate."""
    targets, ratio, rank, lr = chosen
    _, _, ranks, rates = values(cells)
    rows = []
    for r in ranks:
        row: dict[str, Any] = {"rank": f"{r} (chosen)" if r == rank else r}
        for rate in rates:
            low, mean, high = map(_nats, spread(cell := cells[targets, ratio, r, rate], "loss"))
            mark = "→ " if (r, rate) == (rank, lr) else ""
            row[f"lr {rate:g}"] = f"{mark}{mean} ({low} to {high}); {_nats(spread(cell, 'base_loss')[1])}"
        rows.append(row)
    caption = "Loss on pirate stories, mean (lowest to highest seed); then loss on plain stories; nats per token"
    return figures.table(rows, caption)


def _nats(loss: float) -> str:
    return f"{loss:.2f}" if math.isfinite(loss) else "no number"


def results(
    rank: int = 16,
    ratio: float = 2.0,
    lr: float = 0.01,
    targets: str = "all-linear",
    lock: Mapping[str, Any] | None = None,
    sweep: str = "grid",
) -> explorer.Explorer:
    """Choose rank, alpha / rank, learning rate and targets, and see what training with them came to.

    Every point is a recorded training run of `python -m lora_lab sweep grid`; nothing else can be chosen. `sweep` names
    another record of the same form, such as "grid_large".
    """
    record = experiments.recorded(sweep)
    before, prompt = record["before"]["pirate"], tasks.load_task("pirate").prompts[0]
    cells, base = by_setting(record["rows"]), shapes.from_file(BASE)
    figure, draw = results_figure(cells, before)
    places, ratios, ranks, rates = values(cells)
    controls = {
        "rank": explorer.stops("rank", "", ranks, rank),
        "ratio": explorer.stops("alpha / rank", "", ratios, ratio),
        "lr": explorer.stops("learning rate", "", rates, lr),
        "targets": explorer.stops("targets", "", places, targets),
    }

    def move(**now: Any) -> tuple[str, str]:
        chosen: Setting = tuple(now[name] for name in ORDER)
        draw(*chosen)
        row = cells[chosen][0]
        size = (
            f"{row['trainable']:,} parameters train; the adapter's file has "
            f"{counting.adapter_bytes(base, row['rank'], row['targets']):,} bytes. The first seed's model writes: "
        )
        text = f"<i>{html.escape(prompt)}</i> {mark_pirate(row['text'])}" if row["text"] else "nothing"
        return finding(cells, before, chosen), f"<p>{size}{text}</p>{twin(cells, chosen)}"

    summary = (
        f"Left: loss on pirate stories against learning rate, a line and the spread of its seeds for each rank "
        f"({', '.join(map(str, ranks))}). Right: the same runs' loss on plain stories against it; both low is good."
    )
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=250)
