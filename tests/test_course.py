"""course.py: the set-up that everything else stands on, from its first line on an old Python to a kill half-way.

Most tests load it from a copy whose pip and venv are stand-ins; three run the real thing on a tiny wheel made here.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = (ROOT / "course.py").read_text(encoding="utf-8")


def load(path: Path):
    spec = importlib.util.spec_from_file_location("course_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def course(tmp_path, monkeypatch):
    """course.py in a folder of its own, with pip and venv replaced by stand-ins that note what they were asked."""
    folder = tmp_path / "my course"
    folder.mkdir()
    shutil.copy(ROOT / "course.py", folder)
    (folder / "requirements.txt").write_text("torch==2.13.0  # why\n-e .\n")
    module = load(folder / "course.py")
    module.calls = []

    def make_venv(build):
        module.write_state({"state": "started", "owner": "course.py", "build": build})
        module.calls.append("venv")
        (module.VENV / "made").touch()

    def pip(*words):
        module.calls.append("pip " + " ".join(words))

    monkeypatch.setattr(module, "make_venv", make_venv)
    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "venv_version", lambda: [3, 11] if (module.VENV / "made").exists() else None)
    monkeypatch.setattr(module, "reachable", lambda url: False)
    monkeypatch.setattr(module, "nvidia_driver", lambda: False)
    monkeypatch.setattr(module, "check_disk", lambda build: None)
    return module


# --- what it is written in --------------------------------------------------------------------------------------------


def test_it_imports_the_standard_library_alone():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported and imported <= sys.stdlib_module_names


def test_python_3_6_can_read_it_and_python_2_stops_at_the_line_that_says_why():
    ast.parse(SOURCE, feature_version=(3, 6))
    tree = ast.parse(SOURCE)
    assert not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in ast.walk(tree))
    new = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.AnnAssign | ast.JoinedStr)]
    new += [f.lineno for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    assert "Type: python3 course.py" in SOURCE.splitlines()[min(new) - 1]


def test_nothing_but_torchs_own_index_is_named():
    assert re.findall(r"https?://[^\s\"']+", SOURCE) == ["https://download.pytorch.org/whl/cpu"]


# --- which Python, which torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_pythons_that_will_do(course, version, monkeypatch):
    monkeypatch.setattr(course.platform, "system", lambda: "Linux")
    course.check_python(version, 64)


@pytest.mark.parametrize(("version", "bits"), [((2, 7), 64), ((3, 10), 64), ((3, 15), 64), ((3, 12), 32)])
def test_a_python_that_will_not_do_is_named_with_one_to_install(course, version, bits, monkeypatch):
    monkeypatch.setattr(course, "runs", lambda name: False)
    with pytest.raises(
        course.CourseError, match=rf"Python {version[0]}\.{version[1]}.*needs 3\.11 to 3\.14.*install 3\.13"
    ):
        course.check_python(version, bits)


def test_a_better_python_on_the_machine_is_named(course, monkeypatch):
    monkeypatch.setattr(course, "runs", lambda name: name == "python3.12")
    with pytest.raises(course.CourseError, match="this machine has one: type  python3.12 course.py"):
        course.check_python((3, 9), 64)


def test_a_shim_for_a_python_that_is_not_installed_does_not_count(course, tmp_path, monkeypatch):
    assert course.runs(sys.executable)
    assert not course.runs("python3.999")
    shim = tmp_path / "shim"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert not course.runs(str(shim))


def test_an_intel_mac_has_no_torch(course, monkeypatch):
    monkeypatch.setattr(course.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(course.platform, "machine", lambda: "x86_64")
    with pytest.raises(course.CourseError, match="no build for Intel Macs"):
        course.check_python((3, 12), 64)


@pytest.mark.parametrize(
    ("choice", "system", "driver", "build"),
    [
        (None, "Linux", False, "cpu"),
        (None, "Linux", True, "cuda"),
        ("cpu", "Linux", True, "cpu"),
        ("gpu", "Linux", False, "cuda"),
        (None, "Darwin", False, "plain"),
        ("cpu", "Darwin", False, "plain"),
        (None, "Windows", True, "plain"),
    ],
)
def test_which_torch(course, choice, system, driver, build):
    assert course.torch_build(choice, system, driver) == build


def test_the_cpu_build_is_asked_for_alone_from_torchs_index(course, monkeypatch):
    monkeypatch.setattr(course, "reachable", lambda url: url == "https://download.pytorch.org/whl/cpu/torch/")
    assert course.install_cpu_torch()
    assert course.calls == ["pip --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0"]


def test_where_torchs_index_cannot_be_reached_it_says_so_and_takes_the_plain_pin(course, capsys):
    assert not course.install_cpu_torch()
    assert course.calls == []
    assert re.search(r"cannot be reached; taking the plain torch==2.13.0", capsys.readouterr().out)


def failing(course, error):
    def pip(*words):
        raise error

    return pip


def test_where_torchs_index_lacks_the_build_it_takes_the_plain_pin(course, monkeypatch, capsys):
    monkeypatch.setattr(course, "reachable", lambda url: True)
    monkeypatch.setattr(course, "pip", failing(course, course.CourseError("no such build")))
    assert not course.install_cpu_torch()
    assert "could not be had there; taking the plain torch==2.13.0" in capsys.readouterr().out


def test_a_disk_that_is_full_is_not_taken_for_a_missing_build(course, monkeypatch):
    monkeypatch.setattr(course, "reachable", lambda url: True)
    monkeypatch.setattr(course, "pip", failing(course, course.CourseError(course.disk_full())))
    with pytest.raises(course.CourseError, match="disk is full"):
        course.install_cpu_torch()


@contextlib.contextmanager
def server(status: int):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_an_address_is_reachable_when_it_answers(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    module = load(ROOT / "course.py")
    with server(200) as url:
        assert module.reachable(url)
    with server(404) as url:
        assert not module.reachable(url)
    assert not module.reachable(url)  # nobody listens any more


def test_a_name_that_does_not_resolve_costs_seconds_not_minutes(monkeypatch):
    module = load(ROOT / "course.py")
    release = threading.Event()
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: release.wait(60))
    start = time.time()
    assert not module.reachable("https://example.invalid", seconds=0.2)
    release.set()
    assert time.time() - start < 10


# --- .venv, from nothing, from half, from someone else's --------------------------------------------------------------


def test_the_first_start_makes_it_and_the_second_does_nothing(course, capsys):
    assert course.prepare()
    assert course.calls == ["venv", f"pip -r {course.REQUIREMENTS}"]
    assert re.search(r"Ready after \d+ seconds; \.venv takes 0\.0 GB", capsys.readouterr().out)
    assert not course.prepare()
    assert len(course.calls) == 2


def test_what_venv_takes_is_counted_without_following_links(course, tmp_path):
    (tmp_path / "in" / "it").mkdir(parents=True)
    (tmp_path / "in" / "a").write_bytes(b"12345")
    (tmp_path / "in" / "it" / "b").write_bytes(b"678")
    assert course.size(tmp_path / "in") == 8
    if os.name != "nt":  # where a link needs rights
        (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "a")
        assert course.size(tmp_path / "in") == 8 + len(str(tmp_path / "in" / "a"))


def test_a_letter_that_a_redirected_output_lacks_stops_nothing(course, monkeypatch):
    """As on Windows, where what is sent to a file is in cp1252."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(course, "prepare", lambda choice: course.say("Making D:/Łukasz/课程/.venv") or True)
    assert course.main(["setup"]) == 0
    out.flush()
    assert out.buffer.getvalue().startswith(b"Making D:/?ukasz/??/.venv")


