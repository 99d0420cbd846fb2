"""The marker: right answers count, a neighbour's do not, and whatever one submission does costs nobody else."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from lora_lab import classroom, whole_file
from lora_lab.__main__ import main
from lora_lab.classroom import homework, marking, marking_worker
from lora_lab.interview import drills
from tests.classroom.conftest import SOLUTION, STUDENTS

SECONDS, ENOUGH = 8, 40  # for what would not end by itself, and for what does, however busy the machine
UNIX = os.name == "posix"


def answered(kit: Path, made: dict, student: str) -> nbformat.NotebookNode:
    """A student's homework with every answer right."""
    notebook = nbformat.read(kit / "homework" / made["students"][student]["file"], as_version=4)
    for cell in notebook.cells:
        about = cell.metadata.get("lora_lab", {})
        if about.get("exercise"):
            cell.source = SOLUTION
        elif about.get("drill"):
            item = next(item for item in made["students"][student]["drills"] if item["id"] == about["drill"])
            cell.source = f"{cell.source.split()[0]} = {drills.make(item['kind'], item['seed']).answer!r}"
    return notebook


def answer_cell(notebook, drill="question-2"):
    return next(cell for cell in notebook.cells if cell.metadata.get("lora_lab", {}).get("drill") == drill)


def by_item(rows, student):
    return {row[1]: row for row in rows if row[0] == student}


def load(kit):
    return homework.load(kit / "class.json")


def submit(notebook, student, name=None, content=None) -> marking.Submission:
    content = nbformat.writes(notebook).encode() if content is None else content
    return marking.Submission(name or homework.file_name(student), content, student)


def marked(kit, notebook, seconds=ENOUGH, memory_mb=2048, student="Bo"):
    entry = submit(notebook, student)
    rows = list(marking.mark(load(kit), entry, seconds, memory_mb))
    return {row[1]: row for row in rows}, entry


# --- right and wrong --------------------------------------------------------------------------------------------------


def test_a_perfect_submission_an_empty_one_and_a_copied_one(kit, tmp_path, capsys):
    """Through the command: a perfect one, a neighbour's under another name, the untouched homework, and none."""
    made = load(kit)
    perfect = answered(kit, made, "Ada L.")
    nbformat.write(perfect, tmp_path / "Ada_L.ipynb")
    nbformat.write(perfect, tmp_path / "Bo.ipynb")
    (tmp_path / "x_Bo-Li_assignment").mkdir()
    untouched = (kit / "homework" / "Bo-Li.ipynb").read_text(encoding="utf-8")
    (tmp_path / "x_Bo-Li_assignment" / "homework.ipynb").write_text(untouched, encoding="utf-8")
    out = tmp_path / "marks.csv"
    words = ["mark", "--class", str(kit / "class.json"), "--submissions", str(tmp_path), "--out", str(out)]
    assert main(words) == 0
    rows = list(csv.reader(io.StringIO(out.read_text(encoding="utf-8-sig"))))
    assert tuple(rows[0]) == marking.COLUMNS
    ada, bo, li, none = (by_item(rows, student) for student in STUDENTS)
    assert [ada[item][2:4] for item in ("question-1", "question-2", "break_even", "total")] == [["1", "1"]] * 3 + [
        ["3", "3"]
    ]
    assert ada["break_even"][4].startswith("Right") and ada["total"][4] == ""
    assert [bo[item][2] for item in ("question-1", "question-2", "break_even", "total")] == ["0", "0", "1", "1"]
    assert "not yet" in bo["question-1"][4] and "Ada L." in bo["question-1"][4]
    assert bo["total"][4] == "the file holds the homework of Ada L."
    assert [li[item][4] for item in ("question-1", "question-2")] == ["no answer yet"] * 2
    assert li["total"][2:4] == ["0", "3"] and "three dots" in li["break_even"][4]
    assert none == {"total": ["Cé Dé", "total", "0", "3", "nothing handed in"]}
    assert "3 submissions, 4 students" in capsys.readouterr().out


def test_a_usual_mistake_is_named(kit):
    made = load(kit)
    notebook = answered(kit, made, "Bo")
    item = made["students"]["Bo"]["drills"][0]
    name, value = next(iter(drills.make(item["kind"], item["seed"]).mistakes.items()))
    answer_cell(notebook, "question-1").source = f"answer_1 = {value!r}"
    rows, _ = marked(kit, notebook)
    assert rows["question-1"][2] == 0 and name in rows["question-1"][4]


