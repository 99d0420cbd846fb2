"""Writing a file in one step: who reads it finds the old text or the new one, never half of one; and room for it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write `text` in UTF-8, its folder made where there is none. Raises OSError, and leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def free(place: Path) -> int:
    """Bytes free on the disk where `place` is, or will be."""
    return shutil.disk_usage(next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())).free


def check_room(place: Path, needed: int, what: str) -> None:
    """Raise the system's own "disk full" error if `needed` bytes for `what` will not fit at `place`."""
    if (left := free(place)) < needed:
        why = f"{needed / 1e6:,.0f} MB are needed for {what}, {left / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, why, str(place))
