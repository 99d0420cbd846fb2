"""Pages and slides: one file each, nothing from elsewhere, headings in order, pictures with words, formulas."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from lora_lab.classroom import outline, pages, slides
from lora_lab.interview import sheet
from lora_lab.markup import Html
from tests.classroom.conftest import ALT

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text'"


class Reading(HTMLParser):
    """The tags of a page with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.words = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def outside(text: str) -> list[str]:
    """Every place in a page that names something outside of the page: any address with a host, any file but .html."""
    without = re.sub(r"data:image/png;base64,[\w+/=]*", "", text)
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\([^)]*\)", without)
    for tag, attributes in Reading(text).tags:
        for name in ("src", "href", "data", "poster", "srcset", "action", "xlink:href"):
            value = attributes.get(name)
            if value and not value.startswith(("data:image/", "#")) and not re.fullmatch(r"[\w-]+\.html", value):
                found.append(f"{tag} {name}={value[:50]}")
    return found


def test_outside_is_found():
    bad = [
        '<img src="https://a.example/x.png">',
        "<style>@import 'x'</style>",
        "<a href='//cdn.example'>",
        "url(x.png)",
    ]
    assert all(outside(text) for text in bad)
    assert outside('<a href="03_x.html">x</a><a href="#main">y</a><img src="data:image/png;base64,AA//bb.cc">') == []


def headings(text: str) -> list[int]:
    return [int(tag[1]) for tag, _ in Reading(text).tags if re.fullmatch("h[1-6]", tag)]


def test_every_page_of_the_kit(kit):
    """Self-contained, in a language, with a title, headings in order, and words for each picture."""
    found = sorted(kit.rglob("*.html"))
    assert len(found) == 1 + 1 + 1 + 1 + 4  # handout, cheat sheet, slides, teacher's copy; three plans and the answers
    for path in found:
        text = path.read_text(encoding="utf-8")
        read = Reading(text)
        assert outside(text) == [], path.name
        assert all(tag.get("lang", "").startswith("en") for tag in read.all("html")), path.name
        assert len(read.all("title")) == len(read.all("main")) == 1, path.name
        levels = headings(text)
        assert levels.count(1) == 1 and levels[0] == 1, path.name
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), (path.name, levels)
        assert all(image["alt"].strip() for image in read.all("img")), path.name
        if path.name != "cheat_sheet.html":
            assert pages.POLICY in [tag.get("content") for tag in read.all("meta")]


def test_only_our_own_scripts_and_only_in_slides(kit):
    for path in sorted(kit.rglob("*.html")):
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(encoding="utf-8"), re.DOTALL)
        assert scripts == ([slides.SCRIPT] if path.parent.name == "slides" else []), path.name


def test_links_stay_in_the_kit(kit):
    text = (kit / "instructor" / "04_small.html").read_text(encoding="utf-8")
    assert Reading(text).all("a") == [{"class": "skip", "href": "#main"}], "no lesson 01 in this kit, no other host"
    assert "a paper" in text and "lesson 01" in text
    linked = pages.prose("see [lesson 01](01_the_idea.ipynb), [x](https://a.example/) and `[y](z)`", ["01_the_idea"])
    assert '<a href="01_the_idea.html">lesson 01</a>, x and <code>[y](z)</code>' in linked


def test_formulas_are_mathml_and_prices_are_not(kit):
    text = (kit / "instructor" / "04_small.html").read_text(encoding="utf-8")
    assert text.count("<math") == 2 and text.count('<math display="block">') == 1 and "<mfrac>" in text
    assert "$5 or $6" in Reading(text).words and "FORMULA" not in text
    made = pages.prose("`$x$` and $a*b*c$\n\n```\n$$y$$\n```")
    assert made.count("<math") == 1 and "$x$" in made and "$$y$$" in made and "<em>" not in made


def test_a_formula_that_cannot_be_turned_is_shown_as_written():
    assert pages.formula(r"\frac{<a}{") == r"<code>\frac{&lt;a}{</code>"


def test_long_lines_scroll_and_can_be_reached():
    long, short = new_code_cell("x = 1  # " + "long " * 30), new_code_cell("x = 1")
    said = new_output("stream", name="stdout", text="y " * 60 + "\n&lt; ok")
    short.outputs = [said]
    read = Reading(pages.body([long, short, new_markdown_cell("| a | b |\n|---|---|\n| 1 | 2 |")]))
    assert [bool(tag.get("tabindex")) for tag in read.all("pre")] == [True, False, True]
    assert [tag.get("tabindex") for tag in read.all("div") if tag.get("class") == "wide"] == ["0"]
    assert all(tag.get("aria-label") for _, tag in read.tags if tag.get("tabindex") == "0")


def test_what_a_frame_is_given_is_escaped():
    text = pages.frame(HOSTILE, HOSTILE, Html("<b>bold</b>"))
    assert Reading(text).all("script") == [] and len(Reading(text).all("b")) == 1
    assert Reading(text).words.count(HOSTILE) == 2


