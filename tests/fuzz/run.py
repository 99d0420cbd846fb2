"""One mutated adapter: make it, load it, and say what came of it."""

from __future__ import annotations

import random
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lora_lab.adapters import delete_adapter
from lora_lab.record import record_of
from lora_lab.storage import load_adapter
from tests.fuzz.adapters import copy_of_plain, folders, plain
from tests.fuzz.mutations import KINDS
from tests.fuzz.oracle import meaning
from tests.lora.tiny import same, snapshot

OURS = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
LOADED, REFUSED, WRONG = "loaded as the files say", "refused", "WRONG"
SECONDS = 20  # for one file that takes milliseconds


@dataclass
class Outcome:
    """What came of file number `number`: its kind of mutation, LOADED, REFUSED or WRONG, and why."""

    number: int
    kind: str
    result: str
    why: str = ""


def make(seed: int, number: int) -> tuple[str, dict[str, bytes], bool]:
    """(kinds of mutation, {file: bytes}, strict) of file `number`: the same for the same seed."""
    rng = random.Random(f"{seed}:{number}")
    names = list(folders())
    files = dict(folders()[rng.choice(names)])
    kinds = [list(KINDS)[number % len(KINDS)], *rng.choices(list(KINDS), k=rng.choice((0, 0, 0, 1, 2)))]
    for kind in kinds:
        try:
            KINDS[kind](rng, files)
        except KeyError:  # the file it would damage was taken away before
            pass
    return kinds[0], files, rng.random() < 0.75


def try_file(seed: int, number: int) -> Outcome:
    """Write file `number` to a temporary folder and load it into a fresh model."""
    kind, files, strict = make(seed, number)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            with _time_limit():
                return Outcome(number, kind, *_judged(folder, strict))
        except AssertionError as error:
            return Outcome(number, kind, WRONG, str(error))
        except Exception as error:
            return Outcome(number, kind, WRONG, f"{type(error).__name__}: {str(error)[:300]}")


def _judged(folder: Path, strict: bool) -> tuple[str, str]:
    model = copy_of_plain()
    before = snapshot(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            load_adapter(model, folder, strict=strict)
        except OURS as error:
            assert same(before, snapshot(model)), f"the model was changed by a load that was refused: {error}"
            assert str(folder) in str(error), f"refused without naming the file: {error}"
            return REFUSED, type(error).__name__
    check(model, folder, strict, "\n".join(str(w.message) for w in told))
    return LOADED, ""


def check(model, folder: Path, strict: bool, told: str) -> None:
    """Raises AssertionError unless the model holds just what the files in `folder` say, and was told what they lack."""
    said = meaning(folder, plain())
    assert not said.missing or (not strict and "lacks" in told), f"loaded without {sorted(said.missing)[0]}"
    assert not said.unused or "not used" in told, f"nothing was said of {sorted(said.unused)[0]!r}"
    record = record_of(model)
    assert set(record.layers) == set(said.deltas), f"adapted {sorted(record.layers)}, not {sorted(said.deltas)}"
    for path, delta in said.deltas.items():
        with torch.no_grad():
            _close(record.layers[path].delta("default"), delta, path)
    held = dict(model.named_parameters())
    for path, values in said.replaced.items():
        owner, _, last = path.rpartition(".")
        at = next(p for p in (f"{owner}.copies.default.{last}", f"{owner}.base.{last}", path) if p in held)
        _close(held[at], values, path)
    delete_adapter(model, "default")
    for path, value in model.state_dict().items():
        if path in said.bases:
            _close(value, said.replaced[path], path)
        else:
            assert torch.equal(value, plain().state_dict()[path]), f"{path} is not the base's after delete_adapter"


def _close(found: torch.Tensor, expected: np.ndarray, path: str) -> None:
    """Equal to float32's rounding; where the files' own numbers overflow float32 there is nothing to compare."""
    values = found.detach().double().numpy()
    assert values.shape == expected.shape, f"{path}: shape {values.shape}, not {expected.shape}"
    with np.errstate(all="ignore"):
        largest = np.abs(expected).max(initial=0.0)
        if not largest < 1e30:
            return
        worst = np.abs(values - expected).max(initial=0.0)
    assert worst <= 1e-4 * largest + 1e-6, f"{path}: off by {worst:.3g} where the files say {largest:.3g} at most"


@contextmanager
def _time_limit() -> Iterator[None]:
    """An AssertionError after SECONDS, where the system has such an alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_) -> None:
        raise AssertionError(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
