"""Answers to the exercises of lesson 08."""

from __future__ import annotations

import numpy as np
import torch

from tests.mutants import right, right_value, wrong, wrong_value

# --- kept_along ----------------------------------------------------------------------------------------------------


@right("kept_along")
def by_sums(change, update):
    return (change * update).sum() / update.square().sum()


@right("kept_along")
def by_flat_vectors(change, update):
    return (torch.dot(change.flatten(), update.flatten()) / update.norm() ** 2).item()


@right("kept_along")
def by_trace(change, update):
    return torch.trace(update.T @ change) / torch.trace(update.T @ update)


@wrong("kept_along", says="that is the cosine")
def cosine(change, update):
    return (change * update).sum() / change.norm() / update.norm()


@wrong("kept_along", says="compares two lengths")
def ratio_of_lengths(change, update):
    return change.norm() / update.norm()


@wrong("kept_along", says="one minus the error")
def one_minus_the_error(change, update):
    return 1 - (change - update).norm() / update.norm()


@wrong("kept_along", says="the square of the change")
def share_of_the_change(change, update):
    return (change * update).sum() / change.square().sum()


@wrong("kept_along", says="the sign is lost")
def without_a_sign(change, update):
    return abs((change * update).sum()) / update.square().sum()


@wrong("kept_along", says="the inner product itself")
def not_divided(change, update):
    return (change * update).sum()


@wrong("kept_along", says="it takes its square")
def divided_by_the_length(change, update):
    return (change * update).sum() / update.norm()


@wrong("kept_along", says="Multiply entry by entry")
def matrix_product(change, update):
    return (change @ update.T).sum() / (update @ update.T).sum()


@wrong("kept_along", says="averages the ratios")
def mean_of_ratios(change, update):
    return (change / update).mean()


@wrong("kept_along", says="it should be one number")
def one_number_a_row(change, update):
    return (change * update).sum(dim=1) / update.square().sum(dim=1)


# --- merge_exactly -------------------------------------------------------------------------------------------------


