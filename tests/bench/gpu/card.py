"""What is asked of the device: who it is, its memory, a clock that waits for it. A CPU answers with None."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch

from lora_lab.hardware import cards

# A part of the name that the driver gives -> a row of the course's table of cards. The longest that fits counts.
NAMES = {
    "H100 80GB HBM3": "H100 SXM",
    "H200": "H200",
    "B200": "B200",
    "A100-SXM4-80GB": "A100 80 GB",
    "A100-SXM4-40GB": "A100 40 GB",
    "L40S": "L40S",
    "L4": "L4",
    "A10": "A10",
    "T4": "T4",
    "RTX 3090": "RTX 3090",
    "RTX 4090": "RTX 4090",
    "RTX 5090": "RTX 5090",
}


def name(device: torch.device) -> str:
    """The card's name as its driver says it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_flops(called: str) -> float | None:
    """Dense 16-bit operations a second from the data sheet in `cards`, or None for a card that is not there."""
    fitting = [part for part in NAMES if f" {part} " in f" {called} "]
    return cards.card(NAMES[max(fitting, key=len)]).flops if fitting else None


def total_memory(device: torch.device) -> int | None:
    """Bytes of the card, as its driver counts them."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held(device: torch.device) -> int:
    """Bytes that tensors take right now; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def clean(device: torch.device) -> None:
    """Give back what nobody refers to, and begin to count the peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes that torch's allocator had handed out at most since `clean`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def did_not_fit(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: torch's own, a library's, or what torch says where NVML is closed."""
    said = str(error).lower()
    closed = "nvml" in said and "cachingallocator" in said
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "alloc_failed" in said or closed


def times(call: Callable[[], object], device: torch.device, count: int, least: float = 1e-3) -> list[float]:
    """Seconds of one `call`, measured `count` times after two that warm up; short ones in groups of `least` seconds."""
    for _ in range(2):
        call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    group = max(1, min(1000, round(least / max(1e-9, time.perf_counter() - start))))
    found = []
    for _ in range(count):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(group):
                call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3 / group)
        else:
            start = time.perf_counter()
            for _ in range(group):
                call()
            found.append((time.perf_counter() - start) / group)
    return found


def summary(seconds: list[float]) -> dict:
    """Median, quartiles and count, as a row has them."""
    if len(seconds) < 2:
        return {"seconds": seconds[0] if seconds else None, "quartiles": None, "count": len(seconds)}
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"seconds": median, "quartiles": [low, high], "count": len(seconds)}
