"""Two processes on this machine (gloo) against one: the same training, one writer, and a way on when one is lost.

All launches are in this file, so that none runs beside another when files are shared out among pytest's workers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_lab import processes
from lora_lab.finetune import finetune
from lora_lab.trainer import LabTrainer
from tests.finetune.conftest import WORDS, flags, last_json, tiny  # noqa: F401

WORKER = Path(__file__).parent / "worker.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
COMMAND = ["-m", "lora_lab", "finetune"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
LIMIT = 120  # seconds; a launch takes about ten on a quiet machine


@pytest.fixture(scope="module", autouse=True)
def in_one_thread(one_thread):
    """Two processes of one thread each are compared with one of one thread."""


@pytest.fixture(scope="module")
def options(tiny, tmp_path_factory) -> dict:  # noqa: F811
    """A fine-tune of six steps. Some examples are ten times as long as others, and an epoch ends with half a batch."""
    path = tmp_path_factory.mktemp("texts") / "uneven.jsonl"
    lengths = [25 if i % 3 == 0 else 2 for i in range(20)]
    texts = [" ".join(WORDS[(i + 3 * j) % len(WORDS)] for j in range(n)) for i, n in enumerate(lengths)]
    rows = [json.dumps({"prompt": f"{i}:", "completion": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows), encoding="utf-8")
    options = {"model": tiny, "task": path, "rank": 2, "alpha": 4, "lr": 1e-2, "batch_size": 4, "max_length": 32}
    return options | {"steps": 6, "evaluate_every": 2, "accumulate": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """The same in this process, unbroken, and where it was written."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    return finetune(**options, output=folder, quiet=True), folder


def launch(
    launcher: list[str], *words, fault: tuple | None = None, timeout: float = LIMIT
) -> subprocess.CompletedProcess:
    """Run the command, or the worker with a fault in it, in two processes."""
    what = COMMAND if fault is None else [str(WORKER), *map(str, fault), "finetune"]
    words = [sys.executable, *launcher, *what, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)


def same_training(folder: Path, other: Path) -> None:
    """The losses of two runs to 1e-5, their adapters to 1e-6, and the same files."""
    a, b = (json.loads((f / "training.json").read_text(encoding="utf-8")) for f in (folder, other))
    assert [row.keys() for row in a["curve"]] == [row.keys() for row in b["curve"]]
    for x, y in zip(a["curve"], b["curve"], strict=True):
        assert x == pytest.approx(y, abs=1e-5)
    for name in ("loss_before", "loss_after", "base_loss_before", "base_loss_after"):
        assert a[name] == pytest.approx(b[name], abs=1e-5), name
    assert a["best_step"] == b["best_step"]
    assert a["tokens_per_second"] * a["seconds"] == pytest.approx(b["tokens_per_second"] * b["seconds"])
    mine, its = (load_file(f / "adapter_model.safetensors") for f in (folder, other))
    assert mine.keys() == its.keys()
    assert max(float((mine[k] - its[k]).abs().max()) for k in mine) < 1e-6
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())


def messages(text: str) -> list[str]:
    """What we say when something fails, in lines of our own; the launcher's report is left out."""
    return re.findall(r"\berror: .*|stopped\. .*", text)


def test_two_processes_train_as_one_does_and_say_it_once(options, alone, tmp_path):
    run = launch(TORCHRUN, *flags(options), "--output", tmp_path / "out", "--json")
    assert run.returncode == 0, run.stderr
    same_training(tmp_path / "out", alone[1])
    assert last_json(run.stdout)["loss_after"] == pytest.approx(alone[0].loss_after, abs=1e-5)
    for once in ("memory predicted", "trained in", '"loss_after"'):
        assert run.stdout.count(once) == 1, run.stdout
    assert run.stderr.count("6/6 [") == 1 and "Warning" not in run.stderr, run.stderr


