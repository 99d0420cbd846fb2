"""Parameters and bytes of LoRA, as exact arithmetic: no torch, nothing measured, every number can be redone by hand."""

from __future__ import annotations


def check_rank(rank: int) -> int:
    """Return `rank` if it is an int of at least 1; raise ValueError naming the value if not."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"rank must be a whole number such as 8, got {rank!r}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return rank


def lora_parameters(out_features: int, in_features: int, rank: int) -> int:
    """Trainable parameters of one adapter: A is [rank, in], B is [out, rank].

    >>> lora_parameters(4096, 4096, rank=8)
    65536

    Raises ValueError if rank < 1. Source: Hu et al. 2021, section 4.1.
    """
    return check_rank(rank) * (in_features + out_features)


def break_even_rank(out_features: int, in_features: int) -> int:
    """The largest rank at which an adapter is still no larger than the matrix [out, in] that it corrects.

    >>> break_even_rank(4096, 4096)
    2048
    >>> lora_parameters(4096, 4096, 2048) == 4096 * 4096
    True
    """
    return out_features * in_features // (out_features + in_features)
