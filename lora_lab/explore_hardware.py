"""A card, a model, a method, a price: does it fit, how fast would it be, what does a million tokens cost. Predicted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from lora_lab import explorer, figures, shapes
from lora_lab.explore_calculator import METHODS, context, verdict
from lora_lab.hardware import cards, cost
from lora_lab.result import megabytes

LENGTH = 2048  # tokens of a text, or as many as the model takes
MOST = 200  # per cent of the card that the picture shows
WIDE = 8.2  # per cent that are as wide as a letter of a label, in bold
CHEAP, DEAR = 0.001, 100  # of the axis of money


@dataclass(frozen=True)
class Choice:
    """What the controls say: mfu in per cent of the card's peak; price of an hour, in any currency."""

    card: str
    model: str
    method: str
    rank: int
    checkpointing: bool
    mfu: int
    price: float


@dataclass(frozen=True)
class Outcome:
    """memory: bytes at the peak; speed: tokens a second; money: for a million tokens, in the price's currency."""

    memory: int
    speed: float
    money: float


def text_length(model: str) -> int:
    """Tokens of the one text that a step takes."""
    return min(LENGTH, context(model))


@functools.lru_cache(1024)
def outcome(choice: Choice) -> Outcome:
    """What a choice takes, with an adapter on all linear layers, one text at a time."""
    shape, card, method = shapes.known(choice.model), cards.card(choice.card), METHODS[choice.method]
    length = text_length(choice.model)
    speed = cost.tokens_per_second(shape, card, method, choice.mfu / 100, length, choice.rank)
    need = cost.need(shape, method, length, rank=choice.rank, checkpointing=choice.checkpointing)
    return Outcome(need, speed, cost.per_million(choice.price, speed))


@figures.in_style
def hardware_figure() -> tuple[Figure, Callable[[Mapping[str, Outcome], str, float], None]]:
    """An empty picture, and `draw(outcomes, chosen, memory)`: each method's memory and money, on a card of that memory.

    Memory is in per cent of the card's, cut off at MOST. What does not fit has an open mark and no sum of money beside.
    """
    figure, (left, right) = figures.new_figure(8.2, 2.9, widths=(1.25, 1))
    for axes in (left, right):
        axes.set(ylim=(len(METHODS) - 0.5, -0.5))
        axes.grid(False, axis="y")
    left.set(xlim=(0, MOST * 1.42), xlabel="memory at the peak (100 % = the card's)")
    left.set_xticks(range(0, MOST + 1, 50), [f"{x} %" for x in range(0, MOST + 1, 50)])
    left.set_yticks(range(len(METHODS)), list(METHODS))
    left.tick_params(axis="y", pad=18, length=0)
    left.axvspan(100, MOST, color=figures.WORSE, lw=0, zorder=0)
    right.set(xscale="log", xlim=(CHEAP, DEAR), xlabel="money for a million tokens", yticks=[])
    right.xaxis.set_major_formatter("{x:g}")
    moving = {"animated": True, "in_layout": False, "zorder": 3}
    bars = left.barh(range(len(METHODS)), 0, 0.55, color=figures.BLUE, **moving)
    left.axvline(100, color=figures.INK, lw=2, ls="--", animated=True, zorder=4)
    pad = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    words = moving | {"zorder": 5, "va": "center", "bbox": pad}
    sizes = [left.text(0, y, "", **words) for y in range(len(METHODS))]
    sums = [right.text(CHEAP, y - 0.3, "", ha="center", **words) for y in range(len(METHODS))]
    marks = [
        right.plot([], [], "s", color=figures.OCHRE, ms=9, clip_on=False, **moving)[0] for _ in range(len(METHODS))
    ]
    pointer = left.plot([], [], ">", color=figures.RED, ms=9, clip_on=False, **moving)[0]

    def draw(outcomes: Mapping[str, Outcome], chosen: str, memory: float) -> None:
        for y, (method, found) in enumerate(outcomes.items()):
            share, fits = 100 * found.memory / memory, found.memory <= memory
            weight = "bold" if method == chosen else "normal"
            bars[y].set_width(min(share, MOST))
            label = f"{'→ ' * (share > MOST)}{megabytes(found.memory)}"
            beyond = 100 if 98 - WIDE * len(label) < share <= 100 else min(share, MOST)  # else that line crosses it
            sizes[y].set(x=beyond + 2, text=label)
            at = min(max(found.money, CHEAP), DEAR)
            marks[y].set_data([at], [y])
            marks[y].set_fillstyle("full" if fits else "none")
            sums[y].set(x=min(max(at, 4 * CHEAP), DEAR / 5), text=f"{found.money:.3g}" if fits else "does not fit")
            for text in (sizes[y], sums[y]):
                text.set_fontweight(weight)
        pointer.set_data([-6], [list(METHODS).index(chosen)])

    return figure, draw


