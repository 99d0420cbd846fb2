"""What to fine-tune on: a voice, a domain, an instruction, or the learner's own file.

Every task is examples of prompt and completion; only the completion is learned. Plain text has an empty prompt.
The texts of `pirate` and of the base stories were written by hand for this course; `code` is read from the running
Python; `query` is made from a grammar (`lora_lab.query_language`). Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import importlib.machinery
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_lab import chat
from lora_lab.query_language import make_items
from lora_lab.task_files import LEAST_EXAMPLES, PASSAGE, Conversation, Example, read_jsonl, read_text

ASSETS = Path(__file__).parent / "assets" / "tasks"

TASKS: dict[str, str] = {
    "pirate": "a style shift: plain small stories told by an old pirate, 300 passages written for this course",
    "code": "a domain shift: Python source, read from this interpreter's own standard library",
    "query": "an instruction: questions in English to a small query language, scored by exact match",
}


@dataclass(frozen=True)
class Task:
    """Examples in three splits, none of which share an example, except that `test` may be `validation` itself.

    `prompts` are three openings for before-and-after samples. `exact_match` says whether a completion has one right
    answer. `style_score` maps a text to marker words per 100 words, or is None.
    """

    name: str
    summary: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    prompts: tuple[str | Conversation, ...]
    exact_match: bool = False
    style_score: Callable[[str], float] | None = None


def load_task(name_or_file: str | Path, seed: int = 0, max_length: int = 128) -> Task:
    """The task of that name, or one made from the learner's own .txt or .jsonl file.

    `seed` draws the items of `query`; the other tasks are the same for every seed. `max_length` sizes the passages of
    a .txt file: 450 characters for 128 tokens, and as many more as there is room for.
    Raises ValueError for an unknown name (with the nearest ones) and for a file that cannot be learned from, each with
    its reason, and FileNotFoundError for a missing file.
    """
    text = str(name_or_file)
    if not isinstance(name_or_file, Path) and text in TASKS:
        return {"pirate": _pirate, "code": _code, "query": lambda: _query(seed)}[text]()
    path = Path(text)
    if isinstance(name_or_file, Path) or path.suffix or len(path.parts) > 1 or path.is_file():
        return _own_file(path, max_length)
    near = difflib.get_close_matches(text.lower(), TASKS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"no task is called {text!r}; expected one of {', '.join(TASKS)}, or the name of a .txt or .jsonl file.{hint}"
    )


def base_stories() -> tuple[str, ...]:
    """Plain children's stories, 60 to 110 words each: the base model's own domain.

    The loss on them before and after a fine-tune measures forgetting. No task trains on them.
    """
    return _paragraphs("base_stories.txt")


def prompt_ids(prompt: str | Conversation, tokenizer) -> list[int]:
    """The start token, if the tokenizer has one, and the prompt's tokens: what a model is given before it writes.

    A conversation comes in the tokenizer's chat template, up to its opening of an answer.
    """
    if isinstance(prompt, Conversation):
        return chat.prompt_ids(prompt.turns, tokenizer)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + _ids(prompt, tokenizer)


def encode(example: Example, tokenizer, max_length: int) -> dict[str, list[int]]:
    """Start token, prompt, completion, end token, cut to `max_length` tokens.

    Returns `input_ids` and `labels`, both [length]. A label is -100 (not learned) on the start token and the prompt,
    elsewhere the token itself: the model shifts labels by one, so it is asked to predict exactly the completion and
    the end. Prompt and completion are tokenized apart, because that is how the prompt comes when the model is used.
    A start or end token that the tokenizer lacks is left out. Of a conversation every answer is learned (`chat`).
    Raises ValueError if no token of the completion is left within `max_length`.
    """
    return _cut(example, _whole(example, tokenizer), max_length)


def windows(example: Example, tokenizer, max_length: int) -> list[dict[str, list[int]]]:
    """`encode`, but a text without a prompt that is too long is cut into rows instead of losing its end.

    Each further row begins with the last token of the row before, read and not learned: every token of the text is
    learned exactly once.
    """
    return _windows(example, _whole(example, tokenizer), max_length)


@dataclass(frozen=True)
class Encoded:
    """A task as rows of tokens: what is left of it within `max_length`, and in `notes` what was cut, as sentences."""

    task: Task
    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    notes: tuple[str, ...]


def encode_task(task: Task, tokenizer, max_length: int, cut_into_windows: bool = False) -> Encoded:
    """Every training and validation example encoded; those whose prompt alone fills `max_length` are left out.

    Warns of what is left out, with the first of them. Raises ValueError where that leaves fewer than 10 examples to
    learn from, or none to validate or test on.
    """
    train, whole = _fitting(task.train, tokenizer, max_length, "to learn from", LEAST_EXAMPLES)
    validation, held_out = _fitting(task.validation, tokenizer, max_length, "to validate on", 1)
    test = validation
    if task.test is not task.validation:
        test = _fitting(task.test, tokenizer, max_length, "to test on", 1)[0]
    cut = _windows if cut_into_windows else (lambda *given: [_cut(*given)])
    pieces = [cut(example, row, max_length) for example, row in zip(train, whole, strict=True)]
    fitted = replace(task, train=train, validation=validation, test=test)
    if task.name not in TASKS:
        fitted = replace(fitted, prompts=_short_prompts(fitted, tokenizer, max_length))
    return Encoded(
        fitted,
        train=[row for rows in pieces for row in rows],
        validation=[_cut(example, row, max_length) for example, row in zip(validation, held_out, strict=True)],
        notes=tuple(_notes(fitted, tokenizer, whole, pieces, max_length)),
    )


def _fitting(examples: Sequence[Example], tokenizer, max_length: int, purpose: str, least: int):
    """The examples with something to learn within `max_length`, and the whole of their tokens."""
    rows = [_whole(example, tokenizer) for example in examples]
    fits = [_unlearned(row) < min(max_length, len(row["labels"])) for row in rows]
    kept = tuple(e for e, fit in zip(examples, fits, strict=True) if fit)
    if len(kept) < len(rows):
        first = fits.index(False)
        said = (
            f"{len(rows) - len(kept):,} of {len(rows):,} examples {purpose} have prompts that leave no room to learn "
            f"within max_length {max_length}; the first is {_short(str(examples[first].prompt))!r} with "
            f"{_unlearned(rows[first]):,} tokens"
        )
        if len(kept) < least:
            raise ValueError(f"{said}. {len(kept)} are left, expected at least {least}: make max_length larger")
        warnings.warn(f"{said}: they are left out", stacklevel=3)
    return kept, [row for row, fit in zip(rows, fits, strict=True) if fit]


def _notes(task: Task, tokenizer, whole: list, pieces: list, max_length: int) -> list[str]:
    notes = [chat.describe(tokenizer)] if any(isinstance(e.prompt, Conversation) for e in task.train) else []
    lengths = [len(row["labels"]) for row in whole]
    lost = [n - max_length for n, rows in zip(lengths, pieces, strict=True) if len(rows) == 1 and n > max_length]
    if lost:
        notes.append(
            f"{len(lost):,} of {len(whole):,} examples are longer than {max_length} tokens: {sum(lost):,} of "
            f"{sum(lengths):,} tokens ({sum(lost) / sum(lengths):.1%}) are cut off"
        )
    if long := [rows for rows in pieces if len(rows) > 1]:
        notes.append(
            f"{len(long):,} texts longer than {max_length} tokens are cut into {sum(map(len, long)):,} windows"
        )
    return notes


def _short_prompts(task: Task, tokenizer, max_length: int) -> tuple[str | Conversation, ...]:
    """Openings for samples that leave half of `max_length` to write in, where there are such; else the shortest."""
    openings = _openings((*task.validation, *task.train)[:200])
    lengths = {p: len(prompt_ids(p, tokenizer)) for p in openings}
    fitting = [p for p in openings if lengths[p] <= max_length // 2]
    return tuple(fitting[:3] if len(fitting) >= 3 else sorted(openings, key=lengths.get)[:3])


def _openings(examples: Sequence[Example]) -> list[str | Conversation]:
    return [e.prompt or " ".join(e.completion.split()[:6]) for e in examples]


def _whole(example: Example, tokenizer) -> dict[str, list[int]]:
    if isinstance(example.prompt, Conversation):
        return chat.encode((*example.prompt.turns, ("assistant", example.completion)), tokenizer)
    prompt = prompt_ids(example.prompt, tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    learned = _ids(example.completion, tokenizer) + end
    return {"input_ids": prompt + learned, "labels": [-100] * len(prompt) + learned}


def _cut(example: Example, row: dict[str, list[int]], max_length: int) -> dict[str, list[int]]:
    if (unread := _unlearned(row)) >= min(max_length, len(row["labels"])):
        raise ValueError(
            f"max_length {max_length} leaves no room to learn: the prompt {_short(str(example.prompt))!r} alone has "
            f"{unread} tokens. Expected at least {unread + 1}; make max_length larger or the prompt shorter"
        )
    return {key: ids[:max_length] for key, ids in row.items()}


def _windows(example: Example, row: dict[str, list[int]], max_length: int) -> list[dict[str, list[int]]]:
    if example.prompt:
        return [_cut(example, row, max_length)]
    starts = range(0, max(1, len(row["labels"]) - 1), max_length - 1)
    rows = [{key: ids[i : i + max_length] for key, ids in row.items()} for i in starts]
    for later in rows[1:]:
        later["labels"][0] = -100
    return rows


def _unlearned(row: dict[str, list[int]]) -> int:
    """Tokens before the first one that is learned."""
    return next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))


def _ids(text: str, tokenizer) -> list[int]:
    # Text that happens to spell "<|endoftext|>" is text, not the end.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _short(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _paragraphs(name: str) -> tuple[str, ...]:
    text = (ASSETS / name).read_text(encoding="utf-8")
    return tuple(p.strip() for p in text.split("\n\n") if p.strip())


# pirate: a style shift

# Words that the voice uses and a plain story does not. "me", "be" and "were" are left out: plain stories have them too.
_MARKERS = re.compile(
    r"(?<![\w'])(?:"
    r"an'|o'|th'|ol'|lil'|'em|'er|'im|'imself|'erself|'tis|'twas|'twere|a-\w+in|[a-z]{2,}in'"
    r"|ye|yer|yerself|fer|afore|nay|aye|arr+|ahoy|avast|naught|nary|meself"
    r"|mate(?:y|ys|ies)|lads|hearties|shipmates?|scurvy|bosun|galley|cap'n|shanty|landlubbers?"
    r"|shiver me timbers|blow me down|by me beard|by the black flag"
    r")(?![\w])",
    re.IGNORECASE,
)


def pirate_score(text: str) -> float:
    """Marker words of the pirate's voice per 100 words of `text`; 0 for a text without words."""
    text = text.replace("\u2019", "'")
    words = len(text.split())
    return 100 * len(_MARKERS.findall(text)) / words if words else 0.0


