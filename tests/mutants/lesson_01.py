"""Answers to the exercises of lesson 01."""

from __future__ import annotations

import numpy as np

from tests.mutants import right, right_value, wrong, wrong_value

# --- double_one_output: b1, a1 ----------------------------------------------------------------------------------------

SECOND = np.array([0, 3, 0, 1])

right_value("double_one_output", (np.array([0, 1, 0]), SECOND), label="arrays")
right_value("double_one_output", ([0, 1, 0], [0, 3, 0, 1]), label="lists")
right_value("double_one_output", ([0, 0.5, 0], 2 * SECOND), label="the strength put elsewhere")
wrong_value("double_one_output", ([0, 2, 0], SECOND), says="twice more", label="b is 2")
wrong_value("double_one_output", (np.ones(3), SECOND), says="every output", label="b writes everywhere")
wrong_value("double_one_output", (SECOND, [0, 1, 0]), says="exchanged", label="a and b exchanged")
wrong_value("double_one_output", ([0, 1, 0], [0, 1, 0, 0]), says="reads the second input", label="one-hot a")
wrong_value("double_one_output", ([1, 0, 0], [2, 0, 1, 0]), says="doubles the first", label="counted from 1")
wrong_value("double_one_output", ([0, 0, 1], [1, 0, 0, 2]), says="doubles the third", label="counted from the end")
wrong_value("double_one_output", ([1, 0, 0], SECOND), says="into the first place", label="b at place 0")
wrong_value("double_one_output", ([0, 1, 0], [2, 0, 1, 0]), says="writes the first output", label="a is W[0]")
wrong_value("double_one_output", ([0, 1, 0], -SECOND), says="takes the second output away", label="minus")
wrong_value("double_one_output", ([0, 1, 0], [0, 5, 0, 0]), says="not for every x", label="for one x only")
wrong_value("double_one_output", ([0, 1, 0], [1, 1, 1, 1]), says="adds up all inputs", label="a is ones")
wrong_value("double_one_output", ([0, 1, 0], [1, 2, 3, 4]), says="a1 is x itself", label="a is x")
wrong_value("double_one_output", ([0, 1, 0], [0, 6, 0, 4]), says="has x in it already", label="a times x")
wrong_value("double_one_output", ([1, 1, 0], SECOND), says="the first or the third output too", label="two outputs")
wrong_value("double_one_output", ([0, 1, 0], [0, 3, 0, 0]), says="only the second output changes", label="half of a")
wrong_value("double_one_output", (1, 3), says="it should be [3]", label="two numbers", plain=True)

# --- work -------------------------------------------------------------------------------------------------------------


@right("work")
def two_thin_products(o, i, r):
    return r * i + o * r, o * r * i + o * i


@right("work")
def counted_in_loops(o, i, r):
    apart = sum(i for _ in range(r)) + sum(r for _ in range(o))
    return apart, o * i * (r + 1)


@wrong("work", says="must still meet x")
def product_alone(o, i, r):
    return r * (o + i), o * r * i


@wrong("work", says="the last step only")
def product_for_free(o, i, r):
    return r * (o + i), o * i


@wrong("work", says="exchanged")
def other_way_round(o, i, r):
    return o * r * i + o * i, r * (o + i)


@wrong("work", says="nothing of size in × out is formed")
def formed_all_the_same(o, i, r):
    return r * o * i, o * r * i + o * i


@wrong("work", says="W x, out × in")
def as_w(o, i, r):
    return o * i, o * r * i + o * i


@wrong("work", says="B is forgotten")
def a_only(o, i, r):
    return r * i, o * r * i + o * i


@wrong("work", says="A is forgotten")
def b_only(o, i, r):
    return o * r, o * r * i + o * i


@wrong("work", says="for B (A x) the two products follow")
def multiplied_up(o, i, r):
    return r * i * o * r, o * r * i * o * i


@wrong("work", says="additions too")
def with_additions(o, i, r):
    return 2 * r * (o + i), 2 * (o * r * i + o * i)


@wrong("work", says="with one vector")
def matrices_as_vectors(o, i, r):
    return r * (o + i), r * (o + i) + o * i


