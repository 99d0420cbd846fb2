"""How good a language model is on given text: loss per token, per character, and share of answers exactly right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_lab import chunked_loss
from lora_lab.generate import complete, start_tokens
from lora_lab.models import evaluating
from lora_lab.task_files import IGNORE
from lora_lab.tasks import Example, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[Example],
    max_length: int = 128,
    batch_size: int = 16,
) -> float:
    """Mean of -log p over the tokens of all completions, in nats per token; prompts are read but not scored.

    Every token weighs the same, so the figure does not depend on how examples fall into batches.
    Raises ValueError where no token is left to score.
    """
    rows = [encode(example, tokenizer, max_length) for example in examples]
    total, count = nats(model, rows, tokenizer.pad_token_id, batch_size)
    if not count:
        raise ValueError(
            f"nothing to score: none of the {len(rows)} examples has a completion within {max_length} tokens"
        )
    return total / count


def nats_per_character(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 20
) -> float:
    """-log p of all texts, each predicted from the start token on, over their number of characters.

    Unlike nats per token, this compares models whose tokenizers differ.
    """
    rows = [_row(start_tokens(tokenizer), tokenizer(t, add_special_tokens=False).input_ids) for t in texts]
    return nats(model, rows, tokenizer.pad_token_id, batch_size)[0] / sum(map(len, texts))


def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], batch_size: int = 125
) -> float:
    """Share of examples whose completion the model writes letter for letter, greedily; space at the ends is ignored."""
    if not examples:
        raise ValueError("exact match of no examples is not defined")
    room = 1 + max(len(tokenizer(e.completion, add_special_tokens=False).input_ids) for e in examples)
    answers = complete(model, tokenizer, [e.prompt for e in examples], room, batch_size)
    return sum(a.strip() == e.completion.strip() for a, e in zip(answers, examples, strict=True)) / len(examples)


def collate(rows: Sequence[dict[str, list[int]]], pad_id: int) -> dict[str, Tensor]:
    """Rows of `input_ids` and `labels` as one batch, padded on the right: int64 tensors [rows, longest]."""
    return {
        "input_ids": _pad([r["input_ids"] for r in rows], pad_id),
        "labels": _pad([r["labels"] for r in rows], IGNORE),
        "attention_mask": _pad([[1] * len(r["input_ids"]) for r in rows], 0),
    }


def nats(model, rows: list[dict[str, list[int]]], pad_id: int, batch_size: int) -> tuple[float, int]:
    """Sum of -log p over the labelled tokens, and how many they are; a chunk at a time where `chunked_loss` is."""
    total, count = 0.0, 0
    with evaluating(model):
        for batch in _batches(rows, pad_id, batch_size):
            if chunked_loss.is_installed(model):
                inputs = {k: v.to(model.device) for k, v in batch.items()}
                total += model(**inputs, use_cache=False, num_items_in_batch=1).loss.item()
                count += int((batch["labels"][:, 1:] != IGNORE).sum())
                continue
            labels = batch.pop("labels")[:, 1:].to(model.device)
            logits = model(**{k: v.to(model.device) for k, v in batch.items()}, use_cache=False).logits
            wanted = labels != IGNORE
            # Only the scored positions are widened to float32: prompts and padding would double the memory for nothing.
            scored = logits[:, :-1][wanted].float()
            total += torch.nn.functional.cross_entropy(scored, labels[wanted], reduction="sum").item()
            count += int(wanted.sum())
    return total, count


def _batches(rows: list[dict[str, list[int]]], pad_id: int, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of rows of like length, so that little of them is padding."""
    rows = sorted(rows, key=lambda r: len(r["input_ids"]))
    for first in range(0, len(rows), batch_size):
        yield collate(rows[first : first + batch_size], pad_id)


def _row(start: list[int], ids: list[int]) -> dict[str, list[int]]:
    return {"input_ids": [*start, *ids], "labels": [*(IGNORE for _ in start), *ids]}


def _pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    longest = max(map(len, rows))
    filled = [[value] * (longest - len(r)) for r in rows]
    return torch.tensor([[*f, *r] if left else [*r, *f] for f, r in zip(filled, rows, strict=True)])
