"""The benchmark itself: it runs at tiny sizes, its rows are whole, and its statistics are right. No time is judged."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from lora_lab import experiments, figures_serving
from tests.bench.__main__ import BARS, all_cases, line, main, measure
from tests.bench.cases import kept_for_backward, restore_error
from tests.bench.serving import dora_gradients, mixed
from tests.bench.timing import quartiles, run_steps, time_pair


def test_quartiles_of_known_ratios():
    assert quartiles([2, 4, 6, 8, 10], [2, 2, 2, 2, 2]) == (2, 3, 4)
    # Paired: a machine that slows down by half in one round changes nothing.
    assert quartiles([1, 2, 10], [2, 4, 20]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="at least two pairs"):
        quartiles([1], [1])


def test_both_clocks_and_untimed_parts():
    spent = run_steps([("nap", lambda: time.sleep(0.02)), ("", lambda: time.sleep(0.02)), ("nap", lambda: None)], {})
    assert list(spent) == ["nap"]
    wall, processor = spent["nap"]
    assert wall >= 0.02 > processor  # asleep, the process spends wall time and no processor time


def test_sides_take_turns_after_two_warm_ups():
    order = []
    sides = {"ours": [("part", lambda: order.append("ours"))], "peft": [("part", lambda: order.append("peft"))]}
    results, runs = time_pair(sides, rounds=20, round_seconds=0)
    assert (len(results), runs) == (20, 1) and order[:4] == ["ours", "peft"] * 2
    turns = {tuple(order[i : i + 2]) for i in range(4, len(order), 2)}
    assert turns == {("ours", "peft"), ("peft", "ours")}


def test_every_case_gives_whole_rows():
    rows = [row for case in all_cases((32,), tokens=8, stack=(16, 2)) for row in measure(case, 2, round_seconds=0)]
    assert [row["what"] for row in rows if row["side"] == "ours"] == [
        *(f"training step, {setting}" for setting in ("mid-network", "first layer", "with AdamW")),
        *("DoRA training step", "unmerged inference", "merged inference"),
        *("merge", "unmerge", "merge + exact unmerge", "merge (peft: safe_merge)"),
        *("merge, exact backup", "merge, keep_backup=False", "mixed batch of 4 adapters", "switch there and back"),
        *("attach", "save", "load from disk", "hot swap from disk", "hot swap from memory"),
    ]
    beside = {row["what"]: row["against"] for row in rows if row["side"] == "peft"}
    assert beside == {
        "merge, exact backup": "addmm_",
        "merge, keep_backup=False": "addmm_",
        "mixed batch of 4 adapters": "base",
    }
    for row in rows:
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high
        assert min(row["milliseconds"]) > 0
        assert row["what"] in line(row) and row["size"] in line(row) and row["met"] is None
    assert all(any(row["what"].startswith(start) for row in rows) for start, _ in BARS)


def test_a_bar_is_judged_by_the_median(monkeypatch):
    case = next(all_cases((32,), tokens=8))
    for bar, met in (((0, 1e9), True), ((0, 1e-9), False)):
        monkeypatch.setattr("tests.bench.__main__.BARS", {("training step", "d=32"): bar})
        (row,) = measure(case, 2, round_seconds=0)
        assert row["met"] is met and ("NOT met" in line(row)) is not met


def test_only_our_side_is_judged(monkeypatch):
    monkeypatch.setattr("tests.bench.__main__.BARS", {("mixed", "2 x 32"): (0, 1e9)})
    ours, theirs = measure(mixed(32, 2, rows=8), 2, round_seconds=0)
    assert (ours["side"], ours["met"], theirs["side"], theirs["bar"]) == ("ours", True, "peft", None)


def test_dora_gradients_are_pefts():
    for size in (32, 96):
        errors = dora_gradients(size, tokens=64)
        assert list(errors) == ["x", "A", "B", "magnitude"] and max(errors.values()) < 1e-5


@pytest.mark.parametrize("words", [["--quick"], ["--only", "merge"], ["--rounds", "14"], ["--threads", "2"]])
def test_a_look_is_not_recorded(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--record"])
    assert "every case, 15 rounds or more and one thread" in capsys.readouterr().err


def test_a_run_is_written_as_results_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tests.bench.__main__.all_cases", lambda sizes: iter([mixed(32, 2, rows=8)]))
    assert main(["--quick", "--only", "mixed", "--json", str(tmp_path / "bench.json")]) == 0
    result = experiments.recorded("bench", tmp_path)
    assert result["command"].startswith("python -m tests.bench --quick --only mixed") and [
        row["side"] for row in result["rows"]
    ] == ["ours", "peft"]
    assert set(result["versions"]) == {"python", "torch", "transformers", "lora-lab", "peft"}
    assert "a look, not a result" in capsys.readouterr().out


def test_the_recorded_run_is_whole_and_drawn():
    result = experiments.recorded("bench")
    assert result["command"].startswith("python -m tests.bench --record")
    assert result["settings"]["rounds"] >= 15 and result["settings"]["threads"] == 1
    judged = {(row["what"], row["size"]): row for row in result["rows"] if row["bar"]}
    assert all(any(what.startswith(start) and of == size for what, of in judged) for start, size in BARS)
    assert all(row["met"] == (row["bar"][0] <= row["ratio"] <= row["bar"][1]) for row in judged.values())
    assert max(result["dora_gradients"].values()) < 1e-5
    assert all(error["ours"] == 0 for error in result["restore_error"].values())
    assert figures_serving.bench(result["rows"]).axes


def test_restore_error_is_zero_here_and_not_in_peft():
    error = restore_error(32, torch.bfloat16, cycles=5)
    assert error["ours"] == 0 < error["peft"]


def test_the_same_is_kept_for_the_backward():
    kept = kept_for_backward(32, tokens=8)
    # x [8, 32] for A's gradient and A x [8, 8] for B's, in float32
    assert kept == {"ours": 4 * 8 * (32 + 8), "peft": 4 * 8 * (32 + 8)}


def test_readme_says_what_was_recorded():
    """Each ratio in its table is that of a recorded row, in the order given there."""
    rows = {(r["what"], r["size"], r["side"]): f"{r['ratio']:.3f}" for r in experiments.recorded("bench")["rows"]}
    large, stack = ("d=4096", "ours"), "24 x 1024"
    expected = {
        "training step against": [rows["training step, mid-network", d, "ours"] for d in ("d=1024", "d=4096")],
        "DoRA training step": [rows["DoRA training step", *large]],
        "merge and exact unmerge": [rows["merge + exact unmerge", *large]],
        "merge with the exact backup": [rows["merge, exact backup", "d=4096", side] for side in ("ours", "peft")],
        "the same with `keep_backup": [rows["merge, keep_backup=False", "d=4096", side] for side in ("ours", "peft")],
        "four adapters in one batch": [rows["mixed batch of 4 adapters", stack, side] for side in ("ours", "peft")],
        "switching between two": [rows["switch there and back", stack, "ours"]],
        "merged inference against": [rows["merged inference", d, "ours"] for d in ("d=1024", "d=4096")],
    }
    lines = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").splitlines()
    for start, ratios in expected.items():
        (line,) = (line for line in lines if line.startswith(f"| {start}"))
        assert re.findall(r"\d\.\d{3}", line) == ratios
