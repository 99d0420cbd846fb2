"""Proofs on low rank: what a rank forbids, where a constraint is no approximation, and what is known of the hypothesis.

Those on trained models read what the course recorded, of its own model of 5.8 million parameters.
"""

from __future__ import annotations

from statistics import mean

import numpy as np

from lora_lab import counting, experiments, lowrank
from lora_lab.teacher_student import problem, train

Result = dict[str, int | float | str | bool]


def full_rank_update(width: int = 32, model_width: int = 4096, rank: int = 4096) -> Result:
    """LoRA trained for a random change of full rank, at rank = width and at half of it; what `rank` costs in a model.

    reached, at_half: shares of the loss that are left. first_step: how alike, as a cosine, LoRA's first step of
    gradient descent is to full fine-tuning's, which goes straight for the wanted change where inputs are white.
    """
    task = problem(width, width)
    reached, at_half = (float(train(task, r, r, lr=0.02, steps=400)[-1]) for r in (width, width // 2))
    a = np.random.default_rng(0).normal(size=(width, width))  # B is zero, so the step is B's alone: dW A^T, times A
    step = task.update @ a.T @ a
    alike = float((step * task.update).sum() / np.linalg.norm(step) / np.linalg.norm(task.update))
    trained, whole = counting.lora_parameters(model_width, model_width, rank), model_width**2
    return {
        "parameters": trained,
        "matrix": whole,
        "times_the_matrix": trained / whole,
        "reached": reached,
        "at_half": at_half,
        "first_step": alike,
        "full_rank_reaches_it": reached < 1e-3,
        "half_the_rank_cannot": at_half > 0.4,
        "the_first_steps_differ": alike < 0.9,
    }


def rank_above_the_matrix(out_features: int = 10, in_features: int = 512, rank: int = 32) -> Result:
    """LoRA on a small output layer: the rank that the update has, and what a rank above it costs."""
    random = np.random.default_rng(0)
    update = random.normal(size=(out_features, rank)) @ random.normal(size=(rank, in_features))
    trained, whole = counting.lora_parameters(out_features, in_features, rank), out_features * in_features
    return {
        "rank_of_the_update": int(np.linalg.matrix_rank(update)),
        "wasted": rank - int(np.linalg.matrix_rank(update)),
        "parameters": trained,
        "matrix": whole,
        "times_the_matrix": trained / whole,
        "break_even": counting.break_even_rank(out_features, in_features),
        "the_shorter_side_is_the_limit": bool(np.linalg.matrix_rank(update) == min(out_features, in_features)),
        "it_costs_more_than_the_matrix": trained > whole,
    }


def rank_is_a_ceiling(width: int = 64, rank: int = 8, alpha: float = 8.0, louder: float = 64.0) -> Result:
    """A wanted change of full rank, all strengths alike: the least that rank r can miss, and what training reaches.

    Shares of the squared output, white inputs. loud: the same training with alpha `louder`.
    """
    task = problem(width, width)
    runs = [train(task, rank, value, lr=0.02 * 8 / value, steps=300)[-1] for value in (alpha, louder)]
    floor = task.floor(rank)
    return {
        "floor": floor,
        "trained": float(runs[0]),
        "loud": float(runs[1]),
        "nothing_gets_below": bool(min(runs) >= floor - 1e-9),
        "training_gets_there": bool(max(runs) < 1.03 * floor),
        "by_counting": abs(floor - (1 - rank / width)) < 1e-9,
    }


def best_for_the_data(width: int = 32, rank: int = 4, steps: int = 600) -> Result:
    """A full-rank change and inputs of variances 1, 1/2, 1/3 ...: the share of the output's square that is missing.

    cut: the truncated SVD of the change, the nearest matrix; floor: the best correction for these inputs; trained:
    LoRA's B A by Adam.
    """
    task = problem(width, width, inputs="anisotropic")
    cut = task.loss(lowrank.truncate(task.update, rank))
    floor = task.floor(rank)
    best = task.loss(lowrank.data_truncate(task.update, np.diag(task.variances), rank))
    trained = float(train(task, rank, lr=0.01, steps=steps)[-1])
    return {
        "cut": cut,
        "floor": floor,
        "trained": trained,
        "the_floor_is_reached": abs(best - floor) < 1e-9,
        "training_lands_near_the_floor": floor - 1e-9 <= trained < 1.03 * floor,
        "the_nearest_matrix_does_not": cut > 1.5 * floor,
    }


def constraint_not_approximation(task: str = "pirate", rank: int = 1) -> Result:
    """Recorded: LoRA trained at a rank, against full fine-tuning's update cut to it; mean losses of three seeds.

    "truncation" is the recorded sweep; nats per token.
    """
    rows = [r for r in experiments.recorded("truncation")["rows"] if (r["task"], r["rank"]) == (task, rank)]
    cut, trained, full = (mean(r[field] for r in rows) for field in ("truncated", "trained", "full"))
    return {
        "cut": cut,
        "trained": trained,
        "full": full,
        "seeds": len(rows),
        "closer_to_full": (cut - full) / (trained - full),
        "trained_is_better": max(r["trained"] for r in rows) < min(r["truncated"] for r in rows),
    }


def updates_are_not_low_rank(task: str = "pirate", kind: str = "q_proj") -> Result:
    """Recorded: directions that hold 90 % of the squares of full fine-tuning's update; mean of six layers.

    "spectrum" is the recorded sweep. random: directions that a Gaussian matrix of that shape takes; first_eight: share
    of the squares in the eight strongest; mlp: directions of up_proj.
    """
    rows = [r for r in experiments.recorded("spectrum")["rows"] if r["task"] == task]
    here, mlp = ([r for r in rows if r["kind"] == k] for k in (kind, "up_proj"))
    eighth = experiments.recorded("spectrum")["settings"]["ranks"].index(8)
    needed, random = mean(r["rank90"] for r in here), mean(r["gaussian_rank90"] for r in here)
    return {
        "needed": needed,
        "random": random,
        "mlp": mean(r["rank90"] for r in mlp),
        "first_eight": mean(r["energy"][eighth] for r in here),
        "not_low": needed > 3 * 8,
        "not_noise": needed < 0.8 * random,
    }


def same_directions(kind: str = "q_proj", first: int = 1, more: int = 8) -> Result:
    """Recorded: how much the leading directions of two trained updates share, phi of Hu et al. 2021, section 7.2.

    "subspaces" is the recorded sweep: what A reads, mean of six layers, pirate. ranks: rank 8 and rank 64, same seed;
    seeds: two seeds at rank 8; chance: rank 64 and a Gaussian matrix.
    """
    rows = experiments.recorded("subspaces")["rows"]

    def phi(pair: str, directions: int) -> float:
        wanted = (pair, kind, "right", directions, directions)
        return next(r["phi"] for r in rows if (r["pair"], r["kind"], r["side"], r["i"], r["j"]) == wanted)

    return {
        "ranks_first": phi("rank 8, rank 64", first),
        "ranks_more": phi("rank 8, rank 64", more),
        "seeds_more": phi("rank 8, two seeds", more),
        "chance_more": phi("rank 64, Gaussian", more),
        "less_and_less": phi("rank 8, rank 64", first) > phi("rank 8, rank 64", more),
        "seeds_agree_less": phi("rank 8, two seeds", more) < phi("rank 8, rank 64", more),
        "above_chance": phi("rank 8, two seeds", more) > phi("rank 64, Gaussian", more),
    }


def random_subspace(weights: int = 400, share: float = 0.9, power: float = 2.0) -> Result:
    """How many random directions of all weights a linear model needs to be given `share` of what training all gives.

    Expected squared error, exactly; a wanted change with no structure at all. white: inputs of equal variance; data:
    variances 1, 1/2^power, 1/3^power ... Li et al. 2018 call the number intrinsic dimension.
    """
    random = np.random.default_rng(0)
    wanted, directions = random.normal(size=weights), random.normal(size=(weights, weights))

    def needed(variances: np.ndarray) -> int:
        """The smallest number of the directions whose best combination removes `share` of the error."""
        # In coordinates where the error is a plain distance, the best is an orthogonal projection.
        basis = np.linalg.qr(np.sqrt(variances)[:, None] * directions)[0]
        kept = np.cumsum((basis.T @ (np.sqrt(variances) * wanted)) ** 2)
        return int(np.argmax(kept >= share * kept[-1])) + 1

    white, data = needed(np.ones(weights)), needed(np.arange(1, weights + 1) ** -power)
    return {
        "white": white,
        "data": data,
        "white_share": white / weights,
        "data_share": data / weights,
        "far_fewer_on_the_data": data < white / 4,
        "the_change_has_no_structure": white > 0.8 * share * weights,
    }
