"""By keyboard alone, in JupyterLab: Tab reaches every control and leads out again, keys move it, and Tab leads back.

One notebook with a cell for each explorer and each panel is opened and run once. What the explorers show after a move
is held against the package in test_explorers.py; here it has to answer.
"""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lora_lab.render import KERNEL
from tests.browser.conftest import new_page
from tests.browser.test_in_jupyterlab import FOCUSED, errors_shown, open_and_run

SOURCES = {
    "results": "from lora_lab import explorers\nexplorers.results()",
    "calculator": "from lora_lab import explorers\nexplorers.calculator()",
    "svd": "from lora_lab import explorers\nexplorers.svd()",
    "diagram": "from lora_lab import explorers\nexplorers.diagram()",
    "alpha_dial": "from lora_lab import explorers\nexplorers.alpha_dial()",
    "live_dial": "from lora_lab import explorers\nexplorers.live_dial(tokens=4)",
    "training": "from lora_lab import explorers\nexplorers.training()",
    "chooser": 'from lora_lab import live\nlive.chooser({"model": "base", "task": "code", "rank": 8, "alpha": 16})',
    "quiz": 'from lora_lab import practice\npractice.quiz("04")',
    "cards": "from lora_lab import interview\ninterview.cards()",
    "mock": "from lora_lab import interview\ninterview.mock(seed=3)",
    "drill": 'from lora_lab import interview\ninterview.drill("gqa", seed=3)',
}
EXPLORERS = list(SOURCES)[:8]
CONTROLS = "[role=slider], select, button, input, textarea"
# The element that has the focus: is it in an output, in which cell, and, if it is a control of this list, which one.
FOCUS = f"""() => {{
    const here = document.activeElement, cell = here.closest('.jp-Cell'), output = here.closest('.jp-OutputArea');
    const shown = output ? [...output.querySelectorAll('{CONTROLS}')].filter(e => e.offsetParent) : [];
    return {{cell: cell ? [...document.querySelectorAll('.jp-Cell')].indexOf(cell) : -1, inside: Boolean(output),
             control: shown.indexOf(here), count: shown.length}};
}}"""
VALUE = """here => here.getAttribute('role') === 'slider' ? here.getAttribute('aria-valuenow')
    : here.tagName === 'SELECT' ? here.selectedIndex : here.type === 'checkbox' ? here.checked : here.value"""
LAST = """here => here.getAttribute('role') === 'slider'
    ? here.getAttribute('aria-valuenow') === here.getAttribute('aria-valuemax')
    : here.selectedIndex === here.options.length - 1"""


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """A page with every explorer and panel in a cell of its own, run."""
    cells = [new_code_cell(source, metadata={"deletable": False}) for source in SOURCES.values()]  # as `render` does
    made = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(made, lab.folder / "notebooks" / "keyboard.ipynb")
    page = new_page(browser)
    open_and_run(page, lab, "keyboard.ipynb", 180)
    assert errors_shown(page) == []
    # JupyterLab keeps only the cells near the screen in the page: one tall screen holds them all.
    page.set_viewport_size({"width": 1600, "height": 9000})
    page.locator(".jp-Cell").nth(len(SOURCES) - 1).locator("button").first.wait_for()
    yield page
    assert page.locator(".jp-Cell").count() == len(SOURCES), "a key has deleted a cell"
    assert errors_shown(page) == []
    page.context.close()


def output(page, name: str):
    return page.locator(".jp-Cell").nth(list(SOURCES).index(name)).locator(".jp-OutputArea")


def said(page, name: str) -> str:
    """All words that the output shows."""
    return " ".join(output(page, name).locator(".widget-html-content").all_inner_texts())


def wait_until(page, true, what: str) -> None:
    """Look every 40 ms; a busy machine may take a minute."""
    for _ in range(1500):
        if true():
            return
        page.wait_for_timeout(40)
    pytest.fail(what)


def focus_comes(page, words: str) -> None:
    """Wait until the kernel has put the focus where these words are: late, it would break into the keys that follow."""
    wait_until(page, lambda: words in page.evaluate(FOCUSED), f"the focus does not come to {words!r}")


