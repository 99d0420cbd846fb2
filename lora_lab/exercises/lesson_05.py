"""Checks of lesson 05, rank."""

from __future__ import annotations

from math import comb
from statistics import mean, median

import numpy as np

from lora_lab import lowrank
from lora_lab.attempt import Attempt, NotYet, expect, short
from lora_lab.exercises import exercise


@exercise(
    "05",
    "by luck alone",
    difficulty=1,
    importance=2,
    minutes=3,
    hints=(
        "All ways to deal ten losses into two hands of five are equally likely. How many ways are there?",
        "Choose five of ten: math.comb(10, 5) ways, and in just one of them the first hand holds the five smallest.",
    ),
    expect=("one half: true for one loss a hand", "2 / 252: either of the two beats the other", "counts of orders"),
)
def by_luck(attempt: Attempt) -> str:
    """The chance that five of ten shuffled losses are all below the other five."""
    got, ways = attempt.number(attempt.answer, "by_luck"), comb(10, 5)
    mistakes = {
        "that is the number of ways to deal. In one of them the first hand holds the five smallest: how likely?": ways,
        "that counts either hand as the winner. Only the first beating the second is asked.": 2 / ways,
        "a half would be right for one loss a hand. Here all five must be below all five.": 1 / 2,
        "1/32 takes five independent tosses. The hands are dealt from one pile: each loss can go to one only.": 0.5**5,
        "that is the order within a hand. Which five are in it counts, not how they are sorted.": 1 / 120,
        "that counts orders of ten losses. How they are sorted within a hand does not matter.": 1 / 3628800,
        "that counts ordered choices of five. The order within the hand does not matter: divide by 5!.": 1 / 30240,
        "one in ten would be right for one loss, the lowest of ten. Here all five must be the lowest.": 1 / 10,
        "1/1024 takes ten independent tosses. Five losses go to each: not every row of tosses is possible.": 0.5**10,
        "in per cent. A chance is between 0 and 1: divide by 100.": 100 / ways,
    }
    expect(0 <= got <= 1 or got in mistakes.values(), f"{short(got)} is no chance: that is between 0 and 1.")
    side = "large" if got > 1 / ways else "small"
    otherwise = f"a chance of {short(got)} is too {side}. In how many ways can ten be dealt, five to each?"
    attempt.agree(got, 1 / ways, mistakes, tolerance=0.01, otherwise=otherwise)
    return f"One time in {ways}."


@exercise(
    "05",
    "which rank do you *need*?",
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "Go through the ranks from small to large, and stop at the first whose mean is enough.",
        "`for rank in sorted(shares): if mean(shares[rank]) >= wanted: return rank`, and after the loop `return None`.",
    ),
    expect=(
        "the largest rank where none is enough, instead of None",
        "the best or worst seed instead of the mean",
        "the largest rank that is enough",
    ),
)
def needed(attempt: Attempt) -> str:
    """The smallest rank whose mean share is at least what is wanted; None if there is none."""
    # Chosen so that each mistake shows somewhere where no other gives the same rank; means that are exact in binary.
    shares = {
        1: [0.5, 0.25, 0.6875],
        2: [0.6875, 0.84375, 0.90625],
        4: [0.9375, 0.8125, 1.0625],
        8: [0.625, 0.875, 1.0],
        16: [0.875, 0.875, 0.875],
    }

    def by(measure, wanted, ranks=tuple(shares), more=False):
        enough = [r for r in ranks if (measure(shares[r]) > wanted if more else measure(shares[r]) >= wanted)]
        return enough[0] if enough else -1

    for wanted in (0.45, 0.75, 0.88, 0.83, 0.8125, 0.9375, 0.99):
        got, right = attempt(shares, wanted, may_be_none=True), by(mean, wanted)
        case = f"wanted = {wanted} and means {', '.join(f'{mean(v):.3f}' for v in shares.values())}"
        expect(not isinstance(got, list | tuple | set), "those are ranks in a list. Only one is asked for, or None.")
        if right == -1:
            expect(got is None, f"for {case}: no rank is enough, so say None; yours says {short(got)}.")
            continue
        if got is None and by(mean, wanted, more=True) == -1:
            raise NotYet("at least means >=, not >: a rank that reaches it exactly is enough, and yours says None.")
        expect(
            got is not None,
            f"for {case}: rank {right} is enough, and yours gives None. Is it >=, is there a return, and does "
            "`return None` come after the loop, when all ranks have been tried?",
        )
        attempt.agree(
            attempt.whole(got, "the rank"),
            right,
            {
                "at least means >=, not >: a rank that reaches it exactly is enough.": by(mean, wanted, more=True),
                "that goes by the first seed alone: ask for the *mean* of them.": by(lambda seeds: seeds[0], wanted),
                "the worst seed is too strict: ask whether the *mean* of the seeds is at least `wanted`.": (
                    by(min, wanted)
                ),
                "the middle seed is not the mean: add up the seeds and divide.": by(median, wanted),
                "the best seed may be luck: ask whether the *mean* of the seeds is at least `wanted`.": (
                    by(max, wanted)
                ),
                "that one is enough, but a smaller one is too. Begin with the smallest.": (
                    by(mean, wanted, tuple(shares)[::-1])
                ),
                "that is the first rank, and its mean is not enough. Take the mean of shares[rank] for each rank.": 1,
                "that is a place in the list, not the rank itself.": list(shares).index(right),
            },
            case=case,
            tolerance=0,
        )
    backwards = {rank: shares[rank] for rank in reversed(shares)}
    got = attempt(backwards, 0.75, may_be_none=True)
    expect(got == 2, "the ranks may come in any order, and you take the first that is enough. Go through them sorted.")
    return ""


