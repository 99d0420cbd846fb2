"""The alpha dial: a trained adapter's scale and what the model writes at each, as it was recorded."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from lora_lab import experiments, explorer, figures, tasks

DIAL = ("pirate_loss", "story_loss", "marker_words")  # what `figures.dial` draws, in its order


def alpha_dial(scale: float = 0.0, lock: Mapping[str, Any] | None = None) -> explorer.Explorer:
    """Turn a trained adapter's scale from 0 (the base model) to 2 and read what it writes: recorded, so it is instant.

    The numbers and texts are those of `python -m lora_lab sweep dial`.
    """
    result = experiments.recorded("dial")
    rows, prompts = result["rows"], result["prompts"]
    scales, *series = (experiments.column(rows, field) for field in ("scale", *DIAL))
    figure = figures.dial(scales, *series)
    losses, style = figure.axes
    ring = {"marker": "o", "color": figures.RED, "ms": 12, "fillstyle": "none", "mew": 2.2}
    ring |= {"animated": True, "clip_on": False, "in_layout": False}  # may cross the frame, but moves no axes
    rings = [axes.plot([], [], **ring)[0] for axes in (losses, losses, style)]
    controls = {
        "scale": explorer.slider("scale", "1 = as trained", scales[0], scales[-1], scale, step=scales[1] - scales[0]),
        "prompt": explorer.menu("beginning", [(text, i) for i, text in enumerate(prompts)], 0),
    }

    def move(scale: float, prompt: int) -> tuple[str, str]:
        row = min(rows, key=lambda row: abs(row["scale"] - scale))  # a typed value goes to the nearest recorded one
        for ring, field in zip(rings, DIAL, strict=True):
            ring.set_data([row["scale"]], [row[field]])
        finding = (
            f"Scale {row['scale']:.2f}: loss {row['pirate_loss']:.2f} on pirate stories, {row['story_loss']:.2f} on "
            f"plain stories (nats per token); {row['marker_words']:.0f} pirate words in 100 written."
        )
        return finding, f"<i>{html.escape(prompts[prompt])}</i>{mark_pirate(row['texts'][prompt])}{twin}"

    words = ("loss on pirate stories", "loss on plain stories", "pirate words per 100")
    twin = figures.table(
        [{"scale": f"{r['scale']:.2f}"} | {w: f"{r[f]:.2f}" for w, f in zip(words, DIAL, strict=True)} for r in rows]
    )

    first, best, last = rows[0], min(rows, key=lambda row: row["pirate_loss"]), rows[-1]
    summary = (
        f"As the scale goes from {first['scale']:g} to {last['scale']:g}, the loss on pirate stories falls from "
        f"{first['pirate_loss']:.2f} to {best['pirate_loss']:.2f} at {best['scale']:g} and ends at "
        f"{last['pirate_loss']:.2f}; on plain stories it goes from {first['story_loss']:.2f} to "
        f"{last['story_loss']:.2f}; pirate words per 100 go from {first['marker_words']:.0f} to "
        f"{last['marker_words']:.0f}."
    )
    return explorer.Explorer(figure, controls, move, summary, lock)


def mark_pirate(text: str) -> str:
    """`text` as HTML, its pirate words (those that the style score counts) marked and bold."""

    def mark(word: re.Match) -> str:
        plain = html.escape(word[0])
        return f"<mark><b>{plain}</b></mark>" if tasks.pirate_score(word[0]) else plain

    return re.sub(r"\S+", mark, text)
