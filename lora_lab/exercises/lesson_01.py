"""Checks of lesson 01, the idea."""

from __future__ import annotations

import numpy as np

from lora_lab.attempt import Attempt, close, expect
from lora_lab.exercises import exercise


@exercise(
    "01",
    "double one output",
    difficulty=1,
    importance=2,
    minutes=3,
    hints=(
        "The second output is W[1] · x, whatever x is. What must a1 read, so that b1 can add it once more?",
        "a1 is the second row of W: 0, 3, 0, 1. And b1 writes it into the second output only: 0, 1, 0.",
    ),
    expect=(
        "b1 = (0, 2, 0): W gives the output once already, so that makes it three times as large",
        "a1 reads the second input instead of the second output",
        "right for the x of the lesson only",
    ),
)
def double_one_output(attempt: Attempt) -> str:
    """b1 (three numbers) and a1 (four) with W + b1 a1 giving the second output doubled, the others as before."""
    W, x = np.array([[2, 0, 1, 0], [0, 3, 0, 1], [1, 0, 0, 2]]), np.array([1, 2, 3, 4])
    b, a = attempt.several(attempt.answer, 2, "the answer (b1, a1)")
    expect(
        (_shape(b), _shape(a)) != ((4,), (3,)),
        "exchanged: b1 has a number for each of the 3 outputs, a1 one for each of the 4 inputs.",
    )
    b, a = attempt.array(b, (3,), "b1"), attempt.array(a, (4,), "a1")
    got, right = np.outer(b, a), np.outer([0, 1, 0], W[1])
    mistakes = {
        "that adds the second output twice more. W gives it once already, so once more is double.": 2 * right,
        "that takes the second output away: added to W it leaves nothing.": -right,
        "that adds half of it: one and a half is not double.": right / 2,
        "every output gets the second one added. b1 says where to write: into the second only.": np.outer(
            [1, 1, 1], W[1]
        ),
        "that doubles the first output. Python counts from 0: the second row is W[1].": np.outer([1, 0, 0], W[0]),
        "that doubles the third output. Python counts from 0: the second row is W[1].": np.outer([0, 0, 1], W[2]),
        "a1 reads the second input. It must read the second output, W[1] · x.": np.outer([0, 1, 0], [0, 1, 0, 0]),
        "that writes the first output into the second place: a1 must read W[1] · x.": np.outer([0, 1, 0], W[0]),
        "that writes into the first place: b1 says where, and the second output is place 1.": np.outer([1, 0, 0], W[1]),
        "that adds nothing: one of the two is all zeros.": 0 * right,
        "a1 adds up all inputs. It must read what the second output reads.": np.outer([0, 1, 0], [1, 1, 1, 1]),
        "a1 is x itself. It must do for every x, so it cannot hold one of them.": np.outer([0, 1, 0], x),
        "a1 has x in it already. a1 is multiplied by x later, whatever x is.": np.outer([0, 1, 0], W[1] * x),
    }
    if close(got @ x, right @ x, 1e-9) and not close(got, right, 1e-9):
        known = [sentence for sentence, value in mistakes.items() if close(got, value, 1e-9)]
        expect(
            bool(known), "right for x = (1, 2, 3, 4), but not for every x: a1 must read what the second output reads."
        )
    unasked = (
        "b1 writes into the first or the third output too, and they should stay as they are."
        if got[[0, 2]].any()
        else "only the second output changes, as it should. But a1 does not read what that output reads, for every x."
    )
    attempt.agree(got, right, mistakes, otherwise=unasked)
    return "Rank 1, and one output is twice as loud for every x."


def _shape(value: object) -> tuple[int, ...] | None:
    """numpy's shape of a value, or None for nested lists of unlike lengths."""
    try:
        return np.shape(value)
    except ValueError:
        return None


