"""Training that runs while the sliders move: a student of rank r learns a teacher's update, anew at each move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lora_lab import explorer, figures, teacher_student

STEPS, TEACHER = 200, 4  # steps of a run; the teacher's rank
LOW, HIGH = 1e-6, 1e2  # of the loss axis
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@figures.in_style
def training_figure(first: Sequence[float]) -> tuple[Figure, Callable[[Sequence[float], float], None]]:
    """A picture with the curve `first` in it, to compare with, and `draw(losses, floor)`, which adds another.

    What lies off the axes is drawn at their edge.
    """
    figure, (axes,) = figures.new_figure(7.5, 3.3)
    steps = np.arange(STEPS + 1)
    axes.set(yscale="log", xlim=(0, STEPS), ylim=(LOW, HIGH), xlabel="training step")
    axes.set_ylabel("loss (1 = nothing learned)")
    # Nothing here counts for the layout, so that the axes stand alike whatever the curves do.
    cut = {"clip_on": False, "in_layout": False}
    (before,) = axes.plot(
        steps, np.clip(first, LOW, HIGH), color=figures.GREY, ls=":", label="as it started", zorder=2.7, **cut
    )
    (now,) = axes.plot([], [], label="this student", animated=True, zorder=3, markevery=20, **figures.cues(0), **cut)
    (floor,) = axes.plot([], [], color=figures.OCHRE, ls="--", animated=True, zorder=2.8, **cut)
    floor.set_label("least loss at this rank")
    figure.legend(handles=[now, floor, before], ncols=3, loc="outside upper left")

    def draw(losses: Sequence[float], least: float) -> None:
        now.set_data(steps, np.clip(losses, LOW, HIGH))
        floor.set_data([0, STEPS], np.clip([least, least], LOW, HIGH))

    return figure, draw


def training(
    rank: int = 4,
    alpha: int = 8,
    lr: float = 0.01,
    optimizer: str = "adam",
    lock: Mapping[str, Any] | None = None,
) -> explorer.Explorer:
    """Move rank, alpha, learning rate and optimizer, and see the whole training again (200 steps, some milliseconds).

    The teacher is an update [32, 32] of rank 4 with equal singular values, its inputs white (`teacher_student`).
    """
    task = teacher_student.problem(rank=TEACHER)
    controls = {
        "rank": explorer.slider("rank", "directions", 1, 16, rank),
        "alpha": explorer.slider("alpha", "no unit", 1, 64, alpha),
        "lr": explorer.stops("learning rate", "per step", RATES, lr),
        "optimizer": explorer.menu("optimizer", teacher_student.OPTIMIZERS, optimizer),
    }

    def train(**setting: Any) -> np.ndarray:
        return teacher_student.train(task, **setting, steps=STEPS)

    figure, draw = training_figure(train(rank=rank, alpha=alpha, lr=lr, optimizer=optimizer))

    def move(**setting: Any) -> tuple[str, str]:
        losses, floor = train(**setting), task.floor(setting["rank"])
        draw(losses, floor)
        rows = [
            {"step": f"{step}"} | {"loss": _number(losses[step]), "least at this rank": _number(floor)}
            for step in (0, 10, 50, 100, STEPS)
        ]
        end, scaling = losses[-1], setting["alpha"] / setting["rank"]
        finding = f"Rank {setting['rank']}, alpha / rank {scaling:.3g}, learning rate {setting['lr']:g}: "
        if end >= 1:
            how = f"loss {_number(end)}" if np.isfinite(end) else f"diverged by step {np.isfinite(losses).sum()}"
            return f"{finding}{how}. Worse than no student at all: the steps are too large.", figures.table(rows)
        finding += f"loss {_number(end)} after {STEPS} steps. "
        if setting["rank"] < TEACHER:
            finding += f"No student of this rank goes below {floor:.2f}: the teacher has rank {TEACHER}."
        elif end < 1e-3:
            finding += "The teacher is found."
        else:
            finding += "The rank suffices to find the teacher: larger or smaller steps would."
        return finding, figures.table(rows)

    summary = f"Loss of a student in {STEPS} steps of training: it starts at 1, nothing learned, and could reach 0."
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=165)


def _number(loss: float) -> str:
    return f"{loss:.3g}" if np.isfinite(loss) else "diverged"
