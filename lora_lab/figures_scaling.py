"""Pictures of lesson 06: what a loss does over rank, learning rate or alpha, several settings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_lab import figures

Series = tuple[Sequence[float], ...]  # x and y, or x, y, the lowest and the highest y of several seeds


@figures.in_style
def panels(curves: Mapping[str, Mapping[str, Series]], xlabel: str, ylabel: str, log: str = "xy") -> Figure:
    """One panel for each entry of `curves` (title -> label -> series), all with the same y axis, and one legend.

    A series is (x, y), or (x, y, low, high), drawn with a band. y is None where the run diverged: a cross above
    the lines, in the series' own marker. `log` names the logarithmic axes. Raises ValueError where there is nothing
    to draw or lengths differ.
    """
    series = [(label, one) for panel in curves.values() for label, one in panel.items()]
    seen = [y for _, (_, *lines) in series for line in lines for y in line if y is not None]
    if not seen:
        raise ValueError("curves is empty, or every run diverged: there is nothing to draw")
    for label, (x, *lines) in series:
        if len(lines) not in (1, 3) or any(len(line) != len(x) for line in lines):
            raise ValueError(f"{label!r} must be (x, y) or (x, y, low, high), all of one length")
    labels = list(dict.fromkeys(label for label, _ in series))
    diverged = any(None in line for _, (_, *lines) in series for line in lines)
    figure, all_axes = figures.new_figure(max(4.5, 2.7 * len(curves)), 3.7, widths=[1] * len(curves))
    for axes, (title, panel) in zip(all_axes, curves.items(), strict=True):
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        for label, (x, y, *band) in panel.items():
            look = figures.cues(labels.index(label))
            kept = [i for i, value in enumerate(y) if value is not None]
            xs, ys = [x[i] for i in kept], [y[i] for i in kept]
            every = max(1, len(xs) // 16)  # of long lines; where two coincide, the markers of both are seen
            axes.plot(xs, ys, label=label, markevery=(labels.index(label) * every // len(labels), every), **look)
            if band:
                low, high = ([line[i] for i in kept] for line in band)
                axes.fill_between(xs, low, high, color=look["color"], alpha=0.2, lw=0)
            if lost := [x[i] for i in range(len(x)) if i not in kept]:
                above = [0.97 - 0.05 * labels.index(label)] * len(lost)
                where = {"transform": axes.get_xaxis_transform(), "linestyle": "none"}
                axes.plot(lost, above, marker="x", ms=5, color=figures.INK, **where)
                axes.plot(
                    lost, above, **look | where | {"fillstyle": "none", "ms": 10}
                )  # its marker says whose cross it is
        axes.set(title=title, xlabel=xlabel)
        axes.set_ylim(*_limits(min(seen), max(seen), "y" in log, 0.05 * len(labels) * diverged))
    all_axes[0].set_ylabel(ylabel)
    if len(labels) > 1 or diverged:
        keys = {line.get_label(): line for axes in all_axes for line in axes.lines if line.get_label() in labels}
        if diverged:
            keys["diverged"] = Line2D([], [], marker="x", linestyle="none", color=figures.INK)
        figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=min(len(keys), 6))
    return figure


def _limits(low: float, high: float, log: bool, above: float) -> tuple[float, float]:
    """Limits of an axis that shows low to high with a margin, and leaves the share `above` of it free at the top."""
    margin = 0.04
    if log:
        whole = (high / low) ** (1 / (1 - above - 2 * margin)) if high > low else 10.0
        return low / whole**margin, high * whole ** (above + margin)
    whole = (high - low) / (1 - above - 2 * margin) or 1.0
    return low - margin * whole, high + (above + margin) * whole
