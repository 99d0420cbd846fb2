"""From a card's peak to tokens, hours and money: predictions, which rest on one assumption, the MFU; it is an input."""

from __future__ import annotations

from lora_lab.counting import ALL_LINEAR, Targets
from lora_lab.flops import step
from lora_lab.hardware.cards import Card
from lora_lab.memory import memory
from lora_lab.shapes import Shape

# What a fine-tune makes of a card's peak: model FLOPs utilisation (Chowdhery et al. 2022, section 4.1). An assumption,
# to be replaced by what you measured. Trainings that are tuned with care report 0.4 to 0.55; with checkpointing, whose
# work is not counted, the least times of `roofline` allow 0.31 (L4, 4-bit base) to 0.5 (A100) of a fused 7B.
MFU = 0.3


def tokens_per_second(
    shape: Shape,
    card: Card,
    method: str = "lora",
    mfu: float = MFU,
    length: int = 2048,
    rank: int = 16,
    targets: Targets = ALL_LINEAR,
) -> float:
    """Tokens that a card trains on in a second, if it does `mfu` of its peak in the method's own FLOPs.

    method: "full", "lora" or "qlora" (which counts as LoRA: unpacking computes nothing that is counted). Raises
    ValueError for an `mfu` that is not above 0 and at most 1.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is a share of the card's peak, above 0 and at most 1; got {mfu!r}")
    how = {"how": "full"} if method == "full" else {"how": "lora", "rank": rank, "targets": targets}
    return mfu * card.flops * length / step(shape, length, **how)


def per_million(price_per_hour: float, tokens_per_second: float) -> float:
    """Money for a million tokens, in the price's own currency.

    >>> per_million(price_per_hour=3.60, tokens_per_second=10_000)
    0.1

    Raises ValueError unless both are numbers above 0 (a price may be 0).
    """
    if not (price_per_hour >= 0 and tokens_per_second > 0):
        raise ValueError(
            f"a price of at least 0 and a speed above 0 are needed, got {price_per_hour}, {tokens_per_second}"
        )
    return price_per_hour / (tokens_per_second * 3600) * 1e6


def need(
    shape: Shape,
    method: str,
    length: int = 2048,
    rows: int = 1,
    rank: int = 16,
    targets: Targets = ALL_LINEAR,
    checkpointing: bool = True,
) -> int:
    """Bytes at the peak of a step (`memory.memory`), all buckets together."""
    return sum(memory(shape, method, rows, length, rank, targets, checkpointing=checkpointing).values())


def all_reduce(gradient_bytes: float, devices: int, bandwidth: float) -> float:
    """Least seconds in which `devices` sum their gradients over links of `bandwidth` bytes a second each way.

    In a ring each sends its share 2 (devices - 1) times, a `devices`-th of the bytes each (Patarasuk and Yuan 2009).

    >>> all_reduce(8e9, devices=2, bandwidth=1e9)
    8.0
    """
    return 2 * (devices - 1) / devices * gradient_bytes / bandwidth
