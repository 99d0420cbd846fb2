"""Answers to the exercises of lesson 03."""

from __future__ import annotations

import torch
from torch import nn

from tests.mutants import right, wrong

# --- lora_forward -----------------------------------------------------------------------------------------------------


@right("lora_forward")
def two_roads(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ A.T) @ B.T * (alpha / rank)


@right("lora_forward")
def by_linear(x, W, bias, A, B, alpha, rank):
    linear = nn.functional.linear
    return linear(x, W, bias) + alpha * linear(linear(x, A), B) / rank


@right("lora_forward")
def by_the_merged_weight(x, W, bias, A, B, alpha, rank):
    return torch.einsum("...i,oi->...o", x, W + alpha / rank * B @ A) + bias


@wrong("lora_forward", says="scaling is missing")
def no_scaling(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ A.T) @ B.T


@wrong("lora_forward", says="alpha alone")
def alpha_not_divided(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + alpha * (x @ A.T) @ B.T


@wrong("lora_forward", says="alpha times rank")
def alpha_times_rank(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + alpha * rank * (x @ A.T) @ B.T


@wrong("lora_forward", says="upside down")
def rank_over_alpha(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + rank / alpha * (x @ A.T) @ B.T


@wrong("lora_forward", says="frozen road too")
def everything_scaled(x, W, bias, A, B, alpha, rank):
    return (x @ W.T + bias + (x @ A.T) @ B.T) * (alpha / rank)


@wrong("lora_forward", says="bias is forgotten")
def bias_forgotten(x, W, bias, A, B, alpha, rank):
    return x @ W.T + (x @ A.T) @ B.T * (alpha / rank)


@wrong("lora_forward", says="bias is scaled too")
def bias_on_the_trained_road(x, W, bias, A, B, alpha, rank):
    return x @ W.T + ((x @ A.T) @ B.T + bias) * (alpha / rank)


@wrong("lora_forward", says="both roads: the adapter has none")
def bias_on_both_roads(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ A.T) @ B.T * (alpha / rank) + bias


@wrong("lora_forward", says="A and B are swapped")
def b_first(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ B) @ A * (alpha / rank)


@wrong("lora_forward", says="W is the wrong way round")
def w_not_transposed(x, W, bias, A, B, alpha, rank):
    return x @ W + bias + (x @ A.T) @ B.T * (alpha / rank)


@wrong("lora_forward", says="both roads are the wrong way round")
def nothing_transposed(x, W, bias, A, B, alpha, rank):
    return x @ (W + alpha / rank * B @ A) + bias


@wrong("lora_forward", says="trained road alone")
def base_forgotten(x, W, bias, A, B, alpha, rank):
    return (x @ A.T) @ B.T * (alpha / rank)


@wrong("lora_forward", says="A and B take no part")
def adapter_forgotten(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias


@wrong("lora_forward", says="scaled twice")
def scaled_twice(x, W, bias, A, B, alpha, rank):
    s = alpha / rank
    return x @ W.T + bias + s * ((s * x @ A.T) @ B.T)


@wrong("lora_forward", says="two roads are added")
def negated(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias - (x @ A.T) @ B.T * (alpha / rank)


@wrong("lora_forward", says="[2, 3, 4]")
def rows_only(x, W, bias, A, B, alpha, rank):
    return (W @ x.t() + alpha / rank * B @ A @ x.t()).t() + bias


@wrong("lora_forward", says="rounds down")
def whole_factor(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ A.T) @ B.T * (alpha // rank)


@wrong("lora_forward", says="the root of the rank")
def rslora_factor(x, W, bias, A, B, alpha, rank):
    return x @ W.T + bias + (x @ A.T) @ B.T * (alpha / rank**0.5)


@wrong("lora_forward", says="starts at W's output")
def one_road_after_the_other(x, W, bias, A, B, alpha, rank):
    y = x @ W.T + bias
    return y + (y @ A.T) @ B.T * (alpha / rank)


# --- lora_gradients ---------------------------------------------------------------------------------------------------


@right("lora_gradients")
def by_the_formulas(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), g @ W + s * (g @ B) @ A


@right("lora_gradients")
def through_the_merged_weight(x, g, W, A, B, s):
    full = g.T @ x  # the gradient that the whole weight would have
    return s * B.T @ full, s * full @ A.T, g @ (W + s * B @ A)


@right("lora_gradients")
def one_example_at_a_time(x, g, W, A, B, s):
    for_A = sum(s * torch.outer(B.T @ gi, xi) for gi, xi in zip(g, x, strict=True))
    for_B = sum(s * torch.outer(gi, A @ xi) for gi, xi in zip(g, x, strict=True))
    return for_A, for_B, torch.stack([W.T @ gi + s * A.T @ (B.T @ gi) for gi in g])


@wrong("lora_gradients", says="missing what passes through W")
def nothing_through_the_frozen(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), s * (g @ B) @ A


@wrong("lora_gradients", says="missing what passes through A and B")
def only_through_the_frozen(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), g @ W


@wrong("lora_gradients", says="s is missing from A's")
def no_s_anywhere(x, g, W, A, B, s):
    return (g @ B).T @ x, g.T @ (x @ A.T), g @ W + (g @ B) @ A


@wrong("lora_gradients", says="s is missing from B's")
def no_s_for_b(x, g, W, A, B, s):
    return s * (g @ B).T @ x, g.T @ (x @ A.T), g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="s is missing from the part of x's")
def no_s_for_x(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), g @ W + (g @ B) @ A


@wrong("lora_gradients", says="both parts of x's gradient are scaled")
def s_on_both_parts(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), s * (g @ W + (g @ B) @ A)


@wrong("lora_gradients", says="the order")
def b_before_a(x, g, W, A, B, s):
    return s * g.T @ (x @ A.T), s * (g @ B).T @ x, g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="number of examples once more")
def mean_taken_again(x, g, W, A, B, s):
    return s * (g @ B).T @ x / len(x), s * g.T @ (x @ A.T) / len(x), g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="only while B is")
def a_never_moves(x, g, W, A, B, s):
    return torch.zeros_like(A), s * g.T @ (x @ A.T), g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="transposed")
def transposes(x, g, W, A, B, s):
    return s * x.T @ (g @ B), s * (x @ A.T).T @ g, g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="wrong sign")
def the_step_instead(x, g, W, A, B, s):
    return -s * (g @ B).T @ x, -s * g.T @ (x @ A.T), g @ W + s * (g @ B) @ A


@wrong("lora_gradients", says="separated by commas")
def x_left_out(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T)


@wrong("lora_gradients", says="x's gradient is divided")
def mean_over_x(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), (g @ W + s * (g @ B) @ A) / len(x)


@wrong("lora_gradients", says="s comes twice into x's")
def s_squared_for_x(x, g, W, A, B, s):
    return s * (g @ B).T @ x, s * g.T @ (x @ A.T), g @ W + s * s * (g @ B) @ A


# --- first_values -----------------------------------------------------------------------------------------------------


@right("first_values")
def as_linear_does(out_features, in_features, rank):
    A = torch.empty(rank, in_features)
    nn.init.kaiming_uniform_(A, a=5**0.5)
    return A, torch.zeros(out_features, rank)


@right("first_values")
def normal_of_the_same_kind(out_features, in_features, rank):
    return torch.randn(rank, in_features) / in_features**0.5, torch.zeros(out_features, rank)


@right("first_values")
def from_a_linear(out_features, in_features, rank):
    return nn.Linear(in_features, rank).weight, nn.Parameter(torch.zeros(out_features, rank))


@right("first_values")
def as_kaiming_does_by_default(out_features, in_features, rank):
    return nn.init.kaiming_uniform_(torch.empty(rank, in_features)), torch.zeros(out_features, rank)


@wrong("first_values", says="5**0.5, not 5")
def root_of_five_forgotten(out_features, in_features, rank):
    return nn.init.kaiming_uniform_(torch.empty(rank, in_features), a=5), torch.zeros(out_features, rank)


@wrong("first_values", says="both are zero")
def both_zero(out_features, in_features, rank):
    return torch.zeros(rank, in_features), torch.zeros(out_features, rank)


@wrong("first_values", says="both are random")
def both_random(out_features, in_features, rank):
    return torch.randn(rank, in_features) / in_features**0.5, torch.randn(out_features, rank) / rank**0.5


@wrong("first_values", says="zeros are on A")
def zero_on_a(out_features, in_features, rank):
    return torch.zeros(rank, in_features), torch.randn(out_features, rank) / rank**0.5


@wrong("first_values", says="shapes are exchanged")
def row_form(out_features, in_features, rank):
    return torch.randn(in_features, rank) / in_features**0.5, torch.zeros(rank, out_features)


@wrong("first_values", says="shapes are exchanged")
def b_before_a_in_values(out_features, in_features, rank):
    return torch.zeros(out_features, rank), torch.randn(rank, in_features) / in_features**0.5


@wrong("first_values", says="times too large")
def of_size_one(out_features, in_features, rank):
    return torch.randn(rank, in_features), torch.zeros(out_features, rank)


@wrong("first_values", says="size 1/√rank")
def fan_of_the_wrong_side(out_features, in_features, rank):
    A = torch.empty(in_features, rank)
    nn.init.kaiming_uniform_(A, a=5**0.5)
    return A.T, torch.zeros(out_features, rank)


@wrong("first_values", says="times too small")
def far_too_small(out_features, in_features, rank):
    return torch.randn(rank, in_features) * 1e-4, torch.zeros(out_features, rank)


@wrong("first_values", says="not random")
def all_alike(out_features, in_features, rank):
    return torch.full((rank, in_features), in_features**-0.5), torch.zeros(out_features, rank)


@wrong("first_values", says="one sign")
def positive_only(out_features, in_features, rank):
    return torch.rand(rank, in_features) / in_features**0.5, torch.zeros(out_features, rank)


@wrong("first_values", says="seed set inside")
def seeded_inside(out_features, in_features, rank):
    torch.manual_seed(0)
    return torch.randn(rank, in_features) / in_features**0.5, torch.zeros(out_features, rank)


@wrong("first_values", says="those are layers")
def two_layers(out_features, in_features, rank):
    return nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=False)


@wrong("first_values", says="numbers are zero")
def ones_on_the_diagonal(out_features, in_features, rank):
    return torch.eye(rank, in_features), torch.zeros(out_features, rank)


@wrong("first_values", says="too small in first_values(60, 30, 16)")
def one_size_for_every_width(out_features, in_features, rank):
    return torch.randn(rank, in_features) * 0.02, torch.zeros(out_features, rank)
