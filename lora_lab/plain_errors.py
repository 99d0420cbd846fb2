"""A command's failures as one sentence with a way forward and an exit status, never a traceback."""

from __future__ import annotations

import errno
import importlib.util
import io
import sys
import traceback
from collections.abc import Callable

INTERRUPTED = 130  # the status that shells give a program stopped by ^C


def plainly(run: Callable[[], int | None]) -> int:
    """Call `run`; returns its status, or prints what went wrong to stderr and returns one above 0."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # redirected on Windows, it lacks most of the world's characters
            stream.reconfigure(errors="replace")
    try:
        return run() or 0
    except KeyboardInterrupt as error:
        print(f"stopped. {error}".strip(), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = say(error)
        if sentence is None:  # a bug of ours: the traceback is what helps
            traceback.print_exc()
            return 70
        print(f"error: {sentence}", file=sys.stderr)
        return 1


def say(error: BaseException) -> str | None:
    """`error` as a sentence for people, or None if it is not of a kind that they can do something about."""
    if is_disk_full(error):
        advice = getattr(
            error, "advice", "Free some space, then run the command again (a fine-tune goes on with --resume)"
        )
        return f"the disk is full: {_first_line(error)}. {advice}"
    if is_out_of_memory(error):
        return (
            "out of memory. Use a smaller --batch-size (with --accumulate, the training stays the same), a smaller "
            "--max-length, or --checkpointing"
        )
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package != "lora_lab" and importlib.util.find_spec(package) is None:
            return f"this needs the package {package}, which is not installed here: pip install {package}"
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return _first_line(error)
    return None


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space. torch.save says so only in words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU, in Python, or in torch's CPU allocator (a plain RuntimeError)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or "not enough memory" in str(error)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
