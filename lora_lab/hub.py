"""A model of the Hugging Face hub: what it is, what it weighs, and its files, each checked against the hub's own hash.

Downloads are huggingface_hub's: a connection that breaks off is taken up again where it broke, five times in a row if
need be, and whole files stay in the cache. A file cut short by the end of the program begins anew. Over plain HTTP that
library compares sizes alone (file_download.http_get), so the hash is compared here.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_lab import doctor, whole_file

BASE = doctor.BASE
TIMEOUT = 10  # seconds for the hub's first answer
# What transformers reads of a repository. Other formats, pickles and code stay there.
SMALL = re.compile(
    r"(generation_)?config\.json|model\.safetensors\.index\.json|tokenizer[\w.-]*\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(json|jinja)|[\w.-]+\.(model|tiktoken)"
    r"|additional_chat_templates/[\w.-]+\.jinja"
)
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = ("config", "tokenizer", "weights")
NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)
ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/([\w-]+/[\w.-]+)(?:[/?#].*)?")
NO_SAFETENSORS = (
    "has no model.safetensors. Weights in a pickle (pytorch_model.bin) can run any code when they are opened, so they "
    "are not read here: save the model again as safetensors"
)
_announced: set[str] = set()  # commits whose size and licence this process has said


@dataclass(frozen=True)
class File:
    """A file of a model: its bytes, its hash (sha256 for large files, git's own for small ones), is it here already."""

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None
    cached: bool = False


@dataclass(frozen=True)
class HubModel:
    """A model at one commit, and those of its files that are needed. `gated` is False, "auto" or "manual"."""

    name: str
    revision: str
    commit: str
    files: tuple[File, ...]
    licence: str | None = None
    gated: str | bool = False
    parameters: int | None = None
    adapter: bool = False

    @property
    def size(self) -> int:
        """Bytes of all needed files."""
        return sum(f.size for f in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are not on this machine yet."""
        return sum(f.size for f in self.files if not f.cached)

    def __str__(self) -> str:
        at = f"@{self.commit[:7]}" if self.commit else ""
        licence = f"licence {self.licence}" if self.licence else "no licence stated"
        gated = ", to be accepted at the hub" if self.gated else ""
        return f"{self.name}{at} ({licence}{gated}): {megabytes(self.size)} in {len(self.files)} files"


def look(name: str | Path, revision: str | None = None) -> HubModel:
    """Ask the hub about a model; nothing is downloaded. "base" and folders are looked at where they are.

    Without a network, or with HF_HUB_OFFLINE, a model that was fetched whole is still told, its licence left out.
    Raises ValueError for a name or revision that the hub does not know, ConnectionError when it does not answer.
    """
    folder = _local(name)
    if (folder / "config.json").is_file():
        return _in_folder(str(name), folder, "")
    if folder.exists():
        adapter = (folder / "adapter_config.json").is_file()
        what = "an adapter, not a model: name the model it belongs to" if adapter else "no model: it has no config.json"
        raise ValueError(f"{str(name)!r} is {what}")
    from huggingface_hub import HfApi

    name, _, pinned = str(name).partition("@")
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"no model {name!r}: there is no such folder, and a hub name is OWNER/NAME. {near(name)}")
    revision = revision or pinned or None
    check_revision(name, revision)
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except Exception as error:
        told = explain(error, f"{name}@{revision}" if revision else name)
        if isinstance(told, ConnectionError):
            if here := whole(name, revision):
                return here
            if _snapshot(name, revision):
                told = ConnectionError(str(told).replace(" on this machine", " on this machine in full", 1))
        raise told from error
    card = info.card_data or {}
    tag = next((tag[8:] for tag in info.tags or [] if tag.startswith("license:")), None)
    names = [sibling.rfilename for sibling in info.siblings or []]
    return HubModel(
        name,
        revision or "main",
        info.sha or "",
        tuple(_file(s, name, info.sha) for s in info.siblings or [] if _needed(s.rfilename, names)),
        card.get("license_name") or card.get("license") or tag,
        info.gated or False,
        info.safetensors.total if info.safetensors else None,
        "adapter_config.json" in names and "config.json" not in names,
    )


def whole(name: str, revision: str | None = None) -> HubModel | None:
    """A model of the hub as it lies in the cache, if its configuration and all weights do. Asks nobody."""
    if folder := _snapshot(name, revision):
        with contextlib.suppress(ValueError):
            found = _in_folder(name, folder, folder.name)
            check_loadable(found)
            _check_shards(found, folder)
            return found
    return None


def fetch(
    model: HubModel, what: str = "weights", say: Callable[[str], None] | None = None, float32: bool = False
) -> Path:
    """Download what is missing of a model and return its folder in the cache.

    what: "config" (config.json alone), "tokenizer" (every small file) or "weights" (all). Before the first download
    that is more than config.json, `say` (stderr by default) is told size and licence, and the disk is looked at.
    float32: they will be held so, and `say` hears of it if that is more than the free memory.
    Every new file is compared with the hub's hash, and every file where nothing was missing; a wrong one is removed.

    Raises ValueError for a model without safetensors, a licence to be accepted, a file that is not there or not what
    the hub says; ConnectionError when the hub cannot be reached; OSError (ENOSPC) when the disk is too small.
    """
    from huggingface_hub import hf_hub_download

    check_loadable(model)
    if not model.commit:
        return _local(model.name)
    if say is None:  # of several processes, one speaks
        say = (lambda text: print(text, file=sys.stderr)) if os.environ.get("RANK", "0") == "0" else str
    wanted = sorted((f for f in model.files if _part(f.name) <= PARTS.index(what)), key=lambda f: _part(f.name))
    folder = _cache(model.name) / "snapshots" / model.commit
    missing = [f for f in wanted if not f.cached or not (folder / f.name).is_file()]
    if what != "config" and not all(f.cached for f in wanted):
        check_room(model)
        if model.commit not in _announced:
            _announced.add(model.commit)
            say(f"{model}, {megabytes(model.missing)} to fetch, {megabytes(free_disk())} free on the disk")
        if float32 and (takes := 4 * (model.parameters or 0)) > (free := free_memory()):
            say(f"{model.name} takes {megabytes(takes)} in float32, and {megabytes(free)} of memory are free")
    for file in missing or wanted:
        path = folder / file.name
        if _part(file.name) == 2:
            _check_shards(model, folder)
        if file in missing:
            if path.is_file() and path.stat().st_size != file.size:
                _remove(path)
            try:
                path = Path(hf_hub_download(model.name, file.name, revision=model.commit))
            except Exception as error:
                raise explain(error, model.name, file.name) from error
        _verify(model, file, path)
    if model.revision != model.commit:
        whole_file.write(_cache(model.name) / "refs" / model.revision, model.commit)
    return folder


def check_loadable(model: HubModel) -> None:
    """Raise ValueError for a repository that holds no model that is read here, before anything of it is fetched."""
    if model.adapter:
        raise ValueError(f"{model.name} is an adapter, not a model: name the model it belongs to")
    names = {f.name for f in model.files}
    if "config.json" not in names:
        raise ValueError(f"model {model.name!r} has no config.json, so it is not in the Hugging Face format")
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"model {model.name!r} {NO_SAFETENSORS}")


def check_room(model: HubModel) -> None:
    """Raise the system's own "disk full" error if what is missing of the model will not fit."""
    free = free_disk()
    if free < model.missing:
        why = f"{megabytes(model.missing)} of {model.name} are to be fetched, {megabytes(free)} are free"
        raise _no_room(OSError(errno.ENOSPC, why, str(_cache(model.name).parent)))


def check_revision(name: str, revision: str | None) -> None:
    """Raise ValueError for what cannot be a revision: it becomes a path in the cache."""
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision):
        raise ValueError(f"revision {revision!r} of {name}: expected a commit, a tag or a branch, such as 'main'")


def free_disk() -> int:
    """Bytes free on the disk of the hub's cache (HF_HOME moves it)."""
    return whole_file.free(_cache(""))


def config(model: HubModel) -> dict[str, Any]:
    """The model's config.json, downloaded where it is not here yet. Raises as `fetch` does."""
    if not model.commit:
        return json.loads((_local(model.name) / "config.json").read_text(encoding="utf-8"))
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.name, "config.json", revision=model.commit)
    except Exception as error:
        raise explain(error, model.name, "config.json") from error
    return json.loads(Path(path).read_text(encoding="utf-8"))


