"""Lesson 12 stands without a recorded GPU and with one: its cells that look for a record run on both.

The record here is made up, for this test alone; its figures are chosen so that none of them is a prediction's.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from lora_lab import figures, figures_counting, recorded
from lora_lab.hardware import beside

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "12_on_real_hardware.ipynb"
# Cells that measure nothing, in the lesson's order.
CELLS = "001 003 005 010 011 018 030 031 033 035 035b 037 039 041 043 044 047 065".split()
RANKS = (1, 4, 16, 64, 256)


def made_up(folder: Path, card: str, memory: int) -> recorded.Recorded:
    def row(name: str, **more) -> dict:
        return dict.fromkeys(recorded.FIELDS) | {"id": name, "part": name[0], "status": "ok", "card": card} | more

    rows = [row(f"B/Llama-2-7B/all-linear/r{r}/ours fused layer", seconds=7.77) for r in RANKS]
    rows.append(row("C/Llama-2-7B/step, ours plain", shares={"base matmuls": 0.1234, "elementwise": 0.4321}))
    peak = {"peak_memory": 33_300_000_000, "memory_predicted": 22_200_000_000}
    rows.append(row("B/Llama-2-7B/q_proj,v_proj/r8/ours fused layer, checkpointing", **peak))
    bars = [dict(bar, measured=0.987, met=True) for bar in recorded.bars([])]
    head = {"card": card, "memory": memory, "date": "2026-01-02", "versions": {}, "bars": bars, "tiny": False}
    file = folder / "gpu.json"
    file.write_text(json.dumps(head | {"rows": rows}), encoding="utf-8")
    return recorded.gpu(file)


def run(record: recorded.Recorded | None, monkeypatch, capsys) -> str:
    """What the cells print, tables and alt texts included."""
    monkeypatch.setattr(recorded, "gpu", lambda: record)
    monkeypatch.setattr(figures, "show", lambda figure, alt: print(alt))
    monkeypatch.setattr(figures, "show_table", lambda rows, caption="": print(caption, rows))
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT).cells}
    took = {f"rank {rank}": 0.1 + rank / 1e3 for rank in RANKS}
    space = {"figures_counting": figures_counting, "ranks": RANKS, "took": took}  # from the cells that measure
    for name in CELLS:
        exec(compile(cells[f"lesson12-{name}"], name, "exec"), space)
    return capsys.readouterr().out


def test_without_a_record_every_figure_of_a_card_is_a_prediction(monkeypatch, capsys):
    said = run(None, monkeypatch, capsys)
    assert said.startswith("No run on a GPU is recorded: every figure about a card below is a prediction")
    assert said.count("not measured") >= 6 + 2 + len(recorded.bars([]))
    assert "one H100 SXM, predicted" in said and "SXM, measured" not in said


@pytest.mark.parametrize(
    ("called", "memory", "name"),
    [("NVIDIA H200", 150_000_000_000, "H200"), ("NVIDIA H100 80GB HBM3", 85_000_000_000, "H100 SXM")],
)
def test_with_a_record_what_was_measured_stands_beside_it(called, memory, name, tmp_path, monkeypatch, capsys):
    record = made_up(tmp_path, called, memory)
    said = run(record, monkeypatch, capsys)
    assert said.startswith(f"Recorded on {called}, 2026-01-02")
    assert "'measured': '12.3%'" in said and "'measured': '43.2%'" in said  # of the step's parts
    assert "predicted  22.2 GB, measured 33.3 GB" in said  # as it was predicted then
    assert f"time on one {name}, measured 1" in said  # of the ranks, which all took as long
    assert "'measured': '0.987', 'met': 'yes'" in said and f"Recorded on {called}" in said
    assert beside.of(record).name == name
