"""The sweeps: what is due next, resuming, and that a recorded row can be trained again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lora_lab import experiments, lowrank, measurements, runs, short_runs, sweeps
from lora_lab.runs import Recipe, Run

GROUP = Run("rank 8", "pirate", "lora", "all-linear", 8, 16.0, lr=0.0, seed=0)
TUNED = sweeps.Plan("a toy", (GROUP,), {"pirate": Recipe(2, 2, 16)}, seeds=3)


def play(plan: sweeps.Plan, loss_of) -> list[dict]:
    """The rows of `plan` when a run's loss is `loss_of(lr)`, done one at a time, as a sweep that is often cut."""
    rows: list[dict] = []
    while runs := sweeps.due(plan, rows):
        run = runs[0]
        rows.append({"task": run.task, "label": run.label, "lr": run.lr, "seed": run.seed, "loss": loss_of(run.lr)})
        assert len(rows) < 30
    return rows


def test_a_setting_finds_its_rate_on_one_seed_and_repeats_it_on_the_others():
    low, middle, high = sweeps.RATES["lora"]
    rows = play(TUNED, lambda lr: abs(lr - middle))
    assert [(r["lr"], r["seed"]) for r in rows] == [(low, 0), (middle, 0), (high, 0), (middle, 1), (middle, 2)]


@pytest.mark.parametrize("best", [2, 0.25], ids=["above", "below"])
def test_a_best_rate_at_the_edge_is_followed_outward(best):
    goal = sweeps.RATES["lora"][1] * 2 * best
    rows = play(TUNED, lambda lr: abs(np.log2(lr / goal)))
    assert [row["lr"] for row in rows if row["seed"] == 2] == [pytest.approx(goal)]
    tried = [row["lr"] for row in rows if row["seed"] == 0]
    assert min(tried) < goal < max(tried)


def test_finer_looks_half_way_to_both_neighbours_and_keeps_the_best():
    low, middle, high = sweeps.RATES["lora"]
    goal = middle * 2**0.5
    rows = play(replace(TUNED, finer=True), lambda lr: abs(np.log2(lr / goal)) + 0.1 * (lr > goal))
    tried = [row["lr"] for row in rows if row["seed"] == 0]
    assert tried == [low, middle, high, pytest.approx(middle / 2**0.5, rel=2e-3), pytest.approx(goal, rel=2e-3)]
    assert [row["lr"] for row in rows if row["seed"] > 0] == [tried[-1]] * 2
    rows = play(replace(TUNED, finer=True), lambda lr: abs(np.log2(lr / high)))
    assert {row["lr"] for row in rows if row["seed"] == 2} == {high}


def test_the_search_ends_where_there_is_no_best_rate():
    rows = play(TUNED, lambda lr: -lr)
    assert len({row["lr"] for row in rows}) == 3 + sweeps.OUTWARD


def test_a_diverged_run_is_worse_than_any_other():
    low, middle, high = sweeps.RATES["lora"]
    rows = play(TUNED, lambda lr: None if lr > middle else 5.0 - lr)
    assert {row["lr"] for row in rows if row["seed"] == 1} == {middle}
    assert experiments.best_rate({low: None, high: 9.0}) == high


def test_a_grid_runs_every_rate_on_every_seed():
    rows = play(replace(TUNED, rates=(1.0, 2.0)), lambda lr: lr)
    assert {(r["lr"], r["seed"]) for r in rows} == {(lr, seed) for lr in (1.0, 2.0) for seed in range(3)}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", sweeps.PLANS)
def test_every_setting_of_a_plan_can_be_made(name, large):
    plan = sweeps.PLANS[name](large)
    assert len({(g.task, g.label) for g in plan.groups}) == len(plan.groups), "two settings of one name"
    assert {g.task for g in plan.groups} == set(plan.recipes)
    for group in plan.groups:
        assert group.method in runs.METHODS and group.method in sweeps.RATES
        assert group.rank == 0 or group.config().rank == group.rank


def test_large_is_the_same_sweep_but_wider():
    for make in sweeps.PLANS.values():
        few, many = make(False), make(True)
        wider = len(many.groups) > len(few.groups) or many.recipes["pirate"].steps > few.recipes["pirate"].steps
        assert wider and {g.method for g in few.groups} == {g.method for g in many.groups}


@pytest.fixture(scope="module")
def lab() -> short_runs.Lab:
    threads = torch.get_num_threads()
    yield short_runs.Lab()
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def trainable(lab: short_runs.Lab, run: Run) -> tuple[int, set[str]]:
    """How many parameters a run trains, and the names of the base's tensors that it changed."""
    with lab.trained(replace(run, lr=1e-3), Recipe(2, 2, 16)) as count:
        now = {name.replace(".base.", "."): p for name, p in lab.model.named_parameters()}
        changed = {name for name, p in lab.pristine.items() if not torch.equal(now[name], p)}
    return count, changed


