"""Windows and macOS, as far as reading tells: no shell, no name that a system lacks, no encoding by chance."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_lab.plain_errors import plainly

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "course.py",
    ROOT / "setup_here.py",
    *(ROOT / "lora_lab").rglob("*.py"),
    *(ROOT / "tests").rglob("*.py"),
]
# What Windows has not got. https://docs.python.org/3/library/os.html and signal.html say "Availability: Unix".
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
NAMES = {"fork", "killpg", "getpgid", "setsid", "geteuid", "getuid", "getgid", "chown", "mkfifo", "sched_getaffinity"}
NAMES |= {"WIFSIGNALED", "WTERMSIG", "WEXITSTATUS", "SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "alarm", "setitimer"}
NAMES |= {"sysconf", "getloadavg", "uname", "getrusage", "ITIMER_REAL"}
GUARD = re.compile(r"hasattr|os\.name|sys\.platform|platform\.system|WITHOUT_|skipif|importorskip|\bPOSIX\b")


# Helpers that only tests with a guard of their own call.
HELPERS = {"tests/lora/test_on_disk.py": {"os.fork", "os.WIFSIGNALED", "os.WTERMSIG", "signal.SIGKILL"}}
HELPERS["tests/finetune/test_resume.py"] = {"signal.SIGKILL"}


def unix_only(node: ast.AST) -> str | None:
    """What of this node is there on some systems alone: a name of `os` or `signal`, a module, a shell."""
    if isinstance(node, ast.Call):
        name, first = ast.unparse(node.func), ast.unparse(node.args[0]) if node.args else ""
        shell = any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords)
        named = name.startswith("subprocess.") and re.match(r"\[?'(python3?|pip3?|bash|sh)\b", first)
        return name if name in ("os.system", "os.popen") or shell or named else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
        return f"{node.value.id}.{node.attr}" if node.attr in NAMES else None
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name in MODULES), None)
    if isinstance(node, ast.ImportFrom):
        return node.module if node.module in MODULES else None
    return None


def unguarded(source: str) -> list[tuple[int, str]]:
    """Uses of what Windows lacks that no enclosing `if`, `try` or decorator asks about: line and name.

    >>> unguarded("import os\\n\\nif hasattr(os, 'fork'):\\n    os.fork()\\nos.fork()")
    [(5, 'os.fork')]
    """
    found, tree = [], ast.parse(source)
    whole = any(GUARD.search(ast.unparse(node)) for node in tree.body if "pytestmark" in ast.unparse(node)[:12])

    def walk(node: ast.AST, safe: bool) -> None:
        if (name := unix_only(node)) and not safe:
            found.append((node.lineno, name))
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp):
            asked = node.test if not isinstance(node, ast.BoolOp) else node
            safe = safe or bool(GUARD.search(ast.unparse(asked)))
        elif isinstance(node, ast.Try):
            safe = safe or any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            safe = safe or any(GUARD.search(ast.unparse(d)) for d in node.decorator_list)
            returns = [s for s in node.body if isinstance(s, ast.If) and isinstance(s.body[-1], ast.Return | ast.Raise)]
            safe = safe or any(GUARD.search(ast.unparse(s.test)) for s in returns)
        for child in ast.iter_child_nodes(node):
            walk(child, safe)

    walk(tree, whole)
    return found


def test_what_windows_lacks_is_asked_about_before_it_is_used():
    found = {}
    for path in FILES:
        if path.name != "setup_cell.py":  # its git clone is the same words in every shell
            name = path.relative_to(ROOT).as_posix()
            uses = [use for use in unguarded(path.read_text(encoding="utf-8")) if use[1] not in HELPERS.get(name, ())]
            found |= {name: uses} if uses else {}
    assert len(FILES) > 100
    assert found == {}


@pytest.mark.parametrize(
    "line",
    ["os.fork()", "import fcntl", "os.system('ls')", "subprocess.run(['bash', 'x'])", "subprocess.run(x, shell=True)"],
)
def test_each_is_seen(line):
    assert unguarded(f"import os\n{line}") and not unguarded(f"import os\nif os.name != 'nt':\n    {line}")


def test_every_text_file_is_opened_with_its_encoding():
    words = ["check", "--no-cache", "--preview", "--isolated", "--select", "PLW1514", "--output-format", "concise"]
    words += ["course.py", "setup_here.py", "lora_lab", "tests"]
    run = subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def tracked() -> list[str]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if run.returncode:
        pytest.skip("no checkout of the repository: its file names are read from git")
    return run.stdout.split("\0")[:-1]


def test_file_names_are_ones_that_every_system_takes():
    names = tracked()
    assert len(names) > 200
    assert len({name.casefold() for name in names}) == len(names), "two names that differ in case alone"
    forbidden = re.compile(r'[<>:"|?*\\]|[ .](?:/|$)|(?:^|/)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|/|$)', re.IGNORECASE)
    assert [name for name in names if forbidden.search(name) or not name.isascii()] == []
    assert max(map(len, names)) <= 120  # 260 in all on Windows, with the folder that the course lies in


def test_line_ends_do_not_depend_on_the_system():
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    text = [ROOT / name for name in tracked() if name.endswith((".py", ".md", ".toml", ".ipynb", ".txt", "postBuild"))]
    assert [path.name for path in text if b"\r" in path.read_bytes()] == []


def test_a_character_that_the_output_lacks_is_replaced(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # what a redirected output is on Windows
    monkeypatch.setattr(sys, "stdout", out)
    assert plainly(lambda: print("a pirate \U0001f642")) == 0
    out.flush()
    assert out.buffer.getvalue().startswith(b"a pirate ?")