def enter(page, name: str) -> dict:
    """Put the focus on the cell, as the arrow keys do, and press Tab until it is in its output."""
    page.locator(".jp-Cell").nth(list(SOURCES).index(name)).evaluate("cell => cell.focus()")
    for _ in range(5):
        page.keyboard.press("Tab")
        if (focus := page.evaluate(FOCUS))["inside"]:
            assert focus["cell"] == list(SOURCES).index(name)
            return focus
    pytest.fail(f"Tab does not reach {name}")


def walk(page, name: str, act=None) -> list[int]:
    """Tab through the output from its first stop until the focus has left it; `act(control)` at each control.

    Returns the numbers of the controls, in the order in which they had the focus. Fails for a trap.
    """
    focus, met = enter(page, name), []
    here = focus["cell"]
    for _ in range(60):
        if focus["control"] >= 0:
            assert focus["control"] not in met, "the focus goes round and round"
            met.append(focus["control"])
            if act:
                act(page.evaluate_handle("document.activeElement").as_element())
                assert page.evaluate(FOCUS)["control"] == met[-1], "a key has moved the focus"
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if not (focus["inside"] and focus["cell"] == here):
            return met
    pytest.fail(f"Tab does not leave {name}")


def tab_to(page, name: str, label: str) -> None:
    """Press Tab, from where the focus is, until it is on the button or box of that label."""
    wanted = re.compile(label)
    for _ in range(40):
        text = page.evaluate("() => (e => e.innerText || e.closest('label, .widget-checkbox')?.innerText || '')"
                             "(document.activeElement)")  # fmt: skip
        if wanted.search(text) and page.evaluate(FOCUS)["cell"] == list(SOURCES).index(name):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not reach {label!r} in {name}")


def keys(control, back: bool) -> list[str]:
    if control.evaluate("here => here.tagName") == "SELECT":
        return ["Space", "ArrowUp" if back else "ArrowDown", "Enter"]
    return ["ArrowLeft" if back else "ArrowRight"]


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_of_an_explorer_is_reached_moves_and_is_left(name, notebook):
    page, moved = notebook, []

    def move_and_back(control) -> None:
        if control.evaluate("here => here.tagName") == "BUTTON":  # Reset, tried below
            return
        value, text, last = control.evaluate(VALUE), said(page, name), control.evaluate(LAST)
        for key in keys(control, last):
            page.keyboard.press(key)
        wait_until(page, lambda: control.evaluate(VALUE) != value, "no key moves it")
        wait_until(page, lambda: said(page, name) != text, "it moves, and the explorer says the same")
        for key in keys(control, not last):
            page.keyboard.press(key)
        wait_until(page, lambda: control.evaluate(VALUE) == value and said(page, name) == text, "it does not come back")
        moved.append(control)

    count = output(page, name).locator(CONTROLS).count()
    assert sorted(walk(page, name, move_and_back)) == list(range(count))
    assert len(moved) == count - 1 >= 1
    for _ in range(6):  # back over the next cell itself, its toolbar, and what can be scrolled
        page.keyboard.press("Shift+Tab")
        if (focus := page.evaluate(FOCUS))["control"] >= 0:
            break
    assert (focus["cell"], focus["control"]) == (list(SOURCES).index(name), count - 1)

    start = said(page, name)
    enter(page, name)
    first = page.evaluate_handle("document.activeElement").as_element()
    for key in keys(first, first.evaluate(LAST)):
        page.keyboard.press(key)
    wait_until(page, lambda: said(page, name) != start, "no key moves the first control")
    tab_to(page, name, "^Reset$")
    page.keyboard.press("Enter")
    wait_until(page, lambda: said(page, name) == start, "Reset does not answer to Enter")


