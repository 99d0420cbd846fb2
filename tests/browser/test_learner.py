"""A learner in JupyterLab: answers an exercise wrongly, reads the hint, mends it, solves a second one."""

from __future__ import annotations

import json
import re

import nbformat
import pytest

from tests.browser.test_in_jupyterlab import READY, errors_shown

LESSON, EXERCISES = "04_counting", ("break_even", "qv_parameters")
WRONG = "def break_even(outputs, inputs):\n    return outputs * inputs / (outputs + inputs)"
MENDED = "def break_even(outputs, inputs):\n    return outputs * inputs // (outputs + inputs)"


@pytest.fixture
def lesson(lab):
    """The lesson up to its second exercise's solution, and that solution's code."""
    path = lab.folder / "notebooks" / f"{LESSON}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    stubs = [at for at, cell in enumerate(notebook.cells) if "exercise" in cell.metadata.get("tags", [])][:2]
    assert tuple(notebook.cells[at].metadata["lora_lab"]["exercise"] for at in stubs) == EXERCISES
    solution = notebook.cells[stubs[1] + 2].source
    assert "<summary>Solution" in solution
    notebook.cells = notebook.cells[: stubs[1] + 3]
    nbformat.write(notebook, lab.folder / "notebooks" / "learner.ipynb")
    return stubs, solution.partition("```python\n")[2].partition("```")[0]


def cell(page, at):
    """The notebook's cell number `at`, brought into view."""
    page.evaluate("at => jupyterapp.shell.currentWidget.content.scrollToItem(at)", at)
    return page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{at}"]')


def run(page, at, text=None):
    """Click into a cell, type over it where `text` is given, press Shift and Enter; returns its output."""
    here = cell(page, at)
    here.locator(".cm-content").click()
    if text is not None:
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text(text)
    before = page.evaluate("at => jupyterapp.shell.currentWidget.content.model.cells.get(at).executionCount", at)
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        """([at, before]) => {
            const cell = jupyterapp.shell.currentWidget.content.model.cells.get(at);
            return cell.executionCount !== null && cell.executionCount !== before && cell.executionState !== 'running';
        }""",
        arg=[at, before],
    )
    told = cell(page, at).locator(".jp-OutputArea-output")
    if page.evaluate("at => jupyterapp.shell.currentWidget.content.model.cells.get(at).outputs.length", at):
        told.filter(has_text=re.compile(r"\S")).first.wait_for()  # what is there may not be drawn yet
    return told.all_inner_texts()


def test_two_exercises_one_wrongly_first(page, lab, lesson):
    (first, second), solution = lesson
    page.goto(lab.url("learner.ipynb"), wait_until="commit")
    page.wait_for_function(READY)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')
            .every(c => c.executionCount !== null && c.executionState !== 'running')"""
    )
    check = first + 1
    said = "".join(run(page, check))
    assert "not yet: " in said and "three" in said and "dots" in said

    run(page, first, WRONG)
    said = "".join(run(page, check))
    assert "not yet: " in said and "round down" in said

    run(page, first, MENDED)
    assert "Right." in "".join(run(page, check))

    run(page, second, solution)
    assert "Right." in "".join(run(page, second + 1))

    kept = json.loads((lab.folder / "notebooks" / "lora_lab_progress.json").read_text())["done"]
    assert {name: (entry["tries"], bool(entry["solved"])) for name, entry in kept.items()} == {
        EXERCISES[0]: (2, True),
        EXERCISES[1]: (1, True),
    }
    assert errors_shown(page) == [] and page.complaints == []
