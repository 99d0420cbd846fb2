"""Sweeps that look into trained weights instead of counting runs: the dial, spectra, subspaces."""

from __future__ import annotations

import base64
import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from lora_lab import experiments, lowrank
from lora_lab.layers import LoraLinear
from lora_lab.runs import RECIPES, Run
from lora_lab.short_runs import Lab

ENERGY_RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
SHOWN = "model.layers.3.self_attn.v_proj"  # its update is recorded whole, for the explorer of singular values


def dial(seed: int = 0) -> dict:
    """Train one adapter on pirate stories, then turn its scale from 0 to 2 and record what changes.

    At each scale: loss in nats per token on the task's validation passages and on plain stories (what the base model
    was trained for), and 60 tokens sampled after each of three prompts, from the same random numbers at every scale.
    `marker_words` counts the pirate words per 100 in 12 such samples a prompt: three texts are too few to count in.
    """
    from lora_lab import adapters, finetune, generate, scoring, tasks

    task = tasks.load_task("pirate", seed=seed)
    plain = [tasks.Example("", story) for story in tasks.base_stories()]
    trained = finetune.finetune("base", "pirate", rank=8, alpha=16, seed=seed)
    model, tokenizer = trained.model, trained.tokenizer
    rows = []
    for scale in [quarter / 4 for quarter in range(9)]:
        adapters.set_scale(model, scale)
        many = generate.complete(model, tokenizer, task.prompts * 12, max_new_tokens=60, temperature=0.7, seed=seed)
        rows.append(
            {
                "scale": scale,
                "pirate_loss": scoring.loss(model, tokenizer, task.validation),
                "story_loss": scoring.loss(model, tokenizer, plain),
                "marker_words": task.style_score(" ".join(many)),
                "texts": many[: len(task.prompts)],
            }
        )
    return {
        "about": "one LoRA adapter trained on pirate stories, its scale turned from 0 (base model) to 2 (twice)",
        "settings": trained.settings | {"device": model.device.type},
        "training": {f: getattr(trained, f) for f in ("seconds", "loss_before", "loss_after", "best_step")},
        "prompts": list(task.prompts),
        "rows": rows,
    }


def spectrum(seed: int = 0) -> dict:
    """Full fine-tuning's update of each matrix: how much of it few singular values hold, beside a random matrix."""
    rows, lab = [], Lab()
    for task in ("pirate", "code"):
        for path, update in _updates(lab, _best("full", task, seed)).items():
            chance = np.random.default_rng(seed).standard_normal(update.shape)
            kept = lowrank.energy(update)
            rows.append(
                {"task": task, "kind": _kind(path), "layer": _layer(path)}
                | {"relative_norm": _round(np.linalg.norm(update) / np.linalg.norm(_weight(lab, path)))}
                | {"rank90": lowrank.rank_for_energy(update, 0.9)}
                | {"gaussian_rank90": lowrank.rank_for_energy(chance, 0.9)}
                | {"effective_rank": _round(lowrank.effective_rank(update))}
                | {"energy": [_round(kept[rank - 1]) for rank in ENERGY_RANKS if rank <= len(kept)]}
            )
            if (task, path) == ("code", SHOWN):
                shown = np.ascontiguousarray(update, dtype="<f2")
    return {
        "about": "the update of full fine-tuning, matrix by matrix; energy: share of the squared singular values",
        "settings": {"ranks": list(ENERGY_RANKS)},
        "update": {"module": SHOWN, "task": "code", "shape": list(shown.shape)}
        | {"float16": base64.b64encode(shown.tobytes()).decode()},
        "rows": rows,
    }


def truncation(seed: int = 0) -> dict:
    """Full fine-tuning's update cut to its best rank r, matrix by matrix, against LoRA trained at rank r."""
    trained = experiments.best_rows(experiments.recorded("rank")["rows"])
    rows, lab = [], Lab()
    for task in ("pirate", "code"):
        for number in range(seed, seed + 3):
            run = _best("full", task, number)
            with lab.trained(run, RECIPES[task]):
                full = lab.measure(task, RECIPES[task])["loss"]
                updates = _read_updates(lab)
                for rank in (1, 2, 4, 8, 16, 64):
                    with torch.no_grad():
                        for path, update in updates.items():
                            near = torch.from_numpy(lowrank.truncate(update, rank)).float()
                            lab.model.get_submodule(path).weight.copy_(lab.pristine[f"{path}.weight"] + near)
                    cut = lab.measure(task, RECIPES[task])["loss"]
                    lora = next(r["loss"] for r in trained[task, f"rank {rank}"] if r["seed"] == number)
                    rows.append(
                        {"task": task, "seed": number, "rank": rank, "truncated": cut, "trained": lora, "full": full}
                    )
    return {
        "about": "loss (nats per token) with full fine-tuning's update cut to a rank, with LoRA trained at it, in full",
        "settings": {"same_runs_as": "rank"},
        "rows": rows,
    }


