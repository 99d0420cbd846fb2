"""VS Code, and other programs that show notebooks: core widgets alone, each with a picture or words in its place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ipywidgets
import nbformat
import pytest

from lora_lab import explorer, explorers, markup, panel
from tests.elsewhere.move_everything import foreign

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPT = re.compile(
    r"<script|<iframe|javascript:|\bon(?:click|change|load|input|error)\s*=|require\.undef|define\(", re.I
)
VIEW = "application/vnd.jupyter.widget-view+json"
OWN = {"Javascript", "IFrame", "anywidget", "AnyWidget", "register_comm_target", "_view_module", "_esm"}


def names(source: str) -> set[str]:
    """Everything that the code calls something by: names, attributes, imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= set(node.name.split("."))
    return found


def test_no_module_brings_javascript_of_its_own():
    for path in (ROOT / "lora_lab").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert names(source) & OWN == set(), path.name
        if "ipywidgets" in source:
            assert not SCRIPT.search(source), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_lesson_shows_what_every_front_end_can(path):
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert set(data) <= {"text/plain", "text/html", "text/markdown", "image/png"}, cell.id
            assert not SCRIPT.search("".join(data.get("text/html", ""))), cell.id
        if cell.cell_type == "code":
            assert not re.search(r"^\s*%%(javascript|js|html|script|bash)|IFrame|Javascript", cell.source, re.M), (
                cell.id
            )


def test_an_explorer_is_shown_as_widgets_as_a_picture_and_in_words(monkeypatch):
    calls = []
    monkeypatch.setattr(explorer, "display", lambda data, raw, metadata: calls.append(data))
    made = explorers.calculator()
    made._ipython_display_()
    assert set(calls[0]) == {VIEW, "image/png", "text/plain"} and foreign(made.box) == set()


def test_a_panel_is_shown_as_widgets_as_html_and_in_words(monkeypatch):
    calls = []
    monkeypatch.setattr(panel, "display", lambda data, raw: calls.append(data))
    box = panel.column(panel.words("Guess."), panel.row(panel.button("one", print)))
    panel.show(box, markup.tag("p", "Guess."), "Guess.")
    assert set(calls[0]) == {VIEW, "text/html", "text/plain"} and foreign(box) == set()


def test_a_widget_of_somebody_elses_is_seen():
    class Strange(ipywidgets.DOMWidget):
        pass

    strange = Strange()
    strange._view_module = "strange-widgets"
    assert foreign(panel.column(strange)) == {"strange-widgets"}
