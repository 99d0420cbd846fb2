"""Two processes on this machine (gloo) against one: the same training, one writer, and a way on when one is lost.

All launches are in this file, so that none runs beside another when files are shared out among pytest's workers.
"""

from __future__ import annotations

import argparse
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

from lora_lab import finetune_command, memory, processes, shapes
from lora_lab.__main__ import leave, main
from lora_lab.finetune import finetune
from lora_lab.trainer import LabTrainer
from tests.finetune.conftest import WORDS, flags, last_json, tiny  # noqa: F401

WORKER = Path(__file__).parent / "worker.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Also without a GPU: its --cpu starts one process, however many are asked for. Port 0 is any that is free.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
COMMAND = ["-m", "lora_lab", "finetune"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
PROBE = Path(__file__).parent / "probe.py"
ROOT = Path(__file__).parents[2]
CHECKPOINT = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "progress.json",
    "rng_state_0.pth",
    "rng_state_1.pth",
    "scheduler.pt",
    "trainer_state.json",
]
# A stand-in for what a thread that still holds a tensor does when Python is taken apart around it.
FRAGILE = """
import os, sys
class Thread:
    __del__ = staticmethod(os.abort)
if "RANK" in os.environ:
    sys.held_to_the_end = Thread()
"""
LIMIT = 300  # seconds; a launch takes about ten on a quiet machine


@pytest.fixture(scope="module", autouse=True)
def in_one_thread(one_thread):
    """Two processes of one thread each are compared with one of one thread."""


