"""The learner's own file as examples: plain text cut at paragraphs, JSON rows of prompt and completion, or of
conversations, as OpenAI's, ShareGPT's and Alpaca's files have them too.

What cannot be learned from is refused here, before a model is loaded, with the line and the way forward.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IGNORE = -100  # a label that no loss counts: the prompt's and the padding's, as torch has it
LEAST_CHARACTERS = 2_000  # of a .txt file: fewer would leave next to nothing to validate on
LEAST_EXAMPLES = 10  # of a .jsonl file
MOST_BYTES = 50_000_000
MOST_WORD = 20_000  # ASCII characters without a space; a longer run is encoded data, not prose
MOST_EXAMPLE = 200_000  # characters of one example: about 50,000 tokens of English
PASSAGE = 450  # characters of a passage, about 100 tokens of plain English
ROLES = ("system", "user", "assistant")
# What other formats call them.
OTHER_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
OTHER_NAMES = {
    "prompt": ("question", "instruction", "input", "query"),
    "completion": ("answer", "output", "response", "chosen", "target"),
    "role": ("from",),
    "content": ("value", "text"),
}
BESIDE = ("system", "tools", "functions")  # what the model sees of a conversation besides its turns
SUFFIXES = (".txt", ".jsonl", ".json")

Turns = tuple[tuple[str, str], ...]  # (role, content) of each, in order


@dataclass(frozen=True)
class Conversation:
    """A prompt of several turns, the last of them the one to answer. Tokens are made of it by `chat`."""

    turns: Turns

    def __str__(self) -> str:
        return "\n".join(f"{role.capitalize()}: {content}" for role, content in self.turns)


@dataclass(frozen=True)
class Example:
    """One thing to learn: `completion`, given `prompt` ("" for plain text).

    Where the prompt is a conversation, the assistant's earlier answers in it are learned too, but for a greeting that
    stands first.
    """

    prompt: str | Conversation
    completion: str


def read_text(path: Path, passage: int = PASSAGE) -> tuple[Example, ...]:
    """Passages of up to `passage` characters, cut at paragraphs; a longer paragraph is cut at its sentences.

    A short file is cut into shorter passages, down to 450 characters, so that ten of them remain to learn from.
    Raises FileNotFoundError, or ValueError where the file is empty, short (under 2,000 characters), binary, not
    UTF-8, too large, or has over 20,000 characters without a space.
    """
    text = _decoded(path)
    for number, line in enumerate(text.split("\n"), start=1):
        longest = max(map(len, re.findall("[!-~]+", line)), default=0) if len(line) > MOST_WORD else 0
        if longest > MOST_WORD:
            raise ValueError(
                f"{path.name}, line {number} has {longest:,} characters without a space; expected at most "
                f"{MOST_WORD:,}. This is encoded data rather than text: take it out"
            )
    passage = max(PASSAGE, min(passage, len(text) // LEAST_EXAMPLES))
    passages: list[str] = []
    for paragraph in re.split(r"\n[^\S\n]*\n", text):
        for piece in _pieces(paragraph.strip("\n"), passage):
            # Short paragraphs share a passage: lines of dialogue, list items, verses.
            if passages and len(passages[-1]) + len(piece) + 2 <= passage:
                passages[-1] += "\n\n" + piece
            else:
                passages.append(piece)
    examples = tuple(dict.fromkeys(Example("", p) for p in passages))  # a repeated passage must not be in both splits
    characters = sum(len(e.completion) for e in examples)
    if characters < LEAST_CHARACTERS:
        raise ValueError(
            f"{path.name} has {characters:,} characters of different text; expected at least {LEAST_CHARACTERS:,} "
            "(about a page). Add more text"
        )
    return examples


def _pieces(paragraph: str, passage: int) -> list[str]:
    """A paragraph, or where it is too long its sentences (then words) gathered up to the size of a passage."""
    if len(paragraph) <= passage:
        return [paragraph] if paragraph.strip() else []
    pieces = [""]
    for sentence in re.findall(
        r"\S.*?(?:[.!?][\"')\]]*(?=\s)|[\u3002\uff01\uff1f]|\n|\Z)\s*", paragraph, flags=re.DOTALL
    ):
        parts = [sentence] if len(sentence) <= passage else re.findall(r"\s*\S{1,400}", sentence)
        for part in parts:
            if pieces[-1] and len(pieces[-1]) + len(part) > passage:
                pieces.append("")
            pieces[-1] += part
    return [p.strip() for p in pieces if p.strip()]


def read_jsonl(path: Path) -> tuple[Example, ...]:
    """One example a line (blank lines are passed over), or a JSON list of them. All are of one kind:

    `{"prompt": "...", "completion": "..."}`, or a conversation whose last turn is the assistant's,
    `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`, which may also be
    written as ShareGPT does (`conversations` of `from` and `value`) or Alpaca (`instruction`, `input`, `output`).

    Raises FileNotFoundError, or ValueError with the row's number where a row is not such an object, a text to learn
    is empty or an example is over 200,000 characters, and where there are fewer than 10 different examples.
    """
    examples: list[Example] = []
    for where, row in _rows(path):
        examples.append(_example(row, where))
        kinds = ["a conversation" if isinstance(e.prompt, Conversation) else PAIR for e in examples[-2:]]
        if len(set(kinds)) > 1:
            raise ValueError(f"{where} is {kinds[1]}, the one before {kinds[0]}; expected one kind in one file")
    different = tuple(dict.fromkeys(examples))  # a repeated example must not be in both splits
    if len(different) < LEAST_EXAMPLES:
        raise ValueError(f"{path.name} has {len(different)} different examples; expected at least {LEAST_EXAMPLES}")
    return different


PAIR = '{"prompt": "...", "completion": "..."}'
MESSAGES = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    """Where each row stands, in words, and what it is."""
    text = _decoded(path)
    if text.lstrip().startswith("["):
        rows = _parsed(
            text, f"{path.name} begins as a JSON list and is none", f"a list of {PAIR}, or one of them a line"
        )
        yield from ((f"{path.name}, row {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path.name}, line {number}"
        if line.strip():
            whole = f"{PAIR}, each whole on a line of its own with nothing behind it, or a list of them in [ ]"
            yield where, _parsed(line, f"{where} is not JSON", whole)


def _parsed(text: str, failing: str, expected: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        why = f"{error.msg} at {line}character {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        why = str(error).partition(";")[0]
    raise ValueError(f"{failing} ({why}); expected {expected}")


def _example(row: object, where: str) -> Example:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a JSON {type(row).__name__}; expected {PAIR} or {MESSAGES}")
    row = _in_our_words(row)
    example = _conversation(row, where) if "messages" in row else _pair(row, where)
    turns = example.prompt.turns if isinstance(example.prompt, Conversation) else (("", example.prompt),)
    whole = "".join(content for _, content in turns) + example.completion
    if len(whole) > MOST_EXAMPLE:
        raise ValueError(
            f"{where} has {len(whole):,} characters; expected at most {MOST_EXAMPLE:,}. Split it into several examples"
        )
    if half := re.search("[\ud800-\udfff]", whole):
        raise ValueError(
            f"{where} has {ascii(half.group())}, half of a character (an emoji that was cut in two): take it out"
        )
    return example


def _in_our_words(row: dict) -> dict:
    """A row of ShareGPT or Alpaca as the conversation that it is; another as it stands."""
    beside = {key: row[key] for key in BESIDE if key in row}
    if isinstance(turns := row.get("conversations"), list) and not {"messages", "prompt"} & set(row):
        return beside | {"messages": [_turn_in_our_words(turn) for turn in turns]}
    if {"instruction", "output"} <= set(row) and not any(row.get(key) for key in ("messages", "history")):
        asked, more = row["instruction"], row.get("input") or ""
        if not isinstance(more, str):
            asked = more  # refused as a content further on
        elif isinstance(asked, str) and more.strip():
            asked = f"{asked}\n\n{more}"
        return beside | {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        }
    return row


def _turn_in_our_words(turn: object) -> object:
    if not isinstance(turn, dict) or not {"from", "value"} <= set(turn):
        return turn
    turn = {{"from": "role", "value": "content"}.get(key, key): value for key, value in turn.items()}
    return turn | {"role": OTHER_ROLES.get(str(turn["role"]).lower(), turn["role"])}


def _near(key: str, given: dict) -> str:
    """ " Did you mean ...?" where a key of `given` is a misspelt or another format's name for `key`, or ""."""
    near = difflib.get_close_matches(key, given, n=1) or [name for name in OTHER_NAMES.get(key, ()) if name in given]
    return f" Did you mean {key!r} where it says {near[0]!r}?" if near else ""


