"""Checks of lesson 09, variants: VeRA written out as LoRA, and a block in four bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet
from lora_lab.exercises import exercise
from lora_lab.exercises.lesson_09 import CLOSE, shape_of


@exercise(
    "09",
    "VeRA is a LoRA",
    difficulty=1,
    importance=1,
    minutes=3,
    hints=(
        "diag(d) A multiplies each row of A by its number of d; diag(b) B each row of B by its number of b.",
        "In torch a vector [rank] meets the rows of A [rank, in] as d[:, None] * A.",
    ),
    expect=("b or d left out", "b divided instead of multiplied", "columns scaled in place of rows"),
)
def as_lora(attempt: Attempt) -> str:
    """A' and B' of the plain LoRA whose product is diag(b) B diag(d) A."""
    import torch

    dice = torch.Generator().manual_seed(9)
    for out, rank, wide in ((3, 3, 3), (5, 2, 4), (2, 6, 3)):
        A, B, d, b = (torch.randn(*shape, generator=dice) for shape in ((rank, wide), (out, rank), (rank,), (out,)))
        a_new, b_new = attempt.several(attempt(A, B, d, b), 2, "the answer, A' and B',")
        if shape_of(a_new) == (out, rank) != (rank, wide) and shape_of(b_new) == (rank, wide):
            raise NotYet("that is B' first and then A': the exercise wants A' first.")
        a_new = attempt.array(a_new, (rank, wide), "A'")
        b_new = attempt.array(b_new, (out, rank), "B'")
        D, E = torch.diag(d), torch.diag(b)
        mistakes = {
            "b is left out: it scales what comes out of B, a row for each output.": B @ D @ A,
            "d is left out: it scales what comes out of A, a row for each of its numbers.": E @ B @ A,
            "neither d nor b is in it: that is the adapter that all layers share.": B @ A,
            "B is divided by b; diag(b) B multiplies each row.": (B / b[:, None]) @ D @ A,
            "A is divided by d; diag(d) A multiplies each row.": E @ B @ (A / d[:, None]),
            "d is on A and on B, and so counts twice: one of them is enough.": E @ B @ D @ D @ A,
        }
        if out == rank == wide:
            mistakes |= {
                "d scales A's columns, which are inputs; it belongs to A's rows: d[:, None].": E @ B @ A @ D,
                "b scales B's columns; it belongs to B's rows, the outputs: b[:, None].": B @ E @ D @ A,
                "both scale columns; diag(d) A and diag(b) B scale rows: d[:, None], b[:, None].": B @ E @ A @ D,
                "d and b are exchanged: d belongs to A, b to B.": D @ B @ E @ A,
                "b is on A's rows; it belongs to B's rows, the outputs.": B @ E @ A,
                "both A' and B' are transposed.": (E @ B).T @ (D @ A).T,
                "that is B' first and then A': the exercise wants A' first.": D @ A @ E @ B,
            }
        attempt.agree(
            b_new @ a_new,
            E @ B @ D @ A,
            mistakes,
            case=f"A [{rank}, {wide}]: B' A',",
            tolerance=CLOSE,
        )
    return "So any program that reads LoRA can read VeRA; only the file is no longer small."


@exercise(
    "09",
    "quantise a block",
    difficulty=2,
    importance=3,
    minutes=6,
    hints=(
        "largest = block.abs().max(); the levels run from -1 to 1, so compare them with block / largest.",
        "(block[:, None] / largest - levels) has the distance of every number to every level: argmin over dim=1.",
    ),
    expect=(
        "divided by block.max(): where the largest number is negative, others fall outside",
        "not scaled back",
        "16 even levels of one's own",
        "rounded down to a level instead of to the nearest",
    ),
)
def through_four_bits(attempt: Attempt) -> str:
    """The block [64] after scaling by its largest absolute value, rounding to the nearest level, and scaling back."""
    import torch

    from lora_lab.quantise import LEVELS, dequantise, quantise

    dice = torch.Generator().manual_seed(9)
    few = torch.tensor([-1.0, -0.3, 0.0, 0.2, 1.0])
    for levels in (LEVELS, few, LEVELS):
        block = 0.05 * torch.randn(64, generator=dice)
        block[7] = -1.5 * block.abs().max()  # the largest is a negative one
        largest = block.abs().max()

        def nearest(values: Any, levels: Any = levels) -> Any:
            return levels[(values[:, None] - levels).abs().argmin(dim=1)]

        def below(values: Any, levels: Any = levels) -> Any:
            return levels[(torch.searchsorted(levels, values, right=True) - 1).clamp(0, len(levels) - 1)]

        def above(values: Any, levels: Any = levels) -> Any:
            return levels[torch.searchsorted(levels, values).clamp(0, len(levels) - 1)]

        apart = (block[:, None] / largest - levels).abs()
        index, far = apart.argmin(dim=1), apart.min(dim=1).values
        right = nearest(block / largest) * largest
        if levels is LEVELS:
            right = dequantise(quantise(block, double=False))
        got = attempt.array(attempt(block, levels), (64,), "the block")
        off = np.flatnonzero(np.abs(got - right.numpy()) > 1e-6)
        first = int(off[0]) if len(off) else 0
        even = torch.linspace(-1, 1, 16)
        attempt.agree(
            got,
            right,
            {
                "the block was not scaled at all: its numbers are far smaller than most levels.": nearest(block),
                "not scaled back: multiply by the largest absolute value again.": nearest(block / largest),
                "divided by block.max(), but the largest number of this block is a negative one: block.abs().max().": (
                    nearest(block / block.max()) * block.max()
                ),
                "those are 16 evenly spaced levels; use the `levels` that are given.": nearest(block / largest, even)
                * largest,
                "those are NF4's levels; use the `levels` that are given, whatever they are.": (
                    nearest(block / largest, LEVELS) * largest
                ),
                "rounded down to the next level below; the nearest one may be above.": below(block / largest) * largest,
                "rounded up to the next level above; the nearest one may be below.": above(block / largest) * largest,
                "that gives back the block as it was: nothing was rounded.": block,
                "those are the numbers of the levels, 0, 1, 2, ...: look the levels up, levels[numbers].": index,
                "those are the numbers of the levels, scaled back: look the levels up first, levels[numbers].": (
                    index * largest
                ),
                "that is how far the nearest level is; asked is the level: argmin, then levels[...].": far,
                "that is how far the nearest level is, scaled back; asked is the level: argmin, then levels[...].": (
                    far * largest
                ),
                "without abs() the smallest difference is the most negative one, to the highest level.": (
                    levels[-1] * largest * torch.ones(64)
                ),
                "divided by the largest twice: scaling back multiplies.": nearest(block / largest) / largest,
                "those are 15 even steps, from -7 to 7; use the `levels` that are given.": (
                    (block / largest * 7).round() / 7 * largest
                ),
                "divided by the norm: the largest absolute value should become 1.": nearest(block / block.norm())
                * block.norm(),
                "divided by block.min(), which turns every sign: take block.abs().max().": nearest(block / block.min())
                * block.min(),
                "divided by the standard deviation: the largest numbers then lie outside of -1 to 1.": (
                    nearest(block / block.std()) * block.std()
                ),
                f"{len(off)} of 64 numbers differ; number {first}, {block[first]:.5f}, became {got[first]:.5f} and "
                f"should be {right[first]:.5f}.": got,
            },
            case="a block of 64",
            tolerance=1e-5,
        )
    return "One scale for 64 numbers, and four bits for each."
