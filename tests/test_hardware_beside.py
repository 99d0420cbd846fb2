"""Predicted beside measured: without a record there is no measured figure, with one it stands beside the right thing.

The records here are made up, for these tests alone.
"""

from __future__ import annotations

import json

import pytest

from lora_lab import recorded
from lora_lab.hardware import beside, cards


def made_up(tmp_path, rows: list[dict], card: str = "NVIDIA H100 80GB HBM3", memory: int = 85_000_000_000):
    blank = dict.fromkeys(recorded.FIELDS) | {"status": "ok", "card": card}
    file = tmp_path / "gpu.json"
    head = {"card": card, "memory": memory, "date": "2026-01-01", "versions": {}, "bars": [], "tiny": False}
    file.write_text(json.dumps(head | {"rows": [blank | row for row in rows]}), encoding="utf-8")
    return recorded.gpu(file)


ROWS = [
    {"id": "B/Llama-2-7B/all-linear/r16/ours fused layer", "part": "B", "seconds": 0.5},
    {"id": "B/Llama-2-7B/all-linear/r64/ours fused layer", "part": "B", "seconds": 9.0, "status": "failed"},
    {"id": "C/Llama-2-7B/step, ours plain", "part": "C", "shares": {"base matmuls": 0.5, "output head": 0.125}},
    {
        "id": "B/Llama-2-7B/q_proj,v_proj/r8/ours fused layer, checkpointing",
        "part": "B",
        "peak_memory": 2_000,
        "memory_predicted": 1_900,
    },
]


def everything(record):
    on = beside.of(record)
    return [*beside.steps(record, on), *beside.shares(record, on), *beside.peaks(record)]


def test_without_a_record_everything_is_predicted_and_nothing_measured():
    assert recorded.gpu() is None or beside.of(recorded.gpu())
    assert beside.of(None).name == "H200"
    pairs = everything(None)
    assert len(pairs) == 13 and all(pair.measured is None and pair.predicted > 0 for pair in pairs)
    parts = [pair for pair in pairs if pair.unit == "share"]
    assert sum(pair.predicted for pair in parts) == pytest.approx(1)


def test_with_a_record_what_was_measured_stands_beside_its_prediction(tmp_path):
    record = made_up(tmp_path, ROWS)
    assert beside.of(record) == cards.card("H100 SXM")
    found = {(pair.what, pair.unit): pair for pair in everything(record)}
    assert found["rank 16", "s"].measured == 0.5 and 0.1 < found["rank 16", "s"].predicted < 0.5
    assert found["rank 64", "s"].measured is None  # it failed
    assert found["base matmuls", "share"].measured == 0.625 and found["attention", "share"].measured is None
    peak = found["checkpointing", "bytes"]
    assert (peak.predicted, peak.measured) == (1_900, 2_000)
    assert found["NF4 base, checkpointing", "bytes"].measured is None


def test_the_rows_that_it_looks_for_are_rows_of_the_script_for_a_gpu(monkeypatch):
    from tests.bench.gpu import bars, roofline, sizes

    asked = []
    monkeypatch.setattr(recorded.Recorded, "row", lambda record, name: asked.append(name))
    everything(recorded.Recorded("NVIDIA H200", 150_000_000_000, "", {}, (), ()))
    there = {spec.id for part in (bars, roofline) for spec in part.specs(sizes.REAL)}
    assert len(set(asked)) == 8 and set(asked) <= there


@pytest.mark.parametrize(
    ("called", "memory", "name"),
    [
        ("NVIDIA H200", 150_000_000_000, "H200"),
        ("NVIDIA A100-SXM4-40GB", 42_000_000_000, "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", 85_000_000_000, "A100 80 GB"),
        ("NVIDIA GeForce RTX 4090", 25_000_000_000, "RTX 4090"),
        ("Tesla T4", 15_800_000_000, "T4"),
        ("NVIDIA L40S", 47_000_000_000, "L40S"),
    ],
)
def test_a_card_is_known_by_what_torch_calls_it(tmp_path, called, memory, name):
    assert beside.of(made_up(tmp_path, [], called, memory)).name == name


def test_a_card_that_is_not_in_the_table_is_said(tmp_path):
    with pytest.raises(ValueError, match="the record is of Radeon, which is not in the table"):
        beside.of(made_up(tmp_path, [], "Radeon"))
