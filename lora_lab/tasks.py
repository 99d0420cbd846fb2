"""What to fine-tune on: a voice, a domain, an instruction, or the learner's own file.

Every task is examples of prompt and completion; only the completion is learned. Plain text has an empty prompt.
The texts of `pirate` and of the base stories were written by hand for this course; `code` is read from the running
Python; `query` is made from a grammar (`lora_lab.query_language`). Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import functools
import importlib.machinery
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_lab import chat, packing
from lora_lab.query_language import make_items
from lora_lab.task_files import IGNORE, LEAST_EXAMPLES, PASSAGE, Conversation, Example, read_jsonl, read_text

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
    """The task of that name, or one made from the learner's own .txt, .jsonl or .json file.

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
        f"no task is called {text!r}; expected one of {', '.join(TASKS)}, or the name of a .txt, .jsonl or .json "
        f"file.{hint}"
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
    row = _whole(example, tokenizer)
    if (unread := _unlearned(row)) >= min(max_length, len(row["labels"])):
        raise ValueError(
            f"max_length {max_length} leaves no room to learn: the prompt {_short(str(example.prompt))!r} alone has "
            f"{unread} tokens. Expected at least {unread + 1}; make max_length larger or the prompt shorter"
        )
    return _cut(row, max_length)


@dataclass(frozen=True)
class Encoded:
    """A task as rows of tokens: what is left of it within `max_length`, and in `notes` what was cut, as sentences."""

    task: Task
    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    notes: tuple[str, ...]


def encode_task(task: Task, tokenizer, max_length: int, cut_into_windows: bool = False) -> Encoded:
    """Every training and validation example encoded; those whose prompt alone fills `max_length` are left out.

    `cut_into_windows`: a text without a prompt that is too long becomes several training rows (`packing.windows`)
    instead of losing its end. Warns of what is left out, with the first of them. Raises ValueError where that leaves
    fewer than 10 examples to learn from, or none to validate or test on.
    """
    whole = functools.partial(_whole, tokenizer=tokenizer)
    train, rows = _fitting(task.train, lambda e: _rows(e, tokenizer), max_length, "to learn from", LEAST_EXAMPLES)
    validation, held_out = _fitting(task.validation, lambda e: [whole(e)], max_length, "to validate on", 1)
    test = validation
    if task.test is not task.validation:
        test, _ = _fitting(task.test, lambda e: [whole(e)], max_length, "to test on", 1)
    pieces = [
        packing.windows(row, max_length) if cut_into_windows and not example.prompt else [_cut(row, max_length)]
        for example, made in zip(train, rows, strict=True)
        for row in made
    ]
    prompts = task.prompts if task.name in TASKS else _short_prompts((*validation, *train), tokenizer, max_length)
    return Encoded(
        replace(task, train=train, validation=validation, test=test, prompts=prompts),
        train=[row for cut in pieces for row in cut],
        validation=[_cut(row, max_length) for made in held_out for row in made],
        notes=tuple(_notes(train, rows, pieces, tokenizer, max_length)),
    )


