"""The course on Colab's packages, ipywidgets 7.7 above all: what moves, what asks, and two whole lessons."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lora_lab import explorers
from tests.elsewhere import colab

ROOT = Path(__file__).parents[2]
# This environment's nbval does not go with that kernel; nor does the plain `pytest` of pyproject.toml.
PLAIN = ["-o", "addopts=--import-mode=importlib"]
PANELS = ["tests/test_explorers.py", "tests/test_practice.py", "tests/interview/test_drill_panel.py"]
PANELS += ["tests/interview/test_flashcards.py", "tests/interview/test_mock_interview.py"]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    folder = os.environ.get("LORA_LAB_COLAB")
    if not folder:
        pytest.skip("LORA_LAB_COLAB is not set: it names a folder made by  python -m tests.elsewhere.colab FOLDER")
    path = os.pathsep.join([folder, str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def program(environment, *words: str) -> str:
    """What a Python program says, which must end well."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


def test_the_folder_holds_colabs_versions(environment):
    found = importlib.metadata.distributions(path=[environment["LORA_LAB_COLAB"]])
    plain = lambda name: name.lower().replace("-", "_")  # noqa: E731
    versions = {plain(distribution.metadata["Name"]): distribution.version for distribution in found}
    assert {plain(name): version for name, version in colab.pins().items()} == versions


def test_the_set_up_script_finds_nothing_to_install(environment):
    assert program(environment, "setup_here.py", "--check") == "Nothing is missing.\n"


def test_every_explorer_is_built_and_every_control_moved(environment):
    said = program(environment, "tests/elsewhere/move_everything.py")
    assert f"ipywidgets {colab.pins()['ipywidgets']}: {len(explorers.MODULES)} explorers moved" in said


def test_exercises_quizzes_and_drills_pass_their_own_tests(environment):
    program(environment, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:nbval", *PLAIN, *PANELS)


@pytest.mark.parametrize("name", ["00_start_here", "04_counting"])
def test_a_whole_lesson_runs_in_that_kernel(environment, name, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # a kernel that someone installed for themselves is not ours
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    versions = "import ipykernel, ipywidgets\n\nprint(ipykernel.__version__, ipywidgets.__version__)"
    notebook.cells.append(nbformat.v4.new_code_cell(versions))
    places = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=places)
    client.execute(env=environment)
    assert notebook.cells[-1].outputs[0].text.split() == [colab.pins()["ipykernel"], colab.pins()["ipywidgets"]]
    outputs = [output for state in client.widget_state.values() for output in state.get("outputs", [])]
    assert [output for output in outputs if output["output_type"] == "error"] == []
