"""Live training: the curve drawn is the one that `teacher_student` trains, and the words agree with it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lora_lab import explorer, explorers, figures, teacher_student
from lora_lab.explore_training import HIGH, LOW, STEPS, TEACHER

START = {"rank": 4, "alpha": 8, "lr": 0.01, "optimizer": "adam"}


def trained(**setting) -> np.ndarray:
    return teacher_student.train(teacher_student.problem(rank=TEACHER), **START | setting, steps=STEPS)


def curve(made) -> np.ndarray:
    return next(line for line in made.figure.axes[0].lines if line.get_label() == "this student").get_ydata()


@pytest.mark.parametrize("moved", [{"rank": 2}, {"alpha": 40}, {"lr": 0.1}, {"optimizer": "sgd", "lr": 1.0}])
def test_a_move_trains_anew_and_draws_that_curve(moved):
    made = explorers.training()
    before = made.image.value
    for name, value in moved.items():
        made.controls[name].value = value
    assert np.array_equal(curve(made), np.clip(trained(**moved), LOW, HIGH))
    assert made.image.value != before
    made.reset()
    assert made.image.value == before and np.array_equal(curve(made), np.clip(trained(), LOW, HIGH))


def test_the_live_picture_is_the_static_picture_but_for_the_edges_of_lines():
    made = explorers.training(rank=2)
    pictures = (made.image.value, figures.png(made.figure, explorer.DPI))
    live, static = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in pictures)
    off = np.abs(live - static).max(axis=2)
    assert off.max() <= 60 and (off > 0).mean() < 0.01


def test_the_curve_it_started_with_stays_to_compare():
    made = explorers.training(rank=1)
    made.controls["rank"].value = 8
    first = next(line for line in made.figure.axes[0].lines if line.get_label() == "as it started")
    assert np.array_equal(first.get_ydata(), np.clip(trained(rank=1), LOW, HIGH)) and not first.get_animated()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_below_the_teachers_rank_the_floor_is_named_and_kept(rank):
    made = explorers.training(rank=rank, lr=0.03)
    floor = teacher_student.problem(rank=TEACHER).floor(rank)
    assert f"No student of this rank goes below {floor:.2f}" in made.text
    assert trained(rank=rank, lr=0.03)[-1] >= floor
    line = next(line for line in made.figure.axes[0].lines if line.get_label() == "least loss at this rank")
    assert np.allclose(line.get_ydata(), floor)


def test_found_not_yet_and_too_large_are_told_apart():
    assert explorers.training().text.endswith("The teacher is found.")
    assert explorers.training(lr=0.001, optimizer="sgd").text.endswith("would.")
    wild = explorers.training(rank=1, lr=10.0, optimizer="sgd", alpha=64)
    assert "diverged by step" in wild.text and wild.text.endswith("the steps are too large.")
    assert "diverged" in wild.detail.value
    assert curve(wild)[-1] == HIGH


def test_the_table_has_the_losses_of_the_curve():
    made = explorers.training(rank=2)
    losses = trained(rank=2)
    assert all(f">{losses[step]:.3g}</td>" in made.detail.value for step in (0, 10, 50, 100, STEPS))