@exercise(
    "05",
    "the Pareto front",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "Write `dominates(other, row)` first: no worse in both, and not equal in both.",
        "Keep a row if not any(dominates(other, row) for other in rows). Two equal rows do not dominate each other.",
    ),
    expect=(
        "strictly better in both asked: keeps rows that are dominated in one loss",
        "equal rows knocked out",
        "only the best in one loss",
    ),
)
def front(attempt: Attempt) -> str:
    """The rows that no other dominates in "loss" and "base_loss", in their order."""
    points = [(1, 5), (2, 2), (2, 3), (4, 1), (3, 3), (1, 6), (5, 1)]
    right = [(1, 5), (2, 2), (4, 1)]
    rows = [{"loss": a, "base_loss": b} for a, b in points]

    def kept(rows):
        got = attempt(rows)
        expect(isinstance(got, list | tuple), f"front returns a list of rows, not {short(got)}.")
        expect(
            all(any(row is one or row == one for one in rows) for row in got),
            "every entry must be one of the rows that were given, a dict as it is.",
        )
        return [(row["loss"], row["base_loss"]) for row in got]

    got = kept(rows)
    if not got:
        expect(kept(rows[1:3]), "nothing is left. A row is no worse than itself: it must not count as its own rival.")
        raise NotYet("nothing is left. To be worse in one loss is no defeat yet: no worse in *both*, better in one.")
    expect(sorted(got) != sorted(set(points) - set(right)), "those are the dominated ones. Keep the others.")
    expect(set(got) != {(3, 3), (1, 6), (5, 1)}, "that keeps the largest losses. Here less is better.")
    expect((2, 3) not in got or (3, 3) in got, "(2, 3) is as good as (2, 2) in one loss and worse in the other: out.")
    expect((3, 3) not in got, "(3, 3) is worse than (2, 2) in both losses, and yet it is in.")
    if len(got) == 1:
        raise NotYet("one row alone: the best in one loss, or in the sum. A front keeps every row nobody dominates.")
    expect((1, 5) in got, "(1, 5) is missing: no other row is at least as good in both losses.")
    expect((4, 1) in got and (2, 2) in got, "(2, 2) and (4, 1) belong to the front: a trade is no defeat.")
    expect((1, 6) not in got, "(1, 6) is as good as (1, 5) in the first loss, worse in the second: it is dominated.")
    expect((5, 1) not in got, "(5, 1) is as good as (4, 1) in the second loss, worse in the first: it is dominated.")
    expect(sorted(got) == right, f"the front is {right}; yours is {got}.")
    expect(got == right, "the right rows, but not in the order in which they were given.")
    twice = kept([rows[0], dict(rows[0])])
    expect(
        len(twice) == 2,
        "two equal runs do not dominate each other, so both stay: one would have to be *better* in something.",
    )
    return ""


@exercise(
    "05",
    "do two runs find the same directions?",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "np.linalg.svd(matrix)[2] is Vt; its first i *rows* are the leading right singular vectors.",
        "np.sum((V[:i] @ U[:j].T) ** 2) / min(i, j), with V and U the Vt of the first and the second.",
    ),
    expect=("left vectors instead of right ones", "divided by the larger count, or not at all", "columns of Vt"),
)
def phi(attempt: Attempt) -> str:
    """How much the leading i right singular vectors of one and j of the other share."""
    one, two = np.random.default_rng(0).normal(size=(2, 7, 6))

    def shared(V, U, i, j, power=2):
        return np.sum(np.abs(V[:i] @ U[:j].T) ** power)

    (left, _, V), (left2, _, U) = np.linalg.svd(one), np.linalg.svd(two)
    for i, j in ((2, 3), (3, 2), (1, 4), (2, 2)):
        got = attempt.number(attempt(one, two, i, j), "phi")
        total = shared(V, U, i, j)
        attempt.agree(
            got,
            lowrank.overlap(one, two, i, j),
            {
                "those are the left singular vectors. np.linalg.svd gives U, s, Vt: take the third.": (
                    shared(left.T, left2.T, i, j) / min(i, j)
                ),
                "the right singular vectors are the *rows* of Vt; you took columns.": shared(V.T, U.T, i, j)
                / min(i, j),
                "a sum without its division: divide by the smaller of i and j.": total,
                "divide by the smaller of i and j, not by the larger: then one that holds the other gives 1.": (
                    total / max(i, j)
                ),
                "divide by the smaller of i and j, not by their product.": total / (i * j),
                "first square each entry, then add them up; yours squares the sum.": (
                    np.sum(V[:i] @ U[:j].T) ** 2 / min(i, j)
                ),
                "a norm is the root of the sum of squares: square it before you divide.": np.sqrt(total) / min(i, j),
                "i belongs to the first matrix and j to the second; you took them the other way round.": (
                    shared(V, U, j, i) / min(i, j)
                ),
                "those are the vectors of all directions: keep the first i and the first j.": (
                    shared(V, U, None, None) / min(i, j)
                ),
                "each entry is to be squared before you add.": shared(V, U, i, j, power=1) / min(i, j),
                "no root at the end: φ is the sum of squares itself, over the smaller of i and j.": np.sqrt(
                    total / min(i, j)
                ),
                "the *last* singular vectors: numpy sorts from large to small, so take the first rows.": (
                    shared(V[::-1], U[::-1], i, j) / min(i, j)
                ),
            },
            case=f"i = {i}, j = {j}",
            tolerance=1e-6,
        )
    return ""
