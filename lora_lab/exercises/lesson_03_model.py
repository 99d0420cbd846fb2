"""Checks of lesson 03, LoRA from scratch: the exercises on a whole model, on a file, and on merging."""

from __future__ import annotations

from typing import Any

from lora_lab.attempt import Attempt, NotYet, close, expect
from lora_lab.exercises import exercise
from lora_lab.exercises.lesson_03 import NEAR, numbers


@exercise(
    "03",
    "train this and nothing else",
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "named_parameters() gives every tensor with its full name. Decide for each, and set requires_grad both ways.",
        "p.requires_grad = name.split('.')[-1] in ('A', 'B') for every name, p; then add up p.numel() of those.",
    ),
    expect=(
        "only the wrapped layers frozen: norms and embeddings train, and are not in the adapter that is saved",
        "only weights frozen, not biases",
        "frozen everything and never let A and B train again",
        "'B' in name: finds a module that is called B too",
    ),
)
def train_only_lora(attempt: Attempt) -> str:
    """Let the parameters whose own name is A or B train, and no others; how many numbers train."""
    for model, start in ((_wrapped_model(True), True), (_wrapped_model(False), False), (_adapted(4, 6, 2), True)):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        result = attempt(model, may_change=True)
        now = dict(model.named_parameters())
        expect(
            list(now) == list(before) and all(close(now[n], p, 0) for n, p in before.items()),
            "the function changes the model's numbers or layers. It should only say which of them train.",
        )
        training = {name for name, p in now.items() if p.requires_grad}
        wanted = {name for name in now if name.rpartition(".")[2] in ("A", "B")}
        lacking, stray = sorted(wanted - training), sorted(training - wanted)
        alone = "A" in now
        if training != wanted and alone and not (training & wanted):
            raise NotYet(
                "in a layer by itself the names are 'A' and 'B', with no dot before them, and yours misses them. "
                "Compare the last part of the name."
            )
        expect(training != set(now), "everything still trains: nothing was frozen.")
        expect(bool(training), "nothing trains. Go by the last part of each name: A and B need requires_grad = True.")
        if lacking:
            raise NotYet(f"{lacking[0]} does not train, and it should: set requires_grad to True, whatever it was.")
        reasons = {
            "base.weight": "the frozen W itself trains: that is full fine-tuning with an adapter on top.",
            "base.bias": "the biases of the wrapped layers still train.",
            "norm.": "freeze everything else, not only the layers that are wrapped: it is not in the adapter's file.",
            "embed.": "freeze everything else, not only the layers that are wrapped: it is not in the adapter's file.",
            "B.weight": "its module is called B, but its own name is weight. Look at the last part of the name only.",
            "scale_A": "its name ends in A, but is not A. Look at the whole last part of the name.",
        }
        for piece, reason in reasons.items():
            for name in stray:
                expect(piece not in name, f"{name} trains: {reason}")
        count = attempt.whole(result, "the count")
        attempt.agree(
            count,
            sum(now[name].numel() for name in wanted),
            {
                "the count is of all the model's numbers; count those that train.": sum(
                    p.numel() for p in now.values()
                ),
                "the count is of tensors, not of the numbers in them: add up p.numel().": len(wanted),
                "the count is of the frozen numbers.": sum(p.numel() for n, p in now.items() if n not in wanted),
                "the count was taken before the change.": sum(p.numel() for p in now.values()) if start else 0,
            },
            "the number of numbers that train:",
            0,
        )
    return "Norms, embeddings, biases and W stay as they are. What trains is what you will save."


def _wrapped_model(train: bool) -> Any:
    """A small model with two adapted layers, and names that mislead; all of it trains, or nothing does."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        model = nn.Module()
        model.embed, model.norm, model.B = nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 5, bias=False)
        model.block = nn.ModuleDict({"q_proj": _adapted(8, 6, 2), "v_proj": _adapted(4, 6, 3)})
        model.scale_A = nn.Parameter(torch.ones(6))
    return model.requires_grad_(train)


def _adapted(o: int, i: int, rank: int) -> Any:
    """A layer as the lesson's: a frozen linear one in `base`, and A and B beside it."""
    import torch
    from torch import nn

    layer = nn.Module()
    with torch.random.fork_rng(devices=[]):
        layer.base = nn.Linear(i, o)
    layer.A, layer.B = nn.Parameter(torch.ones(rank, i)), nn.Parameter(torch.ones(o, rank))
    return layer


