"""What a learner has tried and solved, in one small file that they can see, move and delete.

The file is `lora_lab_progress.json` in the folder of the notebook, or where LORA_LAB_PROGRESS says. It holds names of
exercises, dates and counts, nothing else, and is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any

from lora_lab import whole_file

NAME, VARIABLE = "lora_lab_progress.json", "LORA_LAB_PROGRESS"


def path() -> Path:
    """Where the file is, or will be."""
    return Path(os.environ.get(VARIABLE) or NAME).absolute()


def load(file: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name -> {"tries": n, "first": date, "solved": date or None}; empty where there is no file yet.

    A file that holds something else is set aside under another name, so that it neither stops the learner nor is
    lost. Raises OSError for one that may not be read: it is not ours to move.
    """
    file = path() if file is None else Path(file)
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["done"]
        for name, entry in entries.items():
            if not isinstance(name, str) or not isinstance(entry["tries"], int) or "solved" not in entry:
                raise ValueError(name)
        return entries
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        aside = file.with_name(file.name + ".damaged")
        with contextlib.suppress(OSError):
            os.replace(file, aside)
        print(f"{file.name} could not be read and is now called {aside.name}; a new one begins.")
        return {}


def record(name: str, solved: bool, file: Path | None = None) -> None:
    """Add one try at `name`. Says so, and goes on, where the file cannot be read or written."""
    file = path() if file is None else Path(file)
    today = datetime.date.today().isoformat()
    try:
        done = load(file)
        entry = done.setdefault(name, {"tries": 0, "first": today, "solved": None})
        if entry["solved"] is None:  # tries after the solution are play
            entry["tries"] += 1
            entry["solved"] = today if solved else None
        whole_file.write(file, json.dumps({"format": 1, "done": done}, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        print(f"(Your progress was not kept: {file.name} cannot be read or written: {error.strerror}.)")
