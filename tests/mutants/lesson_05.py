"""Answers to the exercises of lesson 05."""

from __future__ import annotations

from statistics import mean

import numpy as np

from lora_lab import lowrank
from tests.mutants import right, right_value, wrong, wrong_value

right_value("by_luck", 1 / 252)
right_value("by_luck", 0.00397, label="rounded")
wrong_value("by_luck", 252, says="number of ways to deal")
wrong_value("by_luck", 2 / 252, says="either hand", label="either")
wrong_value("by_luck", 1 / 2, says="one loss a hand", label="a half")
wrong_value("by_luck", 0.5**5, says="independent tosses", label="tosses")
wrong_value("by_luck", 1 / 120, says="order within a hand", label="five factorial")
wrong_value("by_luck", 1 / 3628800, says="orders of ten", label="ten factorial")
wrong_value("by_luck", 1 / 30240, says="ordered choices", label="ordered")
wrong_value("by_luck", 100 / 252, says="per cent", label="per cent")

wrong_value("by_luck", 1 / 1024, says="ten independent tosses", label="ten tosses")
wrong_value("by_luck", 0.25, says="too large. In how many ways", label="a quarter")


@right("needed")
def in_a_loop(shares, wanted):
    for rank in sorted(shares):
        if mean(shares[rank]) >= wanted:
            return rank
    return None


@right("needed")
def by_the_least(shares, wanted):
    return min((rank for rank, values in shares.items() if np.mean(values) >= wanted), default=None)


@wrong("needed", says="so say None")
def largest_if_none(shares, wanted):
    return next((rank for rank in shares if mean(shares[rank]) >= wanted), max(shares))


@wrong("needed", says="best seed may be luck")
def best_seed(shares, wanted):
    return next((rank for rank in shares if max(shares[rank]) >= wanted), None)


@wrong("needed", says="worst seed is too strict")
def worst_seed(shares, wanted):
    return next((rank for rank in shares if min(shares[rank]) >= wanted), None)


@wrong("needed", says="Begin with the smallest")
def from_the_top(shares, wanted):
    return next((rank for rank in sorted(shares, reverse=True) if mean(shares[rank]) >= wanted), None)


@wrong("needed", says="means >=, not >")
def more_than(shares, wanted):
    return next((rank for rank in shares if mean(shares[rank]) > wanted), None)


@wrong("needed", says="place in the list")
def a_place(shares, wanted):
    return next((at for at, rank in enumerate(shares) if mean(shares[rank]) >= wanted), None)


@wrong("needed", says="it should be 1", plain=True)
def always_eight(shares, wanted):
    return 8


@wrong("needed", says="come after the loop")
def gives_up_at_the_first(shares, wanted):
    for rank in sorted(shares):
        return rank if mean(shares[rank]) >= wanted else None


@wrong("needed", says="middle seed")
def middle_seed(shares, wanted):
    return next((rank for rank in shares if np.median(shares[rank]) >= wanted), None)


@wrong("needed", says="first seed alone")
def first_seed(shares, wanted):
    return next((rank for rank in shares if shares[rank][0] >= wanted), None)


@wrong("needed", says="that is the first rank")
def mean_of_the_ranks(shares, wanted):
    return next((rank for rank in shares if mean(shares) >= wanted), None)


@wrong("needed", says="ranks in a list")
def all_that_are_enough(shares, wanted):
    return [rank for rank in shares if mean(shares[rank]) >= wanted]


@wrong("needed", says="in any order")
def not_sorted(shares, wanted):
    return next((rank for rank in shares if mean(shares[rank]) >= wanted), None)


def _dominates(other, row):
    a, b = (other["loss"], other["base_loss"]), (row["loss"], row["base_loss"])
    return a != b and a[0] <= b[0] and a[1] <= b[1]


@right("front")
def by_definition(rows):
    return [row for row in rows if not any(_dominates(other, row) for other in rows)]


@right("front")
def by_sorting(rows):
    kept, best = [], float("inf")
    for row in sorted(rows, key=lambda r: (r["loss"], r["base_loss"])):
        if row["base_loss"] < best or any(row == other for other in kept):
            kept.append(row)
            best = row["base_loss"]
    return [row for row in rows if row in kept]


@wrong("front", says="as good as (2, 2) in one loss")
def strictly_better_in_both(rows):
    def beaten(row):
        return any(o["loss"] < row["loss"] and o["base_loss"] < row["base_loss"] for o in rows)

    return [row for row in rows if not beaten(row)]


