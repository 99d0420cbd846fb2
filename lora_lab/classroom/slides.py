"""Slides for a lesson, as one HTML file: its guesses, what its cells show, what is read off, and its exercises.

Not reveal.js, which `jupyter nbconvert --to slides` writes: its pages load it from another host, so it would have to be
kept in this repository, for what forty lines do. Without JavaScript all slides stand on the page one after another.

Keys: right and left (or Page Down and Page Up) for the next and the last slide, Home, End, Escape for the list of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_lab.classroom import outline, pages
from lora_lab.markup import Html, tag

if TYPE_CHECKING:
    from nbformat import NotebookNode

LINES = 12  # of code: what can be read from the last row; longer cells show their output alone
FULL, PICTURE = 16, 13  # lines on a slide, and those that a picture takes
STYLE = """
main { max-width: 70rem; padding-bottom: 5rem; font-size: clamp(1.05rem, .6rem + 1.1vw, 1.7rem); }
.slide pre { font-size: clamp(.85rem, .5rem + .85vw, 1.3rem); }
.slide { min-height: 60vh; border-bottom: 1px solid #767676; padding-bottom: 2rem; }
.slide:focus { outline: none; }
.slide h2 { margin-top: .6rem; }
.slide img { max-height: 54vh; width: auto; }
.kind { color: #0b4f9e; font-weight: bold; margin: 1rem 0 0; }
nav.bar { position: fixed; right: 0; bottom: 0; left: 0; background: #fff; border-top: 1px solid #767676;
  padding: .4rem 1rem; display: flex; gap: 1rem; align-items: center; justify-content: center; }
nav[hidden] { display: none; }
nav.bar button { font: inherit; padding: .2rem .9rem; }
@media print {
  @page { size: landscape; margin: 12mm; }
  .slide, .slide[hidden] { display: block !important; border: 0; break-after: page; }
  .slide:last-of-type { break-after: auto; }
  main { font-size: 13pt; }
  .slide pre { font-size: 11pt; }
  .slide img { max-height: 100mm; }
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
  if (focus) slides[at].focus();
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
show(Math.max(0, named()), false);
"""


@dataclass
class Slide:
    """One slide: its heading, the word above it that says what to do, and what it shows."""

    title: str
    kind: str
    inside: Html


def deck(lesson: outline.Lesson) -> str:
    """The lesson's slides as one HTML page."""
    made = list(slides(lesson))
    title = f"{lesson.number} {lesson.title}"
    shown = []
    for number, slide in enumerate(made, start=1):
        heading = tag("h1" if number == 1 else "h2", slide.title)
        kind = tag("p", slide.kind, class_="kind") if slide.kind else Html("")
        words = {"class_": "slide", "id": f"slide{number}", "tabindex": "-1", "role": "group"}
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
    yield Slide(f"{lesson.number} {lesson.title}", "", pages.prose(head))
    for section in lesson.sections:
        if section.title.startswith("In five lines"):
            yield Slide(section.title, "", pages.prose(_text(section.pieces)))
        elif not section.closing:
            yield from _of(section, folder)


def _of(section: outline.Section, folder: str) -> Iterator[Slide]:
    run, at = section.pieces, 0
    posed = {id(exercise.stub): exercise for exercise in section.exercises}
    while at < len(run):
        piece = run[at]
        if piece.kind == "guess":
            before = run[at - 1] if at and run[at - 1].kind == "prose" else None
            context = [before] if before and len(before.text.split()) < 60 else []
            asked, at = at, _skip(run, at, "guess", "prose")
            yield Slide(section.title, "Think, then vote", pages.prose(_text([*context, *run[asked:at]])))
            end = at
            while end < len(run) and run[end].kind == "code" and id(run[end].cell) not in posed:
                end += 1
            if end > at:
                yield from _told(section.title, "Run it, read it out", run[at:end], run[end : end + 1], folder)
            at = end
        elif piece.kind == "code" and id(piece.cell) in posed:
            exercise = posed[id(piece.cell)]
            kind = f"Your turn: {exercise.minutes} minutes"
            task = [pages.prose(exercise.task), pages.body([_without_outputs(exercise.stub)])]
            yield Slide(exercise.title.capitalize() or section.title, kind, Html("".join(task)))
            at += 2 if exercise.check else 1
        elif piece.kind == "code" and _has_picture(piece.cell):
            yield from _told(section.title, "Look", [piece], run[at + 1 : at + 2], folder)
            at += 1
        else:
            at += 1


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


def _told(title: str, kind: str, run: list[outline.Piece], after: list[outline.Piece], folder: str) -> Iterator[Slide]:
    """Cells and the sentences that are read out after them, on as many slides as they fill."""
    parts = [part for piece in run for part in _parts(piece.cell, folder)]
    if after and after[0].kind == "prose":
        parts.append((len(after[0].text) / 75 + 1, pages.prose(after[0].text)))
    on_this, filled = [], 0.0
    for size, part in parts:
        if on_this and filled + size > FULL:
            yield Slide(title, kind, Html("".join(on_this)))
            on_this, filled = [], 0.0
        on_this.append(part)
        filled += size
    yield Slide(title, kind, Html("".join(on_this)))


def _parts(cell: NotebookNode, folder: str) -> Iterator[tuple[float, Html]]:
    """A cell's code, where slides show it, and each of its outputs, with about how many lines each takes there."""
    from nbformat import from_dict

    lines = cell.source.count("\n") + 2
    if not cell.outputs or not (_has_picture(cell) or lines > LINES):
        yield lines, pages.body([_without_outputs(cell)], folder)
    for output in cell.outputs:
        shown = from_dict(cell)
        shown.outputs, shown.metadata["transient"] = [output], {"remove_source": True}
        data = output.get("data", {})
        said = output.get("text", "") or data.get("text/plain", "")
        size = PICTURE if "image/png" in data else 1.4 * data.get("text/html", "").count("<tr") or said.count("\n") + 1
        yield size, pages.body([shown], folder)
