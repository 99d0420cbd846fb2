"""The learner's own file as examples: plain text cut at paragraphs, or JSON lines of prompt and completion.

What cannot be learned from is refused here, before a model is loaded, with the line and the way forward.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

LEAST_CHARACTERS = 2_000  # of a .txt file: fewer would leave next to nothing to validate on
LEAST_EXAMPLES = 10  # of a .jsonl file
MOST_BYTES = 50_000_000
MOST_LINE = 20_000  # characters; a longer line is most likely not prose
MOST_EXAMPLE = 4_000  # characters of prompt and completion
PASSAGE = 450  # characters of a passage, about 100 tokens of plain English


@dataclass(frozen=True)
class Example:
    """One thing to learn: `completion`, given `prompt` ("" for plain text)."""

    prompt: str
    completion: str


def read_text(path: Path) -> tuple[Example, ...]:
    """Passages of up to about 450 characters, cut at paragraphs; a longer paragraph is cut at its sentences.

    Raises FileNotFoundError, or ValueError where the file is empty, short (under 2,000 characters), binary, not
    UTF-8, too large, or has a line of over 20,000 characters.
    """
    text = _decoded(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MOST_LINE:
            raise ValueError(
                f"{path.name}, line {number} has {len(line):,} characters; expected at most {MOST_LINE:,}. "
                "Break it into paragraphs with a blank line between them"
            )
    passages: list[str] = []
    for paragraph in re.split(r"\n[^\S\n]*\n", text):
        for piece in _pieces(paragraph.strip("\n")):
            # Short paragraphs share a passage: lines of dialogue, list items, verses.
            if passages and len(passages[-1]) + len(piece) + 2 <= PASSAGE:
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


def _pieces(paragraph: str) -> list[str]:
    """A paragraph, or where it is too long its sentences (then words) gathered up to the size of a passage."""
    if len(paragraph) <= PASSAGE:
        return [paragraph] if paragraph.strip() else []
    pieces = [""]
    for sentence in re.findall(r"\S.*?(?:[.!?][\"')\]]*(?=\s)|\n|\Z)\s*", paragraph, flags=re.DOTALL):
        parts = [sentence] if len(sentence) <= PASSAGE else re.findall(r"\s*\S{1,400}", sentence)
        for part in parts:
            if pieces[-1] and len(pieces[-1]) + len(part) > PASSAGE:
                pieces.append("")
            pieces[-1] += part
    return [p.strip() for p in pieces if p.strip()]


def read_jsonl(path: Path) -> tuple[Example, ...]:
    """One example a line, `{"prompt": "...", "completion": "..."}`; blank lines are passed over.

    Raises FileNotFoundError, or ValueError with the line's number where a line is not such an object, a completion
    is empty or an example is over 4,000 characters, and where there are fewer than 10 different examples.
    """
    examples = [
        _example(line, f"{path.name}, line {number}")
        for number, line in enumerate(_decoded(path).split("\n"), start=1)
        if line.strip()
    ]
    different = tuple(dict.fromkeys(examples))  # a repeated example must not be in both splits
    if len(different) < LEAST_EXAMPLES:
        raise ValueError(f"{path.name} has {len(different)} different examples; expected at least {LEAST_EXAMPLES}")
    return different


def _example(line: str, where: str) -> Example:
    wanted = '{"prompt": "...", "completion": "..."}'
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg} at character {error.pos + 1}); expected {wanted}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a JSON {type(row).__name__}; expected {wanted}")
    for key in ("prompt", "completion"):
        if key not in row:
            near = difflib.get_close_matches(key, row, n=1)
            hint = f" Did you mean {key!r} where it says {near[0]!r}?" if near else ""
            raise ValueError(f"{where} has no {key!r} (keys: {', '.join(row) or 'none'}); expected {wanted}.{hint}")
        if not isinstance(row[key], str):
            raise ValueError(f"{where}: {key!r} is {row[key]!r:.60}; expected a text in quotes")
    if not row["completion"].strip():
        raise ValueError(f"{where} has an empty completion; expected the text to learn")
    length = len(row["prompt"]) + len(row["completion"])
    if length > MOST_EXAMPLE:
        raise ValueError(
            f"{where} has {length:,} characters; expected at most {MOST_EXAMPLE:,}. Split it into several examples"
        )
    return Example(row["prompt"], row["completion"])


def _decoded(path: Path) -> str:
    """The file's text with plain newlines, or an error that says what the file is instead."""
    if path.suffix.lower() not in (".txt", ".jsonl"):
        hint = " A file with one JSON object a line is called .jsonl." if path.suffix.lower() == ".json" else ""
        raise ValueError(f"{path.name} ends in {path.suffix!r}; expected a .txt or .jsonl file.{hint}")
    if not path.exists():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(f"there is no file {path}.{hint}")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; expected a .txt or .jsonl file")
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
    return None if control or 0 in raw else "Windows-1252 (Latin-1)"
