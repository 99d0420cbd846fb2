"""A lesson taken apart: its minutes, its sections, and in each the guesses, the exercises and what is read out.

Slides, plans, handouts and homework are all made from this one reading of the notebooks, so that they follow a lesson
when it changes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab import reading_time

if TYPE_CHECKING:
    from nbformat import NotebookNode

GUESS = re.compile(r"\*\*Guess(?: first)?[.:]\*\*")  # not the sentence in a lesson's head that says what it means
WORDS_A_MINUTE = 130  # prose with mathematics in it, read with care
MINUTES_A_GUESS = 1.0  # think, vote, look
CLOSING = re.compile(r"In five lines|(?:What to say )?[Ii]n an interview")
HEADING = re.compile(r"(#{1,6})\s+(.+)")
DETAILS = re.compile(r"<details[^>]*>\s*<summary>(?P<summary>.*?)</summary>(?P<body>.*?)</details>", re.DOTALL)
# The statements that a notebook may always run: they compute nothing.
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MAGIC = re.compile(r"^(\s*)[%!?]", re.MULTILINE)
QUIZ = re.compile(r"""practice\.quiz\(\s*["'](\d\d)["']""")
CHECK = re.compile(r"""practice\.check\(\s*["'](\w+)["']""")


@dataclass
class Piece:
    """A run of a lesson that is one thing: kind is "heading", "guess", "prose", "details" or "code".

    `text` is Markdown or code; `level` is a heading's; `summary` is what a fold shows while it is closed.
    """

    kind: str
    text: str
    cell: NotebookNode
    level: int = 0
    summary: str = ""


@dataclass
class Posed:
    """An exercise as its lesson poses it. `name` is the registry's, "" where the lesson gives none."""

    name: str
    title: str
    minutes: int
    task: str  # Markdown, without its heading
    stub: NotebookNode
    check: NotebookNode | None
    folds: list[Piece]  # hints and the solution
    answer: str = ""  # the expression that the lesson hands to practice.check

    @property
    def solution(self) -> str:
        """The folded solution: Markdown with the code in it, or "" where there is none."""
        return "\n\n".join(fold.text for fold in self.folds if "olution" in fold.summary)


@dataclass
class Section:
    """What stands under one `##` heading. `minutes` are for reading and guessing, without the exercises."""

    title: str
    pieces: list[Piece] = field(default_factory=list)
    exercises: list[Posed] = field(default_factory=list)
    minutes: int = 0

    @property
    def guesses(self) -> list[str]:
        return [piece.text for piece in self.pieces if piece.kind == "guess"]

    @property
    def quizzes(self) -> list[str]:
        """The lessons ("04") whose quiz it asks."""
        return [n for piece in self.pieces if piece.kind == "code" for n in QUIZ.findall(piece.text)]

    @property
    def closing(self) -> bool:
        return bool(CLOSING.search(self.title))


@dataclass
class Lesson:
    """A lesson's number ("04"), title, notebook, sections, and minutes: reading, then exercises, as its header says."""

    number: str
    title: str
    path: Path
    notebook: NotebookNode
    opening: list[Piece]
    sections: list[Section]
    minutes: int

    @property
    def exercises(self) -> list[Posed]:
        return [posed for section in self.sections for posed in section.exercises]


def pieces(cells: list[NotebookNode]) -> Iterator[Piece]:
    """The cells as pieces, in order: a Markdown cell is cut at headings, folds and guesses."""
    for cell in cells:
        if cell.cell_type == "code":
            yield Piece("code", cell.source, cell)
        elif cell.cell_type == "markdown":
            yield from _markdown(cell)


def _markdown(cell: NotebookNode) -> Iterator[Piece]:
    at = 0
    for fold in [*DETAILS.finditer(cell.source), None]:
        between = cell.source[at : fold.start() if fold else None]
        for block in _blocks(between):
            heading = HEADING.fullmatch(block)
            if heading:
                yield Piece("heading", heading[2].strip(), cell, level=len(heading[1]))
            else:
                yield Piece("guess" if GUESS.search(block) else "prose", block, cell)
        if fold:
            summary = re.sub(r"<[^>]+>", "", fold["summary"]).strip()
            yield Piece("details", fold["body"].strip(), cell, summary=summary)
            at = fold.end()


def _blocks(text: str) -> Iterator[str]:
    """Headings and paragraphs; a fenced block of code stays whole."""
    block: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        if line.startswith("```"):
            fenced = not fenced
        heading = not fenced and HEADING.fullmatch(line)
        if (heading or not line.strip()) and not fenced:
            if block:
                yield "\n".join(block)
            block = []
        if heading:
            yield line
        elif line.strip() or fenced:
            block.append(line)
    if block:
        yield "\n".join(block)


def read(path: Path | str) -> Lesson:
    """The lesson in a notebook's file."""
    import nbformat

    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    title, opening, sections = path.stem, [], []
    for piece in pieces(notebook.cells):
        if piece.kind == "heading" and piece.level == 1:
            title = re.sub(r"^\d\d\s+", "", piece.text)
        elif piece.kind == "heading" and piece.level == 2:
            sections.append(Section(piece.text))
        else:
            (sections[-1].pieces if sections else opening).append(piece)
    for section in sections:
        section.exercises = list(_exercises(section.pieces))
    lesson = Lesson(path.stem[:2], title, path, notebook, opening, sections, 0)
    _time(lesson, " ".join(piece.text for piece in opening))
    return lesson


def _exercises(run: list[Piece]) -> Iterator[Posed]:
    """The exercises of a section: a cell tagged "exercise", what poses it above, its check and its folds below."""
    for at, piece in enumerate(run):
        if piece.kind != "code" or "exercise" not in piece.cell.metadata.get("tags", []):
            continue
        above = at - 1
        while above > 0 and run[above].kind != "heading" and run[above].kind != "code":
            above -= 1
        posing = run[above] if run[above].kind == "heading" else None
        below = at + 1
        check = run[below] if below < len(run) and run[below].kind == "code" else None
        below += check is not None
        folds = []
        while below < len(run) and run[below].kind == "details":
            folds.append(run[below])
            below += 1
        named = CHECK.search(check.text) if check else None
        name = piece.cell.metadata.get("lora_lab", {}).get("exercise") or (named[1] if named else "")
        posed = [p.text for p in run[above + (run[above].kind in ("heading", "code")) : at]]
        heading = posing.text if posing else ""
        minutes = re.search(r"(\d+) minutes", " ".join([heading, *posed]))
        task = "\n\n".join(text for text in posed if not text.startswith("*difficulty"))
        title = re.sub(r"^Exercise \d+:\s*|\s*\([●○].*\)$", "", heading)
        answer = _answer(check.text, name) if check else ""
        yield Posed(
            name, title, int(minutes[1]) if minutes else 5, task, piece.cell, check and check.cell, folds, answer
        )


def statements(source: str) -> list[ast.stmt]:
    """The statements of a cell; IPython's own commands (%time, !ls) are left out. Raises SyntaxError for no Python."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        return ast.parse(MAGIC.sub(r"\1#", source)).body


def bound(node: ast.stmt) -> set[str]:
    """The names that a statement defines, imports or assigns."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _answer(check: str, name: str) -> str:
    """The second argument of `practice.check(name, ...)` in a check's cell, as it is written.

    "" where there is none, and where the check is given more: such an exercise needs the lesson around it.
    """
    try:
        calls = [node for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return ""
    for call in calls:
        words = [ast.unparse(part) for part in (call.func, *call.args)]
        if len(words) == 3 and words[:2] == ["practice.check", repr(name)] and not call.keywords:
            return words[2]
    return ""


def _time(lesson: Lesson, header: str) -> None:
    """Share the header's minutes out over the sections, by their words and guesses; whole minutes, none lost."""
    try:
        total, more = reading_time.said(header)
    except ValueError:  # no line with its minutes: what reading it takes
        total, more = max(1, round(sum(map(_weight, lesson.sections)))), 1
    exercises = sum(posed.minutes for posed in lesson.exercises)
    lesson.minutes = total if more else max(total - exercises, total // 2)
    weights = [_weight(section) for section in lesson.sections]
    least = 1 if lesson.minutes >= len(weights) else 0
    exact = [least + (lesson.minutes - least * len(weights)) * weight / (sum(weights) or 1) for weight in weights]
    for section, share in zip(lesson.sections, exact, strict=True):
        section.minutes = int(share)
    left = lesson.minutes - sum(section.minutes for section in lesson.sections)
    by_rest = sorted(zip(exact, lesson.sections, strict=True), key=lambda pair: int(pair[0]) - pair[0])
    for _, section in by_rest[:left]:
        section.minutes += 1


def _weight(section: Section) -> float:
    """Minutes that a section would take by itself: words read, and guesses made."""
    ours = {id(posed.stub) for posed in section.exercises} | {id(posed.check) for posed in section.exercises}
    words = sum(len(p.text.split()) for p in section.pieces if p.kind != "details" and id(p.cell) not in ours)
    asked = sum(piece.kind == "details" for piece in section.pieces) if section.closing else 0
    return words / WORDS_A_MINUTE + MINUTES_A_GUESS * (len(section.guesses) + asked)
