"""A picture of every kind that the package draws, from small made-up numbers or recorded ones."""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lora_lab import (
    experiments,
    explorer,
    explorers,
    figures,
    figures_breaks,
    figures_conformance,
    figures_counting,
    figures_hardware,
    figures_interview,
    figures_lowrank,
    figures_merging,
    figures_practice,
    figures_results,
    figures_scaling,
    figures_serving,
    figures_variants,
    live,
)

NAMES = ["one", "two", "three", "four", "five", "six", "seven", "eight"]  # two more than there are colours
X = list(range(1, 33))
LINES = {name: (X, [1 / x**0.5 + i for x in X]) for i, name in enumerate(NAMES)}
FALLING = {name: [(i + 2) / x for x in X] for i, name in enumerate(NAMES)}
BY_RANK = {name: {r: [i + 1 / r, i + 1.2 / r] for r in (1, 4, 16)} for i, name in enumerate(NAMES[:6])}
ROWS = [
    {"label": name, "loss": 3 + i / 5 + seed / 20, "base_loss": 2 + i / 7 - seed / 30}
    for i, name in enumerate(NAMES)
    for seed in range(3)
]
DIVERGED = {name: (x, [*y[:-1], None]) for name, (x, y) in LINES.items()}

SAMPLES = {
    figures.training_curves: lambda: figures.training_curves(LINES),
    figures.singular_values: lambda: figures.singular_values(FALLING),
    figures.lora_diagram: lambda: figures.lora_diagram(64, 32, rank=4, alpha=8),
    figures.book: lambda: figures.book(64, rank=3),
    figures.dial: lambda: figures.dial([0, 1, 2], [4.0, 3.0, 3.5], [2.0, 2.3, 3.0], [0.0, 20.0, 30.0]),
    figures_lowrank.equation: lambda: figures_lowrank.equation(("W", np.arange(-8, 8).reshape(4, 4)), "+", ("b", [8])),
    figures_lowrank.pictures: lambda: figures_lowrank.pictures({"one": np.eye(4), "two": np.ones((4, 4))}),
    figures_lowrank.energy_curves: lambda: figures_lowrank.energy_curves(FALLING),
    figures_lowrank.missing_by_rank: lambda: figures_lowrank.missing_by_rank(
        X, {"a panel": {f"{name}, trained" if i % 2 else name: y for i, (name, y) in enumerate(FALLING.items())}}
    ),
    figures_results.over_rank: lambda: figures_results.over_rank(BY_RANK, {"full": [2, 3], "base": [4, 5]}),
    figures_results.pareto: lambda: figures_results.pareto(ROWS, before=(4, 2)),
    figures_results.by_setting: lambda: figures_results.by_setting(ROWS, before=4),
    figures_scaling.panels: lambda: figures_scaling.panels({"left": DIVERGED, "right": LINES}, "rank", "loss"),
    figures_counting.stacked_bars: lambda: figures_counting.stacked_bars(
        {"a": {name: i + 1 for i, name in enumerate(NAMES[:6])}, "b": {"one": 3, "six": 2}}, "bytes"
    ),
    figures_variants.strips: lambda: figures_variants.strips({"loss": {"a": [1, 2, 3], "b": [2, 4, 5]}}, "a"),
    figures_variants.levels: lambda: figures_variants.levels({name: [-1, i / 8, 1] for i, name in enumerate(NAMES)}, 1),
    figures_breaks.verdicts: lambda: figures_breaks.verdicts({"m": {"a": True, "b": False}, "n": {"a": None, "b": 1}}),
    figures_merging.log_curves: lambda: figures_merging.log_curves(LINES, "x", "y", {"two": ([3], [4])}, (3, "a mark")),
    figures_serving.bench: lambda: figures_serving.bench(experiments.recorded("bench")["rows"]),
    figures_conformance.conformance: lambda: figures_conformance.conformance(experiments.recorded("conformance")),
    figures_interview.by_verdict: lambda: figures_interview.by_verdict(
        {"card": {"exact": 3, "approximate": 2, "depends": 4, "misleading": 1}, "lessons": {"exact": 9}}
    ),
    figures_interview.card_days: lambda: figures_interview.card_days({n: (X[:5], X[1:6]) for n in NAMES}, boxes=6),
    figures_hardware.roofline: lambda: figures_hardware.roofline(
        {"one": (1e14, 1e12), "two": (1e13, 3e11)}, {"three": (10, 1e13), "four": (500, 9e13)}
    ),
    figures_hardware.fit_map: lambda: figures_hardware.fit_map(
        {"a": {"m": "none", "n": "full"}, "b": {"m": "LoRA", "n": "QLoRA"}}, ["none", "full", "LoRA", "QLoRA"]
    ),
    figures_hardware.dots: lambda: figures_hardware.dots(
        {n: {s: i + 1 for i, s in enumerate(NAMES)} for n in "ab"}, "x"
    ),
    figures_practice.solved: lambda: figures_practice.solved({"01": (2, 1, 4), "03": (1, 0, 3)}),
}
QUICK = {"live_dial": {"tokens": 6}}


@functools.cache
def explored(name: str) -> explorer.Explorer:
    """An explorer, or the live chooser, at its defaults."""
    if name == "chooser":
        return live.chooser({"model": "base", "task": "pirate", "rank": 8, "alpha": 16})
    made = getattr(explorers, name)(**QUICK.get(name, {}))
    made.finish()
    return made


LIVE = [*explorers.MODULES, "chooser"]


def drawn(name: str) -> Figure:
    """The picture of that name: a function's, from its sample, or an explorer's."""
    if name in LIVE:
        return explored(name).figure
    return next(make for function, make in SAMPLES.items() if function.__name__ == name)()


def drawing_functions() -> set:
    """Every public function of the package's figures modules that draws."""
    found = set()
    for path in Path(figures.__file__).parent.glob("figures*.py"):
        module = importlib.import_module(f"lora_lab.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            ours = function.__module__ == module.__name__ and not name.startswith("_")
            if ours and inspect.signature(function).return_annotation == "Figure":
                found.add(function)
    return found
