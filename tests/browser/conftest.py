"""JupyterLab on a copy of the notebooks, with settings of its own, and a Chromium that reads it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# Without the last ones Chromium looks for updates and for Google's hosts at every start.
CHROMIUM_WORDS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome: LORA_LAB_CHROMIUM, or the first one on the PATH."""
    return os.environ.get("LORA_LAB_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser. Skips where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium or Chrome on the PATH: install one, or set LORA_LAB_CHROMIUM to its program")
    return path


@dataclass
class Lab:
    """A running JupyterLab: `folder` is what it shows, `url(notebook)` opens one of its notebooks and no other."""

    folder: Path
    port: int
    token: str

    def url(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{notebook}?reset&token={self.token}"


@contextlib.contextmanager
def jupyterlab(home: Path) -> Iterator[Lab]:
    """JupyterLab as `python course.py` starts it, but on a copy of the notebooks and with `home` for its settings."""
    folder = home / "course"
    (folder / "notebooks").mkdir(parents=True)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder / "notebooks")
    if (ROOT / "figures").is_dir():
        shutil.copytree(ROOT / "figures", folder / "figures")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # free now; where another program takes it meanwhile, JupyterLab takes the next
    token = secrets.token_hex(16)
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    env = {**os.environ, **{f"JUPYTER_{name}": str(home / place) for name, place in places.items()}}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    env |= {"JUPYTER_TOKEN": token, "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True"]  # the tests ask the notebook's own model what ran
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield Lab(folder, wait_for_port(home, process), token)
    finally:
        process.terminate()  # the server ends its kernels
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def wait_for_port(home: Path, process: subprocess.Popen, seconds: float = 180) -> int:
    """The port on which this JupyterLab, and no other program, answers; it writes it down once it listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = (home / "log").read_text(encoding="utf-8")[-3000:]
        assert process.poll() is None, f"JupyterLab ended:\n{log}"
        with contextlib.suppress(StopIteration, OSError, ValueError):
            written = next(iter((home / "runtime").glob("jpserver-*.json")))
            port = json.loads(written.read_text(encoding="utf-8"))["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5):
                return port
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer in {seconds} s:\n{log}")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_WORDS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, lab):
    """A fresh page; `page.complaints` gathers what it writes to the console as an error, and what it throws."""
    page = new_page(browser)
    yield page
    page.context.close()


def new_page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(180_000)  # JupyterLab is megabytes of JavaScript, and CI may be busy
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(f"thrown: {error}"))
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("requestfailed", lambda request: page.complaints.extend(not_loaded(request)))
    return page


def not_loaded(request) -> list[str]:
    """The complaint about a request that failed; none of a picture that the next one replaced before it was read."""
    return [] if request.url.startswith("blob:") else [f"not loaded: {request.url} {request.failure}"]
