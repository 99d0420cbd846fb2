"""The kit as a whole: what handouts hide and the teacher's copy shows, minutes that add up, and numbers for each."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_lab import classroom, exercises, quizzes, reading_time
from lora_lab.__main__ import main
from lora_lab.classroom import handouts, homework, marking, outline, plans, slides
from lora_lab.interview import drills
from tests.classroom.conftest import ALT, SECRET_WORDS, SOLUTION, STUDENTS

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))
LESSONS = [outline.read(path) for path in NOTEBOOKS]


def everything(folder: Path) -> str:
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*")) if path.is_file()]
    assert texts
    return "\n".join(texts)


def test_a_lesson_is_read_as_it_is_written(lesson):
    assert (lesson.number, lesson.title, lesson.minutes) == ("04", "A small lesson", 10)
    assert [section.title[:6] for section in lesson.sections] == ["1. One", "2. A s", "In fiv", "What t"]
    assert [len(section.guesses) for section in lesson.sections] == [1, 0, 0, 0]
    (posed,) = lesson.exercises
    assert (posed.name, posed.title, posed.minutes) == ("break_even", "when is an adapter too large?", 3)
    assert (posed.task, posed.answer) == ("Write it for any shape.", "break_even")
    assert SOLUTION in posed.solution and SECRET_WORDS[1] not in posed.solution
    assert sum(section.minutes for section in lesson.sections) == 10


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_every_lesson_is_understood(lesson):
    """Each guess, exercise and fold of the real lessons is found, and their minutes are the header's."""
    cells = lesson.notebook.cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert sum(len(section.guesses) for section in lesson.sections) == len(
        [block for block in re.split(r"\n\s*\n", text) if outline.GUESS.search(block)]
    )
    stubs = [cell for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(lesson.exercises) == len(stubs)
    assert all(posed.task and posed.check and "```python" in posed.solution for posed in lesson.exercises)
    assert sum(section.minutes for section in lesson.sections) == lesson.minutes
    said, _ = reading_time.said(text)
    assert said / 2 <= lesson.minutes <= said


# --- handouts and the teacher's copy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["handouts", "slides", "homework"])
def test_what_students_get_gives_no_answer_away(kit, place):
    text = everything(kit / place)
    for words in (*SECRET_WORDS, "ANSWERED"):
        assert words not in text
    for hint in (*exercises.find("break_even").hints, *exercises.find("break_even").expect):
        assert hint not in text
    if place == "handouts":  # on a slide the output stands on the page after the guess
        assert "GUESSED" not in text


def test_handouts_keep_the_rest(kit):
    made = nbformat.read(kit / "handouts" / "04_small.ipynb", as_version=4)
    nbformat.validate(made)
    text = "\n".join(cell.source for cell in made.cells)
    assert "return ..." in text and 'practice.check("break_even", break_even)' in text
    assert "- Solution" not in text and "- Hint" not in text
    assert "- How many parameters?" in text and "## 2. A second section" in text and "**Next:**" in text
    assert ALT in everything(kit / "handouts"), "a picture that answers no guess stays"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_no_handout_of_a_real_lesson_has_a_fold_or_an_exercises_output(lesson):
    made = handouts.handout(lesson)
    prose = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert "<details" not in prose and "</summary>" not in prose
    text = "\n".join(cell.source for cell in made.cells)
    for posed in lesson.exercises:
        for code in re.findall(r"```python\n(.*?)```", posed.solution, re.DOTALL):
            assert code not in text
    for cell in made.cells:
        if "exercise" in cell.metadata.get("tags", []) or "practice." in cell.source:
            assert not cell.get("outputs")


def guess(*outputs_below):
    """A handout of: a guess, then cells and sentences in turn. A cell is given as (source, its output), or a string."""
    cells = [new_markdown_cell("## 1. One\n\n**Guess first.** How large?")]
    for below in outputs_below:
        said = [] if isinstance(below, str) else [new_output("stream", name="stdout", text=below[1])]
        cells.append(new_markdown_cell(below) if isinstance(below, str) else new_code_cell(below[0], outputs=said))
    lesson = outline.Lesson("04", "x", Path("04_x.ipynb"), new_notebook(cells=cells), [], [], 1)
    return [o.text for c in handouts.handout(lesson).cells if c.cell_type == "code" for o in c.outputs]


def test_an_answer_further_down_is_hidden_too():
    late, own = ("print(1)", "late"), ("print(2)", "own")
    assert guess(late, "It is one.", own) == ["own"]
    assert guess(("loss = 1", ""), "Look at the end of:", late, "It is one.", own) == ["own"]
    assert guess(("explorers.dial()", "a picture"), "Five settings.", late, "One.", own) == ["own"]
    assert guess("## 2. Another", own) == ["own"]


def test_the_teachers_copy_has_the_quizs_answers(lesson):
    copy = handouts.instructor_copy(next(one for one in LESSONS if one.number == "04"))
    text = "\n".join(cell.source for cell in copy.cells)
    for question in quizzes.of("04"):
        right = next(option for option in question.options if option.right)
        assert f"{question.ask} **{question.right}: {right.text}.** {right.say}" in text
        assert right.say not in everything_of(handouts.handout(LESSONS[4]))


def everything_of(notebook) -> str:
    return nbformat.writes(notebook).encode().decode("unicode_escape", "replace")


def test_the_teachers_copy_has_all(kit, lesson):
    text = everything(kit / "instructor")
    for words in (*SECRET_WORDS, "ANSWERED", "GUESSED"):
        assert words in text
    made = nbformat.read(kit / "instructor" / "04_small.ipynb", as_version=4)
    nbformat.validate(made)
    text = "\n".join(cell.source for cell in made.cells)
    entry = exercises.find("break_even")
    for line in (*entry.expect, *entry.hints, "Rubric:", "1 point", "| 1. One matrix |", "**10** | | **3** |"):
        assert line in text
    assert text.index("Here four eyes") < text.index("For the instructor: when is") < text.index("## 2. A second")


def test_the_teachers_key_has_each_students_answers_and_what_goes_wrong(kit):
    text = (kit / "instructor" / "homework_answers.md").read_text(encoding="utf-8")
    made = json.loads((kit / "class.json").read_text(encoding="utf-8"))
    for student, entry in made["students"].items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {student} |"))
        for item in entry["drills"]:
            drill = drills.make(item["kind"], item["seed"])
            assert drills.said(drill.answer, drill.unit) in row
            assert all(name in text for name in drill.mistakes)


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", plans.LENGTHS)
@pytest.mark.parametrize("chosen", [LESSONS, LESSONS[3:5], LESSONS[4:5], LESSONS[-1:]], ids=["all", "two", "04", "11"])
def test_the_minutes_of_a_plan_add_up(length, chosen):
    text = plans.written(chosen, length)
    rows = [line.split("|") for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    starts, minutes = [int(row[1]) for row in rows], [int(row[2]) for row in rows]
    assert starts == [sum(minutes[:at]) for at in range(len(rows))]
    assert length * (0.85 if chosen is LESSONS else 0.4) <= sum(minutes) <= length
    assert all(minute > 0 for minute in minutes)
    doing = sum(int(row[2]) for row in rows if "Exercise: " in row[4])
    assert chosen is not LESSONS or doing >= 0.15 * length, "a class that only listens"
    assert ("Break" in text) == (length >= 120)
    assert f"Planned: {sum(minutes)} of {length}" in text


def test_a_plan_has_sections_guesses_and_exercises(kit):
    text = (kit / "instructor" / "INSTRUCTOR_PLAN_50.md").read_text(encoding="utf-8")
    assert "| 04 | 1. One matrix |" in text and "Exercise: when is an adapter too large?" in text
    assert "What share of W has rank 8?" in text
    minutes = exercises.find("break_even").minutes
    assert re.search(rf"\| {minutes} \| 04 \| Exercise: when is", text), "the registry's minutes"
    assert {path.name for path in (kit / "instructor").glob("INSTRUCTOR_PLAN_*")} == {
        f"INSTRUCTOR_PLAN_{length}.{kind}" for length in (50, 90, 180) for kind in ("md", "html")
    }


def test_a_plan_says_which_slides_to_show_and_what_there_is_no_time_for():
    text = plans.written(LESSONS[3:5], 50)
    assert "No time for lesson 04." in text and "no class has been timed" in text
    deck = list(slides.slides(LESSONS[3]))
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \| \d+ \| 03", line)]
    assert len(rows) > 5
    for row in rows:
        for part in row[4].split(", "):
            for number in map(int, part.split(" to ")):
                slide = deck[number - 1]
                assert row[3] == (f"Exercise: {slide.exercise}" if slide.exercise else slide.section), row
    assert re.search(r"\| 4 \|  \| Questions, and what took longer", text), "8 % of 50"
    quiz = next(section for section in LESSONS[3].sections if section.title == "Quiz")
    assert plans.taught(quiz) == quiz.minutes + len(quizzes.of("03"))


def test_ranges():
    assert plans.ranges([2, 3, 4, 7, 9, 10]) == "2 to 4, 7, 9 to 10" and plans.ranges([]) == ""


def test_a_class_too_short_to_plan(lesson):
    with pytest.raises(ValueError, match="20 at least"):
        plans.plan([lesson], 15)


# --- homework ---------------------------------------------------------------------------------------------------------


def numbers(made, student):
    return [drills.make(item["kind"], item["seed"]).answer for item in made["students"][student]["drills"]]


def test_no_two_students_have_the_same_numbers_and_each_has_theirs_again():
    seats = [f"seat-{n:02}" for n in range(1, 13)]
    made = homework.make_class(seats, "s")
    answers = [numbers(made, seat) for seat in seats]
    for one in range(len(seats)):
        for other in range(one):
            assert all(a != b for a, b in zip(answers[one], answers[other], strict=True))
    assert homework.make_class(seats, "s") == made
    assert [numbers(homework.make_class([*seats, "late"], "s"), seat) for seat in seats] == answers
    assert [numbers(homework.make_class(seats, "t"), seat) for seat in seats] != answers
    assert homework.make_class(seats)["seed"] != homework.make_class(seats)["seed"], "a new secret each time"


def test_the_notebooks_hold_questions_and_no_seed(kit):
    made = json.loads((kit / "class.json").read_text(encoding="utf-8"))
    for student in STUDENTS:
        path = kit / "homework" / made["students"][student]["file"]
        read = nbformat.read(path, as_version=4)
        nbformat.validate(read)
        assert read.metadata.lora_lab.student == student
        text = path.read_text(encoding="utf-8")
        for item in made["students"][student]["drills"]:
            drill = drills.make(item["kind"], item["seed"])
            assert drill.text in "\n".join(cell.source for cell in read.cells)
            assert item["seed"] not in text and drill.solution not in text
    assert len({path.name for path in (kit / "homework").iterdir()}) == len(STUDENTS)


def test_a_kit_made_again_keeps_its_numbers(lesson, tmp_path):
    classroom.make(tmp_path, [lesson], ["a", "b"], kinds=["count"])
    first = (tmp_path / "class.json").read_text()
    classroom.make(tmp_path, [lesson], ["a", "b", "c"], kinds=["count"])
    again = json.loads((tmp_path / "class.json").read_text())
    assert again["seed"] == json.loads(first)["seed"]
    assert again["students"]["b"] == json.loads(first)["students"]["b"]
    with pytest.raises(ValueError, match="another seed"):
        classroom.make(tmp_path, [lesson], ["a", "b"], seed="other")


@pytest.mark.parametrize(
    "students, says",
    [
        ([], "needs students"),
        (["a b", "a_b"], "share the file"),
        (["///"], "no file can be named"),
        (["Ada", "ADA"], "share the file"),
    ],
)
def test_classes_that_cannot_be(students, says):
    with pytest.raises(ValueError, match=says):
        homework.make_class(students, "s")


@pytest.mark.parametrize("student", ["李雷", "Chloé Martin", "Søren Holm", "O'Brien, Sean", "Ольга", "محمد"])
def test_a_name_in_any_alphabet_makes_a_file_that_is_found_again(student):
    name = homework.file_name(student)
    assert re.fullmatch(r"[\w-]+\.ipynb", name)
    for handed_in in (name, f"x_{unicodedata.normalize('NFD', name)}", f"{name.removesuffix('.ipynb')} (1).ipynb"):
        entry = marking.Submission(handed_in, b"{}")
        marking.assign([entry], ["Bo", student])
        assert entry.student == student, handed_in


def test_homework_takes_from_each_lesson_first():
    chosen = homework.choose(LESSONS[3:5])
    names = {lesson.number: {task.name for task in lesson.exercises} for lesson in LESSONS[3:5]}
    assert [chosen[0].name in names["03"], chosen[1].name in names["04"], len(chosen)] == [True, True, 3]
    for task, number in zip(chosen, ("03", "04"), strict=False):
        assert exercises.find(task.name).importance == max(exercises.find(name).importance for name in names[number])


def test_an_exercise_that_is_not_there(lesson):
    with pytest.raises(ValueError, match="no exercise 'break_evn'"):
        homework.choose([lesson], ["break_evn"])


@pytest.mark.parametrize("lesson", [one for one in LESSONS if homework.choose([one])], ids=lambda one: one.path.stem)
def test_homework_of_a_real_lesson_stands_on_its_own(lesson, capsys, monkeypatch, tmp_path):
    """With the solutions in place of the stubs, every exercise of a lesson passes without the lesson."""
    monkeypatch.setenv("LORA_LAB_PROGRESS", str(tmp_path / "mine.json"))
    every = [task.name for task in lesson.exercises if task.name and task.answer]
    tasks = homework.choose([lesson], every)
    made = homework.make_class(["a"], "s", ["count"], tasks)
    read = homework.notebook(made, "a", [(lesson, task) for task in tasks])
    solutions = {task.name: re.search(r"```python\n(.*?)```", task.solution, re.DOTALL)[1] for task in tasks}
    for task in tasks:
        at = next(i for i, c in enumerate(read.cells) if c.metadata.get("lora_lab", {}).get("exercise") == task.name)
        names = {"__name__": "homework"}
        before = read.cells[at - 1]
        for code in (before.source if before.cell_type == "code" else "", solutions[task.name]):
            exec(code, names)
        capsys.readouterr()
        exec(read.cells[at + 1].source, names)
        assert capsys.readouterr().out.startswith("Right"), task.name


def test_the_command(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("# my class\nAda\n\nBo\n", encoding="utf-8")
    out = tmp_path / "kit"
    words = ["classroom", "--out", str(out), "--lessons", "01", "--students", str(tmp_path / "names.txt")]
    assert main([*words, "--seed", "7", "--drills", "count"]) == 0
    assert {path.name for path in (out / "homework").iterdir()} == {"Ada.ipynb", "Bo.ipynb"}
    assert {path.name for path in out.iterdir()} == {"handouts", "slides", "homework", "instructor", "class.json"}
    assert (out / "handouts" / "cheat_sheet.html").read_text(encoding="utf-8").startswith("<!")
    assert "1 lessons" not in (said := capsys.readouterr().out) and "2 students" in said
    assert main([*words, "--drills", "cuont"]) == 1
    assert "cuont" in capsys.readouterr().err