def keeps_the_first(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = (layer.weight.float() + update).to(layer.weight.dtype)


def gives_back_and_forgets(layer):
    layer.weight, layer.kept = layer.kept, None


def keeps_a_copy(layer, update):
    if not hasattr(layer, "before"):
        layer.before = layer.weight.clone()
    layer.weight += update.to(layer.weight.dtype)


def gives_back_and_deletes(layer):
    layer.weight = layer.before
    del layer.before


def stacks(layer, update):
    layer.stack = [*getattr(layer, "stack", []), layer.weight]
    layer.weight = torch.add(layer.weight, update).to(layer.weight.dtype)


def empties_the_stack(layer):
    layer.weight, layer.stack = layer.stack[0], []


right_value("merge_exactly", (keeps_the_first, gives_back_and_forgets), "keeps the tensor")
right_value("merge_exactly", (keeps_a_copy, gives_back_and_deletes), "keeps a copy")
right_value("merge_exactly", (stacks, empties_the_stack), "keeps a stack")


def keeps_the_last(layer, update):
    layer.kept, layer.weight = layer.weight, (layer.weight + update).to(layer.weight.dtype)


def keeps_the_first_for_ever(layer, update):
    layer.kept = getattr(layer, "kept", layer.weight)
    layer.weight = (layer.weight + update).to(layer.weight.dtype)


def gives_back(layer):
    layer.weight = layer.kept


def adds_in_place(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight += update.to(layer.weight.dtype)


def keeps_the_update(layer, update):
    layer.kept = getattr(layer, "kept", 0) + update
    layer.weight = (layer.weight + update).to(layer.weight.dtype)


def subtracts(layer):
    layer.weight, layer.kept = (layer.weight - layer.kept).to(layer.weight.dtype), 0


def widens(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = layer.weight + update


def starts_from_the_kept(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = (layer.kept + update).to(layer.weight.dtype)


def only_keeps(layer, update):
    layer.kept = layer.weight


def merges_twice(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = (layer.weight + 2 * update).to(layer.weight.dtype)


def refuses_the_second(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
        layer.weight = (layer.weight + update).to(layer.weight.dtype)


def stores_the_update(layer, update):
    layer.kept, layer.weight = layer.weight, update.to(layer.weight.dtype)


def adds_into_the_update(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = update.add_(layer.weight).to(layer.weight.dtype)


for functions, says in {
    (keeps_the_last, gives_back): "between the two merges",
    (keeps_the_first_for_ever, gives_back): "an earlier time",
    (adds_in_place, gives_back_and_forgets): "+= changed it too",
    (keeps_the_update, subtracts): "to subtract rounds",
    (widens, gives_back_and_forgets): "weight's own type",
    (starts_from_the_kept, gives_back_and_forgets): "only the last update",
    (refuses_the_second, gives_back_and_forgets): "only the first update",
    (only_keeps, gives_back): "the weight is still W",
    (merges_twice, gives_back_and_forgets): "in the weight twice",
    (stores_the_update, gives_back): "the update alone",
    (adds_into_the_update, gives_back_and_forgets): "changes the update",
}.items():
    wrong_value("merge_exactly", functions, says, " ".join(f.__name__ for f in functions))
wrong_value("merge_exactly", keeps_the_first, "should be 2 things", "one function", plain=True)


# --- mask_for ------------------------------------------------------------------------------------------------------


@right("mask_for")
def row_by_row(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            start = sum(ranks[:user])
            mask[row, start : start + ranks[user]] = scalings[user]
    return mask


@right("mask_for")
def by_owner_of_each_column(users, ranks, scalings):
    owners = np.repeat(np.arange(len(ranks)), ranks)
    return np.array([[scalings[o] if user == o else 0.0 for o in owners] for user in users])


@right("mask_for")
def by_one_row_an_adapter(users, ranks, scalings):
    parts = [torch.full((r,), s) for r, s in zip(ranks, scalings, strict=True)]
    voices = torch.block_diag(*parts).reshape(len(ranks), sum(ranks))
    return torch.stack([torch.zeros(sum(ranks)) if user is None else voices[user] for user in users])


@wrong("mask_for", says="there are ones where")
def ones(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = 1
    return mask


@wrong("mask_for", says="its own rank times its number")
def own_rank_times_number(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, ranks[user] * user : ranks[user] * (user + 1)] = scalings[user]
    return mask


@wrong("mask_for", says="the first one's rank")
def one_rank_for_all(users, ranks, scalings):
    mask, rank = torch.zeros(len(users), sum(ranks)), ranks[0]
    for row, user in enumerate(users):
        if user is not None:
            mask[row, rank * user : rank * (user + 1)] = scalings[user]
    return mask


@wrong("mask_for", says="so gets every adapter at once")
def base_gets_everything(users, ranks, scalings):
    mask = torch.ones(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row] = 0
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
    return mask


@wrong("mask_for", says="`if user:`")
def adapter_0_left_out(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
    return mask


@wrong("mask_for", says="one column too far")
def off_by_one(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            start = sum(ranks[:user]) + 1
            mask[row, start : start + ranks[user]] = scalings[user]
    return mask


@wrong("mask_for", says="only its first column")
def one_column_each(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user])] = scalings[user]
    return mask


@wrong("mask_for", says="It is transposed")
def transposed(users, ranks, scalings):
    return row_by_row(users, ranks, scalings).T


@wrong("mask_for", says="row 0 is for adapter 2")
def scalings_by_row(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[row % len(scalings)]
    return mask


@wrong("mask_for", says="that row stays zero")
def base_gets_the_last(users, ranks, scalings):
    return row_by_row([len(ranks) - 1 if user is None else user for user in users], ranks, scalings)


@wrong("mask_for", says="the shape [4, 3]")
def one_column_an_adapter(users, ranks, scalings):
    return torch.tensor([[s if user == a else 0.0 for a, s in enumerate(scalings)] for user in users])


# --- mix -----------------------------------------------------------------------------------------------------------


@right("mix")
def weights_on_b(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([w1 * b1, w2 * b2])


@right("mix")
def weights_on_a(a1, b1, w1, a2, b2, w2):
    return np.concatenate([w1 * a1, w2 * a2]), np.concatenate([b1, b2], axis=1)


@right("mix")
def the_second_first(a1, b1, w1, a2, b2, w2):
    return np.vstack([a2, a1]), np.hstack([w2 * b2, w1 * b1])


@wrong("mix", says="counts squared")
def weights_on_both(a1, b1, w1, a2, b2, w2):
    return np.vstack([w1 * a1, w2 * a2]), np.hstack([w1 * b1, w2 * b2])


@wrong("mix", says="the weights are not in it")
def no_weights(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([b1, b2])


@wrong("mix", says="in different orders")
def orders_differ(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([w2 * b2, w1 * b1])


@wrong("mix", says="the sign of a negative weight")
def roots_on_both(a1, b1, w1, a2, b2, w2):
    one, other = abs(w1) ** 0.5, abs(w2) ** 0.5
    return np.vstack([one * a1, other * a2]), np.hstack([one * b1, other * b2])


@wrong("mix", says="cross terms")
def averaged_apart(a1, b1, w1, a2, b2, w2):
    return w1 * a1 + w2 * a2, w1 * b1 + w2 * b2


@wrong("mix", says="cross terms")
def weights_on_the_sum_of_a(a1, b1, w1, a2, b2, w2):
    return w1 * a1 + w2 * a2, b1 + b2


@wrong("mix", says="on the other adapter")
def weights_exchanged(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([w2 * b1, w1 * b2])


@wrong("mix", says="B first and then A")
def b_first(a1, b1, w1, a2, b2, w2):
    return np.hstack([w1 * b1, w2 * b2]), np.vstack([a1, a2])


@wrong("mix", says="A's below each other")
def stacked_the_wrong_way(a1, b1, w1, a2, b2, w2):
    return np.hstack([a1, a2]), np.vstack([w1 * b1, w2 * b2])


@wrong("mix", says="no thin adapter")
def written_out(a1, b1, w1, a2, b2, w2):
    return np.eye(a1.shape[1]), w1 * b1 @ a1 + w2 * b2 @ a2


@wrong("mix", says="should be 2 things", plain=True)
def the_update(a1, b1, w1, a2, b2, w2):
    return w1 * b1 @ a1 + w2 * b2 @ a2


# --- most_requests -------------------------------------------------------------------------------------------------


@right("most_requests")
def one_over_the_product(miss_rate, load_seconds):
    return 1 / (miss_rate * load_seconds)


@right("most_requests")
def loads_over_misses(miss_rate, load_seconds):
    return (1.0 / load_seconds) / miss_rate


@wrong("most_requests", says="lets every request use the bus")
def every_request_loads(miss_rate, load_seconds):
    return 1 / load_seconds


@wrong("most_requests", says="upside down in the miss rate")
def misses_upside_down(miss_rate, load_seconds):
    return miss_rate / load_seconds


@wrong("most_requests", says="what one request a second takes")
def the_share_of_one(miss_rate, load_seconds):
    return miss_rate * load_seconds


@wrong("most_requests", says="find their adapter in place")
def hits_for_misses(miss_rate, load_seconds):
    return 1 / (max(1 - miss_rate, 1e-9) * load_seconds)


@wrong("most_requests", says="upside down in the load")
def load_upside_down(miss_rate, load_seconds):
    return load_seconds / miss_rate


@wrong("most_requests", says="how long one load takes")
def load_forgotten(miss_rate, load_seconds):
    return 1 / miss_rate


@wrong("most_requests", says="need not be a whole number")
def rounded_down(miss_rate, load_seconds):
    return int(1 / (miss_rate * load_seconds))


@wrong("most_requests", says="half of it")
def half(miss_rate, load_seconds):
    return 0.5 / (miss_rate * load_seconds)