def test_jupyterlabs_news_question_is_off(course):
    course.prepare()
    settings = json.loads((course.VENV / "share/jupyter/lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_new_requirements_are_installed_into_the_same_venv(course):
    course.prepare()
    course.REQUIREMENTS.write_text("torch==2.13.1\n")
    assert course.prepare()
    assert course.calls.count("venv") == 1 and len(course.calls) == 3


@pytest.mark.parametrize("killed_in", ["make_venv", "install"])
def test_what_a_kill_left_half_made_is_made_again(course, killed_in, monkeypatch, capsys):
    whole = getattr(course, killed_in)

    def killed(*args):
        whole(*args)
        (course.VENV / "half").touch()
        raise SystemExit("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(course, killed_in, killed)
        course.prepare()
    assert course.prepare()
    assert "unfinished" in capsys.readouterr().out
    assert not (course.VENV / "half").exists() and not course.prepare()


def test_a_kill_before_anything_was_noted_is_no_obstacle(course):
    course.VENV.mkdir()
    course.STATE.with_suffix(".new").write_text("{")
    assert course.prepare() and not course.prepare()


@pytest.mark.parametrize("what", ["python gone", "folder moved", "state garbled by hand"])
def test_a_venv_that_no_longer_works_is_made_again(course, what):
    course.prepare()
    if what == "python gone":
        (course.VENV / "made").unlink()
    elif what == "folder moved":
        course.write_state({**course.read_state(), "root": "elsewhere"})
    else:
        course.STATE.write_text('{"owner": "course.py"}')
    assert course.prepare()
    assert course.calls.count("venv") == 2


def test_a_venv_made_by_hand_is_filled_and_never_deleted(course):
    course.VENV.mkdir()
    (course.VENV / "made").touch()
    (course.VENV / "theirs").touch()
    assert course.prepare() and not course.prepare()
    course.REQUIREMENTS.write_text("other==1\n")
    assert course.prepare("gpu")
    assert (course.VENV / "theirs").exists() and "venv" not in course.calls


def test_a_broken_venv_made_by_hand_is_left_alone(course):
    (course.VENV / "bin").mkdir(parents=True)
    with pytest.raises(course.CourseError, match="was not made by course.py.*delete or rename it"):
        course.prepare()
    assert course.VENV.exists()


def test_another_torch_asked_for_makes_it_again_and_is_remembered(course, monkeypatch):
    monkeypatch.setattr(course.platform, "system", lambda: "Linux")
    course.prepare()
    assert course.prepare("gpu")
    assert course.calls.count("venv") == 2
    assert not course.prepare("gpu") and not course.prepare(None)
    assert course.prepare("cpu") and course.calls.count("venv") == 3


def test_a_kill_does_not_make_it_forget_which_torch_was_asked_for(course, monkeypatch):
    monkeypatch.setattr(course.platform, "system", lambda: "Linux")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(course, "pip", failing(course, SystemExit("killed")))
        course.prepare("gpu")
    course.prepare()
    assert course.read_state()["build"] == "cuda"


def test_no_network_on_an_update_leaves_what_was_there_in_use(course, monkeypatch):
    course.prepare()
    old = course.REQUIREMENTS.read_text()
    course.REQUIREMENTS.write_text("torch==9\n")
    with monkeypatch.context() as patch, pytest.raises(course.NoNetwork):
        patch.setattr(course, "pip", failing(course, course.NoNetwork("no network")))
        course.prepare()
    course.REQUIREMENTS.write_text(old)
    assert not course.prepare()


def test_it_does_not_delete_the_python_it_runs_on(course, monkeypatch):
    course.write_state({"state": "started", "owner": "course.py"})
    monkeypatch.setattr(course.sys, "prefix", str(course.VENV))
    with pytest.raises(course.CourseError, match="deactivate"):
        course.prepare()
    assert course.VENV.exists()


def test_two_at_once_wait_for_each_other(course, monkeypatch):
    order, waits = [], threading.Event()
    monkeypatch.setattr(course, "say", lambda *said: waits.set() if "waiting for it" in said[0] else None)

    def second():
        with course.only_one():
            order.append("second")

    with course.only_one():
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60), "the second does not say that it waits"
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


# --- failures, one sentence each --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed to establish "
            "a new connection: [Errno -3] Temporary failure in name resolution')': /x/\n"
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "cannot be reached: check the network",
        ),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "check the network"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
        ("ERROR: Could not install: [Errno 13] Permission denied: 'x'", "cannot be written to"),
        ("OSError: [Errno 30] Read-only file system", "cannot be written to"),
        ("HINT: This error might have occurred since this system does not have Windows Long Path support", "too long"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no torch==2.13.0 for this machine"),
        ("ERROR: something else entirely\nsee above", r"Installing failed \(ERROR: something else entirely\)"),
        ("", "Installing failed"),
    ],
)
def test_what_pip_printed_becomes_one_sentence_with_a_way_forward(course, output, sentence):
    error = course.explain(output)
    assert re.search(sentence, str(error))
    assert str(error).count("\n") == 0 and re.search("type the same command", str(error))
    assert isinstance(error, course.NoNetwork) == ("check the network" in sentence)


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written to"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written to"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (KeyboardInterrupt(), "Stopped. Type the same command again to go on."),
    ],
)
def test_an_error_of_the_system_becomes_one_sentence(course, raised, sentence, monkeypatch, capsys):
    def broken(state):
        raise raised

    monkeypatch.setattr(course, "write_state", broken)
    assert course.main(["setup"]) in (1, 130)
    printed = capsys.readouterr().err
    assert sentence in printed and "Traceback" not in printed