@exercise(
    "01",
    "mind the brackets",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "B (A x) is two products of a matrix and a vector. (B A) x is a product of two matrices, and then another.",
        "rank × in + out × rank for the first; out × rank × in + out × in for the second.",
    ),
    expect=(
        "the product B A counted, but not that it must still meet x",
        "the two exchanged",
        "W x counted too: asked for is the correction alone",
    ),
)
def work(attempt: Attempt) -> str:
    """Multiplications of B (A x), and of (B A) x, for one x."""
    for o, i, r in ((5, 7, 2), (3, 4, 2), (4096, 4096, 8), (100, 3, 1)):
        case = f"work({o}, {i}, {r})"
        apart, formed = attempt.several(attempt(o, i, r), 2, f"what {case} returns")
        apart, formed = attempt.whole(apart, "the first count"), attempt.whole(formed, "the second count")
        right = r * i + o * r, o * r * i + o * i
        expect((apart, formed) != right[::-1], "exchanged: B (A x) comes first, then (B A) x.")
        attempt.agree(
            apart,
            right[0],
            {
                "for B (A x) you count W x, out × in. A x is [rank, in] times a vector.": o * i,
                "for B (A x) you count W x too. Only the correction is asked for.": right[0] + o * i,
                "for B (A x) B is forgotten: what A gives must still go through it.": r * i,
                "for B (A x) A is forgotten: x meets it first.": o * r,
                "for B (A x) nothing of size in × out is formed: two thin products, one after the other.": o * r * i,
                "for B (A x) the two products follow one another: their counts are added.": r * i * o * r,
                "for B (A x) that counts additions too, or each product twice.": 2 * right[0],
                "for B (A x) the rank is missing: A has rank rows, and B has rank columns.": o + i,
            },
            f"{case}, B (A x):",
            0,
        )
        attempt.agree(
            formed,
            right[1],
            {
                "for (B A) x you stop at B A: the product [out, in] must still meet x.": o * r * i,
                "for (B A) x you count the last step only: forming B A is work as well.": o * i,
                "for (B A) x a product of matrices takes out × rank × in; you have that of A and B with one vector.": (
                    right[0] + o * i
                ),
                "for (B A) x W x is counted too. Only the correction is asked for.": right[1] + o * i,
                "for (B A) x the two steps follow one another: their counts are added.": o * r * i * o * i,
                "for (B A) x that counts additions too, or each product twice.": 2 * right[1],
                "for (B A) x forming B A is right. The last step is a matrix [out, in] times x; what does that take?": (
                    formed if formed - o * r * i in (o, i, o * o, i * i) else right[1]
                ),
            },
            f"{case}, (B A) x:",
            0,
        )
    apart, formed = 8 * (4096 + 4096), 4096 * 8 * 4096 + 4096 * 4096
    return f"At 4096 and rank 8: {apart:,} against {formed:,}, {formed / apart:,.0f} times as much."


