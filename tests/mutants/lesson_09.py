"""Answers to the exercises of lesson 09."""

from __future__ import annotations

import torch

from lora_lab.quantise import LEVELS, dequantise, quantise
from lora_lab.training_variants import lora_plus_groups
from tests.mutants import right, wrong

# --- two_rates -----------------------------------------------------------------------------------------------------


@right("two_rates")
def by_name(model, lr, ratio):
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in trained if ".B." not in name], "lr": lr},
        {"params": [p for name, p in trained if ".B." in name], "lr": ratio * lr},
    ]


@right("two_rates")
def a_group_for_each(model, lr, ratio):
    rates = {"A": lr, "B": lr * ratio}
    return [{"params": p, "lr": rates[name.split(".")[1]]} for name, p in model.named_parameters() if p.requires_grad]


@right("two_rates")
def the_packages_own(model, lr, ratio):
    return lora_plus_groups(model, lr, ratio)


@wrong("two_rates", says="it is frozen")
def everything(model, lr, ratio):
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if ".B." not in name], "lr": lr},
        {"params": [p for name, p in named if ".B." in name], "lr": ratio * lr},
    ]


def split(model):
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [p for name, p in trained if ".A." in name], [p for name, p in trained if ".B." in name]


@wrong("two_rates", says="it is B that waits")
def exchanged(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "lr": ratio * lr}, {"params": b, "lr": lr}]


@wrong("two_rates", says="whatever the ratio is")
def always_16(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "lr": lr}, {"params": b, "lr": 16 * lr}]


@wrong("two_rates", says="A was slowed down")
def a_slowed_down(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "lr": lr / ratio}, {"params": b, "lr": lr}]


@wrong("two_rates", says="both have the same rate")
def one_rate(model, lr, ratio):
    return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]


@wrong("two_rates", says="`ratio` itself")
def ratio_alone(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "lr": lr}, {"params": b, "lr": ratio}]


@wrong("two_rates", says="in no group")
def first_layer_only(model, lr, ratio):
    a, b = model[0].matrices("default")
    return [{"params": [a], "lr": lr}, {"params": [b], "lr": ratio * lr}]


@wrong("two_rates", says="in two groups")
def b_twice(model, lr, ratio):
    a, b = split(model)
    return [{"params": a + b, "lr": lr}, {"params": b, "lr": ratio * lr}]


@wrong("two_rates", says="parameters themselves")
def names(model, lr, ratio):
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [name for name in trained if ".A." in name], "lr": lr},
        {"params": [name for name in trained if ".B." in name], "lr": ratio * lr},
    ]


@wrong("two_rates", says="changes the model")
def freezes_a(model, lr, ratio):
    a, b = split(model)
    groups = [{"params": a, "lr": lr}, {"params": b, "lr": ratio * lr}]
    for p in a:
        p.requires_grad_(False)
    return groups


@wrong("two_rates", says="a group is empty")
def names_of_peft(model, lr, ratio):
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in trained if "lora_B" not in name], "lr": lr},
        {"params": [p for name, p in trained if "lora_B" in name], "lr": ratio * lr},
    ]


@wrong("two_rates", says='a group lacks "lr"')
def another_key(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "learning_rate": lr}, {"params": b, "learning_rate": ratio * lr}]


@wrong("two_rates", says="a copy is another tensor")
def copies(model, lr, ratio):
    a, b = split(model)
    return [{"params": [p.detach().clone() for p in a], "lr": lr}, {"params": b, "lr": ratio * lr}]


@wrong("two_rates", says="still three dots")
def half_a_stub(model, lr, ratio):
    a, b = split(model)
    return [{"params": a, "lr": lr}, {"params": b, "lr": ...}]


@wrong("two_rates", says="list of dictionaries", plain=True)
def two_lists(model, lr, ratio):
    return split(model)


# --- outside -------------------------------------------------------------------------------------------------------


@right("outside")
def by_qr(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update - update @ Q @ Q.T).norm() / update.norm()


@right("outside")
def by_least_squares(A, update):
    best = torch.linalg.lstsq(A.T, update.T).solution.T @ A
    return torch.dist(best, update).item() / update.norm().item()


@right("outside")
def by_pythagoras(A, update):
    V = torch.linalg.svd(A, full_matrices=False).Vh
    return (1 - (update @ V.T).square().sum() / update.square().sum()).clamp(min=0).sqrt()


