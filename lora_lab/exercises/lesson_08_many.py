"""Checks of lesson 08, merging and swapping: many adapters in one batch, in one mixture, behind one bus."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet, close, expect, short
from lora_lab.exercises import exercise


@exercise(
    "08",
    "real adapters differ",
    difficulty=2,
    importance=2,
    minutes=8,
    hints=(
        "Adapter a's columns begin where the ranks of all adapters before it end: at sum(ranks[:a]).",
        "Fill a matrix of zeros row by row: mask[row, start : start + ranks[user]] = scalings[user], unless the user "
        "is None.",
    ),
    expect=(
        "ones where the scaling belongs",
        "columns counted as if all adapters had one rank",
        "`if user:`, which leaves out adapter 0",
        "a row of ones for the plain base, which then gets every adapter at once",
    ),
)
def mask_for(attempt: Attempt) -> str:
    """The mask [rows, sum of ranks] that gives each row its own adapter, times that adapter's scaling."""
    cases = (
        ([2, 0, None, 1], [1, 3, 1, 2], [2.0, -1.0, 0.5, 3.0]),
        ([1, None, 0, 1, 1], [4, 2], [0.25, 3.0]),
        ([None], [3], [2.0]),
    )
    for users, ranks, scalings in cases:
        starts = [sum(ranks[:user]) for user in range(len(ranks) + 1)]
        columns = {user: slice(starts[user], starts[user + 1]) for user in range(len(ranks))}
        shape = (len(users), sum(ranks))

        def filled(columns: dict, value: Any, base: float = 0.0, users: list = users, shape: tuple = shape) -> Any:
            mask = np.zeros(shape)
            for row, user in enumerate(users):
                mask[row] = base if user is None else mask[row]
                if user in columns:
                    mask[row, columns[user]] = value(row, user)
            return mask

        def own(row: int, user: int, scalings: list = scalings) -> float:
            return scalings[user]

        def others(row: int, _: int, scalings: list = scalings) -> float:
            return scalings[row % len(scalings)]

        right = filled(columns, own)
        got = attempt.array(attempt(users, ranks, scalings), shape, "the mask").astype(float)
        row = next((n for n, (mine, yours) in enumerate(zip(right, got, strict=True)) if not close(yours, mine)), 0)
        whose = "the plain base" if users[row] is None else f"adapter {users[row]}"
        attempt.agree(
            got,
            right,
            {
                "there are ones where each adapter's scaling belongs: scalings[user].": filled(columns, lambda *_: 1),
                "the columns of an adapter begin where the ranks before it end, sum(ranks[:user]): ranks differ, so "
                "its own rank times its number is another place.": filled(
                    {u: slice(ranks[u] * u, ranks[u] * (u + 1)) for u in columns}, own
                ),
                "the columns are counted as if every adapter had the first one's rank; ranks differ.": filled(
                    {u: slice(ranks[0] * u, ranks[0] * (u + 1)) for u in columns}, own
                ),
                "the columns are counted as if every rank were 2, as in the cell above; here ranks differ.": filled(
                    {u: slice(2 * u, 2 * u + 2) for u in columns}, own
                ),
                "each adapter begins where it should end: sum(ranks[:a]) has the ranks *before* it alone.": filled(
                    {u: slice(starts[u + 1], starts[u + 1] + ranks[u]) for u in columns}, own
                ),
                "each adapter goes on to the last column: it ends after its own rank.": filled(
                    {u: slice(starts[u], None) for u in columns}, own
                ),
                "the last column of each adapter is missing: a slice ends before its second number.": filled(
                    {u: slice(starts[u], starts[u + 1] - 1) for u in columns}, own
                ),
                "the scaling is that of another adapter: scalings[user], not scalings[row].": filled(columns, others),
                "scalings are no whole numbers, and a mask of integers cuts them off.": np.trunc(right),
                "the mask is empty: nothing was written into it.": np.zeros(shape),
                "only the first row is filled: is the return inside of the loop?": np.vstack(
                    [right[:1], np.zeros_like(right[1:])]
                ),
                "row a has adapter a, whoever asks: row i belongs to users[i].": _rows_by_user(
                    users, columns, scalings, shape
                ),
                "one column too far: adapter a begins after the ranks *before* it, sum(ranks[:a]).": filled(
                    {u: slice(starts[u] + 1, starts[u + 1] + 1) for u in columns}, own
                ),
                "each adapter has only its first column: it has as many as its rank.": filled(
                    {u: slice(starts[u], starts[u] + 1) for u in columns}, own
                ),
                "adapter 0 is left out: `if user:` is false for 0 as well. Ask `user is not None`.": filled(
                    {u: columns[u] for u in columns if u}, own
                ),
                "a row for the plain base has ones, and so gets every adapter at once. It needs zeros.": filled(
                    columns, own, base=1.0
                ),
                "the row for the plain base has adapter 0: None is not 0, that row stays zero.": filled(
                    columns, own, users=[u or 0 for u in users]
                ),
                "the row for the plain base has an adapter: None is nobody's number, that row stays zero.": np.array(
                    [filled(columns, own, users=[(len(ranks) - 1 if u is None else u) for u in users])]
                )[0],
                f"row {row} is for {whose} and should be {right[row].tolist()}, not {got[row].tolist()}.": got,
            },
            case=f"users {users} and ranks {ranks}",
        )
    return "The scaling costs nothing: it rides on the mask."


