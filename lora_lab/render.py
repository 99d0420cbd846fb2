"""Run the notebooks and keep their outputs: the one way their committed state is made, and what is checked in it.

    python -m lora_lab render            run every notebook, in order
    python -m lora_lab render 03 07      run these two
    python -m lora_lab render --check    run nothing; say what is wrong with the state they are in

A notebook is written only when it ran to its end and nothing is wrong with it; until then the old file stays.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LARGEST = 1_000_000  # bytes: GitHub shows larger notebooks badly or not at all
CELL_SECONDS = 900
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
RENDERING = "LORA_LAB_RENDERING"  # set in the kernels that render: an explorer finishes before it is shown
WIDGET = "application/vnd.jupyter.widget-view+json"
# What editors leave behind in a cell's metadata: times, scroll positions, ids of their own.
EDITOR_METADATA = ("execution", "ExecuteTime", "collapsed", "scrolled", "trusted", "vscode", "colab", "outputId")
# A progress bar's line, and what the kernel always says when another program starts it.
NOISE = re.compile(r"\d+%\|.*|.*\d+it \[.*|.*TCP without encryption.*")
MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])(?:/(?:home|root|tmp|work|Users|private|var/folders|mnt)/[\w.-]|[A-Za-z]:\\+(?:Users|Windows)\\)"
)


class RenderError(Exception):
    """A notebook that cannot be run, or should not be kept, in a sentence that says where."""


def find(names: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """Notebooks by number, name or path; all of them, in order, for no names. Raises RenderError for one not there."""
    every = sorted(folder.glob("*.ipynb"))
    if not every:
        raise RenderError("no notebooks here: run this from a checkout of the course, installed with  pip install -e .")
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        hits = [path for path in every if path.stem == stem or path.stem.startswith(stem + "_")]
        if not hits:
            near = difflib.get_close_matches(stem, [path.stem for path in every], n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RenderError(f"no notebook {name!r}; there are {', '.join(p.stem for p in every)}.{hint}")
        chosen += hits
    return sorted(set(chosen)) or every


def source_hash(notebook: NotebookNode) -> str:
    """SHA-256 of every cell's kind and source, in order: outputs belong to these sources and to no others."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, ensure_ascii=False).encode()).hexdigest()


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells, in place, in a fresh kernel of this Python whose working folder is `folder`.

    Raises RenderError for a cell that fails, also when it fails inside a widget, where the notebook would go on.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # A kernel that someone installed for themselves is not ours.
    told = {"JUPYTER_PREFER_ENV_PATH": "1", RENDERING: "yes"}
    before = {name: os.environ.get(name) for name in told}
    os.environ |= told  # which the kernel inherits
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=CELL_SECONDS,
        iopub_timeout=30,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel would warn of its own connection on every start
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours
        raise RenderError(f"a cell failed: {error.ename}: {error.evalue}\n{plain}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise RenderError(f"a cell did not end: {error}") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    for state in client.widget_state.values():
        for output in state.get("outputs", []):
            if output["output_type"] == "error":
                raise RenderError(f"a widget failed: {output['ename']}: {output['evalue']}")


def clean(notebook: NotebookNode, seconds: float | None = None) -> None:
    """Drop, in place, what differs from run to run or means nothing outside this machine; stamp the source hash.

    `seconds`, how long the run took, is kept in whole ones: the lesson's header is held against it. A cell that showed
    a widget is made undeletable.
    """
    from nbformat import from_dict

    for cell in notebook.cells:
        for key in EDITOR_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            if any(WIDGET in output.get("data", {}) for output in cell.outputs):
                # JupyterLab's shortcuts fire while a slider has the focus, and d d would delete the cell.
                cell.metadata.deletable = False
            cell.outputs = [kept for output in cell.outputs if (kept := clean_output(output)) is not None]
    stamp = {"source_hash": source_hash(notebook)} | ({"seconds": math.ceil(seconds)} if seconds is not None else {})
    notebook.metadata = from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}, "lora_lab": stamp})
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)


