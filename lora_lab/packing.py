"""Several whole examples in one row, so that little of a batch is padding, and none of them sees another.

An example's positions begin at 0 wherever it stands. transformers reads from positions that begin again that another
example begins, and shuts attention between them, in sliding windows too, but only where no attention mask is given and
no cache kept (`masking_utils`): so a batch has neither, and `check` tries whether a model holds to it.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_lab.task_files import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, list[int]]


def pack(rows: Sequence[Row], length: int, seed: int = 0) -> list[Row]:
    """Rows of `input_ids` and `labels` put together into rows of at most `length` tokens, with `position_ids`.

    Best fit, the longest first: each goes where it leaves the least room. Examples of one length, and the rows that
    come out, are in an order drawn from `seed`. The first token of an example is never learned: what stands before it
    in the row is another's. Raises ValueError for a row that is longer than `length`.
    """
    if longest := next((r for r in rows if len(r["input_ids"]) > length), None):
        raise ValueError(f"a row of {len(longest['input_ids'])} tokens does not fit into {length}: cut it first")
    rng = random.Random(seed)
    order = rng.sample(range(len(rows)), len(rows))
    order.sort(key=lambda i: -len(rows[i]["input_ids"]))
    packed: list[Row] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), smallest first
    for i in order:
        size = len(rows[i]["input_ids"])
        place = bisect.bisect_left(room, (size, 0))
        left, row = room.pop(place) if place < len(room) else (length, len(packed))
        if row == len(packed):
            packed.append({"input_ids": [], "labels": [], "position_ids": []})
        packed[row]["input_ids"] += rows[i]["input_ids"]
        packed[row]["labels"] += [IGNORE, *rows[i]["labels"][1:]]
        packed[row]["position_ids"] += range(size)
        if left > size:
            bisect.insort(room, (left - size, row))
    rng.shuffle(packed)
    return packed


def windows(row: Row, length: int) -> list[Row]:
    """A row cut into rows of at most `length` tokens.

    Each further one begins with the last token of the one before, read and not learned: every token that the row
    learns is learned exactly once.
    """
    starts = range(0, max(1, len(row["labels"]) - 1), length - 1)
    cut = [{key: ids[i : i + length] for key, ids in row.items()} for i in starts]
    for later in cut[1:]:
        later["labels"][0] = IGNORE
    return cut


def saved(rows: Sequence[Row], packed: Sequence[Row], length: int) -> str:
    """What packing gained, against each example in a row of its own padded to `length`.

    >>> saved([{"input_ids": [5] * 6}] * 3, [{"input_ids": [5] * 12}, {"input_ids": [5] * 6}], 12)
    'packed 3 examples into 2 rows: padding 50 % -> 25 %'
    """
    tokens = sum(len(r["input_ids"]) for r in rows)
    before, after = (1 - tokens / (length * len(some)) for some in (rows, packed))
    return f"packed {len(rows):,} examples into {len(packed):,} rows: padding {before:.0%} -> {after:.0%}".replace(
        "%", " %"
    )


def collate(rows: Sequence[Row], pad_id: int, length: int | None = None) -> dict[str, Tensor]:
    """Packed rows as one batch [rows, longest], or [rows, length]: `input_ids`, `labels`, `position_ids`.

    There is no attention mask on purpose. Padding stands behind the examples, each of it at position 0, an example by
    itself that none sees and none learns from.
    """
    import torch

    length = length or max(len(r["input_ids"]) for r in rows)
    fill = {"input_ids": pad_id, "labels": IGNORE, "position_ids": 0}
    return {key: torch.tensor([r[key] + [value] * (length - len(r[key])) for r in rows]) for key, value in fill.items()}


def count_tokens(position_ids: Tensor) -> int:
    """How many tokens of a packed batch are of examples of two tokens or more, padding left out."""
    return int((position_ids > 0).sum() + (position_ids == 1).sum())  # each example has one first and one second token


def check(model) -> None:
    """Try on twelve tokens whether this model keeps packed examples apart. Raises ValueError if it does not.

    The first example is changed: no number of the second may move. Then the second is read alone: it must come out as
    it did when packed, which it does not where positions are counted from the start of the row.
    """
    import inspect

    import torch

    from lora_lab.models import evaluating

    name = getattr(model.config, "model_type", type(model).__name__)
    wayout = "Train it without packing"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(f"{name} models take no position_ids, by which packed examples are kept apart. {wayout}")
    config = model.config.get_text_config()
    if getattr(config, "index_topk", None):  # of a row longer than that; twelve tokens would not show it
        raise ValueError(f"a {name} model chooses from the whole row what to attend to. {wayout}")
    ids = torch.arange(12, device=model.device)[None] * 7 % config.vocab_size
    positions = torch.tensor([[*range(6), *range(6)]], device=model.device)
    changed = torch.cat([ids[:, :6].flip(1), ids[:, 6:]], 1)
    with evaluating(model):
        packed, other, alone = (
            model(input_ids=i, position_ids=p, use_cache=False).logits[:, -6:].float()
            for i, p in ((ids, positions), (changed, positions), (ids[:, 6:], positions[:, 6:]))
        )
    # An expert computes its tokens together, so another example's rounding may reach this one, not more.
    step = torch.finfo(model.dtype).eps * float(alone.abs().max()) * (50 if model.dtype == torch.float32 else 2)
    if float((packed - other).abs().max()) > step:
        raise ValueError(f"in this {name} model a packed example sees the one before it in the row. {wayout}")
    if float((packed - alone).abs().max()) > 4 * step:
        raise ValueError(f"in this {name} model a packed example does not begin at its own position. {wayout}")
