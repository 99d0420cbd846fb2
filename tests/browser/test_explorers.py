"""Every explorer in a real JupyterLab, by keyboard: the page shows what the package computes here for the same setting.

One notebook, opened once, has them all; a new explorer joins by a line in EXPLORERS.
"""

from __future__ import annotations

import html
import re

import ipywidgets
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lora_lab import explorer, explorers
from lora_lab.render import KERNEL
from tests.bench import explorers as bench
from tests.browser.conftest import new_page
from tests.browser.test_in_jupyterlab import errors_shown, open_and_run

EXPLORERS = {
    "results": "explorers.results()",
    "calculator": "explorers.calculator()",
    "svd": "explorers.svd()",
    "diagram": "explorers.diagram()",
    "alpha_dial": "explorers.alpha_dial()",
    "live_dial": "explorers.live_dial(tokens=8)",
    "training": "explorers.training()",
    "hardware": "explorers.hardware()",
    "locked": 'explorers.training(lock={"rank": (1, 5), "alpha": 16, "optimizer": None})',
}
COMPARED = "explorers.compare(explorers.training(rank=1), explorers.training(rank=8))"
# The address is a blob's, which is gone once the next picture is there: then nothing, and one may ask again.
BYTES = "image => fetch(image.src).then(a => a.arrayBuffer()).then(b => Array.from(new Uint8Array(b)), () => [])"
PATIENCE = 900  # looks, a tenth of a second apart


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """A page with every explorer in a cell of its own, run."""
    sources = [f"from lora_lab import explorers\n\n{call}" for call in (*EXPLORERS.values(), COMPARED)]
    cells = [new_code_cell(source, metadata={"deletable": False}) for source in sources]  # as `render` makes them
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), lab.folder / "notebooks" / "explorers.ipynb"
    )
    page = new_page(browser)
    open_and_run(page, lab, "explorers.ipynb", 180)
    assert errors_shown(page) == []
    # JupyterLab keeps only the cells near the screen in the page: one tall screen holds them all.
    page.set_viewport_size({"width": 1600, "height": 9000})
    yield page
    page.context.close()


def output(page, cell: int):
    return page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea")


def words(source: str) -> str:
    """The text of some HTML, without its spaces."""
    return re.sub(r"\s", "", html.unescape(re.sub(r"<[^>]*>", "", source)))


def expect(page, cell: int, here: explorer.Explorer, place: int = 0) -> None:
    """Wait until the page shows the finding, the table and, to the byte, the picture that `here` has here."""
    here.finish()  # the browser's driver runs a loop, as a kernel does
    shown = output(page, cell).locator(".widget-html-content")
    for _ in range(PATIENCE):
        finding, detail = (words(shown.nth(2 * place + i).inner_html()) for i in (0, 1))
        if finding == words(here.finding.value) and detail == words(here.detail.value):
            break
        page.wait_for_timeout(100)
    assert finding == words(here.finding.value)
    assert detail == words(here.detail.value)
    image = output(page, cell).locator("img").nth(place)
    for _ in range(PATIENCE):  # the picture comes as a message of its own
        if (pixels := bytes(image.evaluate(BYTES))) == bytes(here.image.value):
            break
        page.wait_for_timeout(100)
    assert pixels == bytes(here.image.value)


def press_on(page, handle, control: ipywidgets.Widget) -> None:
    """Move a control one place by keyboard alone, and the same control here by hand."""
    handle.focus()
    values = [option[1] if isinstance(option, tuple) else option for option in getattr(control, "options", ())]
    last = control.value == (values[-1] if values else control.max)
    step = -1 if last else 1
    if isinstance(control, ipywidgets.Dropdown):
        for key in ("Space", "ArrowUp" if last else "ArrowDown", "Enter"):
            page.keyboard.press(key)
    else:
        page.keyboard.press("ArrowLeft" if last else "ArrowRight")
    control.value = values[values.index(control.value) + step] if values else control.value + step * control.step


def made(name: str) -> explorer.Explorer:
    """The explorer that stands in the notebook, made here."""
    here = eval(EXPLORERS[name], {"explorers": explorers})
    here.finish()
    return here


@pytest.mark.parametrize("name", EXPLORERS)
def test_picture_and_numbers_follow_every_control(name, notebook):
    cell, here = list(EXPLORERS).index(name), made(name)
    expect(notebook, cell, here)
    start = bytes(here.image.value)
    handles = output(notebook, cell).locator("[role=slider], select")
    hidden = ["optimizer"] if name == "locked" else []
    seen = [control for key, control in here.controls.items() if key not in hidden]
    assert handles.count() == len(seen)
    for i, control in reversed(list(enumerate(seen))):  # the calculator's last slider counts until a card is chosen
        if not control.disabled:
            before = here.text, here.detail.value
            press_on(notebook, handles.nth(i), control)
            here.finish()
            assert (here.text, here.detail.value) != before
            expect(notebook, cell, here)
    output(notebook, cell).get_by_role("button", name="Reset").focus()
    notebook.keyboard.press("Space")
    here.reset()
    here.finish()
    assert bytes(here.image.value) == start
    expect(notebook, cell, here)
    assert errors_shown(notebook) == [] and notebook.complaints == []


def test_what_a_teacher_locked_does_not_move(notebook):
    cell, here = list(EXPLORERS).index("locked"), made("locked")
    rank, alpha, _ = (output(notebook, cell).locator("[role=slider]").nth(i) for i in range(3))
    rank.focus()
    notebook.keyboard.press("End")
    here.controls["rank"].value = 100
    assert here.controls["rank"].value == 5
    expect(notebook, cell, here)
    alpha.focus()
    notebook.keyboard.press("ArrowRight")
    notebook.wait_for_timeout(300)
    expect(notebook, cell, here)


def test_two_side_by_side_move_together(notebook):
    cell = len(EXPLORERS)
    both = explorers.compare(explorers.training(rank=1), explorers.training(rank=8))
    handles = output(notebook, cell).locator("[role=slider], select")
    left, right = (image.bounding_box() for image in output(notebook, cell).locator("img").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    for i, name in ((1, "alpha"), (0, "rank")):  # linked; and each its own
        press_on(notebook, handles.nth(i), both.pair[0].controls[name])
        for place in (0, 1):
            expect(notebook, cell, both.pair[place], place)
    assert both.pair[1].controls["alpha"].value == 9 and both.pair[1].controls["rank"].value == 8


def test_the_key_that_deletes_a_cell_does_not_delete_an_explorers(notebook):
    count = notebook.locator(".jp-CodeCell").count()
    output(notebook, 0).locator("[role=slider]").first.focus()
    notebook.keyboard.press("d")
    notebook.keyboard.press("d")
    notebook.wait_for_timeout(500)
    assert notebook.locator(".jp-CodeCell").count() == count == len(EXPLORERS) + 1


def test_the_bench_measures_whole_rows(browser, lab):
    row = bench.measure(browser, lab, "diagram", moves=2)
    assert 0 < row["ours"] <= row["slowest"] and 0 < row["bare"] and row["ratio"] == row["ours"] / row["bare"]
    assert row["first_picture"] > 0 and row["burst"]["pictures"] > 0
    # No time is judged; that the picture stays where it is and is never gone is.
    assert row["met"]["burst"] and row["burst"]["screens"] > 5 and len(row["burst"]["layouts"]) == 1
    assert "diagram" in bench.line(row) and bench.line(row | {"met": {"move": False}}).endswith("missed: move")
