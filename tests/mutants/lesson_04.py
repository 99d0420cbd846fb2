"""Answers to the exercises of lesson 04."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tests.mutants import right, right_value, wrong, wrong_value


@right("break_even")
def by_floor_division(o, i):
    return o * i // (o + i)


@right("break_even")
def by_trying(o, i):
    return max(r for r in range(min(o, i) + 1) if r * (o + i) <= o * i)


@right("break_even")
def by_fraction(o, i):
    return math.floor(1 / (Fraction(1, o) + Fraction(1, i)))


@wrong("break_even", says="round down")
def not_rounded(o, i):
    return o * i / (o + i)


@wrong("break_even", says="rounded up")
def rounded_up(o, i):
    return -(-o * i // (o + i))


@wrong("break_even", says="square W only")
def half_the_width(o, i):
    return min(o, i) // 2


@wrong("break_even", says="in and out count separately")
def half_the_mean_width(o, i):
    return (o + i) // 4


@wrong("break_even", says="twice too large")
def one_factor_forgotten(o, i):
    return 2 * o * i // (o + i)


@wrong("break_even", says="largest rank B A can have")
def full_rank(o, i):
    return min(o, i)


@wrong("break_even", says="rounded up")
def rounded(o, i):
    return round(o * i / (o + i))


@wrong("break_even", says="counts are equal")
def strictly_less(o, i):
    return (o * i - 1) // (o + i)


@wrong("break_even", says="mind the brackets")
def brackets_forgotten(o, i):
    return o * i // o + i


@wrong("break_even", says="the lesson's own W alone", plain=True)
def of_the_lesson(o, i):
    return 2048


# --- qv_parameters ----------------------------------------------------------------------------------------------------


@right("qv_parameters")
def q_and_v(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (2 * hidden + (heads + kv_heads) * head_size)


@right("qv_parameters")
def added_up_matrix_by_matrix(hidden, layers, heads, kv_heads, head_size, rank):
    total = 0
    for _ in range(layers):
        for out in (heads * head_size, kv_heads * head_size):
            total += rank * hidden + out * rank
    return total


@wrong("qv_parameters", says="v has fewer heads than q")
def grouped_queries_forgotten(hidden, layers, heads, kv_heads, head_size, rank):
    return 2 * layers * rank * (hidden + heads * head_size)


@wrong("qv_parameters", says="q has all the heads")
def both_grouped(hidden, layers, heads, kv_heads, head_size, rank):
    return 2 * layers * rank * (hidden + kv_heads * head_size)


@wrong("qv_parameters", says="need not be hidden.")
def q_taken_for_square(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (3 * hidden + kv_heads * head_size)


@wrong("qv_parameters", says="look at both")
def all_square(hidden, layers, heads, kv_heads, head_size, rank):
    return 4 * layers * rank * hidden


@wrong("qv_parameters", says="not always 8")
def rank_of_the_example(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * 8 * (2 * hidden + (heads + kv_heads) * head_size)


@wrong("qv_parameters", says="that is one layer")
def layers_forgotten(hidden, layers, heads, kv_heads, head_size, rank):
    return rank * (2 * hidden + (heads + kv_heads) * head_size)


@wrong("qv_parameters", says="multiplies in and out")
def in_times_out(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * hidden * (heads + kv_heads) * head_size


@wrong("qv_parameters", says="W_q and W_v themselves")
def the_base(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * hidden * (heads + kv_heads) * head_size


@wrong("qv_parameters", says="k is counted too")
def with_k(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (3 * hidden + (heads + 2 * kv_heads) * head_size)


@wrong("qv_parameters", says="the outputs only")
def no_a(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (heads + kv_heads) * head_size


@wrong("qv_parameters", says="an A each")
def one_a_for_both(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (hidden + (heads + kv_heads) * head_size)


@wrong("qv_parameters", says="that is what W_q gives out")
def inputs_as_wide_as_the_heads(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (3 * heads + kv_heads) * head_size


@wrong("qv_parameters", says="a head has head_size numbers")
def heads_counted(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (2 * hidden + heads + kv_heads)


@wrong("qv_parameters", says="twice too much")
def all_of_attention(hidden, layers, heads, kv_heads, head_size, rank):
    return 2 * layers * rank * (2 * hidden + (heads + kv_heads) * head_size)


@wrong("qv_parameters", says="that is q alone")
def q_alone(hidden, layers, heads, kv_heads, head_size, rank):
    return layers * rank * (hidden + heads * head_size)


# --- under_one_percent: of the base, of base plus adapter -------------------------------------------------------------

right_value("under_one_percent", (26, 27))
right_value("under_one_percent", [26.0, np.int64(27)], label="other types")
wrong_value("under_one_percent", (26, 26), says="is there room left")
wrong_value("under_one_percent", (27, 27), says="right of base plus adapter")
wrong_value("under_one_percent", (27, 26), says="the other way round")
wrong_value("under_one_percent", (27, 28), says="first ranks that are no longer")
wrong_value("under_one_percent", (28, 28), says="7,000,000,000")
wrong_value("under_one_percent", (128, 129), says="q and v only")
wrong_value("under_one_percent", (269, 272), says="that is for 10 %")
wrong_value("under_one_percent", (2, 2), says="that is for 0.1 %")
wrong_value("under_one_percent", (26, 8), says="a larger rank still fits")
wrong_value("under_one_percent", (26.97, 27.24), says="can only be a whole number")
wrong_value("under_one_percent", (16, 32), says="at rank 16 the adapter is 0.593%")
wrong_value("under_one_percent", (32, 32), says="that is not below 1 %")
wrong_value("under_one_percent", 26, says="2 things", plain=True)

# --- famous_paper: times fewer, MB, MiB -------------------------------------------------------------------------------

GPT3 = 96 * 2 * 4 * (12288 + 12288)
FEWER = 175_255.8e6 / GPT3

right_value("famous_paper", (FEWER, 2 * GPT3 / 1e6, 2 * GPT3 / 2**20), label="computed")
right_value("famous_paper", (9285.4, 37.75, 36), label="as one writes them down")
right_value("famous_paper", [np.float64(9285.38), 37.748736, 36.0], label="numpy")
wrong_value("famous_paper", (10_000, 37.75, 36), says="paper's rounded figure")
wrong_value("famous_paper", (FEWER, 36, 37.75), says="are exchanged")
wrong_value("famous_paper", (FEWER, 75.5, 72), says="4 bytes a number")
wrong_value("famous_paper", (FEWER, 35, 35), says="rounded 35")
wrong_value("famous_paper", (2 * FEWER, 37.75, 36), says="twice too large")
wrong_value("famous_paper", (1 / FEWER, 37.75, 36), says="one over that")
wrong_value("famous_paper", (96 * FEWER, 37.75, 36), says="there are 96")
wrong_value("famous_paper", (175e9 / GPT3, 37.75, 36), says="takes 175 billion")
wrong_value("famous_paper", (FEWER, 37.75, 37.75), says="in the other unit")
wrong_value("famous_paper", (FEWER, 8 * 37.748736, 8 * 36), says="bits, not bytes")
wrong_value("famous_paper", (FEWER, 2 * GPT3, 2 * GPT3), says="count of bytes")
wrong_value("famous_paper", (GPT3, 37.75, 36), says="divide 175,255.8 million by it")
wrong_value("famous_paper", (FEWER / 2, 37.75, 36), says="half of what it should be")
wrong_value("famous_paper", (9300, 37.75, 36), says="nearly right")
wrong_value("famous_paper", (100 / FEWER, 37.75, 36), says="in per cent")
wrong_value("famous_paper", (FEWER, 37, 36), says="How many bytes has the file")