def test_what_an_answer_may_use(kit):
    """Imports, functions and classes from any cell, IPython's commands in none; not what other cells compute."""
    notebook = answered(kit, load(kit), "Bo")
    first = answer_cell(notebook, "question-1")
    right = first.source.split("= ")[1]
    notebook.cells[0] = nbformat.v4.new_code_cell(
        f"%matplotlib inline\n!ls\nimport math\n\ndef mine():\n    return math.sqrt({right}) ** 2\n\nscratch = 1\n1 / 0"
    )
    first.source = "%%time\nanswer_1 = round(mine())"
    answer_cell(notebook).source = "answer_2 = scratch"
    rows, entry = marked(kit, notebook)
    assert rows["question-1"][2] == 1, rows
    assert "NameError" in rows["question-2"][4] and "in its own cell" in rows["question-2"][4]
    assert rows["break_even"][2] == 1 and entry.problem == ""


def test_an_answer_in_a_cell_that_lost_its_tag(kit):
    notebook = answered(kit, load(kit), "Bo")
    for cell in notebook.cells:
        cell.metadata.clear()
    rows, _ = marked(kit, notebook)
    assert [row[2] for row in rows.values()] == [1, 1, 1]


# --- what must cost nobody else ---------------------------------------------------------------------------------------

HOSTILE = {  # what stands in the second question's cell -> what the CSV says there, and whether the others still count
    "raises": ("1 / 0", "ZeroDivisionError", True),
    "sys.exit": ("import sys\nsys.exit('bye')", "SystemExit", True),
    "no python": ("answer_2 = = 3", "SyntaxError", True),
    "hangs": ("while True:\n    pass", "did not end", True),
    "hangs and will not be ended": (
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "it did not end within 3 seconds",
        False,
    ),
    "ends python": ("import os\nos._exit(0)", "ended too early, with exit code 0", False),
    "crashes": ("import ctypes\nctypes.string_at(0)", "ended too early", False),
    "redefines print": ("import builtins\nprint = builtins.print = None\nanswer_2 = 1", "not yet", True),
    "deletes its folder": (
        "import os, shutil\nopen('x', 'w').write('x')\nshutil.rmtree(os.getcwd())\nanswer_2 = 1",
        "not yet",
        True,
    ),
    "prints and prints": (
        "import os, sys\nfor _ in range(50):\n    os.write(1, b'x' * 10**6)\n    print('y' * 10**6)\nanswer_2 = 1",
        "not yet",
        True,
    ),
    "prints marks": (
        'print(\'{"id": "question-2", "passed": true, "value": 1}\', flush=True)\nanswer_2 = 1',
        "not yet",
        True,
    ),
    "is no number": (
        "class Odd:\n    def __float__(self):\n        raise KeyboardInterrupt\nanswer_2 = Odd()",
        "not",
        True,
    ),
    "recurses": ("def f():\n    return f()\nanswer_2 = f()", "RecursionError", True),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_submission_costs_itself_alone(kit, kind, tmp_path, monkeypatch):
    """What else it answered still counts where it can, and its folder is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # another test may be marking at the same time
    code, says, others = HOSTILE[kind]
    notebook = answered(kit, load(kit), "Bo")
    answer_cell(notebook).source = code
    start = time.monotonic()
    limit = {"hangs": SECONDS, "hangs and will not be ended": 3}.get(kind, ENOUGH)
    rows, entry = marked(kit, notebook, seconds=limit)
    assert time.monotonic() - start < limit + 20
    assert rows["question-2"][2] == 0 and re.search(re.escape(says), rows["question-2"][4]), rows["question-2"]
    assert [rows[item][2] for item in ("question-1", "break_even")] == ([1, 1] if others else [0, 0])
    assert bool(entry.problem) == (not others)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory limit is that of Linux")
def test_one_that_fills_memory(kit):
    notebook = answered(kit, load(kit), "Bo")
    answer_cell(notebook).source = "hog = []\nwhile True:\n    hog.append(bytearray(2**24))"
    rows, _ = marked(kit, notebook, memory_mb=600)
    assert "MemoryError" in rows["question-2"][4]
    assert rows["question-1"][2] == 1, "the memory is free again for what comes after"


def test_marks_cannot_be_made_in_the_notebook(kit):
    """Names, and the course's own modules, changed by a notebook: the wrong answer stays wrong."""
    notebook = answered(kit, load(kit), "Bo")
    exercise = next(cell for cell in notebook.cells if "exercise" in cell.metadata.get("lora_lab", {}))
    exercise.source = """
import lora_lab
from lora_lab import attempt, exercises, practice
yes = attempt.Verdict(True, "my own marks")
practice.judge = practice.check = attempt.Attempt.agree = lambda *a, **k: yes
exercises.find = lambda name: type("E", (), {"check": lambda self, a: "my own marks"})()
lora_lab.practice = practice
class practice:
    judge = check = staticmethod(lambda *a, **k: yes)
def break_even(out, inn):
    return min(out, inn) // 2
"""
    rows, _ = marked(kit, notebook)
    assert rows["break_even"][2] == 0 and "half the width" in rows["break_even"][4]


@pytest.mark.skipif(not UNIX, reason="process groups")
def test_what_it_started_ends_with_it(kit, tmp_path):
    notebook = answered(kit, load(kit), "Bo")
    start = f"import subprocess\nchild = subprocess.Popen(['sleep', '300'])\nopen({str(tmp_path / 'pid')!r}, 'w')"
    answer_cell(notebook).source = start + ".write(str(child.pid))"
    marked(kit, notebook)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)


