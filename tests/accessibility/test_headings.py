"""Headings in order: one title, first; no level skipped on the way down. So a reader can walk through them by ear."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted(ROOT.glob("*.md"))]
HEADING = re.compile(r"^(#{1,6})[ \t]+(.*)$|<h([1-6])\b[^>]*>([\s\S]*?)</h\3>", re.MULTILINE)


def text_of(path: Path) -> str:
    """What a reader sees of a page: its Markdown, and the HTML of its outputs, without code."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            parts += ["".join(output.get("data", {}).get(kind, "")) for kind in ("text/html", "text/markdown")]
    return "\n\n".join(parts)


def headings(text: str) -> list[tuple[int, str]]:
    """(level, words) of each heading, in order; fenced and indented code has none."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(m[1]) if m[1] else int(m[3]), (m[2] or m[4] or "").strip()) for m in HEADING.finditer(text)]


def disorder(found: list[tuple[int, str]]) -> list[str]:
    """What is wrong with a page's headings, one sentence each."""
    if not found or found[0][0] != 1:
        return ["it does not begin with a title"]
    wrong = [f"a second title: {words}" for level, words in found[1:] if level == 1]
    for (before, _), (level, words) in zip(found, found[1:], strict=False):
        if level > before + 1:
            wrong.append(f"from level {before} to {level}: {words}")
    return wrong + ["an empty heading" for _, words in found if not words]


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_headings_are_in_order(path):
    assert disorder(headings(text_of(path))) == []


def test_there_is_something_to_test():
    names = {path.name for path in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "00_start_here.ipynb"} <= names
    assert len(headings(text_of(ROOT / "notebooks" / "00_start_here.ipynb"))) > 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# A\n## B\n### C\n## D\n### E", []),
        ("# A\n```\n# no heading\n```\n## B", []),
        ("## A\n# B", ["it does not begin with a title"]),
        ("# A\n# B", ["a second title: B"]),
        ("# A\n### B", ["from level 1 to 3: B"]),
        ("# A\n## B\n<h4 class='x'>C</h4>", ["from level 2 to 4: C"]),
        ("# A\n##  \n", ["an empty heading"]),
        ("words", ["it does not begin with a title"]),
    ],
)
def test_disorder_is_named(text, says):
    assert disorder(headings(text)) == says
