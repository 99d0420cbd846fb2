"""Answers to the exercises of lesson 06."""

from __future__ import annotations

import math

from tests.mutants import right, wrong


@right("alpha_for")
def by_rule(factor, rank, use_rslora):
    return factor * rank**0.5 if use_rslora else factor * rank


@right("alpha_for")
def by_divisor(factor, rank, use_rslora):
    divisor = math.sqrt(rank) if use_rslora else rank
    return divisor * factor


@wrong("alpha_for", says="you took the other one")
def always_plain(factor, rank, use_rslora):
    return factor * rank


@wrong("alpha_for", says="divide by the rank")
def divided(factor, rank, use_rslora):
    return factor / rank


@wrong("alpha_for", says="divide by the root")
def divided_by_the_root(factor, rank, use_rslora):
    return factor / rank**0.5 if use_rslora else factor / rank


@wrong("alpha_for", says="rank itself that counts")
def always_rooted(factor, rank, use_rslora):
    return factor * rank**0.5


@wrong("alpha_for", says="upside down")
def rank_over_factor(factor, rank, use_rslora):
    return (rank**0.5 if use_rslora else rank) / factor


@wrong("alpha_for", says="not the factor itself")
def the_factor(factor, rank, use_rslora):
    return factor


@wrong("alpha_for", says="is a habit")
def twice_the_rank(factor, rank, use_rslora):
    return 2 * rank**0.5 if use_rslora else 2 * rank


@wrong("alpha_for", says="half the rank in Python")
def half_for_root(factor, rank, use_rslora):
    return factor * rank**1 / 2 if use_rslora else factor * rank


@wrong("alpha_for", says="the factor is missing")
def factor_forgotten(factor, rank, use_rslora):
    return rank**0.5 if use_rslora else rank


@wrong("alpha_for", says="alpha is rounded")
def whole_alpha(factor, rank, use_rslora):
    return int(by_rule(factor, rank, use_rslora))


@right("at_scale")
def along_the_line(W, merged, scale):
    return W + scale * (merged - W)


@right("at_scale")
def as_a_mix(W, merged, scale):
    return (1 - scale) * W + scale * merged


@wrong("at_scale", says="the base weight too")
def all_scaled(W, merged, scale):
    return scale * merged


@wrong("at_scale", says="counted twice")
def w_twice(W, merged, scale):
    return W + scale * merged


@wrong("at_scale", says="start from `merged`")
def from_merged(W, merged, scale):
    return merged + scale * (merged - W)


@wrong("at_scale", says="minus the update")
def backwards(W, merged, scale):
    return W + scale * (W - merged)


@wrong("at_scale", says="roles are swapped")
def swapped_roles(W, merged, scale):
    return merged + scale * (W - merged)


@wrong("at_scale", says="update alone")
def update_alone(W, merged, scale):
    return scale * (merged - W)


@wrong("at_scale", says="W at every scale", plain=True)
def never_changes(W, merged, scale):
    return W


@wrong("at_scale", says="squares it")
def scale_twice(W, merged, scale):
    return W + scale * scale * (merged - W)


@wrong("at_scale", says="you divide by the scale")
def over_the_scale(W, merged, scale):
    return W + (merged - W) / scale if scale else W


@wrong("at_scale", says="`merged` at every scale")
def always_merged(W, merged, scale):
    return merged


@wrong("at_scale", says="the other way round")
def w_scaled(W, merged, scale):
    return scale * W + (merged - W)


@wrong("at_scale", says="scale, not scale - 1")
def counted_from_merged(W, merged, scale):
    return W + (scale - 1) * (merged - W)


@right("matching_rate")
def by_power(lr_b, c, optimizer):
    return lr_b / c**2 if optimizer == "sgd" else lr_b / c


@right("matching_rate")
def step_by_step(lr_b, c, optimizer):
    for _ in range({"sgd": 2, "adam": 1}[optimizer]):
        lr_b = lr_b / c
    return lr_b


@wrong("matching_rate", says="divides by c, which")
def adam_for_both(lr_b, c, optimizer):
    return lr_b / c


@wrong("matching_rate", says="divides by c², which")
def sgd_for_both(lr_b, c, optimizer):
    return lr_b / c**2


@wrong("matching_rate", says="you raise the rate")
def raised(lr_b, c, optimizer):
    return lr_b * c**2 if optimizer == "sgd" else lr_b * c


@wrong("matching_rate", says="you multiply")
def raised_once(lr_b, c, optimizer):
    return lr_b * c


@wrong("matching_rate", says="has to change")
def unchanged(lr_b, c, optimizer):
    return lr_b


@wrong("matching_rate", says="no root here")
def rooted(lr_b, c, optimizer):
    return lr_b / c**0.5


@wrong("matching_rate", says="one too many")
def thrice(lr_b, c, optimizer):
    return lr_b / c**3


@wrong("matching_rate", says="rate is squared too")
def all_squared(lr_b, c, optimizer):
    return (lr_b / c) ** 2 if optimizer == "sgd" else lr_b / c


@right("predicted_slope")
def by_optimizer(optimizer, p):
    return 1 - 2 * p if optimizer == "sgd" else 1 - p


@right("predicted_slope")
def by_logarithm(optimizer, p):
    s = 2.0**-p  # the factor at rank 2, against 1 at rank 1
    return math.log2(2 * (s * s if optimizer == "sgd" else s))


@wrong("predicted_slope", says="other optimizer's slope")
def one_rule(optimizer, p):
    return 1 - p


@wrong("predicted_slope", says="one more power")
def terms_forgotten(optimizer, p):
    return -2 * p if optimizer == "sgd" else -p


@wrong("predicted_slope", says="so p is taken away")
def sign_lost(optimizer, p):
    return 1 + 2 * p if optimizer == "sgd" else 1 + p


@wrong("predicted_slope", says="upside down")
def inverted(optimizer, p):
    return 2 * p - 1 if optimizer == "sgd" else p - 1


@wrong("predicted_slope", says="1, not 2")
def squared_rank(optimizer, p):
    return 2 - 2 * p if optimizer == "sgd" else 2 - p


@wrong("predicted_slope", says="exponents add")
def squared_power(optimizer, p):
    return 1 - p**2 if optimizer == "sgd" else 1 - p