def finding(choice: Choice) -> str:
    """Whether it fits, how fast it would be and what a million tokens would cost, and on what that rests."""
    found, card = outcome(choice), cards.card(choice.card)
    rank = "" if choice.method == "full" else f", rank {choice.rank} on all linear layers"
    return (
        f"Predicted, not measured: {choice.model}, {choice.method}{rank}, on one {choice.card} of "
        f"{card.memory / 1e9:g} GB, a text of {text_length(choice.model):,} tokens a step. "
        f"{megabytes(found.memory)} at the peak: {verdict(found.memory, card.memory)}. "
        f"At {choice.mfu} % of its peak{' in float16' * (not card.bfloat16)} {found.speed:,.1f} tokens a second; "
        f"at {choice.price:.2f} an hour, {found.money:.4g} for a million tokens."
    )


def hardware(
    card: str = "RTX 4090",
    model: str = "Llama-2-7B",
    method: str = "LoRA",
    rank: int = 16,
    mfu: int = round(100 * cost.MFU),
    price: float = 1.0,
    lock: Mapping[str, Any] | None = None,
) -> explorer.Explorer:
    """Choose a card, a model, a method, an MFU and a price: what fits, tokens a second, money per million tokens.

    All of it predicted: shapes, the cards' data sheets, `memory`, `flops`, and the MFU that the slider assumes. One
    text of 2,048 tokens at a time. price: of an hour, in any currency. Raises ValueError for a value that its control
    cannot take.
    """
    controls = {
        "card": explorer.menu("card", list(cards.every()), card),
        "model": explorer.menu("model", shapes.names(), model),
        "method": explorer.menu("method", list(METHODS), method),
        "rank": explorer.stops("rank", "", [2**i for i in range(9)], rank),
        "checkpointing": explorer.menu("checkpointing", [("off", False), ("on", True)], True),
        "mfu": explorer.slider("MFU", "% of the peak", 5, 80, mfu),
        "price": explorer.slider("price of an hour", "", 0.05, 20.0, price, 0.05),
    }
    figure, draw = hardware_figure()

    def move(**chosen: Any) -> tuple[str, str]:
        choice = Choice(**chosen)
        outcomes = {method: outcome(replace(choice, method=method)) for method in METHODS}
        draw(outcomes, choice.method, cards.card(choice.card).memory)
        rows = [
            {
                "method": name,
                "memory at the peak": megabytes(found.memory),
                "of the card": f"{found.memory / cards.card(choice.card).memory:.0%}",
                "tokens a second": f"{found.speed:,.0f}",
                "money for a million": f"{found.money:.4g}",
            }
            for name, found in outcomes.items()
        ]
        return finding(choice), figures.table(
            rows, "Predicted, as if each fitted; checkpointing and unpacking 4 bits lower the MFU"
        )

    summary = "Predicted memory of training in full, by LoRA and by QLoRA against the card's, and money beside it."
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=120)
