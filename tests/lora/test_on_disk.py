"""The folder of an adapter as a disk can leave it: links, missing rights, and saves cut off by a kill."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import peft
import pytest
import torch

from lora_lab import adapter_files
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.fuzz.adapters import copy_of_plain
from tests.lora.test_bad_files import QV, refused
from tests.lora.tiny import logits, ours, randomize, tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WITHOUT_FORK = sys.platform == "win32"


@pytest.fixture
def saved(tmp_path):
    return save_adapter(ours("llama", QV), tmp_path / "saved")


@pytest.fixture
def expected(saved):
    return logits(load_adapter(tiny("llama"), saved))


def loads_without_a_word(folder, expected, name="default") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(logits(load_adapter(tiny("llama"), folder, name)), expected)


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_linked_folder_and_linked_files_load_the_same(saved, expected, tmp_path):
    (tmp_path / "link").symlink_to(saved, target_is_directory=True)
    loads_without_a_word(tmp_path / "link", expected)
    cache = tmp_path / "cache"  # as the hub's cache has it: names that lead to blobs
    cache.mkdir()
    for file in (CONFIG, WEIGHTS):
        shutil.copy(saved / file, tmp_path / f"blob of {file}")
        (cache / file).symlink_to(tmp_path / f"blob of {file}")
    loads_without_a_word(cache, expected)
    (tmp_path / "many" / "style").parent.mkdir()
    (tmp_path / "many" / "style").symlink_to(saved, target_is_directory=True)
    loads_without_a_word(tmp_path / "many", expected, "style")


@pytest.mark.parametrize("loop", (False, True))
@pytest.mark.parametrize("what", (CONFIG, WEIGHTS, "folder"))
def test_links_that_lead_nowhere(what, loop, saved, tmp_path):
    place = tmp_path / "broken" if what == "folder" else saved / what
    place.unlink(missing_ok=True)
    place.symlink_to(place if loop else tmp_path / "nowhere")
    if what == WEIGHTS:
        refused(saved, f"{saved} has {CONFIG} but neither", FileNotFoundError)
    else:
        refused(tmp_path / "broken" if what == "folder" else saved, "can't find 'adapter_config.json'")


def test_saving_to_a_linked_folder_writes_where_it_leads(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved, target_is_directory=True)
    mine = randomize(ours("llama", QV), seed=9)
    assert save_adapter(mine, tmp_path / "link") == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    loads_without_a_word(saved, logits(mine))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "saved"]


def test_saving_replaces_a_linked_file_and_writes_nothing_through_it(saved, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("not to be touched")
    for file in (CONFIG, WEIGHTS):
        (saved / file).unlink()
        (saved / file).symlink_to(outside)
    mine = ours("llama", QV)
    save_adapter(mine, saved)
    assert outside.read_text() == "not to be touched"
    assert not any(p.is_symlink() for p in saved.iterdir())
    loads_without_a_word(saved, logits(mine))


@pytest.mark.parametrize(("name", "to"), [("style", "elsewhere"), ("style", "nowhere"), ("default", "nowhere")])
def test_saving_does_not_follow_a_link_that_stands_for_an_adapter_or_leads_nowhere(name, to, tmp_path):
    """`folder/NAME` is a place this package chose: a link there could lead anywhere."""
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "adapters" / name if name == "style" else tmp_path / "adapters"
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path / to, target_is_directory=True)
    with pytest.raises(ValueError, match=f"{place} is a link to .*{to}: nothing is saved through it"):
        save_adapter(ours("llama", QV, name), tmp_path / "adapters", name)
    assert not list((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "nowhere").exists()


# --- names and kinds of file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("../x", "a/b", "a\\b", "..", ".", "a\0b", "a\nb", "\ud800", "\u202egnp", 7, b"x"))
def test_names_that_could_leave_the_folder_or_hide(name, saved, tmp_path):
    refused(saved, "adapter name .*printable characters without dot or slash", name=name)
    with pytest.raises(ValueError, match="adapter name"):
        add_adapter(tiny("llama"), QV, name)


@pytest.mark.parametrize("name", ("стиль", "スタイル", "é", "two words", "-rf", "a" * 200))
def test_names_of_any_script_make_the_round(name, tmp_path):
    mine = ours("llama", QV, name)
    assert save_adapter(mine, tmp_path, name) == tmp_path / name
    loads_without_a_word(tmp_path, logits(mine), name)


def test_a_name_too_long_for_the_disk_is_an_error_of_the_disk(tmp_path):
    name = "a" * 300
    with pytest.raises(OSError, match="a{300}") as caught:
        save_adapter(ours("llama", QV, name), tmp_path, name)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert list(tmp_path.iterdir()) == []


def test_the_base_models_name_is_text_and_never_a_place(tmp_path):
    named = "../../etc/<script>\"'&"
    mine = ours("llama", QV)
    save_adapter(mine, tmp_path / "a", base_model_name=named)
    assert json.loads((tmp_path / "a" / CONFIG).read_text())["base_model_name_or_path"] == named
    loads_without_a_word(tmp_path / "a", logits(mine))


@pytest.mark.parametrize("file", (CONFIG, WEIGHTS))
def test_a_folder_where_a_file_is_expected(file, saved):
    (saved / file).unlink()
    (saved / file).mkdir()
    words = "can't find 'adapter_config.json'" if file == CONFIG else f"{saved / file} is a folder, expected a file"
    refused(saved, words)
    with pytest.raises(OSError, match=file):
        save_adapter(ours("llama", QV), saved)


def test_a_file_where_a_folder_is_expected(saved, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "adapter.pt")
    refused(tmp_path / "adapter.pt", "adapter.pt is a file: an adapter is a folder with")
    refused(saved / WEIGHTS, "safetensors is a file: an adapter is a folder with")
    refused(saved / CONFIG / "x", "can't find 'adapter_config.json'")


@pytest.mark.skipif(WITHOUT_FORK, reason="pipes in the file system are Unix's")
def test_a_pipe_is_not_waited_for(saved):
    for file in (WEIGHTS, CONFIG):
        (saved / file).unlink()
        os.mkfifo(saved / file)
        with pytest.raises((ValueError, FileNotFoundError)):
            load_adapter(tiny("llama"), saved)


@contextmanager
def without_rights(path: Path, rights: int):
    """Within it `path` has only these rights and this process is nobody if it was root, to whom rights mean nothing."""
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(rights)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)


@pytest.mark.skipif(WITHOUT_FORK, reason="Windows has other rights")
@pytest.mark.parametrize("what", (CONFIG, WEIGHTS, "."))
def test_no_right_to_read_is_the_disks_error_and_names_the_path(what):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others as a whole
        Path(place).chmod(0o755)
        saved = save_adapter(ours("llama", QV), Path(place) / "saved")
        for file in (CONFIG, WEIGHTS):
            (saved / file).chmod(0o644)
        model = tiny("llama")
        with without_rights(saved / what, 0):
            refused(saved, str(saved), PermissionError, model=model)


@pytest.mark.skipif(WITHOUT_FORK, reason="Windows has other rights")
def test_no_right_to_write_leaves_the_old_adapter():
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        saved = save_adapter(ours("llama", QV), Path(place) / "saved")
        old = {p.name: p.read_bytes() for p in saved.iterdir()}
        mine = randomize(ours("llama", QV), seed=9)
        with without_rights(saved, 0o555), pytest.raises(PermissionError, match=place):
            save_adapter(mine, saved)
        assert {p.name: p.read_bytes() for p in saved.iterdir()} == old
        assert [p.name for p in Path(place).iterdir()] == ["saved"]


# --- kills ------------------------------------------------------------------------------------------------------------


def version(i: int):
    """Two adapters of the same shapes that differ in numbers and in alpha: half of each would load, and be wrong."""
    model = add_adapter(copy_of_plain(), LoraConfig(rank=2, alpha=4 + 4 * i, target_modules=("q_proj",)))
    return randomize(model, seed=i)


def changes(model) -> list[torch.Tensor]:
    return [layer.delta("default") for layer in record_of(model).layers.values()]


def what_is_there(folder: Path) -> str:
    """ "version 0", "version 1", or the error; anything else fails."""
    try:
        found = changes(load_adapter(copy_of_plain(), folder))
    except ValueError as error:
        assert str(folder) in str(error)
        return str(error)
    fits = [i for i in (0, 1) if all(torch.equal(a, b) for a, b in zip(found, changes(version(i)), strict=True))]
    assert fits, "half of one save and half of another were loaded"
    return f"version {fits[0]}"


def in_a_child(work) -> int:
    """Run `work` in a process of its own and return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def killed_after(moves: int, folder: Path, i: int) -> None:
    """Save version `i` in a child that is killed by SIGKILL right after so many moves of a file."""
    replace, unlink, left = os.replace, Path.unlink, [moves]

    def then_die(function):
        def counted(*args, **kwargs):
            function(*args, **kwargs)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        return counted

    def work() -> None:
        os.replace, Path.unlink = then_die(replace), then_die(unlink)
        save_adapter(version(i), folder)

    _, status = os.waitpid(in_a_child(work), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(WITHOUT_FORK, reason="needs os.fork and SIGKILL")
@pytest.mark.parametrize(
    ("moves", "there"),
    [(1, "version 0"), (2, "one file of an old adapter and one of a new"), (3, "version 1"), (4, "version 1")],
    ids=["after the note", "after the weights", "after the configuration", "after the note is gone"],
)
def test_a_save_killed_between_two_moves(moves, there, tmp_path):
    folder = save_adapter(version(0), tmp_path / "a")
    killed_after(moves, folder, 1)
    assert there in what_is_there(folder)
    save_adapter(version(1), folder)  # and it is mended by saving again
    assert what_is_there(folder) == "version 1"
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.skipif(WITHOUT_FORK, reason="needs os.fork and SIGKILL")
def test_the_first_save_killed_between_its_files_is_no_adapter(tmp_path):
    killed_after(2, tmp_path / "a", 1)
    assert "can't find 'adapter_config.json'" in what_is_there(tmp_path / "a")


@pytest.mark.skipif(WITHOUT_FORK, reason="needs os.fork and SIGKILL")
@pytest.mark.parametrize("i", (0, 1, 2))
def test_a_mixture_stays_one_when_the_next_save_is_killed_too(i, tmp_path):
    """The second save finds half of 0 and half of 1, and dies before it has moved anything but its note."""
    folder = save_adapter(version(0), tmp_path / "a")
    killed_after(2, folder, 1)
    killed_after(1, folder, i)
    assert "a save was cut off" in what_is_there(folder)
    killed_after(3, folder, 1)
    assert what_is_there(folder) == "version 1"


@pytest.mark.skipif(WITHOUT_FORK, reason="needs os.fork and SIGKILL")
def test_a_mixture_that_peft_wrote_over_since_is_none(tmp_path):
    folder = save_adapter(version(0), tmp_path / "a")
    killed_after(2, folder, 1)
    its = peft.get_peft_model(copy_of_plain(), peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"]))
    its.save_pretrained(folder)
    assert (folder / adapter_files.NOTE).exists()
    load_adapter(copy_of_plain(), folder)
    for damaged in ("", "[]", "{}", '{"adapter_config.json": 3}', "[" * 100_000):
        (folder / adapter_files.NOTE).write_text(damaged)
        assert "a save was cut off" in what_is_there(folder)


@pytest.mark.skipif(WITHOUT_FORK, reason="needs os.fork and SIGKILL")
def test_kills_at_random_moments_leave_the_old_or_the_new_adapter_or_an_error(tmp_path):
    """A child saves the two versions in turn until it is killed, some moves of a file later and somewhat more.

    Moves and not milliseconds, in which a busy machine might not come to a single one.
    """
    rng, folder, seen = random.Random(5), tmp_path / "a", set()
    versions, replace = (version(0), version(1)), os.replace

    for _ in range(40):
        told, tell = os.pipe()

        def slowly(*args, tell=tell) -> None:
            replace(*args)
            os.write(tell, b".")
            time.sleep(0.001)

        def work(slowly=slowly) -> None:
            os.replace = slowly
            for i in range(100_000):
                save_adapter(versions[i % 2], folder)

        child = in_a_child(work)
        os.close(tell)
        for _ in range(rng.randrange(1, 13)):
            assert os.read(told, 1), "the child has ended by itself"
        time.sleep(rng.random() * 0.003)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        seen.add(what_is_there(folder).partition(str(folder))[0])
    assert {"version 0", "version 1"} <= seen, seen


def test_a_save_during_a_load_is_noticed(tmp_path, monkeypatch):
    """Another process saves after the configuration was read and before the weights are."""
    folder = save_adapter(version(0), tmp_path / "a")
    read = adapter_files._read_tensors

    def meanwhile(path):
        save_adapter(version(1), folder)
        return read(path)

    monkeypatch.setattr(adapter_files, "_read_tensors", meanwhile)
    assert "was saved again while it was read" in what_is_there(folder)