# --- what goes wrong --------------------------------------------------------------------------------------------------


def explain(error: Exception, name: str, file: str = "") -> Exception:
    """What went wrong at the hub, as an error whose text is one sentence (or `error`, for a full disk)."""
    from huggingface_hub import errors

    chain = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None and link not in chain:
        chain.append(link)
    kinds = " ".join(type(e).__name__ for e in chain)
    status = next((e.response.status_code for e in chain if isinstance(e, errors.HfHubHTTPError)), None)

    def among(*kind: type) -> bool:
        return any(isinstance(e, kind) for e in chain)

    full = next((e for e in chain if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT)), None)
    if full is not None:
        return _no_room(full)
    if among(errors.GatedRepoError) or status == 403:
        return ValueError(
            f"model {name!r} asks for its licence to be accepted: do so at the hub, then run 'hf auth login'"
        )
    if among(errors.RevisionNotFoundError):
        return ValueError(f"model {name!r}: the hub knows the model, but no such revision of it")
    if among(errors.RemoteEntryNotFoundError):
        return ValueError(f"model {name!r}: the hub lists {file}, but does not have it. Try another revision")
    if "Invalid credentials" in str(error):
        return ValueError(f"model {name!r}: the hub does not take the token of this machine: run 'hf auth login'")
    if among(errors.RepositoryNotFoundError) or status == 401:
        return ValueError(
            f"no model {name!r}: there is no such folder, and the hub does not know it. {near(name)} "
            "A private model needs 'hf auth login' first."
        )
    if status == 429 or (status or 0) >= 500:
        why = "too many requests" if status == 429 else "the fault is there"
        return ConnectionError(f"model {name!r}: the hub answers {status} ({why}): try again in a few minutes")
    if "Offline" in kinds:
        return ConnectionError(
            f"no model {name!r} on this machine, and HF_HUB_OFFLINE keeps it from asking the hub. {near(name)}"
        )
    if file and re.search("RemoteProtocol|ReadError|Timeout|ConnectError", kinds):
        return ConnectionError(
            f"model {name!r}: the connection broke off before all of {file} was here, and again when it was taken up. "
            "The same command goes on with the files that are missing"
        )
    if re.search("Connect|Timeout|LocalEntry|Proxy|RemoteProtocol|ReadError", kinds):
        return ConnectionError(
            f"no model {name!r} on this machine, and the hub cannot be reached. {near(name)} 'base' needs no network."
        )
    return ValueError(f"model {name!r} cannot be fetched: {str(error).strip().splitlines()[0].rstrip('.')}")


