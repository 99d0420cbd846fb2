"""Checks of lesson 03, LoRA from scratch: the layer. (lesson_03_model.py has the rest.)

ARENA's check of a LoRA layer passes layers that scale by nothing, because there B is zero. Here B is never zero,
alpha / rank is never 1, and W is not square for long.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet, close, expect
from lora_lab.exercises import exercise

NEAR = 1e-4  # of the largest entry: float32, summed in any order


def numbers(seed: int, *shapes: tuple[int, ...]) -> list[Any]:
    """Seeded float32 tensors of these shapes. The learner's own random numbers are left alone."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in shapes]


@exercise(
    "03",
    "both roads in one function",
    difficulty=1,
    importance=3,
    minutes=4,
    hints=(
        "Write the two roads apart. The frozen one is x @ W.T + bias; the other goes through A, then through B.",
        "x @ W.T + bias + (x @ A.T) @ B.T * (alpha / rank). The scaling belongs to the second road alone.",
    ),
    expect=(
        "no scaling, or alpha × rank: the shapes fit and nothing complains",
        "the whole output scaled, or the bias too: alpha / rank belongs to the trained road alone",
        "x @ W without a transpose, which a square W lets through",
    ),
)
def lora_forward(attempt: Attempt) -> str:
    """y [..., out] of a frozen W and bias and an adapter A, B beside them, in the PyTorch form."""
    # Square first: there a transposed or swapped matrix runs, and can be told by its numbers.
    cases = (((7, 5), 5, 2, 7), ((3, 6), 4, 2, 3), ((2, 3, 4), 6, 1, 0.5), ((5,), 3, 3, 12))
    for seed, (shape, o, rank, alpha) in enumerate(cases):
        i = shape[-1]
        x, W, bias, A, B = numbers(seed, shape, (o, i), (o,), (rank, i), (o, rank))
        case = f"x {list(shape)}, W [{o}, {i}], alpha {alpha} and rank {rank}"
        got = attempt.array(attempt(x, W, bias, A, B, alpha, rank), (*shape[:-1], o), f"the result for {case}")
        frozen, update, s = x @ W.T + bias, (x @ A.T) @ B.T, alpha / rank
        mistakes = {
            "alpha // rank rounds down. The factor need not be whole: alpha / rank.": frozen + alpha // rank * update,
            "that divides by the root of the rank, a rule of lesson 06. Here it is alpha / rank.": (
                frozen + alpha / rank**0.5 * update
            ),
            "the scaling is missing. What comes out of B is multiplied by alpha / rank.": frozen + update,
            "that scales by alpha alone: it is alpha / rank.": frozen + alpha * update,
            "that scales by alpha times rank: it is alpha divided by rank.": frozen + alpha * rank * update,
            "that scales by rank / alpha: the fraction is upside down.": frozen + update / s,
            "scaled twice: alpha / rank comes in once.": frozen + s * s * update,
            "the scaling got hold of the frozen road too; it belongs to what comes out of B.": s * (frozen + update),
            "the bias is forgotten: the frozen layer is x @ W.T + bias.": x @ W.T + s * update,
            "the bias is scaled too, or added twice: it belongs to the frozen road, once.": x @ W.T
            + s * (update + bias),
            "the bias is added on both roads: the adapter has none.": frozen + bias + s * update,
            "that is the trained road alone: the frozen layer's output is missing.": s * update,
            "that is the frozen layer alone: A and B take no part.": frozen,
            "subtracted: the two roads are added.": frozen - s * update,
        }
        if o == i:
            mistakes |= {
                "A and B are swapped: x meets A first, as x @ A.T, then B.": frozen + s * (x @ B) @ A,
                "the second road starts at W's output. It lies beside W, and starts at x.": (
                    frozen + s * (frozen @ A.T) @ B.T
                ),
                "W is the wrong way round: it is [out, in], so rows meet it as x @ W.T.": x @ W + bias + s * update,
                "both roads are the wrong way round: rows meet a matrix [out, in] as x @ W.T.": (
                    x @ W + bias + s * (x @ B) @ A
                ),
            }
        attempt.agree(got, frozen + s * update, mistakes, case, NEAR)
    return "Square or not, one row or many, alpha / rank = 3.5 or 4 or 1/2: the same line does them all."


