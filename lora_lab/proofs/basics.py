"""Proofs of what LoRA is: shapes and order, the zero that it starts from, what the two factors leave open."""

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
        "the_rank_is_no_larger": int(torch.linalg.matrix_rank(update)) <= rank,
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
    """An untrained adapter: outputs to the bit the base's, a gradient for B, none for A.

    different_columns: how many columns of B's gradient differ from all others; a random A makes each another one.
    """
    import torch

    layer = _layer(width, width, rank, scale)
    x = torch.randn(16, width, dtype=torch.float64)
    a, b = layer.matrices("default")
    layer(x).square().sum().backward()
    columns = len(torch.unique(b.grad, dim=1).T)
    return {
        "change_of_output": float((layer(x) - layer.base(x)).detach().abs().max()),
        "gradient_of_b": float(b.grad.norm()),
        "gradient_of_a": float(a.grad.norm()),
        "different_columns": columns,
        "every_column_of_b_has_its_own": columns == rank,
        "starts_as_the_base": torch.equal(layer(x), layer.base(x)),
        "b_can_move": bool(b.grad.norm() > 0),
        "a_cannot_yet": not a.grad.any(),
    }


def first_step_moves_b(width: int = 64, rank: int = 8, lr: float = 0.01, weight_decay: float = 0.01) -> Result:
    """How far A and B move in each of the first two steps, by Adam and by AdamW with decay: the norm of the change."""
    import torch

    def moves(decay: float) -> list[list[float]]:
        layer = _layer(width, width, rank, 2.0)
        x, wanted = torch.randn(2, 32, width, dtype=torch.float64)
        factors, moved = layer.matrices("default"), []
        optimizer = torch.optim.AdamW(factors, lr=lr, weight_decay=decay)
        for _ in range(2):
            before = [f.detach().clone() for f in factors]
            optimizer.zero_grad()
            (layer(x) - wanted).square().sum().backward()
            optimizer.step()
            moved.append([float((f.detach() - old).norm()) for f, old in zip(factors, before, strict=True)])
        return moved

    (a1, b1), (a2, b2) = moves(0.0)
    decayed = moves(weight_decay)[0][0]
    return {
        "a_in_step_1": a1,
        "b_in_step_1": b1,
        "a_in_step_2": a2,
        "b_in_step_2": b2,
        "a_in_step_1_with_decay": decayed,
        "decay_moves_a_but_far_less_than_b_moves": 0 < decayed < 0.1 * b1,
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

    real: in how many directions B A moves, to first order, when A and B move in all of theirs: the rank of the
    derivative of B A, found numerically. free: the directions of A and B that are left, which change nothing.
    """
    random = np.random.default_rng(0)
    a, b = random.normal(size=(rank, width)), random.normal(size=(width, rank))
    mix = random.normal(size=(rank, rank))
    other_a, other_b = np.linalg.solve(mix, a), b @ mix
    size = np.linalg.norm(b @ a)
    trained = a.size + b.size
    derivative = np.hstack([np.kron(b, np.eye(width)), np.kron(np.eye(width), a.T)])  # [out in, numbers of A and B]
    # The squares have the same rank and are far smaller. A random B A is far from lower ranks: the gap is wide.
    strengths = np.linalg.eigvalsh(derivative.T @ derivative)
    real = int((strengths > 1e-9 * strengths[-1]).sum())
    return {
        "trained": trained,
        "free": trained - real,
        "real": real,
        "update_differs_by": float(np.linalg.norm(other_b @ other_a - b @ a) / size),
        "a_differs_by": float(np.linalg.norm(other_a - a) / np.linalg.norm(a)),
        "as_many_are_free_as_m_has": trained - real == rank * rank,
        "same_update": bool(np.allclose(other_b @ other_a, b @ a)),
        "other_factors": bool(np.linalg.norm(other_a - a) > 0.1 * np.linalg.norm(a)),
    }


def not_one_matrix(width: int = 64, rank: int = 8) -> Result:
    """What a trained LoRA adds to W x, and what a serial adapter with a ReLU adds: is there one matrix that does it?

    Shares of the squares of what is added that the best matrix and bias, by least squares, cannot give; white inputs.
    The serial adapter reads W's output, as in Houlsby et al. 2019.
    """
    random = np.random.default_rng(0)
    x, w = random.normal(size=(32 * width, width)), random.normal(size=(width, width)) / width**0.5
    down, up = random.normal(size=(rank, width)) / width**0.5, random.normal(size=(width, rank))
    added = {"lora": x @ down.T @ up.T, "adapter": np.maximum(x @ w.T @ down.T, 0) @ up.T}
    ones = np.hstack([x, np.ones((len(x), 1))])
    missed = {}
    for name, change in added.items():
        left = change - ones @ np.linalg.lstsq(ones, change, rcond=None)[0]
        missed[name] = float((left**2).sum() / (change**2).sum())
    return {
        **missed,
        "lora_is_one_matrix": missed["lora"] < 1e-20,
        "the_adapter_is_none": missed["adapter"] > 0.05,
    }