def near(name: str) -> str:
    """What could have been meant: base, folders here that hold a model, hub models already fetched."""
    if address := ADDRESS.fullmatch(name):
        return f"Did you mean {address[1]!r}?"
    parent = Path(name).expanduser().parent
    known = ["base"]
    with contextlib.suppress(OSError):
        known += [str(p) for p in sorted(parent.iterdir()) if (p / "config.json").is_file()]
    with contextlib.suppress(OSError):
        known += [p.name[8:].replace("--", "/") for p in sorted(_cache("").iterdir()) if p.name[:8] == "models--"]
    found = difflib.get_close_matches(name, [k for k in known if k != name], n=1)
    return f"Did you mean {found[0]!r}?" if found else f"Models on this machine: {', '.join(known[:8])}."


def _no_room(error: OSError) -> OSError:
    error.advice = "Free some space, or let HF_HOME name a folder on a larger disk"
    return error


def _verify(model: HubModel, file: File, path: Path) -> None:
    """Raise ValueError, and take the file out of the cache, where it is not what the hub says."""
    with path.open("rb") as stream:
        if file.sha256:
            got, right = hashlib.file_digest(stream, "sha256").hexdigest(), file.sha256
        else:  # git's own hash of a small file
            content = stream.read()
            got, right = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), file.blob
    if right is None or got == right:
        return
    _remove(path)
    raise ValueError(
        f"model {model.name!r}: {file.name} is not what the hub says ({got[:16]}, expected {right[:16]}), so it was "
        "thrown away: run the same command again"
    )


