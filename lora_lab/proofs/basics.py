"""Proofs of what LoRA is: shapes and order, the zero that it starts from, and what the two factors leave open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lora_lab import counting, shapes
from lora_lab.teacher_student import problem, train

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from lora_lab.layers import LoraLinear

Result = dict[str, int | float | str | bool]


def what_lora_is(width: int = 512, rank: int = 8, steps: int = 5, alpha: float = 16.0) -> Result:
    """A real layer [width, width], trained for a few steps: what trained, what did not, what rank the change has."""
    import torch
    from torch.nn.functional import linear

    layer = _layer(width, width, rank, alpha / rank)
    weight, (a, b) = layer.base.weight.detach().clone(), layer.matrices("default")
    x, wanted = torch.randn(2, 32, width, dtype=torch.float64)
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - wanted).square().mean().backward()
        optimizer.step()
    update = (alpha / rank * b @ a).detach()
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return {
        "trained": trained,
        "frozen": weight.numel(),
        "share": trained / weight.numel(),
        "rank_of_the_update": int(torch.linalg.matrix_rank(update)),
        "w_is_untouched": torch.equal(layer.base.weight, weight),
        "the_update_is_not_zero": bool(update.norm() > 0),
        "merged_is_the_same_function": torch.allclose(linear(x, weight + update), layer(x), atol=1e-9),
    }


def _layer(in_features: int, out_features: int, rank: int, scaling: float = 1.0, device: str = "cpu") -> LoraLinear:
    """A LoRA layer in float64 with one active adapter on a frozen base; the same one every time."""
    import torch
    from torch import nn

    from lora_lab.layers import LoraLinear

    torch.manual_seed(0)
    base = nn.Linear(in_features, out_features, bias=False, dtype=torch.float64, device=device)
    layer = LoraLinear(base.requires_grad_(False))
    layer.add("default", rank, scaling)
    layer.active = ["default"]
    return layer


def does_not_compress(model: str = "Llama-2-7B", rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """Parameters to be kept while an adapter is apart, by counting, and, on a small layer, before and after a merge."""
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig
    from lora_lab.merging import merge_and_unload

    small = nn.Sequential(nn.Linear(16, 16))
    counts = [_size(small)]
    add_adapter(small, LoraConfig(rank=2, target_modules=["0"]))
    counts.append(_size(small))
    counts.append(_size(merge_and_unload(small)))
    base = shapes.known(model).total
    adapter = counting.lora(shapes.known(model), rank, targets)
    return {
        "base": base,
        "apart": base + adapter,
        "adapter": adapter,
        "small_before": counts[0],
        "small_apart": counts[1],
        "small_merged": counts[2],
        "more_while_apart": counts[1] > counts[0],
        "as_many_once_merged": counts[2] == counts[0],
    }


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes_and_order(in_features: int = 4096, out_features: int = 11008, rank: int = 8) -> Result:
    """Shapes of A and B as PyTorch stores them, and which of the two a layer calls first."""
    import torch

    layer, called = _layer(16, 24, rank=2), []
    for name in "AB":
        getattr(layer, name)["default"].register_forward_hook(lambda *_, name=name: called.append(name))
    layer(torch.ones(1, 16, dtype=torch.float64))
    a, b = (tuple(m.shape) for m in _layer(in_features, out_features, rank, device="meta").matrices("default"))
    return {
        "rows_of_a": a[0],
        "columns_of_a": a[1],
        "rows_of_b": b[0],
        "columns_of_b": b[1],
        "order": " then ".join(called),
        "a_reads_first": called == ["A", "B"],
        "b_a_has_the_shape_of_w": (b[0], a[1]) == (out_features, in_features) and b[1] == a[0],
        "a_b_has_not": a[1] != b[0] or (a[0], b[1]) != (out_features, in_features),
    }


def three_notations(width: int = 64, rank: int = 2, scale: int = 2) -> Result:
    """The paper's columns, the row form and PyTorch's storage, in whole numbers, so that equal means equal.

    mixed_up: the row form's letters put before a column, A B x, as a card has it: how far the correction is off, over
    its size. Only a square W lets that run at all.
    """
    random = np.random.default_rng(0)
    sizes = (width, width), (rank, width), (width, rank), (width,)
    w, a, b, x = (random.integers(-5, 6, size=size) for size in sizes)
    paper = w @ x[:, None] + scale * b @ (a @ x[:, None])  # a column; A [r, in], B [out, r]
    w_row, a_row, b_row = w.T, a.T, b.T  # a row; A [in, r], B [r, out]
    rows = x[None] @ w_row + scale * (x[None] @ a_row) @ b_row
    batch = np.stack([x, x])  # rows once more, but the matrices stored as the paper has them
    stored = batch @ w.T + scale * (batch @ a.T) @ b.T
    right, wrong = b @ (a @ x), a_row @ (b_row @ x)
    return {
        "first_output": int(paper[0, 0]),
        "mixed_up": float(np.linalg.norm(wrong - right) / np.linalg.norm(right)),
        "paper_is_rows": bool(np.array_equal(paper[:, 0], rows[0])),
        "rows_are_torch": bool(np.array_equal(rows[0], stored[0])),
        "row_letters_are_transposed": bool(np.array_equal((a_row @ b_row).T, b @ a)),
        "mixed_up_is_wrong": not np.array_equal(wrong, right),
    }


def b_starts_at_zero(width: int = 64, rank: int = 8, scale: float = 2.0) -> Result:
    """An untrained adapter: outputs to the bit the base's, a gradient for B, none for A."""
    import torch

    layer = _layer(width, width, rank, scale)
    x = torch.randn(16, width, dtype=torch.float64)
    a, b = layer.matrices("default")
    layer(x).square().sum().backward()
    return {
        "change_of_output": float((layer(x) - layer.base(x)).detach().abs().max()),
        "gradient_of_b": float(b.grad.norm()),
        "gradient_of_a": float(a.grad.norm()),
        "starts_as_the_base": torch.equal(layer(x), layer.base(x)),
        "b_can_move": bool(b.grad.norm() > 0),
        "a_cannot_yet": not a.grad.any(),
    }


