"""The first code cell of every lesson: the same text everywhere, silent where the course is installed."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = (Path(__file__).parent / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_lesson_begins_with_it(path):
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert first.source == SOURCE, "edit tests/elsewhere/setup_cell.py and every notebook alike"
    assert (first.id, first.metadata["tags"]) == (f"lesson{path.stem[:2]}-setup", ["setup"])
    assert cells.index(first) == 1 and first.outputs == []


def test_where_the_course_is_installed_it_does_nothing():
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(SOURCE, names)
    assert out.getvalue() == "" and set(names) == {"__builtins__", "find_spec"}
