"""Checks of lesson 09, variants."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet, expect, short
from lora_lab.exercises import exercise

CLOSE = 1e-4  # float32, after a few products


@exercise(
    "09",
    "two rates",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "Go through model.named_parameters() and sort what has requires_grad into two lists, by `.B.` in the name.",
        'The list to return is [{"params": ..., "lr": lr}, {"params": ..., "lr": ratio * lr}], the second one for B.',
    ),
    expect=(
        "model.parameters(), frozen W and all",
        "the high rate on A",
        "16 written out instead of `ratio`",
        "one layer only, by its number",
    ),
)
def two_rates(attempt: Attempt) -> str:
    """Two groups for an optimizer: A at `lr`, B at `ratio` times that, and nothing that is frozen."""
    import torch
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    for lr, ratio in ((2e-4, 4), (1e-3, 16), (1e-2, 1)):
        plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        model = add_adapter(plain, LoraConfig(rank=2, alpha=4, target_modules=["0", "2"]))
        named = dict(model.named_parameters())
        before = {name: (p.detach().clone(), p.requires_grad) for name, p in named.items()}
        rates = _rates(attempt(model, lr, ratio, may_change=True), named)
        expect(
            all(torch.equal(p, before[n][0]) and p.requires_grad == before[n][1] for n, p in named.items()),
            "two_rates changes the model: it should only sort its parameters into groups.",
        )
        case = f"two_rates(model, {lr:g}, {ratio})"
        frozen = [name for name in rates if not named[name].requires_grad]
        expect(not frozen, f"{''.join(frozen[:1])} is in a group, and it is frozen: only what requires_grad.")
        missing = [name for name, p in named.items() if p.requires_grad and name not in rates]
        expect(not missing, f"{''.join(missing[:1])} can be trained, and it is in no group.")
        for a, b in ((f"{n}.A.default.weight", f"{n}.B.default.weight") for n in (0, 2)):
            got = (rates[a], rates[b])
            attempt.agree(
                got,
                (lr, ratio * lr),
                {
                    "A has the high rate and B the low one: it is B that waits for more.": (ratio * lr, lr),
                    "both have the same rate: B's is `ratio` times A's.": (lr, lr),
                    "both have the high rate: A keeps lr.": (ratio * lr, ratio * lr),
                    "A was slowed down, to lr / ratio: A keeps lr, and B gets ratio times as much.": (lr / ratio, lr),
                    "B's rate is 16 × lr whatever the ratio is: use `ratio`.": (lr, 16 * lr),
                    "B's rate is `ratio` itself: it should be ratio × lr.": (lr, ratio),
                    "B was slowed down, to lr / ratio: it should be ratio × lr.": (lr, lr / ratio),
                    "B's rate is lr + ratio: it should be ratio × lr.": (lr, lr + ratio),
                    f"{case} gives A {short(got[0])} and B {short(got[1])}, not {lr:g} and {ratio * lr:g}.": got,
                },
            )
    return "The package's own is training_variants.lora_plus_groups."


def _rates(groups: Any, named: dict) -> dict[str, float]:
    """{parameter's name: its learning rate}. Raises NotYet for what no optimizer could use."""
    if not isinstance(groups, list | tuple) or not all(isinstance(group, dict) for group in groups):
        raise NotYet(f'the groups should be a list of dictionaries with "params" and "lr", not {short(groups)}.')
    names, found = {id(p): name for name, p in named.items()}, {}
    for group in groups:
        lacks = [key for key in ("params", "lr") if key not in group]
        expect(not lacks, f'a group lacks "{"".join(lacks[:1])}"; its keys are {short(list(group))}.')
        params = group["params"]
        params = [params] if hasattr(params, "detach") else params
        dots = "there are still three dots in a group: put your own answer in their place."
        expect(params is not ... and group["lr"] is not ..., dots)
        try:
            params = list(params)
        except TypeError:
            raise NotYet(f'"params" should be a list of parameters, not {short(params)}.') from None
        expect(len(params) > 0, 'a group is empty: the names hold ".A." and ".B.", dots and all.')
        expect(not any(p is ... for p in params), dots)
        themselves = (
            "it should hold the model's parameters themselves (a copy is another tensor, and so is state_dict's)"
        )
        for p in params:
            expect(id(p) in names, f'"params" holds {short(p)}; {themselves}.')
            expect(names[id(p)] not in found, f"{names[id(p)]} is in two groups, which no optimizer accepts.")
            expect(isinstance(group["lr"], int | float), f"a rate is {short(group['lr'])}, no number.")
            found[names[id(p)]] = float(group["lr"])
    return found


@exercise(
    "09",
    "out of reach",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "What A's rows span needs a basis whose vectors stand at right angles and have length one: "
        "torch.linalg.qr(A.T).Q, [in, rank].",
        "update @ Q @ Q.T is the part that is within reach; take it from update, and compare the norms.",
    ),
    expect=(
        "projected with A itself, whose rows are neither of length one nor at right angles",
        "the share inside, or one minus it: squares of norms add up, norms do not",
    ),
)
def outside(attempt: Attempt) -> str:
    """The share of `update`, by norm, that no mixture of A's rows can make."""
    import torch

    dice = torch.Generator().manual_seed(9)
    for out, wide, rank in ((5, 7, 3), (4, 12, 1)):
        A, B, free = (torch.randn(*shape, generator=dice) for shape in ((rank, wide), (out, rank), (out, wide)))
        A = A + A[:1]  # rows that lean towards each other
        unit, Q = A / A.norm(dim=1, keepdim=True), torch.linalg.qr(A.T).Q
        inside, left = free @ Q @ Q.T, free - free @ Q @ Q.T
        size = free.norm()
        attempt.agree(
            attempt.number(attempt(A, free), "outside(A, update)"),
            left.norm() / size,
            {
                "that projects with A itself, as if its rows had length one and stood at right angles. Take an "
                "orthonormal basis of what they span.": (free - free @ A.T @ A).norm() / size,
                "A's rows have length one now, but still do not stand at right angles: torch.linalg.qr does both.": (
                    (free - free @ unit.T @ unit).norm() / size
                ),
                "that is the share within reach; asked is the rest.": inside.norm() / size,
                "one minus the share within reach: norms do not add up to one, only their squares do.": (
                    1 - inside.norm() / size
                ),
                "that is the square of the share: take norms, not their squares.": (left.norm() / size) ** 2,
                "that is the norm of what lies outside; a share needs the norm of the update below it.": left.norm(),
                "that compares what is outside with what is inside, and not with the whole update.": (
                    left.norm() / inside.norm()
                ),
                "that is the square of the share within reach: asked is the rest, by norm.": (inside.norm() / size)
                ** 2,
                "that is what to expect of a random update, √(1 - rank / in): measure this one.": (
                    (1 - rank / wide) ** 0.5
                ),
                "that is a mean over the rows; asked is the norm of the whole matrix.": (
                    left.norm(dim=1) / free.norm(dim=1)
                ).mean(),
                "upside down: the norm of the whole update stands below.": size / left.norm(),
                "divided by the square of the norm: both norms or both squares.": left.norm() / size**2,
                "that says a mixture of A's rows makes anything. It cannot: they are too few.": 0.0,
            },
            case=f"a random update [{out}, {wide}] and rank {rank}",
            tolerance=CLOSE,
        )
        got = attempt.number(attempt(A, B @ A), "outside(A, B @ A)")
        expect(abs(got) < 1e-3, f"B A is made of A's rows, so nothing of it is outside; yours says {short(got)}.")
        got = attempt.number(attempt(10 * A, free), "outside(10 * A, update)")
        longer = "ten times A spans the same directions: its length must not matter, and it does."
        expect(abs(got - left.norm() / size) < 1e-3, longer)
    return "For a random update it is near √(1 - rank / in): nearly everything is out of reach."