@exercise(
    "01",
    "a book that is not square",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "A page has `in_features` numbers, like a row of W. How many numbers have A and B? Divide.",
        "A is [rank, in]: rank pages. B is [out, rank]: out × rank numbers, over in_features to the page.",
    ),
    expect=(
        "8 and 8, as on the square W",
        "in and out exchanged, since which one is a page is easy to forget",
        "rounded: 1.14 pages are 1.14 pages",
    ),
)
def adapter_pages(attempt: Attempt) -> str:
    """Pages of in_features numbers that A fills, and that B fills."""
    for o, i, r in ((10, 512, 3), (14336, 4096, 8), (4096, 14336, 4), (4096, 4096, 8)):
        case = f"adapter_pages({o}, {i}, {r})"
        first, second = attempt.several(attempt(o, i, r), 2, f"what {case} returns")
        of_A, of_B = attempt.number(first, "A's pages"), attempt.number(second, "B's pages")
        right = r, o * r / i
        expect(
            right[0] == right[1] or not (close(of_A, right[1], 1e-9) and close(of_B, right[0], 1e-9)),
            "exchanged: A's pages come first, then B's.",
        )
        attempt.agree(
            of_A,
            right[0],
            {
                "A's numbers, not its pages: divide by the in_features of a page.": r * i,
                "A has rank rows, each as long as a row of W. That is B's size over a page.": r * o / i,
                "a page is a row of W, in_features numbers, and not a column.": r * i / o,
                "that is both together under the name of A.": r + o * r / i,
                "A has rank rows, not in_features.": i,
                "a page has in_features numbers, whatever they are; 4,096 is one model's.": r * i / 4096,
                "that is a share of the book. Asked for are pages.": r / o,
            },
            f"{case}, A:",
            1e-9,
        )
        attempt.agree(
            of_B,
            right[1],
            {
                "B as many pages as A: true where W is square only. B is [out, rank].": r,
                "upside down: B has out × rank numbers, and a page in_features.": r * i / o,
                "B's numbers, not its pages: divide by the in_features of a page.": o * r,
                "B has out rows, but each is only rank numbers long. Count numbers, then divide.": o,
                "do not round: a page may be filled in part.": round(o * r / i),
                "do not round up: a page may be filled in part.": -(-o * r // i),
                "do not round down: a page may be filled in part.": o * r // i,
                "that is both together under the name of B.": r + o * r / i,
                "a page has in_features numbers, whatever they are; 4,096 is one model's. ": o * r / 4096,
                "B's size depends on the rank as well: it has out × rank numbers.": o / i,
            },
            f"{case}, B:",
            1e-9,
        )
    return f"36 pages of 14,336, {36 / 14336:.2%}."


@exercise(
    "01",
    "translate an adapter",
    difficulty=2,
    importance=3,
    minutes=4,
    hints=(
        "Write down all four shapes. Which of the two given matrices reads the inputs, and which writes the outputs?",
        "Names stay, shapes turn: lora_A.weight is A_in transposed, lora_B.weight is B_out transposed.",
    ),
    expect=(
        "nothing done at all: in peft the shapes are the other way round",
        "A and B exchanged, since the shapes then seem to fit",
        "reshape instead of a transpose: right shapes, wrong numbers",
    ),
)
def to_peft(attempt: Attempt) -> str:
    """lora_A.weight [r, in] and lora_B.weight [out, r] of an adapter given as A_in [in, r] and B_out [r, out]."""
    draw = np.random.default_rng(4)
    for i, o, r in ((7, 5, 2), (4, 3, 2), (6, 6, 1), (4, 4, 4)):
        A_in, B_out = draw.normal(size=(i, r)), draw.normal(size=(r, o))
        A, B = attempt.several(attempt(A_in, B_out), 2, "what to_peft returns (lora_A.weight, lora_B.weight)")
        found = tuple(tuple(getattr(one, "shape", ())) for one in (A, B))
        if i != o and r > 1:
            expect(
                found != ((i, r), (r, o)),
                "nothing is translated: lora_A.weight is [r, in] and lora_B.weight [out, r], both the other way round.",
            )
            expect(
                found not in (((r, o), (i, r)), ((o, r), (r, i))),
                "A and B are exchanged: A still reads the inputs, B still writes the outputs; only their sides turn.",
            )
            expect(found != ((r, i), (r, o)), "A is translated, B is not: lora_B.weight is [out, r].")
            expect(found != ((i, r), (o, r)), "B is translated, A is not: lora_A.weight is [r, in].")
        A, B = attempt.array(A, (r, i), "lora_A.weight"), attempt.array(B, (o, r), "lora_B.weight")
        relaid = "reshape lays the numbers out anew, in the order of reading; a transpose turns rows into columns."
        case = f"in {i}, out {o}, r {r}"
        turned = "turned or mirrored. A transpose exchanges row and column numbers and nothing else."
        for got, given, name in ((A, A_in, "lora_A.weight"), (B, B_out, "lora_B.weight")):
            attempt.agree(
                got,
                given.T,
                {
                    f"{name}: {relaid}": given.reshape(given.T.shape),
                    f"{name} is {turned}": np.rot90(given),
                    f"{name} is {turned} ": np.rot90(given, -1),
                    f"{name} is {turned}  ": given.T[::-1, ::-1],
                },
                f"{name}, {case},",
            )
    return "The same sums. In peft's file A still reads and B still writes."
