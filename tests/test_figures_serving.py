"""The benchmark's picture: medians, quartiles and bars where the rows say, peft's beside ours, two cues each."""

import pytest
from matplotlib.colors import to_hex

from lora_lab import figures, figures_serving


def row(what: str, side: str, against: str, ratio: float, quartiles: tuple, bar: tuple | None) -> dict:
    return {"what": what, "size": "d=8", "side": side, "against": against, "ratio": ratio} | {
        "quartiles": quartiles,
        "bar": bar,
    }


ROWS = [
    row("merge", "ours", "addmm_", 1.6, (1.5, 1.8), (0, 2.2)),
    row("merge", "peft", "addmm_", 8.0, (7.0, 9.0), None),
    row("switch", "ours", "peft", 0.02, (0.01, 0.03), (0, 0.05)),
    row("inference", "ours", "plain", 1.0, (0.99, 1.02), (0.97, 1.03)),
    row("save", "ours", "peft", 0.5, (0.4, 0.6), None),
]


def drawn() -> tuple:
    (axes,) = figures_serving.bench(ROWS).axes
    return axes, {container.get_label(): container for container in axes.containers}


def test_each_judged_row_has_its_median_quartiles_and_bars():
    axes, sides = drawn()
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "merge, d=8\nover addmm_",
        "switch, d=8\nover peft",
        "inference, d=8\nover plain",
    ]
    ours, theirs = (sides[name][0].get_xdata() for name in ("LoRA Lab", "peft"))
    assert list(ours) == [1.6, 0.02, 1.0]
    assert list(theirs) == [8.0, 1.0]  # its own ratio, and 1 where the ratio is to it
    ends = [segment[:, 0].tolist() for segment in sides["LoRA Lab"][2][0].get_segments()]
    assert ends == [pytest.approx(q) for q in ([1.5, 1.8], [0.01, 0.03], [0.99, 1.02])]
    bars = [(round(line.get_ydata().mean()), line.get_xdata()[0]) for line in axes.lines if line.get_gid() == "bar"]
    assert bars == [(0, 2.2), (1, 0.05), (2, 0.97), (2, 1.03)]
    assert axes.get_xscale() == "log" and "ratio of times" in axes.get_xlabel()


def test_ours_and_pefts_differ_in_colour_and_marker():
    _, sides = drawn()
    points = [side[0] for side in sides.values()]
    assert len({to_hex(p.get_color()) for p in points}) == len({p.get_marker() for p in points}) == 2


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no row has a bar"):
        figures_serving.bench(ROWS[-1:])


def test_the_same_picture_every_time():
    assert figures.png(figures_serving.bench(ROWS)) == figures.png(figures_serving.bench(ROWS))
