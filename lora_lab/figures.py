"""The course's pictures: pure functions from numbers to a matplotlib Figure, and one way to show them.

Nothing here knows torch or pyplot. Every series has two cues, a colour and a marker, a line style or a hatch; every
axis says its quantity and unit; alt text says what was found.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle

# In the order in which series take them. Near the hues of Okabe & Ito 2008 ("Color Universal Design"), but dark enough
# for a contrast of 4.5 on white, and found by a search for the largest least difference (CIEDE2000) as they look to
# readers with protanopia, deuteranopia and tritanopia (Machado et al. 2009). tests/accessibility holds the bounds.
BLUE, OCHRE, GREEN, PINK, NAVY, RED = "#2375dd", "#936e00", "#03694d", "#e41671", "#002f7e", "#800607"
GREY, INK = "#747474", "#222222"  # what stays in the background; what is written, and marks of no series
GRID, FAINT, PAGE, WORSE = "#e6e6e6", "#eeeeee", "#dddddd", "#f3e3dc"  # lines and fills that mean nothing by themselves
COLOURS = (BLUE, OCHRE, GREEN, PINK, NAVY, RED)
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "////", "xxxx", "---", "....", "++++")  # of bars, beside their colours
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))

STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": GRID,
    "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLOURS),
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
INCH = 100  # pixels a reader sees per inch of figure; the PNG itself is finer, for sharp screens


def in_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function with STYLE set, and leave the reader's own matplotlib settings as they were."""

    @functools.wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float = 7.0, height: float = 3.4, widths: Sequence[float] = (1,)) -> tuple[Figure, list]:
    """An empty Figure (width and height in inches) and its axes in one row, as wide as `widths` says."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # a canvas of its own: no window, no pyplot, nothing global
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    return figure, list(axes)


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG bytes: no time, path or version in them, so equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display `figure` in a notebook with `alt`, the finding in words, as its alternative text.

    Raises ValueError when `alt` is empty: a figure without it says nothing to a reader who cannot see it.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    from IPython.display import display

    width = round(figure.get_figwidth() * INCH)
    data = {"image/png": base64.b64encode(png(figure)).decode(), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


@in_style
def training_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str = "validation loss (nats per token)",
    xlabel: str = "training step",
    title: str | None = None,
) -> Figure:
    """Loss against step, one line per entry of `curves`: label -> (steps, losses).

    Raises ValueError if there is no curve, or one whose steps and losses differ in number.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one label: (steps, losses)")
    for label, (steps, losses) in curves.items():
        if len(steps) != len(losses):
            raise ValueError(f"{label!r} has {len(steps)} steps but {len(losses)} losses")
    figure, (axes,) = new_figure()
    for i, (label, (steps, losses)) in enumerate(curves.items()):
        axes.plot(steps, losses, label=label, markevery=max(1, len(steps) // 10), **cues(i))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


@in_style
def singular_values(
    spectra: Mapping[str, Sequence[float]] | Sequence[Sequence[float]],
    labels: Sequence[str] | None = None,
    ylabel: str = "singular value",
    title: str | None = None,
    log: bool = False,
) -> Figure:
    """Singular values in falling order against their number, counted from 1: one line per spectrum.

    `spectra` is label -> values, or a list of values with `labels` beside it. `log` draws a logarithmic y axis.
    """
    if not isinstance(spectra, Mapping):
        names = labels if labels is not None else [f"matrix {i + 1}" for i in range(len(spectra))]
        spectra = dict(zip(names, spectra, strict=True))
    if not spectra:
        raise ValueError("spectra is empty: give at least one list of singular values")
    figure, (axes,) = new_figure()
    for i, (label, values) in enumerate(spectra.items()):
        values = sorted((float(v) for v in values), reverse=True)
        axes.plot(range(1, len(values) + 1), values, label=label, markevery=max(1, len(values) // 32), **cues(i))
    axes.set(xlabel="number of the singular value, largest first", ylabel=ylabel)
    if log:
        axes.set_yscale("log")
    if title:
        axes.set_title(title)
    if len(spectra) > 1:
        axes.legend(frameon=False)
    return figure


def cues(i: int) -> dict:
    """Colour, marker and line style of series number `i`, so that no series rests on colour alone.

    The seventh has the first's colour again: it and those after it have open markers and other lines.
    """
    again, place = divmod(i, len(COLOURS))
    look = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": LINES[(i + again) % len(LINES)]}
    return look | {"fillstyle": "none"} if again else look


def contrast(one: str, other: str) -> float:
    """How far two colours stand apart in lightness, from 1 to 21; text needs 4.5. Source: WCAG 2.2, contrast ratio.

    >>> contrast("white", "black"), round(contrast("#767676", "white"), 2)
    (21.0, 4.54)
    """

    def luminance(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted(luminance(colour) for colour in (one, other))
    return round((high + 0.05) / (low + 0.05), 9)


def ink_on(fill: str) -> str:
    """The colour in which to write on `fill`: INK where it can be read, else black or white, of which one always can.

    >>> ink_on("#eeeeee"), ink_on("#5e3c99")
    ('#222222', 'white')
    """
    if contrast(INK, fill) >= 4.5:
        return INK
    return max("black", "white", key=lambda ink: contrast(ink, fill))


def table(rows: Sequence[Mapping[str, object]], caption: str = "") -> str:
    """Rows (column -> value) as an HTML table, its text escaped. Raises ValueError if there is no row."""
    if not rows:
        raise ValueError("rows is empty: a table needs at least one row")
    style = ' style="text-align: left; vertical-align: top"'
    lines = ["<table>", f"<caption>{html.escape(caption)}</caption>"] if caption else ["<table>"]
    lines.append("<tr>" + "".join(f'<th scope="col"{style}>{html.escape(name)}</th>' for name in rows[0]) + "</tr>")
    for row in rows:
        lines.append("<tr>" + "".join(f"<td{style}>{html.escape(str(row[name]))}</td>" for name in rows[0]) + "</tr>")
    return "\n".join([*lines, "</table>"])


def show_table(rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
    """Display rows (column -> value) as a real table: read by screen readers, by GitHub and, as text, in a terminal.

    Text is escaped, so what a model wrote is shown as it is. Raises ValueError if there is no row.
    """
    data = {"text/html": table(rows, caption)}
    from IPython.display import display

    cells = [list(rows[0]), *([str(row[name]) for name in rows[0]] for row in rows)]
    display(data | {"text/plain": "\n".join(" | ".join(row) for row in cells)}, raw=True)


@in_style
def lora_diagram(out_features: int, in_features: int, rank: int, alpha: float) -> Figure:
    """x flows through the frozen W and, beside it, through A and then B, scaled by alpha / rank; the two are added.

    Shapes as PyTorch stores them: W [out, in], A [rank, in], B [out, rank]. The boxes are not to scale.
    """
    said, boxes = lora_texts(out_features, in_features, rank, alpha), lora_boxes(rank)
    figure, (axes,) = new_figure(7.2, 3.5)
    axes.set(xlim=(-0.3, 12.5), ylim=(0, 6))
    axes.set_axis_off()
    axes.grid(False)

    def write(x: float, y: float, text: str, **how) -> None:
        gid = text if text in said else None  # an explorer finds by it what follows rank and alpha
        axes.text(x, y, said.get(text, text), gid=gid, **{"ha": "center", "va": "center", "color": INK, **how})

    def arrow(*points: tuple[float, float]) -> None:
        axes.plot(*zip(*points[:-1], strict=True), color=INK, lw=1.5, solid_joinstyle="round")
        start, end = points[-2:]
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.5, color=INK, shrinkA=0))

    axes.add_patch(Rectangle((3.3, 3.5), 4.4, 2.2, facecolor=FAINT, edgecolor=GREY, hatch="//", lw=1.5))
    box = {"facecolor": FAINT, "edgecolor": "none", "pad": 3}
    write(5.5, 4.85, "W", fontsize=12, fontweight="bold", bbox=box)
    write(5.5, 4.2, "frozen", bbox=box)
    for left, name, colour in ((2.6, "A", BLUE), (5.5, "B", OCHRE)):
        axes.add_patch(Polygon(boxes[name], facecolor=colour + "40", edgecolor=colour, lw=1.8, gid=f"box {name}"))
        write(left + 1.05, 1.75, name, fontsize=10, fontweight="bold")
        write(left + 1.05, 1.3, f"start {name}", fontsize=9)
    write(8.65, 1.55, "scaling", fontsize=11)
    write(8.65, 1.0, "alpha / rank", fontsize=9)
    write(5.1, 0.02, "trained", va="bottom")
    write(0.5, 3.45, "x", fontsize=12)
    arrow((1.7, 3.45), (1.7, 4.6), (3.3, 4.6))
    arrow((1.7, 3.45), (1.7, 1.55), (2.6, 1.55))
    axes.plot([1.3, 1.7], [3.45, 3.45], color=INK, lw=1.5)
    arrow((4.7, 1.55), (5.5, 1.55))
    write(5.1, 1.86, "rank", fontsize=9)
    axes.plot([7.6, 7.75], [1.55, 1.55], color=INK, lw=1.5)
    arrow((9.6, 1.55), (10.0, 1.55), (10.0, 3.15))
    arrow((7.7, 4.6), (10.0, 4.6), (10.0, 3.75))
    write(10.0, 3.45, "+", fontsize=15, bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK})
    arrow((10.32, 3.45), (10.8, 3.45))
    write(11.75, 3.45, "y", fontsize=12)
    return figure


def lora_texts(out_features: int, in_features: int, rank: int, alpha: float) -> dict[str, str]:
    """What `lora_diagram` writes about these numbers, by the place it writes it in."""
    return {
        "W": f"W  [{out_features}, {in_features}]",
        "frozen": f"frozen: {out_features * in_features:,} numbers",
        "A": f"A  [{rank}, {in_features}]",
        "B": f"B  [{out_features}, {rank}]",
        "start A": "starts random",  # B A = 0 at first, and yet B has a gradient
        "start B": "starts at zero",
        "scaling": f"× {alpha:g}/{rank} = {alpha / rank:.4g}",
        "trained": f"trained: {rank * (in_features + out_features):,} numbers",
        "x": f"x  [{in_features}]",
        "rank": f"{rank}",
        "y": f"y  [{out_features}]",
    }


def lora_boxes(rank: int) -> dict[str, list[tuple[float, float]]]:
    """Corners of A and B in `lora_diagram`: the waist between them grows with each doubling of the rank."""
    wide, waist = 1.25, min(1.25, 0.15 + 0.1 * math.log2(rank))  # halves of the heights

    def box(left: float, near: float, far: float) -> list[tuple[float, float]]:
        return [(left, 1.55 - near), (left, 1.55 + near), (left + 2.1, 1.55 + far), (left + 2.1, 1.55 - far)]

    return {"A": box(2.6, wide, waist), "B": box(5.5, waist, wide)}


@in_style
def book(width: int, rank: int) -> Figure:
    """A square W [width, width] as a book of `width` pages with `width` numbers each, and an adapter's pages in it.

    Each little square is one page. A [rank, width] fills `rank` pages and B [width, rank] as many again; the
    coloured squares have the true share of the area. Raises ValueError if both do not fit into the book.
    """
    if not 0 < 2 * rank <= width:
        raise ValueError(f"rank {rank} needs {2 * rank} pages, but the book has {width}: use 1 to {width // 2}")
    figure, (pages, words) = new_figure(7.0, 3.6, widths=(1, 0.9))
    across = math.ceil(math.sqrt(width))
    for page in range(width):
        kind = {"facecolor": PAGE}
        if page < 2 * rank:
            kind = {"facecolor": BLUE} if page < rank else {"facecolor": OCHRE, "hatch": "xxxx"}
        pages.add_patch(Rectangle((page % across, page // across), 0.8, 0.8, lw=0, **kind))
    pages.set(xlim=(0, across), ylim=(math.ceil(width / across), 0), aspect="equal")
    words.set(xlim=(0, 1), ylim=(0, 1))
    for axes in (pages, words):
        axes.set_axis_off()
    for y, face, hatch, text in (
        (0.72, PAGE, "", f"W: {width:,} pages\n{width * width:,} numbers, frozen"),
        (0.46, BLUE, "", f"A: {rank} pages\n{rank * width:,} numbers, trained"),
        (0.20, OCHRE, "xxxx", f"B: {rank} pages\n{rank * width:,} numbers, trained"),
    ):
        words.add_patch(Rectangle((0.02, y), 0.08, 0.12, facecolor=face, hatch=hatch, lw=0))
        words.text(0.15, y + 0.06, text, va="center", color=INK)
    words.text(0.02, 0.95, f"one square is one page of {width:,} numbers", va="center", color=INK)
    words.text(0.02, 0.06, f"together {100 * 2 * rank / width:.2f} % of the book", va="center", fontweight="bold")
    return figure


@in_style
def dial(
    scales: Sequence[float], style_loss: Sequence[float], story_loss: Sequence[float], marker_words: Sequence[float]
) -> Figure:
    """What a trained adapter does when its scale is turned: loss (nats per token) and the style in what it writes.

    `scales` multiplies alpha / rank: 0 is the base model, 1 the adapter as trained. `style_loss` is measured on
    held-out text in the adapter's style, `story_loss` on plain stories, `marker_words` per 100 in generated text.
    """
    figure, (losses, style) = new_figure(7.5, 3.25, widths=(1.5, 1))
    losses.plot(scales, style_loss, label="pirate stories (held out)", **cues(0))
    losses.plot(scales, story_loss, label="plain stories", **cues(1))
    losses.set(xlabel="adapter scale (1 = as trained)", ylabel="loss (nats per token)")
    losses.legend(frameon=False)
    style.plot(scales, marker_words, **cues(2))
    style.set(xlabel="adapter scale (1 = as trained)", ylabel="pirate words per 100 written")
    style.set_ylim(bottom=0)
    return figure
