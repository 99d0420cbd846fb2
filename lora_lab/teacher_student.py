"""A problem small enough to train in milliseconds: a student B A learns a teacher's update from its inputs and outputs.

The teacher says y = dW x; the student says alpha/r * B(Ax) and starts as LoRA does, A random and B zero. Only the
inputs' covariance enters the expected squared error, so there is no data set and no noise: every curve is exact, in
float64, with gradients in closed form. Plain matrices and numpy: no layer, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lora_lab import lowrank

RULES: dict[str, Callable[[float, int], float]] = {  # what B A is multiplied by; all agree at rank 1
    "alpha/r": lambda alpha, rank: alpha / rank,  # Hu et al. 2021, section 4.1
    "alpha/sqrt(r)": lambda alpha, rank: alpha / math.sqrt(rank),  # rsLoRA: Kalajdzievski 2023
    "alpha": lambda alpha, rank: alpha,  # what alpha = 2 x rank comes to: the same factor at every rank
}
OPTIMIZERS = ("sgd", "adam")
SPECTRA = ("flat", "power law")
INPUTS = ("white", "anisotropic")
DIVERGED = 1e6  # the loss starts at 1

# The recorded sweep. Small steps, to see how fast each rule sets out; then whole runs, over a range of rates.
SEEDS = 5
EARLY_RATE = {"sgd": 0.1, "adam": 1e-4}
EARLY_RANKS, EARLY_STEPS = tuple(2**k for k in range(9)), (1, 10)
RATES = {"sgd": tuple(2.0**k for k in range(-4, 10)), "adam": tuple(2.0**k for k in range(-10, 4))}
RANKS, STEPS = (1, 4, 16, 64), 100


@dataclass(frozen=True)
class Problem:
    """`update` dW [out, in], to be learned; `variances` [in] of the inputs, which are independent with mean 0."""

    update: np.ndarray
    variances: np.ndarray

    def loss(self, guess: np.ndarray) -> float:
        """Expected squared error of `guess` [out, in], mean over outputs: 1 for a guess of zero, 0 for dW."""
        error = guess - self.update
        return float((error * error * self.variances).sum() / len(error))

    def floor(self, rank: int) -> float:
        """The least loss that any update of rank `rank` can have: Eckart-Young, with the inputs as the measure."""
        seen = self.update * np.sqrt(self.variances)
        return lowrank.eckart_young(seen, min(rank, *seen.shape), relative=True) ** 2


def problem(width: int = 32, rank: int = 4, spectrum: str = "flat", inputs: str = "white", seed: int = 0) -> Problem:
    """A teacher [width, width] of rank `rank`, its singular values all equal ("flat") or 1, 1/2, 1/3 ... ("power law").

    Inputs are "white" (every one of variance 1) or "anisotropic" (variances 1, 1/2, 1/3 ...). The teacher is scaled so
    that its output has mean square 1. Raises ValueError for a name or a rank that is none.
    """
    _known(spectrum=(spectrum, SPECTRA), inputs=(inputs, INPUTS))
    if not 1 <= rank <= width:
        raise ValueError(f"rank {rank} does not fit into a {width} x {width} matrix: use 1 to {width}")
    random = np.random.default_rng(seed)
    falling = 1 / np.arange(1, width + 1)
    values = falling[:rank] if spectrum == "power law" else np.ones(rank)
    left, right = (np.linalg.qr(random.standard_normal((width, rank)))[0] for _ in range(2))
    update, variances = (left * values) @ right.T, falling if inputs == "anisotropic" else np.ones(width)
    return Problem(update * math.sqrt(width / (update**2 * variances).sum()), variances)


def train(
    task: Problem,
    rank: int = 4,
    alpha: float = 4.0,
    lr: float = 0.01,
    steps: int = 300,
    rule: str = "alpha/r",
    optimizer: str = "adam",
    seed: int = 0,
    lr_b: float | None = None,
    init: float = 1.0,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
) -> np.ndarray:
    """Loss before training and after each of `steps` steps on all the data: [steps + 1], the first entry 1.

    A [rank, in] starts as `init` times normal numbers of variance 1/in, B [out, rank] at zero. "sgd" is plain gradient
    descent, "adam" is AdamW with betas 0.9 and 0.999; weight decay is decoupled in both. `lr_b` is B's own learning
    rate (by default `lr`). A run whose loss passes a million has diverged: it ends there, and inf stands for what would
    follow. Raises ValueError for a name, rank, alpha or learning rate that is none.
    """
    _known(rule=(rule, RULES), optimizer=(optimizer, OPTIMIZERS))
    out_features, in_features = task.update.shape
    if not 1 <= rank <= 16 * in_features:
        raise ValueError(f"rank is {rank}: use a whole number from 1")
    for name, value in {"alpha": alpha, "lr": lr, "steps": steps}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}: it must be 0 or more, and finite")
    scale = RULES[rule](alpha, rank)
    random = np.random.default_rng(seed)
    a = init * random.standard_normal((rank, in_features)) / math.sqrt(in_features)
    b = np.zeros((out_features, rank))
    factors, rates = (a, b), (lr, lr if lr_b is None else lr_b)
    moments = [(np.zeros_like(f), np.zeros_like(f)) for f in factors]
    losses = np.full(steps + 1, math.inf)
    for step in range(steps + 1):
        error = scale * (b @ a) - task.update
        weighted = error * task.variances
        losses[step] = (error * weighted).sum() / out_features
        if step == steps or not losses[step] < DIVERGED:
            break
        weighted *= 2 * scale / out_features
        for factor, gradient, rate, (first, second) in zip(
            factors, (b.T @ weighted, weighted @ a.T), rates, moments, strict=True
        ):
            if weight_decay:
                factor *= 1 - rate * weight_decay
            if optimizer == "adam":
                first += 0.1 * (gradient - first)
                second += 0.001 * (gradient * gradient - second)
                size = np.sqrt(second) / math.sqrt(1 - 0.999 ** (step + 1)) + eps
                factor -= rate / (1 - 0.9 ** (step + 1)) * first / size
            else:
                factor -= rate * gradient
    return np.where(np.isnan(losses), math.inf, losses)


def _known(**given: tuple[str, object]) -> None:
    for name, (value, known) in given.items():
        if value not in known:
            raise ValueError(f"{name} {value!r} is none of: {', '.join(known)}")


def scaling(seed: int = 0) -> dict:
    """The sweep "scaling": each rule and optimizer over ranks; about 15 seconds.

    Rows of part "early": one small rate, 1 and 10 steps, how fast each rule sets out. Rows of part "trained": 100
    steps at each of many rates. `loss` is the mean over five seeds, each with its own teacher and start, `low` and
    `high` the best and the worst of them; None where any diverged.
    """
    early = [problem(256, 64, seed=s) for s in range(seed, seed + SEEDS)]
    trained = [problem(64, 64, "power law", seed=s) for s in range(seed, seed + SEEDS)]
    rows = []
    for rule in RULES:
        for optimizer in OPTIMIZERS:
            runs = [("early", early, 1.0, rank, EARLY_RATE[optimizer], EARLY_STEPS) for rank in EARLY_RANKS]
            runs += [("trained", trained, 4.0, rank, lr, (STEPS,)) for rank in RANKS for lr in RATES[optimizer]]
            for part, tasks, alpha, rank, lr, marks in runs:
                setting = {"part": part, "rule": rule, "optimizer": optimizer, "rank": rank, "alpha": alpha, "lr": lr}
                curves = [
                    train(task, rank, alpha, lr, max(marks), rule, optimizer, seed=seed + i)
                    for i, task in enumerate(tasks)
                ]
                rows += [setting | {"steps": steps} | _spread([curve[steps] for curve in curves]) for steps in marks]
    return {
        "about": "scaling rule x optimizer x rank on the teacher-student problem, whose loss is 1 before training",
        "settings": {
            "early": "256 inputs and outputs, white; a teacher with 64 equal singular values",
            "trained": "64 inputs and outputs, white; a teacher with singular values 1, 1/2 ... 1/64",
            "seeds": SEEDS,
        },
        "rows": rows,
    }


def _spread(losses: Sequence[float]) -> dict[str, float | None]:
    if not max(losses) < DIVERGED:
        return dict.fromkeys(("loss", "low", "high"))
    return {"loss": float(np.mean(losses)), "low": float(min(losses)), "high": float(max(losses))}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The power with which y grows in x: the slope of the straight line through both logarithms (least squares)."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
