"""A lesson for the class, without what gives answers away, and for the teacher, with all that helps to teach it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_lab import exercises, quizzes
from lora_lab.classroom import outline

if TYPE_CHECKING:
    from nbformat import NotebookNode


def handout(lesson: outline.Lesson) -> NotebookNode:
    """The lesson without solutions, hints, and any output that answers a guess, an exercise or a quiz.

    A guess is open until a cell that is no explorer has shown something, or a heading comes: its answer may stand two
    cells further down. Of the interview's questions the answers go and the questions stay. The lesson's own sentences
    stay too, and the first one after a guess reads its answer out.
    """
    from nbformat import from_dict

    made, section, guessed, answered = from_dict(lesson.notebook), "", False, False
    cells = []
    for cell in made.cells:
        if cell.cell_type == "markdown":
            closes = answered and not cell.source.rstrip().endswith(":")
            if outline.GUESS.search(cell.source):
                guessed, answered = True, False
            elif closes or re.search(r"^#{1,6} ", cell.source, re.MULTILINE):
                guessed = False
            cell.source, section = _unfold(cell.source, section)
            if not cell.source.strip():
                continue
        elif cell.cell_type == "code":
            about = "exercise" in cell.metadata.get("tags", []) or "practice." in cell.source
            if guessed or about:
                answered = answered or (bool(cell.outputs) and "explorers." not in cell.source)
                cell.outputs, cell.execution_count = [], None
        cells.append(cell)
    made.cells = cells
    made.metadata.pop("lora_lab", None)  # the hash of the lesson's sources is not this notebook's
    return made


def _unfold(source: str, section: str) -> tuple[str, str]:
    """A Markdown cell without its folds, and the `##` heading that holds at its end."""
    parts, at = [], 0
    for fold in [*outline.DETAILS.finditer(source), None]:
        between = source[at : fold.start() if fold else None]
        section = (re.findall(r"^## (.+)$", between, re.MULTILINE) or [section])[-1]
        parts.append(between.strip())
        if fold:
            at = fold.end()
            if outline.CLOSING.search(section):
                parts.append("- " + re.sub(r"<[^>]+>", "", fold["summary"]).strip())
    text = "\n\n".join(part for part in parts if part)
    return text.replace("Answer aloud, then open.", "Answer aloud."), section


def instructor_copy(lesson: outline.Lesson) -> NotebookNode:
    """The lesson with its outputs, every fold open, minutes by section, what to expect of exercises, quiz answers."""
    from nbformat import from_dict
    from nbformat.v4 import new_markdown_cell

    made = from_dict(lesson.notebook)
    posed = {exercise.stub.id: exercise for exercise in lesson.exercises}
    cells, waiting = [], None
    for number, cell in enumerate(made.cells):
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("<details>", "<details open>")
            if waiting and "</details>" in cell.source:  # below the solution, above whatever comes after it
                head, fold, tail = cell.source.rpartition("</details>")
                if outline.HEADING.search(head):
                    head, fold, tail = cell.source.partition("</details>")
                cell.source = f"{head}{fold}\n\n{notes(waiting)}\n{tail}"
                waiting = None
        elif cell.get("id") in posed:
            waiting = posed[cell.id]
        cells.append(cell)
        if cell.cell_type == "code" and "practice.quiz(" in cell.source and lesson.number in quizzes.lessons():
            cells.append(new_markdown_cell(quiz(lesson.number), id="instructor-quiz"))
        if number == 0:
            cells.append(new_markdown_cell(timing(lesson), id="instructor-timing"))
    if waiting:
        cells.append(new_markdown_cell(notes(waiting), id="instructor-notes"))
    made.cells = cells
    made.metadata.pop("lora_lab", None)
    return made


def quiz(number: str) -> str:
    """The answers of a lesson's quiz, with the reason, as a block quote of Markdown."""
    lines = ["**For the instructor: the quiz.**", ""]
    for question in quizzes.of(number):
        right = next(option for option in question.options if option.right)
        lines.append(f"- {question.ask} **{question.right}: {right.text}.** {right.say}")
    return "\n".join(f"> {line}".rstrip() for line in lines)


def timing(lesson: outline.Lesson) -> str:
    """A table of Markdown: each section's minutes, guesses and exercises, and their sums."""
    lines = ["**For the instructor: minutes.**", "", "| section | minutes | guesses | exercises (minutes) |"]
    lines.append("|---|---|---|---|")
    for section in lesson.sections:
        tasks = ", ".join(f"{posed.title} ({minutes(posed)})" for posed in section.exercises)
        lines.append(f"| {section.title} | {section.minutes} | {len(section.guesses) or ''} | {tasks} |")
    doing = sum(map(minutes, lesson.exercises))
    lines.append(f"| **together** | **{lesson.minutes}** | | **{doing}** |")
    return "\n".join(lines)


def minutes(posed: outline.Posed) -> int:
    """An exercise's minutes, from the registry where it is in it."""
    entry = exercises.every().get(posed.name)
    return entry.minutes if entry else posed.minutes


def points(name: str) -> int:
    """What an exercise is worth: its difficulty, 1 to 3."""
    return exercises.find(name).difficulty


def notes(posed: outline.Posed) -> str:
    """Points, rubric, expected wrong answers and hints of an exercise, as a block quote of Markdown."""
    entry = exercises.every().get(posed.name)
    if entry is None:
        return "> **For the instructor.** This exercise is not in the registry: there is nothing to mark it by."
    lines = [
        f"**For the instructor: {entry.title}.** `{entry.name}`, {entry.minutes} minutes, "
        f"importance {entry.importance} of 3, {entry.difficulty} {'point' if entry.difficulty == 1 else 'points'}.",
        "",
        "Rubric: all points when `practice.check` says Right; none otherwise. By hand: half for an answer with one of "
        "the faults below whose writer can say which.",
        "",
        "Expected wrong answers:",
        "",
        *[f"- {wrong}" for wrong in entry.expect],
        "",
        "Hints that the learner can ask for:",
        "",
        *[f"- {hint}" for hint in entry.hints],
    ]
    return "\n".join(f"> {line}".rstrip() for line in lines)
