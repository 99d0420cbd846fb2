"""Runnable proofs: functions that compute the number, or show the effect, behind a sentence about LoRA.

Each takes its inputs as keyword arguments with defaults and returns a flat dict; a bool in it is a statement, true at
the defaults. The question bank and the claims ledger name them:

    proofs.run("count_one_matrix", rank=16)
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

from lora_lab.config import did_you_mean

Result = dict[str, int | float | str | bool]


@functools.cache
def _all() -> dict[str, Callable[..., Result]]:
    found: dict[str, Callable[..., Result]] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for name, function in vars(loaded).items():
            if inspect.isfunction(function) and function.__module__ == loaded.__name__ and not name.startswith("_"):
                if name in found:
                    raise ValueError(f"two proofs are called {name!r}: in {found[name].__module__} and {module.name}")
                found[name] = function
    return found


def names() -> list[str]:
    """Names of all proofs, in alphabetical order."""
    return sorted(_all())


def find(name: str) -> Callable[..., Result]:
    """The proof of that name. Raises ValueError, with the nearest name, for one that is not there."""
    if name not in _all():
        raise ValueError(f"no proof {name!r}.{did_you_mean(name, _all())}")
    return _all()[name]


def run(name: str, **inputs: object) -> Result:
    """The proof's result at its defaults, or with `inputs` changed."""
    return find(name)(**inputs)


def said(value: object) -> str:
    """One value of a result (or an input) as people read it: 16,777,216; 0.390625; True."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
