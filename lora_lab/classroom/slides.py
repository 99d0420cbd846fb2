"""Slides for a lesson, as one HTML file: its guesses, what its cells show, what is read off, and its exercises.

Not reveal.js, which `jupyter nbconvert --to slides` writes: its pages load it from another host, so it would have to be
kept in this repository, for what forty lines do. Without JavaScript all slides stand on the page one after another.

Keys: right and left (or Page Down and Page Up) for the next and the last slide, Home, End, Escape for the list of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_lab.classroom import outline, pages
from lora_lab.markup import Html, tag

if TYPE_CHECKING:
    from nbformat import NotebookNode

LINES = 12  # of code: what can be read from the last row; longer cells show their output alone
ROOM = 14  # lines below a heading
FULL, PICTURE = 16, 11  # lines on a slide, and those that a picture takes at least: it fills what is left
TABLE, WIDE = 66, 100  # characters of a table's row that stand in one line, and with smaller letters
SMALLEST = 0.6  # what is longer than a slide is set smaller, down to this
STYLE = """
main { max-width: 46em; padding: 1rem 1rem 4rem; font-size: max(1.05rem, min(1.9vw, 3.4vh)); }
.slide pre { font-size: .82em; }
.slide pre.wide { white-space: pre-wrap; }
.slide { min-height: 60vh; border-bottom: 1px solid #767676; padding-bottom: 2rem; }
.live .slide { min-height: 0; border: 0; padding: 0; }
.slide:focus { outline: none; }
.slide h1 { font-size: 1.7em; margin: .3em 0 .5em; }
.slide h2 { margin: .2em 0 .5em; }
.slide td, .slide th { padding: .15em .5em; line-height: 1.35; }
.even td { white-space: nowrap; }
.slide img { height: max(12em, calc(100vh - 10.2em - var(--lines, 0) * 1.6em)); width: auto;
  object-fit: contain; object-position: left top; }
.kind { color: #0b4f9e; font-weight: bold; margin: 0; }
nav.bar { position: fixed; right: 0; bottom: 0; left: 0; background: #fff; border-top: 1px solid #767676;
  padding: .4rem 1rem; display: flex; gap: 1rem; align-items: center; justify-content: center; }
nav[hidden] { display: none; }
nav.bar button { font: inherit; padding: .2rem .9rem; }
@media print {
  @page { size: landscape; margin: 12mm; }
  .slide, .slide[hidden] { display: block !important; border: 0; break-after: page; }
  .slide:last-of-type { break-after: auto; }
  main { font-size: 13pt; }
  .slide img { height: 100mm; }
  .slide tr { break-inside: avoid; }
}
"""
SCRIPT = """
const slides = [...document.querySelectorAll(".slide")];
const list = document.getElementById("list"), bar = document.querySelector("nav.bar");
const count = document.getElementById("count");
let at = 0;
function show(n, focus = true) {
  at = Math.max(0, Math.min(n, slides.length - 1));
  list.hidden = true;
  slides.forEach((slide, i) => { slide.hidden = i !== at; });
  count.textContent = `${at + 1} of ${slides.length}`;
  if (location.hash !== "#" + slides[at].id) location.replace("#" + slides[at].id);
  window.scrollTo(0, 0);
  if (focus) slides[at].focus({ preventScroll: true });
}
function overview() {
  if (!list.hidden) return show(at);
  list.hidden = false;
  slides.forEach(slide => { slide.hidden = true; });
  list.querySelectorAll("a")[at].focus();
}
function named() { return slides.findIndex(slide => "#" + slide.id === location.hash); }
const keys = {
  ArrowRight: () => show(at + 1), PageDown: () => show(at + 1), ArrowLeft: () => show(at - 1),
  PageUp: () => show(at - 1), Home: () => show(0), End: () => show(slides.length - 1), Escape: overview,
};
document.addEventListener("keydown", event => {
  const wide = event.target.closest && event.target.closest(".wide");
  const scrolls = wide && wide.scrollWidth > wide.clientWidth && event.key.startsWith("Arrow");
  if (event.ctrlKey || event.metaKey || event.altKey || scrolls || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
document.getElementById("last").addEventListener("click", () => show(at - 1, false));
document.getElementById("next").addEventListener("click", () => show(at + 1, false));
document.getElementById("all").addEventListener("click", overview);
list.addEventListener("click", event => {
  const link = event.target.closest("a");
  if (link) { event.preventDefault(); show(slides.findIndex(slide => "#" + slide.id === link.hash)); }
});
window.addEventListener("hashchange", () => { if (named() >= 0 && named() !== at) show(named()); });
bar.hidden = false;
document.getElementById("main").classList.add("live");
show(Math.max(0, named()), false);
"""


@dataclass
class Slide:
    """One slide: its heading, the word above it that says what to do, and what it shows.

    `section` is the title of the section that it belongs to, `exercise` that of the exercise that it poses; `lines` is
    about how many lines of text stand beside a picture.
    """

    title: str
    kind: str
    inside: Html
    section: str = ""
    exercise: str = ""
    lines: int = 0


def deck(lesson: outline.Lesson) -> str:
    """The lesson's slides as one HTML page."""
    made = list(slides(lesson))
    title = f"{lesson.number} {lesson.title}"
    shown = []
    for number, slide in enumerate(made, start=1):
        heading = tag("h1" if number == 1 else "h2", slide.title)
        kind = tag("p", slide.kind, class_="kind") if slide.kind else Html("")
        words = {"class_": "slide", "id": f"slide{number}", "tabindex": "-1", "role": "group"}
        if slide.lines:
            words["style"] = f"--lines: {slide.lines}"
        words |= {"aria_roledescription": "slide", "aria_label": f"{number} of {len(made)}"}
        shown.append(tag("section", kind, heading, slide.inside, **words))
    links = [
        tag("li", tag("a", f"{slide.title}{': ' if slide.kind else ''}{slide.kind}", href=f"#slide{number}"))
        for number, slide in enumerate(made, start=1)
    ]
    inner = tag("h2", "All slides"), tag("ol", *links)
    overview = tag("nav", *inner, id="list", aria_label="All slides", hidden="")
    buttons = [tag("button", text, type="button", id=name) for name, text in NAVIGATION.items()]
    buttons.insert(1, tag("span", "", id="count", role="status"))
    bar = tag("nav", *buttons, class_="bar", aria_label="Slides", hidden="")
    return pages.frame(f"Slides: {title}", *shown, overview, bar, style=STYLE, script=SCRIPT)


NAVIGATION = {"last": "Previous", "next": "Next", "all": "All slides"}


def slides(lesson: outline.Lesson) -> Iterator[Slide]:
    """The slides of a lesson, in its order."""
    folder = str(lesson.path.parent)
    head = "\n\n".join(piece.text for piece in lesson.opening if "Where it says" not in piece.text)
    yield Slide(f"{lesson.number} {lesson.title}", "", _fitted(pages.prose(head), _long(head)))
    for section in lesson.sections:
        if section.title.startswith("In five lines"):
            yield Slide(section.title, "", pages.prose(_text(section.pieces)))
        elif not section.closing:
            for slide in _of(section, folder):
                slide.section = section.title
                yield slide


def _of(section: outline.Section, folder: str) -> Iterator[Slide]:
    run, at = section.pieces, 0
    posed = {id(exercise.stub): exercise for exercise in section.exercises}
    while at < len(run):
        piece = run[at]
        if piece.kind == "guess" and not _of_an_exercise(run, at, posed):
            asked, at = [*_context(run, at), piece], at + 1
            end = _skip(run, at, "guess", "prose")
            text = _text([*asked, *run[at:end]])
            shown = _fitted(pages.prose(text), _long(text), most=1.4)
            yield Slide(section.title, "Think, then vote", shown)
            at = _reading(run, end, posed) if end < len(run) and run[end].kind == "code" else end
            if at > end:
                yield from _told(section.title, "Run it, read it out", run[end:at], folder)
        elif piece.kind == "code" and id(piece.cell) in posed:
            exercise = posed[id(piece.cell)]
            kind = f"Your turn: {exercise.minutes} minutes"
            task = [pages.prose(exercise.task), pages.body([_without_outputs(exercise.stub)])]
            title = exercise.title[:1].upper() + exercise.title[1:]
            yield Slide(title or section.title, kind, Html("".join(task)), exercise=exercise.title)
            at += 2 if exercise.check else 1
        elif piece.kind == "code" and _has_picture(piece.cell):
            end = _reading(run, at, posed)
            yield from _told(section.title, "Look", run[at:end], folder)
            at = end
        else:
            at += 1


def _of_an_exercise(run: list[outline.Piece], at: int, posed: dict[int, outline.Posed]) -> bool:
    """Whether a guess stands in what poses an exercise: then its slide is the exercise's."""
    end = _skip(run, at, "guess", "prose")
    return end < len(run) and id(run[end].cell) in posed


def _context(run: list[outline.Piece], at: int) -> list[outline.Piece]:
    """The paragraph that a guess leans on, where it is short: the one before it, or before the code in between."""
    while at and run[at - 1].kind == "code":
        at -= 1
    before = run[at - 1 : at]
    short = [piece for piece in before if piece.kind == "prose" and len(piece.text.split()) < 60]
    return [piece for piece in short if not piece.text.endswith(":")]


def _reading(run: list[outline.Piece], at: int, posed: dict[int, outline.Posed]) -> int:
    """Where cells and the paragraph that reads them out end; after a colon comes what it announces."""
    while True:
        while at < len(run) and run[at].kind == "code" and id(run[at].cell) not in posed:
            at += 1
        text = ""
        while at < len(run) and run[at].kind == "prose" and (not text or text.endswith(":")):
            text, at = run[at].text, at + 1
        if not text.endswith(":") or at == len(run) or run[at].kind != "code" or id(run[at].cell) in posed:
            return at


def _skip(run: list[outline.Piece], at: int, *kinds: str) -> int:
    """The place of the first piece after `at` that is of another kind."""
    while at < len(run) and run[at].kind in kinds:
        at += 1
    return at


def _text(run: Iterable[outline.Piece]) -> str:
    return "\n\n".join(piece.text for piece in run)


def _has_picture(cell: NotebookNode) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def _without_outputs(cell: NotebookNode) -> NotebookNode:
    bare = cell.copy()
    bare.outputs = []
    return bare


def _told(title: str, kind: str, run: list[outline.Piece], folder: str) -> Iterator[Slide]:
    """Cells and the sentences that are read out after them, on as many slides as they fill."""
    speaks = any(piece.kind == "code" and piece.cell.outputs for piece in run)
    parts: list[tuple[float, bool, Html]] = []  # lines, whether it is a picture, and what it is
    for piece in run:
        if piece.kind == "prose":
            parts.append((len(piece.text) / 75 + 1, False, pages.prose(piece.text)))
        elif piece.cell.outputs or not speaks:
            parts += _parts(piece.cell, folder)
    on_this: list[tuple[float, bool, Html]] = []
    for part in [*parts, None]:
        if on_this and (part is None or sum(size for size, _, _ in on_this) + part[0] > FULL):
            text = sum(size for size, picture, _ in on_this if not picture)
            pictured = any(picture for _, picture, _ in on_this)
            yield Slide(
                title,
                kind,
                Html("".join(html for _, _, html in on_this)),
                lines=round(text) if text and pictured else 0,
            )
            on_this = []
        if part:
            on_this.append(part)


def _parts(cell: NotebookNode, folder: str) -> Iterator[tuple[float, bool, Html]]:
    """A cell's code, where slides show it, and each of its outputs, with about how many lines each takes there."""
    from nbformat import from_dict

    lines = sum(1 + len(line) // pages.WIDEST for line in cell.source.splitlines()) + 1
    if not cell.outputs or not (_has_picture(cell) or lines > LINES):
        yield lines, False, pages.body([_without_outputs(cell)], folder)
    for output in cell.outputs:
        shown = from_dict(cell)
        shown.outputs, shown.metadata["transient"] = [output], {"remove_source": True}
        data = output.get("data", {})
        picture = "image/png" in data
        size = PICTURE if picture else _lines(output)
        html = pages.body([shown], folder)
        widest = max(map(len, _rows(output)), default=0)
        if 0 < widest < WIDE:  # no cell of it breaks a line
            html = tag("div", html, class_="even")
        scale = max(SMALLEST, min(1, FULL / size, TABLE / widest if 0 < widest < WIDE else 1))
        yield min(size * scale, FULL), picture, _sized(html, scale)


def _lines(output: NotebookNode) -> float:
    """About how many lines of a slide a table or a text takes."""
    rows = _rows(output)
    if rows:
        return 1.5 + sum(1.25 * (1 + len(row) // WIDE) for row in rows)
    said = output.get("text", "") or output.get("data", {}).get("text/plain", "")
    return said.count("\n") + 2


def _rows(output: NotebookNode) -> list[str]:
    """The rows of a table, as text: a space for each cell's edge."""
    rows = re.findall(r"<tr.*?</tr>", output.get("data", {}).get("text/html", ""), re.DOTALL)
    return [re.sub(r"(<[^>]+>|\s)+", "  ", row).strip() for row in rows]


def _long(text: str) -> float:
    """About how many lines of a slide some Markdown takes."""
    return sum(1 + len(line) / 80 if line.strip() else 0.6 for line in text.splitlines())


def _fitted(inside: Html, size: float, most: float = 1) -> Html:
    """Text that takes `size` lines, in letters with which it fills a slide; `most` times as large at most."""
    # Larger letters make lines both higher and longer: the root of what is to spare, or lacking.
    return _sized(inside, min(most, max(SMALLEST, (ROOM / size) ** 0.5)))


def _sized(inside: Html, scale: float) -> Html:
    return inside if 0.98 < scale < 1.02 else tag("div", inside, style=f"font-size: {scale:.2f}em")
