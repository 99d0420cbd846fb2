"""Panels of widgets whose words are HTML, each with a twin in plain HTML for readers without a kernel.

A panel keeps all its widgets on the page and hides those whose turn it is not: a widget that is already there can take
the focus, so that Space and Tab alone lead through it. Only what ipywidgets 7 and 8 share is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets
from IPython.display import display

from lora_lab.markup import Html, tag

WIDTH = "720px"


def words(inside: object = "") -> ipywidgets.HTML:
    """A widget that shows text; a plain str is escaped. Change it with `say`."""
    widget = ipywidgets.HTML(layout=ipywidgets.Layout(max_width=WIDTH))
    say(widget, inside)
    return widget


def say(widget: ipywidgets.HTML, *inside: object) -> None:
    """Put other words into `words`; what is not Html is escaped."""
    widget.value = str(tag("div", *inside, style="line-height: 1.4", role="status")) if any(inside) else ""


def button(label: str, pressed: Callable[[], object], help_text: str = "") -> ipywidgets.Button:
    """A button that calls `pressed()`."""
    widget = ipywidgets.Button(description=label, tooltip=help_text or label, layout=ipywidgets.Layout(width="auto"))
    widget.on_click(lambda _: pressed())
    return widget


def only(shown: Iterable[ipywidgets.Widget], among: Iterable[ipywidgets.Widget]) -> None:
    """Of the widgets `among`, show those of `shown` and hide the others.

    Each says so itself as well, not its layout alone: ipykernel 7.4 has what a widget sends answered by the thread from
    which the widget spoke last, so the press of a silent button could overtake the tick that was made before it.
    """
    shown = list(shown)
    for widget in among:
        widget.layout.display = None if widget in shown else "none"
        widget.disabled = widget not in shown


def hidden(widget: ipywidgets.Widget) -> bool:
    return widget.layout.display == "none"


def focus(widget: ipywidgets.Widget) -> None:
    """Put the keyboard's focus on a widget, where ipywidgets can (8 and later)."""
    if hasattr(widget, "focus"):
        widget.focus()


def row(*widgets: ipywidgets.Widget) -> ipywidgets.Box:
    """Widgets in a row, which breaks on a narrow page."""
    return ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap"))


def column(*widgets: ipywidgets.Widget) -> ipywidgets.Box:
    """Widgets below one another."""
    return ipywidgets.VBox(widgets)


def show(box: ipywidgets.Widget, twin: Html, text: str) -> None:
    """Display a box of widgets; `twin` and `text` stand in for it where no kernel runs."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    show_html(twin, text, {"application/vnd.jupyter.widget-view+json": view})


def show_html(page: Html, text: str, more: dict[str, Any] | None = None) -> None:
    """Display HTML, and `text` where only text can be shown."""
    display({**(more or {}), "text/html": str(page), "text/plain": text}, raw=True)
