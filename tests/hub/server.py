"""A hub on this machine: the part of its protocol that huggingface_hub 2.4 uses for models, with faults on request.

GET /api/models/NAME[/revision/REV]?blobs=True    what a repository holds
HEAD and GET /NAME/resolve/REV/FILE               ETag, X-Repo-Commit; for a large file a redirect
GET /lfs/NAME/HASH/FILE (on another port)         the large file, or from a Range on

No header of Xet is sent, so that files come over plain HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from huggingface_hub import close_session

LARGE = (".safetensors", ".bin", ".model")  # what the hub keeps in LFS


@dataclass
class Repo:
    """One repository: files by commit, the commits that revisions mean, and what goes wrong with it."""

    files: dict[str, bytes]
    licence: str | None = "apache-2.0"
    gated: str | bool = False
    parameters: int | None = None
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    other_files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by commit, where not `files`
    refused: int | None = None  # 401 or 403 for every file
    absent: set[str] = field(default_factory=set)  # listed, but 404
    cut: dict[str, list[int]] = field(default_factory=dict)  # bytes after which each answer breaks off, in turn
    cut_always: set[str] = field(default_factory=set)
    wrong: dict[str, bytes] = field(default_factory=dict)  # sent instead, under the right hash
    status: list[tuple[int, str]] = field(default_factory=list)  # the next answers, with what they say
    slow: dict[str, float] = field(default_factory=dict)  # seconds before a file, or "api", is answered

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.revisions.get(revision, revision if revision in self.revisions.values() else None)
        return commit and (commit, self.other_files.get(commit, self.files))


class Hub:
    """The server, and on another port the storage that it sends clients to for large files.

    `asked` holds each request as (method, path, Range or ""), `sent` the bytes of each file sent, `tokens` the paths
    that were asked for with a token.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.sent: dict[str, int] = {}
        self.tokens: list[str] = []
        self.stopping = threading.Event()
        self.servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(2)]
        self.address, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self.servers)
        for server in self.servers:
            server.hub = self
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def fetched(self) -> list[str]:
        """The files asked for, in order."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/api/" not in path]

    def stop(self):
        self.stopping.set()
        close_session()  # the client's end of connections that are still open
        for server in self.servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that went away is part of some tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_CONNECT(self):  # somebody takes this server for the way to another one
        self.hub.asked.append(("CONNECT", self.path, ""))
        self.say(502)

    def say(self, status: int, body: bytes = b"", **headers: object):
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self):
        if self.hub.stopping.is_set():  # a connection that was open already
            self.close_connection = True
            return None
        if not re.match(r"/(api/models|lfs|.+/resolve)/", self.path):
            return self.say(404)  # what the library asks on its own account
        self.hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization"):
            self.hub.tokens.append(path)
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self.describe(name, revision or "main")
        if path.startswith("/lfs/"):
            _, _, name, file = path.split("/", 3)
            repo, (hashed, _, file) = self.hub.repos[name.replace("--", "/")], file.partition("/")
            stored = [files[file] for files in (repo.files, *repo.other_files.values()) if file in files]
            return self.send_file(repo, file, next(content for content in stored if sha256(content) == hashed))
        name, _, rest = path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self.resolve(name, revision, file)

    def found(self, name: str, revision: str):
        """The repository, commit and files asked for, or None once an error has been sent."""
        repo = self.hub.repos.get(name)
        if repo is None:  # the hub does not tell an unknown repository from a private one
            return self.say(401, X_Error_Code="RepoNotFound", X_Error_Message="Invalid username or password.")
        if repo.status:
            status, message = repo.status.pop(0)
            return self.say(status, X_Error_Message=message)
        if repo.at(revision) is None:
            return self.say(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return repo, *repo.at(revision)

    def describe(self, name: str, revision: str):
        if found := self.found(name, revision):
            repo, commit, files = found
            self.hub.stopping.wait(repo.slow.get("api", 0))
            siblings = []
            for file, content in files.items():
                siblings.append({"rfilename": file, "size": len(content), "blobId": git_hash(content)})
                if file.endswith(LARGE):
                    siblings[-1]["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            told = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": [], "gated": repo.gated}
            if repo.licence:
                told |= {"cardData": {"license": repo.licence}, "tags": [f"license:{repo.licence}"]}
            if repo.parameters:
                told["safetensors"] = {"parameters": {"BF16": repo.parameters}, "total": repo.parameters}
            self.say(200, json.dumps(told).encode(), Content_Type="application/json")

    def resolve(self, name: str, revision: str, file: str):
        if found := self.found(name, revision):
            repo, commit, files = found
            if repo.refused:
                return self.say(repo.refused, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
            if file not in files or file in repo.absent:
                return self.say(
                    404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit
                )
            content = files[file]
            if file.endswith(LARGE):
                self.say(
                    302,
                    Location=f"{self.hub.storage}/lfs/{name.replace('/', '--')}/{sha256(content)}/{file}",
                    X_Repo_Commit=commit,
                    X_Linked_Size=len(content),
                    X_Linked_ETag=f'"{sha256(content)}"',
                )
            elif self.command == "HEAD":
                self.say(200, ETag=f'"{git_hash(content)}"', X_Repo_Commit=commit, Content_Length=len(content))
            else:
                self.send_file(repo, file, content)
        return None

    def send_file(self, repo: Repo, file: str, content: bytes):
        content = repo.wrong.get(file, content)
        self.hub.stopping.wait(repo.slow.get(file, 0))
        first = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        cut = len(content) // 2 if file in repo.cut_always else repo.cut.get(file, []) and repo.cut[file].pop(0)
        if file in repo.cut_always and first:
            cut = first  # nothing more, ever
        body = content[first : cut or None]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.hub.sent[file] = self.hub.sent.get(file, 0) + len(body)  # first: who has the bytes may look at once
            self.wfile.write(body)
        if cut:
            self.close_connection = True
            time.sleep(0.05)  # let the bytes arrive before the connection goes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
