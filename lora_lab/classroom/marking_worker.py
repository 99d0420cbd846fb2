"""One submission, run in a process of its own that `marking` starts and ends: values and verdicts go out, line by line.

Only imports, functions, classes and the cells that answer something are run. What a learner defines cannot change how
they are judged by accident: the checks are loaded again after the notebook has run. It is no sandbox against malice.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from types import ModuleType
from typing import Any

from lora_lab.attempt import TookTooLong, at_most
from lora_lab.classroom import outline

JUDGES = re.compile(r"lora_lab\.(attempt|practice|exercises(\..+)?)")


def main() -> None:
    """Read the job from standard input, run it, write a line of JSON for each answer to standard output, and end."""
    job = json.load(sys.stdin)
    out, leave, path = os.dup(1), os._exit, list(sys.path)
    dumps, write, token = json.dumps, os.write, job["token"]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    limit(job.get("memory_mb"), job["seconds"])

    def say(name: str, **what: Any) -> None:
        write(out, (dumps({"token": token, "id": name, **what}) + "\n").encode())

    names: dict[str, Any] = {"__name__": "__main__"}
    problems = run(
        job["cells"], {answer["id"]: set(answer["binds"]) for answer in job["answers"]}, names, job["seconds"]
    )
    sys.path[:] = path
    practice = fresh_practice()
    for answer in job["answers"]:
        missing = [name for name in answer["binds"] if name in problems]
        trouble = f" {problems[missing[0]]}" if missing else ""
        try:
            held = eval(answer["answer"], dict(names))
        except BaseException as error:
            say(answer["id"], problem=trouble.strip() or f"there is no answer: {error}")
            continue
        if trouble:
            say(answer["id"], problem=trouble.strip())
        elif "exercise" in answer:
            try:
                verdict = practice.judge(answer["exercise"], held, seconds=min(10.0, job["seconds"] / 4))
            except BaseException as error:
                say(answer["id"], problem=f"judging it raised {type(error).__name__}: {error}"[:400])
            else:
                say(answer["id"], passed=verdict.passed is True, message=str(verdict.message)[:500])
        else:
            say(answer["id"], value=plain(held))
    leave(0)


def fresh_practice() -> ModuleType:
    """`lora_lab.practice` and what it stands on, loaded anew: whatever a notebook did to them is gone."""
    import lora_lab

    for module in [module for module in sys.modules if JUDGES.fullmatch(module)]:
        del sys.modules[module]
        vars(lora_lab).pop(module.split(".")[1], None)
    return importlib.import_module("lora_lab.practice")


def run(cells: list[dict], binds: dict[str, set[str]], names: dict[str, Any], seconds: float) -> dict[str, str]:
    """Run the cells in `names`. Returns a name that an answer needs -> what went wrong in the cell that gives it.

    `binds` is an answer's id -> the names that hold it; a cell's "answers" is the id of what it answers, or "".
    """
    problems: dict[str, str] = {}
    wanted = set().union(*binds.values())
    for cell in cells:
        try:
            nodes = outline.statements(cell["source"])
        except BaseException as error:
            nodes = []
            begun = set(re.findall(r"^(?:def |class )?(\w+)", cell["source"], re.MULTILINE))
            problems |= dict.fromkeys(binds.get(cell["answers"], wanted & begun), said(error))
        gives = binds.get(cell["answers"], set()) | (wanted & {name for node in nodes for name in outline.bound(node)})
        for node in nodes:
            if not gives and not isinstance(node, outline.DEFINES):
                continue
            try:
                with at_most(max(1.0, seconds / 4)):
                    exec(compile(ast.Module([node], type_ignores=[]), "<submission>", "exec"), names)
            except TookTooLong:
                problems |= dict.fromkeys(gives, "the cell did not end; is there a loop that never stops?")
            except BaseException as error:  # SystemExit and MemoryError as well
                problems |= dict.fromkeys(gives, said(error))
            else:
                for name in outline.bound(node):
                    problems.pop(name, None)
    return problems


def said(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = f"its cell raised {type(error).__name__}: {error}"
    if isinstance(error, NameError):
        text += " (what an answer needs must stand in its own cell, or in a function)"
    return text[:400]


def plain(value: Any) -> Any:
    """A learner's value as JSON can carry it: a number, a short text, or None."""
    if value is ...:
        return "..."
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return int(value) if abs(value) < 10**30 else str(float("inf"))
    if isinstance(value, str):
        return str(value)[:200]
    try:
        return float(value)  # numpy's and torch's numbers too
    except BaseException:
        return repr(type(value).__name__)


def limit(memory_mb: int | None, seconds: float) -> None:
    """Limit this process: memory, time on the processor, the size of a file. Where there is no `resource`, nothing."""
    try:
        import resource
    except ImportError:  # Windows
        return
    # On Linux the data limit counts what a process takes for itself; the address space would also count torch's files.
    memory = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    wanted = [(resource.RLIMIT_CPU, int(seconds) + 5), (resource.RLIMIT_FSIZE, 64 << 20), (resource.RLIMIT_CORE, 0)]
    if memory_mb:
        wanted.append((memory, memory_mb << 20))
    for which, most in wanted:
        try:
            resource.setrlimit(which, (most, most))
        except (ValueError, OSError):  # a lower limit holds already
            continue
