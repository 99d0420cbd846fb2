"""Choose a fine-tune and see what it will cost before it runs: shapes alone, no weights, no network.

The prediction is the one that `finetune` prints (`memory.memory`). Models of families that `shapes` does not know are
built on torch's meta device, where a tensor has a shape and no numbers: none is too large to be asked about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lora_lab import counting, explorer, figures, memory, models, prediction, shapes, tasks, training_setup
from lora_lab.memory import BUCKETS
from lora_lab.result import megabytes

ROWS, LENGTH = 16, 128  # finetune's own batch_size and max_length

# Hub models of three sizes that the table of known models holds, so that planning with them needs no network.
HUB_MODELS = {f"HuggingFaceTB/SmolLM2-{size}": f"SmolLM2-{size}" for size in ("135M", "360M", "1.7B")}


@dataclass(frozen=True)
class Plan:
    """What a fine-tune will cost. trainable, base: parameters of the adapter and of the model without it.

    scaling: alpha / rank. lora, full: bytes at the peak by bucket, through an adapter and in full.
    """

    trainable: int
    base: int
    scaling: float
    lora: dict[str, int]
    full: dict[str, int]


def plan(model: str = "base", task: str = "pirate", rank: int = 8, alpha: float = 16, gpu: bool = False) -> Plan:
    """Predict the cost of `finetune` with these settings and its defaults for the rest.

    model: "base", a folder, a name in HUB_MODELS, or a hub model that was fetched before. gpu: bfloat16 for frozen
    weights and activations, as on a GPU. Lengths are counted in the base model's tokens. Raises ValueError or
    ConnectionError where the model or task is not there, ValueError for a rank below 1.
    """
    shape = _shape(model)
    targets = training_setup.DEFAULTS[task if task in tasks.TASKS else "own file", "lora"].targets
    each = {"rows": ROWS, "length": _longest(task), "rank": rank, "targets": targets, "padded": True}
    return Plan(
        trainable=counting.lora(shape, rank, targets),
        base=shape.total,
        scaling=alpha / rank,
        lora=memory.memory(shape, prediction.way_of("lora", gpu), **each),
        full=memory.memory(shape, prediction.way_of("full", gpu), **each),
    )


@functools.cache
def _shape(model: str) -> shapes.Shape:
    from transformers import AutoModelForCausalLM

    if model in HUB_MODELS:
        return shapes.known(HUB_MODELS[model])
    config, _ = models.configuration(model)
    with torch.device("meta"):
        return prediction.decoder(AutoModelForCausalLM.from_config(config))


@functools.cache
def _longest(task: str) -> int:
    """Tokens of the task's longest training example, cut at LENGTH; among its longest in characters, to be quick."""
    tokenizer = models.load_tokenizer()
    by_size = sorted(tasks.load_task(task).train, key=lambda e: len(e.prompt) + len(e.completion))
    return max(len(tasks.encode(example, tokenizer, LENGTH)["input_ids"]) for example in by_size[-200:])


