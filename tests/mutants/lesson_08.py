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


@wrong("kept_along", says="take the square of it")
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


@wrong("kept_along", says="the error of section 2")
def the_error(change, update):
    return (change - update).norm() / update.norm()


@wrong("kept_along", says="lost along the update")
def one_minus_the_share(change, update):
    return 1 - (change * update).sum() / update.square().sum()


@wrong("kept_along", says="ratio of two sums")
def sums(change, update):
    return change.sum() / update.sum()


@wrong("kept_along", says="compares two squares")
def squares(change, update):
    return change.square().sum() / update.square().sum()


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


def keeps_a_copy_of_the_first(layer, update):
    if not hasattr(layer, "kept"):
        layer.kept = layer.weight.clone()
    layer.weight = (layer.weight + update).to(layer.weight.dtype)


def does_nothing(layer):
    """Give layer the weight back."""


def returns_it(layer):
    return layer.kept


def keeps_the_last_update(layer, update):
    layer.weight, layer.kept = (layer.weight + update).to(layer.weight.dtype), update


def writes_into_data(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight.data = (layer.weight + update).to(layer.weight.dtype)


def to_numpy(layer, update):
    if getattr(layer, "kept", None) is None:
        layer.kept = layer.weight
    layer.weight = layer.weight.float().numpy() + update.numpy()


for functions, says in {
    (keeps_the_first, does_nothing): "put the one that you kept",
    (keeps_the_first, returns_it): "set layer.weight to it",
    (keeps_a_copy_of_the_first, gives_back_and_forgets): "true for a kept None",
    (keeps_the_last_update, subtracts): "still in the weight",
    (writes_into_data, gives_back_and_forgets): "so does .data =",
    (to_numpy, gives_back_and_forgets): "no torch tensor",
    (keeps_the_first, None): "one of the two is none",
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
    wrong_value("merge_exactly", functions, says, " ".join(getattr(f, "__name__", "None") for f in functions))
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


@wrong("mask_for", says="not scalings[row]")
def scalings_by_row(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[row % len(scalings)]
    return mask


@wrong("mask_for", says="that row stays zero")
def base_gets_the_last(users, ranks, scalings):
    return row_by_row([len(ranks) - 1 if user is None else user for user in users], ranks, scalings)


@wrong("mask_for", says="the shape [4, 4]")
def one_column_an_adapter(users, ranks, scalings):
    return torch.tensor([[s if user == a else 0.0 for a, s in enumerate(scalings)] for user in users])


def filled(users, ranks, scalings, columns):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, columns(user)] = scalings[user]
    return mask


@wrong("mask_for", says="as if every rank were 2")
def as_in_the_lesson(users, ranks, scalings):
    return filled(users, ranks, scalings, lambda user: slice(2 * user, 2 * user + 2))


@wrong("mask_for", says="begins where it should end")
def own_rank_counted_too(users, ranks, scalings):
    return filled(users, ranks, scalings, lambda u: slice(sum(ranks[: u + 1]), sum(ranks[: u + 1]) + ranks[u]))


@wrong("mask_for", says="to the last column")
def no_end(users, ranks, scalings):
    return filled(users, ranks, scalings, lambda user: slice(sum(ranks[:user]), None))


@wrong("mask_for", says="cuts them off")
def integers(users, ranks, scalings):
    return row_by_row(users, ranks, scalings).int()


@wrong("mask_for", says="inside of the loop")
def returns_at_once(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
        return mask


@wrong("mask_for", says="row i belongs to users[i]")
def rows_by_user(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for user in users:
        if user is not None:
            mask[user, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
    return mask


@wrong("mask_for", says="has adapter 0: None is not 0")
def base_gets_the_first(users, ranks, scalings):
    return row_by_row([user or 0 for user in users], ranks, scalings)


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


@wrong("mix", says="taken for a half")
def halves(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([b1, b2]) / 2


@wrong("mix", says="makes a quarter")
def halves_on_both(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]) / 2, np.hstack([b1, b2]) / 2


@wrong("mix", says="weight2 is not in it")
def first_weight_only(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]), np.hstack([w1 * b1, b2])


@wrong("mix", says="complex numbers")
def complex_roots(a1, b1, w1, a2, b2, w2):
    return np.vstack([w1**0.5 * a1, w2**0.5 * a2]), np.hstack([w1**0.5 * b1, w2**0.5 * b2])


@wrong("mix", says="which is no number")
def roots_of_negatives(a1, b1, w1, a2, b2, w2):
    with np.errstate(invalid="ignore"):
        one, other = np.sqrt(w1), np.sqrt(w2)
    return np.vstack([one * a1, other * a2]), np.hstack([one * b1, other * b2])


@wrong("mix", says="should be one matrix")
def not_stacked(a1, b1, w1, a2, b2, w2):
    return [a1, a2], [w1 * b1, w2 * b2]


@wrong("mix", says="both are transposed")
def both_transposed(a1, b1, w1, a2, b2, w2):
    return np.vstack([a1, a2]).T, np.hstack([w1 * b1, w2 * b2]).T


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


@wrong("most_requests", says="need not be a whole number")
def rounded_to_the_nearest(miss_rate, load_seconds):
    return round(1 / (miss_rate * load_seconds))


@wrong("most_requests", says="for a minute")
def in_a_minute(miss_rate, load_seconds):
    return 60 / (miss_rate * load_seconds)