def _pirate() -> Task:
    passages = tuple(Example("", p) for p in _paragraphs("pirate.txt"))
    held_out = passages[4::5]
    return Task(
        "pirate",
        TASKS["pirate"],
        train=tuple(p for i, p in enumerate(passages) if i % 5 != 4),
        validation=held_out,
        test=held_out,
        prompts=(
            "Once upon a time, there was a little cat",
            "One day, a boy named Tom found a box",
            "The old woman looked out of the window",
        ),
        style_score=pirate_score,
    )


# code: a domain shift

# Plain .py files of the standard library from Python 3.11 on; a module that this Python lacks is skipped.
CODE_TRAIN = """argparse ast base64 bdb bisect calendar cmd code codecs colorsys compileall configparser contextlib copy
copyreg csv dataclasses difflib dis doctest enum filecmp fileinput fnmatch fractions ftplib functools getopt getpass
gettext glob graphlib gzip hashlib heapq hmac imaplib inspect io ipaddress linecache locale mailbox mimetypes netrc
numbers opcode operator optparse os pdb pickle pkgutil platform plistlib poplib posixpath pprint profile pstats
py_compile pyclbr queue quopri random reprlib""".split()
CODE_VALIDATION = "runpy sched selectors shelve shlex shutil statistics string tempfile textwrap timeit".split()
CODE_CHARACTERS = (200, 450)  # a chunk of whole lines: about 128 to 256 tokens
MOST_CHUNKS_PER_MODULE = 40  # so that one large module does not fill the set


