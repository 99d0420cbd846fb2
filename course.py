#!/usr/bin/env python3
"""Open the course, or test it, with nothing but Python. This file needs no package: it installs what the rest needs.

    python course.py             prepare .venv (minutes, once), then open JupyterLab on the first lesson
    python course.py test ...    run every test; further words go to pytest
    python course.py setup       only prepare

    --cpu, --gpu      Linux: torch's CPU build, or the plain one (CUDA); without either, an NVIDIA driver decides
    --port N          JupyterLab's port; without it the first free one from 8888 on
    --no-browser      print the address instead of opening a browser

Safe to stop or kill at any time: type the same command again. Deleting .venv starts afresh.
"""

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

# An old Python has to be able to read this file to be told that it is old, so nothing here is newer than 3.6.
# Python 2 stops reading at the next line, and shows it.
FOR_PYTHON_2: str = "This course needs Python 3.11 to 3.14. Type: python3 course.py"

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STATE = VENV / "course.json"  # what stands in .venv: "started" until the last package is in, then "ready"
LOG = VENV / "course.log"
REQUIREMENTS = ROOT / "requirements.txt"
FIRST_LESSON = "notebooks/00_start_here.ipynb"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, NEWEST = (3, 11), (3, 14)
FREE_GB = {"cpu": 3, "plain": 3, "cuda": 12}  # wheels in pip's cache and their unpacked files
TWO_AT_A_TIME = ["-n", "2", "--dist", "loadfile"]  # a file at a time to each of two processes; a lesson is a file
QUIET_LAB = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


class CourseError(Exception):
    """One sentence: what went wrong, and a way forward."""


class NoNetwork(CourseError):
    """Nothing was changed: pip installs only after it has downloaded everything."""


def say(text: str) -> None:
    print(text, flush=True)


# --- what this machine is ---------------------------------------------------------------------------------------------


def check_python(version: tuple = tuple(sys.version_info[:2]), bits: int = 64 if sys.maxsize > 2**32 else 32) -> None:
    """Raises CourseError on a Python without builds of the pinned packages, naming a better one if there is one."""
    if OLDEST <= version <= NEWEST and bits == 64:
        if platform.system() == "Darwin" and platform.machine() == "x86_64":
            raise CourseError(
                "torch has no build for Intel Macs; if this Mac has an Apple chip, install the Python from "
                "python.org (this one runs as an Intel program) and type: python3 course.py"
            )
        return
    wrong = f"This is Python {version[0]}.{version[1]}{'' if bits == 64 else ' (32 bit)'}"
    wrong += ", and the course needs 3.11 to 3.14 (64 bit)"
    for name in ("python3.13", "python3.12", "python3.14", "python3.11"):
        if runs(name):
            raise CourseError(f"{wrong}; this machine has one: type  {name} course.py")
    name = "py -3.13" if os.name == "nt" else "python3.13"
    raise CourseError(f"{wrong}: install 3.13 from python.org or your system's packages, then type  {name} course.py")