@exercise(
    "03",
    "three gradients",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "For A and B use the two formulas above. For x ask: by which roads does x reach y, and what is on each?",
        "x reaches y through W and through s B A. So its gradient is g @ W + s * (g @ B) @ A.",
    ),
    expect=(
        "nothing through W, 'because it is frozen': frozen means that W gets no gradient, not that none passes",
        "s forgotten in one of them: each of the three has it once",
        "divided by the number of examples once more: g holds that already",
    ),
)
def lora_gradients(attempt: Attempt) -> str:
    """Gradients of the loss for A [r, in], B [out, r] and x [n, in], from g [n, out], the gradient for y."""
    for seed, (n, i, o, r, s) in enumerate(((7, 6, 4, 2, 3.0), (5, 3, 8, 1, 0.5), (2, 5, 5, 3, 2.0))):
        x, g, W, A, B = numbers(10 + seed, (n, i), (n, o), (o, i), (r, i), (o, r))
        found = attempt.several(attempt(x, g, W, A, B, s), 3, "what lora_gradients returns (for A, for B, for x)")
        shapes = [tuple(getattr(one, "shape", ())) for one in found]
        expect(
            not (i != o and shapes[:2] == [(o, r), (r, i)]),
            "the order: the gradient for A [r, in] comes first, then the one for B [out, r].",
        )
        for_A = attempt.array(found[0], (r, i), "the gradient for A")
        for_B = attempt.array(found[1], (o, r), "the gradient for B")
        for_x = attempt.array(found[2], (n, i), "the gradient for x")
        right_A, right_B, right_x = _by_autograd(x, g, W, A, B, s)
        case = f"{n} examples, W [{o}, {i}], rank {r} and s = {s}"
        attempt.agree(
            for_A,
            right_A,
            {
                "s is missing from A's gradient: the road through A is scaled.": right_A / s,
                "s comes twice into A's gradient.": right_A * s,
                "A's gradient is divided by the number of examples once more; g holds that already.": right_A / n,
                "A's gradient has the wrong sign: this is the gradient, not the step.": -right_A,
                "A's gradient is not zero here: that is so only while B is.": np.zeros((r, i)),
            },
            f"A's gradient, {case},",
            NEAR,
        )
        attempt.agree(
            for_B,
            right_B,
            {
                "s is missing from B's gradient: what comes out of B is scaled.": right_B / s,
                "s comes twice into B's gradient.": right_B * s,
                "B's gradient is divided by the number of examples once more; g holds that already.": right_B / n,
                "B's gradient has the wrong sign: this is the gradient, not the step.": -right_B,
                "B's gradient needs what comes out of A, x Aᵀ, and not B.": s * g.T @ g @ B,
            },
            f"B's gradient, {case},",
            NEAR,
        )
        attempt.agree(
            for_x,
            right_x,
            {
                "x's gradient is missing what passes through A and B: s (g B) A.": g @ W,
                "x's gradient is missing what passes through W. Frozen means that W gets none, not that none passes.": (
                    s * (g @ B) @ A
                ),
                "x's gradient is divided by the number of examples once more; g holds that already.": right_x / n,
                "x's gradient has the wrong sign: this is the gradient, not the step.": -right_x,
                "s comes twice into x's gradient.": g @ W + s * s * (g @ B) @ A,
                "s is missing from the part of x's gradient that passes through A and B.": g @ W + (g @ B) @ A,
                "s got hold of W's part of x's gradient too; only the road through A and B is scaled.": s * right_x,
                "both parts of x's gradient are scaled; only the road through A and B is.": s * (g @ W + (g @ B) @ A),
            },
            f"x's gradient, {case},",
            NEAR,
        )
    return "Autograd agrees with all three. W gets no gradient of its own, yet x's passes through it."


