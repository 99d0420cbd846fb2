"""The notebooks as committed: rendered from these very sources, in order, and shaped as the course's lessons are.

That they run, and that what they assert holds, is tested by nbval: pytest collects notebooks/ itself.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import nbformat
import pytest

from lora_lab import render

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 25  # lines of code


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def cells(notebook, kind):
    """Without the cell that fetches the course where it is not installed: the same in every lesson."""
    return [c for c in notebook.cells if c.cell_type == kind and "setup" not in c.metadata.get("tags", [])]


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_there_are_notebooks():
    assert "00_start_here" in [path.stem for path in NOTEBOOKS]


def test_committed_as_rendered(path):
    assert render.check(path) == []


def test_every_code_cell_is_short_and_every_run_is_read_out(notebook):
    code, prose = cells(notebook, "code"), cells(notebook, "markdown")
    sizes = [len(lines(cell)) for cell in code]
    assert max(sizes) <= LONGEST_CELL
    assert 3 <= statistics.median(sizes) <= 6
    assert 1.0 <= len(prose) / len(code) <= 1.6


def test_it_begins_with_what_it_gives_and_asks_and_ends_with_five_lines_and_an_interview(path, notebook):
    first = cells(notebook, "markdown")[0].source
    assert first.startswith(f"# {path.stem[:2]} ")
    assert re.search(r"\d+\W*minutes|minutes\W*\d+", first, re.IGNORECASE) and "needs" in first.lower()
    headings = re.findall(r"^## (.+)$", "\n".join(cell.source for cell in cells(notebook, "markdown")), re.MULTILINE)
    assert headings[-2:-1] == ["In five lines"] and "interview" in headings[-1]


def test_there_is_a_figure_and_a_guess(notebook):
    data = [set(output.get("data", {})) for cell in cells(notebook, "code") for output in cell.outputs]
    assert any("image/png" in kinds for kinds in data)
    assert any("guess" in cell.source.lower() for cell in cells(notebook, "markdown"))


def test_nothing_is_kept_from_the_test_run(notebook):
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    assert not tags & {"nbval-skip", "nbval-ignore-output"}


def test_no_key_pressed_on_a_slider_deletes_its_cell(notebook):
    explorers = [cell for cell in cells(notebook, "code") if re.search(r"explorers\.\w+\(|chooser\(", cell.source)]
    assert [cell.source for cell in explorers if cell.metadata.get("deletable") is not False] == []


def test_links_lead_somewhere(path, notebook):
    for cell in cells(notebook, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)", cell.source) + re.findall(r"(?:src|href)=\"([^\"]+)\"", cell.source):
            if not re.match(r"https?://|#|attachment:", target):
                assert (path.parent / target.split("#")[0]).exists(), target


def test_no_address_is_loaded_when_it_is_read(notebook):
    for cell in notebook.cells:
        html = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        loaded = re.findall(r"(?:src=[\"']|!\[[^\]]*\]\()(https?://\S+)", cell.source + "".join(html))
        assert loaded == []