@exercise(
    "09",
    "DoRA's weight",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "First V = W + s * B @ A. The length of each of its rows is V.norm(dim=1, keepdim=True), [out, 1].",
        "m has one number for each row: m[:, None] is [out, 1] and multiplies row by row.",
    ),
    expect=(
        "the length of W's rows, or of V's columns",
        "only W is normalised, and s B A is added afterwards",
        "s left out",
    ),
)
def dora_weight(attempt: Attempt) -> str:
    """m times V over the length of V's rows, V = W + s B A."""
    import torch

    dice = torch.Generator().manual_seed(9)
    for out, wide, rank, s in ((4, 6, 2, 2.0), (5, 3, 1, 0.5)):
        W, A, B = (torch.randn(*shape, generator=dice) for shape in ((out, wide), (rank, wide), (out, rank)))
        m = torch.rand(out, generator=dice) + 0.5
        V, unscaled = W + s * B @ A, W + B @ A
        rows = m[:, None]

        def lengths(matrix: Any, dim: int = 1) -> Any:
            return matrix.norm(dim=dim, keepdim=True)

        got = attempt.array(attempt(W, A, B, s, m), (out, wide), "W'")
        attempt.agree(
            got,
            rows * V / lengths(V),
            {
                "that is plain LoRA: V is neither divided by the length of its rows nor multiplied by m.": V,
                "s is left out: V = W + s B A.": rows * unscaled / lengths(unscaled),
                "s is on the wrong side: it multiplies B A, and yours multiplies W by it, or divides B A.": (
                    rows * (s * W + B @ A) / lengths(s * W + B @ A)
                ),
                "those are the lengths of V's columns. An output is a row: dim=1.": rows * V / lengths(V, 0),
                "those are the lengths of W's rows. V's have changed: divide by V's own.": rows * V / lengths(W),
                "only W is set to length m, and s B A added afterwards: then B A changes the length too.": (
                    rows * W / lengths(W) + s * B @ A
                ),
                "m is left out: the rows have length one.": V / lengths(V),
                "that gives the rows the lengths of W's rows; m may be another by now: use m.": lengths(W)
                * V
                / lengths(V),
                "divided by m: a row of length one is multiplied by it.": V / lengths(V) / rows,
                "multiplied by the length of the rows: divide, so that m alone is their length.": rows * V * lengths(V),
                "W is not in it: V = W + s B A.": rows * (B @ A) / lengths(B @ A),
                "W is added once more: it is in V already.": W + rows * V / lengths(V),
                "W stays as it is, and B A alone is set to length m: both together make the direction.": (
                    W + rows * (B @ A) / lengths(B @ A)
                ),
                "a sum of absolute values is another length: the root of the sum of squares, V.norm(dim=1).": (
                    rows * V / V.abs().sum(dim=1, keepdim=True)
                ),
                "a mean where a sum belongs: the length is the root of the *sum* of squares.": (
                    rows * V / V.square().mean(dim=1, keepdim=True).sqrt()
                ),
                "s is outside: it belongs into V, to B A.": s * rows * unscaled / lengths(unscaled),
                "that multiplies by m, but the rows still have their own length: divide by it first.": rows * V,
                "that divides by the size of the whole matrix; each row has a length of its own.": rows * V / V.norm(),
                "that divides by the square of the length: a root is missing.": rows * V / lengths(V) ** 2,
                "the rows of W are turned by nothing: B A is not in it.": rows * W / lengths(W),
            },
            case=f"W [{out}, {wide}] and rank {rank}",
            tolerance=CLOSE,
        )
    return "Whatever B A does, the length of a row is m's."


