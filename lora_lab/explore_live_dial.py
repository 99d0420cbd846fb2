"""The alpha dial, live: the model writes while the scales of one trained adapter or several move."""

from __future__ import annotations

import copy
import functools
import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lora_lab import explorer, figures, tasks

ADAPTERS = {name: Path(__file__).parent / "assets" / "adapters" / name for name in ("pirate", "code")}
RAREST = 1e-6  # the probability axis ends here


@dataclass(frozen=True)
class Written:
    """One token that was written: its text, its probability, the base model's for it, and the base model's choice."""

    text: str
    here: float
    base: float
    base_choice: str

    @property
    def changed(self) -> bool:
        """Whether the base model would have written another token here."""
        return self.text != self.base_choice


def live_dial(
    scales: Mapping[str, float] | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    tokens: int = 40,
    temperature: float = 0.7,
    seed: int = 0,
    lock: Mapping[str, Any] | None = None,
) -> explorer.Explorer:
    """Turn the scales of trained adapters, alone or mixed, and read what the base model writes with them, as it writes.

    adapters: name -> folder in the PEFT format, one slider each (default: "pirate" and "code", which come with this
    package). scales: where the sliders start (default: the first at 1, the others at 0). At most `tokens` tokens are
    written, at every scale from the same random numbers (those of `seed`), so the same scales give the same text; at
    temperature 0 the likeliest token is taken. Raises as `load_adapter` does, and ValueError for a scale of no adapter.
    """
    adapters = ADAPTERS if adapters is None else adapters
    names = list(adapters)
    scales = {names[0]: 1.0} if scales is None else scales
    if unknown := [name for name in scales if name not in adapters]:
        raise ValueError(f"no adapter {unknown[0]!r} to scale: there are {', '.join(names)}")
    prompts = [*tasks.load_task("pirate").prompts, "def "]
    controls = {
        name: explorer.slider(name, "× trained", 0.0, 2.0, float(scales.get(name, 0)), step=0.1) for name in names
    }
    controls["prompt"] = explorer.menu("beginning", prompts, prompts[0])
    figure, draw = surprise_figure(tokens)

    @functools.cache
    def models() -> tuple[Any, Any, Any]:
        from lora_lab.adapters import set_adapter
        from lora_lab.models import load
        from lora_lab.storage import load_adapter

        plain, tokenizer = load("base", "cpu")
        model = copy.deepcopy(plain)
        for name, folder in adapters.items():
            load_adapter(model, folder, name)
        set_adapter(model, names)
        return model, plain, tokenizer

    def move(prompt: str, **scales: float) -> Iterator[tuple[str, str]]:
        if not models.cache_info().currsize:  # seconds: torch has to be loaded too
            yield "The base model and its adapters are being loaded.", figures.table([{"token": "none yet"}])
        from lora_lab.adapters import set_scale

        model, plain, tokenizer = models()
        for name, scale in scales.items():
            set_scale(model, scale, name)
        said: list[Written] = []
        for token in write(model, plain, tokenizer, prompt, tokens, temperature, seed):
            said.append(token)
            draw([t.here for t in said], [t.base for t in said])
            yield told(scales, said), as_html(prompt, said)
        if not said:
            draw([], [])
            yield told(scales, said), as_html(prompt, said)

    summary = (
        "For each token that is written, how likely it was: with the adapters at these scales, and to the base model "
        "alone. The further apart, the more of it is the adapters' doing."
    )
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=260)