@pytest.mark.parametrize("name", sweeps.EQUAL_BUDGET)
def test_the_budgets_are_equal(lab, name):
    group = next(g for g in sweeps.targets_plan().groups if g.label == name)
    count, changed = trainable(lab, group)
    assert changed == set() and count == pytest.approx(116_736, rel=0.007)
    assert count == 116_736 or name == "v"


@pytest.mark.parametrize(
    ("method", "count", "touched"),
    [("full", 4_718_592, "proj"), ("last block", 786_432, "layers.5."), ("norms", 3_328, "norm")],
)
def test_what_each_control_trains(lab, method, count, touched):
    found, changed = trainable(lab, replace(GROUP, method=method, rank=0, alpha=0.0))
    assert found == count and changed and all(touched in name for name in changed)


def test_a_frozen_a_trains_b_alone(lab):
    with lab.trained(replace(GROUP, method="frozen A", lr=1e-2), Recipe(2, 2, 16)):
        parts = {n: p for n, p in lab.model.named_parameters() if ".A." in n or ".B." in n}
        assert {n for n, p in parts.items() if p.requires_grad} == {n for n in parts if ".B." in n}
        assert all(p.any() for p in parts.values())


@pytest.mark.parametrize(
    ("method", "count", "steps"),
    [
        ("lora+", 233_472, (1e-3, 1.6e-2)),
        ("dora", 233_472 + 15_360, (1e-3, 1e-3)),
        ("pissa", 233_472, (1e-3, 1e-3)),
        ("qlora", 233_472, (1e-3, 1e-3)),
        ("vera", 15_360 + 42 * 8, None),
    ],
)
def test_what_each_variant_trains_and_how_far_its_first_real_step_goes(lab, method, count, steps):
    """Adam moves a number by about its learning rate (the first step, a warm-up, by 0): A and B show their rates."""
    run = replace(GROUP, method=method, lr=1e-3)
    with lab.trained(run, Recipe(2, 2, 16)) as found:
        assert found == count
        layer = lab.model.model.layers[0].mlp.down_proj
        assert type(layer.base).__name__ == ("NF4Linear" if method == "qlora" else "Linear")
        moved = [p.detach().clone() for p in layer.matrices("default")]
    with lab.trained(replace(run, lr=1e-12), Recipe(2, 2, 16)):
        layer = lab.model.model.layers[0].mlp.down_proj
        at_first = [p.detach().clone() for p in layer.matrices("default")]
    size = [(one - other).abs().max().item() for one, other in zip(moved, at_first, strict=True)]
    if method == "vera":
        assert size == [0, 0]
    elif method == "pissa":
        assert size == pytest.approx(steps, rel=0.2)
    else:  # B is zero, so A has no gradient yet
        assert size == pytest.approx((0, steps[1]), rel=0.2)


def test_after_a_run_the_model_is_as_it_was_also_when_it_fails(lab):
    for method, rank in (("lora", 8), ("full", 0), ("qlora", 8), ("vera", 8)):
        with (
            pytest.raises(RuntimeError, match="mid-way"),
            lab.trained(replace(GROUP, method=method, rank=rank, lr=1e-2), Recipe(2, 2, 16)),
        ):
            raise RuntimeError("mid-way")
        now = dict(lab.model.named_parameters())
        assert now.keys() == lab.pristine.keys()
        assert all(torch.equal(now[name], p) and not now[name].requires_grad for name, p in lab.pristine.items())


def test_a_run_that_diverges_is_a_row_without_a_loss(lab):
    row = lab.run(replace(GROUP, lr=1e30), Recipe(4, 2, 16))
    assert row["loss"] is None and row["base_loss"] is None
    json.dumps(row, allow_nan=False)


def test_the_update_read_from_an_adapter_is_what_merging_adds(lab):
    from lora_lab.merging import merge

    with lab.trained(replace(GROUP, lr=1e-2), Recipe(2, 2, 16)):
        updates = measurements._read_updates(lab)
        merge(lab.model)
        for path, update in updates.items():
            merged = lab.model.get_submodule(path).base.weight - lab.pristine[f"{path}.weight"]
            np.testing.assert_allclose(update, merged.detach().numpy(), atol=2e-7)
    assert len(updates) == 42 and all(np.linalg.matrix_rank(u.astype("f4")) <= 8 for u in updates.values())


