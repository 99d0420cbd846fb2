"""The conformance picture: marks say what the recorded counts say, and the recorded report is what README shows."""

from __future__ import annotations

from lora_lab import figures_conformance as conformance
from lora_lab.experiments import recorded


def row(implementation: str, name: str, number: int = 1, **counts) -> dict:
    counts = {"cells": 4, "passed": 4, "within": 0, "failed": 0, "refused": 0} | counts
    wrong = ["fail"] * counts["failed"] + ["pass"] * 4
    results = {
        f"Linear float32 {v}": [r, 0.0] for v, r in zip(("PiSSA", "DoRA", "rsLoRA", "plain"), wrong, strict=False)
    }
    return {"implementation": implementation, "property": name, "number": number, "results": results} | counts


REPORT = {
    "versions": {"peft": "1.2.3"},
    "rows": [
        row("lora_lab", "merging_is_exact"),
        row("peft", "merging_is_exact", passed=0, failed=4),
        row("lora_lab", "pissa_starts", 2),
        row("peft", "pissa_starts", 2, passed=3, failed=1),
        row("lora_lab", "mixed", 3),
        row("peft", "mixed", 3, passed=1, refused=3),
        row("lora_lab", "rounding", 4),
        row("peft", "rounding", 4, passed=2, within=2),
    ],
}


def test_each_property_has_a_mark_and_a_colour_of_its_state():
    figure = conformance.conformance(REPORT)
    (axes,) = figure.axes
    marks = {(int(m.get_xdata()[0]), int(m.get_ydata()[0])): m.get_marker() for m in axes.lines}
    assert marks == {(0, y): "o" for y in range(4)} | {(1, 0): "X", (1, 1): "v", (1, 2): "s", (1, 3): "o"}
    faces = {int(m.get_ydata()[0]): m.get_markerfacecolor() for m in axes.lines if m.get_xdata()[0] == 1}
    assert faces[3] == "white" != faces[0]  # within peft's own tolerance: hollow
    assert [t.get_text() for t in axes.texts] == ["0 of 4", "3 of 4, not PiSSA", "1 of 4", "2 of 4"]
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == ["merging is exact   1", "PiSSA starts   2"]
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "lora_lab \n16 of 16 cells pass",
        "peft 1.2.3\n6 of 16 cells pass",
    ]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(conformance.STATES)


def test_no_two_states_look_alike():
    looks = list(conformance.STATES.values())
    assert len(set(looks)) == len(looks)
    assert all(a[0] != b[0] or (a[2] == "white") != (b[2] == "white") for a in looks for b in looks if a != b)


def test_the_recorded_counts_are_those_of_the_recorded_cells():
    for r in recorded("conformance")["rows"]:
        results = [result for result, _ in r["results"].values()]
        counts = [results.count(n) for n in ("pass", "within peft's bar", "fail", "refuses")]
        assert counts == [r["passed"], r["within"], r["failed"], r["refused"]] and sum(counts) == r["cells"]
        assert r["implementation"] != "lora_lab" or r["passed"] == r["cells"]