def _rows_by_user(users: Any, columns: dict, scalings: list, shape: tuple) -> np.ndarray:
    """The mask of one who takes a user's number for that of a row."""
    mask = np.zeros(shape)
    for user in users:
        if user is not None and user < shape[0]:
            mask[user, columns[user]] = scalings[user]
    return mask


@exercise(
    "08",
    "mix exactly",
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "[B1 B2] times A1 over A2 is B1 A1 + B2 A2. So stack the A's below each other and the B's side by side.",
        "Each weight goes to one side only: np.vstack([A1, A2]), np.hstack([weight1 * B1, ...]).",
    ),
    expect=(
        "A and B averaged apart: cross terms",
        "the weight on both sides: it is squared",
        "the square root of |weight| on both sides: the sign is lost",
        "the B's in the other order than the A's",
    ),
)
def mix(attempt: Attempt) -> str:
    """A and B of the adapter whose update is weight1 times the first one's plus weight2 times the second one's."""
    dice = np.random.default_rng(8)
    for r1, r2, w1, w2 in ((2, 2, 0.5, -2.0), (2, 3, 0.5, 0.5), (1, 2, 0.0, 1.0)):
        a1, b1, a2, b2 = (dice.normal(size=size) for size in ((r1, 7), (5, r1), (r2, 7), (5, r2)))
        case = f"the weights {w1} and {w2}"
        a, b = attempt.several(attempt(a1, b1, w1, a2, b2, w2), 2, "the answer, A and B,")
        a, b = (_matrix(attempt, value, name) for value, name in ((a, "A"), (b, "B")))
        expect(
            not (a.shape[0] == 5 and b.shape[1] == 7),
            "that is B first and then A: the exercise wants A [rank, in] first.",
        )
        expect(
            not (a.shape == (7, r1 + r2) and b.shape == (r1 + r2, 5)),
            f"both are transposed: A should be [{r1 + r2}, 7], its rank first, and B [5, {r1 + r2}].",
        )
        expect(
            a.shape[1] == 7 and b.shape[0] == 5 and a.shape[0] == b.shape[1],
            f"for ranks {r1} and {r2}, 7 in and 5 out, A is {list(a.shape)} and B {list(b.shape)}; they should be "
            f"[{r1 + r2}, 7] and [5, {r1 + r2}]: A's below each other, B's side by side.",
        )
        root1, root2 = abs(w1) ** 0.5, abs(w2) ** 0.5
        mistakes = {
            "the weights are not in it: put each on its B (or its A).": b1 @ a1 + b2 @ a2,
            "the weight is on A and on B, and so counts squared: one side only.": w1**2 * b1 @ a1 + w2**2 * b2 @ a2,
            "the sign of a negative weight is lost. (A root on both sides cannot carry it: put the weight on one "
            "side.)": abs(w1) * b1 @ a1 + abs(w2) * b2 @ a2,
            "both weights are taken for a half: use weight1 and weight2.": (b1 @ a1 + b2 @ a2) / 2,
            "the half is on both sides, and makes a quarter. And it should be weight1 and weight2.": (
                (b1 @ a1 + b2 @ a2) / 4
            ),
            "weight2 is not in it: put it on B2 (or on A2).": w1 * b1 @ a1 + b2 @ a2,
            "weight1 is not in it: put it on B1 (or on A1).": b1 @ a1 + w2 * b2 @ a2,
            "divided by the sum of the weights: they are to be taken as they are.": (w1 * b1 @ a1 + w2 * b2 @ a2)
            / (w1 + w2),
            "each weight is on the other adapter: weight1 belongs to the first.": w2 * b1 @ a1 + w1 * b2 @ a2,
        }
        if r1 == r2:
            apart = "A and B are mixed apart, so the cross terms B1 A2 and B2 A1 are in the product. Stack instead."
            crossed = "the A's and the B's stand in different orders, so each B meets the other adapter's A."
            mistakes |= {
                apart: (w1 * b1 + w2 * b2) @ (w1 * a1 + w2 * a2),
                crossed: w2 * b2 @ a1 + w1 * b1 @ a2,
                apart.replace("are mixed", "were mixed"): (b1 + b2) @ (w1 * a1 + w2 * a2),
                apart.replace("are mixed", "both are mixed"): (w1 * b1 + w2 * b2) @ (a1 + a2),
                apart.replace("are mixed", "are added"): (b1 + b2) @ (a1 + a2),
                apart.replace("are mixed", "are averaged"): (b1 + b2) @ (a1 + a2) / 4,
                apart.replace("mixed apart", "mixed apart, with roots"): (root1 * b1 + root2 * b2)
                @ (root1 * a1 + root2 * a2),
                crossed.replace("so each", "and so each"): w1 * b2 @ a1 + w2 * b1 @ a2,
            }
        attempt.agree(b @ a, w1 * b1 @ a1 + w2 * b2 @ a2, mistakes, case=case)
        expect(
            a.shape[0] <= r1 + r2,
            f"the product is right, but its rank is {a.shape[0]}: that is no thin adapter any more. Ranks {r1} and "
            f"{r2} need {r1 + r2} at most.",
        )
    return "Exact, at the sum of the ranks, for any weights."


