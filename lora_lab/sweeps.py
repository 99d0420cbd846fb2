"""The sweeps behind the lessons: which runs they are made of, in what order, and the command that records them.

A plan's next runs follow from the rows there are (`due`), so a sweep that was cut goes on where it stopped, and each
setting finds its own learning rate before it is repeated over seeds. torch is imported when a sweep runs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lora_lab import experiments
from lora_lab.runs import QUICK, RECIPES, Recipe, Run

RATES = {  # the three tried first; where the best is at an edge, the next one outward is tried too
    "lora": (4e-3, 8e-3, 1.6e-2),
    "frozen A": (8e-3, 1.6e-2, 3.2e-2),
    "lora+": (5e-4, 1e-3, 2e-3),  # A's; B's is 16 times as much
    "dora": (4e-3, 8e-3, 1.6e-2),
    "pissa": (2e-3, 4e-3, 8e-3),
    "vera": (4e-2, 8e-2, 1.6e-1),
    "qlora": (4e-3, 8e-3, 1.6e-2),
    "full": (5e-4, 1e-3, 2e-3),
    "last block": (1e-3, 2e-3, 4e-3),
    "norms": (1e-2, 2e-2, 4e-2),
}
OUTWARD = 3  # at most so many rates beyond the first three
# A name's rank stands after it. Each set has 116,736 parameters in all, as rank 4 on everything has (v alone: 117,504).
EQUAL_BUDGET = {
    "q": "q_proj:38",
    "v": "v_proj:51",
    "q, v": "q_proj:20,v_proj:24",
    "all attention": "q_proj:10,k_proj:12,v_proj:12,o_proj:10",
    "MLP": "gate_proj:6,up_proj:6,down_proj:7",
    "all linear": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
}


@dataclass(frozen=True)
class Plan:
    """A sweep of short runs. groups: the settings, whose lr and seed are filled in.

    rates: None finds each group's best of RATES on the first seed, then runs the other seeds at it; a tuple runs every
    rate on every seed. finer: look also half-way (by factors) between the best rate and its neighbours.
    """

    about: str
    groups: tuple[Run, ...]
    recipes: dict[str, Recipe]
    seeds: int
    rates: tuple[float, ...] | None = None
    finer: bool = False


def rank_plan(large: bool = False) -> Plan:
    """Rank on three tasks, and full fine-tuning of the same matrices."""
    ranks = (1, 2, 4, 8, 16, 32, 64, 128, 256) if large else (1, 2, 4, 8, 16, 64)
    steps = 4 if large else 1
    recipes = {task: replace(recipe, steps=steps * recipe.steps) for task, recipe in RECIPES.items()}
    groups = [_group(f"rank {rank}", task, rank=rank) for task in recipes for rank in ranks]
    groups += [_group("full", task, "full", rank=0) for task in recipes]
    about = (
        "alpha 16, all linear layers; full fine-tuning trains the same matrices; best learning rate for each setting"
    )
    return Plan(about, tuple(groups), recipes, seeds=5)


def targets_plan(large: bool = False) -> Plan:
    """Where to put one budget of parameters (Hu et al. 2021, Table 5), and what else so few parameters could be."""
    groups = [_group(name, "pirate", targets=targets, rank=4) for name, targets in EQUAL_BUDGET.items()]
    groups += [_group("A random and frozen", "pirate", "frozen A", rank=8)]
    groups += [_group(f"{method} alone", "pirate", method, rank=0) for method in ("last block", "norms")]
    recipes = {"pirate": replace(RECIPES["pirate"], steps=240) if large else RECIPES["pirate"]}
    about = "the parameters of rank 4 on all linear layers, spent on different matrices; and controls"
    return Plan(about, tuple(groups), recipes, seeds=5)


def grid_plan(large: bool = False) -> Plan:
    """The results explorer's grid: every combination, three seeds."""
    groups = [
        _group(
            f"rank {rank}, alpha/rank {ratio:g}, {targets}", "pirate", targets=targets, rank=rank, alpha=ratio * rank
        )
        for targets in ("q_proj,v_proj", "all-linear")
        for rank in ((1, 2, 4, 8, 16, 32, 64, 128) if large else (1, 4, 16, 64))
        for ratio in (0.5, 1, 2, 8)
    ]
    rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1) if large else (1e-3, 3e-3, 1e-2, 3e-2)
    return Plan("every combination of rank, alpha/rank, learning rate and targets", tuple(groups), QUICK, 3, rates)


