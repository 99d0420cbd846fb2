"""Exercises in the lessons: the stub runs as it is, the folded solution passes its check, the heading says what it is.

Only what an exercise may use is run: the lesson's imports, functions and classes, and the exercise's own cells. That is
also what the classroom's marker runs. The wrong answers are in tests/mutants.
"""

from __future__ import annotations

import ast
import contextlib
import re
from pathlib import Path

import nbformat
import pytest

from lora_lab import exercises, progress, quizzes
from lora_lab.classroom import outline

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution.*?</summary>.*?```python\n(.*?)```", re.DOTALL)
KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def exercises_of(cells):
    """Position of the stub, name and solution of each exercise, in order."""
    found = []
    for at, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            below = "\n".join(c.source for c in cells[at + 1 : at + 5] if c.cell_type == "markdown")
            solution = SOLUTION.search(below)
            assert solution, f"no folded solution under the stub {cell.source!r}"
            found.append((at, cell.metadata.get("lora_lab", {}).get("exercise"), solution.group(1)))
    return found


def definitions(cells):
    """The imports, functions and classes of a lesson, without what it computes, each compiled by itself."""
    code = [cell.source for cell in cells if cell.cell_type == "code" and "exercise" not in tags(cell)]
    for node in (node for source in code for node in outline.statements(source) if isinstance(node, KEPT)):
        yield compile(ast.Module([node], type_ignores=[]), "lesson", "exec")


def tags(cell):
    return cell.metadata.get("tags", [])


LESSONS = {path.stem: nbformat.read(path, as_version=4).cells for path in NOTEBOOKS}
WITH_EXERCISES = [name for name, cells in LESSONS.items() if any("exercise" in tags(cell) for cell in cells)]


def test_every_exercise_stands_in_its_lesson_once():
    placed = [(name[:2], task) for name, cells in LESSONS.items() for _, task, _ in exercises_of(cells)]
    assert sorted(placed) == sorted((task.lesson, task.name) for task in exercises.every().values())


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_stubs_run_and_solutions_pass(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "mine.json"))
    cells = LESSONS[name]
    names = {"__name__": "lesson"}
    for definition in definitions(cells):
        with contextlib.suppress(NameError):  # a default that the lesson computes
            exec(definition, names)
    for at, task, solution in exercises_of(cells):
        check = next(cell.source for cell in cells[at + 1 :] if cell.cell_type == "code")
        assert f'practice.check("{task}"' in check
        assert re.search(r"^assert ", solution, re.MULTILINE), f"{task}: the solution asserts nothing"
        for answer, says in ((cells[at].source, "not yet: "), (solution, "Right.")):
            exec(compile(answer, task, "exec"), names)
            capsys.readouterr()
            exec(compile(check, task, "exec"), names)
            assert capsys.readouterr().out.startswith(says), (task, says)
    assert not (tmp_path / "mine.json").exists() or set(progress.load()) <= set(exercises.every())


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_headings_say_what_the_exercise_is(name):
    cells = LESSONS[name]
    for number, (at, task, _) in enumerate(exercises_of(cells), start=1):
        above = "\n".join(cell.source for cell in cells[max(0, at - 3) : at] if cell.cell_type == "markdown")
        entry = exercises.find(task)
        heading = re.search(rf"^#+ Exercise {number}: (.+)\n\n(.+)$", above, re.MULTILINE)
        assert heading, f"{task}: no heading 'Exercise {number}: ...' with its line below"
        assert heading.groups() == (entry.title, entry.line)
    assert "practice.hint(" in "\n".join(cell.source for cell in cells)


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_closes_with_a_quiz(name):
    cells = LESSONS[name]
    code = [at for at, cell in enumerate(cells) if cell.cell_type == "code"]
    assert f'practice.quiz("{name[:2]}")' in cells[code[-1]].source
    assert name[:2] in quizzes.lessons()
    assert any(cell.source.startswith("## Quiz") for cell in cells)
