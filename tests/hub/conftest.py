"""A hub on this machine, a cache of one's own, and no other address to reach."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lora_lab import hub as ours
from tests.finetune.conftest import lab, tiny  # noqa: F401
from tests.hub.server import Hub, Repo


@pytest.fixture(autouse=True)
def in_one_thread(one_thread):
    """For every module of this folder."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server. Whoever asks for another address fails, and the test with it."""
    from huggingface_hub import close_session, constants, file_download
    from huggingface_hub.utils import _http

    server, strangers = Hub(), []
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(ours, "_announced", set())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for module in (file_download, _http):  # the library waits between its tries
        monkeypatch.setattr(module, "time", _Clock(module.time))
    real = socket.getaddrinfo

    def only_here(host, port, *words, **more):
        if f"http://{host}:{int(port)}" not in (server.address, server.storage):
            strangers.append((host, port))
            raise OSError(f"a test asked for {host}:{port}")
        return real(host, port, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    close_session()
    yield server
    close_session()
    server.stop()
    assert strangers == []


class _Clock:
    """The module `time`, without waiting."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return (lambda _: None) if name == "sleep" else getattr(self.real, name)


@pytest.fixture
def repo(hub, tiny) -> Repo:  # noqa: F811
    """some/model, the tiny Llama as one safetensors file."""
    hub.repos["some/model"] = Repo({p.name: p.read_bytes() for p in sorted(tiny.iterdir())})
    return hub.repos["some/model"]


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "models--some--model"