@pytest.fixture(scope="module")
def options(tiny, tmp_path_factory) -> dict:  # noqa: F811
    """A fine-tune of six steps, each of two passes of two examples.

    Some examples are ten times as long as others, and an epoch ends with one alone: a pass in which one of two
    processes has nothing to learn from.
    """
    path = tmp_path_factory.mktemp("texts") / "uneven.jsonl"
    lengths = [25 if i % 3 == 0 else 2 for i in range(21)]
    texts = [" ".join(WORDS[(i + 3 * j) % len(WORDS)] for j in range(n)) for i, n in enumerate(lengths)]
    rows = [json.dumps({"prompt": f"{i}:", "completion": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows), encoding="utf-8")
    options = {"model": tiny, "task": path, "rank": 2, "alpha": 4, "lr": 1e-2, "batch_size": 2, "max_length": 32}
    return options | {"steps": 6, "evaluate_every": 2, "accumulate": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """The same in this process, unbroken, and where it was written."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    return finetune(**options, output=folder, quiet=True), folder


def launch(launcher: list[str], *words, fault: tuple | None = None, path: Path = ROOT) -> subprocess.CompletedProcess:
    """Run the command, or the worker with a fault in it, in two processes; Python looks for modules in `path` too."""
    what = COMMAND if fault is None else [str(WORKER), *map(str, fault), "finetune"]
    words = [sys.executable, *launcher, *what, *map(str, words)]
    env = ENVIRONMENT | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=LIMIT)


def same_training(folder: Path, other: Path) -> None:
    """The losses of two runs to 1e-5, their adapters to 1e-6, and the same files."""
    a, b = (json.loads((f / "training.json").read_text(encoding="utf-8")) for f in (folder, other))
    assert [row.keys() for row in a["curve"]] == [row.keys() for row in b["curve"]]
    for x, y in zip(a["curve"], b["curve"], strict=True):
        assert x == pytest.approx(y, abs=1e-5)
    for name in ("loss_before", "loss_after", "base_loss_before", "base_loss_after"):
        assert a[name] == pytest.approx(b[name], abs=1e-5), name
    assert (a["best_step"], a["trainable"], a["total"]) == (b["best_step"], b["trainable"], b["total"])
    assert a["tokens_per_second"] * a["seconds"] == pytest.approx(b["tokens_per_second"] * b["seconds"])
    mine, its = (load_file(f / "adapter_model.safetensors") for f in (folder, other))
    assert mine.keys() == its.keys()
    assert max(float((mine[k] - its[k]).abs().max()) for k in mine) < 1e-6
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())


def messages(text: str) -> list[str]:
    """What we say when something fails, in lines of our own; the launcher's report is left out."""
    return re.findall(r"\berror: .*|stopped\. .*", text)


def test_two_processes_train_as_one_does_and_say_it_once(options, alone, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FRAGILE, encoding="utf-8")
    run = launch(TORCHRUN, *flags(options), "--output", tmp_path / "out", "--json", path=tmp_path)
    assert run.returncode == 0, run.stderr
    same_training(tmp_path / "out", alone[1])
    assert last_json(run.stdout)["loss_after"] == pytest.approx(alone[0].loss_after, abs=1e-5)
    for once in ("shared by 2 processes", "memory predicted", "trained in", '"loss_after"'):
        assert run.stdout.count(once) == 1, run.stdout
    # A bar begins once. Its end can be drawn twice: by a last step that takes long, and when it is closed.
    assert run.stderr.count(" 0/6 [") == 1 and "6/6 [" in run.stderr and "Warning" not in run.stderr, run.stderr


def test_a_lost_process_leaves_a_checkpoint_that_one_process_resumes(options, alone, tmp_path):
    folder = tmp_path / "out"
    run = launch(TORCHRUN, *flags(options), "--output", folder, "--quiet", fault=("kill", 1, 7))
    assert run.returncode != 0
    (said,) = messages(run.stderr)
    assert "a process was lost" in said and "same command with --resume goes on from step 2" in said, said
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["checkpoint-2", "settings.json"]
    finetune(**options, output=folder, quiet=True, resume=True)
    same_training(folder, alone[1])


def test_a_sharded_base_trains_the_same_and_the_loss_of_the_main_process_is_told_by_another(options, tmp_path):
    folder, words = tmp_path / "out", [*flags(options), "--fsdp", "--packing"]  # the model's ends are tied
    run = launch(TORCHRUN, *words, "--output", folder, "--quiet", fault=("kill", 0, 7))
    assert run.returncode != 0
    (said,) = messages(run.stderr)
    assert "a process was lost" in said and "--resume goes on from step 2" in said, said
    assert sorted(p.name for p in (folder / "checkpoints" / "checkpoint-2").iterdir()) == CHECKPOINT
    run = launch(TORCHRUN, *words, "--output", folder, "--resume")
    assert run.returncode == 0, run.stderr
    finetune(**options, packing=True, output=tmp_path / "alone", quiet=True)
    same_training(folder, tmp_path / "alone")


def test_each_process_holds_half_of_a_sharded_base_and_computes_the_same(options):
    run = subprocess.run(
        [sys.executable, *TORCHRUN, str(PROBE), str(options["model"])],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        timeout=LIMIT,
    )
    assert run.returncode == 0, run.stderr
    found = last_json(run.stdout)
    part, whole = found.pop("bytes")
    assert found.pop("every") == [part, part] and 0.5 <= part / whole < 0.51
    assert found.pop("kinds") == ["Tensor"], "the adapter is whole in each process: what is saved is what one has"
    assert found.pop("largest") > 0.01 and len(found) == 6 and set(found.values()) == {0.0}, found


def test_fsdp_alone_or_in_full_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match="this one is alone"):
        finetune(**options, fsdp=True, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_process_stopped_by_hand_is_resumed_by_two(options, alone, tmp_path, monkeypatch):
    folder, original, calls = tmp_path / "out", LabTrainer.training_step, []

    def training_step(self, *args):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(LabTrainer, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt, match="step 4"):
        finetune(**options, output=folder, quiet=True)
    run = launch(ACCELERATE, *flags(options), "--output", folder, "--resume")
    assert run.returncode == 0 and "shared by 2 processes" in run.stdout, run.stderr
    same_training(folder, alone[1])


def test_an_error_of_one_process_ends_all_with_one_message(options, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FRAGILE, encoding="utf-8")
    words = [*flags(options), "--output", tmp_path / "out", "--quiet"]
    run = launch(TORCHRUN, *words, fault=("break", 1, 7), path=tmp_path)
    assert run.returncode != 0 and messages(run.stderr) == ["error: this process alone went wrong"], run.stderr
    assert "SIGABRT" not in run.stderr, "the silent one ends as quietly as the one that speaks"
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "begins"), [(signal.SIGINT, "stopped. "), (signal.SIGTERM, "error: a process was lost, or the launcher")]
)
def test_stopped_by_hand_or_by_the_job_s_end_is_said_once(number, begins, options, tmp_path):
    """^C goes to the launcher and its processes alike; Slurm ends the launcher, which ends its processes."""
    words = [sys.executable, *TORCHRUN, str(WORKER), "wait", "0", "7", "finetune", *flags(options), "--quiet"]
    with subprocess.Popen(
        [*words, "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as run:
        assert "waiting" in run.stdout.readline()
        (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
        _, err = run.communicate(timeout=LIMIT)
    (said,) = messages(err)
    assert said.startswith(begins) and "checkpoint-2 is kept: the same command with --resume" in said, err


@pytest.mark.parametrize(("status", "left"), [(0, 120), (1, 1)])
def test_what_could_not_be_printed_is_told_by_the_status(status, left, monkeypatch):
    class Broken:
        def flush(self):
            raise BrokenPipeError

    statuses = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: statuses.append("cleaned up"))
    monkeypatch.setattr(os, "_exit", statuses.append)
    leave(status)
    assert statuses == ["cleaned up", left]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 4)
    assert processes.rows_each(8) == 2
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared equally by 4 processes.* use 4 or 8"):
        processes.rows_each(6)
    with pytest.raises(ValueError, match="use 4$"):
        processes.rows_each(3)


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


# --- MANY_DEVICES.md and the Slurm script -----------------------------------------------------------------------------

GUIDE = (ROOT / "MANY_DEVICES.md").read_text(encoding="utf-8")
COMMANDS = [
    c for block in re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL) for c in block.splitlines()
]
TRIED = [command for command in COMMANDS if not command.endswith("# not tried")]