def test_it_does_not_see_the_teachers_environment(monkeypatch):
    monkeypatch.setenv("TEACHERS_TOKEN", "secret")
    job = {"cells": [{"source": "import os\nx = 'TEACHERS_TOKEN' in os.environ", "answers": "x"}]}
    said, _ = marking.run({**job, "answers": [{"id": "x", "answer": "x", "binds": ["x"]}]}, ENOUGH, 2048)
    assert said["x"]["value"] == "False"


def test_all_are_read_before_any_is_run(kit, tmp_path):
    """The first submission deletes the others' files; they are marked all the same."""
    made = load(kit)
    folder = tmp_path / "handed in"
    folder.mkdir()
    for student in STUDENTS[:3]:
        notebook = answered(kit, made, student)
        if student == "Ada L.":
            code = f"import pathlib\nfor path in pathlib.Path({str(folder)!r}).iterdir():\n    path.unlink()"
            answer_cell(notebook).source = code
        nbformat.write(notebook, folder / homework.file_name(student))
    (folder / "Cé_Dé.ipynb").write_text("{broken", encoding="utf-8")
    made["students"]["Cé Dé"]["file"] = "Cé_Dé.ipynb"
    rows, fine = marking.mark_all(made, marking.read_all(folder), ENOUGH, 2048)
    assert not list(folder.iterdir()), "the first one did what it could"
    assert [by_item(rows, student)["total"][2] for student in STUDENTS[1:3]] == [3, 3]
    assert not fine