@exercise(
    "03",
    "read a file of peft's",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "Two keys for each layer, 'base_model.model.<layer>.lora_A.weight' and the same with lora_B; two numbers from "
        "the config.",
        "config['lora_alpha'] / config['r'] * weights[key of B] @ weights[key of A]: [out, r] times [r, in].",
    ),
    expect=(
        "the factor forgotten: it is not in the weights, only in the config",
        "A times B, or the transpose of the update",
        "the wrong layer of the file",
    ),
)
def update_from_file(attempt: Attempt) -> str:
    """What an adapter in peft's format adds to the weight [out, in] of one layer."""
    for seed, (o, i, r, alpha) in enumerate(((6, 6, 3, 10), (4, 7, 2, 3))):
        qA, qB, vA, vB = numbers(30 + seed, (r, i), (o, r), (r, i), (o, r))
        pairs = {"0.q_proj": (qA, qB), "0.v_proj": (vA, vB)}
        weights = {}
        for layer, (A, B) in pairs.items():
            weights |= {f"base_model.model.{layer}.lora_{x}.weight": m for x, m in (("A", A), ("B", B))}
        config = {"peft_type": "LORA", "r": r, "lora_alpha": alpha}
        s = alpha / r
        for layer, (A, B) in pairs.items():
            other_A, other_B = next(pair for name, pair in pairs.items() if name != layer)
            try:
                got = attempt(weights, config, layer)
            except NotYet as mistake:
                raise NotYet(
                    f"{mistake} (The keys are 'base_model.model.{layer}.lora_A.weight' and ...lora_B.weight; in the "
                    "config 'r' and 'lora_alpha'.)"
                    if "KeyError" in str(mistake)
                    else str(mistake)
                ) from None
            expect(
                tuple(getattr(got, "shape", ())) != (r, r),
                "that is A times B, [r, r]. The update has the shape of W: B times A.",
            )
            got = attempt.array(got, (o, i), f"the update of {layer}")
            mistakes = {
                "// rounds down. The factor need not be whole: divide with /.": alpha // r * B @ A,
                "that divides by the root of r, another rule. Here it is lora_alpha / r.": alpha / r**0.5 * B @ A,
                "the factor is missing: weights hold A and B only, alpha and rank are in the config.": B @ A,
                "that scales by lora_alpha alone: divide by r.": alpha * B @ A,
                "that scales by lora_alpha times r: divide by r.": alpha * r * B @ A,
                "that scales by r / lora_alpha: upside down.": B @ A / s,
                "that is another layer's update: take the keys of the layer that was asked for.": s * other_B @ other_A,
                "A and B come from two different layers.": s * B @ other_A,
                "A and B come from different layers.": s * other_B @ A,
                "all layers were added up: one was asked for.": s * (B @ A + other_B @ other_A),
            }
            if o == i:
                mistakes |= {
                    "the update is transposed: it is B A, [out, r] times [r, in].": s * (B @ A).T,
                }
            attempt.agree(got, s * B @ A, mistakes, f"{layer}, W [{o}, {i}], r = {r}, lora_alpha = {alpha}", NEAR)
    return "Two matrices a layer and two numbers for all: there is no more in such a file."


@exercise(
    "03",
    "one matrix for two roads",
    difficulty=1,
    importance=3,
    minutes=3,
    hints=(
        "x W.T + s (x A.T) B.T is x M.T for one matrix M. Which one? It has the shape of W, [out, in].",
        "M = W + (alpha / rank) * B @ A: [out, rank] times [rank, in] fits W; A @ B does not.",
    ),
    expect=(
        "unscaled, or by alpha × rank: the file of the merged model is then silently wrong",
        "the transpose, which a square W lets through",
        "W changed in place: called twice, it is merged twice",
    ),
)
def merged_weight(attempt: Attempt) -> str:
    """The weight [out, in] of the plain layer that does what W and the adapter do together."""
    for seed, (o, i, r, alpha) in enumerate(((5, 5, 3, 7), (4, 7, 2, 3), (8, 3, 1, 0.5))):
        W, A, B = numbers(40 + seed, (o, i), (r, i), (o, r))
        s = alpha / r
        case = f"W [{o}, {i}], alpha {alpha} and rank {r}"
        got = attempt.array(attempt(W, A, B, alpha, r), (o, i), f"the merged weight, {case},")
        mistakes = {
            "alpha // rank rounds down. The factor need not be whole: alpha / rank.": W + alpha // r * B @ A,
            "that divides by the root of the rank, another rule. Here it is alpha / rank.": W + alpha / r**0.5 * B @ A,
            "the scaling is missing: add (alpha / rank) B A.": W + B @ A,
            "that scales by alpha alone: it is alpha / rank.": W + alpha * B @ A,
            "that scales by alpha times rank: it is alpha divided by rank.": W + alpha * r * B @ A,
            "that scales by rank / alpha: upside down.": W + B @ A / s,
            "merged twice: the update comes in once.": W + 2 * s * B @ A,
            "that is the update alone: W itself is missing.": s * B @ A,
            "W got scaled too: only the update is.": s * (W + B @ A),
            "subtracted: that is how one takes an update out again.": W - s * B @ A,
        }
        if o == i:
            mistakes["the update is transposed: B A is [out, rank] times [rank, in]."] = W + s * (B @ A).T
            mistakes["the whole result is transposed: the weight is [out, in]."] = (W + s * B @ A).T
        attempt.agree(got, W + s * B @ A, mistakes, case, NEAR)
    return "A plain weight again. Merge it once, and keep W if you want it back (lesson 08 says why)."
