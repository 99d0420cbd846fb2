"""Open text for the base model: what is read, what is held out, and the tokens a row of training is cut from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STORY_SEPARATOR = "<|endoftext|>"
HELD_OUT_EVERY = 89  # stories whose index is a multiple of this are never trained on
HELD_OUT_BOOK = "Peter Pan"  # the whole book is left out of training, though only a part of it is scored


@dataclass(frozen=True)
class Corpus:
    """Documents by source. `stories` and `books` are trained on; the two held-out lists only scored."""

    stories: list[str]
    books: dict[str, str]
    held_out_stories: list[str]
    held_out_windows: list[str]
    hashes: dict[str, str]


def read_corpus(folder: str | Path) -> Corpus:
    """Read `tinystories.txt` and the books beside it.

    Held out: of the stories whose index is a multiple of 89, the first 100, 250 characters each; of Peter Pan,
    characters 20,000 to 84,000 in windows of 800. Raises FileNotFoundError naming what is missing.
    """
    folder = Path(folder)
    story_file = folder / "tinystories.txt"
    if not story_file.is_file():
        raise FileNotFoundError(
            f"{story_file} is not there: --text must name a folder that holds tinystories.txt and folders of books"
        )
    raw = story_file.read_bytes()
    hashes = {story_file.name: hashlib.sha256(raw).hexdigest()}
    stories = [s.strip() for s in raw.decode("utf-8").split(STORY_SEPARATOR)]
    books, windows = {}, []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in {".md", ".txt"} and p != story_file):
        name = path.relative_to(folder).as_posix()
        raw = path.read_bytes()
        hashes[name] = hashlib.sha256(raw).hexdigest()
        text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n")
        if HELD_OUT_BOOK in path.name:
            windows = [text[i : i + 800] for i in range(20_000, 84_000, 800)]
        else:
            books[name] = text
    return Corpus(
        stories=[s for i, s in enumerate(stories) if s and i % HELD_OUT_EVERY],
        books=books,
        held_out_stories=[s[:250] for s in stories[::HELD_OUT_EVERY][:100]],
        held_out_windows=windows,
        hashes=hashes,
    )


class RowSampler:
    """Cuts rows of `length` tokens out of the stories and the books, seeded and resumable by step number alone.

    A story row starts at a story's start token and runs on into the next story. A book row starts anywhere; one in
    four begins with the start token, so that the model can also be asked to go on from the middle of a book.
    """

    def __init__(self, stories: np.ndarray, groups: list[tuple[np.ndarray, float]], start: int, story_share: float):
        self.stories, self.start, self.story_share = stories, start, story_share
        self.story_starts = np.flatnonzero(stories == start)
        self.groups = [tokens for tokens, _ in groups]
        weights = np.array([w for _, w in groups], dtype=float)
        self.group_shares = weights / weights.sum()

    def rows(self, step: int, count: int, length: int, seed: int) -> np.ndarray:
        """`count` rows of `length` tokens, int64 [count, length]; the same for the same step and seed."""
        rng = np.random.default_rng([seed, step])
        out = np.empty((count, length), dtype=np.int64)
        story_rows = int(round(count * self.story_share))
        usable = self.story_starts[self.story_starts < len(self.stories) - length]
        for i in range(count):
            if i < story_rows:
                # A walk through a fixed shuffle, about once through all stories before one comes again.
                number = step * story_rows + i
                epoch, place = divmod(number, len(usable))
                order = _permutation(len(usable), seed + epoch)
                begin = usable[order[place]]
                out[i] = self.stories[begin : begin + length]
                continue
            tokens = self.groups[rng.choice(len(self.groups), p=self.group_shares)]
            begin = rng.integers(0, len(tokens) - length)
            out[i] = tokens[begin : begin + length]
            if rng.random() < 0.25:
                out[i, 0] = self.start
        return out


_permutations: dict[tuple[int, int], np.ndarray] = {}


def _permutation(n: int, seed: int) -> np.ndarray:
    if (n, seed) not in _permutations:
        _permutations.clear()
        _permutations[n, seed] = np.random.default_rng(seed).permutation(n)
    return _permutations[n, seed]
