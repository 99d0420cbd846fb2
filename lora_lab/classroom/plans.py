"""Plans for a class of 50, 90 or 180 minutes: which sections, guesses and exercises, and the minute each begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora_lab import exercises
from lora_lab.classroom import handouts, outline

LENGTHS = (50, 90, 180)
VOTE = 1  # minute that a guess takes in class beyond what it takes alone
FOR_EXERCISES = (0.3, 0.2, 0.1, 0)  # of the time that is left after beginning and end: the first that fills it
BREAK, BREAK_FROM = 10, 120  # minutes; classes from that length on have one in the middle
WORTH_BEGINNING = 8  # minutes: with less left, the next lesson is for another day


@dataclass(frozen=True)
class Step:
    """One line of a plan."""

    minutes: int
    lesson: str
    what: str
    asks: tuple[str, ...] = ()  # the guesses to put to the vote


def plan(lessons: Sequence[outline.Lesson], length: int) -> list[Step]:
    """The steps of a class of `length` minutes on these lessons, in their order; their minutes are at most `length`.

    Sections first, one after another as far as time goes; then exercises out of them, the most important first.
    Raises ValueError for a class shorter than 20 minutes.
    """
    if length < 20:
        raise ValueError(f"a class of {length} minutes is too short to plan: 20 at least")
    ends = 3 if length <= 60 else 5
    left = length - 2 * ends - (BREAK if length >= BREAK_FROM else 0)
    # Few exercises leave time over: then more sections.
    tries = [_content(lessons, left, share) for share in FOR_EXERCISES]
    chosen, tasks, _ = next((content for content in tries if content[2] >= 0.9 * left), max(tries, key=lambda c: c[2]))
    steps = [Step(ends, "", "Begin: open the first lesson, and see that everybody's first cell runs")]
    for at, sections in chosen.items():
        lesson = lessons[at]
        for section in sections:
            asks = tuple(" ".join(guess.split()) for guess in section.guesses)
            steps.append(Step(taught(section), lesson.number, section.title, asks))
            for posed in section.exercises:
                if id(posed) in tasks:
                    steps.append(Step(handouts.minutes(posed), lesson.number, f"Exercise: {posed.title}"))
    if length >= BREAK_FROM:
        _insert_break(steps)
    steps.append(Step(ends, "", "End: everybody says one of the lesson's five lines aloud; homework"))
    return steps


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
    """Minutes of a section in class, without its exercises: as long as alone, and the votes."""
    return section.minutes + VOTE * len(section.guesses)


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
    rest = f"; {length - used} are left for questions" if used < length else ""
    names = [f"{lesson.number} {lesson.title}" for lesson in lessons if any(s.lesson == lesson.number for s in steps)]
    lines = [
        f"# A class of {length} minutes",
        "",
        f"Lessons: {', '.join(names)}. Planned: {used} of {length} minutes{rest}.",
        "",
    ]
    lines += ["| from minute | minutes | lesson | what |", "|---|---|---|---|"]
    at = 0
    for step in steps:
        lines.append(f"| {at} | {step.minutes} | {step.lesson} | {step.what} |")
        at += step.minutes
    lines += ["", "## Guesses to put to the vote", ""]
    lines += [
        "Show the question, let everybody raise a hand for an answer, then run the cell and read the output out.",
        "",
    ]
    for step in steps:
        lines += [f"- {step.lesson}, {step.what}: {ask}" for ask in step.asks]
    lines += ["", "What the plan leaves out is reading for home; the exercises left out too.", ""]
    return "\n".join(lines)
