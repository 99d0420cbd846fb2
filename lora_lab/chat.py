"""Conversations as tokens, through the tokenizer's own chat template: what is read, and what is learned.

Learned is what the model itself must write behind the template's opening of an answer: the answer and the token that
ends it. The template's words, the system's and the user's are read only. A prompt is rendered as it is when the model
is used, and the answer is tokenized apart, so that training and use agree token for token.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_lab.task_files import IGNORE, Turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For a tokenizer that has no template: words that any model reads, and its end token behind each answer.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}\n"
    "{% else %}{{ m.role | capitalize }}: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
WITHOUT_IT = {  # what to do where a template refuses the first turn
    "system": ". Put the system's text at the head of the first user turn",
    "assistant": ". Leave out the greeting that nobody asked for",
}
PROBE = "Probe7"  # stands for an answer, to see what the template writes around it


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

    A label is the token itself in every answer and its end, elsewhere -100. An earlier answer that the template
    rewrites afterwards (some drop the thinking of earlier turns) is read only, because at the time of answering the
    model wrote something else: `rows` gives it a row of its own. The last answer is always learned.
    Raises ValueError where the template refuses the turns, or does not continue its own opening of an answer.
    """
    return _encode(turns, tokenizer)[0]


def rows(turns: Turns, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list[int]]]:
    """`encode`, and before it a row for each earlier answer that is read only there: every answer is learned once."""
    whole, rewritten = _encode(turns, tokenizer)
    return [*(_only_last(turns[: i + 1], tokenizer) for i in rewritten), whole]


def end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer: the first special one that the template writes behind it, or the end token."""
    return _end(_around(tokenizer)[1], tokenizer)[1]


def messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns in the form that templates read."""
    return [{"role": role, "content": content} for role, content in turns]


def _encode(turns: Turns, tokenizer) -> tuple[dict[str, list[int]], list[int]]:
    """The row, and which earlier answers are read only in it, by their place among the turns."""
    input_ids = prompt_ids(turns[:-1], tokenizer)
    labels, rewritten = [IGNORE] * len(input_ids), []
    # Before a greeting that stands first there is nothing that a model could be given: it is read only.
    for i in (i for i, (role, _) in enumerate(turns[:-1]) if role == "assistant" and i):
        content, end = _answer(turns[: i + 1], tokenizer)
        first = _find(content, prompt_ids(turns[:i], tokenizer), input_ids, tokenizer)
        if first is None:
            rewritten.append(i)
            continue
        answer = content + end
        if input_ids[first : first + len(answer)] != answer:  # some templates end the last answer only
            answer = content
        labels[first : first + len(answer)] = answer
    content, end = _answer(turns, tokenizer)
    return {"input_ids": input_ids + content + end, "labels": labels + content + end}, rewritten


def _only_last(turns: Turns, tokenizer) -> dict[str, list[int]]:
    given, (content, end) = prompt_ids(turns[:-1], tokenizer), _answer(turns, tokenizer)
    return {"input_ids": given + content + end, "labels": [IGNORE] * len(given) + content + end}


def _find(content: list[int], given: list[int], input_ids: list[int], tokenizer) -> int | None:
    """Where in `input_ids` the content stands that followed the prompt `given`, or None if it was rewritten.

    Blanks at the end of a prompt may be tokenized otherwise once text stands behind them: their text must agree.
    """
    same = next((n for n, (a, b) in enumerate(zip(given, input_ids, strict=False)) if a != b), len(given))
    blanks = tokenizer.decode(given[same:])
    for first in range(same, same + 1 + len(blanks)):
        if input_ids[first : first + len(content)] == content and tokenizer.decode(input_ids[same:first]) == blanks:
            return first
    return None


def _answer(turns: Turns, tokenizer) -> tuple[list[int], list[int]]:
    """The tokens of the last turn, which is the assistant's, and the one that ends it."""
    opening = _apply(turns[:-1], tokenizer, add_generation_prompt=True, tokenize=False)
    written = _apply(turns, tokenizer, add_generation_prompt=False, tokenize=False)
    lead, tail = _around(tokenizer)
    if not written.startswith(opening) or not written.endswith(tail):
        raise ValueError(
            f"the chat template opens an answer with {opening[-40:]!r}, but writes it down otherwise: "
            f"{written[-60:]!r}. What is trained on would not be what the model is asked for: use another template"
        )
    before_end, end = _end(tail, tokenizer)
    text, ids = written[len(opening) : len(written) - len(tail)] + before_end, []
    if lead.strip() and text.startswith(lead):  # as Qwen3's empty thought: the model writes it, token by token
        text, ids = text.removeprefix(lead), _inner_ids(lead, tokenizer, as_text=False)
    return ids + _inner_ids(text, tokenizer, as_text=True), [] if end is None else [end]


def _around(tokenizer) -> tuple[str, str]:
    """What the template writes between its opening of an answer and the answer, and behind the answer."""
    asked = (("user", "Hello"),)
    opening = _apply(asked, tokenizer, add_generation_prompt=True, tokenize=False)
    written = _apply((*asked, ("assistant", PROBE)), tokenizer, add_generation_prompt=False, tokenize=False)
    lead, found, tail = written.removeprefix(opening).rpartition(PROBE)
    if not found:
        raise ValueError(
            f"the tokenizer's chat template does not write down what was answered: of 'Hello' and {PROBE!r} it makes "
            f"{written[:60]!r}. Use another template"
        )
    return lead, tail


def _end(tail: str, tokenizer) -> tuple[str, int | None]:
    """What stands between an answer and its end token, and that token."""
    for i in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        token = tokenizer.added_tokens_decoder.get(i)
        if token and not token.content.isspace():  # Gemma's newlines are added tokens too
            return tail.partition(token.content)[0], i
    return "", tokenizer.eos_token_id


def _inner_ids(text: str, tokenizer, as_text: bool) -> list[int]:
    """Text in the middle of a text, without the space that SentencePiece puts before its first word.

    `as_text`: what spells a special token is text.
    """
    how = {"add_special_tokens": False, "split_special_tokens": as_text, "verbose": False}
    ids, newline = tokenizer("\n" + text, **how)["input_ids"], tokenizer("\n", **how)["input_ids"]
    return ids[len(newline) :] if ids[: len(newline)] == newline else tokenizer(text, **how)["input_ids"]


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
            tokenizer_kwargs={"verbose": False},  # a text longer than the model takes is cut later
        )
    except (TemplateError, TypeError, AttributeError, LookupError, ArithmeticError) as error:  # a template is code
        roles, hint = [role for role, _ in turns], ""
        if any(role == following for role, following in itertools.pairwise(roles)):
            hint = ". Join turns of one role that follow each other"
        if roles[0] in WITHOUT_IT:
            with contextlib.suppress(ValueError):
                if roles[0] not in str(error).lower():  # does it take the others?
                    _apply(turns[1:], tokenizer, False, add_generation_prompt)
                hint = WITHOUT_IT[roles[0]]
        raise ValueError(
            f"the tokenizer's chat template refuses the turns {', '.join(roles)} (the last is {turns[-1][1]!r:.50}): "
            f"{str(error).rstrip('.')}{hint}"
        ) from None