def luminance(colour: str) -> float:
    colour = colour.lstrip("#")
    colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_of_text_is_readable():
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)  # the formula: a known pair
    colours = re.findall(r"(?<![-\w])color:\s*(#[0-9A-Fa-f]{3,6})\b", pages.STYLE + pages.code_colours() + slides.STYLE)
    assert len(set(colours)) > 8
    assert {colour: contrast(colour, "#fff") for colour in colours if contrast(colour, "#fff") < 4.5} == {}
    assert not re.findall(r"background(?:-color)?:\s*(?!#fff\b)#\w+", pages.STYLE + slides.STYLE), "white, as measured"


# --- slides -----------------------------------------------------------------------------------------------------------


def test_slides_follow_the_lesson(lesson):
    made = list(slides.slides(lesson))
    assert [slide.kind for slide in made] == ["", *KINDS, ""]
    ask, tell, look, turn = (str(slide.inside) for slide in made[1:5])
    assert "W is large." in ask and "What share of W" in ask and "GUESSED" not in ask
    assert "GUESSED" in tell and "A small one." in tell
    assert ALT in look and "figures.show" not in look, "a picture without the code that draws it"
    assert "Write it for any shape" in turn and "return" in turn and "difficulty" not in turn
    assert made[4].title == "When is an adapter too large?" and "Rank times the sum" in made[5].inside


KINDS = ["Think, then vote", "Run it, read it out", "Look", "Your turn: 3 minutes"]


def section(*pieces, exercise=None):
    """A section of (kind, text) pieces; a code's text is also what it says."""
    made = []
    for kind, text in pieces:
        said = [new_output("stream", name="stdout", text=f"SAID {text}\n")] if kind == "code" else []
        cell = new_code_cell(text, outputs=said) if kind == "code" else new_markdown_cell(text)
        made.append(outline.Piece(kind, text, cell))
    found = outline.Section("1. One", made)
    if exercise is not None:
        stub = made[exercise].cell
        found.exercises = [outline.Posed("x", "of GPT-2", 3, "Write it.", stub, None, [])]
    return [(slide.title, slide.kind, str(slide.inside)) for slide in slides._of(found, "")]


def test_after_a_colon_comes_what_it_announces():
    (_, _, told), *rest = section(
        ("guess", "**Guess first.** a"), ("code", "b"), ("prose", "In numbers:"), ("code", "c")
    )[1:]
    assert "SAID b" in told and "SAID c" in told and rest == []
    (_, _, told), *rest = section(("guess", "**Guess first.** a"), ("code", "b"), ("prose", "No."), ("code", "c"))[1:]
    assert "SAID b" in told and "SAID c" not in told and rest == []


def test_a_guess_brings_the_sentence_that_it_leans_on_and_one_in_an_exercise_no_slide_of_its_own():
    (_, kind, ask), _ = section(
        ("prose", "We try three."), ("code", "x"), ("guess", "**Guess first.** Which?"), ("code", "y")
    )
    assert kind == "Think, then vote" and "We try three." in ask and "SAID" not in ask
    made = section(("guess", "Write it. **Guess first.** Which?"), ("code", "z"), exercise=1)
    assert [(title, kind) for title, kind, _ in made] == [("Of GPT-2", "Your turn: 3 minutes")]


def test_what_is_larger_than_a_slide_is_set_smaller():
    rows = "".join(f"<tr><td>{n}</td><td>of a method</td></tr>" for n in range(25))
    cell = new_code_cell("f()\n" * 20, outputs=[new_output("display_data", {"text/html": f"<table>{rows}</table>"})])
    ((size, picture, shown),) = slides._parts(cell, "")
    assert size <= slides.FULL and not picture
    assert slides.SMALLEST == float(re.search(r"font-size: ([\d.]+)em", shown)[1])


def test_every_slide_says_which_it_is(lesson):
    read = Reading(slides.deck(lesson))
    shown = [tag for tag in read.all("section") if tag.get("class") == "slide"]
    assert [tag["aria-label"] for tag in shown] == [f"{n} of {len(shown)}" for n in range(1, len(shown) + 1)]
    assert [tag["href"] for tag in read.all("a") if tag.get("class") != "skip"] == [
        f"#slide{n}" for n in range(1, len(shown) + 1)
    ]


def test_a_guess_of_a_real_lesson_is_asked_before_it_is_answered(lesson):
    from tests.classroom.test_kit import LESSONS

    read = next(one for one in LESSONS if one.number == "01")
    made = list(slides.slides(read))
    kinds = [slide.kind for slide in made]
    assert kinds.count("Think, then vote") >= 5
    for at, kind in enumerate(kinds[:-1]):
        if kind == "Think, then vote":
            assert outline.GUESS.search("**Guess first.**") and "Guess first" in made[at].inside
            assert "output_area" not in made[at].inside, "no output before the vote"


def test_the_cheat_sheet_is_the_courses(kit):
    assert (kit / "handouts" / "cheat_sheet.html").read_text(encoding="utf-8") == sheet.page()
