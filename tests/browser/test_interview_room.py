"""The interview room in JupyterLab, as a learner would use it, with the keyboard alone."""

from __future__ import annotations

import json

import pytest

from lora_lab.interview import bank, mock_interview
from tests.browser.test_in_jupyterlab import FOCUSED, errors_shown, open_and_run, write

CELLS = {
    "cards": "from lora_lab import interview\n\ninterview.cards()",
    "mock": "from lora_lab import interview\n\ninterview.mock(seed=10)",
    "drill": "from lora_lab import interview\n\ninterview.drill('gqa', seed=3)",
    "sheet": "from lora_lab import interview\n\ninterview.cheat_sheet()",
}
# Texts of the output whose ink has less than 4.5 times the luminance of what lies behind them (WCAG 2.2, 1.4.3).
PALE = """() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const [r, g, b, alpha = 1] = parts(getComputedStyle(e).backgroundColor);
            if (alpha > 0) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    return [...document.querySelectorAll('.jp-OutputArea *')].filter(e => own(e) && e.offsetParent).filter(e => {
        const [low, high] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05) < 4.5;
    }).map(e => e.tagName + ': ' + e.innerText);
}"""
THEME = "name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})"


@pytest.fixture
def room(page, lab, request):
    """A notebook with one panel in it, run; nothing went wrong in it when the test is over."""
    write(lab, f"{request.param}.ipynb", CELLS[request.param])
    open_and_run(page, lab, f"{request.param}.ipynb", 120)
    yield page
    assert errors_shown(page) == [] and page.complaints == []
    assert page.evaluate("() => jupyterapp.shell.currentWidget.content.model.cells.length") == 1


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def focus_on(page, words: str) -> None:
    """Wait until the keyboard's focus is on the element that says so."""
    page.wait_for_function(f"words => ({FOCUSED})().includes(words)", arg=words, timeout=90_000)


@pytest.mark.parametrize("room", ["cards"], indirect=True)
def test_two_cards(room, lab):
    room.get_by_role("button", name="Show the answer").focus()
    press(room, "Space")
    focus_on(room, "I knew it")
    assert "Loses marks" in room.locator(".jp-OutputArea").first.inner_text()
    press(room, "Enter")
    focus_on(room, "Show the answer")
    press(room, "Enter")
    focus_on(room, "I knew it")
    press(room, "Shift+Tab", "Shift+Tab", "Space")  # back to "I did not know it"
    focus_on(room, "Show the answer")
    kept = json.loads((lab.folder / "notebooks" / "lora_lab_cards.json").read_text(encoding="utf-8"))["cards"]
    assert sorted(card["box"] for card in kept.values()) == [0, 1]


@pytest.mark.parametrize("room", ["mock"], indirect=True)
def test_a_mock_interview(room):
    questions = mock_interview.draw(bank.every(), 10)
    room.get_by_role("button", name="Start the clock").focus()
    press(room, "Space")
    for number in range(1, 6):
        focus_on(room, "TEXTAREA")
        room.get_by_text(f"Question {number} of 5").wait_for()
        room.keyboard.type("dd 00 an answer")  # letters that are shortcuts elsewhere
        press(room, "Tab", "Enter")
        focus_on(room, "checkbox")
        press(room, "Space", "Tab")  # the first point alone
        press(room, "Tab", "Tab", "Space")
    focus_on(room, "Another interview")
    said = room.locator(".jp-OutputArea").first.inner_text()
    assert "5 of 15 points." in said and "Every answer was in time." in said
    for question in questions:
        assert question.rubric[1].replace("`", "") in said
    link = room.get_by_role("link", name=f"lesson {questions[0].lesson},").first
    assert link.evaluate("a => a.href").endswith(f"/lab/tree/notebooks/{bank.lesson_file(questions[0].lesson)}")


@pytest.mark.parametrize("room", ["drill"], indirect=True)
def test_a_drill(room):
    room.get_by_label("Answer").focus()
    room.keyboard.type("3,670,016")
    press(room, "Enter")
    room.get_by_text("forgot grouped-query heads").wait_for()
    press(room, "ControlOrMeta+A")
    room.keyboard.type("2,867,200")
    press(room, "Tab", "Space")
    room.get_by_text("Right: 2,867,200 parameters.").wait_for()


@pytest.mark.parametrize("room", list(CELLS), indirect=True)
def test_it_is_readable_in_both_themes(room):
    for theme, dark in (("JupyterLab Dark", "false"), ("JupyterLab Light", "true")):  # the light one last: it is kept
        room.evaluate(THEME, theme)
        room.wait_for_function("dark => document.body.dataset.jpThemeLight === dark", arg=dark)
        for _ in range(100):
            room.wait_for_timeout(300)  # the style sheet is applied; on a busy machine later
            if not (pale := room.evaluate(PALE)):
                break
        assert len(room.locator(".jp-OutputArea").first.inner_text()) > 20
        assert pale == [], theme


@pytest.mark.parametrize("room", ["cards"], indirect=True)
def test_a_link_looks_like_one(room):
    room.get_by_role("button", name="Show the answer").click()
    link = room.get_by_role("link", name="lesson").first  # of whichever card is due
    assert "underline" in link.evaluate("a => getComputedStyle(a).textDecorationLine")
