"""Every cell of the conformance table: this package passes each, and peft does what was recorded of it."""

from __future__ import annotations

import functools
import importlib.metadata

import pytest

from lora_lab import experiments
from tests.conformance import recording
from tests.conformance.cells import Property, outcome
from tests.conformance.implementations import OURS, PEFT, Implementation, NotBuilt
from tests.conformance.models import Case

CELLS = list(recording.cells())


@functools.cache
def recorded() -> dict[tuple[str, str], dict]:
    rows = experiments.recorded("conformance")["rows"]
    return {(row["implementation"], row["property"]): row["results"] for row in rows}


def on_the_edge(prop: Property, case: Case, error: float | None) -> bool:
    """Whether another processor's rounding could bring an error to the other side of a bar."""
    bar = prop.bars(case)[1]
    return error is not None and bar > 0 and bar / 3 < error < bar * 3


def cell_id(value) -> str | None:
    return value.name if isinstance(value, (Implementation, Property)) else str(value).replace(" ", "-")


@pytest.mark.parametrize(("implementation", "prop", "case"), CELLS, ids=cell_id)
def test_cell(implementation, prop, case):
    found = outcome(implementation, prop, case)
    if implementation is OURS:
        assert found.result == "pass", found.said
        return
    before, error = recorded()[PEFT.name, prop.name][str(case)]
    if before in recording.HOLDS and found.result in recording.HOLDS:
        return
    if on_the_edge(prop, case, error) or on_the_edge(prop, case, found.error):
        return
    assert found.result == before, f"re-record, with {recording.COMMAND}: peft said {before!r}, now {found}"


def test_the_recording_is_of_these_cells_and_this_peft():
    result = experiments.recorded("conformance")
    assert result["command"] == recording.COMMAND and result["sweep"] == "conformance"
    assert result["versions"]["peft"] == importlib.metadata.version("peft"), f"re-record, with {recording.COMMAND}"
    names = [(p.name, p.says) for p in recording.ordered()]
    assert [(row["property"], row["says"]) for row in result["rows"][::2]] == names, "re-record"
    here = {(i.name, p.name, str(c)) for i, p, c in CELLS}
    there = {(*key, case) for key, results in recorded().items() for case in results}
    assert here <= there, "re-record"  # a processor without float16 has fewer


def test_a_property_that_does_not_hold_is_seen():
    """The table can fail: an error above the bar, an exception, a refusal and a missing operation are told apart."""

    def prop(run, **bars):
        return Property("0", "toy", "", run, *bars.get("bars", (1e-6, 1e-3)), ("Linear",), ("float32",), ("plain",))

    def breaks(error):
        def run(implementation, case):
            raise error

        return prop(run)

    ran = [prop(lambda i, c, e=e: e) for e in (0.0, 1e-4, 1.0, float("inf"))]
    assert [outcome(OURS, p, Case()).result for p in ran] == ["pass", "within peft's bar", "fail", "fail"]
    raised = [breaks(e) for e in (ValueError("no"), RuntimeError("size"), AssertionError(), NotBuilt())]
    assert [outcome(OURS, p, Case()).result for p in raised] == ["refuses", "fail", "fail", "not built"]


def test_every_number_of_the_reference_list_has_a_property():
    assert {p.number for p in recording.ordered()} == {str(n) for n in range(1, 25)}
