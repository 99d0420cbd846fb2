"""Checks of lesson 06, scaling."""

from __future__ import annotations

from lora_lab.attempt import Attempt
from lora_lab.exercises import exercise


@exercise(
    "06",
    "one factor, two alphas",
    difficulty=1,
    importance=3,
    minutes=3,
    hints=(
        "Write down the layer's factor under each rule, then solve for alpha.",
        "factor = alpha / rank gives alpha = factor × rank; with rsLoRA, the root of the rank takes the rank's place.",
    ),
    expect=("divides where it should multiply", "one rule for both cases", "the two rules swapped"),
)
def alpha_for(attempt: Attempt) -> str:
    """The alpha that gives a layer a factor, in plain LoRA and in rsLoRA."""
    for factor, rank, rooted in ((0.7, 16, True), (0.7, 16, False), (2.0, 64, True), (3.0, 9, False)):
        got = attempt.number(attempt(factor, rank, rooted), "alpha")
        one, other = (rank**0.5, rank) if rooted else (rank, rank**0.5)
        rule = "with rsLoRA" if rooted else "in plain LoRA"
        attempt.agree(
            got,
            factor * one,
            {
                f"{rule} it is the {'root of the rank' if rooted else 'rank itself'} that counts, "
                "and you took the other one.": factor * other,
                "you divide by the rank; the layer does that already. Solve factor = alpha / rank for alpha.": (
                    factor / rank
                ),
                "you divide by the root of the rank; the layer does that already. Solve for alpha.": factor / rank**0.5,
                "upside down: that is the rank over the factor. Alpha grows with the factor.": one / factor,
                "rank**1/2 is half the rank in Python. The root is rank**0.5, or rank**(1/2).": factor * rank / 2,
                "the factor is missing: alpha must grow with it.": one,
                "alpha is rounded. It need not be whole.": int(factor * one),
                "alpha is not the factor itself: the layer divides it by the rank, or its root.": factor,
                "alpha = 2 × rank is a habit that fits the factor 2 only. The factor is an argument.": 2 * one,
                "a square where the rank, or its root, should stand: divide alpha by it once.": factor * one**2,
            },
            case=f"a factor of {factor:g} at rank {rank} {rule}",
        )
    return ""


@exercise(
    "06",
    "a dial without A and B",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "What is `merged - W`? Call it the update.",
        "W + scale * update: nothing at 0, merged at 1, and on along the same line.",
    ),
    expect=("scales the whole merged weight", "adds the merged weight, W counted twice", "starts from merged"),
)
def at_scale(attempt: Attempt) -> str:
    """The weight with a merged adapter at any scale, from the weights with and without it."""
    import torch

    draw = torch.Generator().manual_seed(0)
    W, update = (torch.randn(5, 3, generator=draw) for _ in range(2))
    merged = W + update
    for scale in (0.25, 0.0, 1.0, 2.0, -1.0):
        got = attempt.array(attempt(W, merged, scale), (5, 3), "the weight")
        attempt.agree(
            got,
            W + scale * update,
            {
                "you scale all of `merged`, the base weight too. Scale only what the adapter added.": scale * merged,
                "W is counted twice: `merged` has it already. Add scale × (merged - W).": W + scale * merged,
                "you start from `merged`, so at scale 0 the adapter is still there. Start from W.": (
                    merged + scale * update
                ),
                "the wrong way round: W - merged is minus the update.": W - scale * update,
                "the roles are swapped: yours gives `merged` at 0 and W at 1.": merged + scale * (W - merged),
                "that is the update alone. Add the base weight.": scale * update,
                "that gives W at every scale. Where is the update?": W,
                "you divide by the scale. At half the scale half of the update is added: multiply.": (
                    W + update / scale if scale else W
                ),
                "W is scaled here, and the update is not. It is the other way round.": scale * W + update,
                "that gives `merged` at every scale.": merged,
                "at scale 0 nothing of the adapter should be left, and yours takes it off: scale, not scale - 1.": (
                    W + (scale - 1) * update
                ),
                "the scale goes in once: yours squares it.": W + scale**2 * update,
            },
            case=f"scale {scale:g}",
            tolerance=1e-5,
        )
    return ""


@exercise(
    "06",
    "undo an alpha",
    difficulty=2,
    importance=3,
    minutes=4,
    hints=(
        "Alpha × c acts like a larger rate of B. To undo it, should the rate rise or fall?",
        "Under Adam alpha × c is B's rate × c, under SGD × c². Divide by just that.",
    ),
    expect=("multiplies instead of dividing", "one rule for both optimizers", "SGD and Adam swapped"),
)
def matching_rate(attempt: Attempt) -> str:
    """B's learning rate that undoes alpha × c, under SGD and under Adam."""
    for optimizer, rate, c in (("sgd", 0.05, 3), ("adam", 0.002, 3), ("sgd", 0.1, 0.5), ("adam", 0.01, 4)):
        got = attempt.number(attempt(rate, c, optimizer), "B's rate")
        mine, other = (c**2, c) if optimizer == "sgd" else (c, c**2)
        attempt.agree(
            got,
            rate / mine,
            {
                f"that divides by {'c' if optimizer == 'sgd' else 'c²'}, which is the other optimizer's rule.": (
                    rate / other
                ),
                "you raise the rate where alpha has raised it already. More alpha, smaller rate: divide.": rate * mine,
                "you multiply, and with the other optimizer's power. More alpha, smaller rate: divide.": rate * other,
                "the rate has to change: alpha × c moves B's part of the update.": rate,
                "the rate is squared too: only c is.": (rate / c) ** 2,
                "no root here: c counts once for Adam, twice for SGD.": rate / c**0.5,
                "c³ is one too many: the factor enters B's step once through the gradient and once in the update.": (
                    rate / c**3
                ),
                "that is alpha's factor, undone; B's own rate has to stand in it too.": 1 / mine,
            },
            case=f"{optimizer}, c = {c}",
        )
    return ""


@exercise(
    "06",
    "predict a slope",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "The gain is rank × s² under SGD and rank × s under Adam. Put s = rank^(-p) in and collect the powers.",
        "rank × rank^(-2p) is rank^(1 - 2p), and rank × rank^(-p) is rank^(1 - p).",
    ),
    expect=("forgets that there are `rank` terms", "one rule for both optimizers", "a sign lost"),
)
def predicted_slope(attempt: Attempt) -> str:
    """The power of the rank with which the first step's gain grows if s = alpha / rank^p."""
    for optimizer, p in (("sgd", 0.3), ("adam", 0.3), ("sgd", 1.0), ("adam", 0.5), ("sgd", 0.75)):
        got = attempt.number(attempt(optimizer, p), "the slope")
        twice = 2 if optimizer == "sgd" else 1
        attempt.agree(
            got,
            1 - twice * p,
            {
                "that is the other optimizer's slope: s enters twice under SGD, once under Adam.": 1 - (3 - twice) * p,
                "the factor alone. There are `rank` terms, which add one more power of the rank.": -twice * p,
                "a sign: s falls as the rank grows, so p is taken away.": 1 + twice * p,
                "upside down: the gain has one power of the rank, less those of s.": twice * p - 1,
                "the rank's own power is 1, not 2: the terms add up, they are not squared.": 2 - twice * p,
                "p² is not meant: s² is rank^(-2p), the exponents add.": 1 - p**2,
            },
            case=f"{optimizer}, p = {p}",
            tolerance=1e-9,
        )
    return "Zero at p = 1/2 for SGD, and at p = 1 for Adam."
