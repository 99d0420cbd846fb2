"""The render command: what it keeps, what it drops, and that it replaces nothing by something worse."""

from __future__ import annotations

import argparse
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_lab import render

PICTURE = """
import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from lora_lab import figures
figure = Figure(figsize=(1, 1))
figures.show(figure, alt="an empty figure")
"""


def written(folder, *sources, name="01_small.ipynb"):
    path = folder / name
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Small"), *map(new_code_cell, sources)]), path)
    return path


def as_rendered(*cells):
    notebook = new_notebook(cells=list(cells))
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = number
    render.clean(notebook)
    return notebook


def test_a_rendered_notebook_keeps_its_outputs_and_nothing_of_this_machine(tmp_path):
    path = written(
        tmp_path,
        "print('loss', 1 + 1)",
        PICTURE,
        "display(ipywidgets.IntSlider())",
        "import sys\nfor i in range(200): print(f'\\r{i // 2}%|##| {i}/200', end='', file=sys.stderr)",
    )
    environment = dict(os.environ)
    seconds, size = render.render(path)
    assert dict(os.environ) == environment  # what the kernel was told is not told to whatever runs next
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert render.check(path) == [] and 0 < seconds < 120 and size == path.stat().st_size
    assert isinstance(kept := notebook.metadata.lora_lab.seconds, int) and seconds <= kept <= seconds + 1
    text, picture, slider, bar = (cell.outputs for cell in notebook.cells[1:])
    assert [output.text for output in text] == ["loss 2\n"]
    assert picture[0].metadata["image/png"]["alt"] == "an empty figure"
    assert slider == [] and bar == []
    undeletable = [cell.metadata.get("deletable") for cell in notebook.cells]
    assert undeletable == [None, None, None, False, None]  # d d, pressed on a slider, would take its cell away
    assert set(notebook.metadata) == {"kernelspec", "language_info", "lora_lab"}
    assert all("execution" not in cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import ipywidgets\nwith ipywidgets.Output(): 1 / 0", "a widget failed: ZeroDivisionError"),
        ("import os; print(os.path.expanduser('~') + '/x')", "names a path of this machine"),
        ("from matplotlib import pyplot; pyplot.plot([1, 2]); pyplot.show()", "has no alt text"),
    ],
    ids=["error", "error in a widget", "path", "alt"],
)
def test_a_notebook_that_should_not_be_kept_is_left_as_it_was(tmp_path, source, complaint):
    path = written(tmp_path, source)
    before = path.read_bytes()
    with pytest.raises(render.RenderError, match=complaint):
        render.render(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_source_changed_after_the_run_is_noticed():
    notebook = as_rendered(new_code_cell("x = 1"))
    assert render.problems(notebook, 1000) == []
    notebook.cells[0].source = "x = 2"
    assert "sources were changed" in render.problems(notebook, 1000)[0]


def spoiled(what):
    notebook = as_rendered(new_code_cell("a"), new_markdown_cell("b"), new_code_cell("c"))
    first, _, last = notebook.cells
    if what == "order":
        first.execution_count, last.execution_count = 2, 1
    elif what == "never ran":
        last.execution_count = None
    elif what == "widget state":
        notebook.metadata.widgets = {}
    elif what == "widget view":
        first.outputs = [new_output("display_data", {render.WIDGET: {}, "text/html": "x"})]
    elif what == "kernel":
        notebook.metadata.kernelspec["name"] = "my-env"
    elif what == "id":
        last.id = first.id
    elif what == "error":
        first.outputs = [new_output("error", ename="E", evalue="", traceback=[])]
    elif what == "path":
        first.outputs = [new_output("stream", name="stdout", text="saved to /" + "home/someone/adapter")]
    elif what == "windows path":
        first.outputs = [new_output("execute_result", {"text/plain": "WindowsPath(C:" + r"\Users\someone)"})]
    elif what == "alt":
        first.outputs = [new_output("display_data", {"image/png": ""}, metadata={"image/png": {"alt": " "}})]
    return notebook


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("order", "did not run in order"),
        ("never ran", "did not run in order"),
        ("widget state", "widget state"),
        ("widget view", "widget view"),
        ("kernel", "kernel or version of one machine"),
        ("id", "no id, or shares one"),
        ("error", "failed with E"),
        ("path", "path of this machine"),
        ("windows path", "path of this machine"),
        ("alt", "no alt text"),
    ],
)
def test_each_fault_of_a_committed_state_is_named(what, complaint):
    (only,) = render.problems(spoiled(what), 1000)
    assert complaint in only


def test_a_large_notebook_is_named():
    assert "1,000,000" in render.problems(as_rendered(new_code_cell("a")), 1_000_000)[0]


@pytest.mark.parametrize("text", ["https://example.org/home/x", "and/or/home", "3 / 4", "lora_lab/assets/base"])
def test_what_is_no_machine_path_is_left_alone(text):
    assert render.output_problems(new_output("stream", name="stdout", text=text)) == []


def test_a_picture_beside_a_widget_stays():
    data = {render.WIDGET: {"model_id": "0"}, "image/png": "aGk=", "text/plain": "x"}
    kept = render.clean_output(new_output("display_data", data, metadata={"image/png": {"alt": "x"}}))
    assert set(kept.data) == {"image/png", "text/plain"}


def test_notebooks_are_found_by_number_name_and_path(tmp_path):
    one, two = (written(tmp_path, name=f"{name}.ipynb") for name in ("01_idea", "02_rank"))
    assert render.find([], tmp_path) == [one, two]
    assert (
        render.find(["02"], tmp_path)
        == render.find(["02_rank"], tmp_path)
        == render.find([str(two)], tmp_path)
        == [two]
    )
    with pytest.raises(
        render.RenderError, match="no notebook '01_ide_a'; there are 01_idea, 02_rank. Did you mean 01_idea?"
    ):
        render.find(["01_ide_a"], tmp_path)
    with pytest.raises(render.RenderError, match="no notebooks here"):
        render.find([], tmp_path / "empty")


def test_the_command_goes_on_after_a_failure_and_says_so(tmp_path, monkeypatch, capsys):
    written(tmp_path, "assert False, 'on purpose'", name="01_bad.ipynb")
    good = written(tmp_path, "print('fine')", name="02_good.ipynb")
    monkeypatch.setattr(render.find, "__defaults__", (tmp_path,))
    assert render.main(argparse.Namespace(names=[], check=False)) == 1
    out, err = capsys.readouterr()
    assert "01_bad: a cell failed: AssertionError: on purpose" in err and "02_good" in out
    assert render.check(good) == []
    assert render.main(argparse.Namespace(names=["02"], check=True)) == 0
