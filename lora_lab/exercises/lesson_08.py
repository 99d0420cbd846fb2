"""Checks of lesson 08, merging and swapping."""

from __future__ import annotations

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
                "divided by the update's length: take the square of it, or the answer depends on the update's size.": (
                    inner / update.norm()
                ),
                "that is what was lost along the update; asked is what was kept.": 1 - inner / own,
                "that is the error of section 2, noise and all. Asked is how far the change goes along the update.": (
                    (change - update).norm() / update.norm()
                ),
                "that is the ratio of two sums, in which a minus takes from a plus. Multiply entry by entry first.": (
                    change.sum() / update.sum()
                ),
                "that compares two squares, and noise across the update has a square too. Take the inner product.": (
                    change.square().sum() / update.square().sum()
                ),
                "that is in percent: asked is a share, 1 for all of it.": 100 * inner / own,
                "that is a matrix product above and a sum of squares below. Multiply entry by entry, then add up.": (
                    (change @ update.T).sum() / own
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


ONLY_RETURNED = "unmerge_exactly returns something and leaves the merged weight in the layer: set layer.weight to it."
NOT_PUT_BACK = "unmerge_exactly leaves the merged weight in the layer: put the one that you kept into layer.weight."


class Layer:
    """An object with a weight, on which a learner may keep what is needed."""

    weight: Any = None


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
    expect(callable(merge) and callable(unmerge), "pass both functions, without brackets: one of the two is none.")
    dice = torch.Generator().manual_seed(8)
    layer, earlier = Layer(), None
    for dtype in (torch.bfloat16, torch.float32):  # one layer, which is given another weight later on
        plain = torch.randn(4, 3, generator=dice).to(dtype)
        one, two = (0.3 * torch.randn(4, 3, generator=dice) + 0.1 for _ in range(2))
        first, seen = plain.clone(), []
        layer.weight = first
        for update in (one, two):
            handed = update.clone()
            attempt(layer, handed, may_change=True, of=merge)
            expect(torch.equal(handed, update), "merge_exactly changes the update that it is given: leave it as it is.")
            seen.append(_merged(attempt, layer, plain, [one, two][: len(seen) + 1]))
        handed = layer.weight
        in_place = handed is first
        returned = attempt(layer, may_change=True, of=unmerge)
        back, start = _weight(attempt, layer, "after unmerge_exactly"), plain.double().numpy()
        if not np.array_equal(back, start):
            if np.array_equal(back, seen[1]) and not in_place:
                raise NotYet(NOT_PUT_BACK if returned is None else ONLY_RETURNED)
            _blame(back, start, seen, earlier, (one.double().numpy(), two.double().numpy()))
        _same_type(layer, plain, "after unmerge_exactly")
        earlier = start
    return "Nothing was computed on the way back, so nothing was rounded. The price is a second copy."


def _weight(attempt: Attempt, layer: Any, when: str) -> np.ndarray:
    """The layer's weight as it is now, in float64. Raises NotYet if it is no tensor of its shape."""
    import torch

    weight = getattr(layer, "weight", None)
    why = " If you ask hasattr whether something is kept: it is true for a kept None as well." if weight is None else ""
    expect(isinstance(weight, torch.Tensor), f"{when}, layer.weight is {short(weight)}, no torch tensor.{why}")
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


def _blame(
    back: np.ndarray, start: np.ndarray, seen: list[np.ndarray], earlier: np.ndarray | None, updates: tuple
) -> None:
    """Raise NotYet with what `back` is, since it is not the weight of before the merges."""
    if np.array_equal(back, seen[1]):
        raise NotYet(
            "after unmerge_exactly the weight is the merged one. If you kept the tensor, += changed it too (and so "
            "does .data =): make the sum a new tensor."
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
    if any(close(back, start + update, 0.02) for update in updates):
        raise NotYet("one of the two updates is still in the weight: a single unmerge takes out both.")
    if close(back, start, 0.05):
        raise NotYet(
            "what came back is nearly W, but not to the bit: to subtract rounds. Put back the tensor that was there."
        )
    raise NotYet("what came back is not the weight from before the first merge: what was kept, and when?")
