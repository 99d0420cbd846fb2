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


@wrong("needed", says="so say None", plain=True)
def always_eight(shares, wanted):
    return 8


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


@wrong("front", says="(1, 3) is missing")
def one_loss_decides(rows):
    return [row for row in by_definition(rows) if row["loss"] >= 2]


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
