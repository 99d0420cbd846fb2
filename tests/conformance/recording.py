"""All cells, run and written down: `lora_lab/assets/results/conformance.json`, for a figure and the tests."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator

import torch

from lora_lab import experiments
from tests.conformance import configurations, files, one_adapter, several_adapters  # noqa: F401 - they enter PROPERTIES
from tests.conformance.cells import PROPERTIES, Outcome, Property, outcome
from tests.conformance.implementations import BOTH, Implementation
from tests.conformance.models import Case

COMMAND = "python -m tests.conformance --record"
HOLDS = ("pass", "within peft's bar")


def by_number(prop: Property) -> int:
    return int(prop.number)


def ordered() -> list[Property]:
    """The properties by their number in the reference list."""
    return sorted(PROPERTIES.values(), key=by_number)


def cells() -> Iterator[tuple[Implementation, Property, Case]]:
    """Every cell on this machine."""
    for prop in ordered():
        for implementation in BOTH:
            for case in prop.cases():
                yield implementation, prop, case


def run_all() -> dict:
    """Run every cell; the result in the form of a recorded sweep, one row for each property and implementation."""
    torch.set_num_threads(1)
    start, rows = time.monotonic(), []
    for prop in ordered():
        for implementation in BOTH:
            found = {str(case): outcome(implementation, prop, case) for case in prop.cases()}
            rows.append(row(prop, implementation, found))
    result = experiments.provenance("conformance", 0, time.monotonic() - start) | {
        "command": COMMAND,
        "about": "properties that any LoRA implementation should hold, for this package and for peft",
        "date": time.strftime("%Y-%m-%d"),
        "settings": {"threads": 1, "results": [*HOLDS, "fail", "refuses", "not built"]},
        "rows": rows,
    }
    result["versions"]["peft"] = importlib.metadata.version("peft")
    return result


def row(prop: Property, implementation: Implementation, found: dict[str, Outcome]) -> dict:
    """One row: counts, the largest error, what was said first, and every cell's result."""
    results = [o.result for o in found.values()]
    errors = [o.error for o in found.values() if o.error is not None and o.result in HOLDS]
    return {
        "number": int(prop.number),
        "property": prop.name,
        "says": prop.says,
        "implementation": implementation.name,
        "bar": prop.bar,
        "pefts_bar": prop.theirs,
        "cells": len(found),
        "passed": results.count("pass"),
        "within": results.count("within peft's bar"),
        "failed": results.count("fail"),
        "refused": results.count("refuses"),
        "largest_error": float(f"{max(errors, default=0.0):.2g}"),
        "said": next((o.said[:160] for o in found.values() if o.result == "fail"), ""),
        "results": {case: [o.result, brief(o.error)] for case, o in found.items()},
    }


def brief(error: float | None) -> float | None:
    """Two digits; None for an error that is not finite."""
    return None if error is None or error == float("inf") else float(f"{error:.2g}")


def table(rows: list[dict]) -> str:
    """Who passes what, as text."""
    lines = [f"{'':>3} {'property':<54}{'lora_lab':>11}{'peft':>11}  peft: first failure"]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        said = theirs["said"] or (f"{theirs['within']} within its own bar only" if theirs["within"] else "")
        said = said or (f"refuses {theirs['refused']}" if theirs["refused"] else "")
        lines.append(
            f"{ours['number']:>3} {ours['property']:<54}{ours['passed']:>5} /{ours['cells']:>4}"
            f"{theirs['passed']:>5} /{theirs['cells']:>4}  {said[:70]}"
        )
    for name, found in (("lora_lab", rows[::2]), ("peft", rows[1::2])):
        total = {k: sum(r[k] for r in found) for k in ("cells", "passed", "within", "failed", "refused")}
        lines.append(
            f"{name}: {total['passed']} of {total['cells']} cells pass, {total['within']} within peft's own bar only, "
            f"{total['failed']} fail, {total['refused']} refused; "
            f"{sum(r['failed'] == 0 and r['passed'] > 0 for r in found)} of {len(found)} properties without a failure"
        )
    return "\n".join(lines)