def _by_autograd(x: Any, g: Any, W: Any, A: Any, B: Any, s: float) -> list[Any]:
    """What torch finds for A, B and x: the judge of the formulas."""
    import torch

    with torch.enable_grad():
        x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
        y = x @ W.T + s * (x @ A.T) @ B.T
        return list(torch.autograd.grad(y, (A, B, x), g))


@exercise(
    "03",
    "the first values",
    difficulty=1,
    importance=3,
    minutes=4,
    hints=(
        "Two lines: one of A and B is all zeros, the other is what nn.Linear would draw. Shapes: A reads, B writes.",
        "A = torch.empty(rank, in_features), filled by nn.init.kaiming_uniform_(A, a=5**0.5); B = torch.zeros(...).",
    ),
    expect=(
        "both zero: unchanged at the start, and for ever",
        "both random: the model is worse before it has seen an example",
        "the zeros on A: it runs and learns, but it is not what the paper and peft do",
        "numbers of size 1, or of size 1/√rank: A must shrink with the number of *inputs* that it adds up",
    ),
)
def first_values(attempt: Attempt) -> str:
    """A [rank, in] random, in ±1/√in or thereabouts, and B [out, rank] zero."""
    import torch

    with torch.random.fork_rng(devices=[]):
        for o, i, r in ((48, 400, 12), (60, 30, 16), (20, 2000, 1)):
            case = f"first_values({o}, {i}, {r})"
            A, B = attempt.several(attempt(o, i, r), 2, f"what {case} returns")
            shapes = [tuple(getattr(one, "shape", ())) for one in (A, B)]
            expect(
                shapes not in ([(o, r), (r, i)], [(i, r), (r, o)]),
                "the shapes are exchanged: A [rank, in] reads the inputs, B [out, rank] writes the outputs.",
            )
            expect(
                not any(hasattr(one, "weight") for one in (A, B)),
                "those are layers. Return their numbers, the weight of each: A and B are matrices.",
            )
            A, B = attempt.array(A, (r, i), f"A of {case}"), attempt.array(B, (o, r), f"B of {case}")
            expect(A.any() or B.any(), "both are zero. Each gradient is a product with the other: neither ever moves.")
            expect(
                not (A.any() and B.any()),
                "both are random: then B A is not zero, and the model is changed before it has seen one example.",
            )
            expect(
                A.any(),
                "the zeros are on A. That learns too, but the paper and peft have them on B, which acts last.",
            )
            _random_enough(A, case)
        again = attempt.array(attempt.several(attempt(20, 2000, 1), 2)[0], (1, 2000), "A of the second call")
        expect(
            not np.array_equal(again, A),
            "the same numbers at every call: with a seed set inside, all layers of a model would start with one A.",
        )
    return "B A is zero, so the model is unchanged; B's gradient is not, so it can learn."


def _random_enough(A: np.ndarray, case: str) -> None:
    """Raise NotYet unless A [r, in] looks drawn from about ±1/√in."""
    r, i = A.shape
    expect(bool(A.all()), "some of A's numbers are zero. Every one of them is drawn at random.")
    expect(
        np.linalg.matrix_rank(A.astype(float)) == min(r, i) and len(np.unique(A)) > i / 2,
        "A is not random: its numbers repeat, so its rows would all hear the same thing.",
    )
    expect(A.min() < 0 < A.max(), "all of A has one sign. Draw from both sides of zero: uniform in ±1/√in.")
    size = float(A.std()) * math.sqrt(3 * i)  # 1 for kaiming_uniform_ with a = √5
    if 0.7 < size / math.sqrt(i / r) < 1.4 and size > 1.9:
        raise NotYet(f"A is of size 1/√rank in {case}. It adds up `in` products: the size goes by 1/√in.")
    expect(size < 2.7, f"A's numbers are {size:.0f} times too large in {case}: about 1/√in is wanted.")
    expect(
        not 0.44 < size < 0.55,
        "A's numbers are half as large as nn.Linear's. (If they are kaiming_uniform_'s: a is 5**0.5, not 5.)",
    )
    expect(size > 0.44, f"A's numbers are {1 / size:.0f} times too small in {case}: about 1/√in is wanted.")