def write(
    model: Any, plain: Any, tokenizer: Any, prompt: str, tokens: int, temperature: float = 0.0, seed: int = 0
) -> Iterator[Written]:
    """What `model` writes after `prompt`, token by token up to the end token, and what `plain` makes of each.

    The token with the largest logit / temperature + noise is taken, which draws from the softmax for noise of Gumbel's
    kind (Gumbel 1954); `plain` chooses with the same noise, so that they differ only where the models do. Each token is
    a step of both models over a cache: the first comes at once, and a reader may stop at any.
    """
    import torch

    dice = torch.Generator().manual_seed(seed)
    rows = tasks.prompt_ids(prompt, tokenizer)
    caches: list[Any] = [None, None]
    for _ in range(tokens):
        chances, choices = [], []
        noise = -torch.empty(model.config.vocab_size).exponential_(generator=dice).log()
        with torch.inference_mode():  # not around the yield: it would hold for the caller too
            for i, network in enumerate((model, plain)):
                out = network(torch.tensor([rows]), past_key_values=caches[i], use_cache=True)
                caches[i] = out.past_key_values
                logits = out.logits[0, -1]
                chances.append(logits.softmax(-1))
                choices.append(int((logits + temperature * noise).argmax()))
            best, other = choices
            here, base = (float(p[best]) for p in chances)
        if best == tokenizer.eos_token_id:
            return
        yield Written(tokenizer.decode([best]), here, base, tokenizer.decode([other]))
        rows = [best]


@figures.in_style
def surprise_figure(tokens: int) -> tuple[Figure, Callable[[Sequence[float], Sequence[float]], None]]:
    """An empty picture of `tokens` tokens, and `draw(here, base)`: the probability of each, by two models."""
    figure, (axes,) = figures.new_figure(7.8, 2.7)
    axes.set(xlim=(0, tokens + 1), yscale="log", ylim=(RAREST / 2, 2))
    axes.set(xlabel="token written", ylabel="probability of the token")
    moving = {"animated": True, "in_layout": False, "zorder": 3}  # over the frame, as in a move; moves no axes
    gaps = axes.vlines([], [], [], color=figures.GREY, lw=2, **moving)
    labels = ("with the adapters", "to the base model alone")
    lines = [
        axes.plot([], [], label=label, **figures.cues(i) | {"linestyle": ""} | moving)[0]
        for i, label in enumerate(labels)
    ]
    figure.legend(handles=lines, ncols=2, loc="outside upper left")

    def draw(here: Sequence[float], base: Sequence[float]) -> None:
        places = range(1, len(here) + 1)
        shown = [[max(p, RAREST) for p in chances] for chances in (here, base)]
        for line, chances in zip(lines, shown, strict=True):
            line.set_data(places, chances)
        gaps.set_segments([[(x, low), (x, high)] for x, low, high in zip(places, *shown, strict=True)])

    return figure, draw


def told(scales: Mapping[str, float], said: Sequence[Written]) -> str:
    """What was written, in a sentence: how much of it the base model would not have, and by how much."""
    setting = " and ".join(f"{name} at {scale:.1f}" for name, scale in scales.items())
    if not said:
        return f"With {setting} the likeliest is to write nothing."
    changed = sum(token.changed for token in said)
    gap = sum(math.log(token.here / max(token.base, 1e-30)) for token in said) / len(said)
    text = (
        f"With {setting}: {len(said)} tokens, at {changed} of them the base model would have written another. Their "
        f"log-probability is {gap:+.2f} nats per token against the base model's own."
    )
    if "pirate" in scales:
        text += f" Pirate words per 100: {tasks.pirate_score(''.join(token.text for token in said)):.0f}."
    return text


def as_html(prompt: str, said: Sequence[Written]) -> str:
    """The text, with what the base model would not have written bold and underlined, and each token in a table."""
    parts = []
    for token in said:
        plain = html.escape(token.text)
        parts.append(f"<b><u>{plain}</u></b>" if token.changed else plain)
    text = f'<div style="white-space: pre-wrap; min-height: 90px"><i>{html.escape(prompt)}</i>{"".join(parts)}</div>'
    if not said:
        return text
    rows = [
        {
            "token": repr(token.text),
            "probability here": f"{token.here:.4f}",
            "to the base model": f"{token.base:.2g}",
            "its own choice": repr(token.base_choice),
        }
        for token in said
    ]
    return text + figures.table(rows, "Bold in the text: not the base model's own choice")
