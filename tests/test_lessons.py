"""The map of the course: a written lesson is linked to its notebook, others are "coming", in README as in lesson 00."""

from __future__ import annotations

import re
from pathlib import Path

from lora_lab import lessons

ROOT = Path(__file__).parent.parent


def test_a_lesson_is_linked_exactly_when_its_notebook_is_there(tmp_path):
    (tmp_path / "03_lora_from_scratch.ipynb").touch()
    lines = lessons.course_map(tmp_path, link="notebooks/").splitlines()[2:]
    assert len(lines) == len(lessons.LESSONS) == 13
    assert "[LoRA from scratch](notebooks/03_lora_from_scratch.ipynb)" in lines[3]
    assert all("(coming)" in line and "](" not in line for i, line in enumerate(lines) if i != 3)


def test_every_notebook_is_a_lesson_of_the_list():
    assert {p.name[:2] for p in (ROOT / "notebooks").glob("*.ipynb")} <= {number for number, _, _ in lessons.LESSONS}


def test_readme_has_the_same_map_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in lessons.course_map(ROOT / "notebooks", link="notebooks/").splitlines()[2:]:
        assert line in readme
    for target in re.findall(r"\]\(((?:notebooks|figures)/[^)]+)\)", readme):
        assert (ROOT / target).is_file(), target