def _check_shards(model: HubModel, folder: Path) -> None:
    """Raise ValueError, before a weight is fetched, where the index names a file that the repository has not."""
    if (folder / INDEX).is_file() and not any(f.name == WHOLE for f in model.files):
        named = set(json.loads((folder / INDEX).read_text(encoding="utf-8")).get("weight_map", {}).values())
        if lost := sorted(named - {f.name for f in model.files}):
            raise ValueError(f"model {model.name!r} is not whole at the hub: its index names {lost[0]}, which it lacks")


# --- files ------------------------------------------------------------------------------------------------------------


def _local(name: str | Path) -> Path:
    return BASE if str(name) == "base" else Path(name).expanduser()


def _needed(name: str, names: list[str]) -> bool:
    weights = name == WHOLE or (SHARD.fullmatch(name) and WHOLE not in names and INDEX in names)
    return bool(weights or SMALL.fullmatch(name))


def _part(name: str) -> int:
    """The place in PARTS of the first part that a file belongs to."""
    return 0 if name == "config.json" else 2 if name.endswith(".safetensors") else 1


def _cache(name: str) -> Path:
    """The folder of one model in the hub's cache, or with "" the cache itself."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    return cache / f"models--{name.replace('/', '--')}" if name else cache


def _snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a model at a revision in the cache, or None."""
    ref = _cache(name) / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8") if ref.is_file() else revision
    folder = _cache(name) / "snapshots" / (commit or "none")
    return folder if folder.is_dir() else None


def _file(sibling: Any, name: str, commit: str | None) -> File:
    size, sha256, folder = sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None, _cache(name)
    same = folder / "blobs" / (sha256 or sibling.blob_id or "none")  # this file, come with an earlier commit
    places = (folder / "snapshots" / (commit or "none") / sibling.rfilename, same)
    cached = any(path.is_file() and path.stat().st_size == size for path in places)
    return File(sibling.rfilename, size, sha256, sibling.blob_id, cached)


def _in_folder(name: str, folder: Path, commit: str) -> HubModel:
    found = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files = tuple(File(f, size, cached=True) for f, size in found.items() if _needed(f, list(found)))
    card = folder / "README.md"
    said = (
        re.search(r"^license: *(.+)$", card.read_text(encoding="utf-8", errors="replace"), re.M)
        if card.is_file()
        else None
    )
    return HubModel(name, commit, commit, files, said and said[1].strip())


def _remove(path: Path) -> None:
    """Take a file out of the cache, and what it links to."""
    real = path.resolve()
    path.unlink(missing_ok=True)
    real.unlink(missing_ok=True)


def megabytes(count: float) -> str:
    """Bytes for people, in decimal units.

    >>> megabytes(269_000_000), megabytes(13_476_839_424), megabytes(704)
    ('269 MB', '13.5 GB', '0.000704 MB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def free_memory() -> int:
    """Bytes of memory that are free."""
    return doctor.memory_found()[1]
