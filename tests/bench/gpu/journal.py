"""The file a run writes as it goes, a line of JSON for each event: what was killed half-way loses one row.

Lines: {"kind": "run", ...} once for each process, {"kind": "start", "id": ...} before a row and the row after it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

FILE = "rows.jsonl"
TRIES = 2  # a row that failed so often, or took the process with it, is not tried again


class Journal:
    """Appends to `folder`/rows.jsonl, and knows what this file and those in the folders `earlier` hold."""

    def __init__(self, folder: Path | None, earlier: Sequence[Path] = ()) -> None:
        """`folder` None: only to look at what there is."""
        self.path = folder / FILE if folder else None
        self.lines = [line for other in (*earlier, folder) if other for line in read(other)]

    def add(self, kind: str, **fields) -> None:
        """Write a line, and have the system write it to the disk, before returning."""
        line = finite({"kind": kind, **fields})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():  # a line that was cut off must not swallow this one
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def done(self) -> set[str]:
        """Ids with a final answer: measured, found not to fit, or failed so often that it is one."""
        final = {name for name, row in newest(self.lines).items() if row["status"] in ("ok", "did not fit")}
        return final | {name for name, count in self._tries().items() if count >= TRIES}

    def tried(self) -> set[str]:
        """Ids that went wrong once or more."""
        return set(self._tries())

    def _tries(self) -> Counter:
        tries = lost(self.lines)
        tries.update(line["id"] for line in self.lines if line["kind"] == "row" and line["status"] == "failed")
        return tries


def newest(lines: Sequence[dict]) -> dict[str, dict]:
    """The last row of each id."""
    return {line["id"]: line for line in lines if line["kind"] == "row"}


def lost(lines: Sequence[dict]) -> Counter:
    """How often each row was begun and never ended: it took the process with it, or the process was killed."""
    begun = Counter(line["id"] for line in lines if line["kind"] == "start")
    begun.subtract(line["id"] for line in lines if line["kind"] == "row")
    return +begun


def read(folder: Path) -> list[dict]:
    """The whole lines of a journal; what a kill cut off is left out. [] where there is none."""
    path = folder / FILE
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "kind" in line:
                lines.append(line)
    return lines


def finite(value):
    """`value` with None for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def now() -> str:
    """This moment, with its time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
