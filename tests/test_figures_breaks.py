"""The grid of checks and models: every verdict stands in its cell, in words and not by colour alone."""

import pytest

from lora_lab import figures, figures_breaks

TABLE = {
    "healthy": {"trains": True, "ranks fit": True, "merges": None},
    "frozen": {"trains": False, "ranks fit": True, "merges": None},
}


def test_every_verdict_stands_in_the_cell_of_its_model_and_check():
    (axes,) = figures_breaks.verdicts(TABLE).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(TABLE)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trains", "ranks fit", "merges"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model", "check")
    words = {text.get_position(): text.get_text() for text in axes.texts}
    said = {True: "green", False: "RED", None: "not run"}
    assert words == {(x, y): said[p] for x, c in enumerate(TABLE.values()) for y, p in enumerate(c.values())}
    assert axes.get_ylim() == (2.5, -0.5)  # the first check at the top


def test_no_verdict_rests_on_colour_alone():
    (axes,) = figures_breaks.verdicts(TABLE).axes
    looks = [(cell.get_hatch(), cell.get_facecolor()[:3]) for cell in axes.patches]
    green, unknown, red = looks[0], looks[2], looks[3]
    assert len({green, unknown, red}) == 3
    assert red[0] and not green[0]
    assert figures.png(axes.figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("table", [{}, {"healthy": {}}, {"healthy": {"trains": True}, "frozen": {"ranks": True}}])
def test_a_table_without_the_same_checks_is_refused(table):
    with pytest.raises(ValueError, match="same checks"):
        figures_breaks.verdicts(table)
