"""Homework for a class: each student's notebook has numbers of its own, so that an answer cannot be copied.

The numbers come from the class's secret seed and the student's name. The seed stands in class.json, which stays with
the teacher; a notebook holds the questions alone.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_lab import exercises
from lora_lab.classroom import handouts, outline
from lora_lab.interview import drills

if TYPE_CHECKING:
    from nbformat import NotebookNode

DRILLS = ("count", "gqa", "share", "scaling", "file", "budget")
EXERCISES = 3  # unless others are named
FORMAT = 1


def make_class(
    students: Sequence[str],
    seed: str | None = None,
    kinds: Sequence[str] = DRILLS,
    tasks: Sequence[outline.Posed] = (),
) -> dict[str, Any]:
    """What class.json holds: the seed, the students, the drills of each, and the exercises of all.

    The same seed and student give the same drills whenever this is called, as long as the students before them in the
    list stay the same: no two get the same answer while there is another to be had. Raises ValueError for a student
    named twice, for names that would share a file, and for a kind of drill or an exercise that there is not.
    """
    seed = str(seed) if seed is not None else secrets.token_hex(8)
    files: dict[str, str] = {}
    for student in students:
        name = file_name(student)
        if name.casefold() in files:  # on Windows and macOS Ada.ipynb and ADA.ipynb are one file
            both = f"{files[name.casefold()]!r} and {student!r}"
            raise ValueError(f"two students would share the file {name}: {both}; add a letter or a number to one")
        files[name.casefold()] = student
    if not students:
        raise ValueError("a class needs students: give --students FILE or --seats N")
    taken: dict[str, set[Any]] = {kind: set() for kind in kinds}
    entries = {}
    for student in students:
        entries[student] = {"file": file_name(student), "drills": []}
        for number, kind in enumerate(kinds, start=1):
            for again in range(100):
                drill = drills.make(kind, f"{seed} {student} {number} {again}")
                if drill.answer not in taken[kind]:
                    break
            taken[kind].add(drill.answer)
            entries[student]["drills"].append({"id": f"question-{number}", "kind": kind, "seed": drill.seed})
    posed = [{"name": task.name, "answer": task.answer, "binds": sorted(binds(task.stub.source))} for task in tasks]
    return {"format": FORMAT, "seed": seed, "students": entries, "exercises": posed}


def file_name(student: str) -> str:
    """The file of a student's homework: their name in letters and digits. Raises ValueError where it has none."""
    stem = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", student)).strip("._")[:60]
    if not stem:
        raise ValueError(f"no file can be named after {student!r}: use letters or digits")
    return f"{stem}.ipynb"


def choose(lessons: Sequence[outline.Lesson], names: Sequence[str] = ()) -> list[outline.Posed]:
    """The exercises of a homework: those named, or the most important of these lessons, from as many as there are.

    Raises ValueError for a name that none of the lessons poses.
    """
    posed = {task.name: task for lesson in lessons for task in lesson.exercises if task.name and task.answer}
    unknown = [name for name in names if name not in posed]
    if unknown:
        raise ValueError(f"no exercise {unknown[0]!r} in these lessons: they have {', '.join(posed) or 'none'}")
    if names:
        return [posed[name] for name in names]
    first = []  # of each lesson its most important, then of each its second, and so on
    for lesson in lessons:
        known = [task for task in lesson.exercises if task.name in exercises.every() and task.name in posed]
        known.sort(key=lambda task: -exercises.find(task.name).importance)
        first += enumerate(known)
    first.sort(key=lambda pair: pair[0])
    return [task for _, task in first[:EXERCISES]]


def notebook(made: dict[str, Any], student: str, tasks: Iterable[tuple[outline.Lesson, outline.Posed]]) -> NotebookNode:
    """A student's homework; `tasks` are the class's exercises with the lessons that they come from."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    def add(cell: NotebookNode) -> None:
        cell.id = f"homework-{len(cells):03}"
        cells.append(cell)

    cells: list[NotebookNode] = []
    add(new_markdown_cell(HEAD.format(student=re.sub(r"([\\`*_<>\[\]$&])", r"\\\1", student))))
    for number, entry in enumerate(made["students"][student]["drills"], start=1):
        drill = drills.make(entry["kind"], entry["seed"])
        add(new_markdown_cell(f"## Question {number}: {drills.KINDS[drill.kind]} (1 point)\n\n{drill.text}"))
        metadata = {"tags": ["drill"], "lora_lab": {"drill": entry["id"]}}
        add(new_code_cell(f"{answer_name(entry['id'])} = ...", metadata=metadata))
    for number, (lesson, task) in enumerate(tasks, start=1):
        worth = handouts.points(task.name)
        heading = f"## Exercise {number}: {task.title} ({worth} {'point' if worth == 1 else 'points'})"
        add(new_markdown_cell(f"{heading}\n\n{_where(lesson, task)}\n\n{task.task}"))
        before = needed(lesson, task)
        if before:
            add(new_code_cell(before))
        metadata = {"tags": ["exercise"], "lora_lab": {"exercise": task.name}}
        add(new_code_cell(task.stub.source, metadata=metadata))
        add(new_code_cell(f'from lora_lab import practice\n\npractice.check("{task.name}", {task.answer})'))
    metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "lora_lab": {"student": student},
    }
    return new_notebook(cells=cells, metadata=metadata)


def _where(lesson: outline.Lesson, task: outline.Posed) -> str:
    """A sentence that says where an exercise comes from: its text may lean on what stands there."""
    section = next((s.title for s in lesson.sections if any(p.stub is task.stub for p in s.exercises)), "")
    return f"From lesson {lesson.number}, {lesson.title}: read *{section}* there first."


HEAD = """# Homework: {student}

