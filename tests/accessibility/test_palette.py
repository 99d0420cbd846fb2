"""The palette: readable on white, and apart for every kind of colour vision; and no colour beside it."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from lora_lab import figures
from tests.accessibility.colour import SIGHT, ciede2000, difference, lab

PACKAGE = Path(figures.__file__).parent
READABLE = 4.5  # WCAG 2.2, 1.4.3: of text
SERIES_APART, ALL_APART = 16, 11.5  # CIEDE2000: of any two series; of any two of these, grey and ink
FAINT = {"white", "none", "#fff", "#ffffff", figures.GRID, figures.FAINT, figures.PAGE, figures.WORSE}
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def over_white(colour: str, alpha: float) -> str:
    return to_hex(1 - alpha * (1 - np.array(to_rgb(colour))))


def least(colours, sight: str) -> float:
    return min(difference(*pair, sight) for pair in itertools.combinations(colours, 2))


# --- the yardsticks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [  # from the table of Sharma, Wu and Dalal 2005
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ],
)
def test_differences_are_those_of_the_published_table(one, other, value):
    assert ciede2000(np.array(one), np.array(other)) == pytest.approx(value, abs=1e-4)


def test_the_simulation_leaves_grey_alone_and_brings_confused_colours_together():
    for sight in SIGHT:
        assert np.allclose(lab("#808080", sight), lab("#808080"), atol=0.2)
    red, green = "#b04000", "#6b6b00"
    assert difference(red, green, "all three cones") > 30 > 10 > difference(red, green, "deuteranopia")
    assert difference("#0070a0", "#00785a", "tritanopia") < 8 < difference("#0070a0", "#00785a", "deuteranopia")


def test_contrast_is_that_of_the_guideline():
    assert figures.contrast("#ffffff", "#000000") == 21 and figures.contrast("#777777", "white") < READABLE
    assert figures.contrast("#767676", "white") == figures.contrast("white", "#767676") > READABLE


# --- the palette ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [*figures.COLOURS, figures.GREY, figures.INK])
def test_every_colour_can_be_read_on_white(colour):
    assert figures.contrast(colour, figures.new_figure()[0].get_facecolor()) >= READABLE


@pytest.mark.parametrize("sight", SIGHT)
def test_every_two_colours_stand_apart(sight):
    assert least(figures.COLOURS, sight) >= SERIES_APART
    assert least([*figures.COLOURS, figures.GREY, figures.INK], sight) >= ALL_APART


def test_the_bounds_refuse_what_most_people_take():
    """Okabe and Ito's colours were made for fills: most are too pale for lines and words, and three kinds of sight see
    some of them closer together than any two of ours."""
    assert sum(figures.contrast(colour, "white") < READABLE for colour in OKABE_ITO) == 5
    assert all(least(OKABE_ITO, sight) < SERIES_APART for sight in SIGHT if sight != "all three cones")


@pytest.mark.parametrize("fill", [*sorted(FAINT - {"none"}), *(over_white(c, 0.25) for c in figures.COLOURS)])
def test_ink_can_be_read_on_every_faint_fill(fill):
    assert figures.contrast(figures.INK, fill) >= READABLE


def test_there_is_an_ink_for_every_fill():
    fills = [to_hex([r, g, b]) for r, g, b in itertools.product(np.linspace(0, 1, 9), repeat=3)]
    assert all(figures.contrast(figures.ink_on(fill), fill) >= READABLE for fill in fills)


def test_twelve_series_have_twelve_looks_by_more_than_colour():
    looks = [figures.cues(i) for i in range(12)]
    without = [(look["marker"], look["linestyle"], look.get("fillstyle", "full")) for look in looks]
    assert len(set(without)) == 12
    assert [look["color"] for look in looks] == [*figures.COLOURS, *figures.COLOURS]
    assert len({look[1] for look in without[:6]}) == len({look[0] for look in without[:6]}) == 6
    assert len(set(figures.HATCHES)) == len(figures.COLOURS)


# --- no colour beside it --------------------------------------------------------------------------------------------

WORDS = re.compile(r"(^|_)(color|colour|fc|ec|mfc|mec|c)$|facecolor|edgecolor", re.IGNORECASE)
RULE = re.compile(r"(?<![-\w])(color|background|border[\w-]*|outline|fill|stroke)\s*:([^;\"'}]*)")
HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
LINE = 3.0  # WCAG 2.2, 1.4.11: of what is no text


def given(path: Path) -> tuple[list[str], list[str]]:
    """Every colour that a module writes out: of lines in style sheets, and of all else (arguments, CSS, #rrggbb)."""
    lines, others = [], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        pairs = []
        if isinstance(node, ast.Call):
            pairs = [(word.arg or "", word.value) for word in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(k.value, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
        for name, value in pairs:
            if WORDS.search(str(name)) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                others.append(value.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name, value in RULE.findall(node.value):
                named = [word for word in re.findall(r"(?<![-#\w])[a-z]+\b", value) if is_named(word)]
                (lines if name.startswith(("border", "outline")) else others).extend(named + HEX.findall(value))
            others += HEX.findall(RULE.sub("", node.value))
    return lines, others


def is_named(word: str) -> bool:
    try:
        return bool(to_rgb(word))
    except ValueError:
        return False


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "figures.py"]


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_colours_come_from_the_palette_or_can_be_read(path):
    """A picture takes its colours by name; the pages' style sheets may have others that are as readable."""
    lines, others = ([colour for colour in kind if colour.lower() not in FAINT] for kind in given(path))
    if re.match("figures|explore|live", path.name):
        assert lines + others == []
    assert [colour for colour in others if figures.contrast(colour, "white") < READABLE] == []
    assert [colour for colour in lines if figures.contrast(colour, "white") < LINE] == []


def test_the_search_finds_every_way_to_write_a_colour(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        'f(color="red", mfc="#123456")\nlook = {"facecolor": "tan"}\nPALE = "#fedcba"\nq = {"color": name}\n'
        'STYLE = "a { color: #abc; border-left: 1px solid gold; }"\nhtml = \'<p style="color:teal">\'\n'
    )
    lines, others = given(path)
    assert lines == ["gold"] and sorted(set(others)) == ["#123456", "#abc", "#fedcba", "red", "tan", "teal"]