def runs(name: str) -> bool:
    """Is there such a Python, 64 bit, and more than a version manager's shim for one that is not installed?"""
    code = "import sys; sys.exit(sys.maxsize < 2**32)"
    try:
        return (
            bool(shutil.which(name)) and subprocess.run([name, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
        )
    except OSError:
        return False


def check_venv_module(find=importlib.util.find_spec) -> None:
    """Debian and Ubuntu ship a Python without `ensurepip`; there `venv` fails half-way."""
    if find("venv") is None or find("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise CourseError(
            "This Python cannot make environments (its venv or ensurepip module is missing): on Debian or Ubuntu type  "
            f"sudo apt install python{version}-venv  and elsewhere install Python from python.org, "
            "then type the same command again."
        )


def nvidia_driver() -> bool:
    """True where Linux has an NVIDIA driver (or WSL passes one through)."""
    files = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")
    return bool(shutil.which("nvidia-smi")) or any(os.path.exists(f) for f in files)


def torch_build(choice: "str | None", system: str, driver: bool) -> str:
    """Which torch to install: "cpu" (from torch's own index), "cuda" or "plain" (the pin as it stands).

    The index of Python's packages has CUDA builds of torch for Linux, several GB each, and CPU builds for macOS and
    Windows. So only Linux has a choice to make.
    """
    if system != "Linux":
        return "plain"
    if choice == "cpu" or (choice is None and not driver):
        return "cpu"
    return "cuda"


def check_disk(build: str, folder: Path = ROOT) -> None:
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < FREE_GB[build]:
        raise CourseError(disk_full(build, free))


def size(folder: Path) -> int:
    """Bytes in the files of a folder, links not followed."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(str(folder)) for name in names)
    return sum(os.lstat(path).st_size for path in paths)


def disk_full(build: str = "cpu", free: "float | None" = None) -> str:
    free = shutil.disk_usage(str(ROOT)).free / 1e9 if free is None else free
    return (
        f"The disk is full: {free:.1f} GB are free where {ROOT} lies and the set-up needs about {FREE_GB[build]} GB; "
        "free some space (or move this folder to another disk), then type the same command again."
    )


def read_only() -> str:
    return (
        f"The folder {ROOT} (or .venv in it) cannot be written to: copy the course into a folder of your own, "
        "then type the same command there."
    )


# --- pip, watched and explained ---------------------------------------------------------------------------------------

NETWORK = (
    "name resolution|Name or service not known|getaddrinfo failed|nodename nor servname|NewConnectionError|"
    "NameResolutionError|ConnectTimeout|ReadTimeout|timed out|Connection refused|unreachable|ProxyError|"
    "Connection reset|IncompleteRead|Connection aborted|RemoteDisconnected"
)


def explain(output: str) -> CourseError:
    """What a failed pip (or venv) printed, as one sentence with a way forward."""
    found = lambda pattern: re.search(pattern, output, re.IGNORECASE)  # noqa: E731
    again = "then type the same command again."
    if found(r"No space left on device|Errno 28\b|WinError 112|not enough space on the disk"):
        return CourseError(disk_full())
    if found(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError"):
        return CourseError(
            "This network answers with a certificate that Python does not trust (a company proxy does that): ask for "
            f"its certificate file, set the environment variable PIP_CERT to it, {again}"
        )
    if found(r"Read-only file system|Permission denied|WinError 5\b|Access is denied"):
        return CourseError(read_only())
    if found(r"Long Path|WinError 206|File name too long"):
        return CourseError(f"The path {ROOT} is too long for this system: move the folder to a shorter one, {again}")
    if found(NETWORK):
        return NoNetwork(
            "The package index cannot be reached: check the network (behind a proxy, set the environment variable "
            f"HTTPS_PROXY), {again}"
        )
    missing = found(r"No matching distribution found for (\S+)")
    if missing:
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        return CourseError(
            f"The package index has no {missing.group(1)} for this machine ({machine}): try another Python from 3.11 "
            f"to 3.14; if an index of your own is set (PIP_INDEX_URL, pip config list), unset it, {again}"
        )
    lines = [line for line in output.splitlines() if line.strip()] or ["no output at all"]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    return CourseError(f"Installing failed ({errors[-1].strip()[:200]}): the whole log is {LOG}; delete .venv, {again}")


def watched(command: "list[str]", env: "dict[str, str] | None" = None) -> str:
    """Run a command whose output goes to the log, with one line of progress here. Raises what `explain` says."""
    lines, output, start, last_shown = queue.Queue(), [], time.time(), time.time()
    tty = sys.stdout.isatty()
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        encoding="utf-8",
        errors="replace",
    )

    def pump() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    news, line = "", ""
    try:
        with LOG.open("a", encoding="utf-8") as log:
            while line is not None:
                try:
                    line = lines.get(timeout=1)
                except queue.Empty:
                    line = ""
                if line:
                    log.write(line)
                    output.append(line)
                    if re.match(r"\s*(Collecting|Downloading|Using cached|Installing|Building|Processing)", line):
                        news = line.strip()
                elapsed = time.time() - start
                if time.time() - last_shown > (0.2 if tty else 20):
                    last_shown = time.time()
                    text = f"  {int(elapsed) // 60}:{int(elapsed) % 60:02d}  {news}"
                    if tty:
                        width = shutil.get_terminal_size().columns - 1
                        print("\r" + text[:width].ljust(width), end="", flush=True)
                    else:
                        say(text[:110])
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if tty:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)
    if code:
        raise explain("".join(output))
    return "".join(output)


def pip(*words: str) -> None:
    # Settings that send packages elsewhere than into .venv make no sense here; PYTHONPATH would hide what is missing.
    unwanted = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    options = ["--progress-bar=off", "--disable-pip-version-check", "--no-input", "--retries=3"]
    watched([str(venv_python()), "-m", "pip", "install"] + options + list(words), env)


def reachable(url: str, seconds: float = 5) -> bool:
    """Does the address answer? Asked in a thread, since a name that does not resolve can hang for minutes."""
    answers = []

    def ask() -> None:
        with contextlib.suppress(Exception), urllib.request.urlopen(url, timeout=seconds) as response:
            answers.append(response.status == 200)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return answers == [True]


def torch_pin() -> "str | None":
    match = re.search(r"^torch==[^\s#;]+", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    return match.group(0) if match else None


def install_cpu_torch() -> bool:
    """Torch's CPU build, alone, from torch's own index; False where that index does not have or give it."""
    pin = torch_pin()
    if pin is None:
        return False
    plain = f"taking the plain {pin} instead (on Linux that can mean several GB of CUDA libraries that stay unused)"
    if not reachable(TORCH_CPU_INDEX + "/torch/"):
        say(f"  {TORCH_CPU_INDEX} cannot be reached; {plain}.")
        return False
    say(f"  torch's CPU build (about 200 MB), from {TORCH_CPU_INDEX}")
    try:
        pip("--no-deps", "--index-url", TORCH_CPU_INDEX, pin)
    except CourseError as error:
        if re.search("disk is full|cannot be written", str(error)):
            raise
        say(f"  torch's CPU build could not be had there; {plain}.")
        return False
    return True


# --- .venv ------------------------------------------------------------------------------------------------------------


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version() -> "list[int] | None":
    """[3, 12] of the Python in .venv, None where it does not run (its base was upgraded, moved or removed)."""
    try:
        code = "import sys; print(*sys.version_info[:2])"
        command = [str(venv_python()), "-I", "-c", code]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return [int(n) for n in run.stdout.split()] or None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def read_state() -> dict:
    try:
        state = json.loads(STATE.read_text(encoding="utf-8"))
        return state if isinstance(state, dict) else {}
    except (OSError, ValueError):
        return {}


def write_state(state: dict) -> None:
    """Whole or not at all, whenever the process is killed."""
    STATE.parent.mkdir(exist_ok=True)
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps(state), encoding="utf-8")
    os.replace(str(new), str(STATE))


def fingerprint() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def whole(state: dict, build: str) -> bool:
    """Was .venv made to the end, here, with a Python that still runs, and (unless made by hand) with that torch?"""
    return (
        state.get("state") == "ready"
        and state.get("root") == str(ROOT)
        and (state.get("build") == build or state.get("owner") == "you")
        and venv_version() == state.get("python")
    )


def wanted_build(state: dict, choice: "str | None") -> str:
    """The torch that was asked for now, or else the one that is there, or else what suits this machine."""
    if choice is None and state.get("build") in FREE_GB:
        return state["build"]
    return torch_build(choice, platform.system(), nvidia_driver())


@contextlib.contextmanager
def only_one():
    """Two set-ups at once would undo each other: the second waits. The system drops the lock when its holder dies."""
    with (ROOT / ".venv.lock").open("a") as lock:
        waiting = False
        while True:
            try:
                if os.name == "nt":
                    import msvcrt

                    msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    break  # a file system without locks: go on without
                if not waiting:
                    say("Another course.py is preparing .venv; waiting for it.")
                waiting = True
                time.sleep(0.5)
        yield


def remove_venv() -> None:
    if Path(sys.prefix).resolve() == VENV.resolve():
        raise CourseError(
            "This command runs on the Python inside .venv, which has to be made anew: type  deactivate  (or open a new "
            "terminal), then type the same command again."
        )
    for attempt in range(5):
        try:
            shutil.rmtree(str(VENV))
            return
        except OSError as error:
            if attempt == 4:
                raise CourseError(
                    f"The folder {VENV} is unfinished and cannot be deleted ({error.strerror}): close the programs "
                    "that use it (JupyterLab, an editor), then type the same command again."
                ) from error
            time.sleep(1)  # a pip that lost its parent may still be writing there


def make_venv(build: str) -> None:
    write_state(
        {"state": "started", "owner": "course.py", "build": build}
    )  # first of all: a folder without it is not ours to delete
    say(f"Making {VENV} (some seconds)")
    watched([sys.executable, "-m", "venv", str(VENV)])


def install(build: str) -> None:
    LOG.write_text("", encoding="utf-8")
    size = "several GB" if build == "cuda" else "about 350 MB"
    say(f"Installing requirements.txt into .venv: {size} to download, 1 to 10 minutes; the log is {LOG}")
    if build == "cpu":
        install_cpu_torch()
    pip("-r", str(REQUIREMENTS))
    quiet_lab(VENV)


def quiet_lab(prefix: Path) -> None:
    """JupyterLab would cover a corner of the first lesson with a question about its news."""
    settings = prefix / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(QUIET_LAB, indent=2), encoding="utf-8")


def prepare(choice: "str | None" = None) -> bool:
    """Bring .venv to what requirements.txt says. Returns True where there was something to do.

    A .venv that a kill left unfinished, that was moved, or whose Python is gone is made again. One that someone made by
    hand is filled and never deleted.
    """
    state = read_state()
    if whole(state, wanted_build(state, choice)) and state.get("requirements") == fingerprint():
        return False
    with only_one():
        state = read_state()  # the one we waited for may have done it all
        if whole(state, wanted_build(state, choice)) and state.get("requirements") == fingerprint():
            return False
        start = time.time()
        left = {path.name for path in VENV.iterdir()} if VENV.exists() else set()
        by_hand = bool(left - {"course.new"}) and state.get("owner") != "course.py"
        if by_hand and venv_version() is None:
            raise CourseError(
                f"{VENV} was not made by course.py and has no Python that runs: delete or rename it, "
                "then type the same command again."
            )
        build = wanted_build(state, choice)
        fresh = not by_hand and not whole(state, build)
        if fresh:
            check_venv_module()
            if VENV.exists():
                say("An unfinished or outdated .venv is here: making it again (what was downloaded is kept).")
                remove_venv()
            check_disk(build)
            make_venv(build)
        owner = "you" if by_hand else "course.py"
        write_state({"state": "started", "owner": owner, "build": build})
        try:
            install(build)
        except NoNetwork:
            if not fresh and state:
                write_state(state)  # the packages that were there still are
            raise
        done = {"state": "ready", "owner": owner, "requirements": fingerprint(), "python": venv_version()}
        write_state({**done, "root": str(ROOT), "build": build})
        say(f"Ready after {time.time() - start:.0f} seconds; .venv takes {size(VENV) / 1e9:.1f} GB.")
    return True


# --- the commands -----------------------------------------------------------------------------------------------------


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":  # on Windows this option would let two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def choose_port(asked: "int | None") -> int:
    if asked is not None:
        if not 1024 <= asked <= 65535:
            raise CourseError(f"--port {asked} is no port for this: take one from 1024 to 65535, or leave --port out.")
        if not port_is_free(asked):
            raise CourseError(f"Port {asked} is taken by another program: leave --port out and a free one is chosen.")
        return asked
    for port in range(8888, 8988):
        if port_is_free(port):
            if port != 8888:
                say(f"Port 8888 is taken (another JupyterLab?); using {port}.")
            return port
    raise CourseError(
        "Ports 8888 to 8987 are all taken: close some of the programs that hold them, or name one by --port."
    )


def hand_over(command: "list[str]") -> int:
    """Run a command that talks to the person itself; Ctrl+C is its business."""
    process = subprocess.Popen(command, cwd=str(ROOT))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def open_lab(port: "int | None", browser: bool) -> int:
    port = choose_port(port)
    command = [str(venv_python()), "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={ROOT}", "--log-level=WARN"]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; Jupyter refuses otherwise
        command.append("--allow-root")
    say(f"Starting JupyterLab on port {port}, for this machine only. It opens in your browser; if it does not, follow")
    say("the address with the token below. In a lesson: Run, then Run All Cells. To stop: Ctrl+C here, twice.")
    return hand_over(command + [f"--LabApp.default_url=/lab/tree/{FIRST_LESSON}"])


def run_tests(words: "list[str]") -> int:
    say("Running the tests in .venv (about 14 minutes for all of them on two cores)")
    if not [word for word in words if not word.startswith("-")]:  # all of them
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each would wait for each other
        words = TWO_AT_A_TIME + words
    return hand_over([str(venv_python()), "-m", "pytest"] + words)


def parse(argv: "list[str]") -> argparse.Namespace:
    words = []
    if "test" in argv:  # what follows belongs to pytest, dashes and all
        words, argv = argv[argv.index("test") + 1 :], argv[: argv.index("test") + 1]
    parser = argparse.ArgumentParser(
        prog="python course.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=["open", "test", "setup"], default="open")
    torch = parser.add_mutually_exclusive_group()
    torch.add_argument("--cpu", dest="choice", action="store_const", const="cpu", help="torch's CPU build")
    torch.add_argument(
        "--gpu", dest="choice", action="store_const", const="gpu", help="the plain torch (CUDA on Linux)"
    )
    parser.add_argument("--port", type=int)
    parser.add_argument("--no-browser", action="store_true")
    args = parser.parse_args(argv)
    args.words = words
    return args


def main(argv: "list[str] | None" = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # sent to a file on Windows, they lack most of the letters a path can have
            stream.reconfigure(errors="replace")
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        check_python()
        if args.choice == "gpu" and platform.system() == "Windows":
            say("On Windows the package index has only torch's CPU build; pytorch.org shows how to get a CUDA one.")
        changed = prepare(args.choice)
        if args.command == "setup":
            if not changed:
                say("Nothing to do: .venv is what requirements.txt says.")
            return 0
        return run_tests(args.words) if args.command == "test" else open_lab(args.port, not args.no_browser)
    except CourseError as error:
        print(f"\n{error}", file=sys.stderr)
    except OSError as error:
        text = f"{type(error).__name__}: {error}"
        if error.errno == errno.ENOSPC:
            text = disk_full()
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            text = read_only()
        print(f"\n{text}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. Type the same command again to go on.", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