def test_a_cut_sweep_goes_on_and_another_one_is_refused(tmp_path, monkeypatch):
    made = []

    def fake(run: Run, recipe: Recipe, threads=None) -> dict:
        made.append((run.lr, run.seed))
        return {"label": run.label, "task": run.task, "lr": run.lr, "seed": run.seed, "loss": run.lr, "seconds": 0.5}

    class Pool:
        """Runs at once, in this process; breaks after three."""

        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, function, *given):
            from concurrent.futures import Future

            if len(made) == 3:
                raise KeyboardInterrupt
            future = Future()
            future.set_result(function(*given))
            return future

    monkeypatch.setattr(sweeps, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(sweeps, "one", fake)
    monkeypatch.setattr(sweeps, "_lab", lambda _: type("NoModel", (), {"measure": lambda *_: {"loss": 9.0}})())
    plan = replace(TUNED, rates=(1.0, 2.0))
    with pytest.raises(KeyboardInterrupt):
        sweeps.run_plan("toy", plan, tmp_path / "toy.json")
    kept = json.loads((tmp_path / "toy.partial").read_text())["rows"]
    assert 0 < len(kept) <= 3
    with pytest.raises(ValueError, match="another settings"):
        sweeps.run_plan("toy", replace(plan, recipes={"pirate": Recipe(3, 2, 16)}), tmp_path / "toy.json")
    made.clear()
    made += [None] * 4  # never three again
    result = sweeps.run_plan("toy", plan, tmp_path / "toy.json")
    assert len(result["rows"]) == 6 and result["seconds"] == 3.0 and len(made) - 4 == 6 - len(kept)
    assert not (tmp_path / "toy.partial").exists() and result["before"] == {"pirate": {"loss": 9.0}}


# --- what was recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sweeps.PLANS)
def test_a_recorded_sweep_is_complete_and_its_plan_has_not_changed_since(name):
    result = experiments.recorded(name)
    plan = sweeps.PLANS[name](False)
    assert sweeps.due(plan, result["rows"]) == []
    assert {task: Recipe(**recipe) for task, recipe in result["settings"].items()} == plan.recipes
    groups = {(g.task, g.label): g for g in plan.groups}
    for row in result["rows"]:
        group = groups[row["task"], row["label"]]
        assert Run(**{f: row[f] for f in Run.__dataclass_fields__}) == replace(group, lr=row["lr"], seed=row["seed"])


def test_a_recorded_row_trained_again_falls_inside_its_band(lab):
    """One short row of the explorer's grid; the band is that of its seeds, widened for other processors' arithmetic."""
    result = experiments.recorded("grid")
    wanted = {"targets": "all-linear", "rank": 4, "ratio": 2.0, "lr": 1e-2}
    rows = [r for r in result["rows"] if all(r.get(k, r["alpha"] / r["rank"]) == v for k, v in wanted.items())]
    losses = [row["loss"] for row in rows]
    run = Run(**{f: rows[0][f] for f in Run.__dataclass_fields__})
    again = lab.run(run, Recipe(**result["settings"]["pirate"]))
    assert min(losses) - 0.05 < again["loss"] < max(losses) + 0.05 < result["before"]["pirate"]["loss"] - 0.5
    assert again["trainable"] == rows[0]["trainable"]


def test_the_recorded_update_is_the_matrix_that_its_spectrum_row_describes():
    result = experiments.recorded("spectrum")
    update = experiments.matrix(result["update"])
    layer, kind = 3, result["update"]["module"].rsplit(".", 1)[-1]
    row = next(r for r in result["rows"] if (r["task"], r["kind"], r["layer"]) == ("code", kind, layer))
    kept = lowrank.energy(update)
    assert [kept[rank - 1] for rank in result["settings"]["ranks"]] == pytest.approx(row["energy"], abs=2e-3)


def test_recorded_costs_are_of_the_sweeps_settings_and_say_what_follows_from_counting(lab):
    rows = {row["label"]: row for row in experiments.recorded("variant_costs")["rows"]}
    assert list(rows) == [group.label for group in sweeps.variants_plan().groups]
    for group in sweeps.variants_plan().groups:
        row = rows[group.label]
        with lab.prepared(replace(group, lr=1e-3)) as chosen:
            assert row["trainable"] == sum(p.numel() for p in chosen)
        assert row["step_low"] <= row["step"] <= row["step_high"]
        if group.method != "qlora":  # nothing else changes the model before it is trained
            assert row["start"] == pytest.approx(rows["LoRA"]["start"], abs=2e-3)
    kept = {label: row["kept_bytes"] for label, row in rows.items()}
    assert kept["LoRA-FA"] < kept["LoRA"] == kept["LoRA+"] < kept["DoRA"]
    files = {label: row["file_bytes"] for label, row in rows.items()}
    assert files["VeRA"] < files["LoRA"] < files["DoRA"] < files["PiSSA"] < files["full"]
    assert (
        rows["full"]["matrix_bytes"] == 4 * rows["full"]["trainable"] > 7.7 * rows["QLoRA (NF4 base)"]["matrix_bytes"]
    )