def _pair(row: dict, where: str) -> Example:
    for key in ("prompt", "completion"):
        if key not in row:
            hint = _near(key, row) or _near("messages", row)
            if not hint and "text" in row:
                hint = ' Plain text goes into a .txt file, or is a completion beside the prompt "".'
            lists = [k for k, v in row.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
            if not hint and lists:
                turns = {"role", "from"} & set(row[lists[0]][0])
                way = "is the conversation, call it 'messages'" if turns else "holds the rows, save that list alone"
                hint = f" If {lists[0]!r} {way}."
            raise ValueError(
                f"{where} has no {key!r} (keys: {', '.join(row) or 'none'}); expected {PAIR} or {MESSAGES}.{hint}"
            )
        if not isinstance(row[key], str):
            hint = f". A conversation is written {MESSAGES}" if isinstance(row[key], list) else ""
            raise ValueError(f"{where}: {key!r} is {row[key]!r:.60}; expected a text in quotes{hint}")
    if not row["completion"].strip():
        raise ValueError(f"{where} has an empty completion; expected the text to learn")
    return Example(row["prompt"], row["completion"])


def _conversation(row: dict, where: str) -> Example:
    messages = row["messages"]
    if tools := [key for key in BESIDE[1:] if row.get(key) not in (None, [], "", "[]")]:
        raise ValueError(f"{where} has {tools[0]!r}, which the model would have to see: {TEXT_ALONE}")
    if both := {"prompt", "completion"} & set(row):
        raise ValueError(f"{where} has 'messages' and {sorted(both)[0]!r}; expected one kind: {PAIR} or {MESSAGES}")
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{where}: 'messages' is {messages!r:.60}; expected a list of turns, {MESSAGES}")
    turns = tuple(_turn(message, f"{where}, message {i}") for i, message in enumerate(messages, start=1))
    if str(row.get("system") or "").strip():
        turns = (_turn({"role": "system", "content": row["system"]}, f"{where}, 'system'"), *turns)
    roles = [role for role, _ in turns]
    if "system" in roles[1:]:
        raise ValueError(f"{where}, message {roles.index('system', 1) + 1} is the system's; expected it first")
    if "assistant" not in roles:
        raise ValueError(f"{where} has no turn of the assistant: there is nothing to learn. Add an answer")
    if roles[-1] != "assistant":
        raise ValueError(f"{where} ends with a turn of the {roles[-1]}; expected the assistant's answer as the last")
    if "user" not in roles:
        raise ValueError(f"{where} has no turn of the user; expected one before the answer")
    return Example(Conversation(turns[:-1]), turns[-1][1])


TEXT_ALONE = "only text is learned here. Leave such conversations out"


def _turn(message: object, where: str) -> tuple[str, str]:
    wanted = '{"role": "user", "content": "..."}'
    if not isinstance(message, dict):
        raise ValueError(f"{where} is a JSON {type(message).__name__}; expected {wanted}")
    if message.get("weight") not in (None, 1):
        raise ValueError(
            f"{where} has the weight {message['weight']!r}, and every answer is learned here: end the conversation "
            "before it, or leave 'weight' out"
        )
    read = {"role", "content", "weight", *OTHER_NAMES["role"], *OTHER_NAMES["content"]}
    if more := sorted(key for key in message if key not in read and message[key] is not None):
        raise ValueError(f"{where} has {more[0]!r} too; expected {wanted} and no more: {TEXT_ALONE}, or that key")
    for key in ("role", "content"):
        if key not in message:
            keys = ", ".join(message) or "none"
            raise ValueError(f"{where} has no {key!r} (keys: {keys}); expected {wanted}.{_near(key, message)}")
    role, content = message["role"], message["content"]
    if isinstance(content, list):
        content = _parts(content, where)
    for key, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key!r} is {value!r:.60}; expected a text in quotes")
    if role not in ROLES:
        near = difflib.get_close_matches(role.lower(), ROLES, n=1) or [OTHER_ROLES.get(role.lower())]
        hint = f" Did you mean {near[0]!r}?" if near[0] else ""
        if re.search("tool|function|observation", role.lower()):
            hint = " Calls of tools are not learned here: leave such conversations out"
        raise ValueError(f"{where} has the role {role!r}; expected one of {', '.join(ROLES)}.{hint}")
    if not content.strip():
        raise ValueError(f"{where}, the {role}'s, is empty; expected a text, or leave this turn out")
    return role, content


