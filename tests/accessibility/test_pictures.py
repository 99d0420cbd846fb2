"""Pictures in words: alt text for each that stands on a page, and a line with the finding under each that moves."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path

import ipywidgets
import pytest

from lora_lab import explorer
from tests.accessibility.samples import LIVE, explored

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*NOTEBOOKS, *sorted(ROOT.glob("*.md"))]
LEAST = 8  # words


def words(text: str) -> int:
    return len(re.findall(r"\w[\w.,'’-]*", text))


def of_markdown(text: str) -> list[str]:
    """Alt texts of the pictures in Markdown and HTML; an <img> without one counts as empty."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"!\[([^\]]*)\]\(", text)
    for tag in re.findall(r"<img\b[^>]*>", text):
        alt = re.search(r"""\balt=(?:"([^"]*)"|'([^']*)')""", tag)
        found.append((alt[1] or alt[2] or "") if alt else "")
    return found


def of_source(source: str) -> list[str]:
    """Alt texts that a cell writes out: `alt=` as a literal, an f-string (a word for each number) or a name given one.

    An alt text that is computed otherwise is not here; what came of it stands in the output.
    """
    tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for node in ast.walk(tree):
        for given in node.keywords if isinstance(node, ast.Call) else ():
            if given.arg == "alt":
                value = names.get(given.value.id) if isinstance(given.value, ast.Name) else given.value
                if isinstance(value, ast.JoinedStr):
                    found.append("".join(p.value if isinstance(p, ast.Constant) else "1" for p in value.values))
                elif isinstance(value, ast.Constant):
                    found.append(str(value.value))
    return found


def short(alts: list[str]) -> list[str]:
    return [alt for alt in alts if words(alt) < LEAST]


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_every_picture_has_an_alternative_of_eight_words(path):
    if path.suffix == ".md":
        assert short(of_markdown(path.read_text(encoding="utf-8"))) == []
        return
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        assert short(of_markdown(source) if cell["cell_type"] == "markdown" else of_source(source)) == []
        for output in cell.get("outputs", []):
            for kind, value in output.get("data", {}).items():
                if kind.startswith("image/"):
                    assert short([output["metadata"].get(kind, {}).get("alt", "")]) == []
                elif kind in ("text/html", "text/markdown"):
                    assert short(of_markdown("".join(value))) == []


def test_there_is_something_to_test():
    sources = [
        "".join(cell["source"])
        for path in NOTEBOOKS
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert sum(len(of_source(source)) for source in sources) > 20
    assert len(of_markdown((ROOT / "README.md").read_text(encoding="utf-8"))) >= 3


def test_alternatives_are_found_wherever_they_stand():
    source = (
        '%time x\nalt = "a b"\nshow(f, alt=alt)\nshow(f, alt=f"{x:.2f} of {y}")\nshow(f, alt="c" "d")\nshow(f, alt=g())'
    )
    assert of_source(source) == ["a b", "1 of 1", "cd"]
    assert of_markdown('![one](a.png) <img alt="two" src="b"> <img src="c">\n```\n![no](d)\n```') == ["one", "two", ""]
    assert short(["a b c d e f g", "0.39 % of 1,000 a b c d e"]) == ["a b c d e f g"]  # a number is one word


# --- pictures that move -----------------------------------------------------------------------------------------------

# Controls that choose what is shown beside the picture, and change no number of its finding.
BESIDE = {("alpha_dial", "prompt")}


def settings(control: ipywidgets.Widget) -> list:
    """Other values that the control can take, from the ends and the middle."""
    options = getattr(control, "options", None)
    if options:
        values = [option[1] if isinstance(option, tuple) else option for option in options]
    else:
        values = [control.min, control.min + control.step, control.max - control.step, control.max]
    return [value for value in (values[0], values[-1], values[len(values) // 2]) if value != control.value]


def said(one: explorer.Explorer) -> str:
    """The finding as it stands on the page, without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", one.finding.value))


@pytest.mark.parametrize("name", LIVE)
def test_the_finding_stands_right_under_the_picture_and_in_its_alternative(name):
    one = explored(name)
    places = list(one.box.children)
    assert places.index(one.finding) == places.index(one.image) + 1
    assert said(one) == one.text and words(said(one)) >= LEAST
    assert one.alt.endswith(one.text) and words(one.alt) >= words(one.text) + LEAST
    assert re.search(r"\d", said(one)) and said(one).rstrip().endswith(".")


@pytest.mark.parametrize("name", LIVE)
def test_the_finding_follows_every_control(name):
    one = explored(name)
    for key, control in one.controls.items():
        seen = {said(one)}
        for value in settings(control):
            control.value = value
            one.finish()
            assert words(said(one)) >= LEAST
            seen.add(said(one))
        one.reset()
        one.finish()
        assert len(seen) > 1 or (name, key) in BESIDE, f"{key} moves, and the finding stays"


@pytest.mark.parametrize("name", LIVE)
def test_every_control_has_a_name(name):
    for key, control in explored(name).controls.items():
        assert words(control.description), key