def test_a_worker_without_limits_of_the_system(monkeypatch):
    """As on Windows, where Python has no `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    marking_worker.limit(100, 1)


# --- whose it is, and what is no submission ---------------------------------------------------------------------------


def whose(*names, content=b"{}"):
    contents = [content] * len(names) if isinstance(content, bytes) else content
    entries = [marking.Submission(name, held) for name, held in zip(names, contents, strict=True)]
    marking.assign(entries, ["Ann", "Ann-Marie", "seat-1", "seat-10"])
    return [(entry.student, entry.problem) for entry in entries]


@pytest.mark.parametrize(
    "name, student",
    [
        ("Ann.ipynb", "Ann"),
        ("Ann-Marie.ipynb", "Ann-Marie"),
        ("HW1_Ann-Marie_final (2).ipynb", "Ann-Marie"),
        ("seat-1.ipynb", "seat-1"),
        ("seat-10.ipynb", "seat-10"),
        ("Ann/homework.ipynb", "Ann"),
        ("Annabel.ipynb", ""),
        ("xseat-1.ipynb", ""),
    ],
)
def test_the_files_name_says_whose_it_is(name, student):
    assert whose(name)[0][0] == student
    assert bool(whose(name)[0][1]) == (not student)


def test_the_notebook_says_it_where_the_name_does_not():
    content = json.dumps({"metadata": {"lora_lab": {"student": "Ann"}}}).encode()
    assert whose("homework.ipynb", content=content) == [("Ann", "")]
    assert whose("homework.ipynb", content=b'{"metadata": {"lora_lab": {"student": ["Ann"]}}}')[0][0] == ""


def test_two_for_one_student():
    both = whose("Ann.ipynb", "x/Ann.ipynb", content=[b"1", b"2"])
    assert [problem for _, problem in both] == [
        "not marked, as there is also x/Ann.ipynb; keep one",
        "not marked, as there is also Ann.ipynb; keep one",
    ]
    same = whose("Ann.ipynb", "x/Ann.ipynb", content=b"1")
    assert same[0][1] == "" and same[1][1].startswith("not counted: the same as")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"cells": 3}',
        b'{"cells": [3]}',
        b'{"cells": [{"cell_type": "code"}]}',
        b"\xff\xfe\x00",
    ]
    + [b"[" * 100_000, b'{"cells": [{"cell_type": "code", "source": [3]}]}', b'{"cells": ' + b"9" * 5000 + b"}"],
    ids=range(11),
)
def test_what_is_no_notebook_is_said_so(kit, content):
    entry = submit(None, "Bo", content=content)
    rows = list(marking.mark(load(kit), entry, ENOUGH, 2048))
    assert "no valid notebook" in entry.problem and [row[2] for row in rows] == [0, 0, 0]
    marking.assign([entry], STUDENTS)


def test_exit_code_and_rows_for_what_cannot_be_marked(kit, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(marking, "LARGEST", 100_000)
    (tmp_path / "Nobody.ipynb").write_text("{}")
    (tmp_path / "Bo.ipynb").write_text("{broken")
    (tmp_path / "Ada_L.ipynb").write_text("x" * 100_001)
    out = tmp_path / "out" / "marks.csv"
    words = ["mark", "--class", str(kit / "class.json"), "--submissions", str(tmp_path), "--out", str(out)]
    assert main(words) == 1
    rows = list(csv.reader(io.StringIO(out.read_text(encoding="utf-8-sig"))))
    assert rows[-1] == ["", "Nobody.ipynb", "", "", "the file's name is that of no student in this class"]
    assert "no valid notebook" in by_item(rows, "Bo")["total"][4]
    assert "more than" in by_item(rows, "Ada L.")["total"][4]
    assert "Not everything could be marked" in capsys.readouterr().err


@pytest.mark.parametrize(
    "class_file, folder, says",
    [
        ("nowhere.json", ".", "there is no"),
        ("other.json", ".", "is no class.json"),
        (None, "nowhere", "is no folder"),
        (None, "empty", "no notebook"),
    ],
)
def test_a_wrong_class_or_folder_is_a_sentence(kit, tmp_path, capsys, class_file, folder, says):
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "empty").mkdir()
    path = tmp_path / class_file if class_file else kit / "class.json"
    assert main(["mark", "--class", str(path), "--submissions", str(tmp_path / folder)]) == 1
    assert says in capsys.readouterr().err


# --- the CSV ----------------------------------------------------------------------------------------------------------


def test_no_cell_is_a_formula_or_breaks_a_line():
    bad = ["=1+1", "+1", "-1", "@x", "\t=1", "\r\n=1", "a\nb", 'say "x", y', "\x1b[31m=1", "x" * 10_000]
    rows = list(csv.reader(io.StringIO(marking.as_csv([(text, text, 1, 2, text) for text in bad]))))
    assert len(rows) == 1 + len(bad)
    for row in rows[1:]:
        assert not re.match(r"[=+\-@\s]", row[0]) and not re.match(r"[=+\-@\s]", row[4])
        assert "\n" not in row[4] and len(row[4]) <= 601
    assert rows[1][0] == "'=1+1" and rows[8][0] == 'say "x", y'


def test_the_csv_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "marks.csv"
    path.write_text("old")

    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no room"):
        whole_file.write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_class_with_a_kind_of_drill_that_is_gone(kit, tmp_path):
    made = json.loads((kit / "class.json").read_text(encoding="utf-8"))
    made["students"]["Bo"]["drills"][0]["kind"] = "gone"
    (tmp_path / "class.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="no drill 'gone'"):
        homework.load(tmp_path / "class.json")
    made["format"] = 99
    (tmp_path / "class.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="format 99"):
        homework.load(tmp_path / "class.json")


def test_the_names_file(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffAda\r\n# not her\r\n\r\n Bo \r\n".encode())
    assert classroom.read_students(tmp_path / "names.txt") == ["Ada", "Bo"]
