"""Mark a folder of submissions: `python -m lora_lab mark --class DIR/class.json --submissions FOLDER`.

All submissions are read first. Then each is run in a fresh process with a folder, a time and a memory of its own, so
that one that hangs, crashes, fills memory or deletes its files costs nobody else. This is no sandbox against malice:
a submission runs with the rights of the one who marks. Windows has no memory limit here, only the one on time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_lab import whole_file
from lora_lab.classroom import handouts, homework
from lora_lab.interview import drills

LARGEST = 20_000_000  # bytes of a submission
COLUMNS = ("student", "item", "points", "out of", "message")
KEPT = ("PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
WORKER = "import sys; sys.path.insert(0, {!r}); from lora_lab.classroom import marking_worker; marking_worker.main()"
Row = tuple[str, str, int | str, int | str, str]


@dataclass
class Submission:
    """A file that was handed in: its name in the folder, its bytes, whose it is, and what is wrong with it."""

    name: str
    content: bytes
    student: str = ""
    problem: str = ""
    notes: list[str] = field(default_factory=list)


def read_all(folder: Path) -> list[Submission]:
    """Every notebook below `folder`, read whole before anything is run. Raises ValueError when there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: --submissions names the one with the notebooks that were handed in")
    found = []
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts or not path.is_file():
            continue
        entry = Submission(path.relative_to(folder).as_posix(), b"")
        try:
            if path.stat().st_size > LARGEST:
                entry.problem = f"it has more than {LARGEST // 10**6} MB"
            else:
                entry.content = path.read_bytes()
        except OSError as error:
            entry.problem = f"it cannot be read: {error.strerror}"
        found.append(entry)
    if not found:
        raise ValueError(f"no notebook (.ipynb) in {folder}")
    return found