@wrong("work", says="you count W x too")
def with_the_frozen_road(o, i, r):
    return r * (o + i) + o * i, o * r * i + 2 * o * i


@wrong("work", says="the rank is missing")
def without_the_rank(o, i, r):
    return o + i, o * r * i + o * i


@wrong("work", says="what does that take")
def last_step_as_wide_as_the_output(o, i, r):
    return r * (o + i), o * r * i + o


# --- adapter_pages ----------------------------------------------------------------------------------------------------


@right("adapter_pages")
def numbers_over_a_page(o, i, r):
    return r, o * r / i


@right("adapter_pages")
def counted_in_numpy(o, i, r):
    sizes = np.array([r * i, o * r])
    return tuple(sizes / i)


@wrong("adapter_pages", says="W is square only")
def as_on_the_square(o, i, r):
    return r, r


@wrong("adapter_pages", says="upside down")
def in_over_out(o, i, r):
    return r, r * i / o


@wrong("adapter_pages", says="exchanged")
def b_first(o, i, r):
    return o * r / i, r


@wrong("adapter_pages", says="A's numbers, not its pages")
def numbers_of_a(o, i, r):
    return r * i, o * r


@wrong("adapter_pages", says="B's numbers, not its pages")
def numbers_of_b(o, i, r):
    return r, o * r


@wrong("adapter_pages", says="not a column")
def pages_are_columns(o, i, r):
    return r * i / o, r


@wrong("adapter_pages", says="do not round")
def rounded_down(o, i, r):
    return r, o * r // i


@wrong("adapter_pages", says="do not round up")
def rounded_up(o, i, r):
    return r, -(-o * r // i)


@wrong("adapter_pages", says="only rank numbers long")
def rows_counted(o, i, r):
    return r, o


@wrong("adapter_pages", says="both together")
def sums(o, i, r):
    return r, r + o * r / i


@wrong("adapter_pages", says="4,096 is one model's")
def pages_of_the_lesson(o, i, r):
    return r * i / 4096, o * r / 4096


@wrong("adapter_pages", says="a share of the book")
def shares(o, i, r):
    return r / o, r / i


@wrong("adapter_pages", says="depends on the rank")
def rank_left_out_of_b(o, i, r):
    return r, o / i


# --- to_peft ----------------------------------------------------------------------------------------------------------


@right("to_peft")
def transposes(A_in, B_out):
    return A_in.T, B_out.T


@right("to_peft")
def entry_by_entry(A_in, B_out):
    A = np.array([[row[k] for row in A_in] for k in range(len(A_in[0]))])
    return A, np.einsum("ro->or", B_out)


@wrong("to_peft", says="nothing is translated")
def as_it_is(A_in, B_out):
    return A_in, B_out


@wrong("to_peft", says="A and B are exchanged")
def exchanged(A_in, B_out):
    return B_out, A_in


@wrong("to_peft", says="A and B are exchanged")
def exchanged_and_transposed(A_in, B_out):
    return B_out.T, A_in.T


@wrong("to_peft", says="reshape lays")
def reshaped(A_in, B_out):
    return A_in.reshape(A_in.shape[::-1]), B_out.reshape(B_out.shape[::-1])


@wrong("to_peft", says="lora_B.weight: reshape lays")
def b_reshaped(A_in, B_out):
    return A_in.T, B_out.reshape(B_out.shape[::-1])


@wrong("to_peft", says="B is not")
def only_a(A_in, B_out):
    return A_in.T, B_out


@wrong("to_peft", says="A is not")
def only_b(A_in, B_out):
    return A_in, B_out.T


@wrong("to_peft", says="turned or mirrored")
def turned(A_in, B_out):
    return np.rot90(A_in), np.rot90(B_out)


@wrong("to_peft", says="should be 2 things")
def multiplied(A_in, B_out):
    return (A_in @ B_out).T


@wrong("to_peft", says="brackets of a call missing")
def not_called(A_in, B_out):
    return A_in.transpose, B_out.transpose


@wrong("to_peft", says="a dict of 2 entries")
def as_a_file(A_in, B_out):
    return {"lora_A.weight": A_in.T, "lora_B.weight": B_out.T}
