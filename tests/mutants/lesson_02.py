"""Answers to the exercises of lesson 02."""

from __future__ import annotations

import numpy as np

from lora_lab import lowrank
from tests.mutants import right, wrong

# --- add_adapters -----------------------------------------------------------------------------------------------------


@right("add_adapters")
def stacked(A1, B1, A2, B2):
    return np.vstack([A1, A2]), np.hstack([B1, B2])


@right("add_adapters")
def second_one_first(A1, B1, A2, B2):
    return np.concatenate([A2, A1]), np.concatenate([B2, B1], axis=1)


@right("add_adapters")
def by_svd(A1, B1, A2, B2):
    U, s, Vt = np.linalg.svd(B1 @ A1 + B2 @ A2, full_matrices=False)
    r = min(len(A1) + len(A2), len(s))
    return Vt[:r], U[:, :r] * s[:r]


@wrong("add_adapters", says="factors are added up")
def factors_added(A1, B1, A2, B2):
    return A1 + A2, B1 + B2


@wrong("add_adapters", says="factors are averaged")
def factors_averaged(A1, B1, A2, B2):
    return (A1 + A2) / 2, (B1 + B2) / 2


@wrong("add_adapters", says="in the other order")
def halves_crossed(A1, B1, A2, B2):
    return np.vstack([A1, A2]), np.hstack([B2, B1])


@wrong("add_adapters", says="one of the two adapters")
def first_only(A1, B1, A2, B2):
    return A1, B1


@wrong("add_adapters", says="both are transposed")
def transposed(A1, B1, A2, B2):
    return np.vstack([A1, A2]).T, np.hstack([B1, B2]).T


@wrong("add_adapters", says="exchanged: A")
def exchanged(A1, B1, A2, B2):
    return np.hstack([B1, B2]), np.vstack([A1, A2])


@wrong("add_adapters", says="not averaged")
def averaged_after_all(A1, B1, A2, B2):
    return np.vstack([A1, A2]), np.hstack([B1, B2]) / 2


@wrong("add_adapters", says="a quarter of the sum")
def both_halved(A1, B1, A2, B2):
    return np.vstack([A1, A2]) / 2, np.hstack([B1, B2]) / 2


@wrong("add_adapters", says="are 4 at most")
def no_longer_low(A1, B1, A2, B2):
    total = B1 @ A1 + B2 @ A2
    return total, np.eye(len(total))


@wrong("add_adapters", says="the difference of the two")
def subtracted(A1, B1, A2, B2):
    return np.vstack([A1, A2]), np.hstack([B1, -B2])


@wrong("add_adapters", says="stand side by side")
def axes_exchanged(A1, B1, A2, B2):
    return np.hstack([A1, A2]), np.vstack([B1, B2])


@wrong("add_adapters", says="one below the other")
def both_stacked(A1, B1, A2, B2):
    return np.vstack([A1, A2]), np.vstack([B1, B2])


# --- rank_for ---------------------------------------------------------------------------------------------------------


@right("rank_for")
def by_the_running_sum(values, share):
    kept = np.cumsum(values**2) / np.sum(values**2)
    return int(np.argmax(kept >= share)) + 1


@right("rank_for")
def by_a_loop(values, share):
    so_far, r = 0.0, 0
    for value in values:
        so_far, r = so_far + value**2, r + 1
        if so_far >= share * np.sum(values**2):
            return r


@wrong("rank_for", says="goes by the values")
def not_squared(values, share):
    return int(np.argmax(np.cumsum(values) / values.sum() >= share)) + 1


@wrong("rank_for", says="one too few")
def from_zero(values, share):
    return int(np.argmax(np.cumsum(values**2) / (values**2).sum() >= share))


@wrong("rank_for", says="met exactly, it is enough")
def strictly_more(values, share):
    return int((np.cumsum(values**2) / (values**2).sum() <= share).sum()) + 1


@wrong("rank_for", says="one too many")
def one_too_many(values, share):
    return by_the_running_sum(values, share) + 1


@wrong("rank_for", says="from the smallest value")
def smallest_first(values, share):
    return by_the_running_sum(np.sort(values), share)


@wrong("rank_for", says="leaves this share missing")
def share_missing(values, share):
    return by_the_running_sum(values, 1 - share)


@wrong("rank_for", says="that is all of them")
def full(values, share):
    return len(values)


@wrong("rank_for", says="only be a whole number")
def the_share_itself(values, share):
    return float(np.cumsum(values**2)[1] / np.sum(values**2)) if len(values) > 1 else 1


@wrong("rank_for", says="you count the ranks")
def counted(values, share):
    return int((np.cumsum(values**2) / np.sum(values**2) >= share).sum())


@wrong("rank_for", says="`share` as it was given")
def rooted(values, share):
    return int(np.argmax(np.sqrt(np.cumsum(values**2) / np.sum(values**2)) >= share)) + 1


