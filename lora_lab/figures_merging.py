"""Pictures of lesson 08: errors, times and hit rates over scales that span several powers of ten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lora_lab import figures

Points = tuple[Sequence[float], Sequence[float]]


@figures.in_style
def log_curves(
    curves: Mapping[str, Points],
    xlabel: str,
    ylabel: str,
    points: Mapping[str, Points] | None = None,
    mark: tuple[float, str] | None = None,
    log: str = "xy",
) -> Figure:
    """One line for each entry of `curves`, label -> (x, y), with the axes named in `log` logarithmic.

    `points` are single measurements, label -> (x, y), in the colour and with the marker of the curve of that label,
    black-rimmed. A dotted line stands at the height `mark[0]` and says `mark[1]`. Raises ValueError if there is no
    curve, x and y differ in number, points have no curve, or a value on a logarithmic axis is not above zero.
    """
    points = points or {}
    if not curves or not points.keys() <= curves.keys():
        raise ValueError(f"there must be a curve for each of the points: curves {list(curves)}, points {list(points)}")
    for label, (x, y) in (*curves.items(), *points.items()):
        if len(x) != len(y):
            raise ValueError(f"{label!r} has {len(x)} values of x but {len(y)} of y")
        for axis, values in (("x", x), ("y", y)):
            if axis in log and min(values) <= 0:
                raise ValueError(f"{label!r}: {axis} is logarithmic, so {min(values)} cannot be drawn")
    figure, (axes,) = figures.new_figure(7.0, 3.6)
    if mark:
        axes.axhline(mark[0], color=figures.GREY, linestyle=":", lw=1.2, zorder=0)
        axes.annotate(
            mark[1], (1, mark[0]), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=9
        )
    for i, (label, (x, y)) in enumerate(curves.items()):
        cues = figures.cues(i)
        axes.plot(x, y, label=label, markevery=max(1, len(x) // 10), **cues)
        if label in points:
            rim = {"markersize": 6, "markeredgecolor": figures.INK, "markeredgewidth": 0.6, "alpha": 0.8}
            axes.plot(*points[label], **(cues | {"linestyle": "none"} | rim), label=f"_{label}")
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside right upper")
    return figure