def confirm_plan(large: bool = False) -> Plan:
    """alpha/rank against alpha/sqrt(rank) at rising rank, each over the same learning rates: on a real task."""
    groups = [
        replace(_group(f"{'alpha/sqrt(rank)' if rs else 'alpha/rank'}, rank {rank}", "pirate", rank=rank), rslora=rs)
        for rs in (False, True)
        for rank in ((1, 4, 16, 64, 256) if large else (4, 64))
    ]
    return Plan("alpha 16; which rule keeps the best rate where it is", tuple(groups), QUICK, 3, (4e-3, 8e-3))


def variants_plan(large: bool = False) -> Plan:
    """LoRA and its variants on one task: rank 8 (VeRA's is its own), each at its own best learning rate."""
    adapters = {"LoRA": "lora", "LoRA+": "lora+", "LoRA-FA": "frozen A", "QLoRA (NF4 base)": "qlora"}
    adapters |= {"DoRA": "dora", "PiSSA": "pissa"}
    groups = [_group(label, "pirate", method) for label, method in adapters.items()]
    groups.insert(1, replace(_group("rsLoRA", "pirate"), rslora=True))
    groups += [_group("VeRA", "pirate", "vera", rank=256, alpha=256), _group("full", "pirate", "full", rank=0)]
    recipes = {"pirate": replace(RECIPES["pirate"], steps=240) if large else RECIPES["pirate"]}
    about = "rank 8, alpha 16, all linear layers (VeRA: rank 256); LoRA+: B's rate 16 times the one given"
    return Plan(about, tuple(groups), recipes, seeds=5, finer=True)


def _group(label: str, task: str, method: str = "lora", targets: str = "all-linear", rank: int = 8, alpha: float = 16):
    return Run(label, task, method, targets, rank, float(alpha if rank else 0), lr=0.0, seed=0)


PLANS: dict[str, Callable[[bool], Plan]] = {
    "rank": rank_plan,
    "targets": targets_plan,
    "grid": grid_plan,
    "confirm": confirm_plan,
    "variants": variants_plan,
}
MEASUREMENTS = {  # sweeps that are no list of runs: name -> the module whose function of that name makes it
    **dict.fromkeys(("dial", "spectrum", "truncation", "subspaces", "adapters"), "measurements"),
    "scaling": "teacher_student",
    "variant_costs": "variant_costs",
}


def due(plan: Plan, rows: Sequence[dict], first_seed: int = 0) -> list[Run]:
    """The runs that `plan` can do next, given the rows it has; [] when it is complete."""
    seeds = range(first_seed, first_seed + plan.seeds)
    runs = []
    for group in plan.groups:
        done = {
            (row["lr"], row["seed"]): row["loss"]
            for row in rows
            if (row["task"], row["label"]) == (group.task, group.label)
        }
        if plan.rates is not None:
            wanted = [(lr, seed) for lr in plan.rates for seed in seeds]
        else:
            wanted = _tuned(RATES[group.method], seeds, done, plan.finer)
        runs += [replace(group, lr=lr, seed=seed) for lr, seed in wanted if (lr, seed) not in done]
    return runs


def _tuned(rates: Sequence[float], seeds: range, done: dict, finer: bool) -> list[tuple[float, int]]:
    """(rate, seed) pairs: first the rates on one seed, outward while the best is at an edge, then the other seeds.

    finer: before these, the rates half-way to the neighbours of the best one.
    """
    losses = {lr: loss for (lr, seed), loss in done.items() if seed == seeds[0]}
    coarse = {lr: loss for lr, loss in losses.items() if _is_power_of_two(lr / rates[0])}
    if missing := [(lr, seeds[0]) for lr in rates if lr not in losses]:
        return missing
    best = experiments.best_rate(coarse)
    beyond = {min(coarse): best / 2, max(coarse): best * 2}.get(best)
    if beyond is not None and len(coarse) < len(rates) + OUTWARD:
        return [(beyond, seeds[0])]
    between = [float(f"{best * factor:.3g}") for factor in (2**-0.5, 2**0.5)] if finer else []
    if missing := [(lr, seeds[0]) for lr in between if lr not in losses]:
        return missing
    return [(experiments.best_rate(losses), seed) for seed in seeds]


