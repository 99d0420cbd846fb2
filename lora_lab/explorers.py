"""The explorers' front door: `explorers.svd()` in a notebook's cell, and so on for each, and `explorers.compare`.

    results      rank, alpha, learning rate and targets over recorded training runs
    calculator   any known model on any card: parameters, memory, does it fit
    svd          how much of a matrix its r largest singular values hold
    diagram      the flow of LoRA, its shapes and counts
    alpha_dial   turn a trained adapter's scale and read what it writes: recorded
    live_dial    the same, written live, and two adapters mixed
    training     a student trained anew at each move
    hardware     a card, a model, a method, a price: fit, speed and money, predicted

Each takes the values that its controls start at, and `lock`, with which a teacher limits, fixes or hides controls:
`lock={"rank": (1, 16), "alpha": 16, "lr": None}`. Each is loaded when it is first asked for: the live ones need torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from lora_lab.explorer import compare

MODULES = {
    "results": "explore_results",
    "calculator": "explore_calculator",
    "svd": "explore_svd",
    "diagram": "explore_diagram",
    "alpha_dial": "explore_dial",
    "live_dial": "explore_live_dial",
    "training": "explore_training",
    "hardware": "explore_hardware",
}
__all__ = ["compare", *MODULES]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"no explorer {name!r}: there are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"lora_lab.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
