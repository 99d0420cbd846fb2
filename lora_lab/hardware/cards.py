"""Cards as three numbers from their makers' data sheets: memory, its speed, and the speed of 16-bit matrix products."""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent.parent / "assets" / "cards.json"


@dataclass(frozen=True)
class Card:
    """memory: bytes; bandwidth: bytes a second from and to it; flops: operations a second of dense 16-bit matrix
    products that are added up in float32. bfloat16: it computes in that type, else in float16. source: the data sheet;
    halved: the sheet states twice as much, for matrices of which half is zero in a set pattern ("with sparsity").
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    bfloat16: bool = True
    source: str = ""
    halved: bool = False

    @property
    def ridge(self) -> float:
        """Operations for each byte moved, from which on the card computes as fast as it can (Williams et al. 2009)."""
        return self.flops / self.bandwidth


@functools.cache
def every() -> dict[str, Card]:
    """All cards of the table by name, those with least memory first."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: Card(
            name,
            1e9 * row["gigabytes"],
            1e9 * row["gigabytes_per_second"],
            1e12 * row["sheet_tflops"] / (2 if row["sparse"] else 1),
            row.get("bfloat16", True),
            row["source"],
            row["sparse"],
        )
        for name, row in rows.items()
    }


def card(name: str) -> Card:
    """The card of that name. Raises ValueError with the nearest name for one that is not in the table.

    >>> h100 = card("H100 SXM")
    >>> h100.flops / 1e12, round(h100.ridge)
    (989.5, 295)
    """
    if name not in every():
        near = difflib.get_close_matches(name, every(), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no card {name!r} in the table.{hint} There are {', '.join(every())}.")
    return every()[name]