def test_too_small_a_disk_is_noticed_before_anything_is_downloaded(course, monkeypatch, capsys):
    fresh = load(ROOT / "course.py")
    usage = types.SimpleNamespace(free=0.5e9)
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(fresh.CourseError, match=r"0\.5 GB are free .* needs about 12 GB"):
        fresh.check_disk("cuda")
    usage.free = 100e9
    fresh.check_disk("cuda")
    monkeypatch.setattr(course, "check_disk", failing(course, course.CourseError(course.disk_full())))
    assert course.main(["setup"]) == 1
    assert course.calls == [] and "The disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_says_what_to_install(course, missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        course,
        "check_venv_module",
        functools.partial(course.check_venv_module, lambda n: None if n == missing else find(n)),
    )
    with pytest.raises(course.CourseError, match=r"sudo apt install python3\.\d+-venv"):
        course.prepare()
    assert not course.VENV.exists()


def test_ports(course, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(course.CourseError, match=f"Port {port} is taken .* leave --port out"):
            course.choose_port(port)
    assert course.choose_port(port) == port
    for wrong in (80, 70000, -1):
        with pytest.raises(course.CourseError, match=f"--port {wrong} .* 1024 to 65535"):
            course.choose_port(wrong)


def test_a_free_port_is_chosen_where_8888_is_taken(course, monkeypatch, capsys):
    monkeypatch.setattr(course, "port_is_free", lambda port: port > 8889)
    assert course.choose_port(None) == 8890
    assert "8888 is taken" in capsys.readouterr().out
    monkeypatch.setattr(course, "port_is_free", lambda port: False)
    with pytest.raises(course.CourseError, match="all taken.*--port"):
        course.choose_port(None)


# --- the commands -----------------------------------------------------------------------------------------------------


def test_jupyterlab_listens_on_this_machine_alone_with_its_token_on(course, monkeypatch):
    started = []
    monkeypatch.setattr(course, "hand_over", lambda command: started.append(command) or 0)
    assert course.main(["--no-browser"]) == 0
    (command,) = started
    assert "--ServerApp.ip=127.0.0.1" in command and "--no-browser" in command
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in command
    assert not [word for word in command if re.search("token|password|0\\.0\\.0\\.0", word)]
    assert (ROOT / "notebooks/00_start_here.ipynb").is_file()


def test_words_after_test_go_to_pytest_untouched(course, monkeypatch):
    started = []
    monkeypatch.setattr(course, "hand_over", lambda command: started.append(command) or 5)
    assert course.main(["--cpu", "test", "-k", "not slow", "--port=3", "tests/test_course.py"]) == 5
    assert started[0][1:] == ["-m", "pytest", "-k", "not slow", "--port=3", "tests/test_course.py"]


@pytest.mark.parametrize("words", [[], ["--durations=25"]])
def test_all_tests_run_in_two_processes_of_one_thread(course, monkeypatch, words):
    started = []
    monkeypatch.setattr(course, "hand_over", lambda command: started.append(command) or 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # so that it is put back as it was
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert course.main(["test", *words]) == 0
    assert started[0][1:] == ["-m", "pytest", "-n", "2", "--dist", "loadfile", *words]
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_setup_only_prepares(course, monkeypatch, capsys):
    monkeypatch.setattr(course, "hand_over", lambda command: pytest.fail("nothing should start"))
    assert course.main(["setup"]) == 0 and course.main(["setup"]) == 0
    assert "Nothing to do" in capsys.readouterr().out


# --- the real thing, on a tiny wheel ----------------------------------------------------------------------------------

ECHO = "import os, sys\nprint('ran', __spec__.parent, sys.argv[1:], 'in', os.getcwd())\n"


def make_wheel(folder: Path, version: str) -> Path:
    """A package of three modules; `jupyterlab` and `pytest` in it only print how they were started."""
    path = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", f"version = {version!r}\n")
        for name in ("jupyterlab", "pytest"):
            wheel.writestr(f"{name}/__init__.py", "")
            wheel.writestr(f"{name}/__main__.py", ECHO)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder, with a space in its path, of course.py and requirements that are one tiny wheel; and how to run it."""
    folder = tmp_path_factory.mktemp("real") / "a course"
    folder.mkdir()
    shutil.copy(ROOT / "course.py", folder)
    make_wheel(folder, "1.0")
    make_wheel(folder, "2.0")
    (folder / "requirements.txt").write_text("./tiny-1.0-py3-none-any.whl\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL="http://127.0.0.1:9/simple", no_proxy="127.0.0.1")

    def run(*words, **options):
        command = [sys.executable, str(folder / "course.py"), *words]
        return subprocess.run(
            command, cwd=folder.parent, env=env, capture_output=True, text=True, timeout=300, **options
        )

    def start(*words):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(
            [sys.executable, str(folder / "course.py"), *words], cwd=folder.parent, env=env, **quiet
        )

    return types.SimpleNamespace(folder=folder, run=run, start=start)


def installed_version(folder: Path) -> str:
    python = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return subprocess.check_output([python, "-c", "import tiny; print(tiny.version)"], text=True).strip()


def test_real_killed_half_way_it_starts_again_and_finishes(real):
    process = real.start("setup")
    deadline = time.time() + 60
    while not (real.folder / ".venv" / "pyvenv.cfg").exists() and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert json.loads((real.folder / ".venv" / "course.json").read_text())["state"] == "started"
    again = real.run("setup")
    assert again.returncode == 0, again.stderr
    assert "unfinished" in again.stdout and "Ready after" in again.stdout
    assert installed_version(real.folder) == "1.0"

    second = real.run("test", "-k", "two words")
    assert "Installing" not in second.stdout
    assert f"ran pytest ['-k', 'two words'] in {real.folder}" in second.stdout
    assert "--ServerApp.ip=127.0.0.1" in real.run("--no-browser").stdout


def test_real_new_requirements_then_no_network(real):
    (real.folder / "requirements.txt").write_text("./tiny-2.0-py3-none-any.whl\n")
    assert real.run("setup").returncode == 0
    assert installed_version(real.folder) == "2.0"
    (real.folder / "requirements.txt").write_text("tiny-from-the-index==3.0\n")
    failed = real.run("setup")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert re.search("The package index cannot be reached: check the network", failed.stderr)
    (real.folder / "requirements.txt").write_text("./tiny-2.0-py3-none-any.whl\n")
    assert "Nothing to do" in real.run("setup").stdout


def test_real_python_tells_its_version_and_a_dangling_one_is_noticed(tmp_path):
    shutil.copy(ROOT / "course.py", tmp_path)
    module = load(tmp_path / "course.py")
    assert module.venv_version() is None
    venv.create(module.VENV, with_pip=False)
    assert module.venv_version() == list(sys.version_info[:2])
    module.venv_python().unlink()
    assert module.venv_version() is None