@wrong("outside", says="projects with A itself")
def with_a_itself(A, update):
    return (update - update @ A.T @ A).norm() / update.norm()


@wrong("outside", says="have length one now")
def rows_of_length_one(A, update):
    unit = A / A.norm(dim=1, keepdim=True)
    return (update - update @ unit.T @ unit).norm() / update.norm()


@wrong("outside", says="share within reach; asked is the rest")
def within_reach(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update @ Q @ Q.T).norm() / update.norm()


@wrong("outside", says="one minus the share")
def one_minus(A, update):
    Q = torch.linalg.qr(A.T).Q
    return 1 - (update @ Q).norm() / update.norm()


@wrong("outside", says="square of the share")
def squared(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update - update @ Q @ Q.T).norm() ** 2 / update.norm() ** 2


@wrong("outside", says="norm of the update below it")
def not_a_share(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update - update @ Q @ Q.T).norm()


@wrong("outside", says="compares what is outside with what is inside")
def against_the_inside(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update - update @ Q @ Q.T).norm() / (update @ Q).norm()


@wrong("outside", says="makes anything", plain=True)
def nothing(A, update):
    return torch.zeros(())


@wrong("outside", says="to expect of a random update")
def by_formula(A, update):
    return (1 - A.shape[0] / A.shape[1]) ** 0.5


@wrong("outside", says="a mean over the rows")
def mean_of_rows(A, update):
    Q = torch.linalg.qr(A.T).Q
    return ((update - update @ Q @ Q.T).norm(dim=1) / update.norm(dim=1)).mean()


@wrong("outside", says="square of the share within reach")
def inside_squared(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update @ Q).square().sum() / update.square().sum()


# --- dora_weight ---------------------------------------------------------------------------------------------------


