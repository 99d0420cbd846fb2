"""The first code cell of every lesson: the same text everywhere, silent where the course is installed."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = (Path(__file__).parent / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_lesson_begins_with_it(path):
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert first.source == SOURCE, "edit tests/elsewhere/setup_cell.py and every notebook alike"
    assert (first.id, first.metadata["tags"]) == (f"lesson{path.stem[:2]}-setup", ["setup"])
    assert first.metadata["jupyter"] == {"source_hidden": True}  # a newcomer's first line is not this one
    assert cells.index(first) == 1 and first.outputs == []


def test_where_the_course_is_installed_it_does_nothing():
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(SOURCE, names)
    assert out.getvalue() == "" and set(names) == {"__builtins__", "find_spec"}


# --- as on Colab: no course, no environment, and a service that says what was opened ----------------------------------


@pytest.fixture
def repository(tmp_path) -> Path:
    """The course in small: setup_here.py as it stands, and a package with one line."""
    folder = tmp_path / "public"
    (folder / "lora_lab").mkdir(parents=True)
    (folder / "lora_lab" / "__init__.py").write_text('print("the course, imported")\n', encoding="utf-8")
    for name in ("setup_here.py", "course.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    me = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def sessions():
    """Colab's answer to "what is open here?", and its address as the cell puts it together."""
    opened = urllib.parse.quote("https://github.com/someone/lora-lab/blob/main/notebooks/00_start_here.ipynb", safe="")

    class Handler(http.server.BaseHTTPRequestHandler):
        path_of_the_notebook = "fileId=" + opened

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            kernel = {"path": self.path_of_the_notebook, "name": "00_start_here.ipynb", "type": "notebook"}
            self.wfile.write(json.dumps([kernel]).encode())

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handler, server.ip = Handler, f"127.0.0.1:{server.server_port}/?"  # the cell appends a port: here, a query
    yield server
    server.shutdown()
    server.server_close()


# The course is installed where the tests run: this takes it away again, and pip notes what it is asked instead.
WITHOUT = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(getattr(f, "__module__", f)) + str(f)]
sys.path = [p for p in sys.path if p not in ("", {root!r})]
import subprocess
run = subprocess.run
def noted(command, **options):
    if "pip" not in command:
        return run(command, **options)
    print("PIP", *command[command.index("install") + 1:])
    return run([sys.executable, "-c", "import sys; sys.exit({code})"])
subprocess.run = noted
import importlib.metadata as metadata
version = metadata.version
def pretended(name):
    if name in {absent!r}:
        raise metadata.PackageNotFoundError(name)
    return {other!r}.get(name) or version(name)
metadata.version = pretended
exec(open({cell!r}, encoding="utf-8").read())
import lora_lab
print("at", lora_lab.__file__)
"""


def in_a_bare_kernel(folder, repository=None, absent=(), other=None, code=0, cell=None, **environment):
    folder.mkdir(exist_ok=True, parents=True)
    cell = cell or str(Path(__file__).parent / "setup_cell.py")
    source = WITHOUT.format(root=str(ROOT), absent=set(absent), other=other or {}, code=code, cell=cell)
    there = os.environ | environment
    there.pop("PYTHONPATH", None)
    if repository:  # git goes to the folder where it is told the public address
        there |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": "https://github.com/someone/lora-lab"}
        there |= {"GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf"}
    return subprocess.run([sys.executable, "-c", source], cwd=folder, env=there, capture_output=True, text=True)


def test_opened_from_github_it_clones_the_course_and_installs_what_is_missing_alone(tmp_path, repository, sessions):
    content = tmp_path / "content"
    run = in_a_bare_kernel(content, repository, absent={"peft"}, COLAB_JUPYTER_IP=sessions.ip)
    assert run.returncode == 0, run.stderr
    said, pip, imported, at = run.stdout.splitlines()
    assert said == "Installing what this Python lacks: peft 0.19.1 or newer"
    assert re.search(r"peft>=0\.19\.1 -c \S+keep\.txt$", pip) and "torch" not in pip
    assert imported == "the course, imported" and Path(at[3:]).parent.parent == content / "lora-course"
    again = in_a_bare_kernel(content, COLAB_JUPYTER_IP=sessions.ip)  # a restarted kernel: the clone is still there
    assert again.returncode == 0 and again.stdout.splitlines() == [imported, at], again.stderr


def test_a_copy_in_drive_asks_for_the_address_and_then_takes_it(tmp_path, repository, sessions):
    sessions.handler.path_of_the_notebook = "fileId=1AbCdEf"
    run = in_a_bare_kernel(tmp_path / "content", repository, COLAB_JUPYTER_IP=sessions.ip)
    assert "write the web address of its repository between the quotes of COURSE" in run.stderr
    filled = tmp_path / "cell.py"
    filled.write_text(SOURCE.replace('COURSE = ""', 'COURSE = "https://github.com/someone/lora-lab"'), encoding="utf-8")
    run = in_a_bare_kernel(tmp_path / "content", repository, cell=str(filled), COLAB_JUPYTER_IP=sessions.ip)
    assert run.returncode == 0 and "imported" in run.stdout, run.stderr


def test_beside_a_checkout_it_needs_no_network_and_prints_nothing(tmp_path, repository):
    run = in_a_bare_kernel(repository / "notebooks")
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if not line.startswith("at ")] == ["the course, imported"]


def test_a_kernel_beside_the_courses_own_environment_is_sent_there(repository):
    (repository / ".venv").mkdir()
    (repository / ".venv" / "course.json").write_text("{}", encoding="utf-8")
    run = in_a_bare_kernel(repository / "notebooks", absent={"peft"})
    assert "this kernel is another one: choose that one" in run.stderr and "PIP" not in run.stdout


def test_an_older_package_already_loaded_means_a_restart(repository):
    run = in_a_bare_kernel(repository / "notebooks", other={"tqdm": "4.0"})
    assert "Restart the kernel" not in run.stdout
    loaded = repository / "cell.py"
    loaded.write_text("import tqdm\n" + SOURCE, encoding="utf-8")
    run = in_a_bare_kernel(repository / "notebooks", other={"tqdm": "4.0"}, cell=str(loaded))
    assert "Restart the kernel, then run this cell again: an older tqdm was already loaded." in run.stdout


def test_a_failing_pip_is_one_sentence(repository):
    run = in_a_bare_kernel(repository / "notebooks", absent={"peft"}, code=1)
    assert run.returncode and "pip could not install peft>=0.19.1" in run.stderr.splitlines()[-1]
