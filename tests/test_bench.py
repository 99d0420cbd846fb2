"""The benchmark itself: it runs at tiny sizes, its rows are whole, and its statistics are right. No time is judged."""

from __future__ import annotations

import time

import pytest
import torch

from tests.bench.__main__ import line, measure
from tests.bench.cases import all_cases, kept_for_backward, restore_error
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
    assert [row["what"] for row in rows] == [
        *(f"training step, {setting}" for setting in ("mid-network", "first layer", "with AdamW")),
        *("unmerged inference", "merged inference"),
        *("merge", "unmerge", "merge + exact unmerge", "merge (peft: safe_merge)"),
        *("switch there and back", "save", "load from disk"),
    ]
    for row in rows:
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high
        assert min(row["milliseconds"]) > 0
        assert row["what"] in line(row) and row["size"] in line(row) and row["met"] is None


def test_a_bar_is_judged_by_the_median(monkeypatch):
    case = next(all_cases((32,), tokens=8))
    for bar, met in (((0, 1e9), True), ((0, 1e-9), False)):
        monkeypatch.setattr("tests.bench.__main__.BARS", {("training step", "d=32"): bar})
        (row,) = measure(case, 2, round_seconds=0)
        assert row["met"] is met and ("NOT met" in line(row)) is not met


def test_restore_error_is_zero_here_and_not_in_peft():
    error = restore_error(32, torch.bfloat16, cycles=5)
    assert error["ours"] == 0 < error["peft"]


def test_the_same_is_kept_for_the_backward():
    kept = kept_for_backward(32, tokens=8)
    # x [8, 32] for A's gradient and A x [8, 8] for B's, in float32
    assert kept == {"ours": 4 * 8 * (32 + 8), "peft": 4 * 8 * (32 + 8)}
