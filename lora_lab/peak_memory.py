"""The most memory that a training holds at once, above where it began: measured, to hold a prediction against."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

import psutil
import torch
import torch.nn.functional as F

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
MEBIBYTE = 2**20


class PeakMemory:
    """Bytes held at the peak above a baseline, which is taken when this is made.

    On a GPU: what torch's allocator handed out (`torch.cuda.max_memory_allocated`).
    On a CPU, where torch counts nothing: this process's resident memory, read every 5 ms by a thread (the system's own
    high-water mark would remember whatever ran earlier in a notebook). glibc's malloc does not give a freed tensor
    back and, up to glibc 2.37, seldom reuses an aligned one: half as much again can be held that no tensor needs. So
    until `relax` every block above 256 KiB comes from the system and goes back to it when freed, and what an earlier
    training left free is handed back before each reading. That costs page faults, so a training is measured over its
    first steps and then relaxed; `held` is the peak with all that malloc kept, over the whole time.

    memory = PeakMemory(device)      # all code imported, no model yet
    with memory:                     # the training, which calls memory.relax() after a step or two
        ...
    memory.bytes, memory.held
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes = self.held = 0
        if device.type != "cuda":  # before the model comes: a training before this one may have left it high
            _mallopt(M_MMAP_THRESHOLD, MEBIBYTE // 4)
        _warm_up(device)
        _give_back()
        self.start = self._now()

    def __enter__(self) -> PeakMemory:
        self.relaxed = False
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        _give_back()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def relax(self) -> None:
        """Stop measuring `bytes` and let malloc keep freed blocks again, as is faster."""
        if self.device.type != "cuda" and not self.relaxed:
            self.relaxed = True
            # What glibc's own adjustment reaches once a 32 MiB block has been freed.
            _mallopt(M_MMAP_THRESHOLD, 32 * MEBIBYTE)
            _mallopt(M_TRIM_THRESHOLD, 64 * MEBIBYTE)

    def __exit__(self, *exception) -> None:
        if self.device.type == "cuda":
            self.bytes = self.held = torch.cuda.max_memory_allocated(self.device) - self.start
            return
        self._done.set()
        self._thread.join()
        self.relax()

    def _sample(self) -> None:
        trim = _libc("malloc_trim")
        while True:
            if not self.relaxed and trim is not None:  # what an earlier training left free is used again, and kept
                trim(0)
            above = self._now() - self.start
            self.held = max(self.held, above)
            if not self.relaxed:
                self.bytes = max(self.bytes, above)
            if self._done.wait(0.005):
                return

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss


def _warm_up(device: torch.device) -> None:
    """One step of a small model: torch loads code, and takes room for its products, when they are first used."""
    layer, head = (torch.nn.Linear(256, n, device=device) for n in (256, 4096))
    optimizer = torch.optim.AdamW([*layer.parameters(), *head.parameters()])
    x = F.silu(layer(torch.ones(128, 256, device=device))).view(1, 128, 8, 32).transpose(1, 2)
    x = F.scaled_dot_product_attention(x, x, x, is_causal=True).transpose(1, 2).flatten(2)
    F.cross_entropy(head(x * x.pow(2).mean(-1, keepdim=True).rsqrt())[0], torch.arange(128, device=device)).backward()
    optimizer.step()


def _give_back() -> None:
    """Hand freed memory back to the system, so that what earlier work left behind is not counted as ours."""
    gc.collect()
    if (trim := _libc("malloc_trim")) is not None:
        trim(0)


def _mallopt(name: int, value: int) -> None:
    if (mallopt := _libc("mallopt")) is not None:
        mallopt(name, value)


def _libc(name: str):
    """A function of glibc, or None where the C library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