def test_the_guide_s_commands_run_here_or_say_that_they_were_not_tried(tmp_path, monkeypatch, capsys):
    count, torchrun, accelerate = (command.split() for command in TRIED)
    assert main(count[3:]) == 0
    needed = re.search(r"^ +lora +.* ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)[1]
    assert f"| {count[5]} | {float(needed):.1f} |" in GUIDE, "the table begins with what the command prints"
    assert ["torchrun", *TORCHRUN[2:], *COMMAND] == torchrun[: len(TORCHRUN) + 2], "as in the tests above"
    assert ["accelerate", "launch", *ACCELERATE[2:], *COMMAND] == accelerate[: len(ACCELERATE) + 3]
    assert torchrun[-7:-1] == accelerate[-7:-1], "the same fine-tune"
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("\n\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(30)), encoding="utf-8")
    run = launch(TORCHRUN, *torchrun[len(TORCHRUN) + 2 :])
    assert run.returncode == 0 and Path("runs/notes/adapter_model.safetensors").is_file(), run.stderr


def test_the_guide_s_table_is_computed():
    rows = re.findall(r"^\| (Llama\S+) \| ([\d. |]+) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 4
    for name, cells in rows:
        shape = shapes.known(name)
        parts = memory.memory(shape, "lora", rows=1, length=2048, rank=16, checkpointing=True)
        base = 2 * shape.total
        beside = sum(parts.values()) - base
        wanted = [f"{(base * processes.held(shape, cards) + beside) / 1e9:.1f}" for cards in (1, 2, 4, 8)]
        assert cells.split(" | ") == wanted, name


@pytest.mark.parametrize("module", ["processes.py", "run_folder.py", "plain_errors.py"])
def test_the_guide_s_messages_are_ours(module):
    text = " ".join((ROOT / "lora_lab" / module).read_text(encoding="utf-8").split())
    lines = {
        "processes.py": ["cannot be shared equally by", "GPUs: start one for each", "and this one is alone"],
        "run_folder.py": ["a process was lost, or the launcher stopped this one", "--output must be shared by all"],
        "plain_errors.py": ["stopped. ", "out of memory. "],
    }[module]
    for words in lines:
        assert words in text and words.strip() in " ".join(GUIDE.split()), words


def test_the_guide_is_linked_and_links_to_what_is_there():
    assert "MANY_DEVICES.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all((ROOT / target).exists() for target in re.findall(r"\]\(([^)]+)\)", GUIDE))


@pytest.mark.skipif(os.name == "nt", reason="Slurm's script is for bash")
@pytest.mark.parametrize("resumed", [False, True])
def test_the_slurm_script_asks_for_what_slurm_gave(resumed, tmp_path):
    """Run by bash, with a Slurm that only says what it was asked for."""
    script = ROOT / "slurm" / "lora_lab.sbatch"
    for name, text in {"scontrol": "echo one; sleep 0.2; echo two", "srun": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    if resumed:
        (tmp_path / "runs" / "pirate-lora" / "checkpoints" / "checkpoint-15").mkdir(parents=True)
    slurm = {"SUBMIT_DIR": tmp_path, "CPUS_PER_TASK": 16, "GPUS_ON_NODE": 4, "JOB_NODELIST": "x", "JOB_NUM_NODES": 2}
    given = {f"SLURM_{key}": str(value) for key, value in (slurm | {"JOB_ID": 7}).items()}
    given |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(["bash", str(script)], capture_output=True, text=True, env=given, timeout=LIMIT)
    assert run.returncode == 0, run.stderr
    words = run.stdout.splitlines()
    assert words[:2] == ["--kill-on-bad-exit=1", "torchrun"] and ("--resume" in words) == resumed
    said = dict(zip(words, words[1:], strict=False))
    assert (said["--nnodes"], said["--nproc-per-node"], said["--rdzv-endpoint"]) == ("2", "4", "one:29500")
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script.read_text(encoding="utf-8"), re.MULTILINE))
    assert directives["ntasks-per-node"] == "1", "torchrun starts the processes of a machine"
    machines, cards = int(directives["nodes"]), int(directives["gpus-per-node"])
    assert int(said["--batch-size"]) % (machines * cards) == 0
    parser = argparse.ArgumentParser()
    finetune_command.arguments(parser)
    parser.parse_args(words[words.index("finetune") + 1 :])  # exits where an option is not the command's