@exercise(
    "09",
    "the start",
    difficulty=2,
    importance=1,
    minutes=6,
    hints=(
        "U, values, V = torch.linalg.svd(W) sorts the largest first; V's rows are the directions, so take V[:rank] and "
        "U[:, :rank].",
        "The product s B A must be U Σ V, so B A has Σ / s: give √(σ / s) to each row of A and each column of B.",
    ),
    expect=(
        "s forgotten, or divided out after the root",
        "the singular values all on one side",
        "the smallest directions instead of the largest (that is MiLoRA)",
    ),
)
def pissa_start(attempt: Attempt) -> str:
    """A and B, evenly shared, such that s B A is the best approximation of W of this rank."""
    import torch

    dice = torch.Generator().manual_seed(9)
    for out, wide, rank, s in ((6, 5, 2, 3.0), (4, 7, 3, 0.5), (5, 5, 2, 1.0)):
        W = torch.randn(out, wide, generator=dice)
        U, values, V = torch.linalg.svd(W, full_matrices=False)
        a, b = attempt.several(attempt(W, rank, s), 2, "the answer, A and B,")
        if shape_of(a) == (out, rank) and shape_of(b) == (rank, wide):
            raise NotYet("that is B first and then A: the exercise wants A [rank, in] first.")
        a, b = attempt.array(a, (rank, wide), "A"), attempt.array(b, (out, rank), "B")

        def product(values: Any, U: Any = U, V: Any = V, k: slice = slice(0, rank)) -> Any:
            return U[:, k] * values[k] @ V[k]

        mistakes = {
            "s is left out: the layer multiplies B A by s, so s B A is s times too large.": s * product(values),
            "s is divided out twice: of σ / s each side takes the root, √(σ / s).": product(values) / s,
            "s B A has the squares of the singular values: each side takes their root.": s * product(values**2),
            "s B A has the squares of the singular values: each side takes the root of σ / s.": product(values**2) / s,
            "those are the smallest singular values; PiSSA starts with the largest.": product(
                values, k=slice(len(values) - rank, None)
            ),
            "s stands above instead of below: B A must be smaller where s is larger.": s**2 * product(values),
            "the singular values are not in it: U and V have length one.": s * product(torch.ones_like(values)),
            "the singular values are not in it, only their directions, over s.": product(torch.ones_like(values)),
            "σ / s is there with half of its power: √(σ / s) goes to A *and* to B, and no fourth root.": (
                s * product((values / s).sqrt())
            ),
            "√σ is on one side only, and s is left out: √(σ / s) goes to A *and* to B.": s * product(values.sqrt()),
            "that leaves out the largest direction: count from 0, [:rank].": product(values, k=slice(1, rank + 1)),
            "torch.linalg.svd gives V so that W = U Σ V: its *rows* are the directions, not its columns.": product(
                values, V=torch.linalg.svd(W).Vh.T
            ),
        }
        attempt.agree(s * b @ a, product(values), mistakes, case=f"W [{out}, {wide}]: s B A,", tolerance=CLOSE)
        uneven = "s B A is right, but A and B do not share the singular values evenly: √(σ / s) to each."
        expect(bool(np.allclose(a @ a.T, b.T @ b, rtol=1e-3, atol=1e-4)), uneven)
    return "At the start, B A minus this is zero: nothing has changed yet."


def shape_of(value: Any) -> tuple | None:
    """The shape of a tensor or an array, None for anything else."""
    shape = getattr(value, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None