def clean_output(output: NotebookNode) -> NotebookNode | None:
    """The output without widget views and progress bars; None where nothing is left of it."""
    if output.output_type == "stream":
        lines = output.text.split("\n")
        if output.name == "stderr":
            lines = [line for line in lines if not NOISE.fullmatch(line.strip())]
        output.text = "\n".join(lines)
        return output if output.text.strip() else None
    if WIDGET in output.get("data", {}):
        # In a trusted notebook JupyterLab would write "model not found" in the place of the picture beside it.
        del output.data[WIDGET]
        return output if set(output.data) - {"text/plain"} else None
    return output


def own_paths() -> list[str]:
    """Folders of this machine that no output may name, wherever they lie."""
    places = [Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()), NOTEBOOKS.parent]
    return [str(path) for path in places if len(path.parts) > 1 and len(str(path)) > 4]


def problems(notebook: NotebookNode, size: int) -> list[str]:
    """What is wrong with a notebook's committed state, one sentence each; `size` is its file's in bytes."""
    found = []
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        found.append(f"its format is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5 or later")
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        found.append("a cell has no id, or shares one")
    if notebook.metadata.get("lora_lab", {}).get("source_hash") != source_hash(notebook):
        found.append("its sources were changed after it ran: python -m lora_lab render")
    if "widgets" in notebook.metadata:
        found.append("it holds widget state")
    if notebook.metadata.get("kernelspec") != KERNEL or "version" in notebook.metadata.get("language_info", {}):
        found.append("it names a kernel or version of one machine")
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells did not run in order, each once")
    for number, cell in enumerate(notebook.cells):
        found += [
            f"cell {number}: {problem}" for output in cell.get("outputs", []) for problem in output_problems(output)
        ]
    if size >= LARGEST:
        found.append(f"it has {size:,} bytes; less than {LARGEST:,} is the limit")
    return found


def output_problems(output: NotebookNode) -> list[str]:
    found = []
    if output.output_type == "error":
        found.append(f"it failed with {output.ename}: {output.evalue}")
    data = output.get("data", {})
    if WIDGET in data:
        found.append("its output holds a widget view")
    for kind in data:
        if kind.startswith("image/") and not output.get("metadata", {}).get(kind, {}).get("alt", "").strip():
            found.append(f"a picture ({kind}) has no alt text: show it with lora_lab.figures.show(figure, alt=...)")
    text = "\n".join(str(value) for kind, value in data.items() if kind != "image/png") + output.get("text", "")
    hit = MACHINE_PATH.search(text)
    names = [path for path in own_paths() if path in text] or ([text[hit.start() :][:40]] if hit else [])
    if names:
        found.append(f"its output names a path of this machine: {names[0]}")
    return found


def render(path: Path) -> tuple[float, int]:
    """Run one notebook and write it with its outputs; returns (seconds, bytes).

    Raises RenderError, and leaves the file as it was, when a cell fails or something is wrong with the result.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    run(notebook, path.parent)
    seconds = time.perf_counter() - start
    clean(notebook, seconds)
    text = nbformat.writes(notebook) + "\n"
    wrong = problems(notebook, len(text.encode()))
    if wrong:
        raise RenderError("\n".join(wrong))
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, path)
    return seconds, len(text.encode())


def check(path: Path) -> list[str]:
    """`problems` of the notebook in a file, as it stands."""
    import nbformat

    return problems(nbformat.read(path, as_version=nbformat.NO_CONVERT), path.stat().st_size)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a number (03), a name or a file; none: every notebook"
    )
    parser.add_argument("--check", action="store_true", help="run nothing, only say what is wrong")


def main(args: argparse.Namespace) -> int:
    failed = 0
    try:
        for path in find(args.names):
            try:
                if args.check:
                    wrong = check(path)
                    if wrong:
                        raise RenderError("\n".join(wrong))
                    print(f"{path.stem:32} fine", flush=True)
                else:
                    print(f"{path.stem:32}", end="", flush=True)
                    seconds, size = render(path)
                    print(f"{seconds:6.1f} s {size / 1000:7.0f} kB", flush=True)
            except RenderError as error:
                failed += 1
                print(f"\n{path.stem}: {error}", file=sys.stderr, flush=True)
    except RenderError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0
