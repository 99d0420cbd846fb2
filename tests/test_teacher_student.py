"""The toy problem: its curves are torch's, its floor is Eckart and Young's in the inputs' measure, its claims hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab import experiments, lowrank
from lora_lab.teacher_student import INPUTS, OPTIMIZERS, RULES, SPECTRA, problem, scaling, slope, train


def by_torch(task, rank, scale, lr, steps, optimizer, seed, lr_b, init, weight_decay, eps):
    """The same training by autograd and torch.optim, in float64."""
    update, variances = torch.tensor(task.update), torch.tensor(task.variances)
    start = np.random.default_rng(seed).standard_normal((rank, len(variances)))
    A = torch.tensor(init * start / math.sqrt(len(variances)), requires_grad=True)
    B = torch.zeros(len(update), rank, dtype=torch.float64, requires_grad=True)
    groups = [{"params": [A], "lr": lr}, {"params": [B], "lr": lr_b or lr}]
    adam = optimizer == "adam"
    how = torch.optim.AdamW(groups, weight_decay=weight_decay, eps=eps) if adam else torch.optim.SGD(groups)
    losses = []
    for _ in range(steps + 1):
        how.zero_grad()
        loss = ((scale * B @ A - update).square() * variances).sum() / len(update)
        losses.append(loss.item())
        loss.backward()
        if not adam:  # torch's SGD decays through the gradient; ours is decoupled, as AdamW's is
            for group in groups:
                group["params"][0].data *= 1 - group["lr"] * weight_decay
        how.step()
    return losses


def test_the_three_rules():
    factors = {name: rule(16, 8) for name, rule in RULES.items()}
    assert factors == {"alpha/r": 2.0, "alpha/sqrt(r)": pytest.approx(5.657, abs=1e-3), "alpha": 16}
    assert {rule(16, 1) for rule in RULES.values()} == {16}


@settings(max_examples=25, deadline=None)
@given(
    rank=st.sampled_from([1, 3, 16]),
    rule=st.sampled_from(list(RULES)),
    optimizer=st.sampled_from(OPTIMIZERS),
    inputs=st.sampled_from(INPUTS),
    spectrum=st.sampled_from(SPECTRA),
    lr=st.sampled_from([0.003, 0.02]),
    lr_b=st.sampled_from([None, 0.05]),
    init=st.sampled_from([1.0, 0.5]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 3),
)
def test_a_curve_is_that_of_torch(rank, rule, optimizer, inputs, spectrum, lr, lr_b, init, weight_decay, seed):
    task = problem(12, 3, spectrum, inputs, seed)
    rest = {"optimizer": optimizer, "seed": seed, "lr_b": lr_b, "init": init}
    rest |= {"weight_decay": weight_decay, "eps": 1e-8}
    ours = train(task, rank, 2.0, lr, 60, rule, **rest)
    theirs = by_torch(task, rank, RULES[rule](2.0, rank), lr, 60, **rest)
    assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert abs(ours[0] - 1) < 1e-12


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("rank", [1, 3, 6, 8])
def test_training_ends_on_the_floor_which_is_eckart_youngs_in_the_measure_of_the_inputs(inputs, rank):
    task = problem(16, 8, "power law", inputs)
    floor = task.floor(rank)
    second_moment = np.diag(task.variances)
    assert math.isclose(floor, lowrank.data_floor(task.update, second_moment, rank, relative=True), abs_tol=1e-12)
    best = lowrank.data_truncate(task.update, second_moment, rank)
    assert math.isclose(task.loss(best), floor, abs_tol=1e-12)
    # Large alpha with a small rate of B: a well-conditioned run that settles.
    end = train(task, rank, 4.0 * rank, 0.005, 4000)[-1]
    assert floor - 1e-12 < end < floor * 1.02 + 1e-5


def test_what_the_teacher_is():
    task = problem(32, 5, "power law", "anisotropic", seed=1)
    values = np.linalg.svd(task.update, compute_uv=False)
    assert np.allclose(values[:5] / values[0], 1 / np.arange(1, 6)) and values[5] < 1e-12
    assert np.allclose(task.variances, 1 / np.arange(1, 33))
    assert task.loss(np.zeros((32, 32))) == pytest.approx(1) and task.loss(task.update) == 0
    x = np.random.default_rng(0).standard_normal((200_000, 32)) * np.sqrt(task.variances)
    assert ((x @ task.update.T) ** 2).mean() == pytest.approx(1, rel=0.02)
    assert np.ptp(np.linalg.svd(problem(32, 5).update, compute_uv=False)[:5]) < 1e-12
    assert not np.array_equal(task.update, problem(32, 5, "power law", "anisotropic", seed=2).update)


def test_alpha_is_a_learning_rate_exactly_where_it_should_be_and_not_elsewhere():
    task = problem(24, 4)
    run = {"rank": 4, "steps": 200}

    def apart(first, second):
        return np.max(np.abs(np.array(first) / np.array(second) - 1))

    sgd, adam = {"optimizer": "sgd", "lr": 0.002} | run, {"lr": 0.002, "eps": 1e-30} | run
    assert apart(train(task, alpha=4, **sgd), train(task, alpha=1, lr_b=0.002 * 16, **sgd)) < 1e-9
    assert apart(train(task, alpha=4, **adam), train(task, alpha=1, lr_b=0.002 * 4, **adam)) < 1e-9
    assert apart(train(task, alpha=4, init=0.5, **adam), train(task, alpha=1, **adam | {"lr": 0.004})) < 1e-9
    assert apart(train(task, alpha=4, **adam), train(task, alpha=1, **adam | {"lr": 0.008})) > 0.1
    decay = adam | {"weight_decay": 1.0}
    assert apart(train(task, alpha=4, **decay), train(task, alpha=1, lr_b=0.008, **decay)) > 0.01


def test_a_run_that_diverges_ends_in_inf_and_one_seed_gives_one_curve():
    task = problem(16, 4)
    losses = train(task, 4, 64.0, 10.0, 50, optimizer="sgd")
    first = np.flatnonzero(np.isinf(losses))[0]
    assert 1 < first < 50 and np.isinf(losses[first:]).all() and np.isfinite(losses[:first]).all()
    assert (losses[np.isfinite(losses)] > 1e6).sum() == 1
    assert np.array_equal(train(task, seed=3), train(task, seed=3))
    assert not np.array_equal(train(task, seed=3), train(task, seed=4))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rule": "alpha/rank"}, "rule 'alpha/rank' is none of: alpha/r, alpha/sqrt"),
        ({"optimizer": "lion"}, "optimizer 'lion' is none of: sgd, adam"),
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"lr": math.nan}, "lr is nan"),
    ],
)
def test_what_makes_no_sense_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        train(problem(8, 2), **wrong)


@pytest.mark.parametrize(
    ("wrong", "says"), [({"rank": 9}, "rank 9 does not fit"), ({"inputs": "red"}, "white"), ({"spectrum": "x"}, "flat")]
)
def test_a_teacher_that_makes_no_sense_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        problem(8, **wrong)


EXPECTED = {  # claims of the lesson: slopes of early progress in the rank
    ("sgd", "alpha/r"): -1.0,
    ("sgd", "alpha/sqrt(r)"): 0.0,
    ("sgd", "alpha"): 1.0,
    ("adam", "alpha/r"): 0.0,
    ("adam", "alpha/sqrt(r)"): 0.5,
    ("adam", "alpha"): 1.0,
}


def test_the_recorded_sweep_is_what_the_code_gives_and_shows_the_slopes():
    recorded = experiments.recorded("scaling")
    rows = recorded["rows"]
    assert recorded["seed"] == 0
    for (optimizer, rule), expected in EXPECTED.items():
        for steps in (1, 10):
            early = [r for r in rows if (r["optimizer"], r["rule"], r["steps"]) == (optimizer, rule, steps)]
            assert [r["rank"] for r in early] == [2**k for k in range(9)]
            assert abs(slope([r["rank"] for r in early], [1 - r["loss"] for r in early]) - expected) < 0.05
    for row in (rows[0], rows[1], next(r for r in rows if r["part"] == "trained" and r["rank"] == 4)):
        early = row["part"] == "early"
        tasks = [problem(256, 64, seed=s) if early else problem(64, 64, "power law", seed=s) for s in range(5)]
        how = (row["rank"], row["alpha"], row["lr"], row["steps"], row["rule"], row["optimizer"])
        ends = [train(task, *how, seed=s)[-1] for s, task in enumerate(tasks)]
        assert row["loss"] == pytest.approx(np.mean(ends), rel=1e-6)
        assert (row["low"], row["high"]) == pytest.approx((min(ends), max(ends)), rel=1e-6)


def test_the_sweep_has_every_combination_once(monkeypatch):
    monkeypatch.setattr("lora_lab.teacher_student.train", lambda *how, seed: np.full(how[4] + 1, float(how[1] < 64)))
    result = scaling()
    keys = [tuple(row[k] for k in ("part", "rule", "optimizer", "rank", "lr", "steps")) for row in result["rows"]]
    assert len(keys) == len(set(keys)) == len(experiments.recorded("scaling")["rows"])
    assert {row["loss"] for row in result["rows"]} == {0.0, 1.0}


def test_slope():
    assert slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
