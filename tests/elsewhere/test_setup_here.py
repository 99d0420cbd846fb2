"""setup_here.py: what it takes for missing, what it keeps, and which torch it asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import course
import setup_here
from tests.elsewhere import colab

ROOT = Path(__file__).parents[2]
COLAB = {**colab.pins(), "torch": "2.11.0+cu128"}


@pytest.fixture
def asked():
    """What pip was asked to install, each with the constraints it was given."""
    calls = []

    def run(command):
        words = command[command.index("install") + 1 :]
        kept = Path(words[words.index("-c") + 1]).read_text(encoding="utf-8") if "-c" in words else ""
        calls.append(([word for word in words if ">=" in word or "==" in word or word == "-r"], kept.splitlines()))
        return 0

    run.calls = calls
    return run


def test_colab_lacks_nothing_and_nothing_is_run(asked):
    assert set(setup_here.needs()) <= set(COLAB)
    assert setup_here.fill_up(asked, COLAB.get) == [] and asked.calls == []


def test_only_what_is_missing_or_too_old_is_installed_and_the_rest_is_kept(asked):
    there = {**COLAB, "peft": "0.9.0", "numpy": "3.0.1"}
    del there["psutil"]
    assert setup_here.fill_up(asked, there.get) == ["psutil", "peft"]
    ((wanted, kept),) = asked.calls
    assert wanted == ["psutil>=5.9.5", "peft>=0.19.1"]
    assert {"torch==2.11.0+cu128", "ipywidgets==7.7.1", "numpy==3.0.1"} <= set(kept)
    assert not any(line.startswith(("peft", "psutil")) for line in kept)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_missing_torch_is_the_cpu_build_where_there_is_no_driver(asked, monkeypatch, reachable):
    monkeypatch.setattr(course, "nvidia_driver", lambda: False)
    monkeypatch.setattr(setup_here.platform, "system", lambda: "Linux")
    monkeypatch.setattr(course, "reachable", lambda url: reachable)
    there = {name: version for name, version in COLAB.items() if name not in ("torch", "peft")}
    setup_here.fill_up(asked, there.get)
    wanted = [words for words, _ in asked.calls]
    assert wanted == ([["torch>=2.11"], ["peft>=0.19.1"]] if reachable else [["torch>=2.11", "peft>=0.19.1"]])


def test_exact_is_requirements_txt_after_the_cpu_build(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_here.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(course, "nvidia_driver", lambda: False)
    monkeypatch.setattr(setup_here.platform, "system", lambda: "Linux")
    monkeypatch.setattr(course, "reachable", lambda url: True)
    monkeypatch.setattr(setup_here, "installed", lambda name: None)
    setup_here.exact(asked)
    assert [words for words, _ in asked.calls] == [[course.torch_pin()], ["-r"]]
    monkeypatch.setattr(setup_here, "installed", lambda name: "2.13.0")
    setup_here.exact(asked)
    assert [words for words, _ in asked.calls][2:] == [["-r"]]
    assert "fetchNews" in next(tmp_path.rglob("overrides.json")).read_text(encoding="utf-8")


def test_versions_are_compared_as_numbers():
    assert setup_here.lacking({"a": "2.11", "b": "2.11"}, {"a": "2.9.1", "b": "2.11.0+cu128"}.get) == {"a": "2.11"}
    assert setup_here.lacking({"a": "5.9"}, {"a": "5.10.0rc1"}.get) == {}


def test_it_imports_the_standard_library_and_course_alone():
    source = (ROOT / "setup_here.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported - {"course"} <= setup_here.sys.stdlib_module_names and "http" not in source


def test_what_it_can_install_is_what_the_course_pins():
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert all(re.search(rf"^{name}==", pins, re.MULTILINE) for name in setup_here.needs())
    assert len(setup_here.needs()) == len(project["dependencies"]) + len(project["optional-dependencies"]["lessons"])
