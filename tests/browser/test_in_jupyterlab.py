"""Lessons in a real JupyterLab: run from the menu, a slider moved by keyboard, a picture that changes, no error."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lora_lab.render import KERNEL

# Lesson -> what its last cell to run has in it ("" for all cells). nbval runs every lesson to its end; here 07 stops
# before it trains for minutes.
LESSONS = {"00_start_here": "", "07_finetune_a_real_model": "live.chooser("}

SMALL = """
import io
import ipywidgets
from PIL import Image

picture, slider = ipywidgets.Image(width=64, height=64), ipywidgets.IntSlider()

def draw(change):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (change.new, 0, 0)).save(file, "PNG")
    picture.value = file.getvalue()

slider.observe(draw, "value")
slider.value = 5
ipywidgets.VBox([slider, picture])
"""
BROKEN = "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0\nout"

READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
# What has the keyboard's focus: its words, its type, its tag.
FOCUSED = (
    "() => [document.activeElement.innerText, document.activeElement.type, document.activeElement.tagName].join(' ')"
)
# Committed outputs go first, so that what is seen later was made by this run.
FORGET = """() => {
    for (const cell of jupyterapp.shell.currentWidget.content.model.cells)
        if (cell.type === 'code') cell.clearExecution();
}"""
# Of each code cell that has a source: did it run, and how did it end.
CELLS = """() => {
    const notebook = jupyterapp.shell.currentWidget.content;
    return [...notebook.model.cells].filter(c => c.type === 'code' && c.sharedModel.source.trim()).map(c => ({
        count: c.executionCount,
        running: c.executionState === 'running',
        errors: [...Array(c.outputs.length).keys()].map(i => c.outputs.get(i)).filter(o => o.type === 'error')
            .map(o => o.toJSON().ename + ': ' + o.toJSON().evalue),
    }));
}"""
ALL_RAN = """() => {
    const panel = jupyterapp.shell.currentWidget;
    const cells = [...panel.content.model.cells].filter(c => c.type === 'code' && c.sharedModel.source.trim());
    const ended = c => c.executionCount !== null && c.executionState !== 'running';
    const failed = c => [...Array(c.outputs.length).keys()].some(i => c.outputs.get(i).type === 'error');
    return panel.sessionContext.session?.kernel?.status === 'idle' && (cells.every(ended) || cells.some(failed));
}"""
# The first slider that stands in one box with a picture; both are marked for the test.
MARK = """() => {
    for (const slider of document.querySelectorAll('.jupyter-widgets [role=slider]')) {
        for (let box = slider.closest('.widget-box'); box; box = box.parentElement.closest('.widget-box')) {
            const picture = box.querySelector('img');
            if (picture) {
                slider.setAttribute('data-test', 'slider');
                picture.setAttribute('data-test', 'picture');
                return true;
            }
        }
    }
    return false;
}"""
# The picture's bytes: its address is a new blob on every update, changed or not. Nothing where the blob is gone and the
# next picture not yet in its place.
PIXELS = """() => fetch(document.querySelector('[data-test=picture]').src).then(answer => answer.arrayBuffer())
    .then(bytes => Array.from(new Uint8Array(bytes)).join(), () => '')"""


# In an Output widget an error stands as text, where no cell's outputs tell of it.
TRACEBACK = ".jp-OutputArea-output pre:has-text('Traceback (most recent call last)')"


def write(lab, name: str, source: str) -> None:
    """A notebook of one cell; without a kernel in its metadata JupyterLab would ask which one to take."""
    notebook = new_notebook(cells=[new_code_cell(source)], metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, lab.folder / "notebooks" / name)


def open_and_run(page, lab, name: str, seconds: float) -> None:
    """Open a notebook and choose Run, Run All Cells in the menu; returns when all cells ran or one failed."""
    page.goto(lab.url(name), wait_until="commit")
    page.wait_for_function(READY)
    page.evaluate(FORGET)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ALL_RAN, timeout=seconds * 1000)


def errors_shown(page) -> list[str]:
    """Errors in the cells' outputs, in Output widgets, and where a widget could not be shown."""
    found = [error for cell in page.evaluate(CELLS) for error in cell["errors"]]
    found += page.locator(TRACEBACK).all_inner_texts()
    found += page.locator(".jupyter-widgets-error-widget, .jp-mod-broken").all_inner_texts()
    found += page.get_by_text("Error displaying widget").all_inner_texts()
    return found


def move_a_slider(page) -> tuple[str, str]:
    """Press an arrow key on the first slider that has a picture; returns the picture's bytes before and after."""
    page.wait_for_function(MARK)
    slider = page.locator("[data-test=slider]")
    slider.scroll_into_view_if_needed()
    before, value = page.wait_for_function(PIXELS).json_value(), slider.get_attribute("aria-valuenow")
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):  # left for a slider at its end
        slider.press(key)
        page.wait_for_timeout(300)
        if slider.get_attribute("aria-valuenow") != value:
            break
    assert slider.get_attribute("aria-valuenow") != value, "the slider does not move by keyboard"
    for _ in range(360):
        after = page.evaluate(PIXELS) or before
        if after != before:
            break
        page.wait_for_timeout(250)
    return before, after


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_and_its_picture_follows_the_slider(name, page, lab):
    path = lab.folder / "notebooks" / f"{name}.ipynb"
    if LESSONS[name]:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        last = next(i for i, cell in enumerate(notebook.cells) if LESSONS[name] in cell.source)
        notebook.cells = notebook.cells[: last + 1]
        nbformat.write(notebook, path)
    open_and_run(page, lab, path.name, 180)
    assert errors_shown(page) == []
    cells = page.evaluate(CELLS)
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    before, after = move_a_slider(page)
    assert after != before
    assert errors_shown(page) == []
    assert page.complaints == []


def test_a_small_explorer(page, lab):
    write(lab, "small.ipynb", SMALL)
    open_and_run(page, lab, "small.ipynb", 60)
    before, after = move_a_slider(page)
    assert after != before
    assert errors_shown(page) == [] and page.complaints == []


def test_an_error_inside_a_widget_would_be_seen(page, lab):
    write(lab, "broken.ipynb", BROKEN)
    open_and_run(page, lab, "broken.ipynb", 60)
    page.locator(TRACEBACK).first.wait_for()
    assert "ZeroDivisionError" in "".join(errors_shown(page))


def test_without_its_token_jupyterlab_shows_nothing(page, lab):
    answer = page.request.get(f"http://127.0.0.1:{lab.port}/api/contents")
    assert answer.status == 403