def _is_power_of_two(number: float) -> bool:
    return math.isclose(math.log2(number), round(math.log2(number)), abs_tol=1e-3)


@functools.cache
def _lab(threads: int | None):
    import torch

    from lora_lab.short_runs import Lab

    if threads:
        torch.set_num_threads(threads)
    return Lab("cuda" if torch.cuda.is_available() else "cpu")


def one(run: Run, recipe: Recipe, threads: int | None = None) -> dict:
    """One row, by this process's own copy of the model."""
    return _lab(threads).run(run, recipe)


def run_plan(name: str, plan: Plan, output: Path, seed: int = 0, workers: int = 1, options: str = "") -> dict:
    """Run what `plan` lacks, keeping each row as it comes in a .partial file beside `output`; the complete result.

    A .partial file of other settings or another base model is refused with ValueError: move it away to start anew.
    """
    partial = output.with_suffix(".partial")
    settings = {task: asdict(recipe) for task, recipe in plan.recipes.items()}
    head = {"about": plan.about, "settings": settings} | experiments.provenance(name, seed, 0, options)
    rows = []
    if partial.exists():
        old = json.loads(partial.read_text(encoding="utf-8"))
        for field in ("settings", "base_model_sha256", "seed"):
            if old[field] != head[field]:
                raise ValueError(f"{partial.name} is of a run with another {field}: move it away to start anew")
        head, rows = {field: value for field, value in old.items() if field != "rows"}, old["rows"]
    if "before" not in head:
        lab = _lab(1 if workers > 1 else None)
        head["before"] = {task: lab.measure(task, recipe) for task, recipe in plan.recipes.items()}
    running: dict = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while runs := due(plan, rows, seed):
            for run in runs:
                if len(running) < 2 * workers and run not in running.values():
                    threads = 1 if workers > 1 else None
                    running[pool.submit(one, run, plan.recipes[run.task], threads)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                rows.append(future.result())
                print(f"{len(rows)}: {rows[-1]['label']}, lr {rows[-1]['lr']:g}: {rows[-1]['loss']}", flush=True)
            head["seconds"] = round(sum(row["seconds"] for row in rows), 1)
            experiments.write(head | {"rows": rows}, partial)
    order = {(group.task, group.label): i for i, group in enumerate(plan.groups)}
    rows.sort(key=lambda row: (order[row["task"], row["label"]], row["lr"], row["seed"]))
    partial.unlink()
    return head | {"rows": rows}


def measure(name: str, seed: int = 0) -> dict:
    """Run one of MEASUREMENTS and put beside its result how, where and when it was made."""
    start = time.perf_counter()
    result = getattr(importlib.import_module(f"lora_lab.{MEASUREMENTS[name]}"), name)(seed)
    return result | experiments.provenance(name, seed, time.perf_counter() - start)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, its seed, how wide, by how many processes, and where to write."""
    parser.add_argument("name", choices=sorted([*PLANS, *MEASUREMENTS]), help="the sweep to run")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of training and sampling (default: 0)")
    parser.add_argument("--large", action="store_true", help="wider grids and longer runs, for a GPU")
    parser.add_argument(
        "--workers", type=int, default=1, help="runs at a time, one thread each (default: 1, all threads)"
    )
    parser.add_argument("--output", type=Path, help="file to write (default: the package's recorded result)")


def main(args: argparse.Namespace) -> int:
    """Run the sweep, or go on with it, write it, print one line; returns 0."""
    large = args.large and args.name in PLANS
    output = args.output or experiments.FOLDER / f"{args.name}{'_large' * large}.json"
    if args.name in PLANS:
        workers = max(1, min(args.workers, os.cpu_count() or 1))
        result = run_plan(args.name, PLANS[args.name](large), output, args.seed, workers, " --large" * large)
    else:
        result = measure(args.name, args.seed)
    experiments.write(result, output)
    print(f"{args.name}: {len(result['rows'])} rows in {result['seconds']:g} s")
    return 0