@wrong("front", says="two equal runs")
def equals_knocked_out(rows):
    def beaten(row, other):
        return other is not row and other["loss"] <= row["loss"] and other["base_loss"] <= row["base_loss"]

    return [row for row in rows if not any(beaten(row, other) for other in rows)]


@wrong("front", says="its own rival")
def beaten_by_itself(rows):
    return [
        row for row in rows if not any(o["loss"] <= row["loss"] and o["base_loss"] <= row["base_loss"] for o in rows)
    ]


@wrong("front", says="one row alone")
def best_sum(rows):
    return [min(rows, key=lambda row: row["loss"] + 2 * row["base_loss"])]


@wrong("front", says="not in the order")
def sorted_front(rows):
    return sorted(by_definition(rows), key=lambda row: row["base_loss"])


@wrong("front", says="and yet it is in")
def everything(rows):
    return list(rows)


@wrong("front", says="(1, 5) is missing")
def one_loss_decides(rows):
    return [row for row in by_definition(rows) if row["loss"] >= 2]


def _without(rows, beats):
    pairs = [(row["loss"], row["base_loss"]) for row in rows]
    return [row for row, b in zip(rows, pairs, strict=True) if not any(beats(a, b) for a in pairs)]


@wrong("front", says="no defeat yet")
def worse_in_one_is_out(rows):
    return _without(rows, lambda a, b: a[0] < b[0] or a[1] < b[1])


@wrong("front", says="in the second loss, worse in the first")
def strictly_in_the_second(rows):
    return _without(rows, lambda a, b: a[0] <= b[0] and a[1] < b[1])


@wrong("front", says="one row alone")
def least_sum(rows):
    return _without(rows, lambda a, b: sum(a) < sum(b))


@wrong("front", says="dominated ones")
def complement(rows):
    kept = by_definition(rows)
    return [row for row in rows if row not in kept]


@wrong("front", says="less is better")
def largest(rows):
    return _without(rows, lambda a, b: a != b and a[0] >= b[0] and a[1] >= b[1])


@wrong("front", says="returns a list of rows", plain=True)
def a_number(rows):
    return len(by_definition(rows))


@right("phi")
def with_rows(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.sum((V[:i] @ U[:j].T) ** 2) / min(i, j)


@right("phi")
def with_projections(first, second, i, j):
    V, U = (np.linalg.svd(matrix, full_matrices=False)[2].T for matrix in (first, second))
    return np.linalg.norm(V[:, :i].T @ U[:, :j]) ** 2 / min(i, j)


@wrong("phi", says="left singular vectors")
def left_vectors(first, second, i, j):
    return lowrank.overlap(first, second, i, j, side="left")


@wrong("phi", says="rows* of Vt")
def columns_of_vt(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.sum((V[:, :i].T @ U[:, :j]) ** 2) / min(i, j)


@wrong("phi", says="not by the larger")
def over_the_larger(first, second, i, j):
    return lowrank.overlap(first, second, i, j) * min(i, j) / max(i, j)


@wrong("phi", says="a sum without its division")
def not_divided(first, second, i, j):
    return lowrank.overlap(first, second, i, j) * min(i, j)


@wrong("phi", says="not by their product")
def a_mean(first, second, i, j):
    return lowrank.overlap(first, second, i, j) / max(i, j)


@wrong("phi", says="no root at the end")
def rooted(first, second, i, j):
    return lowrank.overlap(first, second, i, j) ** 0.5


@wrong("phi", says="to be squared")
def not_squared(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.abs(V[:i] @ U[:j].T).sum() / min(i, j)


@wrong("phi", says="yours squares the sum")
def squared_after_adding(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.sum(V[:i] @ U[:j].T) ** 2 / min(i, j)


@wrong("phi", says="square it before you divide")
def norm_not_squared(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.linalg.norm(V[:i] @ U[:j].T) / min(i, j)


@wrong("phi", says="the other way round")
def counts_exchanged(first, second, i, j):
    return lowrank.overlap(first, second, j, i)


@wrong("phi", says="of all directions")
def nothing_cut(first, second, i, j):
    V, U = (np.linalg.svd(matrix)[2] for matrix in (first, second))
    return np.sum((V @ U.T) ** 2) / min(i, j)