def _code() -> Task:
    train = _code_chunks(CODE_TRAIN)
    seen = set(train)  # licence headers and the like stand in several modules
    validation = tuple(e for e in _code_chunks(CODE_VALIDATION) if e not in seen)
    if len(train) < 500 or len(validation) < 50:
        raise ValueError(
            f"the source of Python's standard library was not found (looked in {sysconfig.get_paths()['stdlib']}; "
            f"{len(train) + len(validation)} pieces of code, expected at least 550). Some Pythons are shipped without "
            "it. Use the task 'pirate' or 'query', or give a .txt file of your own code"
        )
    return Task("code", TASKS["code"], train, validation, validation, prompts=("def ", "class ", "import os\n\n"))


def _code_chunks(modules: list[str]) -> tuple[Example, ...]:
    chunks: dict[Example, None] = {}
    for module in modules:
        source = _library_source(module)
        pieces = cut_lines(source, *CODE_CHARACTERS) if source else []
        chunks |= dict.fromkeys(Example("", p) for p in pieces[:MOST_CHUNKS_PER_MODULE])
    return tuple(chunks)


def _library_source(module: str) -> str | None:
    """The module's source text, or None. Looked up in the library only: a learner's own random.py is not meant."""
    places = [sysconfig.get_paths()["stdlib"], *(p for p in sys.path if p.endswith(".zip"))]
    spec = importlib.machinery.PathFinder.find_spec(module, places)
    try:
        return spec.loader.get_source(module) if spec and spec.loader else None
    except (AttributeError, ImportError, OSError, SyntaxError):  # compiled only, or unreadable
        return None


