"""A run that is killed, really killed, and resumed ends where an unbroken one does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lora_lab.finetune import finetune
from lora_lab.trainer import LabTrainer
from tests.finetune.conftest import flags, last_json

WITHOUT_SIGKILL = not hasattr(signal, "SIGKILL")
# Runs the command in a process that kills itself with SIGKILL, which nothing can catch or clean up after.
KILLED = """
import os, signal, sys, torch
from lora_lab import __main__, trainer
torch.set_num_threads(1)
calls, method, count = 0, sys.argv[1], int(sys.argv[2])
original = getattr(trainer.LabTrainer, method)
def deadly(self, *args, **kwargs):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
setattr(trainer.LabTrainer, method, deadly)
__main__.main(sys.argv[3:])
"""
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def options(quick):
    # Dropout, so that the state of the random numbers counts too; 36 examples in batches of 4 make an epoch of 9 steps.
    return quick | {"steps": 22, "evaluate_every": 5, "dropout": 0.1}


@pytest.fixture(scope="module")
def unbroken(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    torch.set_num_threads(1)
    return finetune(**options, output=folder, quiet=True), folder


def kill(method: str, count: int, options: dict, folder) -> None:
    words = ["finetune", *flags(options), "--output", str(folder), "--quiet"]
    run = subprocess.run([sys.executable, "-c", KILLED, method, str(count), *words], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr


@pytest.mark.skipif(WITHOUT_SIGKILL, reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("method", "count", "last_whole"),
    [
        ("training_step", 18, 15),  # between two checkpoints, in the second epoch
        ("_save_rng_state", 2, 5),  # in the middle of writing the second checkpoint
    ],
)
def test_killed_and_resumed_is_as_if_unbroken(method, count, last_whole, options, unbroken, tmp_path, lab):
    folder = tmp_path / "out"
    kill(method, count, options, folder)
    whole = sorted(p.name for p in (folder / "checkpoints").glob("checkpoint-*"))
    assert f"checkpoint-{last_whole}" in whole
    assert not any((folder / name).exists() for name in FILES)

    status, out, err = lab("finetune", *flags(options), "--output", folder, "--resume", "--json")
    assert status == 0, err
    result, (expected, other) = last_json(out), unbroken
    assert result["loss_after"] == expected.loss_after
    assert result["loss_before"] == expected.loss_before
    assert json.loads((folder / "training.json").read_text())["curve"] == expected.curve
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "training.json"])


def test_full_fine_tuning_resumes_too(options, tmp_path, monkeypatch):
    options = options | {"method": "full", "lr": 1e-3, "dropout": 0.0, "quiet": True}
    expected = finetune(**options)
    stop_at(monkeypatch, 13)
    with pytest.raises(KeyboardInterrupt):
        finetune(**options, output=tmp_path / "out")
    monkeypatch.undo()
    resumed = finetune(**options, output=tmp_path / "out", resume=True)
    assert resumed.loss_after == expected.loss_after and resumed.curve == expected.curve


def stop_at(monkeypatch, step: int) -> None:
    """^C in the middle of this step."""
    original, calls = LabTrainer.training_step, []

    def training_step(self, *args):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(LabTrainer, "training_step", training_step)


def test_stopped_by_hand_says_how_to_go_on(options, tmp_path, lab, monkeypatch):
    stop_at(monkeypatch, 13)
    status, _, err = lab("finetune", *flags(options), "--output", tmp_path / "out")
    assert status == 130
    assert "checkpoint-10 is kept: the same command with --resume goes on from step 10" in err
    assert "Traceback" not in err


def test_stopped_before_the_first_checkpoint_leaves_nothing(options, tmp_path, lab, monkeypatch):
    stop_at(monkeypatch, 3)
    status, _, err = lab("finetune", *flags(options), "--output", tmp_path / "out")
    assert status == 130 and "stopped." in err and not (tmp_path / "out").exists()


def test_a_checkpoint_is_an_adapter_and_what_resuming_needs(options, tmp_path, monkeypatch):
    stop_at(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        finetune(**options, output=tmp_path / "out", quiet=True)
    folder = tmp_path / "out" / "checkpoints" / "checkpoint-10"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*FILES, "optimizer.pt", "progress.json", "rng_state.pth", "scheduler.pt", "trainer_state.json"]
    )
    assert all(".lora_" in name for name in load_file(folder / FILES[1]))
    assert sum(p.stat().st_size for p in folder.iterdir()) < 100_000  # the model itself would be 0.6 MB


def test_resume_with_other_settings_is_refused(options, tmp_path, lab, monkeypatch):
    stop_at(monkeypatch, 12)
    lab("finetune", *flags(options), "--output", tmp_path / "out")
    monkeypatch.undo()
    status, _, err = lab("finetune", *flags(options | {"rank": 3}), "--output", tmp_path / "out", "--resume")
    assert status == 1 and "was started with rank 2, not 3" in err
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-10").is_dir()


def test_what_saves_memory_may_be_added_when_a_run_is_resumed(options, unbroken, tmp_path, monkeypatch):
    stop_at(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        finetune(**options, loss_chunk=0, output=tmp_path / "out", quiet=True)
    monkeypatch.undo()
    more = {"checkpointing": True, "loss_chunk": 30, "resume": True}
    result = finetune(**options, **more, output=tmp_path / "out", quiet=True)
    assert result.loss_after == pytest.approx(unbroken[0].loss_after, abs=1e-5)
    assert len(result.curve) == len(unbroken[0].curve)


def test_nothing_to_resume(options, tmp_path, unbroken, lab):
    status, _, err = lab("finetune", *flags(options), "--output", tmp_path / "out", "--resume")
    assert status == 1 and "no checkpoint there" in err and not (tmp_path / "out").exists()
    status, _, err = lab("finetune", *flags(options), "--output", unbroken[1], "--resume")
    assert status == 1 and "has finished" in err
    assert (unbroken[1] / "adapter_model.safetensors").exists()


def test_killed_after_the_last_step_is_finished_by_resume(options, unbroken, tmp_path, monkeypatch):
    from lora_lab.run_folder import RunFolder

    def finish(self, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "finish", finish)
    with pytest.raises(KeyboardInterrupt, match="step 22"):
        finetune(**options, output=tmp_path / "out", quiet=True)
    monkeypatch.undo()
    result = finetune(**options, output=tmp_path / "out", quiet=True, resume=True)
    assert result.loss_after == unbroken[0].loss_after and result.curve == unbroken[0].curve
    assert result.best_step == unbroken[0].best_step and result.seconds > 0


def test_an_adapter_read_again_is_computed_as_before(tiny, tmp_path):
    from lora_lab import fused, models
    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig
    from lora_lab.trainer import read_weights, write_weights

    model = models.load_model(tiny, "cpu")
    add_adapter(model, LoraConfig(rank=2, alpha=4))
    write_weights(model, tmp_path)
    for on in (True, False):
        layers = fused.fuse(model, on)
        read_weights(model, tmp_path)
        found = [module.fused for module in model.modules() if hasattr(module, "fused")]
        assert found == [on] * layers and layers > 0