def cells_of(entry: Submission) -> list[dict[str, Any]]:
    """The code cells of a submission. Raises ValueError, with a sentence, for what is no notebook."""
    try:
        notebook = json.loads(entry.content.decode("utf-8-sig"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        made = []
        for cell in cells:
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            about = cell.get("metadata", {}).get("lora_lab", {})
            made.append({"source": source, "answers": str(about.get("drill") or about.get("exercise") or "")})
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no valid notebook ({type(error).__name__})") from None


def assign(entries: list[Submission], students: Iterable[str]) -> None:
    """Say whose each submission is: by its file's name, a folder's, or what the notebook itself says, in this order.

    One that is nobody's, or one of several for one student, gets a `problem`; the same file twice counts once.
    """
    stems = {homework.file_name(student).removesuffix(".ipynb"): student for student in students}
    for entry in entries:
        inside = _inside(entry)
        parts = [*reversed(Path(entry.name.removesuffix(".ipynb")).parts)]
        hits = [named for part in parts for named in [_named(part, stems)] if named]
        entry.student = (hits or [inside if inside in stems.values() else ""])[0]
        if not entry.student:
            entry.problem = entry.problem or "the file's name is that of no student in this class"
        elif inside in stems.values() and inside != entry.student:
            entry.notes.append(f"the file holds the homework of {inside}")
    for student in stems.values():
        mine = [entry for entry in entries if entry.student == student]
        if len(mine) > 1:
            for entry in mine[1:] if len({entry.content for entry in mine}) == 1 else mine:
                others = ", ".join(other.name for other in mine if other is not entry)
                same = len({other.content for other in mine}) == 1
                entry.problem = (
                    f"not counted: the same as {others}" if same else f"not marked, as there is also {others}; keep one"
                )


def _inside(entry: Submission) -> str:
    try:
        student = json.loads(entry.content)["metadata"]["lora_lab"]["student"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return student if isinstance(student, str) else ""


def _named(part: str, stems: dict[str, str]) -> str:
    """The student whose file name `part` is, or has in it as a word; the longest, should there be two."""
    part = unicodedata.normalize("NFC", part)  # macOS writes é as two characters
    words = [stem for stem in stems if re.search(rf"(?<![^\W_]){re.escape(stem)}(?![^\W_])", part)]
    return stems[max(words, key=len)] if words else ""


def mark(made: dict[str, Any], entry: Submission, seconds: float, memory_mb: int) -> Iterator[Row]:
    """Run one submission, and yield a row for each question and exercise. Sets its `problem` when it did not end."""
    student = made["students"][entry.student]
    answers = [
        {"id": item["id"], "answer": name, "binds": [name]}
        for item in student["drills"]
        for name in [homework.answer_name(item["id"])]
    ]
    answers += [
        {"id": task["name"], "exercise": task["name"], "answer": task["answer"], "binds": task["binds"]}
        for task in made["exercises"]
    ]
    try:
        job = {"cells": cells_of(entry), "answers": answers}
        said, entry.problem = run(job, seconds, memory_mb)
    except ValueError as error:
        said, entry.problem = {}, str(error)
    lost = {"problem": f"not marked: {entry.problem}"}
    for item in student["drills"]:
        got = said.get(item["id"], lost)
        drill = drills.make(item["kind"], item["seed"])
        right, message = _judge(drill, got)
        if not right and "value" in got:
            message += _whose(made, entry.student, item, got["value"])
        yield entry.student, item["id"], int(right), 1, message
    for task in made["exercises"]:
        got = said.get(task["name"], lost)
        worth = handouts.points(task["name"])
        message = got.get("problem") or str(got.get("message", ""))
        yield entry.student, task["name"], worth if got.get("passed") is True else 0, worth, message


def _judge(drill: drills.Drill, got: dict[str, Any]) -> tuple[bool, str]:
    if "value" not in got:
        return False, got["problem"]
    if got["value"] == "...":
        return False, "no answer yet"
    verdict = drills.judge(drill, got["value"])
    return verdict.passed, verdict.message


def _whose(made: dict[str, Any], student: str, item: dict[str, str], value: Any) -> str:
    """A note for the teacher when a wrong answer is the right one to another student's numbers."""
    for other, entry in made["students"].items():
        for theirs in entry["drills"]:
            if other != student and theirs["id"] == item["id"]:
                if drills.judge(drills.make(theirs["kind"], theirs["seed"]), value):
                    return f" (It is the answer to {other}'s numbers.)"
    return ""


def run(job: dict[str, Any], seconds: float, memory_mb: int) -> tuple[dict[str, dict], str]:
    """What a fresh process says of each answer, and why not of all of them ("" if it did).

    The process has `seconds` from its start, imports included. It and all that it started are killed afterwards.
    """
    token = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="marking-", ignore_cleanup_errors=True))
        given, out = stack.enter_context(tempfile.TemporaryFile()), stack.enter_context(tempfile.TemporaryFile())
        given.write(json.dumps({**job, "token": token, "seconds": seconds, "memory_mb": memory_mb}).encode())
        given.seek(0)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"TMPDIR": folder, "TEMP": folder, "TMP": folder, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LORA_LAB_PROGRESS": f"{folder}/progress",
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", WORKER.format(str(Path(__file__).parent.parent.parent))],
            cwd=folder,
            env=environment,
            stdin=given,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            problem = f"its process ended too early, with exit code {code}"
        except subprocess.TimeoutExpired:
            problem = f"it did not end within {seconds:g} seconds"
        finally:
            end(process)
        out.seek(0)
        lines = out.read(1_000_000).decode("utf-8", "replace").splitlines()
    said: dict[str, dict] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            read = json.loads(line)
            if read["token"] == token:
                said.setdefault(read["id"], read)
    return said, problem if len(said) < len(job["answers"]) else ""


def end(process: subprocess.Popen) -> None:
    """Kill a process and its group: also what it started and left behind."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def mark_all(made: dict[str, Any], entries: list[Submission], seconds: float, memory_mb: int) -> tuple[list[Row], bool]:
    """The rows for the CSV, one student after another, and whether everything that was handed in could be marked."""
    assign(entries, made["students"])
    rows: list[Row] = []
    fine = True
    for student, about in made["students"].items():
        mine = [entry for entry in entries if entry.student == student]
        counted = [entry for entry in mine if not entry.problem]
        full = len(about["drills"]) + sum(handouts.points(task["name"]) for task in made["exercises"])
        found: list[Row] = []
        start = time.perf_counter()
        for entry in counted:
            found += mark(made, entry, seconds, memory_mb)
        said = [f"{entry.name}: {entry.problem}" for entry in mine if entry.problem]
        said += [note for entry in counted for note in entry.notes]
        fine = fine and not any(entry.problem and not entry.problem.startswith("not counted") for entry in mine)
        total = sum(int(row[2]) for row in found)
        if not mine:
            said.append("nothing handed in")
        rows += [*found, (student, "total", total, full, "; ".join(said))]
        shown = f"{total} of {full}" if counted else "-"
        print(f"{student:24} {shown:>10} {time.perf_counter() - start:6.1f} s  {'; '.join(said)}", flush=True)
    for entry in entries:
        if not entry.student:
            fine = False
            rows.append(("", entry.name, "", "", entry.problem))
            print(f"{entry.name}: {entry.problem}", flush=True)
    return rows, fine


def as_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV. No cell can act as a formula in a spreadsheet: such a one gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_harmless(cell) for cell in row])
    return text.getvalue()


def _harmless(cell: object) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(cell)).split())[:600]
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--class", dest="made", required=True, metavar="FILE", help="the class.json of the class")
    parser.add_argument("--submissions", required=True, metavar="FOLDER", help="the notebooks that were handed in")
    parser.add_argument("--out", default="marks.csv", metavar="FILE", help="the CSV to write (default: marks.csv)")
    parser.add_argument("--seconds", type=float, default=60, help="for each submission (default: 60)")
    parser.add_argument("--memory-mb", type=int, default=4096, help="for each process; not on Windows (default: 4096)")


def main(args: argparse.Namespace) -> int:
    made = homework.load(Path(args.made))
    entries = read_all(Path(args.submissions))
    rows, fine = mark_all(made, entries, args.seconds, args.memory_mb)
    whole_file.write(Path(args.out), "\ufeff" + as_csv(rows))  # Excel takes a file for UTF-8 only when it begins so
    print(f"{len(entries)} submissions, {len(made['students'])} students: {args.out}")
    if not fine:
        print("Not everything could be marked: the CSV says what and why.", file=sys.stderr)
    return 0 if fine else 1