@exercise(
    "03",
    "a larger rank, and nothing changes",
    difficulty=3,
    importance=2,
    minutes=6,
    hints=(
        "The old pieces stay. What must the new rows of A and the new columns of B be, so that their product is zero "
        "and yet one of them can move? And then look at alpha / rank.",
        "New rows of A random, new columns of B zero, and alpha * new_rank / rank, so that alpha / rank stays.",
    ),
    expect=(
        "alpha left as it was: the factor alpha / rank shrinks, and the old pieces with it",
        "zeros in both new parts: the layer is unchanged, and the new directions never learn",
        "random numbers in both: the layer is changed",
    ),
)
def grow(attempt: Attempt) -> str:
    """A [new_rank, in], B [out, new_rank] and alpha of a larger adapter that adds what the given one adds."""
    import torch

    with torch.random.fork_rng(devices=[]):
        for seed, (o, i, r, new, alpha) in enumerate(((6, 9, 2, 5, 7.0), (12, 8, 1, 4, 2.0), (7, 7, 3, 4, 12.0))):
            A, B = numbers(20 + seed, (r, i), (o, r))
            found = attempt.several(attempt(A, B, alpha, new), 3, "what grow returns (A, B, alpha)")
            case = f"rank {r} to {new}"
            more_A, more_B = (
                attempt.array(found[0], (new, i), "the new A"),
                attempt.array(found[1], (o, new), "the new B"),
            )
            more_alpha = attempt.number(found[2], "the new alpha")
            expect(
                not _disturbed(more_A, more_B, A, B),
                "the new rows of A and columns of B are both random, so the layer is changed: one must be zero.",
            )
            update = (alpha / r * B @ A).numpy()
            old = close(more_A[:r], A, NEAR), close(more_B[:, :r], B, NEAR)
            expect(
                old[0] or not close(more_A[-r:], A, NEAR) or not old[1],
                "A's old rows are the last ones now, B's old columns still the first: row k belongs to column k.",
            )
            rounded = alpha * new // r / (alpha * new / r)
            attempt.agree(
                more_alpha / new * more_B @ more_A,
                update,
                {
                    f"alpha stayed at {alpha:g}: over a rank of {new} the factor alpha / rank is smaller, and the old "
                    "pieces count for less.": update * r / new,
                    "alpha is doubled: right from rank 8 to 16, but new_rank may be any.": 2 * update * r / new,
                    "that takes 8 for the old rank. It is the number of A's rows.": update * r / 8,
                    "alpha = 2 × rank is a habit. Here alpha / rank must stay what it was.": 2 * update * r / alpha,
                    "no root here: the factor is alpha / rank, and that must stay.": update * (r / new) ** 0.5,
                    "alpha is rounded. It need not be whole.": update * rounded,
                    "what was trained is lost: keep the old A and B, and add to them.": 0 * update,
                    "alpha goes the wrong way: the rank is larger, so alpha must be too.": update * (r / new) ** 2,
                    "the old factor alpha / rank was given as alpha: it is divided by the rank again.": update / new,
                    "the scaling is made up for twice: in alpha and in A or B.": update * new / r,
                },
                f"{case}: what the larger adapter adds",
                NEAR,
            )
            stuck = not more_A[r:].any() and not more_B[:, r:].any()
            expect(
                not stuck, "both new parts are zero: each gradient is a product with the other, so they never learn."
            )
            expect(
                max(np.linalg.matrix_rank(more_A), np.linalg.matrix_rank(more_B)) == new,
                "the new rows of A only repeat or mix the old ones: they hear nothing new. Draw them at random.",
            )
    return "The layer does what it did, and the new rows wait for their first step, as A did at the very start."


def _disturbed(more_A: np.ndarray, more_B: np.ndarray, A: Any, B: Any) -> bool:
    """Whether the old pieces are in place, and the new ones add something beside them."""
    r = A.shape[0]
    return bool(close(more_A[:r], A, NEAR) and close(more_B[:, :r], B, NEAR) and (more_B[:, r:] @ more_A[r:]).any())
