"""Checks of lesson 02, low rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_lab import lowrank
from lora_lab.attempt import Attempt, NotYet, close, expect
from lora_lab.exercises import exercise


@exercise(
    "02",
    "two adapters at once",
    difficulty=1,
    importance=3,
    minutes=4,
    hints=(
        "B1 A1 is a sum of pieces, column times row, and so is B2 A2. Put all pieces into one pair of matrices.",
        "A1's rows above A2's rows, np.vstack([A1, A2]); B1's columns beside B2's, np.hstack([B1, B2]).",
    ),
    expect=(
        "A1 + A2 and B1 + B2: that makes the cross terms B1 A2 and B2 A1",
        "the two halves of B in the other order than those of A",
    ),
)
def add_adapters(attempt: Attempt) -> str:
    """A [r, in] and B [out, r] with B @ A = B1 @ A1 + B2 @ A2."""
    draw = np.random.default_rng(2)
    for o, i, r1, r2 in ((8, 9, 2, 2), (7, 6, 2, 3), (5, 4, 1, 1)):  # equal ranks first: there the sum of factors runs
        A1, B1, A2, B2 = (draw.normal(size=shape) for shape in ((r1, i), (o, r1), (r2, i), (o, r2)))
        A, B = attempt.several(attempt(A1, B1, A2, B2), 2, "the result (A, B)")
        case = f"ranks {r1} and {r2}"
        if r1 == r2 and np.shape(getattr(A, "shape", ())) == (2,) and A.shape == A1.shape:
            expect(
                not close(A, A1 + A2),
                "the factors are added up. (B1 + B2)(A1 + A2) has the cross terms B1 A2 and B2 A1 in it.",
            )
            expect(
                not close(A, (A1 + A2) / 2),
                "the factors are averaged. Their product has the cross terms B1 A2 and B2 A1 in it.",
            )
            expect(not (close(A, A1) or close(A, A2)), "that is one of the two adapters; the other is lost.")
        sizes = tuple(getattr(A, "shape", ())), tuple(getattr(B, "shape", ()))
        expect(
            sizes != ((i, r1 + r2), (r1 + r2, o)),
            "both are transposed: A [r, in] has the pieces as rows, B [out, r] has them as columns.",
        )
        expect(
            sizes != ((o, r1 + r2), (r1 + r2, i)),
            "exchanged: A [r, in] comes first, then B [out, r].",
        )
        expect(
            sizes[0] != (r1, 2 * i) or r1 != r2,
            "the A's stand side by side. Row k of A reads the inputs: put A2's rows below A1's.",
        )
        expect(
            sizes[1] != (2 * o, r1) or r1 != r2,
            "the B's stand one below the other. Column k of B writes the outputs: put B2's columns beside B1's.",
        )
        r = sizes[0][0] if len(sizes[0]) == 2 and 0 < sizes[0][0] <= o + i else r1 + r2
        expect(r <= r1 + r2, f"rank {r} for {case}: {r1} pieces and {r2} pieces are {r1 + r2} at most.")
        A, B = attempt.array(A, (r, i), f"A, {case},"), attempt.array(B, (o, r), f"B, {case},")
        attempt.agree(
            B @ A,
            B1 @ A1 + B2 @ A2,
            {
                "column k of B must meet its own row k of A: B's halves are in the other order than A's.": (
                    np.hstack([B2, B1]) @ np.vstack([A1, A2]) if r1 == r2 else 0
                ),
                "that is one of the two adapters; the other is lost.": B1 @ A1,
                "that is the second adapter; the first is lost.": B2 @ A2,
                "that is half of the sum: adapters add up, they are not averaged.": (B1 @ A1 + B2 @ A2) / 2,
                "that is a quarter of the sum: both A and B were halved.": (B1 @ A1 + B2 @ A2) / 4,
                "that is the difference of the two.": B1 @ A1 - B2 @ A2,
                "that is twice the sum.": 2 * (B1 @ A1 + B2 @ A2),
            },
            f"{case}, B A:",
        )
    return "Rank 2 and rank 3 together have rank 5, and no more."


@exercise(
    "02",
    "how much is enough?",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "Square the values, add them up one after another (np.cumsum), and divide by the last sum. Where is it enough?",
        "np.argmax(kept >= share) is the first place where it is enough; places count from 0, ranks from 1.",
    ),
    expect=(
        "the values added up instead of their squares",
        "one too few: place 0 is rank 1",
        "more than the share instead of the share: seen only where it is met exactly",
    ),
)
def rank_for(attempt: Attempt) -> str:
    """The smallest r whose r largest singular values hold `share` of the sum of squares."""
    # In the first, every mistake known gives a number of its own.
    long = [29, 25, 24, 19, 17, 16, 14, 13, 12, 10, 9, 7, 2]
    for values, share in ((long, 0.7), ([2, 1], 0.75), ([2, 1], 0.85), ([4, 3, 0], 1.0), ([1, 1], 0.5)):
        values = np.array(values, dtype=float)
        got = attempt.whole(attempt(values, share), "what rank_for returns")
        right = _first(values**2, share)
        attempt.agree(
            got,
            right,
            {
                "that goes by the values. Shares go by their squares: 2 and 1 hold 80 % and 20 %.": _first(
                    values, share
                ),
                "one too few: the value that reaches the share counts too, and place 0 of the list is rank 1.": right
                - 1,
                "that takes more than the share; where it is met exactly, it is enough.": (
                    int((np.cumsum(values**2) <= share * (values**2).sum()).sum()) + 1
                ),
                "one too many. How much do the values before the last one hold already?": right + 1,
                "that counts from the smallest value; the largest come first.": _first(values[::-1] ** 2, share),
                "that is the rank that leaves this share missing, and not the one that keeps it.": (
                    _first(values**2, 1 - share)
                ),
                "that is all of them: where does the running sum reach the share?": len(values),
                "you count the ranks that are enough. Asked for is the first of them.": (
                    int((np.cumsum(values**2) >= share * (values**2).sum()).sum())
                ),
                "too few. Is each share a sum of squares over the sum of all, and `share` as it was given?": _first(
                    values**2, share**2
                ),
                "rank 1 at once. Is the running sum of squares divided by the sum of all, and is it the first place "
                "that reaches the share?": 1,
                "that is a share of the number of values. They do not weigh alike: go by their squares.": (
                    math.ceil(share * len(values))
                ),
            },
            f"values {values.astype(int).tolist()} and share {share}",
            0,
        )
    return "With it one can say of any matrix how many pieces matter."


def _first(parts: np.ndarray, share: float) -> int:
    """How many of the parts, from the first on, it takes for this share of them all."""
    kept = np.cumsum(parts) / parts.sum()
    return int(np.argmax(kept >= share)) + 1


@exercise(
    "02",
    "the best correction for the data",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "Three steps: weigh each column (input i belongs to column i), cut, and take the weight out again.",
        "root = np.sqrt(variance); cut(change * root, rank) / root. In numpy `change * root` weighs columns.",
    ),
    expect=(
        "cut without weighing: the nearest matrix, and not the best correction",
        "weighed, but never undone",
        "by the variance instead of its root: errors count in squares",
        "rows weighed, which a square matrix lets through",
    ),
)
def best_on_data(attempt: Attempt) -> str:
    """The correction of this rank with the least mean ‖(change - correction) x‖², x_i of variance variance[i]."""
    draw = np.random.default_rng(3)
    for o, i, rank in ((6, 6, 2), (5, 8, 3), (9, 4, 1)):
        change, variance = draw.normal(size=(o, i)), 4.0 / np.arange(1, i + 1) ** 1.5
        found = attempt.array(attempt(change, variance, rank), (o, i), "the correction")
        right = lowrank.data_truncate(change, np.diag(variance), rank)
        root = np.sqrt(variance)
        case = f"a change [{o}, {i}] at rank {rank}"
        mistakes: dict[str, Any] = {
            "that is the nearest matrix. The data have no say in it: weigh the columns first.": _cut(change, rank),
            "the weighing is not undone: divide by the root again after the cut.": _cut(change * root, rank),
            "weighed by the variance. It is the root: errors count in squares.": (
                _cut(change * variance, rank) / variance
            ),
            "weighed by the variance, and not undone.": _cut(change * variance, rank),
            "weighed by the root, but divided by the variance.": _cut(change * root, rank) / variance,
            "weighed the wrong way: divided first and multiplied after. Inputs that vary more count for more.": (
                _cut(change / root, rank) * root
            ),
            "undone before the cut, so that nothing was weighed.": _cut(change * root / root, rank),
            "that is the change itself, and not of the rank that was asked for.": change,
            "weighed twice: multiplied again after the cut, where the weight must come out.": (
                _cut(change * root, rank) * root
            ),
            "cut at one rank less.": lowrank.data_truncate(change, np.diag(variance), rank - 1)
            if rank > 1
            else 0 * right,
            "weighed after the cut. The weights must be there when it is decided what to keep.": _cut(change, rank)
            * root,
            "cut without the weights: they come in before the cut, and out after it.": _cut(change, rank) / root,
            "weighed by the variance, but undone by its root. It is the root both times.": (
                _cut(change * variance, rank) / root
            ),
            "nothing is cut here: that is the change, weighed.": change * root,
            "weighed the wrong way, and not undone.": _cut(change / root, rank),
            "cut at one rank more.": lowrank.data_truncate(change, np.diag(variance), rank + 1),
        }
        if o == i:
            weigh = root[:, None]
            mistakes["the rows were weighed. Input i is read by column i."] = _cut(change * weigh, rank) / weigh
        attempt.agree(found, right, mistakes, case, 1e-6)
    return "Nothing of that rank leaves less missing on such data: it lies on the floor."


def _cut(matrix: np.ndarray, rank: int) -> np.ndarray:
    return lowrank.truncate(matrix, rank)


@exercise(
    "02",
    "how many ranks do these data need?",
    difficulty=3,
    importance=2,
    minutes=6,
    hints=(
        "A correction is perfect when it gives the change's outputs on all the examples. What are those outputs, as a "
        "matrix [n, out], and what is the least number of pieces for them?",
        "np.linalg.matrix_rank(x @ change.T): the rank of the outputs, and not of the change, nor of the inputs.",
    ),
    expect=(
        "the rank of the change: more than the data ask for",
        "the rank of the inputs: too many where the change leaves some of their directions alone",
        "the smaller of the two: right nearly always, and an upper bound",
    ),
)
def rank_needed(attempt: Attempt) -> str:
    """The smallest rank at which a correction can give what the change [out, in] gives, on the examples x [n, in]."""
    for change, x, seen in _needs(np.random.default_rng(5)):
        rank: Callable[[Any], int] = np.linalg.matrix_rank
        got = attempt.whole(attempt(change, x), "the rank")
        here = seen.removeprefix("here ")
        right = int(rank(x @ change.T))
        of_change, of_x = int(rank(change)), int(rank(x))
        if got != right and got == min(of_change, of_x) and of_x != right != of_change:
            raise NotYet(
                f"{got} is the smaller of the two ranks, an upper bound. Here {here}: it does nothing in some of their "
                f"directions, so {right} is enough."
            )
        attempt.agree(
            got,
            right,
            {
                f"that is the rank of the change. Here {here}: the data show less of it.": of_change,
                f"that is the rank of the inputs. Here {here}: the outputs on them can have less.": of_x,
                "that is the number of examples. Many of them are mixes of the others.": len(x),
                "that is the width of the inputs. They do not use all of it.": x.shape[1],
                "that is the width of the outputs. On these examples they do not use all of it.": len(change),
                "one too many: it is perfect, but so is a smaller one.": right + 1,
                "one too few: something must then be missing on these examples.": right - 1,
                "that adds the two ranks up. A product has the smaller of them at most.": of_change + of_x,
                "that multiplies the two ranks. A product has the smaller of them at most.": of_change * of_x,
                "C^½ has rounding errors near 1e-8 in the place of zeros, and they are counted. Give matrix_rank a "
                "tol, or take the rank of the outputs x @ change.T.": int(rank(change @ _root(x))),
            },
            f"a change of rank {of_change} and inputs of rank {of_x}",
            0,
        )
    return "The rank that suffices is never more than the number of directions in the data, whatever the change."


def _needs(draw: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Changes, examples and a line about each: what the data use, what the change does, and where the two overlap."""
    turn = np.linalg.qr(draw.normal(size=(12, 12)))[0]
    use = [draw.normal(size=(31, len(d))) @ turn[d] for d in ([0, 1, 2], range(7), range(4, 9))]
    act = [draw.normal(size=(11, len(d))) @ turn[d] for d in (range(10), [2, 3], range(6))]
    seen = (
        "here the change has rank 10, and the data 3 directions",
        "here the change has rank 2, and the data 7 directions",
        "here the change has rank 6, the data 5 directions, of which the change acts on 2",
    )
    return list(zip(act, use, seen, strict=True))


def _root(x: np.ndarray) -> np.ndarray:
    """C^½ for C = the mean of x xᵀ, as one computes it: negative eigenvalues, which are rounding, set to zero."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
