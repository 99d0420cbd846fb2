"""A property, a cell (one property for one implementation and case), and what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from tests.conformance.implementations import Implementation, NotBuilt
from tests.conformance.models import DTYPES, KINDS, VARIANTS, WHOLE, Case, torch_can_run

Run = Callable[[Implementation, Case], float]
Bar = float | dict[str, float]

REFUSED = (ValueError, NotImplementedError)  # an error of the implementation's own, not torch's or Python's


@dataclass(frozen=True)
class Property:
    """What should hold. `run` raises AssertionError or returns the largest error, which may be `bar` at most.

    number: its row in our reference list. bar: for all dtypes, or by dtype. theirs: what peft's own tests allow.
    Both implementations are held to `bar`; an error above it that peft's own tests allow is "within peft's bar".
    """

    number: str
    name: str
    says: str
    run: Run
    bar: Bar
    theirs: Bar
    kinds: tuple[str, ...]
    dtypes: tuple[str, ...]
    variants: tuple[str, ...]

    def cases(self) -> list[Case]:
        """Every case this property is tried on, on this machine. PiSSA starts from the matrix of a linear layer."""
        every = [Case(k, d, v) for k in self.kinds for d in self.dtypes for v in self.variants]
        every = [c for c in every if c.dtype == "float32" or c.kind not in WHOLE]
        if len(self.variants) > 1:
            every = [c for c in every if c.variant != "PiSSA" or c.kind not in ("Embedding", "Conv2d")]
        return [c for c in every if torch_can_run(c)]

    def bars(self, case: Case) -> tuple[float, float]:
        """(bar, peft's own bar) for a case."""
        bar, theirs = (b[case.dtype] if isinstance(b, dict) else b for b in (self.bar, self.theirs))
        return bar, max(bar, theirs)


EVERYTHING = (*KINDS, *WHOLE)
PROPERTIES: dict[str, Property] = {}


def holds(
    number: str,
    says: str,
    bar: Bar = 0.0,
    theirs: Bar = 0.0,
    kinds: tuple[str, ...] = KINDS,
    dtypes: tuple[str, ...] = DTYPES,
    variants: tuple[str, ...] = tuple(VARIANTS),
) -> Callable[[Run], Run]:
    """Enter the decorated function into PROPERTIES, by its name."""

    def enter(run: Run) -> Run:
        name = run.__name__
        assert name not in PROPERTIES, name
        PROPERTIES[name] = Property(number, name, says, run, bar, theirs, kinds, dtypes, variants)
        return run

    return enter


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. result: "pass", "within peft's bar", "fail", "refuses" or "not built"."""

    result: str
    error: float | None = None
    said: str = ""


def outcome(implementation: Implementation, prop: Property, case: Case) -> Outcome:
    """Run one cell. What an implementation refuses by an error of its own is no silent mistake, and is kept apart."""
    bar, theirs = prop.bars(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = float(prop.run(implementation, case))
    except NotBuilt:
        return Outcome("not built")
    except REFUSED as refused:
        return Outcome("refuses", said=f"{type(refused).__name__}: {refused}")
    except Exception as wrong:  # noqa: BLE001 - whatever it is, the property does not hold
        return Outcome("fail", said=f"{type(wrong).__name__}: {wrong}")
    if error <= bar:
        return Outcome("pass", error)
    said = f"largest error {error:.2g}, allowed {bar:g}"
    return Outcome("within peft's bar" if error <= theirs else "fail", error, said)