def first_step_moves_b(width: int = 64, rank: int = 8, lr: float = 0.01) -> Result:
    """How far A and B move in each of the first two steps of gradient descent: the norm of the change."""
    import torch

    layer = _layer(width, width, rank, 2.0)
    x, wanted = torch.randn(2, 32, width, dtype=torch.float64)
    factors = layer.matrices("default")
    optimizer = torch.optim.SGD(factors, lr=lr)
    moved = []
    for _ in range(2):
        before = [f.detach().clone() for f in factors]
        optimizer.zero_grad()
        (layer(x) - wanted).square().sum().backward()
        optimizer.step()
        moved.append([float((f.detach() - old).norm()) for f, old in zip(factors, before, strict=True)])
    (a1, b1), (a2, b2) = moved
    return {
        "a_in_step_1": a1,
        "b_in_step_1": b1,
        "a_in_step_2": a2,
        "b_in_step_2": b2,
        "only_b_in_step_1": a1 == 0 < b1,
        "both_in_step_2": min(a2, b2) > 0,
    }


def both_zero(rank: int = 4, steps: int = 20, lr: float = 0.05) -> Result:
    """The teacher-student problem, whose loss is 1 at first: A and B both zero, against A random and B zero."""
    task = problem(32, rank, seed=0)
    dead = train(task, rank, lr=lr, steps=steps, init=0.0)
    alive = train(task, rank, lr=lr, steps=steps)
    return {
        "first": float(dead[0]),
        "both_zero": float(dead[-1]),
        "a_random": float(alive[-1]),
        "never_moved": bool((dead == dead[0]).all()),
        "the_other_learned": bool(alive[-1] < 0.1),
    }


def both_random(width: int = 512, rank: int = 8, alpha: float = 16.0) -> Result:
    """A and B both drawn as PyTorch draws a linear layer: size of the update's output over that of W's own, at step 0.

    Root mean squares, on white inputs; W is drawn in the same way.
    """
    import torch
    from torch import nn

    layer = _layer(width, width, rank, alpha / rank)
    x = torch.randn(256, width, dtype=torch.float64)
    with torch.no_grad():
        quiet = float(layer.product("default", x).norm())
        nn.init.kaiming_uniform_(layer.matrices("default")[1], a=5**0.5)
        disturbed = float(layer.product("default", x).norm() / layer.base(x).norm())
    return {
        "disturbance": disturbed,
        "b_zero": quiet,
        "zero_disturbs_nothing": quiet == 0,
        "random_disturbs": disturbed > 0.1,
    }