def cut_lines(text: str, least: int, most: int) -> list[str]:
    """Chunks of whole lines, each of `least` to `most` characters; what does not fit these bounds is left out."""
    chunks, chunk = [], ""
    for line in [*text.splitlines(keepends=True), None]:
        if line is None or len(chunk) + len(line) > most:
            if least <= len(chunk.strip("\n")) <= most:
                chunks.append(chunk.strip("\n"))
            chunk = ""
        chunk += line or ""
    return chunks


# query: an instruction

QUERY_SIZES = (6000, 200, 500)  # training, validation, test


def _query(seed: int) -> Task:
    examples = [Example(f"Question: {q}\nQuery:", f" {a}") for q, a in make_items(sum(QUERY_SIZES), seed)]
    train, validation, test = QUERY_SIZES
    held_out = tuple(examples[train + validation :])
    return Task(
        "query",
        TASKS["query"],
        train=tuple(examples[:train]),
        validation=tuple(examples[train : train + validation]),
        test=held_out[:test],
        prompts=tuple(e.prompt for e in held_out[:3]),
        exact_match=True,
    )


# the learner's own file


def _own_file(path: Path, max_length: int) -> Task:
    passage = PASSAGE * max(max_length, 128) // 128
    examples = read_jsonl(path) if path.suffix.lower() == ".jsonl" else read_text(path, passage)
    validation = examples[9::10] or examples[-1:]
    held_out = set(validation)
    train = tuple(e for e in examples if e not in held_out)
    return Task(
        path.name,
        f"your file {path.name}: {len(examples)} {'examples' if path.suffix.lower() == '.jsonl' else 'passages'}",
        train=train,
        validation=validation,
        test=validation,
        prompts=tuple(_openings((*validation, *train))[:3]),
    )
