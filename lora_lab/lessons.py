"""The course's lessons in order: one list for the map in the first notebook and the one in README."""

from __future__ import annotations

from pathlib import Path

# number and name (the notebook's file name is made of both), and what a learner can do afterwards
LESSONS = (
    ("00", "start here", "say what LoRA is in a minute, and turn its dial on a trained model"),
    ("01", "the idea", "draw the frozen W and the small correction beside it"),
    ("02", "low rank", "say what no rank-r correction can do"),
    ("03", "LoRA from scratch", "write the layer, explain its zero, prove it equal to peft's"),
    ("04", "counting", "count the parameters, FLOPs and bytes of any model"),
    ("05", "rank", "say what rank buys"),
    ("06", "scaling", "pick alpha, and know when it does not matter"),
    ("07", "fine-tune a real model", "change a language model's voice, and measure what it cost"),
    ("08", "merge and swap", "serve one adapter or a thousand"),
    ("09", "variants", "tell rsLoRA, DoRA, PiSSA and the rest apart"),
    ("10", "interview", "prove each sentence"),
    ("11", "when it breaks", "find the bug"),
    ("12", "on real hardware", "plan a run on a GPU"),
)


def course_map(notebooks: Path | str = ".", link: str = "") -> str:
    """The lessons as a Markdown table: a lesson whose notebook is in the folder `notebooks` is linked, others "coming".

    `link` goes before each link's file name: "notebooks/" for a page one folder up.
    """
    lines = ["| | lesson | you will be able to |", "|---|---|---|"]
    for number, name, outcome in LESSONS:
        written = min(Path(notebooks).glob(f"{number}_*.ipynb"), default=None)
        entry = f"[{name}]({link}{written.name})" if written else f"{name} (coming)"
        lines.append(f"| {number} | {entry} | {outcome} |")
    return "\n".join(lines)
