"""Checks of lesson 08, merging and swapping."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet, close, expect, short
from lora_lab.exercises import exercise


@exercise(
    "08",
    "lost, or only noisy?",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "The inner product of two matrices multiplies entry by entry and adds everything up: (change * update).sum().",
        "Divide by the inner product of update with itself, update.square().sum(), and by nothing else.",
    ),
    expect=(
        "the cosine, or a ratio of two lengths: noise then counts, though it lies across the update",
        "one minus the error: an update that arrives in full, with noise on it, seems lost",
        "divided by the square of the change instead of the update's",
    ),
)
def kept_along(attempt: Attempt) -> str:
    """How far `change` goes along `update`: their inner product over that of `update` with itself."""
    import torch

    dice = torch.Generator().manual_seed(8)
    update = torch.randn(5, 3, generator=dice, dtype=torch.float64) + 0.4
    noise = torch.randn(5, 3, generator=dice, dtype=torch.float64)
    across = noise - update * (noise * update).sum() / update.square().sum()  # nothing of it lies along the update
    cases = ((-0.6 * update + across, -0.6, "a change that goes back, with noise"), (update + across, 1.0, "all of it"))
    for change, right, case in (*cases, (0.3 * update, 0.3, "three tenths of it")):
        inner, own = (change * update).sum(), update.square().sum()
        lengths = change.norm() / update.norm()
        got = attempt.number(attempt(change, update), "kept_along(change, update)")
        attempt.agree(
            got,
            right,
            {
                "that is the cosine: it says where the change points, not how far it went. Divide by the update's "
                "square alone.": inner / change.norm() / update.norm(),
                "that compares two lengths, and noise across the update has length too. Take the inner product.": (
                    lengths
                ),
                "that is one minus the error. Noise counts in it, though it takes nothing away from what went along "
                "the update.": 1 - (change - update).norm() / update.norm(),
                "upside down: that is the share of the change, divided by the square of the change. Divide by the "
                "update's.": inner / change.square().sum(),
                "the sign is lost: a change that goes back along the update keeps a negative share.": abs(inner) / own,
                "that is the inner product itself. A share needs something to divide by: the update with itself.": (
                    inner
                ),
                "divided by the update's length; it takes its square, or the answer depends on the update's size.": (
                    inner / update.norm()
                ),
                "that is a matrix product, in which one row meets another. Multiply entry by entry, then add up.": (
                    (change @ update.T).sum() / (update @ update.T).sum()
                ),
                "that averages the ratios of single entries: one near zero outweighs all others. Sum first, divide "
                "then.": (change / update).mean(),
            },
            case=case,
        )
    return "Noise across the update does not count here, however large it is."


@exercise(
    "08",
    "keep it",
    difficulty=2,
    importance=3,
    minutes=8,
    hints=(
        "Keep the weight itself, the tensor, before the first merge; and make a new tensor for the sum, since += "
        "writes into the kept one.",
        "Keep it only if nothing is kept yet; when you give it back, forget it: layer.weight, layer.kept = layer.kept, "
        "None.",
    ),
    expect=(
        "`+=` on the weight: the kept tensor is the same one, and changes with it",
        "the second merge keeps the merged weight in the place of the plain one",
        "unmerged by subtracting: nearly right, never to the bit",
        "what was kept is not dropped: next time an old weight comes back",
    ),
)
def merge_exactly(attempt: Attempt) -> str:
    """Two functions: merge_exactly(layer, update), twice if need be, and unmerge_exactly(layer), to the bit."""
    import torch

    merge, unmerge = attempt.several(attempt.answer, 2, "the answer (merge_exactly, unmerge_exactly)")
    dice = torch.Generator().manual_seed(8)
    layer, earlier = SimpleNamespace(weight=None), None
    for dtype in (torch.bfloat16, torch.float32):  # one layer, which is given another weight later on
        plain = torch.randn(4, 3, generator=dice).to(dtype)
        one, two = (0.3 * torch.randn(4, 3, generator=dice) + 0.1 for _ in range(2))
        layer.weight, seen = plain.clone(), []
        for update in (one, two):
            handed = update.clone()
            attempt(layer, handed, may_change=True, of=merge)
            expect(torch.equal(handed, update), "merge_exactly changes the update that it is given: leave it as it is.")
            seen.append(_merged(attempt, layer, plain, [one, two][: len(seen) + 1]))
        attempt(layer, may_change=True, of=unmerge)
        back, start = _weight(attempt, layer, "after unmerge_exactly"), plain.double().numpy()
        if not np.array_equal(back, start):
            _blame(back, start, seen, earlier)
        _same_type(layer, plain, "after unmerge_exactly")
        earlier = start
    return "Nothing was computed on the way back, so nothing was rounded. The price is a second copy."


def _weight(attempt: Attempt, layer: Any, when: str) -> np.ndarray:
    """The layer's weight as it is now, in float64. Raises NotYet if it is no tensor of its shape."""
    import torch

    weight = getattr(layer, "weight", None)
    expect(isinstance(weight, torch.Tensor), f"{when}, layer.weight is {short(weight)}, no tensor.")
    return attempt.array(weight, (4, 3), f"{when}, layer.weight").astype(float)