def zero_on_which(width: int = 64, rank: int = 4, steps: int = 60, seeds: int = 5) -> Result:
    """A random and B zero, against B random and A zero: loss after Adam's steps over the first, at its best rate.

    One adapted layer with a fixed readout of 4 numbers, after a ReLU and without one; mean of `seeds` problems, the
    best of 7 rates each. Random means variance 1/in for A and 1/rank for B, as in Hayou et al. 2024 (The Impact of
    Initialization on LoRA Finetuning Dynamics).
    """
    rates = 2.0 ** np.arange(-8, -1)
    kinds = {(bend, random): [] for bend in (True, False) for random in "AB"}
    for (bend, random), losses in kinds.items():
        for seed in range(seeds):
            losses.append(min(_start_from(random, bend, width, rank, steps, rate, seed) for rate in rates))
    mean = {kind: float(np.mean(losses)) for kind, losses in kinds.items()}
    return {
        "relu_a_random": mean[True, "A"],
        "relu_b_random": mean[True, "B"],
        "linear_a_random": mean[False, "A"],
        "linear_b_random": mean[False, "B"],
        "relu_wins_of_a": sum(a < b for a, b in zip(kinds[True, "A"], kinds[True, "B"], strict=True)),
        "a_random_is_better_with_relu": mean[True, "A"] < mean[True, "B"],
        "b_random_is_better_without": mean[False, "B"] < mean[False, "A"],
    }


def _start_from(random: str, bend: bool, width: int, rank: int, steps: int, lr: float, seed: int) -> float:
    """Loss after `steps` of Adam over the first one, for one problem, start and rate."""
    rng = np.random.default_rng(seed)
    x, w, readout = rng.normal(size=(2 * width, width)), rng.normal(size=(width, width)), rng.normal(size=(4, width))
    w, readout = w / width**0.5, readout / width**0.5
    change = rng.normal(size=(width, 8)) @ rng.normal(size=(8, width)) * (6 / 8**0.5 / width)

    def shape(z: NDArray) -> NDArray:
        return np.maximum(z, 0) if bend else z

    base, wanted = x @ w.T, shape(x @ (w + change).T) @ readout.T
    a = (random == "A") * rng.normal(size=(rank, width)) / width**0.5
    b = (random == "B") * rng.normal(size=(width, rank)) / rank**0.5
    means = [(np.zeros_like(f), np.zeros_like(f)) for f in (a, b)]
    losses = []
    for step in range(1, steps + 1):
        read = x @ a.T
        z = base + read @ b.T
        error = shape(z) @ readout.T - wanted
        losses.append(float((error**2).mean()))
        back = error @ readout * (2 / error.size) * ((z > 0) if bend else 1)
        for f, g, (m, v) in zip((a, b), ((back @ b).T @ x, back.T @ read), means, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            f -= lr / (1 - 0.9**step) * m / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return losses[-1] / losses[0]


def factors_are_not_unique(width: int = 64, rank: int = 8) -> Result:
    """(B M, M^-1 A) for a random M [rank, rank] is the same update as (B, A).

    free: numbers that can change without any effect; real: dimensions of the matrices of that rank.
    """
    random = np.random.default_rng(0)
    a, b = random.normal(size=(rank, width)), random.normal(size=(width, rank))
    mix = random.normal(size=(rank, rank))
    other_a, other_b = np.linalg.solve(mix, a), b @ mix
    size = np.linalg.norm(b @ a)
    trained = counting.lora_parameters(width, width, rank)
    return {
        "trained": trained,
        "free": rank * rank,
        "real": trained - rank * rank,
        "update_differs_by": float(np.linalg.norm(other_b @ other_a - b @ a) / size),
        "a_differs_by": float(np.linalg.norm(other_a - a) / np.linalg.norm(a)),
        "same_update": bool(np.allclose(other_b @ other_a, b @ a)),
        "other_factors": bool(np.linalg.norm(other_a - a) > 0.1 * np.linalg.norm(a)),
    }
