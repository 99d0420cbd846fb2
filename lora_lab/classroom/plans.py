"""Plans for a class of 50, 90 or 180 minutes: which sections, guesses and exercises, and the minute each begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora_lab import exercises, quizzes
from lora_lab.classroom import handouts, outline, slides

LENGTHS = (50, 90, 180)
VOTE = 1  # minute that a guess, or a question of the quiz, takes in class beyond what it takes alone
SPARE = 0.08  # of a class is left for questions, and for what takes longer than it should
FOR_EXERCISES = (0.3, 0.2, 0.1, 0)  # of the time that is left after beginning and end: the first that fills it
BREAK, BREAK_FROM = 10, 120  # minutes; classes from that length on have one in the middle
WORTH_BEGINNING = 8  # minutes: with less left, the next lesson is for another day


BEGIN = "Begin: open the first lesson, and see that everybody's first cell runs"
END = "End: three people say one of the lesson's five lines each; homework"
ABOUT = """The minutes are those of one who reads alone, with one more for each vote: no class has been timed.
When you fall behind, leave exercises out before sections, for a section builds on the one before.

In a section, for each vote: show the question, let everybody raise a hand for an answer, run the cell in the notebook
(or show the next slide), and let somebody read the result out. An exercise is listed below its section; set it when its
slide comes, and show the solution in your own copy when its minutes are over."""


@dataclass(frozen=True)
class Step:
    """One line of a plan."""

    minutes: int
    lesson: str
    what: str
    asks: tuple[str, ...] = ()  # the guesses to put to the vote
    slides: tuple[int, ...] = ()  # their numbers in the lesson's deck


def plan(lessons: Sequence[outline.Lesson], length: int) -> list[Step]:
    """The steps of a class of `length` minutes on these lessons, in their order; their minutes are at most `length`.

    Sections first, one after another as far as time goes; then exercises out of them, the most important first.
    Raises ValueError for a class shorter than 20 minutes.
    """
    if length < 20:
        raise ValueError(f"a class of {length} minutes is too short to plan: 20 at least")
    ends = 3 if length <= 60 else 5
    spare = round(SPARE * length)
    left = length - 2 * ends - spare - (BREAK if length >= BREAK_FROM else 0)
    # Few exercises leave time over: then more sections.
    tries = [_content(lessons, left, share) for share in FOR_EXERCISES]
    chosen, tasks, _ = next((content for content in tries if content[2] >= 0.9 * left), max(tries, key=lambda c: c[2]))
    steps = [Step(ends, "", BEGIN)]
    for at, sections in chosen.items():
        lesson = lessons[at]
        deck = list(slides.slides(lesson))
        for section in sections:
            asks = tuple(" ".join(guess.split()) for guess in section.guesses)
            steps.append(Step(taught(section), lesson.number, section.title, asks, _numbers(deck, section.title)))
            for posed in section.exercises:
                if id(posed) in tasks:
                    numbers = _numbers(deck, section.title, posed.title)
                    steps.append(Step(handouts.minutes(posed), lesson.number, f"Exercise: {posed.title}", (), numbers))
    if length >= BREAK_FROM:
        _insert_break(steps)
    steps += [Step(spare, "", "Questions, and what took longer"), Step(ends, "", END)]
    return steps


def _numbers(deck: list[slides.Slide], section: str, exercise: str = "") -> tuple[int, ...]:
    """The numbers of the slides of a section, or of one of its exercises."""
    return tuple(n for n, s in enumerate(deck, start=1) if (s.section, s.exercise) == (section, exercise))


def _content(lessons: Sequence[outline.Lesson], left: int, share: float) -> tuple[dict, set[int], int]:
    """Sections by the place of their lesson, exercises (ids), and minutes spent, of a `share` kept for exercises."""
    for_sections, whole = left - round(left * share), left
    chosen: dict[int, list[outline.Section]] = {}
    for at, lesson in enumerate(lessons):
        if for_sections < WORTH_BEGINNING:
            break
        chosen[at] = _sections(lesson, for_sections)
        spent = sum(map(taught, chosen[at]))
        left -= spent
        finished = len(chosen[at]) == sum(not section.closing for section in lesson.sections)
        for_sections = for_sections - spent if finished else 0
    tasks, spent = _tasks(chosen.values(), left)
    return chosen, tasks, whole - left + spent


def _sections(lesson: outline.Lesson, left: int) -> list[outline.Section]:
    """The lesson's sections from the first on, as far as `left` minutes go: each builds on those before it."""
    taken = []
    for section in lesson.sections:
        left -= taught(section)
        if left < 0:
            break
        if not section.closing:
            taken.append(section)
    return taken


def taught(section: outline.Section) -> int:
    """Minutes of a section in class, without its exercises: as long as alone, and the votes, the quiz's too."""
    asked = sum(len(quizzes.of(number)) for number in section.quizzes if number in quizzes.lessons())
    return section.minutes + VOTE * (len(section.guesses) + asked)


def _tasks(chosen: Iterable[list[outline.Section]], left: int) -> tuple[set[int], int]:
    """Which exercises of these sections fit into `left` minutes (ids of their Posed), and the minutes they take.

    The most important come first.
    """
    every = exercises.every()
    posed = [task for sections in chosen for section in sections for task in section.exercises]
    posed.sort(key=lambda task: -every[task.name].importance if task.name in every else 0)
    taken, spent = set(), 0
    for task in posed:
        if spent + handouts.minutes(task) <= left:
            taken.add(id(task))
            spent += handouts.minutes(task)
    return taken, spent


def _insert_break(steps: list[Step]) -> None:
    """A break after the step in which half of what was planned is over."""
    spent, half = 0, sum(step.minutes for step in steps) / 2
    for at, step in enumerate(steps):
        spent += step.minutes
        if spent >= half:
            steps.insert(at + 1, Step(BREAK, "", "Break"))
            return


def written(lessons: Sequence[outline.Lesson], length: int) -> str:
    """The plan as Markdown: a table with the minute each step begins, then the guesses to put to the vote."""
    steps = plan(lessons, length)
    used = sum(step.minutes for step in steps)
    rest = "" if used == length else f" The other {length - used} are yours." if length - used > 1 else " One is yours."
    names = [f"{lesson.number} {lesson.title}" for lesson in lessons if any(s.lesson == lesson.number for s in steps)]
    left = [lesson.number for lesson in lessons if all(s.lesson != lesson.number for s in steps)]
    lines = [
        f"# A class of {length} minutes",
        "",
        f"Lessons: {', '.join(names)}. Planned: {used} of {length} minutes.{rest}",
        *([f"No time for lesson{'s' * (len(left) > 1)} {', '.join(left)}."] if left else []),
        "",
        ABOUT,
        "",
        "| from minute | minutes | lesson | what | slides | votes |",
        "|---|---|---|---|---|---|",
    ]
    at, votes = 0, []
    for step in steps:
        shown = ranges(step.slides) or ("in the notebook" if step.lesson else "")
        lines.append(f"| {at} | {step.minutes} | {step.lesson} | {step.what} | {shown} | {len(step.asks) or ''} |")
        votes += [f"- minute {at}, lesson {step.lesson}, {step.what}: {ask}" for ask in step.asks]
        at += step.minutes
    lines += ["", "## Guesses to put to the vote", ""]
    lines += ["The slide after a question has the answer; one that belongs to an exercise, the exercise.", "", *votes]
    lines += ["", "What the plan leaves out is reading for home; the exercises left out too.", ""]
    return "\n".join(lines)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as one says them: 2 to 4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
