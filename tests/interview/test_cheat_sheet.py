"""The cheat sheet: one A4 page, numbers computed and none written, readable by everyone."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lora_lab import counting, figures, interview, panel, shapes
from lora_lab.__main__ import main
from lora_lab.interview import sheet
from tests.browser.conftest import CHROMIUM_WORDS, chromium  # noqa: F401  (a fixture)
from tests.test_html import Reading

SOURCE = Path(sheet.__file__).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Headings in order, what stands open at the end, ids and classes, and anything fetched from elsewhere."""

    EMPTY = {"meta", "br", "img", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings, self.open, self.html, self.fetched, self.scopes = [], [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "html":
            self.html = dict(attrs)
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_stands_alone_and_is_in_order():
    page = sheet.page()
    outline = Outline(page)
    assert page.startswith("<!DOCTYPE html>") and outline.open == [] and outline.html == {"lang": "en"}
    assert f"<title>{sheet.TITLE}</title>" in page and outline.fetched == []
    assert "http" not in page and "<script" not in page and "@import" not in page and "url(" not in page
    assert outline.headings == [1] + [2] * len(sheet.PARTS)
    assert outline.scopes and set(outline.scopes) == {"col", "row"}


def test_in_a_notebook_it_stands_below_the_lessons_headings():
    assert Outline(sheet.in_notebook()).headings == [3] + [4] * len(sheet.PARTS)
    rules = re.findall(r"^([^@\s][^{]*)\{", sheet.CSS, re.MULTILINE)
    assert rules and all(part.strip().startswith(".lora-sheet") for rule in rules for part in rule.split(","))


def test_every_text_colour_has_contrast_on_the_page():
    assert figures.contrast("#000", "#fff") == 21 and figures.contrast("#777", "#fff") < 4.5
    ink = re.findall(r"(?<![-\w])color: (#[0-9a-f]{3,6})", sheet.CSS)
    paper = re.findall(r"background: (#[0-9a-f]{3,6})", sheet.CSS)
    assert ink and paper and all(figures.contrast(i, p) >= 4.5 for i in ink for p in paper)


def test_no_number_is_written_where_it_could_be_computed():
    """Of three or more digits, with a % or with a unit; colours and sizes of the style are not what it says."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != sheet.CSS
    ]
    written = re.compile(r"(?<![\w.-])(?:\d[\d,]{2,}|\d+\.\d+|\d+ ?(?:%|[GMk]B|times|bits)(?!\w))")
    found = [(text, written.findall(text)) for text in texts if written.search(text)]
    known = ("NF4: 4 + 8/64", "4 bits can lose", "Under 1 %.")  # a sum, a number of bits, what is put right beside it
    found = [hit for hit in found if not any(words in hit[0] for words in known)]
    assert found == []


def test_its_numbers_are_those_of_the_models():
    words = Reading(sheet.page()).words
    for number in ("65,536 of 16,777,216, 0.39 %", "4,194,304", "0.0622 %", "3,407,872", "39,976,960", "2,048"):
        assert number in words
    for line in ("107.8 GB", "14.1 GB", "5.0 GB", "4.127 bits", "4.5 without", "0.671 of full", "16 pages", "2.37 %"):
        assert line in words


def test_its_numbers_follow_what_they_are_computed_from(monkeypatch):
    monkeypatch.setattr(sheet, "MODELS", ("Llama-2-13B", "Llama-3.1-8B"))
    monkeypatch.setattr(sheet, "RANK", 4)
    words = Reading(sheet.page()).words
    few = counting.lora(shapes.known("Llama-2-13B"), 4, "q_proj,v_proj")
    assert f"{few:,}" in words and "32,768 of 16,777,216, 0.20 %" in words and "1 of these 2" in words
    assert "4,194,304" not in words and "0.671" not in words and "107.8 GB" not in words


def test_the_command_writes_it(tmp_path, capsys):
    assert main(["cheatsheet", "--out", str(tmp_path / "sheet.html")]) == 0
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8") == sheet.page()
    assert "print it" in capsys.readouterr().out


def test_the_lesson_shows_it_and_says_how_to_print_it(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(panel, "display", lambda data, **_: shown.append(data))
    interview.cheat_sheet()
    assert "65,536" in shown[0]["text/html"] and "python -m lora_lab cheatsheet" in capsys.readouterr().out


WIDE_TABLES = """[...document.querySelectorAll('table')]
    .filter(table => table.offsetWidth > table.parentElement.offsetWidth).map(table => table.innerText)"""
ONCE_MORE = "document.querySelector('main').append(document.querySelector('.columns').cloneNode(true))"


@pytest.mark.parametrize("font", ["", "Arial"])
def test_it_prints_on_one_a4_page(chromium, tmp_path, font):  # noqa: F811
    """In its own font, and in another that readers may have."""
    from playwright.sync_api import sync_playwright

    page = sheet.page()
    (tmp_path / "sheet.html").write_text(page.replace('"DejaVu Sans", Verdana, ', "") if font else page)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_WORDS)
        tab = browser.new_page(viewport={"width": 794, "height": 1123})
        tab.goto((tmp_path / "sheet.html").as_uri())
        wide = tab.evaluate(WIDE_TABLES)
        printed = tab.pdf(prefer_css_page_size=True)
        tab.evaluate(ONCE_MORE)
        twice = tab.pdf(prefer_css_page_size=True)
        browser.close()
    pages = [len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) for pdf in (printed, twice)]
    assert pages[0] == 1 and pages[1] > 1  # that the count sees a second page
    assert wide == [], "a table is wider than its column"
    size = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", printed)
    assert [round(float(side)) for side in size.groups()] == pytest.approx([595, 842], abs=2)