def subspaces(seed: int = 0) -> dict:
    """The paper's phi (section 7.2) between updates of q and v: between ranks, between seeds, and by chance."""
    lab = Lab()
    low, other_low, high, other = (
        _updates(lab, _best(f"rank {rank}", "pirate", number)) for rank in (8, 64) for number in (seed, seed + 1)
    )
    dice = np.random.default_rng(seed)
    chance = {path: dice.standard_normal(update.shape) for path, update in high.items()}
    pairs = {
        "rank 8, rank 64": (low, high),
        "rank 8, two seeds": (low, other_low),
        "rank 64, two seeds": (high, other),
        "rank 64, Gaussian": (high, chance),
    }
    rows = []
    for pair, (first, second) in pairs.items():
        most = 8 if pair == "rank 8, two seeds" else 64
        for kind in ("q_proj", "v_proj"):
            paths = [path for path in low if _kind(path) == kind]
            for side in ("left", "right"):
                for i, j in itertools.product((1, 2, 4, 8), (1, 2, 4, 8, 16, 32, 64)):
                    if i <= j <= most:
                        phi = np.mean([lowrank.overlap(first[path], second[path], i, j, side) for path in paths])
                        rows.append({"pair": pair, "kind": kind, "side": side, "i": i, "j": j, "phi": _round(phi)})
    return {
        "about": "phi of the leading i directions of one update and j of another, mean over the layers; alpha 16",
        "settings": {"same_runs_as": "rank", "task": "pirate"},
        "rows": rows,
    }


def adapters(seed: int = 0) -> dict:
    """Trained updates against the W they correct: norms, amplification (section 7.3), intruder dimensions."""
    rows, lab = [], Lab()
    for label in ("rank 1", "rank 4", "rank 8", "rank 64", "full"):
        for path, update in _updates(lab, _best(label, "pirate", seed)).items():
            weight = _weight(lab, path)
            rank = 8 if label == "full" else int(label.split()[1])
            chance = np.random.default_rng(seed).standard_normal(update.shape)
            rows.append(
                {"label": label, "kind": _kind(path), "layer": _layer(path), "directions": rank}
                | {"weight_norm": _round(np.linalg.norm(weight)), "update_norm": _round(np.linalg.norm(update))}
                | {"there": _round(lowrank.projection(weight, update, rank))}
                | {"most": _round(lowrank.projection(weight, weight, rank))}
                | {"by_chance": _round(lowrank.projection(weight, chance, rank))}
                | {"amplification": _round(lowrank.amplification(weight, update, rank))}
                | {"intruders": len(lowrank.intruders(weight, update, top=10, threshold=0.5))}
            )
    return {
        "about": "Frobenius norms of W and of the update; there, most, by_chance: W where the update's first "
        "directions point, where its own do, where random ones do; intruders: new among the first ten of W + dW",
        "settings": {"same_runs_as": "rank", "task": "pirate"},
        "rows": rows,
    }


def _best(label: str, task: str, seed: int) -> Run:
    """The recorded sweep's run at its best rate, on another seed if need be."""
    row = experiments.best_rows(experiments.recorded("rank")["rows"])[task, label][0]
    return dataclasses.replace(Run(**{f.name: row[f.name] for f in dataclasses.fields(Run)}), seed=seed)


def _updates(lab: Lab, run: Run) -> dict[str, NDArray]:
    """Train, and return what was added to each matrix: path -> [out, in]."""
    with lab.trained(run, RECIPES[run.task]):
        return _read_updates(lab)


def _read_updates(lab: Lab) -> dict[str, NDArray]:
    updates = {}
    for path, module in lab.model.named_modules():
        if isinstance(module, LoraLinear):
            update = module.delta("default")
        elif f"{path}.weight" in lab.pristine and isinstance(module, torch.nn.Linear):
            update = module.weight - lab.pristine[f"{path}.weight"]
        else:
            continue
        if update.any():
            updates[path] = update.detach().double().cpu().numpy()
    return updates


def _weight(lab: Lab, path: str) -> NDArray:
    return lab.pristine[f"{path}.weight"].double().cpu().numpy()


def _kind(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _layer(path: str) -> int:
    return int(path.split("layers.")[1].split(".")[0])


def _round(number: float) -> float:
    return float(f"{number:.4g}")
