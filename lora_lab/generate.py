"""Text from a model and, if given, an adapter turned up or down: the library function and the command.

python -m lora_lab generate --model base --adapter DIR --alpha-scale 0.5 "Once upon"
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_lab import chat, models
from lora_lab.task_files import Conversation
from lora_lab.tasks import check_vocabulary, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Conversation,
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """The prompt and what the model writes after it, up to its end token or `max_new_tokens`; of a conversation the
    answer alone.

    At temperature 0 the likeliest token is taken each time; above it tokens are drawn from softmax(logits /
    temperature), the same for the same seed. Torch's own random state is left as it was.
    """
    written = complete(model, tokenizer, [prompt], max_new_tokens, temperature=temperature, seed=seed)[0]
    return written.strip() if isinstance(prompt, Conversation) else prompt + written


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Conversation],
    max_new_tokens: int = 60,
    batch_size: int = 125,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What the model writes after each prompt, prompts left out; many prompts at once.

    Rows are padded on the left, so that all of them end where the next token goes, and a batch stops when its last
    row has ended. Prompts of like length share a batch.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (the likeliest token) or a number above, got {temperature}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    rows = [prompt_ids(p, tokenizer) or start_tokens(tokenizer) for p in prompts]
    if not all(rows):
        raise ValueError("the prompt is empty, and this tokenizer has no start token: give at least one word")
    check_vocabulary(rows, model)
    longest, context = max(map(len, rows), default=0), models.context_length(model)
    if context and longest + max_new_tokens > context:
        raise ValueError(
            f"the prompt has {longest} tokens and {max_new_tokens} more were asked for, but the model takes {context} "
            "in all: shorten one of them"
        )
    # Given one by one, so that a hub model's own taste (top_p, penalties) does not change what temperature means.
    sampling = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ends = {tokenizer.eos_token_id}
    if any(isinstance(p, Conversation) for p in prompts):
        ends.add(chat.end_id(tokenizer))  # a template may end a turn otherwise than a text
    ends = [end for end in ends if end is not None]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    answers = [""] * len(rows)
    devices = [model.device] if model.device.type == "cuda" else []
    with models.evaluating(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            width = max(len(rows[i]) for i in chosen)
            out = model.generate(
                **_left_padded([rows[i] for i in chosen], tokenizer.pad_token_id, model.device),
                max_length=width + max_new_tokens,
                repetition_penalty=1.0,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=ends or None,
                **sampling,
            )
            texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
    return answers


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a text begins with, as a list: the start token, or the end token for a model that has no start."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if start is None else [start]


def _left_padded(rows: list[list[int]], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    fill = [longest - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([[pad_id] * n + row for n, row in zip(fill, rows, strict=True)], device=device),
        "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in fill], device=device),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help='the beginning of the text, such as "Once upon"')
    parser.add_argument(
        "--chat", action="store_true", help="the prompt is a question: ask it in the tokenizer's chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: what the system says first")
    parser.add_argument("--model", default="base", help="base, a folder, or a hub name (default: base)")
    parser.add_argument(
        "--revision", metavar="R", help="the commit, tag or branch of a hub model (default: its newest)"
    )
    parser.add_argument("--adapter", metavar="DIR", help="a folder in the PEFT format, as finetune writes it")
    parser.add_argument(
        "--alpha-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="the dial: 0 is the base model, 1 the adapter as trained (default), above 1 more of it",
    )
    parser.add_argument("--max-new-tokens", type=int, default=80, metavar="N", help="stop after N tokens (default: 80)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token each time (default); 0.7 or so varies",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="repeats a draw (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def main(args: argparse.Namespace) -> int:
    if args.adapter is None and args.alpha_scale != 1.0:
        raise ValueError(f"--alpha-scale {args.alpha_scale:g} turns an adapter up or down: name one with --adapter DIR")
    if args.system is not None and not args.chat:
        raise ValueError("--system is the first turn of a conversation: give --chat too")
    if half := re.search("[\ud800-\udfff]", f"{args.prompt}{args.system}"):
        raise ValueError(f"the prompt has {ascii(half.group())}, half of a character: is this terminal's text UTF-8?")
    model, tokenizer = models.load(args.model, args.device, args.adapter, args.revision)
    if args.adapter is not None:
        from lora_lab.adapters import set_scale

        set_scale(model, args.alpha_scale)
    prompt = args.prompt
    if args.chat:
        said_first = () if args.system is None else (("system", args.system),)
        prompt = Conversation((*said_first, ("user", args.prompt)))
    print(generate(model, tokenizer, prompt, args.max_new_tokens, args.temperature, args.seed))
    return 0
