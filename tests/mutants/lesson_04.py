"""Answers to the exercises of lesson 04."""

from __future__ import annotations

import math
from fractions import Fraction

from tests.mutants import right, wrong


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