def test_a_lost_process_leaves_a_checkpoint_that_one_process_resumes(options, alone, tmp_path):
    folder = tmp_path / "out"
    run = launch(TORCHRUN, *flags(options), "--output", folder, fault=("kill", 1, 4))
    assert run.returncode != 0
    (said,) = messages(run.stderr)
    assert "a process was lost" in said and "same command with --resume goes on from step 2" in said, said
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["checkpoint-2", "settings.json"]
    finetune(**options, output=folder, quiet=True, resume=True)
    same_training(folder, alone[1])


def test_one_process_stopped_by_hand_is_resumed_by_two(options, alone, tmp_path, monkeypatch):
    folder, original, calls = tmp_path / "out", LabTrainer.training_step, []

    def training_step(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(LabTrainer, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt, match="step 4"):
        finetune(**options, output=folder, quiet=True)
    run = launch(ACCELERATE, *flags(options), "--output", folder, "--resume")
    assert run.returncode == 0, run.stderr
    same_training(folder, alone[1])


def test_an_error_of_one_process_ends_all_with_one_message(options, tmp_path):
    run = launch(TORCHRUN, *flags(options), "--output", tmp_path / "out", fault=("break", 1, 4))
    assert run.returncode != 0 and messages(run.stderr) == ["error: this process alone went wrong"], run.stderr
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-2").is_dir()


def test_a_full_disk_of_the_writer_ends_all_with_one_message(options, tmp_path):
    run = launch(TORCHRUN, *flags(options), "--output", tmp_path / "out", fault=("full", 0, 2))
    (said,) = messages(run.stderr)
    assert run.returncode != 0 and said.startswith("error: the disk is full") and "--resume" in said
    assert [p.name for p in (tmp_path / "out" / "checkpoints").glob("*checkpoint*")] == ["checkpoint-2"]


def test_a_loss_that_is_no_number_ends_all_with_one_message(options, tmp_path):
    run = launch(TORCHRUN, *flags(options | {"lr": 1e30}), "--output", tmp_path / "out")
    (said,) = messages(run.stderr)
    assert run.returncode != 0 and "loss became nan" in said and not (tmp_path / "out").exists()


def test_stopped_by_hand_is_said_once(options, tmp_path):
    words = [sys.executable, *TORCHRUN, str(WORKER), "wait", "0", "4", "finetune", *flags(options), "--quiet"]
    with subprocess.Popen(
        [*words, "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as run:
        assert "waiting" in run.stdout.readline()
        os.killpg(run.pid, signal.SIGINT)  # what a terminal does on ^C: launcher and processes alike
        _, err = run.communicate(timeout=LIMIT)
    (said,) = messages(err)
    assert said.startswith("stopped.") and "checkpoint-2 is kept: the same command with --resume" in said, err


def test_a_batch_that_cannot_be_shared_is_refused_once(options, tmp_path):
    run = launch(TORCHRUN, *flags(options | {"batch_size": 5}), "--output", tmp_path / "out")
    (said,) = messages(run.stderr)
    assert run.returncode != 0 and "batch_size 5 cannot be shared equally by 2 processes" in said
    assert "use 4 or 6" in said and not (tmp_path / "out").exists()


def test_a_process_alone_is_the_main_one_and_waits_for_nobody():
    assert (processes.count(), processes.index(), processes.is_main()) == (1, 0, True)
    processes.wait()
    assert processes.total(1.5, 2) == [1.5, 2] and processes.from_main("x") == "x"
    assert processes.share([1, 2, 3]) == [1, 2, 3] and processes.rows_each(5) == 5
    assert not processes.lost(RuntimeError("gloo")) and processes.lost(processes.Stopped())


def test_no_signal_is_listened_to_without_a_launcher():
    before = signal.getsignal(signal.SIGTERM)
    seen = processes.together(lambda device: signal.getsignal(signal.SIGTERM))(device="cpu")
    processes.end_in_peace()
    assert seen == before == signal.getsignal(signal.SIGTERM)
    assert torch.distributed.is_available() and not torch.distributed.is_initialized()
