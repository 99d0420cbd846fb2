"""Everything for a class, in one folder: `python -m lora_lab classroom --out DIR`.

    handouts/     the lessons without solutions, as notebooks and as pages, and the cheat sheet
    slides/       a deck for each lesson: one file, no network, moved by keys
    homework/     a notebook for each student, with numbers of their own
    instructor/   the lessons with solutions, rubric, expected wrong answers and minutes; plans; the homework's answers
    class.json    the seed, the students and which drills they have: `python -m lora_lab mark` reads it

The first three are for the students; instructor/ and class.json are not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lora_lab import render, whole_file
from lora_lab.classroom import homework, outline, pages, plans, slides
from lora_lab.classroom.handouts import handout, instructor_copy
from lora_lab.interview import sheet


def make(
    out: Path,
    lessons: Sequence[outline.Lesson],
    students: Sequence[str],
    seed: str | None = None,
    kinds: Sequence[str] = homework.DRILLS,
    names: Sequence[str] = (),
) -> None:
    """Write the kit for these lessons and students into `out`.

    A class.json that is there already gives the seed, so that a kit made again has the numbers that were handed out.
    Raises ValueError when `seed` is another than that.
    """
    tasks = homework.choose(lessons, names)
    there = out / "class.json"
    if there.exists():
        before = homework.load(there)["seed"]
        if seed is not None and str(seed) != before:
            raise ValueError(f"{there} has another seed than {seed}: take another --out, or leave --seed away")
        seed = before
    made = homework.make_class(students, seed, kinds, tasks)
    written = [lesson.path.stem for lesson in lessons]
    for lesson in lessons:
        name, title = lesson.path.stem, f"{lesson.number} {lesson.title}"
        folder = str(lesson.path.parent)
        for place, copy in (("handouts", handout(lesson)), ("instructor", instructor_copy(lesson))):
            _notebook(out / place / f"{name}.ipynb", copy)
            whole_file.write(out / place / f"{name}.html", pages.page(copy, title, folder, written))
        whole_file.write(out / "slides" / f"{name}.html", slides.deck(lesson))
    for length in plans.LENGTHS:
        _markdown(out / "instructor" / f"INSTRUCTOR_PLAN_{length}", plans.written(lessons, length))
    posed = [(lesson, task) for task in tasks for lesson in lessons if task in lesson.exercises]
    for student, entry in made["students"].items():
        _notebook(out / "homework" / entry["file"], homework.notebook(made, student, posed))
    _markdown(out / "instructor" / "homework_answers", homework.key(made))
    whole_file.write(out / "handouts" / "cheat_sheet.html", sheet.page())
    whole_file.write(there, json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def _notebook(path: Path, made) -> None:
    import nbformat

    whole_file.write(path, nbformat.writes(made) + "\n")


def _markdown(path: Path, text: str) -> None:
    """Markdown as a file, and as a page."""
    whole_file.write(path.with_suffix(".md"), text)
    whole_file.write(path.with_suffix(".html"), pages.frame(text.partition("\n")[0].strip("# "), pages.prose(text)))


def read_students(path: Path) -> list[str]:
    """The names in a file, one a line; empty lines and those that begin with # are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8: save it again as a text file in UTF-8") from None
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--lessons", default="", metavar="03,04", help="which lessons, in order (default: all)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--students", metavar="FILE", help="a text file, a student on each line")
    who.add_argument("--seats", type=int, default=30, metavar="N", help="no names: seat-01, seat-02, ... (default: 30)")
    parser.add_argument("--seed", help="a secret: the same one makes the same homework (default: a new one)")
    parser.add_argument("--drills", default=",".join(homework.DRILLS), metavar="KINDS", help="the homework's questions")
    parser.add_argument("--exercises", default="", metavar="NAMES", help="and exercises (default: the most important)")


def main(args: argparse.Namespace) -> int:
    out, names = Path(args.out), [name for name in args.lessons.split(",") if name]
    found = render.find(names)
    if names:  # in the order asked for
        found.sort(key=lambda path: next(i for i, name in enumerate(names) if path.stem.startswith(name)))
    lessons = [outline.read(path) for path in found]
    seats = [f"seat-{number:0{max(2, len(str(args.seats)))}}" for number in range(1, args.seats + 1)]
    students = read_students(Path(args.students)) if args.students else seats
    kinds, tasks = ([word for word in text.split(",") if word] for text in (args.drills, args.exercises))
    make(out, lessons, students, args.seed, kinds, tasks)
    counts = [
        f"{len(them)} {what}{'s' * (len(them) != 1)}" for what, them in (("lesson", lessons), ("student", students))
    ]
    print(f"{' and '.join(counts)}: {out}")
    print("For the students: handouts, slides, homework. For you alone: instructor and class.json.")
    return 0
