"""Pictures of lesson 12: roofs, which card takes which model, and dots that stand beside one another in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from lora_lab import figures


@figures.in_style
def roofline(
    roofs: Mapping[str, tuple[float, float]],
    points: Mapping[str, tuple[float, float]],
    unit: str = "TFLOP/s",
    scale: float = 1e12,
) -> Figure:
    """Speed against operations for each byte moved: `roofs` are label -> (peak operations a second, bytes a second).

    A roof rises while bytes are waited for and is flat where computing takes longer. `points` are label ->
    (operations for each byte, operations a second). Speeds are drawn in `unit`, of `scale` each. Raises ValueError
    without a roof.
    """
    if not roofs:
        raise ValueError("roofs is empty: give at least one label: (operations a second, bytes a second)")
    figure, (axes,) = figures.new_figure(7.6, 3.9)
    ridges = [peak / bandwidth for peak, bandwidth in roofs.values()]
    ends = [*ridges, *(intensity for intensity, _ in points.values())]
    low, high = min(ends) / 4, max(ends) * 4
    for i, (label, (peak, bandwidth)) in enumerate(roofs.items()):
        x = [low, peak / bandwidth, high]
        y = [min(peak, bandwidth * at) / scale for at in x]
        axes.plot(x, y, label=label, **figures.cues(i) | {"marker": "none"}, gid="roof")
    for i, (label, (intensity, speed)) in enumerate(points.items(), len(roofs)):
        look = figures.cues(i) | {"linestyle": "none", "markersize": 8}
        axes.plot([intensity], [speed / scale], label=label, gid="point", zorder=3, **look)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations for each byte moved", ylabel=unit)
    axes.xaxis.set_major_formatter("{x:g}")
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 200 * bottom else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    figure.legend(loc="outside right upper", handlelength=2.4)
    return figure


@figures.in_style
def fit_map(rows: Mapping[str, Mapping[str, str]], looks: Sequence[str], xlabel: str = "") -> Figure:
    """A field for each row and column, with a word in it: which of `looks` it is decides colour and hatch too.

    `rows` is row -> column -> word. Raises ValueError for a word that is not in `looks`, and without rows.
    """
    if not rows or any(word not in looks for fields in rows.values() for word in fields.values()):
        raise ValueError(f"rows must be row -> column -> one of {', '.join(looks)}; got {rows!r}")
    columns = list(next(iter(rows.values())))
    figure, (axes,) = figures.new_figure(7.8, 1.0 + 0.36 * len(rows))
    fills = [figures.FAINT, *figures.COLOURS]
    for y, fields in enumerate(rows.values()):
        for x, column in enumerate(columns):
            place = list(looks).index(fields[column])
            fill, hatch = fills[place % len(fills)], figures.HATCHES[place % len(figures.HATCHES)]
            pale = {"facecolor": fill + "40" if place else fill, "edgecolor": "white", "lw": 2}
            axes.add_patch(Rectangle((x, y), 1, 1, **pale))
            axes.add_patch(Rectangle((x, y), 0.14, 1, facecolor=fill, hatch=hatch, edgecolor="white", lw=0))
            axes.text(x + 0.57, y + 0.5, fields[column], ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xlabel=xlabel)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], list(rows))
    axes.tick_params(length=0)
    axes.grid(False)
    return figure


@figures.in_style
def dots(rows: Mapping[str, Mapping[str, float | None]], xlabel: str, log: bool = False) -> Figure:
    """A row for each entry of `rows`: label -> series -> value, a mark for each series; None draws none.

    Series that the first row lacks come after its own. `log` makes the axis logarithmic, else it begins at 0. Raises
    ValueError if there is nothing to draw.
    """
    series = list(dict.fromkeys(name for values in rows.values() for name in values))
    drawn = [v for values in rows.values() for v in values.values() if v is not None]
    if not drawn:
        raise ValueError("rows holds no number: there is nothing to draw")
    figure, (axes,) = figures.new_figure(7.5, 1.2 + 0.34 * len(rows))
    for i, name in enumerate(series):
        places = [(values[name], y) for y, values in enumerate(rows.values()) if values.get(name) is not None]
        if places:
            look = figures.cues(i) | {"linestyle": "none", "markersize": 8}
            axes.plot(*zip(*places, strict=True), label=name, zorder=3, **look)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel, yticks=range(len(rows)), yticklabels=list(rows))
    if log:
        axes.set(xscale="log", xlim=(min(drawn) / 1.6, max(drawn) * 1.6))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(0, 1.08 * max(drawn))
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=len(series), columnspacing=1.4)
    return figure
