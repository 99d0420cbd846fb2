"""The doctor: it finds what is there, says what works without the rest, and never crashes."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_lab import doctor

ROOT = Path(__file__).parent.parent


@pytest.fixture
def base(tmp_path):
    """A whole model folder of 12 + 4 parameters, with its recorded hash."""
    for name in doctor.BASE_FILES:
        (tmp_path / name).write_text("{}")
    tensors = {"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.zeros(4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    record(tmp_path)
    return tmp_path


def record(folder):
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "training.json").write_text(json.dumps({"weights_sha256": digest}))


def test_it_finds_what_is_here():
    found = {row.what: row for row in doctor.findings()}
    assert found["Python"].found.startswith(".".join(map(str, sys.version_info[:3])))
    assert found["torch"].found.startswith(torch.__version__)
    assert found["JupyterLab"].found == importlib.metadata.version("jupyterlab")
    assert found["peft"].fine and found["ipywidgets"].fine
    assert int(found["cores"].found) >= 1
    assert "GiB free" in found["disk"].found and "GiB of it free" in found["memory"].found


def test_the_embedded_base_model_is_whole():
    row = doctor.base_model()
    assert row.fine, row
    assert "5,770,496 parameters" in row.found


def test_a_whole_model_is_counted_and_its_hash_compared(base):
    assert doctor.base_model(base).found.startswith("16 parameters")


@pytest.mark.parametrize("what", ["missing", "cut", "changed", "garbled", "no record"])
def test_a_model_that_is_not_whole_is_noticed_with_what_to_do(base, what):
    weights = base / "model.safetensors"
    data = weights.read_bytes()
    if what == "missing":
        weights.unlink()
    elif what == "cut":
        weights.write_bytes(data[:-4])
        record(base)  # even where the hash agrees
    elif what == "changed":
        weights.write_bytes(data[:-1] + b"\x01")
    elif what == "garbled":
        weights.write_bytes(b"\x02" + bytes(7) + b"[]")
        record(base)
    else:
        (base / "training.json").unlink()
    row = doctor.base_model(base)
    assert not row.fine and "git checkout" in row.advice
    assert str(base) not in row.found


@pytest.mark.parametrize("error", [ImportError("No module named 'torch'"), OSError("libgomp.so.1: cannot open")])
def test_a_torch_that_does_not_load_is_a_finding(error, monkeypatch):
    def broken(name):
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = {row.what: row for row in doctor.findings()}
    assert not found["torch"].fine and str(error) in found["torch"].found
    assert "lesson 00 works" in found["torch"].advice
    assert not found["device"].fine


def test_it_runs_where_nothing_is_installed():
    """-S: no site-packages at all."""
    run = subprocess.run([sys.executable, "-S", "-m", "lora_lab", "doctor"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr == ""
    for missing in ("torch", "JupyterLab", "ipywidgets", "transformers", "peft", "matplotlib"):
        assert missing in run.stdout.splitlines()[-1]
    assert "No module named 'torch'" in run.stdout and "`finetune` and `generate` work" in run.stdout


def fake_torch(cuda, available):
    gpu = types.SimpleNamespace(name="Card", total_memory=80 * 2**30)
    return types.SimpleNamespace(
        version=types.SimpleNamespace(cuda=cuda),
        cuda=types.SimpleNamespace(is_available=lambda: available, get_device_properties=lambda index: gpu),
    )


def test_devices(monkeypatch):
    monkeypatch.setattr(doctor, "_import_torch", lambda: fake_torch("13.0", True))
    assert doctor.device().found == "Card, 80 GiB; models load in bf16"
    monkeypatch.setattr(doctor, "_import_torch", lambda: fake_torch(None, False))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.device().fine and "no CUDA GPU" in doctor.device().found
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    assert "python course.py --gpu" in doctor.device().advice


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 15, 0)])
def test_a_python_that_was_not_tried_is_said(version, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert not doctor.python().fine and "3.11 to 3.14" in doctor.python().advice


def test_little_memory_and_disk_are_said(monkeypatch):
    psutil = types.SimpleNamespace(virtual_memory=lambda: types.SimpleNamespace(total=2 * 2**30, available=2**30))
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert not doctor.memory().fine and "1.0 GiB of it free" in doctor.memory().found
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**29))
    assert not doctor.disk().fine and "0.5 GiB" in doctor.disk().found


def test_the_report_names_what_to_look_at(monkeypatch, capsys):
    rows = [doctor.Finding("Python", "3.12"), doctor.Finding("JupyterLab", "not installed", False, "without it: x")]
    text = doctor.report(rows)
    assert text.splitlines() == [
        "ok  Python      3.12",
        "--  JupyterLab  not installed",
        "                without it: x",
        "Look at: JupyterLab.",
    ]
    assert doctor.report(rows[:1]).endswith("Everything the course needs is here.")
    monkeypatch.setattr(doctor, "findings", lambda: rows)
    assert doctor.main(argparse.Namespace()) == 1
    monkeypatch.setattr(doctor, "findings", lambda: rows[:1])
    assert doctor.main(argparse.Namespace()) == 0
    assert "everything the course needs" in capsys.readouterr().out.lower()
