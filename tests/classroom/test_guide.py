"""INSTRUCTORS.md: its commands run, or say that they were not tried, and it says what must not be left out."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from lora_lab.__main__ import main
from lora_lab.render import MACHINE_PATH

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
TRIED = [line for line in COMMANDS if not line.endswith("# not tried")]


def test_every_command_is_one_that_runs_here_or_says_that_it_was_not_tried():
    assert [line.split()[:4] for line in TRIED] == [
        ["python", "-m", "lora_lab", name] for name in ("classroom", "mark")
    ]
    assert len(COMMANDS) - len(TRIED) >= 5
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}


def test_the_commands_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("Ada\nBo\n", encoding="utf-8")
    for line in TRIED:
        if " mark " in line:
            shutil.copytree("kit/homework", "handed-in")
        assert main(line.split()[3:]) == 0, line
    said = capsys.readouterr().out
    assert "2 lessons and 2 students: kit" in said and "2 submissions, 2 students: marks.csv" in said
    rows = Path("marks.csv").read_text(encoding="utf-8-sig").splitlines()
    assert Path("marks.csv").read_bytes()[:3] == b"\xef\xbb\xbf", "Excel reads names with accents"
    assert rows[0] == "student,item,points,out of,message" and sum(",total,0," in row for row in rows) == 2
    named = re.findall(r"^\| `(\S+)` \|", GUIDE, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in Path("kit").iterdir())
    for length in (50, 90, 180):
        assert Path(f"kit/instructor/INSTRUCTOR_PLAN_{length}.md").exists()
    assert not Path("lora_lab_progress.json").exists(), "marking keeps out of the learners' progress"


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_the_code_runs(block):
    exec(compile(block, "INSTRUCTORS.md", "exec"), {})


def test_what_binder_needs_is_there():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert wanted == ">=3.11,<3.15"
    version = re.fullmatch(r"python-3\.(\d+)\n", (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8"))
    assert 11 <= int(version[1]) < 15
    assert (ROOT / "requirements.txt").exists() and (ROOT / ".binder" / "postBuild").exists()


@pytest.mark.parametrize(
    "words",
    [
        "It is no sandbox",
        "not tried on a real Binder",
        "Nothing here was tried on a real JupyterHub",
        "On Windows there is no limit on memory",
        "--no-index --find-links wheelhouse",
        "lora_lab_progress.json",
    ],
)
def test_the_guide_says(words):
    assert words in " ".join(GUIDE.split())


def test_the_guide_is_two_pages_and_names_no_machine():
    assert len(GUIDE.split()) < 1300
    assert not MACHINE_PATH.search(GUIDE)
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert (ROOT / target).exists()
