"""Answers to the exercises of lesson 03 on growing an adapter, on a whole model, on a file, and on merging."""

from __future__ import annotations

import torch

from tests.mutants import right, wrong

# --- grow -------------------------------------------------------------------------------------------------------------


@right("grow")
def fresh_rows_and_zero_columns(A, B, alpha, new_rank):
    rank, width = A.shape
    rows, columns = torch.randn(new_rank - rank, width) / width**0.5, torch.zeros(len(B), new_rank - rank)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * new_rank / rank


@right("grow")
def louder_b_and_the_same_alpha(A, B, alpha, new_rank):
    rank = len(A)
    bigger_A, bigger_B = torch.randn(new_rank, A.shape[1]), torch.zeros(len(B), new_rank)
    bigger_A[:rank], bigger_B[:, :rank] = A, B * new_rank / rank
    return bigger_A, bigger_B, alpha


@wrong("grow", says="alpha stayed")
def alpha_left(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, alpha


@wrong("grow", says="the wrong way")
def alpha_made_smaller(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, alpha * len(A) / new_rank


@wrong("grow", says="divided by the rank again")
def factor_for_alpha(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, alpha / len(A)


@wrong("grow", says="made up for twice")
def both_ways(A, B, alpha, new_rank):
    A2, B2, more = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2 * new_rank / len(A), more


@wrong("grow", says="both random")
def random_in_both(A, B, alpha, new_rank):
    rank = len(A)
    rows, columns = torch.randn(new_rank - rank, A.shape[1]), torch.randn(len(B), new_rank - rank)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * new_rank / rank


@wrong("grow", says="both new parts are zero")
def padded_with_zeros(A, B, alpha, new_rank):
    more = new_rank - len(A)
    rows, columns = torch.zeros(more, A.shape[1]), torch.zeros(len(B), more)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * new_rank / len(A)


@wrong("grow", says="repeat or mix the old ones")
def old_rows_repeated(A, B, alpha, new_rank):
    rank = len(A)
    rows = A[[k % rank for k in range(new_rank - rank)]]
    columns = torch.zeros(len(B), new_rank - rank)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * new_rank / rank


@wrong("grow", says="it should be [5, 9]")
def by_new_rank_too_many(A, B, alpha, new_rank):
    rows, columns = torch.randn(new_rank, A.shape[1]), torch.zeros(len(B), new_rank)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * new_rank / len(A)


@wrong("grow", says="alpha is doubled")
def alpha_doubled(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, 2 * alpha


@wrong("grow", says="takes 8 for the old rank")
def rank_of_the_story(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, alpha * new_rank / 8


@wrong("grow", says="is a habit")
def alpha_by_habit(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, 2 * new_rank


@wrong("grow", says="alpha is rounded")
def alpha_rounded(A, B, alpha, new_rank):
    A2, B2, _ = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return A2, B2, alpha * new_rank // len(A)


@wrong("grow", says="what was trained is lost")
def started_afresh(A, B, alpha, new_rank):
    return torch.randn(new_rank, A.shape[1]), torch.zeros(len(B), new_rank), alpha * new_rank / len(A)


@wrong("grow", says="row k belongs to column k")
def new_rows_first(A, B, alpha, new_rank):
    A2, B2, more = fresh_rows_and_zero_columns(A, B, alpha, new_rank)
    return torch.roll(A2, new_rank - len(A), 0), B2, more


# --- train_only_lora --------------------------------------------------------------------------------------------------


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@right("train_only_lora")
def by_the_last_part(model):
    for name, p in model.named_parameters():
        p.requires_grad = name.split(".")[-1] in ("A", "B")
    return trained(model)


@right("train_only_lora")
def by_modules(model):
    model.requires_grad_(False)
    count = 0
    for module in model.modules():
        if {"A", "B"} <= set(module._parameters):
            for p in (module.A, module.B):
                count += p.requires_grad_(True).numel()
    return count


@wrong("train_only_lora", says="no dot before them")
def by_endings(model):
    model.requires_grad_(False)
    mine = [p for name, p in model.named_parameters() if name.endswith((".A", ".B"))]
    for p in mine:
        p.requires_grad_()
    return sum(map(lambda p: p.numel(), mine))


@wrong("train_only_lora", says="not only the layers that are wrapped")
def only_wrapped_layers_frozen(model):
    for module in model.modules():
        if hasattr(module, "base"):
            module.base.requires_grad_(False)
            module.A.requires_grad_(True)
            module.B.requires_grad_(True)
    return trained(model)


@wrong("train_only_lora", says="frozen W itself trains")
def base_not_frozen(model):
    for name, p in model.named_parameters():
        p.requires_grad = "block" in name
    return trained(model)


@wrong("train_only_lora", says="biases of the wrapped layers")
def biases_train(model):
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith((".A", ".B", "base.bias"))
    return trained(model)


@wrong("train_only_lora", says="own name is weight")
def anything_called_b(model):
    for name, p in model.named_parameters():
        p.requires_grad = any(part in ("A", "B") for part in name.split("."))
    return trained(model)


@wrong("train_only_lora", says="ends in A, but is not A")
def any_ending(model):
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith(("A", "B"))
    return trained(model)


@wrong("train_only_lora", says="does not train, and it should")
def only_b(model):
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith(".B")
    return trained(model)


@wrong("train_only_lora", says="nothing trains")
def only_frozen_never_thawed(model):
    for name, p in model.named_parameters():
        if not name.endswith((".A", ".B")):
            p.requires_grad = False
    return trained(model)


@wrong("train_only_lora", says="all the model's numbers")
def all_counted(model):
    by_the_last_part(model)
    return sum(p.numel() for p in model.parameters())


@wrong("train_only_lora", says="count is of tensors")
def tensors_counted(model):
    by_the_last_part(model)
    return len([p for p in model.parameters() if p.requires_grad])


@wrong("train_only_lora", says="should only say which of them train")
def zeros_instead(model):
    count = by_the_last_part(model)
    for p in model.parameters():
        if not p.requires_grad:
            p.data.zero_()
    return count


@wrong("train_only_lora", says="everything still trains")
def only_set(model):
    for name, p in model.named_parameters():
        if name.split(".")[-1] in ("A", "B"):
            p.requires_grad = True
    return trained(model)


@wrong("train_only_lora", says="is a return missing")
def return_forgotten(model):
    by_the_last_part(model)


# --- update_from_file -------------------------------------------------------------------------------------------------


def pair(weights, layer):
    return (weights[f"base_model.model.{layer}.lora_{x}.weight"] for x in "AB")


@right("update_from_file")
def by_its_keys(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] / config["r"] * B @ A


@right("update_from_file")
def by_searching(weights, config, layer):
    found = {key.split(".")[-2]: value for key, value in weights.items() if f".{layer}." in key}
    return (found["lora_A"].T @ found["lora_B"].T).T * config["lora_alpha"] / len(found["lora_A"])


@wrong("update_from_file", says="factor is missing")
def no_factor(weights, config, layer):
    A, B = pair(weights, layer)
    return B @ A


@wrong("update_from_file", says="lora_alpha alone")
def only_alpha(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] * B @ A


@wrong("update_from_file", says="lora_alpha times r")
def alpha_by_r(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] * config["r"] * B @ A


@wrong("update_from_file", says="upside down")
def r_over_alpha(weights, config, layer):
    A, B = pair(weights, layer)
    return config["r"] / config["lora_alpha"] * B @ A


@wrong("update_from_file", says="is transposed")
def as_rows(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] / config["r"] * A.T @ B.T


@wrong("update_from_file", says="another layer's update")
def last_of_the_file(weights, config, layer):
    A, B = list(weights.values())[-2:]
    return config["lora_alpha"] / config["r"] * B @ A


@wrong("update_from_file", says="all layers were added")
def whole_file(weights, config, layer):
    values = list(weights.values())
    return sum(config["lora_alpha"] / config["r"] * B @ A for A, B in zip(values[::2], values[1::2], strict=True))


@wrong("update_from_file", says="in the config 'r' and 'lora_alpha'")
def our_names(weights, config, layer):
    A, B = pair(weights, layer)
    return config["alpha"] / config["rank"] * B @ A


@wrong("update_from_file", says="the keys are")
def without_the_prefix(weights, config, layer):
    A, B = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
    return config["lora_alpha"] / config["r"] * B @ A


@wrong("update_from_file", says="that is A times B")
def a_times_b(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] / config["r"] * A @ B


@wrong("update_from_file", says="rounds down")
def whole_factor(weights, config, layer):
    A, B = pair(weights, layer)
    return config["lora_alpha"] // config["r"] * B @ A


# --- merged_weight ----------------------------------------------------------------------------------------------------


@right("merged_weight")
def added(W, A, B, alpha, rank):
    return W + alpha / rank * B @ A


@right("merged_weight")
def piece_by_piece(W, A, B, alpha, rank):
    M = W.clone()
    for k in range(rank):
        M += (alpha / rank) * B[:, k : k + 1] * A[k]
    return M


@wrong("merged_weight", says="scaling is missing")
def unscaled(W, A, B, alpha, rank):
    return W + B @ A


@wrong("merged_weight", says="alpha alone")
def by_alpha(W, A, B, alpha, rank):
    return W + alpha * B @ A


@wrong("merged_weight", says="alpha times rank")
def by_alpha_times_rank(W, A, B, alpha, rank):
    return W + alpha * rank * B @ A


@wrong("merged_weight", says="upside down")
def wrong_denominator(W, A, B, alpha, rank):
    return W + rank / alpha * B @ A


@wrong("merged_weight", says="merged twice")
def twice(W, A, B, alpha, rank):
    update = alpha / rank * B @ A
    return W + update + update


@wrong("merged_weight", says="update is transposed")
def update_transposed(W, A, B, alpha, rank):
    return W + alpha / rank * A.T @ B.T


@wrong("merged_weight", says="whole result is transposed")
def all_transposed(W, A, B, alpha, rank):
    return W.T + alpha / rank * A.T @ B.T


@wrong("merged_weight", says="W itself is missing")
def update_alone(W, A, B, alpha, rank):
    return alpha / rank * B @ A


@wrong("merged_weight", says="W got scaled too")
def sum_scaled(W, A, B, alpha, rank):
    return alpha / rank * (W + B @ A)


@wrong("merged_weight", says="takes an update out")
def taken_out(W, A, B, alpha, rank):
    return W - alpha / rank * B @ A


@wrong("merged_weight", says="changes its input")
def in_place(W, A, B, alpha, rank):
    W += alpha / rank * B @ A
    return W


@wrong("merged_weight", says="rounds down")
def factor_rounded(W, A, B, alpha, rank):
    return W + alpha // rank * B @ A