@right("dora_weight")
def by_norm(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.norm(dim=1, keepdim=True)


@right("dora_weight")
def by_normalize(W, A, B, s, m):
    return torch.diag(m) @ torch.nn.functional.normalize(torch.addmm(W, B, A, alpha=s), dim=1)


@right("dora_weight")
def row_by_row(W, A, B, s, m):
    rows = [w + s * (b @ A) for w, b in zip(W, B, strict=True)]
    return torch.stack([length * row / row.square().sum().sqrt() for length, row in zip(m, rows, strict=True)])


@wrong("dora_weight", says="that is plain LoRA")
def plain_lora(W, A, B, s, m):
    return W + s * B @ A


@wrong("dora_weight", says="s is left out")
def no_scaling(W, A, B, s, m):
    V = W + B @ A
    return m[:, None] * V / V.norm(dim=1, keepdim=True)


@wrong("dora_weight", says="lengths of V's columns")
def columns(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.norm(dim=0, keepdim=True)


@wrong("dora_weight", says="lengths of W's rows")
def lengths_of_w(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / W.norm(dim=1, keepdim=True)


@wrong("dora_weight", says="added afterwards")
def added_afterwards(W, A, B, s, m):
    return m[:, None] * W / W.norm(dim=1, keepdim=True) + s * B @ A


@wrong("dora_weight", says="m is left out")
def without_m(W, A, B, s, m):
    return torch.nn.functional.normalize(W + s * B @ A, dim=1)


@wrong("dora_weight", says="still have their own length")
def not_divided(W, A, B, s, m):
    return m[:, None] * (W + s * B @ A)


@wrong("dora_weight", says="size of the whole matrix")
def whole_matrix(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.norm()


@wrong("dora_weight", says="a root is missing")
def square_of_the_length(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.square().sum(dim=1, keepdim=True)


@wrong("dora_weight", says="yours multiplies W by it")
def w_scaled_too(W, A, B, s, m):
    return by_norm(s * W, A, B, 1, m)


@wrong("dora_weight", says="or divides B A")
def divided_by_s(W, A, B, s, m):
    return by_norm(W, A, B, 1 / s, m)


@wrong("dora_weight", says="m may be another by now")
def lengths_of_w_for_m(W, A, B, s, m):
    V = W + s * B @ A
    return W.norm(dim=1, keepdim=True) * V / V.norm(dim=1, keepdim=True)


@wrong("dora_weight", says="V = W + s B A")
def without_w(W, A, B, s, m):
    return by_norm(0 * W, A, B, s, m)


@wrong("dora_weight", says="sum of absolute values")
def another_length(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.abs().sum(dim=1, keepdim=True)


# --- pissa_start ---------------------------------------------------------------------------------------------------


@right("pissa_start")
def by_svd(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = (values[:rank] / s).sqrt()
    return root[:, None] * V[:rank], U[:, :rank] * root


@right("pissa_start")
def by_older_svd(W, rank, s):
    U, values, V = torch.svd(W)
    root = torch.diag(values[:rank].sqrt()) / s**0.5
    return root @ V[:, :rank].T, U[:, :rank] @ root


@wrong("pissa_start", says="s times too large")
def s_forgotten(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = values[:rank].sqrt()
    return root[:, None] * V[:rank], U[:, :rank] * root


@wrong("pissa_start", says="share the singular values evenly")
def all_on_b(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    return V[:rank], U[:, :rank] * values[:rank] / s


@wrong("pissa_start", says="the smallest singular values")
def smallest(W, rank, s):
    U, values, V = torch.linalg.svd(W, full_matrices=False)
    root = (values[-rank:] / s).sqrt()
    return root[:, None] * V[-rank:], U[:, -rank:] * root


@wrong("pissa_start", says="the squares of the singular values")
def no_root(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = values[:rank] / s
    return root[:, None] * V[:rank], U[:, :rank] * root


@wrong("pissa_start", says="divided out twice")
def s_after_the_root(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = values[:rank].sqrt() / s
    return root[:, None] * V[:rank], U[:, :rank] * root


@wrong("pissa_start", says="above instead of below")
def s_above(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = (values[:rank] * s).sqrt()
    return root[:, None] * V[:rank], U[:, :rank] * root


@wrong("pissa_start", says="singular values are not in it")
def directions_only(W, rank, s):
    U, _, V = torch.linalg.svd(W)
    return V[:rank], U[:, :rank]


@wrong("pissa_start", says="B first and then A")
def b_first(W, rank, s):
    return by_svd(W, rank, s)[::-1]


@wrong("pissa_start", says="its *rows* are the directions")
def columns_of_v(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = (values[:rank] / s).sqrt()
    return root[:, None] * V[:, :rank].T, U[:, :rank] * root


@wrong("pissa_start", says="no fourth root")
def root_on_one_side(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    return (values[:rank] / s).sqrt()[:, None] * V[:rank], U[:, :rank]


@wrong("pissa_start", says="leaves out the largest")
def from_one(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = (values[1 : rank + 1] / s).sqrt()
    return root[:, None] * V[1 : rank + 1], U[:, 1 : rank + 1] * root


@wrong("pissa_start", says="the shape [5, 5]")
def rank_forgotten(W, rank, s):
    U, values, V = torch.linalg.svd(W, full_matrices=False)
    root = (values / s).sqrt()
    return root[:, None] * V, U * root


# --- as_lora -------------------------------------------------------------------------------------------------------


@right("as_lora")
def both_rows(A, B, d, b):
    return d[:, None] * A, b[:, None] * B


@right("as_lora")
def all_in_b(A, B, d, b):
    return A, torch.diag(b) @ B @ torch.diag(d)


@right("as_lora")
def by_outer_product(A, B, d, b):
    return A, B * torch.outer(b, d)


@wrong("as_lora", says="b is left out")
def b_left_out(A, B, d, b):
    return d[:, None] * A, B


@wrong("as_lora", says="d is left out")
def d_left_out(A, B, d, b):
    return A, b[:, None] * B


@wrong("as_lora", says="B is divided by b")
def divided(A, B, d, b):
    return d[:, None] * A, B / b[:, None]


@wrong("as_lora", says="neither d nor b")
def shared_only(A, B, d, b):
    return A, B


@wrong("as_lora", says="scales A's columns")
def d_on_columns(A, B, d, b):
    return d * A, b[:, None] * B


@wrong("as_lora", says="scales B's columns")
def b_on_columns(A, B, d, b):
    return d[:, None] * A, B * b


@wrong("as_lora", says="d and b are exchanged")
def vectors_exchanged(A, B, d, b):
    return b[:, None] * A, d[:, None] * B


@wrong("as_lora", says="counts twice")
def d_twice(A, B, d, b):
    return d[:, None] * A, b[:, None] * B * d


@wrong("as_lora", says="B' first and then A'")
def b_before_a(A, B, d, b):
    return b[:, None] * B, d[:, None] * A


@wrong("as_lora", says="should be 2 things", plain=True)
def the_product(A, B, d, b):
    return torch.diag(b) @ B @ torch.diag(d) @ A


@wrong("as_lora", says="b is on A's rows")
def b_on_a(A, B, d, b):
    return b[:, None] * A, B


@wrong("as_lora", says="are transposed")
def both_transposed(A, B, d, b):
    return (d[:, None] * A).T, (b[:, None] * B).T


# --- through_four_bits ---------------------------------------------------------------------------------------------


@right("through_four_bits")
def nearest_level(block, levels):
    absmax = block.abs().max()
    return levels[(block[:, None] / absmax - levels).abs().argmin(dim=1)] * absmax


@right("through_four_bits")
def between_levels(block, levels):
    absmax = block.abs().amax()
    return absmax * levels[torch.bucketize(block / absmax, (levels[1:] + levels[:-1]) / 2)]


@right("through_four_bits")
def one_by_one(block, levels):
    largest = max(abs(number) for number in block.tolist())
    return [min(levels.tolist(), key=lambda level, n=n: abs(level - n / largest)) * largest for n in block.tolist()]


@wrong("through_four_bits", says="was not scaled at all")
def not_scaled(block, levels):
    return levels[(block[:, None] - levels).abs().argmin(dim=1)]


@wrong("through_four_bits", says="not scaled back")
def not_scaled_back(block, levels):
    return levels[(block[:, None] / block.abs().max() - levels).abs().argmin(dim=1)]


@wrong("through_four_bits", says="divided by block.max()")
def without_abs(block, levels):
    return levels[(block[:, None] / block.max() - levels).abs().argmin(dim=1)] * block.max()


@wrong("through_four_bits", says="16 evenly spaced levels")
def even_levels(block, levels):
    return nearest_level(block, torch.linspace(-1, 1, 16))


@wrong("through_four_bits", says="the next level below")
def rounded_down(block, levels):
    absmax = block.abs().max()
    return levels[(torch.searchsorted(levels, block / absmax, right=True) - 1).clamp(min=0)] * absmax


@wrong("through_four_bits", says="the next level above")
def rounded_up(block, levels):
    absmax = block.abs().max()
    return levels[torch.searchsorted(levels, block / absmax)] * absmax


@wrong("through_four_bits", says="those are NF4's levels")
def always_nf4(block, levels):
    return dequantise(quantise(block, double=False)) if len(levels) == 16 else nearest_level(block, LEVELS)


@wrong("through_four_bits", says="standard deviation")
def by_standard_deviation(block, levels):
    return levels[(block[:, None] / block.std() - levels).abs().argmin(dim=1)] * block.std()


@wrong("through_four_bits", says="of 64 numbers differ")
def scale_in_eight_bits(block, levels):
    absmax = (block.abs().max() * 127).round() / 127
    return levels[(block[:, None] / absmax - levels).abs().argmin(dim=1)] * absmax


@wrong("through_four_bits", says="nothing was rounded")
def as_it_was(block, levels):
    return block


@wrong("through_four_bits", says="numbers of the levels, 0, 1, 2")
def numbers_of_levels(block, levels):
    return (block[:, None] / block.abs().max() - levels).abs().argmin(dim=1)


@wrong("through_four_bits", says="how far the nearest level is, scaled back")
def distances(block, levels):
    absmax = block.abs().max()
    return (block[:, None] / absmax - levels).abs().min(dim=1).values * absmax


@wrong("through_four_bits", says="the most negative one")
def no_abs_in_the_distance(block, levels):
    absmax = block.abs().max()
    return levels[(block[:, None] / absmax - levels).argmin(dim=1)] * absmax


@wrong("through_four_bits", says="15 even steps")
def rounded_to_sevenths(block, levels):
    absmax = block.abs().max()
    return (block / absmax * 7).round() / 7 * absmax


@wrong("through_four_bits", says="turns every sign")
def by_the_smallest(block, levels):
    return levels[(block[:, None] / block.min() - levels).abs().argmin(dim=1)] * block.min()