def _same_type(layer: Any, plain: Any, when: str) -> None:
    """Raise NotYet if the layer's weight is of another type than `plain`."""
    name, found = (str(weight.dtype).removeprefix("torch.") for weight in (plain, layer.weight))
    expect(found == name, f"{when}, a {name} weight is {found}: store the sum in the weight's own type.")


def _merged(attempt: Attempt, layer: Any, plain: Any, updates: list) -> np.ndarray:
    """The layer's weight after these merges. Raises NotYet if it is not the sum, to about the type's rounding."""
    when = ("after one merge", "after two merges")[len(updates) - 1]
    got, wide = _weight(attempt, layer, when), plain.double()
    mistakes = {
        f"{when}, the weight is still W: put the sum back into layer.weight.": wide,
        f"{when}, the weight is the update alone: W + update was wanted.": updates[-1],
        f"{when}, the update was taken away instead of added.": wide - sum(updates),
        f"{when}, each update is in the weight twice.": wide + 2 * sum(updates),
        f"{when}, only the last update is in the weight: the second merge must add to the first one.": (
            wide + updates[-1]
        ),
        f"{when}, only the first update is in the weight: the second merge must add to the first one.": (
            wide + updates[0]
        ),
        f"{when}, the first update is in the weight twice: add the update, not the sum so far.": (
            wide + sum(updates) + updates[0]
        ),
    }
    attempt.agree(got, wide + sum(updates), mistakes, case=f"layer.weight {when}", tolerance=0.02)
    _same_type(layer, plain, when)
    return got


def _blame(back: np.ndarray, start: np.ndarray, seen: list[np.ndarray], earlier: np.ndarray | None) -> None:
    """Raise NotYet with what `back` is, since it is not the weight of before the merges."""
    if np.array_equal(back, seen[1]):
        raise NotYet(
            "after unmerge_exactly the weight is the merged one. If you kept a tensor, += changed it too: make the "
            "sum a new tensor, layer.weight = layer.weight + update."
        )
    if np.array_equal(back, seen[0]):
        raise NotYet(
            "what came back is the weight between the two merges: the second merge replaced what the first one kept. "
            "Keep it only if nothing is kept yet."
        )
    if earlier is not None and np.allclose(back, earlier):
        raise NotYet(
            "what came back is the weight of an earlier time, long out of date: after giving it back, forget what you "
            "kept."
        )
    if close(back, start, 0.05):
        raise NotYet(
            "what came back is nearly W, but not to the bit: to subtract rounds. Put back the tensor that was there."
        )
    raise NotYet("what came back is not the weight from before the first merge: what was kept, and when?")


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
        ([2, 0, None, 1], [1, 3, 1], [2.0, -1.0, 0.5]),
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

        right = filled(columns, own)
        got = attempt.array(attempt(users, ranks, scalings), shape, "the mask").astype(float)
        row = next((n for n, (mine, yours) in enumerate(zip(right, got, strict=True)) if not close(yours, mine)), 0)
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
                "the row for the plain base has an adapter: None is nobody's number, that row stays zero.": np.array(
                    [filled(columns, own, users=[(len(ranks) - 1 if u is None else u) for u in users])]
                )[0],
                f"row {row} is for adapter {users[row]} and should be {right[row].tolist()}, not "
                f"{got[row].tolist()}.": got,
            },
            case=f"users {users} and ranks {ranks}",
        )
    return "The scaling costs nothing: it rides on the mask."


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
        a, b = attempt.several(attempt(a1, b1, w1, a2, b2, w2), 2)
        a, b = (_matrix(attempt, value, name) for value, name in ((a, "A"), (b, "B")))
        expect(
            not (a.shape[0] == 5 and b.shape[1] == 7),
            "that is B first and then A: the exercise wants A [rank, in] first.",
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
            "the sign of a negative weight is lost: a root on both sides cannot carry it. Put the weight on one "
            "side.": abs(w1) * b1 @ a1 + abs(w2) * b2 @ a2,
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
        raise NotYet(f"{name} should be a matrix, and it is {short(value)}.")
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
                "a rate need not be a whole number: leave it unrounded.": float(int(right)),
                "that is half of it: a good plan, but the question is where the queue begins to grow.": right / 2,
            },
            case=f"a miss rate of {miss} and {load} s for a load",
        )
    return "Close to that limit the waits are long already: plan for half of it."