@wrong("rank_for", says="divided by the sum of all")
def never_divided(values, share):
    return int(np.argmax(np.cumsum(values**2) >= share)) + 1


@wrong("rank_for", says="a share of the number of values")
def share_of_the_count(values, share):
    return int(np.ceil(share * len(values)))


# --- best_on_data -----------------------------------------------------------------------------------------------------


def cut(matrix, rank):
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vt[:rank]


@right("best_on_data")
def weighed_cut_undone(change, variance, rank):
    root = np.sqrt(variance)
    return cut(change * root, rank) / root


@right("best_on_data")
def with_matrices(change, variance, rank):
    root = np.diag(np.sqrt(variance))
    return cut(change @ root, rank) @ np.linalg.inv(root)


@right("best_on_data")
def by_the_package(change, variance, rank):
    return lowrank.data_truncate(change, np.diag(variance), rank)


@wrong("best_on_data", says="the nearest matrix")
def cut_only(change, variance, rank):
    return cut(change, rank)


@wrong("best_on_data", says="weighing is not undone")
def not_undone(change, variance, rank):
    return cut(change * np.sqrt(variance), rank)


@wrong("best_on_data", says="weighed by the variance. It is the root")
def variance_for_root(change, variance, rank):
    return cut(change * variance, rank) / variance


@wrong("best_on_data", says="rows were weighed")
def rows_weighed(change, variance, rank):
    root = np.sqrt(variance)[:, None]
    return cut(change * root, rank) / root


@wrong("best_on_data", says="the change itself")
def not_cut(change, variance, rank):
    return change


@wrong("best_on_data", says="weighed the wrong way")
def inverse_weights(change, variance, rank):
    root = np.sqrt(variance)
    return cut(change / root, rank) * root


@wrong("best_on_data", says="weighed twice")
def multiplied_again(change, variance, rank):
    root = np.sqrt(variance)
    return cut(change * root, rank) * root


@wrong("best_on_data", says="divided by the variance")
def undone_by_the_variance(change, variance, rank):
    return cut(change * np.sqrt(variance), rank) / variance


@wrong("best_on_data", says="at one rank less")
def one_rank_less(change, variance, rank):
    return weighed_cut_undone(change, variance, rank - 1)


@wrong("best_on_data", says="weighed after the cut")
def cut_too_early(change, variance, rank):
    return cut(change, rank) * np.sqrt(variance)


@wrong("best_on_data", says="undone by its root")
def variance_in_root_out(change, variance, rank):
    return cut(change * variance, rank) / np.sqrt(variance)


# --- rank_needed ------------------------------------------------------------------------------------------------------


@right("rank_needed")
def rank_of_the_outputs(change, x):
    return np.linalg.matrix_rank(x @ change.T)


@right("rank_needed")
def by_the_second_moment(change, x):
    return int(np.linalg.matrix_rank(change @ (x.T @ x / len(x)) @ change.T, tol=1e-9))


@right("rank_needed")
def by_the_root_of_the_moment(change, x):
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return int(np.linalg.matrix_rank(change @ root, tol=1e-6))


@right("rank_needed")
def by_trying(change, x):
    moment = x.T @ x / len(x)
    return next(r for r in range(1, 99) if lowrank.data_floor(change, moment, r, relative=True) < 1e-6)


@wrong("rank_needed", says="the rank of the change")
def of_the_change(change, x):
    return np.linalg.matrix_rank(change)


@wrong("rank_needed", says="the rank of the inputs")
def of_the_inputs(change, x):
    return np.linalg.matrix_rank(x)


@wrong("rank_needed", says="smaller of the two ranks, an upper bound")
def smaller_of_both(change, x):
    return min(np.linalg.matrix_rank(change), np.linalg.matrix_rank(x))


@wrong("rank_needed", says="number of examples")
def examples(change, x):
    return len(x)


@wrong("rank_needed", says="width of the inputs")
def width(change, x):
    return x.shape[1]


@wrong("rank_needed", says="one too many")
def one_more(change, x):
    return rank_of_the_outputs(change, x) + 1


@wrong("rank_needed", says="one too few")
def counted_from_zero(change, x):
    return rank_of_the_outputs(change, x) - 1


@wrong("rank_needed", says="adds the two ranks up")
def sum_of_both(change, x):
    return np.linalg.matrix_rank(change) + np.linalg.matrix_rank(x)


@wrong("rank_needed", says="raised ValueError")
def x_as_columns(change, x):
    return np.linalg.matrix_rank(change @ x)


@wrong("rank_needed", says="width of the outputs")
def width_of_the_outputs(change, x):
    return len(change)


@wrong("rank_needed", says="multiplies the two ranks")
def product_of_both(change, x):
    return np.linalg.matrix_rank(change) * np.linalg.matrix_rank(x)
