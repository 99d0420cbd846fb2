"""Binder, Docker and public CI: the files that nobody here can run say what the course says. No network, no engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import course
import setup_here
from tests import versions

ROOT = Path(__file__).parents[2]
PYTHONS = [f"3.{minor}" for minor in range(course.OLDEST[1], course.NEWEST[1] + 1)]


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """(instruction, its words), comments left out and continued lines joined."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def said(word: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == word]


# --- Binder -----------------------------------------------------------------------------------------------------------


def test_binder_has_a_python_that_will_do_and_one_command():
    folder = ROOT / ".binder"
    assert sorted(path.name for path in folder.iterdir()) == ["postBuild", "runtime.txt"]
    assert (folder / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-") in PYTHONS
    script = (folder / "postBuild").read_text(encoding="utf-8")
    assert script.startswith("#!/bin/sh\n")
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands == ["set -e", "python setup_here.py --exact"]


def test_its_script_can_be_run():
    run = subprocess.run(["git", "ls-files", "-s", ".binder/postBuild"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("no checkout of the repository: whether a file may be run is read from git")
    assert run.stdout.startswith("100755 ")


# --- Docker -----------------------------------------------------------------------------------------------------------


def test_the_image_is_pinned_and_its_python_is_binders():
    (image,) = said("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", image)
    assert f"python-{version[1]}" == (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()


def test_learners_are_not_root_and_the_port_is_one():
    assert said("USER") == ["1000"] and any("useradd" in words and "--uid 1000" in words for words in said("RUN"))
    last = [instruction for instruction, _ in instructions()]
    assert last.index("USER") < last.index("CMD") and last[-1] == "CMD"
    assert said("EXPOSE") == ["8888"] and any("JUPYTER_PORT=8888" in words for words in said("ENV"))


def test_everything_is_installed_by_the_script_that_binder_runs():
    assert "python setup_here.py --exact" in said("RUN")
    assert said("COPY") == [". ."]


def test_a_learner_can_read_what_somebody_with_a_strict_umask_built():
    words = [(instruction, words) for instruction, words in instructions() if instruction != "ENV"]
    place = words.index(("COPY", ". ."))
    assert words[place + 1] == ("RUN", "chmod -R a+rX .") and ("USER", "1000") in words[place:]


def test_what_the_image_needs_is_not_left_out_and_history_is():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    needed = ["setup_here.py", "course.py", "requirements.txt", "pyproject.toml", "README.md", "LICENSE", "notebooks"]
    needed += ["lora_lab/runs.py", "lora_lab/assets/base/model.safetensors", "notebooks/00_start_here.ipynb"]
    for path in needed:
        assert (ROOT / path).exists()
        parts = [part for i in range(path.count("/") + 1) for part in ["/".join(path.split("/")[: i + 1])]]
        assert not [p for p in ignored for part in parts if fnmatch(part, p) or fnmatch("/" + part, p[2:])], path
    assert {".git", ".venv*", "**/runs", "build"} <= set(ignored)


@pytest.mark.skipif(os.name == "nt", reason="the image's commands are for its own sh")
def test_the_server_starts_with_lessons_in_the_home_and_the_health_check_tells(tmp_path):
    """The image's own last two commands, in a home of its own, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (command,), (health,) = said("CMD"), said("HEALTHCHECK")
    command = [word.replace("/opt/lora-lab", str(ROOT)) for word in json.loads(command)]
    health = json.loads(health[health.index("[") :])
    command[-1] += " --allow-root" if os.geteuid() == 0 else ""
    there = os.environ | {"JUPYTER_PORT": port, "JUPYTER_TOKEN": "secret", "HOME": str(tmp_path)}
    there |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    there |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    healthy = lambda: subprocess.run(health, env=there, capture_output=True).returncode == 0  # noqa: E731
    assert not healthy()
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=there, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 180
        while not healthy():
            assert server.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.3)
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert (tmp_path / "notebooks" / "00_start_here.ipynb").is_file()


# --- public CI --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workflow():
    yaml = pytest.importorskip("yaml")  # comes with huggingface_hub
    return yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))


def test_public_ci_meets_every_system_and_every_python(workflow):
    job = workflow["jobs"]["course"]
    assert job["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest", "windows-latest"],
        "python": PYTHONS,
    }
    assert [step["run"] for step in job["steps"] if "run" in step] == ["python course.py test"]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert wanted == f">={PYTHONS[0]},<3.{course.NEWEST[1] + 1}"


def test_public_ci_asks_for_versions_that_the_command_knows(workflow):
    asked = workflow["jobs"]["versions"]["strategy"]["matrix"]["versions"]
    oldest = setup_here.parts(setup_here.needs()["torch"])
    chosen = [versions.parse(shlex.split(words))[1] for words in asked]
    assert {"torch": "newest"} in chosen and setup_here.needs() in chosen
    assert any(setup_here.parts(pins["torch"])[:2] == oldest for pins in chosen if pins["torch"] != "newest")


def test_what_public_ci_runs_is_there(workflow):
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            for word in shlex.split(step.get("run", "")):
                if word.startswith("tests.") or word.endswith(".py"):
                    assert (ROOT / (word.replace(".", "/") + ".py" if word.startswith("tests.") else word)).exists()
    assert workflow["permissions"] == {"contents": "read"}
