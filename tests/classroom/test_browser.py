"""The kit's pages in Chromium, from their files: axe-core finds nothing serious, slides go by keys, and print."""

from __future__ import annotations

import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe

from lora_lab.classroom import handouts, outline, pages, slides
from lora_lab.markup import Html
from tests.browser.conftest import ROOT

PAGES = (
    "slides/04_small.html",
    "handouts/04_small.html",
    "handouts/cheat_sheet.html",
    "instructor/04_small.html",
    "instructor/INSTRUCTOR_PLAN_50.html",
    "instructor/homework_answers.html",
)


@pytest.fixture
def page(browser):
    """A page of a window as wide as a projector's; what it asks of the network and complains of is in `page.asked`."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.asked.append(message.text))
    page.on("pageerror", lambda error: page.asked.append(str(error)))
    yield page
    context.close()


def opened(page, path) -> None:
    page.goto(path.as_uri())
    outside = [what for what in page.asked if not what.startswith(("file:", "data:"))]
    assert outside == [], "nothing from the network, nothing in the console"


def serious(page) -> list[tuple[str, str]]:
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


def test_axe_finds_what_is_wrong(page, tmp_path):
    bad = Html('<img src="data:image/png;base64,AA"><p style="color: #ccc">pale</p><button></button>')
    path = tmp_path / "bad.html"
    path.write_text(pages.frame("bad", bad), encoding="utf-8")
    opened(page, path)
    assert {"image-alt", "color-contrast", "button-name"} <= {name for name, _ in serious(page)}


@pytest.mark.parametrize("name, width", [*((name, 1280) for name in PAGES), *((name, 360) for name in PAGES[:2])])
def test_axe_finds_nothing_serious(kit, page, name, width):
    page.set_viewport_size({"width": width, "height": 720})
    opened(page, kit / name)
    assert serious(page) == []
    if name.startswith("slides"):
        for key in ("End", "ArrowLeft", "ArrowLeft", "Escape"):  # the last, an exercise, a picture, the list of all
            page.keyboard.press(key)
            assert serious(page) == [], key


def test_axe_finds_nothing_serious_in_a_real_lesson(page, tmp_path):
    """All slides of lesson 04 at once, with its tables, formulas and pictures; and its copy for the teacher."""
    lesson = outline.read(next((ROOT / "notebooks").glob("04_*.ipynb")))
    copy = pages.page(handouts.instructor_copy(lesson), lesson.title, str(ROOT / "notebooks"))
    for name, text in (("slides.html", slides.deck(lesson)), ("copy.html", copy)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        opened(page, tmp_path / name)
        page.evaluate("document.querySelectorAll('.slide').forEach(slide => { slide.hidden = false; })")
        assert serious(page) == [], name


def at(page) -> int:
    """The number of the only slide that is seen; 0 for the list of all."""
    seen = page.locator(".slide:visible")
    if page.locator("#list").is_visible():
        assert seen.count() == 0
        return 0
    assert seen.count() == 1
    number = int(seen.get_attribute("id").removeprefix("slide"))
    assert page.url.endswith(f"#slide{number}") and page.inner_text("#count").startswith(f"{number} of ")
    return number


def test_slides_go_by_keys(kit, page, lesson):
    last = len(list(slides.slides(lesson)))
    opened(page, kit / "slides" / "04_small.html")
    assert at(page) == 1
    steps = [("ArrowRight", 2), ("PageDown", 3), ("ArrowLeft", 2), ("PageUp", 1), ("PageUp", 1), ("ArrowLeft", 1)]
    steps += [("End", last), ("ArrowRight", last), ("Home", 1), ("ArrowRight", 2), ("Control+ArrowRight", 2)]
    for key, number in steps:
        page.keyboard.press(key)
        assert at(page) == number, key
    assert page.evaluate("document.activeElement.id") == "slide2", "a screen reader goes on from there"
    page.keyboard.press("Escape")
    assert at(page) == 0 and page.evaluate("document.activeElement.hash") == "#slide2"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert at(page) == 3
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert at(page) == 3
    page.reload()
    assert at(page) == 3, "a reload stays where one was"


def test_the_buttons_are_reached_and_pressed_by_keys(kit, page):
    opened(page, kit / "slides" / "04_small.html")
    reached = {}
    for _ in range(12):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.innerText")
        reached[name] = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if name == "Next":
            page.keyboard.press("Enter")
            break
    assert at(page) == 2
    assert {"Previous", "Next"} <= set(reached) and "none" not in reached.values(), "focus is seen"


def test_slides_without_javascript_are_all_there(kit, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((kit / "slides" / "04_small.html").as_uri())
    assert page.locator(".slide:visible").count() == page.locator(".slide").count() > 4
    assert not page.locator("nav.bar").is_visible()
    context.close()


def test_slides_print_one_to_a_page(kit, page, lesson):
    opened(page, kit / "slides" / "04_small.html")
    page.keyboard.press("ArrowRight")
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == len(list(slides.slides(lesson)))


@pytest.mark.parametrize("number", ["03", "06", "07", "09"])
def test_a_real_deck_fits_the_screen_and_one_page_each(page, tmp_path, number):
    lesson = outline.read(next((ROOT / "notebooks").glob(f"{number}_*.ipynb")))
    (tmp_path / "deck.html").write_text(slides.deck(lesson), encoding="utf-8")
    opened(page, tmp_path / "deck.html")
    count = page.locator(".slide").count()
    for number in range(1, count + 1):
        assert page.evaluate("document.documentElement.scrollHeight") <= 720, f"slide {number} is cut"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, f"slide {number} is cut"
        page.keyboard.press("ArrowRight")
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == count


def test_a_handout_is_wide_enough_for_a_phone_and_its_long_lines_scroll_by_keys(kit, page):
    page.set_viewport_size({"width": 360, "height": 720})
    opened(page, kit / "handouts" / "04_small.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.focus("pre.wide")
    page.keyboard.press("ArrowRight")
    deadline = time.monotonic() + 10
    while page.evaluate("document.activeElement.scrollLeft") == 0:
        assert time.monotonic() < deadline
    assert page.locator("math").first.bounding_box()["width"] > 20, "formulas are drawn"
