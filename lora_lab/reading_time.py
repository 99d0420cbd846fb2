"""How long a lesson takes: what its header says, and what its text, code, pictures, exercises and machine come to.

The header's line is `**Minutes:** 20, and 15 more for the exercises; ...`, or `**Minutes:** 45, ...` where the first
number holds the exercises too. Notebooks are read as plain JSON: only the standard library is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Brysbaert 2019, "How many words do we read per minute?", finds 238 for English non-fiction; what is to be thought
# through goes slower. For code there is no such figure: six seconds a line are our assumption, as is the picture's.
WORDS, LINES, PICTURES = 200, 10, 2  # in a minute

SAID = re.compile(r"\*\*Minutes:\*\* (\d+)(?:, and (\d+) more for the exercises(?: and the quiz)?)?(?=[,.;])")
EXERCISE = re.compile(r"^#{2,6} Exercise\b.*?(?=^#|\Z)", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)  # a solution: its time is in the exercise's
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Load:
    """What there is to do in a lesson: words to read, lines of code, pictures, exercises (minutes), the machine's time.

    `seconds` is None where no run is recorded.
    """

    words: int
    lines: int
    pictures: int
    exercises: int
    seconds: int | None

    @property
    def minutes(self) -> float:
        """All of it. Raises ValueError where no run is recorded: its time is not known.

        >>> Load(words=2000, lines=100, pictures=4, exercises=10, seconds=60).minutes
        33.0
        """
        if self.seconds is None:
            raise ValueError("how long the lesson runs is not recorded in it: python -m lora_lab render")
        read = self.words / WORDS + self.lines / LINES + self.pictures / PICTURES
        return read + self.exercises + self.seconds / 60


def said(header: str) -> tuple[int, int]:
    """(minutes for the lesson, minutes more for its exercises) as the header says. Raises ValueError where it does not.

    >>> said("**Minutes:** 20, and 15 more for the exercises; the machine needs a few seconds.")
    (20, 15)
    >>> said("**Minutes:** 45, of which the machine needs less than one.")
    (45, 0)
    """
    found = SAID.search(" ".join(header.split()))
    if not found:
        raise ValueError('no line "**Minutes:** 20, and 15 more for the exercises" in the header')
    return int(found[1]), int(found[2] or 0)


def load(notebook: Mapping) -> Load:
    """What a notebook (as JSON) holds. Raises ValueError for an exercise that does not say its minutes."""
    words = lines = pictures = exercises = 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            lines += _full_lines(source)
            pictures += sum("image/png" in output.get("data", {}) for output in cell["outputs"])
        elif cell["cell_type"] == "markdown":
            text = FOLDED.sub("", source)
            pictures += len(re.findall(r"!\[[^\]]*\]\(", text))
            lines += sum(_full_lines(block) - 2 for block in FENCED.findall(text))
            words += len(re.findall(r"\w[\w'’-]*", FENCED.sub("", text)))
            for task in EXERCISE.findall(text):
                if not (found := re.search(r"(\d+) minutes", task)):
                    raise ValueError(f"it does not say its minutes: {task.splitlines()[0]}")
                exercises += int(found[1])
    seconds = notebook["metadata"].get("lora_lab", {}).get("seconds")
    return Load(words, lines, pictures, exercises, seconds)


def _full_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())