def check_vocabulary(rows: Sequence[Sequence[int]], model) -> None:
    """Raise ValueError where a row has a token that the model has no embedding for: a GPU would only say "assert"."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    if (highest := max((max(row) for row in rows), default=0)) >= embeddings:
        raise ValueError(
            f"the tokenizer writes token {highest:,}, and the model has embeddings for {embeddings:,}: they are not of "
            "one model, or words were added to the tokenizer alone. Give the model's own tokenizer"
        )


def _rows(example: Example, tokenizer) -> list[dict[str, list[int]]]:
    """Whole rows that learn every answer: one, but for a conversation that its template rewrites as it goes on."""
    if isinstance(example.prompt, Conversation):
        return chat.rows(_turns(example), tokenizer)
    return [_whole(example, tokenizer)]


def _fitting(examples: Sequence[Example], encoded: Callable, max_length: int, purpose: str, least: int):
    """The examples with something to learn within `max_length`, and of each the whole rows that have it."""
    kept, rows, left_out = [], [], []
    for example in examples:
        made = encoded(example)
        fits = [row for row in made if _unlearned(row) < min(max_length, len(row["labels"]))]
        if fits:
            kept.append(example)
            rows.append(fits)
        else:
            left_out.append((example, _unlearned(made[0])))
    if left_out:
        example, tokens = left_out[0]
        said = (
            f"{len(left_out):,} of {len(examples):,} examples {purpose} have prompts that leave no room to learn "
            f"within max_length {max_length}; the first is {_short(str(example.prompt))!r} with {tokens:,} tokens"
        )
        if len(kept) < least:
            raise ValueError(f"{said}. {len(kept)} are left, expected at least {least}: make max_length larger")
        warnings.warn(f"{said}: they are left out", stacklevel=2)
    return tuple(kept), rows


def _notes(examples: Sequence[Example], rows: list, pieces: list, tokenizer, max_length: int) -> list[str]:
    notes = []
    if any(isinstance(e.prompt, Conversation) for e in examples):
        notes.append(chat.describe(tokenizer))
    if apart := sum(map(len, rows)) - len(rows):
        notes.append(f"{apart:,} earlier answers, which the template rewrites as it goes on, are rows of their own")
    lengths = [len(row["labels"]) for made in rows for row in made]
    lost = [n - max_length for n, cut in zip(lengths, pieces, strict=True) if len(cut) == 1 and n > max_length]
    if lost:
        notes.append(
            f"{len(lost):,} of {len(lengths):,} examples are longer than {max_length} tokens: {sum(lost):,} of "
            f"{sum(lengths):,} tokens ({sum(lost) / sum(lengths):.1%}) are cut off"
        )
    if long := [cut for cut in pieces if len(cut) > 1]:
        many = sum(map(len, long))
        notes.append(f"{len(long):,} texts longer than {max_length} tokens are cut into {many:,} windows")
    return notes


def _short_prompts(examples: Sequence[Example], tokenizer, max_length: int) -> tuple[str | Conversation, ...]:
    """Openings for samples that leave half of `max_length` to write in, where there are such; else the shortest."""
    openings = _openings(examples[:200])
    lengths = {p: len(prompt_ids(p, tokenizer)) for p in openings}
    fitting = [p for p in openings if lengths[p] <= max_length // 2]
    return tuple(fitting[:3] if len(fitting) >= 3 else sorted(openings, key=lengths.get)[:3])


def _openings(examples: Sequence[Example]) -> list[str | Conversation]:
    return [e.prompt or " ".join(e.completion.split()[:6]) for e in examples]


def _turns(example: Example):
    return (*example.prompt.turns, ("assistant", example.completion))


def _whole(example: Example, tokenizer) -> dict[str, list[int]]:
    if isinstance(example.prompt, Conversation):
        return chat.encode(_turns(example), tokenizer)
    prompt = prompt_ids(example.prompt, tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    learned = _ids(example.completion, tokenizer) + end
    return {"input_ids": prompt + learned, "labels": [IGNORE] * len(prompt) + learned}


def _cut(row: dict[str, list[int]], max_length: int) -> dict[str, list[int]]:
    return {key: ids[:max_length] for key, ids in row.items()}


def _unlearned(row: dict[str, list[int]]) -> int:
    """Tokens before the first one that is learned."""
    return next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))


def _ids(text: str, tokenizer) -> list[int]:
    # Text that happens to spell "<|endoftext|>" is text, not the end.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


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
    in_rows = path.suffix.lower() in (".jsonl", ".json")
    examples = read_jsonl(path) if in_rows else read_text(path, passage)
    validation = examples[9::10] or examples[-1:]
    held_out = set(validation)
    train = tuple(e for e in examples if e not in held_out)
    return Task(
        path.name,
        f"your file {path.name}: {len(examples)} {'examples' if in_rows else 'passages'}",
        train=train,
        validation=validation,
        test=validation,
        prompts=tuple(_openings((*validation, *train))[:3]),
    )
