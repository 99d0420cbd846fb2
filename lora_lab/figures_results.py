"""Pictures of recorded sweeps: rows in (one a run, as in `assets/results`), a Figure out.

Every setting was run with several seeds. Its mark is their mean; the band or bar goes from the lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_lab import figures

LOSS = "loss (nats per token)"
FORGETTING = "loss on plain stories (nats per token)"


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(lowest, mean, highest).

    >>> spread([3.0, 1.0, 2.0])
    (1.0, 2.0, 3.0)
    """
    return min(values), sum(values) / len(values), max(values)


def grouped(rows: Sequence[Mapping], by: str, field: str = "loss") -> dict:
    """Each value of column `by` -> the numbers in column `field`, in the rows' order; rows without a number left out.

    >>> grouped([{"rank": 1, "loss": 2.0}, {"rank": 4, "loss": None}, {"rank": 1, "loss": 3.0}], "rank")
    {1: [2.0, 3.0]}
    """
    groups: dict = {}
    for row in rows:
        if row[field] is not None:
            groups.setdefault(row[by], []).append(row[field])
    return groups


@figures.in_style
def over_rank(
    series: Mapping[str, Mapping[int, Sequence[float]]],
    levels: Mapping[str, Sequence[float]] | None = None,
    ylabel: str = LOSS,
    title: str | None = None,
) -> Figure:
    """A quantity against rank, with a seed band for each of `series`: label -> rank -> one number per seed.

    `levels` have no rank (full fine-tuning, the base model): label -> numbers, drawn as a band across.
    `over_rank({"LoRA": grouped(rows, "rank")}, {"full": [...]})`; or "truncated" beside "trained".
    Raises ValueError if there is nothing to draw.
    """
    if not any(series.values()):
        raise ValueError("series is empty: give at least one label: {rank: losses}")
    figure, (axes,) = figures.new_figure()
    for i, (label, by_rank) in enumerate(series.items()):
        ranks = sorted(by_rank)
        low, mean, high = zip(*(spread(by_rank[rank]) for rank in ranks), strict=True)
        look = figures.cues(i)
        axes.fill_between(ranks, low, high, color=look["color"], alpha=0.25, lw=0)
        axes.plot(ranks, mean, label=label, **look)
    for i, (label, values) in enumerate((levels or {}).items(), start=len(series)):
        low, mean, high = spread(values)
        look = figures.cues(i) | {"marker": ""}
        axes.axhspan(low, high, color=look["color"], alpha=0.25, lw=0)
        axes.axhline(mean, label=label, **look)
    every = sorted({rank for by_rank in series.values() for rank in by_rank})
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(rank) for rank in every], minor=False)
    axes.set(xlabel="rank", ylabel=ylabel)
    if title:
        axes.set_title(title)
    if len(series) + len(levels or {}) > 1:
        axes.legend()
    return figure


@figures.in_style
def pareto(
    rows: Sequence[Mapping], before: tuple[float, float] | None = None, by: str = "label", task: str = "the task"
) -> Figure:
    """What was learned against what was forgotten: task loss across, loss on plain stories up; down and left is good.

    A small point for each run, and for each value of column `by` a large one at the mean of its runs. `before` is the
    base model's (loss, base_loss). Runs that diverged (None) are left out. Raises ValueError if none is left.
    """
    learned, forgotten = grouped(rows, by), grouped(rows, by, "base_loss")
    if not learned:
        raise ValueError("rows hold no run with a loss: there is nothing to draw")
    figure, (axes,) = figures.new_figure(7.0, 3.8)
    for i, label in enumerate(learned):
        look = figures.cues(i) | {"linestyle": ""}
        axes.plot(learned[label], forgotten[label], ms=3, **look)
        mean = [[spread(values[label])[1]] for values in (learned, forgotten)]
        axes.plot(*mean, ms=9, mew=1.5, label=str(label), **look)
    if before is not None:
        axes.plot(*([x] for x in before), "*", color=figures.INK, ms=13, label="base model, before")
    axes.set(xlabel=f"loss on {task} (nats per token)", ylabel=FORGETTING)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@figures.in_style
def by_setting(
    rows: Sequence[Mapping], by: str = "label", field: str = "loss", before: float | None = None, xlabel: str = LOSS
) -> Figure:
    """One line per value of column `by`, in the rows' order: a point per seed, a bar from lowest to highest, the mean.

    `before`, the base model's value, is drawn as a dashed line. Raises ValueError if no row has a number.
    """
    groups = grouped(rows, by, field)
    if not groups:
        raise ValueError(f"no row has a number in {field!r}: there is nothing to draw")
    figure, (axes,) = figures.new_figure(7.0, 0.9 + 0.36 * len(groups))
    for y, values in enumerate(groups.values()):
        low, mean, high = spread(values)
        axes.plot([low, high], [y, y], color=figures.GREY, lw=7, solid_capstyle="butt", alpha=0.35)
        axes.plot(values, [y] * len(values), "|", color=figures.BLUE, ms=11, mew=1.6)
        axes.plot([mean], [y], "D", color=figures.INK, ms=6)
    if before is not None:
        axes.axvline(before, color=figures.GREY, ls="--", lw=1.3)
        axes.text(before, -0.62, "before training ", ha="right", va="bottom", color=figures.INK, fontsize=9)
    axes.set_yticks(range(len(groups)), [str(label) for label in groups])
    axes.set(ylim=(len(groups) - 0.4, -0.7), xlabel=xlabel)
    axes.grid(False, axis="y")
    return figure