@figures.in_style
def cost_figure() -> tuple[Figure, Callable[[Plan], None]]:
    """An empty picture of a plan, and `draw(plan)`, which fills it: parameters trained, and memory by bucket."""
    figure, (count, needs) = figures.new_figure(7.8, 2.9, widths=(1, 1.7))
    for axes in (count, needs):
        axes.set(ylim=(1.55, -0.55), yticks=(0, 1), yticklabels=("LoRA", "in full"))
        axes.grid(False, axis="y")
    count.set(xscale="log", xlim=(1e4, 1e11), xticks=(1e4, 1e6, 1e8, 1e10), xlabel="parameters that train")
    quarters = range(0, 101, 25)
    needs.set(xlim=(0, 135), xticks=quarters, xticklabels=[f"{x} %" for x in quarters])
    needs.set_xlabel("memory at the peak (in full = 100 %)")
    dots = [
        count.plot([], [], ms=8, color=figures.INK, animated=True, **d)[0] for d in ({"marker": "o"}, {"marker": "s"})
    ]
    look = {
        "height": 0.5,
        "edgecolor": "white",
        "lw": 0.4,
        "animated": True,
        "zorder": 3,
    }  # over the spine, as in a move
    parts = [
        needs.barh((0, 1), 0, color=colour, hatch=hatch, **look)
        for colour, hatch in zip(figures.COLOURS[: len(BUCKETS)], figures.HATCHES, strict=False)
    ]
    key = [both[0] for both in parts]
    figure.legend(key, BUCKETS, ncols=len(BUCKETS), loc="outside upper right", handlelength=1.4, columnspacing=1.2)
    labels = [axes.text(0, y, "", va="center", animated=True) for axes in (count, needs) for y in (0, 1)]
    scaling = count.text(0, 1.06, "", transform=count.transAxes, animated=True)

    def draw(plan: Plan) -> None:
        whole = sum(plan.full.values())
        for y, (number, cost) in enumerate(((plan.trainable, plan.lora), (plan.base, plan.full))):
            dots[y].set_data([number], [y])
            widths = 100 * np.array([cost[bucket] for bucket in BUCKETS]) / whole
            for part, left, width in zip(parts, np.cumsum(widths) - widths, widths, strict=True):
                part[y].set(x=left, width=width)
            labels[y].set(x=number * 2.5, text=_short(number))
            labels[2 + y].set(x=widths.sum() + 2, text=megabytes(sum(cost.values())))
        scaling.set_text(f"alpha / rank = {plan.scaling:.3g}")

    return figure, draw


def _short(number: int) -> str:
    """A count as people say it.

    >>> _short(233_472), _short(5_770_496), _short(1_711_376_384)
    ('233 k', '5.8 M', '1.71 B')
    """
    for size, letter, digits in ((1e9, "B", 2), (1e6, "M", 1), (1e3, "k", 0)):
        if number >= size:
            return f"{number / size:.{digits}f} {letter}"
    return str(number)


def chooser(settings: MutableMapping[str, Any]) -> explorer.Explorer:
    """Model, task, rank and alpha by widgets, beside a picture of what they cost; each move writes into `settings`.

    `settings` has the keys model, task, rank and alpha, and is what the chooser starts from: pass it on with
    `finetune(**settings)`. A model or task that is not in the lists (a folder, your own file) is put in front.
    """
    start = {name: settings[name] for name in ("model", "task", "rank", "alpha")}
    step = 1 if float(start["alpha"]).is_integer() else 0.1
    controls = {
        "model": explorer.menu("model", _with(start["model"], ["base", *HUB_MODELS]), start["model"]),
        "task": explorer.menu("task", _with(start["task"], list(tasks.TASKS)), start["task"]),
        "rank": explorer.slider("rank", "", 1, max(64, start["rank"]), start["rank"]),
        "alpha": explorer.slider("alpha", "", min(1, start["alpha"]), max(128, start["alpha"]), start["alpha"], step),
    }
    figure, draw = cost_figure()

    def move(**chosen: Any) -> tuple[str, str]:
        cost = plan(**chosen)
        draw(cost)
        settings.update(chosen)
        lora, full = sum(cost.lora.values()), sum(cost.full.values())
        share = counting.share_of_total(cost.trainable, cost.base)
        finding = (
            f"Rank {chosen['rank']}, alpha {chosen['alpha']:g}: {cost.trainable:,} parameters train "
            f"({share:.2%} of all), and their update is multiplied by {cost.scaling:.3g}. Memory predicted: "
            f"{megabytes(lora)}, {lora / full:.0%} of the {megabytes(full)} that training in full needs."
        )
        return finding, _table(cost)

    summary = "LoRA beside training in full: how many parameters train, and what fills the memory at its peak."
    return explorer.Explorer(figure, controls, move, summary)


def _table(plan: Plan) -> str:
    """The picture's memory in numbers, for who cannot see it."""
    ways = (("LoRA", plan.lora), ("in full", plan.full))
    return figures.table([{"memory": way} | {b: megabytes(cost[b]) for b in BUCKETS} for way, cost in ways])


def _with(value: str, options: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*([] if value in options else [value]), *options]))
