"""The most memory that a piece of work held at once, above where it began: measured, to hold a prediction against."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

import psutil
import torch


class PeakMemory:
    """Bytes held at the peak above a baseline.

    On a GPU it is what torch's allocator handed out (`torch.cuda.max_memory_allocated`). On a CPU it is this process's
    resident memory, read every 5 ms by a thread: torch counts nothing there, and the system's own high-water mark
    would still remember whatever ran earlier in a notebook.

    baseline = PeakMemory(device)        before the model is loaded, all code imported
    with baseline.watching(): ...        the training
    baseline.bytes                       the peak inside all `with` blocks above the baseline
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes = 0
        give_back_freed_memory()
        self.start = self._now()

    def __enter__(self) -> PeakMemory:
        give_back_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == "cuda":
            self.bytes = max(self.bytes, torch.cuda.max_memory_allocated(self.device) - self.start)
            return
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss - self.start)
            if self._done.wait(0.005):
                return

    def _now(self) -> int:
        return (
            torch.cuda.memory_allocated(self.device)
            if self.device.type == "cuda"
            else psutil.Process().memory_info().rss
        )


def give_back_freed_memory() -> None:
    """Hand freed memory back to the system, so that what earlier work left behind is not counted as ours.

    glibc keeps freed blocks for later; only there does this do more than collect garbage.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
