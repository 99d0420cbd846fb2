"""Pictures that answer to sliders: one persistent Figure, one Image widget, a line of text with the finding.

A move never makes a new figure: the fixed part is drawn once and kept as pixels, only the animated artists are drawn
over it (blitting), and the pixels go to the browser as a lightly packed PNG. Where no kernel runs, the static
picture in the same output stands in. Only what ipywidgets 7 and 8 share is used (Colab has 7).
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import html
import io
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from lora_lab import figures, render

DPI = 144
CLOSE = '<div style="line-height: 1.4">'  # widgets set their lines far apart
Frame = tuple[str, str]  # the finding, a plain sentence; the detail, HTML beneath it


def _look(label: str, unit: str) -> dict[str, Any]:
    layout = ipywidgets.Layout(width="425px")
    return {
        "description": f"{label} ({unit})" if unit else label,
        "style": {"description_width": "175px"},  # 24 letters; what is longer is cut
        "layout": layout,
    }


def slider(label: str, unit: str, low: float, high: float, start: float, step: float = 1) -> ipywidgets.Widget:
    """A slider from `low` to `high` in steps of `step`: whole numbers if all four are. It cannot leave its range."""
    whole = all(isinstance(number, int) for number in (low, high, start, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    form = {} if whole else {"readout_format": f".{max(0, math.ceil(-math.log10(step)))}f"}
    return put(kind(value=low, min=low, max=high, step=step, **form, **_look(label, unit)), start, label)


def stops(label: str, unit: str, values: Sequence[Any], start: Any) -> ipywidgets.SelectionSlider:
    """A slider that stops at `values` and nowhere else: what was recorded, or a scale such as 1, 2, 4, 8."""
    options = [(f"{value:g}" if isinstance(value, float) else str(value), value) for value in values]
    return put(ipywidgets.SelectionSlider(options=options, **_look(label, unit)), start, label)


def menu(label: str, options: Sequence[Any], start: Any) -> ipywidgets.Dropdown:
    """A list to choose from: values, or (text, value) pairs. By keyboard: space opens it, arrows, then enter."""
    return put(ipywidgets.Dropdown(options=options, **_look(label, "")), start, label)


def put(control: ipywidgets.Widget, value: Any, name: str) -> ipywidgets.Widget:
    """Set a control and return it. Raises ValueError that names what it can take, for a value which it cannot."""
    values = _values(control)
    if not (value in values if values else control.min <= value <= control.max):
        can = f"one of {values}" if values else f"{control.min:g} to {control.max:g}"
        raise ValueError(f"{name} is {value!r}, but must be {can}")
    control.value = value
    return control


def _values(control: ipywidgets.Widget) -> list | None:
    """Every value of a control that chooses from a list; None for a slider with a range."""
    options = getattr(control, "options", None)
    return [option[1] if isinstance(option, tuple) else option for option in options] if options else None


class Explorer:
    """A figure, the controls that move it, and below it the finding in words and the numbers in a table.

    `controls` is name -> widget (`slider`, `stops`, `menu`). `move(**values)` is called with the controls' values: it
    changes the figure's animated artists and returns (finding, detail): a plain sentence, and HTML (`figures.table`).
    Or it yields such pairs: the first is shown at once, the others when the kernel is free, until the next move ends
    it; so a generator may train or write while the learner watches. `detail_height` pixels are kept for the detail.

    `lock` is name -> what a teacher allows: (low, high) limits a control, None hides it at its start, and any other
    value fixes it. Displaying the explorer shows the widgets, or, where there is no kernel, the picture; its alt
    text is `summary`, what the fixed part of the figure shows, and the finding.
    """

    def __init__(
        self,
        figure: Figure,
        controls: dict[str, ipywidgets.Widget],
        move: Callable[..., Frame | Iterator[Frame]],
        summary: str,
        lock: Mapping[str, Any] | None = None,
        detail_height: int = 100,
    ) -> None:
        self.figure, self.controls, self.move, self.summary = figure, controls, move, summary
        hidden = _lock(controls, lock or {})
        self.start = {name: control.value for name, control in controls.items()}
        self.artists = sorted(figure.findobj(lambda artist: artist.get_animated()), key=lambda a: a.get_zorder())
        figure.set_dpi(DPI)
        with matplotlib.rc_context(figures.STYLE):
            figure.canvas.draw()  # lays the axes out, and draws all that is not animated
        figure.set_layout_engine("none")  # the axes stay where they are: a layout per move costs 100 ms
        self.background = figure.canvas.copy_from_bbox(figure.bbox)
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(object_fit="contain"))
        self.finding = ipywidgets.HTML(layout=ipywidgets.Layout(min_height="60px"))
        self.detail = ipywidgets.HTML(layout=ipywidgets.Layout(height=f"{detail_height}px", overflow="auto"))
        self.reset_button = ipywidgets.Button(description="Reset", layout=ipywidgets.Layout(width="70px"))
        self.reset_button.on_click(self.reset)
        shown = ipywidgets.VBox([control for name, control in controls.items() if name not in hidden])
        self.box = ipywidgets.VBox([ipywidgets.HBox([shown, self.reset_button]), self.image, self.finding, self.detail])
        self.resize(1)
        # While a cell runs, JupyterLab has moves answered by another thread of the kernel.
        self.turn, self.busy = 0, threading.RLock()
        for control in controls.values():
            control.observe(self.update, names="value")
        self.update()

    def resize(self, scale: float) -> None:
        """Fix the size on the page, so that nothing jumps; on a narrow page the picture shrinks without being bent."""
        width, height = (round(inches * figures.INCH * scale) for inches in self.figure.get_size_inches())
        self.image.layout.width, self.image.layout.height = f"{width}px", f"{height}px"
        self.finding.layout.max_width = self.detail.layout.max_width = f"{width}px"

    def reset(self, button: object = None) -> None:
        """Put every control back to where it started."""
        for name, control in self.controls.items():
            control.value = self.start[name]

    def update(self, change: object = None) -> None:
        """Draw what the controls now say; end what the move before was still drawing."""
        with self.busy:
            self.turn += 1
            frames = self.move(**{name: control.value for name, control in self.controls.items()})
            self.pending = iter([frames] if isinstance(frames, tuple) else frames)
            self._step(self.turn)
        if not isinstance(frames, tuple):
            try:
                self.task = asyncio.get_running_loop().create_task(self._go_on(self.turn))
            except RuntimeError:  # no kernel's loop to come back to: draw the rest now
                self.finish()

    def finish(self) -> None:
        """Draw all that the last move has yet to yield."""
        turn = self.turn
        while self._step(turn):
            pass

    async def _go_on(self, turn: int) -> None:
        while self._step(turn):
            await asyncio.sleep(0)  # the kernel may read the next move here

    def _step(self, turn: int) -> bool:
        """Draw the next of the frames of this turn; False if there is none, or another move came."""
        with self.busy:
            frame = next(self.pending, None) if turn == self.turn else None
            if frame:
                self._draw(*frame)
            return frame is not None

    def _draw(self, finding: str, detail: str) -> None:
        self.text = finding
        self.image.value = self._pixels()
        self.finding.value = f"{CLOSE}<b>{html.escape(finding)}</b></div>"
        self.detail.value = f"{CLOSE}{detail}</div>"

    def _pixels(self) -> bytes:
        canvas = self.figure.canvas
        canvas.restore_region(self.background)
        for artist in self.artists:
            self.figure.draw_artist(artist)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    @property
    def alt(self) -> str:
        """What the picture shows, in words."""
        return f"{self.summary} {self.text}"

    def _ipython_display_(self) -> None:
        if render.RENDERING in os.environ:  # the static picture is of the end; a learner sees the beginning at once
            self.finish()
        _display(self.box, figures.png(self.figure, dpi=DPI), self.alt, self.figure.get_figwidth())
        self.finish()


class Comparison:
    """Two explorers side by side; see `compare`."""

    def __init__(self, one: Explorer, other: Explorer, link: Iterable[str] | None = None) -> None:
        self.pair = one, other
        if one.controls.keys() != other.controls.keys():
            raise ValueError(
                f"different explorers: one has {', '.join(one.controls)}; the other {', '.join(other.controls)}"
            )
        same = [name for name in one.controls if one.start[name] == other.start[name]]
        self.linked = same if link is None else list(link)
        for name in self.linked:
            _known(name, one.controls)
            ipywidgets.link((one.controls[name], "value"), (other.controls[name], "value"))
        for explorer in self.pair:
            explorer.resize(0.7)
        layout = ipywidgets.Layout(flex_flow="row wrap")
        self.box = ipywidgets.HBox([explorer.box for explorer in self.pair], layout=layout)

    def _ipython_display_(self) -> None:
        if render.RENDERING in os.environ:
            self.finish()
        pictures = [Image.open(io.BytesIO(figures.png(explorer.figure, dpi=DPI))) for explorer in self.pair]
        buffer = io.BytesIO()
        Image.fromarray(np.hstack([np.asarray(picture.convert("RGB")) for picture in pictures])).save(buffer, "PNG")
        width = 0.7 * sum(explorer.figure.get_figwidth() for explorer in self.pair)
        _display(self.box, buffer.getvalue(), " Beside it: ".join(explorer.alt for explorer in self.pair), width)
        self.finish()

    def finish(self) -> None:
        """Draw all that the last moves have yet to yield."""
        for explorer in self.pair:
            explorer.finish()


def compare(one: Explorer, other: Explorer, link: Iterable[str] | None = None) -> Comparison:
    """Two explorers of a kind side by side: the controls named in `link` move together.

    Without `link` those move together that start at the same value: what differs at the start is what is compared.
    Raises ValueError for explorers whose controls are not the same, and for a name that is no control.
    """
    return Comparison(one, other, link)


def _display(box: ipywidgets.Widget, png: bytes, alt: str, inches: float) -> None:
    data = {
        "application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": box.model_id},
        "image/png": base64.b64encode(png).decode(),
        "text/plain": alt,
    }
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": round(inches * figures.INCH)}})


def _lock(controls: Mapping[str, ipywidgets.Widget], lock: Mapping[str, Any]) -> set[str]:
    """Limit and fix controls in place; returns the names of those to hide."""
    for name, allowed in lock.items():
        control = _known(name, controls)
        if isinstance(allowed, tuple):
            _limit(control, allowed, name)
        elif allowed is not None:
            put(control, allowed, name).disabled = True
    return {name for name, allowed in lock.items() if allowed is None}


def _limit(control: ipywidgets.Widget, allowed: tuple, name: str) -> None:
    low, high = allowed
    values = _values(control)
    if values:
        if not (low in values and high in values and values.index(low) <= values.index(high)):
            raise ValueError(f"{name} cannot be limited to {allowed}: give two of {values}, in this order")
        kept = slice(values.index(low), values.index(high) + 1)
        start = control.value
        control.options = control.options[kept]
        control.value = start if start in values[kept] else low
    elif control.min <= low <= high <= control.max:
        start = min(max(control.value, low), high)
        control.min, control.max, control.value = low, high, start
    else:
        raise ValueError(f"{name} cannot be limited to {allowed}: it goes from {control.min:g} to {control.max:g}")


def _known(name: str, controls: Mapping[str, ipywidgets.Widget]) -> ipywidgets.Widget:
    if name not in controls:
        near = difflib.get_close_matches(name, controls, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no control {name!r}: there are {', '.join(controls)}{hint}")
    return controls[name]
