"""Conversations as tokens, through the tokenizer's own chat template: what is read, and what is learned.

Learned is what the model itself must write: every answer of the assistant and the token that ends it. The template's
words, the system's and the user's are read only. A prompt is rendered as it is when the model is used, and the answer
is tokenized apart, so that training and use agree token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_lab.task_files import Turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For a tokenizer that has no template: words that any model reads, and its end token behind each answer.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}\n"
    "{% else %}{{ m.role | capitalize }}: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PROBE = "Probe7"  # stands for an answer, to see what the template writes around it
IGNORE = -100


def describe(tokenizer: PreTrainedTokenizerBase) -> str:
    """How conversations are written for this tokenizer, in a sentence for people."""
    if tokenizer.chat_template is None:
        return (
            "conversations: this tokenizer has no chat template, so they are written plainly, 'User: ...', "
            "'Assistant: ...'"
        )
    return "conversations: in the tokenizer's own chat template"


def prompt_ids(turns: Turns, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the model is given before it answers: all turns, and the template's opening of an answer.

    A special token that a turn spells out, such as "<|im_end|>", is read as text.
    Raises ValueError, with the template's own reason, for turns that the template refuses.
    """
    return _apply(turns, tokenizer, add_generation_prompt=True, tokenize=True)


def encode(turns: Turns, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """`input_ids` and `labels` [length] of a conversation whose last turn is the assistant's.

    A label is the token itself in every answer and its end, elsewhere -100. An earlier answer is learned where the
    template leaves it as it was written; one that the template rewrites afterwards (some drop the thinking of earlier
    turns) is read only, because at the time of answering the model wrote something else. The last is always learned.
    Raises ValueError where the template refuses the turns, or does not continue its own opening of an answer.
    """
    input_ids = prompt_ids(turns[:-1], tokenizer)
    labels = [IGNORE] * len(input_ids)
    for i, (role, _) in enumerate(turns[:-1]):
        if role == "assistant":
            before, answer = prompt_ids(turns[:i], tokenizer), answer_ids(turns[: i + 1], tokenizer)
            first, end = len(before), len(before) + len(answer)
            if input_ids[:end] == before + answer:
                labels[first:end] = answer
    answer = answer_ids(turns, tokenizer)
    return {"input_ids": input_ids + answer, "labels": labels + answer}


def answer_ids(turns: Turns, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the last turn, which is the assistant's, and the one that ends it."""
    given, tail = _written(turns, tokenizer), _tail(tokenizer)
    opening = _apply(turns[:-1], tokenizer, add_generation_prompt=True, tokenize=False)
    if not given.startswith(opening) or not given.endswith(tail):
        raise ValueError(
            f"the chat template opens an answer with {opening[-40:]!r}, but writes it down otherwise: "
            f"{given[-60:]!r}. What is trained on would not be what the model is asked for; use another template"
        )
    end = end_id(tokenizer)
    return _plain_ids(given[len(opening) : len(given) - len(tail)], tokenizer) + ([] if end is None else [end])


def end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer: the first special one that the template writes behind it, or the end token."""
    ids = tokenizer(_tail(tokenizer), add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in tokenizer.added_tokens_decoder), tokenizer.eos_token_id)


def _written(turns: Turns, tokenizer) -> str:
    return _apply(turns, tokenizer, add_generation_prompt=False, tokenize=False)


def _tail(tokenizer) -> str:
    """What the template writes behind an answer."""
    return _written((("user", "Hello"), ("assistant", PROBE)), tokenizer).rpartition(PROBE)[2]


def _plain_ids(text: str, tokenizer) -> list[int]:
    """Text in the middle of a text, without the space that SentencePiece puts before its first word."""
    ids = tokenizer("\n" + text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if ids[: len(newline)] == newline:
        return ids[len(newline) :]
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _apply(turns: Turns, tokenizer, tokenize: bool, add_generation_prompt: bool):
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages(turns),
            chat_template=PLAIN if tokenizer.chat_template is None else None,
            add_generation_prompt=add_generation_prompt,
            tokenize=tokenize,
            return_dict=False,
            sanitize_control_tokens=tokenize,
            enable_thinking=False,  # a template that knows it opens the answer behind an empty thought
        )
    except TemplateError as error:
        roles = ", ".join(role for role, _ in turns)
        hint = ""
        if "system" in str(error).lower() and turns[0][0] == "system":
            hint = ". Put the system's text at the head of the first user turn"
        raise ValueError(f"the tokenizer's chat template refuses the turns {roles}: {error}{hint}") from None


def messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns in the form that templates read."""
    return [{"role": role, "content": content} for role, content in turns]
