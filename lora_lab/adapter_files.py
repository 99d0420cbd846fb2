"""An adapter's two files on the disk: read without trust, and written so that a kill leaves no mixture of old and new.

Nothing is ever unpickled. What is read is checked for its form only; `peft_format` and `storage` know what it means.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from lora_lab.config import did_you_mean
from lora_lab.peft_format import CONFIG_FILE, WEIGHTS_FILE

# Lies beside the two files while they are replaced: {file: [digest before (None: there was no whole adapter), digest
# after, digest before]}.
NOTE = ".adapter_being_saved"
LARGEST_CONFIG = 10_000_000  # bytes; a usual one has 1,000


def read_both(folder: Path) -> tuple[object, dict[str, Tensor]]:
    """(parsed configuration, {key: tensor}) of the adapter in `folder`, both from the same save. Links are followed.

    Raises ValueError for a missing configuration and for files that are damaged, a pickle, or half of two saves;
    FileNotFoundError for missing weights; OSError where the disk refuses.
    """
    content = _read_config(folder)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    if _read_config(folder) != content:
        raise ValueError(f"{folder} was saved again while it was read: load it again")
    return content, tensors


def write_both(place: Path, config: bytes, weights: bytes) -> None:
    """Both files or neither, in the folder `place`: written to a folder beside it, then moved.

    If the process is killed between the two moves, a note is left by which reading tells a mixture. A link to a folder
    is followed; a link in the place of a file is replaced, so nothing is written through it.
    """
    place = Path(os.path.realpath(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    new = {WEIGHTS_FILE: weights, CONFIG_FILE: config}
    try:
        for file, content in new.items():
            (beside / file).write_bytes(content)
        place.mkdir(exist_ok=True)
        whole, now = _whole(place), {file: _digest_of(place / file) for file in new}
        note = {file: [now[file] if whole else None, _digest(content), now[file]] for file, content in new.items()}
        (beside / NOTE).write_bytes(json.dumps(note).encode())
        for file in (NOTE, *new):
            os.replace(beside / file, place / file)
        (place / NOTE).unlink()
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(file: Path) -> str | None:
    return _digest(file.read_bytes()) if file.is_file() else None


def _whole(folder: Path) -> bool:
    """Whether the two files are of one save, as far as a note tells."""
    path = folder / NOTE
    if not path.is_file():
        return True
    now = {file: _digest_of(folder / file) for file in (WEIGHTS_FILE, CONFIG_FILE)}
    try:
        note = json.loads(path.read_bytes())
        old_or_new = any(all(now[file] == note[file][i] for file in now) for i in (0, 1))
        from_elsewhere = not any(now[file] in note[file] for file in now)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return old_or_new or from_elsewhere


def _read_config(folder: Path) -> object:
    path = folder / CONFIG_FILE
    if not path.is_file():
        if folder.is_file():
            raise ValueError(f"{folder} is a file: an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
        below = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_FILE}")) if folder.is_dir() else []
        hint = f" There are adapters below it: {', '.join(below)}." if below else ""
        if folder.parent.is_dir() and not folder.is_dir():
            hint = f" There is no such folder.{did_you_mean(folder.name, (p.name for p in folder.parent.iterdir()))}"
        raise ValueError(f"can't find '{CONFIG_FILE}' in {folder}.{hint}")
    if not _whole(folder):
        raise ValueError(
            f"{folder} holds one file of an old adapter and one of a new: a save was cut off. Save the adapter again "
            f"(or, if you put the files there yourself, delete {folder / NOTE})"
        )
    if (size := path.stat().st_size) > LARGEST_CONFIG:
        raise ValueError(f"{path} has {size:,} bytes: no adapter's configuration is that long")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON for an adapter: it is nested too deeply") from None
    except ValueError as error:  # JSON or UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} stands in it twice")
    return content


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected a file")
        pickled = path.with_name("adapter_model.bin")
        if pickled.is_file():
            raise ValueError(
                f"{pickled} is a pickle, which can run any code when it is opened, so it is not read here. Load it in "
                f"peft and save it again: that writes {path.name}."
            )
        raise FileNotFoundError(f"{path.parent} has {CONFIG_FILE} but neither {path.name} nor {pickled.name}")
    data = path.read_bytes()  # not mapped: a file cut short by someone else while it is read must not end the process
    try:
        tensors = safetensors.torch.load(data)
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        json.loads(header, object_pairs_hook=_no_twins)  # the library lets the last of two equal keys win
    except MemoryError:
        raise
    except Exception as error:  # a SafetensorError, or what torch says of a type it lacks
        hint = "Was a copy or download cut short?"
        if data.startswith(b"PK\x03\x04") or (data.startswith(b"\x80") and data.endswith(b".")):
            hint = "It looks like a pickle, which can run any code when it is opened, so it is not read here."
        raise ValueError(f"{path} is not a whole safetensors file ({len(data):,} bytes): {error}. {hint}") from None
    # peft also reads keys in which the adapter's name was left. Sorted: the library's order changes from run to run,
    # and errors name the first.
    named = {re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", key): tensors[key] for key in sorted(tensors)}
    if len(named) < len(tensors):
        raise ValueError(f"{path} holds several adapters: some tensors differ only by an adapter's name in their keys")
    return named
