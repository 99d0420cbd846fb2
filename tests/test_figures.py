"""Figures: what they draw is the data they were given, axes name quantity and unit, no series rests on colour alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.patches import Rectangle

from lora_lab import experiments, figures, figures_command

CURVES = {"LoRA, rank 8": ([0, 10, 20], [3.0, 2.5, 2.25]), "full": ([0, 10, 20], [3.0, 2.25, 2.0])}


def series(axes):
    """The lines of a plot that carry data, as label -> (x, y)."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def two_cues(lines) -> bool:
    """Every pair of lines differs in colour, and also in marker or line style."""
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines]
    colours, others = [look[0] for look in looks], [look[1:] for look in looks]
    return len(set(colours)) == len(looks) == len(set(others))


def texts(figure) -> str:
    return "\n".join(t.get_text() for axes in figure.axes for t in axes.texts)


def test_training_curves_draw_the_data_with_units_and_two_cues():
    figure = figures.training_curves(CURVES)
    (axes,) = figure.axes
    assert series(axes) == CURVES
    assert axes.get_xlabel() == "training step"
    assert "nats per token" in axes.get_ylabel()
    assert two_cues(axes.lines)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == list(CURVES)


@pytest.mark.parametrize(
    ("curves", "says"), [({}, "empty"), ({"full": ([0, 1], [3.0])}, "'full' has 2 steps but 1 losses")]
)
def test_training_curves_refuse_what_cannot_be_drawn(curves, says):
    with pytest.raises(ValueError, match=says):
        figures.training_curves(curves)


def test_singular_values_are_drawn_in_falling_order_from_number_one():
    figure = figures.singular_values([[1.0, 5.0, 3.0], [2.0, 2.0, 0.0]], labels=["W", "BA"], log=True)
    (axes,) = figure.axes
    assert series(axes) == {"W": ([1, 2, 3], [5.0, 3.0, 1.0]), "BA": ([1, 2, 3], [2.0, 2.0, 0.0])}
    assert axes.get_yscale() == "log"
    assert "singular value" in axes.get_ylabel() and "largest first" in axes.get_xlabel()
    assert two_cues(axes.lines)


def test_singular_values_take_names_or_make_them_up():
    assert list(series(figures.singular_values({"W": [1.0]}).axes[0])) == ["W"]
    assert list(series(figures.singular_values([[1.0], [2.0]]).axes[0])) == ["matrix 1", "matrix 2"]
    with pytest.raises(ValueError, match="empty"):
        figures.singular_values([])


def test_the_diagram_counts_the_numbers_of_its_own_shapes():
    said = texts(figures.lora_diagram(64, 32, rank=4, alpha=8))
    for part in ("W  [64, 32]", "A  [4, 32]", "B  [64, 4]", "2,048 numbers", "384 numbers", "× 8/4 = 2", "y  [64]"):
        assert part in said
    assert "x  [32]" in said


def test_the_book_colours_exactly_the_pages_of_a_and_b():
    figure = figures.book(64, rank=3)
    pages = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    coloured = {"A": figures.BLUE, "B": figures.OCHRE}
    count = {name: sum(same_color(p.get_facecolor(), c) for p in pages) for name, c in coloured.items()}
    assert (len(pages), count) == (64, {"A": 3, "B": 3})
    assert all(p.get_hatch() for p in pages if same_color(p.get_facecolor(), figures.OCHRE))
    assert f"{100 * 6 / 64:.2f} %" in texts(figure) and "4,096 numbers" in texts(figure)


@pytest.mark.parametrize("rank", [0, 33])
def test_the_book_refuses_a_rank_that_does_not_fit(rank):
    with pytest.raises(ValueError, match=f"rank {rank}"):
        figures.book(64, rank=rank)


def test_the_dial_draws_both_losses_on_one_axis_and_the_style_on_another():
    figure = figures.dial([0, 1, 2], [4.0, 3.0, 3.5], [2.0, 2.25, 3.0], [0.0, 20.0, 30.0])
    losses, style = figure.axes
    assert list(series(losses).values()) == [([0, 1, 2], [4.0, 3.0, 3.5]), ([0, 1, 2], [2.0, 2.25, 3.0])]
    assert list(series(style).values()) == [([0, 1, 2], [0.0, 20.0, 30.0])]
    assert "nats per token" in losses.get_ylabel() and "per 100" in style.get_ylabel()
    assert "scale" in losses.get_xlabel() and "scale" in style.get_xlabel()
    assert two_cues([*losses.lines, *style.lines])


def test_equal_numbers_give_equal_bytes_and_other_numbers_others():
    first, again = (figures.png(figures.training_curves(CURVES), dpi=72) for _ in range(2))
    other = figures.png(figures.training_curves(CURVES | {"full": ([0, 10, 20], [3.0, 2.25, 2.75])}), dpi=72)
    assert first == again != other
    assert first.startswith(b"\x89PNG") and b"Software" not in first


def shown(monkeypatch) -> list:
    """What reaches IPython's display, as (data, metadata)."""
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata=None: calls.append((data, metadata)))
    return calls


def test_show_puts_the_finding_in_the_metadata(monkeypatch):
    calls = shown(monkeypatch)
    figures.show(figures.training_curves(CURVES), alt="Full fine-tuning ends a little lower")
    ((data, metadata),) = calls
    assert metadata["image/png"] == {"alt": "Full fine-tuning ends a little lower", "width": 700}
    assert data["text/plain"] == "Full fine-tuning ends a little lower"
    with pytest.raises(ValueError, match="alt is empty"):
        figures.show(figures.training_curves(CURVES), alt=" ")


def test_a_table_escapes_what_a_model_wrote(monkeypatch):
    calls = shown(monkeypatch)
    figures.show_table([{"scale": 1, "text": "<b>Arr</b> & ye"}], caption="one text")
    ((data, _),) = calls
    assert "&lt;b&gt;Arr&lt;/b&gt; &amp; ye" in data["text/html"] and "<caption>one text</caption>" in data["text/html"]
    assert data["text/plain"] == "scale | text\n1 | <b>Arr</b> & ye"
    with pytest.raises(ValueError, match="rows is empty"):
        figures.show_table([])


def test_figures_need_neither_torch_nor_pyplot():
    code = "import sys, lora_lab.figures; print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_drawing_leaves_the_readers_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.png(figures.training_curves(CURVES), dpi=50)
    assert dict(matplotlib.rcParams) == before


def test_the_command_redraws_every_picture_in_the_folder(tmp_path):
    from lora_lab.__main__ import main

    assert main(["figures", "--output", str(tmp_path)]) == 0
    drawn = {p.name for p in tmp_path.iterdir()}
    assert drawn == {p.name for p in figures_command.FOLDER.iterdir()}
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size < 300_000 for p in tmp_path.iterdir())


def test_the_committed_dial_is_drawn_from_the_committed_numbers():
    rows = experiments.recorded("dial")["rows"]
    losses = figures_command.draw_all()["dial.png"].axes[0]
    drawn = [y for _, y in series(losses).values()]
    assert np.array_equal(drawn, [experiments.column(rows, f) for f in ("pirate_loss", "story_loss")])
