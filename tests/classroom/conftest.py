"""A lesson of two sections, small enough to be made into a whole kit in a moment, and the kit of it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from lora_lab import classroom
from lora_lab.classroom import outline
from tests.browser.conftest import browser, chromium  # noqa: F401 - fixtures

STUDENTS = ["Ada L.", "Bo", "Bo-Li", "Cé Dé"]
SECRET_WORDS = ("out * inn // (out + inn)", "the count of both factors", "four eyes see more")
ALT = "The share of A and B doubles with the rank, from a 256th at rank 8 to all of W at rank 2048."
SOLUTION = "def break_even(out, inn):\n    return out * inn // (out + inn)"
STUB = "def break_even(out, inn):\n    return ..."
TASK = """### Exercise 1: when is an adapter too large?

*difficulty ●○○, importance ●●○, 3 minutes*

Write it for any shape."""
BELOW = f"""<details><summary>Hint</summary>

Mind {SECRET_WORDS[1]}.

</details>

<details><summary>Solution</summary>

```python
{SOLUTION}


assert break_even(1024, 4096) == 819
```

Here {SECRET_WORDS[2]}.

</details>

## 2. A second section

> **Put right.** A quotation with `code` and a price: $5 or $6.

| | rows | columns |
|---|---|---|
| x | 1 | 2 |"""
CLOSING = """## What to say in an interview

Answer aloud, then open.

<details><summary><b>How many parameters?</b></summary>

Rank times in plus out: ANSWERED.

</details>

**Next:** another lesson."""


def picture() -> str:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(data, "png")
    return base64.b64encode(data.getvalue()).decode()


def small_lesson() -> nbformat.NotebookNode:
    shown = new_output(
        "display_data", {"image/png": picture(), "text/plain": ALT}, metadata={"image/png": {"alt": ALT, "width": 700}}
    )
    said = new_output("stream", name="stdout", text="one 256th: GUESSED\n")
    free = new_output("stream", name="stdout", text="a table " + "of many words " * 12 + "\n")
    cells = [
        new_markdown_cell(
            "# 04 A small lesson\n\n**You will be able to** count.\n\n"
            "**Minutes:** 10, and 3 more for the exercises. **Needs:** [lesson 01](01_the_idea.ipynb), "
            "[a paper](https://example.com/paper) and <https://example.com/auto>.\n\n"
            "Where it says **Guess first**, answer in your head before you run the next cell."
        ),
        new_markdown_cell("## 1. One matrix\n\nA and B have $r(m + n)$ numbers.\n\n$$r^* = \\frac{mn}{m + n}$$"),
        new_code_cell("import math\n\nfrom lora_lab import counting\n\nhalf = 2048"),
        new_code_cell("def twice(n):\n    return 2 * n\n\n\nprint('a table ' + 'of many words ' * 12)", outputs=[free]),
        new_markdown_cell("W is large.\n\n**Guess first.** What share of W has rank 8?"),
        new_code_cell("print('one 256th: ' + 'guessed'.upper())", outputs=[said]),
        new_markdown_cell("A small one. In the picture, look at the left end."),
        new_code_cell("figures.show(picture, alt)  # " + "long " * 20, outputs=[shown]),
        new_markdown_cell("It doubles.\n\n" + TASK),
        new_code_cell(STUB, metadata={"tags": ["exercise"], "lora_lab": {"exercise": "break_even"}}),
        new_code_cell('from lora_lab import practice\n\npractice.check("break_even", break_even)', outputs=[said]),
        new_markdown_cell(BELOW),
        new_markdown_cell("## In five lines\n\n1. Rank times the sum of in and out. <small>L04.1</small>"),
        new_markdown_cell(CLOSING),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"small-{number:03}"
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


@pytest.fixture(scope="session")
def lesson(tmp_path_factory) -> outline.Lesson:
    path = tmp_path_factory.mktemp("lessons") / "04_small.ipynb"
    nbformat.write(small_lesson(), path)
    return outline.read(path)


@pytest.fixture(scope="session")
def kit(tmp_path_factory, lesson) -> Path:
    """The folder that `classroom` makes of the small lesson, with two questions and one exercise as homework."""
    out = tmp_path_factory.mktemp("kit")
    classroom.make(out, [lesson], STUDENTS, seed="tests", kinds=("count", "file"))
    return out