def test_every_answer_of_the_quiz_is_reached_and_given(notebook):
    page, given = notebook, []

    def answer(button) -> None:
        before = said(page, "quiz")
        page.keyboard.press("Space")
        wait_until(page, lambda: said(page, "quiz") != before, "no answer to Space")
        given.append(button)

    count = output(page, "quiz").locator("button").count()
    assert sorted(walk(page, "quiz", answer)) == list(range(count))
    assert len(given) == count >= 6
    status = output(page, "quiz").locator("[role=status]").all_inner_texts()
    assert len([text for text in status if "Right." in text or "not yet:" in text]) >= 3


def test_flash_cards_are_turned_and_graded(notebook):
    page, name = notebook, "cards"
    fronts = [said(page, name)]
    assert walk(page, name) == [0]
    for grade in ("I knew it", "I did not know it", "With effort"):
        enter(page, name)
        tab_to(page, name, "^Show the answer$")
        page.keyboard.press("Space")
        wait_until(page, lambda: output(page, name).locator("button:visible").count() == 3, "the card does not turn")
        focus_comes(page, "I knew it")
        assert sorted(walk(page, name)) == [0, 1, 2]
        enter(page, name)
        tab_to(page, name, grade)
        page.keyboard.press("Space")
        wait_until(page, lambda: output(page, name).locator("button:visible").count() == 1, "no next card")
        focus_comes(page, "Show the answer")
        fronts.append(said(page, name))
    assert len(set(fronts)) == 4


def test_a_mock_interview_is_begun_answered_ticked_and_led_on(notebook):
    page, name = notebook, "mock"
    enter(page, name)
    tab_to(page, name, "^Start the clock$")
    page.keyboard.press("Space")
    box = output(page, name).locator("textarea")
    box.wait_for()
    focus_comes(page, "TEXTAREA")
    first = said(page, name)
    enter(page, name)
    wait_until(page, lambda: page.evaluate("document.activeElement.tagName") == "TEXTAREA", "the box is not first")
    page.keyboard.type("add dd x a b: every key that means something to JupyterLab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Show the answer"
    page.keyboard.press("Space")
    boxes = output(page, name).locator("input[type=checkbox]:visible")
    wait_until(page, lambda: boxes.count() == 3, "no answer and no rubric")
    focus_comes(page, "checkbox")
    assert box.input_value().endswith("to JupyterLab")
    ticked = []

    def tick(control) -> None:
        if control.evaluate("here => here.type") == "checkbox":
            page.keyboard.press("Space")
            ticked.append(control.evaluate(VALUE))

    count = output(page, name).locator(CONTROLS).locator("visible=true").count()
    assert sorted(walk(page, name, tick)) == list(range(count))
    assert ticked == [True] * 3
    enter(page, name)
    tab_to(page, name, "^Next question$")
    page.keyboard.press("Space")
    wait_until(page, lambda: boxes.count() == 0 and "Question 2 of 5" in said(page, name), "no second question")
    focus_comes(page, "TEXTAREA")
    assert said(page, name) != first


def test_a_drill_is_answered_with_enter_and_drawn_anew(notebook):
    page, name = notebook, "drill"
    assert len(walk(page, name)) == output(page, name).locator(CONTROLS).count() == 4
    enter(page, name)
    task = said(page, name)
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    wait_until(page, lambda: said(page, name).startswith(task) and said(page, name) != task, "Enter judges nothing")
    for label in ("Check", "Show the way", "Another"):
        tab_to(page, name, f"^{label}$")
        page.keyboard.press("Space")
    wait_until(page, lambda: said(page, name)[:200] != task[:200], "the drill stays the same")
    focus_comes(page, "text INPUT")


def test_a_control_out_of_reach_and_a_trap_would_be_seen(notebook):
    page, name = notebook, "svd"
    reset = output(page, name).get_by_role("button", name="Reset")
    every = walk(page, name)
    reset.evaluate("here => { here.tabIndex = -1; }")
    assert set(every) - set(walk(page, name)) == {every[-1]}
    reset.evaluate("""here => {
        here.tabIndex = 0;
        here.onkeydown = event => { if (event.key === 'Tab') event.preventDefault(); };
    }""")
    with pytest.raises(AssertionError, match="round and round"):
        walk(page, name)
    reset.evaluate("here => { here.onkeydown = null; }")
    assert walk(page, name) == every