def _parts(content: list, where: str) -> str:
    """The text of a content in parts, `[{"type": "text", "text": "..."}]`."""
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"{where}: 'content' has a part that is no text ({kind!r:.60}): {TEXT_ALONE}")
    return "".join(part["text"] for part in content)


def _decoded(path: Path) -> str:
    """The file's text with plain newlines, or an error that says what the file is instead."""
    if path.suffix.lower() not in SUFFIXES:
        hint = "" if path.exists() else ". A data set of the hub is not fetched here: save it as .jsonl first"
        raise ValueError(f"{path.name} ends in {path.suffix!r}; expected a .txt, .jsonl or .json file{hint}")
    if not path.exists():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(f"there is no file {path}.{hint}")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; expected a .txt, .jsonl or .json file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{path.name} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}. Train on a part of it"
        )
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = _guess_encoding(raw)
        if guess is None:
            raise ValueError(f"{path.name} is a binary file; expected text in UTF-8") from None
        raise ValueError(
            f"{path.name} is not UTF-8 (byte {raw[error.start]:#04x} at {error.start:,}); it looks like {guess}. "
            "Save it as UTF-8"
        ) from None
    if "\0" in text:
        guess = _guess_encoding(raw)
        what = f"looks like {guess}, not UTF-8" if guess else "has NUL bytes, so it is a binary file"
        raise ValueError(f"{path.name} {what}; expected text in UTF-8")
    if not text.strip():
        raise ValueError(f"{path.name} is empty; expected text to learn from")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess_encoding(raw: bytes) -> str | None:
    """What undecodable bytes probably are; None for a binary file."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    if (
        len(raw) >= 4
        and raw.count(0, 0, 2000) > 0.4 * len(raw[:2000])
        and not (any(raw[:2000:2]) and any(raw[1:2000:2]))
    ):
        return "UTF-16"  # Latin letters in UTF-16: every other byte is zero
    control = sum(b < 32 and b not in b"\t\n\r\f" for b in raw[:2000])
    if control or 0 in raw:
        return None
    foreign = sum(b > 127 for b in raw[:2000]) > 0.3 * len(raw[:2000])  # other scripts than the Latin
    return "an older encoding, such as GBK, Shift-JIS or Windows-1251" if foreign else "Windows-1252 (Latin-1)"
