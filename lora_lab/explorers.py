"""Pictures that answer to sliders: one persistent Figure, one Image widget, a line of text with the finding.

A move never makes a new figure: the fixed part is drawn once and kept as pixels, only the animated artists are drawn
over it (blitting), and the pixels go to the browser as a lightly packed PNG. Where no kernel runs, the static
picture in the same output stands in. Only what ipywidgets 7 and 8 share is used (Colab has 7).
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable

import ipywidgets
import matplotlib
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from lora_lab import experiments, figures, tasks

DPI = 144
DIAL = ("pirate_loss", "story_loss", "marker_words")  # what `figures.dial` draws, in its order


class Explorer:
    """A figure, the controls that move it, and two lines of text that say what is seen.

    `controls` is name -> widget. `move(**values)` is called with the controls' values: it changes the figure's
    animated artists and returns (finding, detail): a plain sentence, and HTML shown beneath it or "".
    Displaying the explorer shows the widgets, or, where there is no kernel, the picture; its alt text is `summary`,
    what the fixed part of the figure shows, and the finding.
    """

    def __init__(
        self,
        figure: Figure,
        controls: dict[str, ipywidgets.Widget],
        move: Callable[..., tuple[str, str]],
        summary: str,
    ) -> None:
        self.figure, self.controls, self.move, self.summary = figure, controls, move, summary
        self.artists = figure.findobj(lambda artist: artist.get_animated())
        figure.set_dpi(DPI)
        with matplotlib.rc_context(figures.STYLE):
            figure.canvas.draw()  # lays the axes out, and draws all that is not animated
        figure.set_layout_engine("none")  # the axes stay where they are: a layout per move costs 100 ms
        self.background = figure.canvas.copy_from_bbox(figure.bbox)
        width, height = (round(inches * figures.INCH) for inches in figure.get_size_inches())
        # Sizes are fixed, so that nothing below jumps; on a narrow page the picture shrinks without being bent.
        size = {"width": f"{width}px", "height": f"{height}px", "object_fit": "contain"}
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(**size))
        self.finding = ipywidgets.HTML(layout=ipywidgets.Layout(max_width=f"{width}px"))
        self.detail = ipywidgets.HTML(layout=ipywidgets.Layout(max_width=f"{width}px", min_height="100px"))
        self.box = ipywidgets.VBox([*controls.values(), self.image, self.finding, self.detail])
        for control in controls.values():
            control.observe(self.update, names="value")
        self.update()

    def update(self, change: object = None) -> None:
        """Draw what the controls now say."""
        self.text, detail = self.move(**{name: control.value for name, control in self.controls.items()})
        self.image.value = self._pixels()
        self.finding.value, self.detail.value = f"<b>{html.escape(self.text)}</b>", detail

    def _pixels(self) -> bytes:
        canvas = self.figure.canvas
        canvas.restore_region(self.background)
        for artist in self.artists:
            self.figure.draw_artist(artist)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _ipython_display_(self) -> None:
        alt = f"{self.summary} {self.text}"
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        data = {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": base64.b64encode(figures.png(self.figure, dpi=DPI)).decode(),
            "text/plain": alt,
        }
        width = round(self.figure.get_figwidth() * figures.INCH)
        display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def alpha_dial(scale: float = 0.0) -> Explorer:
    """Turn a trained adapter's scale from 0 (the base model) to 2 and read what it writes: recorded, so it is instant.

    The numbers and texts are those of `python -m lora_lab sweep dial`.
    """
    result = experiments.recorded("dial")
    rows, prompts = result["rows"], result["prompts"]
    scales, *series = (experiments.column(rows, field) for field in ("scale", *DIAL))
    figure = figures.dial(scales, *series)
    losses, style = figure.axes
    ring = {"marker": "o", "color": figures.RED, "ms": 12, "fillstyle": "none", "mew": 2.2}
    ring |= {"animated": True, "clip_on": False, "in_layout": False}  # may cross the frame, but moves no axes
    rings = [axes.plot([], [], **ring)[0] for axes in (losses, losses, style)]
    slider = ipywidgets.FloatSlider(
        value=scale,
        min=scales[0],
        max=scales[-1],
        step=scales[1] - scales[0],
        description="scale",
        readout_format=".2f",
        layout=ipywidgets.Layout(width="420px"),
    )
    prompt = ipywidgets.Dropdown(
        options=[(text, i) for i, text in enumerate(prompts)],
        value=0,
        description="beginning",
        layout=ipywidgets.Layout(width="420px"),
    )

    def move(scale: float, prompt: int) -> tuple[str, str]:
        row = min(rows, key=lambda row: abs(row["scale"] - scale))  # a typed value goes to the nearest recorded one
        for ring, field in zip(rings, DIAL, strict=True):
            ring.set_data([row["scale"]], [row[field]])
        finding = (
            f"Scale {row['scale']:.2f}: loss {row['pirate_loss']:.2f} on pirate stories, {row['story_loss']:.2f} on "
            f"plain stories (nats per token); {row['marker_words']:.0f} pirate words in 100 written."
        )
        return finding, f"<i>{html.escape(prompts[prompt])}</i>{mark_pirate(row['texts'][prompt])}"

    first, best, last = rows[0], min(rows, key=lambda row: row["pirate_loss"]), rows[-1]
    summary = (
        f"As the scale goes from {first['scale']:g} to {last['scale']:g}, the loss on pirate stories falls from "
        f"{first['pirate_loss']:.2f} to {best['pirate_loss']:.2f} at {best['scale']:g} and ends at "
        f"{last['pirate_loss']:.2f}; on plain stories it goes from {first['story_loss']:.2f} to "
        f"{last['story_loss']:.2f}; pirate words per 100 go from {first['marker_words']:.0f} to "
        f"{last['marker_words']:.0f}."
    )
    return Explorer(figure, {"scale": slider, "prompt": prompt}, move, summary)


def mark_pirate(text: str) -> str:
    """`text` as HTML, its pirate words (those that the style score counts) marked and bold."""

    def mark(word: re.Match) -> str:
        plain = html.escape(word[0])
        return f"<mark><b>{plain}</b></mark>" if tasks.pirate_score(word[0]) else plain

    return re.sub(r"\S+", mark, text)