def _matrix(attempt: Attempt, value: Any, name: str) -> np.ndarray:
    """`value` as a matrix of whatever shape. Raises NotYet if it is none."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise NotYet(f"{name} should be one matrix, and it is {short(value)}.")
    found = np.asarray(value) if isinstance(value, np.ndarray) else attempt.array(value, tuple(shape), name)
    no_root = "A negative weight has no real root: put the weight on one side."
    expect(found.dtype.kind != "c", f"{name} holds complex numbers. {no_root}")
    expect(found.dtype.kind != "f" or not np.isnan(found).any(), f"{name} holds nan, which is no number. {no_root}")
    return attempt.array(value, tuple(shape), name)


@exercise(
    "08",
    "where is the limit?",
    difficulty=1,
    importance=1,
    minutes=4,
    hints=(
        "How many seconds of the bus does a request take on average? Most take none: only a miss does.",
        "A request takes miss_rate × load_seconds on average, and a second has one second.",
    ),
    expect=(
        "every request counted as a miss",
        "the hit rate in the place of the miss rate",
        "the share of the time that one request a second takes, not turned over",
    ),
)
def most_requests(attempt: Attempt) -> str:
    """Requests a second at which the bus is busy all the time."""
    for miss, load in ((0.3, 0.07), (0.8, 0.5), (1.0, 0.25), (0.01, 0.0032)):
        got = attempt.number(attempt(miss, load), f"most_requests({miss}, {load})")
        right = 1 / (miss * load)
        expect(
            abs(got - right) >= 1 or got != int(got) or close(got, right),
            "a rate need not be a whole number: leave it unrounded.",
        )
        attempt.agree(
            got,
            right,
            {
                "that lets every request use the bus; only those that miss do, a share of miss_rate.": 1 / load,
                "that is what one request a second takes of the bus's time. How many of them fill it?": miss * load,
                "upside down in the miss rate: the more requests miss, the fewer the bus can bear.": miss / load,
                "upside down in the load: the longer a load takes, the fewer the bus can bear.": load / miss,
                "that counts those who find their adapter in place, 1 - miss_rate; the bus serves the others.": (
                    1 / ((1 - miss) * load) if miss < 1 else right
                ),
                "that leaves out how long one load takes.": 1 / miss,
                "that is for a minute: asked are requests a second.": 60 * right,
                "that is the share of time that is left over when one request a second comes.": 1 - miss * load,
                "the two belong multiplied: a request takes load_seconds, but only a share of miss_rate takes it.": (
                    1 / (miss + load)
                ),
                "that is half of it: a good plan, but the question is where the queue begins to grow.": right / 2,
            },
            case=f"a miss rate of {miss} and {load} s for a load",
        )
    return "Close to that limit the waits are long already: plan for half of it."