The numbers in the questions are yours alone: a neighbour's answers are wrong here. Put each answer in place of the
three dots, a number or a sum that Python works out. Hand this file in under the name that it has.

When it is marked, only imports, functions, classes and the cells with the three dots are run. So what an answer needs
must stand in its own cell, or in a function."""


def answer_name(drill_id: str) -> str:
    """The name that a drill's answer is put in: question-3 goes into answer_3."""
    return drill_id.replace("question-", "answer_")


def binds(source: str) -> set[str]:
    """The names that a cell's top level defines or assigns; none when it cannot be read."""
    try:
        body = outline.statements(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return set().union(*map(outline.bound, body))


def needed(lesson: outline.Lesson, task: outline.Posed) -> str:
    """The lesson's imports, functions and classes that an exercise's stub, check or solution uses, as one cell."""
    defined: dict[str, str] = {}
    for cell in lesson.notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", []):
            for node in outline.statements(cell.source):
                if isinstance(node, outline.DEFINES):
                    text = ast.get_source_segment(cell.source, node) or ast.unparse(node)
                    marks = [f"@{ast.unparse(mark)}\n" for mark in getattr(node, "decorator_list", ())]
                    defined.update(dict.fromkeys(binds(ast.unparse(node)), "".join(marks) + text))
    code = "\n".join(re.findall(r"```python\n(.*?)```", task.solution, re.DOTALL))
    wanted, found = used(task.stub.source) | used(code), []
    own = binds(task.stub.source) | set(dir(builtins))
    while wanted := {name for name in wanted - own if name in defined and defined[name] not in found}:
        texts = list(dict.fromkeys(text for name, text in defined.items() if name in wanted))
        found = [*texts, *found]
        wanted = set().union(*map(used, texts))
    imports = [text for text in found if text.startswith(("import ", "from "))]
    others = [text for text in found if text not in imports]
    return "\n\n\n".join(["\n".join(dict.fromkeys(imports)), *dict.fromkeys(others)]).strip()


def used(source: str) -> set[str]:
    """Every name that code reads."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def key(made: dict[str, Any]) -> str:
    """The answers to every student's questions, and the mistakes to expect, as Markdown for the teacher."""
    kinds = [entry["kind"] for entry in next(iter(made["students"].values()))["drills"]]
    lines = ["# Homework: the answers", "", "| student | " + " | ".join(drills.KINDS[kind] for kind in kinds) + " |"]
    lines.append("|---" * (len(kinds) + 1) + "|")
    for student, entry in made["students"].items():
        answers = [drills.make(item["kind"], item["seed"]) for item in entry["drills"]]
        shown = [drills.said(drill.answer, drill.unit) for drill in answers]
        lines.append(f"| {student.replace('|', '/')} | " + " | ".join(shown) + " |")
    for kind in kinds:
        lines += ["", f"## {drills.KINDS[kind].capitalize()} (1 point)", "", "Expected wrong answers:", ""]
        lines += [f"- {name}: {drills.HINTS[name]}" for name in drills.make(kind, "key").mistakes]
        lines += ["", "The sum, for one of these questions:", "", drills.make(kind, "key").solution]
    return "\n".join(lines) + "\n"


def load(path: Path) -> dict[str, Any]:
    """A class.json. Raises ValueError, with a sentence, for a file that is none."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        if made["format"] != FORMAT:
            raise ValueError(f"{path} has format {made['format']}; this version reads {FORMAT}")
        for entry in made["students"].values():
            for item in entry["drills"]:
                drills.make(item["kind"], item["seed"])
        for task in made["exercises"]:
            exercises.find(task["name"])
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}: `python -m lora_lab classroom --out DIR` writes DIR/class.json"
        ) from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise ValueError(f"{path} is no class.json of this course") from None
    return made
