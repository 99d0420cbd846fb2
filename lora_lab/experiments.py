"""Recorded results: a file for each sweep, with what is needed to run it again.

`python -m lora_lab sweep NAME` (`sweeps`) makes one; a lesson reads it with `recorded(NAME)`. Reading needs only the
standard library.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab import __version__, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "assets" / "results"
HEADER = ("sweep", "about", "command", "seed", "seconds", "machine", "versions", "base_model_sha256", "settings")


def provenance(name: str, seed: int, seconds: float, options: str = "") -> dict:
    """What a result says of its making: command, machine, versions, the base model's hash; seconds of one worker."""
    from lora_lab.models import BASE

    return {
        "sweep": name,
        "command": f"python -m lora_lab sweep {name} --seed {seed}{options}",
        "seed": seed,
        "seconds": round(seconds, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        | {"lora-lab": __version__},  # a checkout may never have been installed
        "base_model_sha256": hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest(),
    }


def check(result: dict) -> None:
    """Raises ValueError unless `result` has every field of the header and rows alike, with finite numbers."""
    missing = [field for field in (*HEADER, "rows") if field not in result]
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}")
    if not result["rows"]:
        raise ValueError("the result has no rows")
    for row in result["rows"]:
        if row.keys() != result["rows"][0].keys():
            raise ValueError(f"rows differ in their fields: {sorted(row)} and {sorted(result['rows'][0])}")
        for field, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field} is {value}: a recorded number must be finite")


def write(result: dict, path: Path) -> None:
    """Check `result` and write it as JSON: the whole file or, whatever happens, none of it."""
    check(result)
    head = json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in result["rows"])  # one line each
    whole_file.write(path, f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n')


def recorded(name: str, folder: Path | None = None) -> dict:
    """The recorded result of sweep `name`. Raises FileNotFoundError that says how to make it, ValueError if broken."""
    folder = folder or FOLDER
    path = folder / f"{name}.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        have = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"no recorded result {name!r} (there are: {have}); make it with: python -m lora_lab sweep {name}"
        ) from None
    check(result)
    return result


def column(rows: list[dict], field: str) -> list:
    """One field of every row, in order."""
    return [row[field] for row in rows]


def best_rate(losses: dict[float, float | None]) -> float:
    """The rate with the lowest loss; None, a diverged run, is worse than any number."""
    return min(losses, key=lambda lr: (losses[lr] is None, losses[lr]))


def best_rows(rows: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """(task, label) -> the rows at its best learning rate (the one that every seed was run at), by seed."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["label"]), []).append(row)
    for key, group in groups.items():
        rates = [row["lr"] for row in group]
        lr = max(set(rates), key=rates.count)
        groups[key] = sorted((row for row in group if row["lr"] == lr), key=lambda row: row["seed"])
    return groups


def matrix(stored: dict) -> NDArray:
    """A matrix that a result carries as {"shape": [out, in], "float16": base 64}: [out, in], as float64."""
    import numpy as np

    flat = np.frombuffer(base64.b64decode(stored["float16"]), dtype="<f2")
    return flat.astype(np.float64).reshape(stored["shape"])
