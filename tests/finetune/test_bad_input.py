"""What can go wrong in a fine-tune is one sentence with a way forward, a status above 0, and no half-written file."""

from __future__ import annotations

import errno

import httpx
import pytest
import torch
from huggingface_hub import HfApi

from lora_lab import run_folder, storage
from lora_lab.trainer import LabTrainer
from tests.finetune.conftest import flags


@pytest.fixture
def fails(lab, quick, tmp_path):
    """Runs a fine-tune that must fail; returns the sentence. Nothing may be left of the folder unless `kept`."""

    def run(*words, kept: bool = False, status: int = 1, **changes) -> str:
        folder = tmp_path / "out"
        found, out, err = lab("finetune", *flags(quick | changes), "--output", folder, "--quiet", *words)
        assert found == status
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        assert kept or not folder.exists()
        assert not list(folder.rglob("*.partial*"))
        return err

    return run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, ["rank must be at least 1, got 0"]),
        ({"rank": -4}, ["rank must be at least 1, got -4"]),
        ({"alpha": 0}, ["alpha", "0"]),
        ({"alpha": "nan"}, ["alpha", "nan"]),
        ({"dropout": 1.5}, ["dropout", "1.5"]),
        ({"lr": 0}, ["lr must be above 0, got 0", "default here is"]),
        ({"lr": "nan"}, ["lr must be above 0, got nan"]),
        ({"steps": 0}, ["steps must be a whole number of at least 1, got 0"]),
        ({"batch_size": 0}, ["batch_size must be a whole number of at least 1"]),
        ({"max_length": 1}, ["max_length must be at least 2"]),
        ({"max_length": 1000}, ["max_length 1000 is more than", "takes: 256 tokens"]),
        ({"evaluate_every": 0}, ["evaluate_every must be a whole number"]),
        ({"task": "pirat"}, ["no task is called 'pirat'", "Did you mean 'pirate'"]),
        ({"task": "nowhere.txt"}, ["there is no file nowhere.txt"]),
        ({"model": "deep/er/model"}, ["no model 'deep/er/model'"]),
        ({"targets": "q_prj,v_proj"}, ["q_prj", "q_proj"]),
        ({"targets": "(q"}, ["(q"]),
        ({"device": "gpu"}, ["no device is called 'gpu'"]),
    ],
    ids=lambda value: None if isinstance(value, list) else " ".join(f"{k} {v}" for k, v in value.items()),
)
def test_settings_that_cannot_work(fails, changes, words):
    sentence = fails(**changes)
    assert all(w in sentence for w in words), sentence


def test_a_mistyped_model_names_its_neighbour(fails, tiny):
    assert f"Did you mean '{tiny}'" in fails(model=tiny.parent / "tinny")


def test_a_hub_model_without_a_network(fails, monkeypatch):
    def model_info(self, *_, **__):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert "the hub cannot be reached" in fails(model="some/model")


def test_output_that_is_a_file(quick, lab, tmp_path):
    (tmp_path / "out").write_text("mine")
    status, _, err = lab("finetune", *flags(quick), "--output", tmp_path / "out")
    assert status == 1 and "is a file" in err and (tmp_path / "out").read_text() == "mine"


def test_checkpoints_of_another_program_are_not_deleted(quick, lab, tmp_path):
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    status, _, err = lab("finetune", *flags(quick), "--output", tmp_path)
    assert status == 1 and "choose another --output" in err and (tmp_path / "checkpoints" / "mine").exists()


def test_an_adapter_is_not_mixed_into_a_model(quick, lab, tiny):
    status, _, err = lab("finetune", *flags(quick), "--output", tiny)
    assert status == 1 and "holds a whole model already" in err and not (tiny / "checkpoints").exists()


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def broken(error: BaseException):
    def raises(*_, **__):
        raise error

    return raises


@pytest.mark.parametrize(
    "error", [NO_SPACE, RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device")]
)
def test_disk_full_at_the_first_checkpoint(fails, monkeypatch, error):
    monkeypatch.setattr(torch, "save", broken(error))
    sentence = fails()
    assert "the disk is full" in sentence and "Free some space" in sentence


def test_disk_full_later_keeps_what_resume_needs(fails, monkeypatch, tmp_path, lab, quick):
    original, calls = torch.save, []

    def save(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            raise NO_SPACE
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    assert "with --resume" in fails(kept=True)
    assert [p.name for p in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    monkeypatch.undo()
    assert lab("finetune", *flags(quick), "--output", tmp_path / "out", "--resume")[0] == 0


def test_disk_full_at_the_very_end_leaves_no_half_adapter(fails, monkeypatch, tmp_path, lab, quick):
    monkeypatch.setattr(run_folder, "_write_json", broken_after(run_folder._write_json, 1))
    assert "the disk is full" in fails(kept=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["checkpoints"]
    monkeypatch.undo()
    assert lab("finetune", *flags(quick), "--output", tmp_path / "out", "--resume")[0] == 0
    assert (tmp_path / "out" / storage.WEIGHTS_FILE).exists()


def broken_after(function, count: int):
    calls = []

    def run(*args):
        calls.append(1)
        if len(calls) > count:
            raise NO_SPACE
        return function(*args)

    return run


def test_too_little_room_is_said_before_training(fails, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(LabTrainer, "training_step", broken(AssertionError("it trained")))
    assert "MB are needed for checkpoints" in fails()


def test_a_loss_that_is_no_number(fails):
    sentence = fails(lr=1e30)
    assert "the loss became" in sentence and "try a lower one, such as --lr" in sentence


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory(fails, monkeypatch, error):
    monkeypatch.setattr(LabTrainer, "training_step", broken(error))
    sentence = fails()
    assert "out of memory" in sentence and "--batch-size" in sentence and "--checkpointing" in sentence


def test_a_bug_of_ours_shows_its_traceback(quick, lab, monkeypatch, tmp_path):
    monkeypatch.setattr(LabTrainer, "training_step", broken(ZeroDivisionError("a bug")))
    status, _, err = lab("finetune", *flags(quick), "--output", tmp_path / "out")
    assert status == 70 and "Traceback" in err and not (tmp_path / "out").exists()


def test_a_failed_run_leaves_the_adapter_of_the_last_one(quick, lab, tmp_path, monkeypatch):
    assert lab("finetune", *flags(quick), "--output", tmp_path / "out")[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert lab("finetune", *flags(quick | {"lr": 1e30}), "--output", tmp_path / "out")[0] == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_missing_package_is_named_and_a_missing_module_of_ours_stays_a_bug(lab, monkeypatch):
    def lacking(name):
        def main(args):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return main

    from lora_lab import generate

    monkeypatch.setattr(generate, "main", lacking("no_such_package.part"))
    status, _, err = lab("generate", "Once")
    assert status == 1 and "needs the package no_such_package, which is not installed here: pip install" in err
    monkeypatch.setattr(generate, "main", lacking("torch.no_such_part"))
    status, _, err = lab("generate", "Once")
    assert status == 70 and "Traceback" in err
