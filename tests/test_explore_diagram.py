"""The diagram explorer: the printed diagram's own drawing, with every number following the controls."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lora_lab import counting, explorer, explorers, figures


def texts(figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_text_and_box_follows_the_controls():
    made = explorers.diagram()
    for name, value in {"rank": 64, "alpha": 32, "out_features": 11008, "in_features": 512}.items():
        made.controls[name].value = value
    assert texts(made.figure) == texts(figures.lora_diagram(11008, 512, rank=64, alpha=32))
    live, printed = (
        {p.get_gid(): p.get_xy() for p in f.axes[0].patches if p.get_gid()}
        for f in (made.figure, figures.lora_diagram(11008, 512, 64, 32))
    )
    assert live.keys() == printed.keys() == {"box A", "box B"}
    assert all(np.allclose(live[name], printed[name]) for name in live)


def test_it_starts_as_the_printed_diagram():
    made = explorers.diagram(rank=4, alpha=8, out_features=64, in_features=256)
    printed = pixels(figures.png(figures.lora_diagram(64, 256, 4, 8), explorer.DPI))
    # Where arrows touch a box the one drawn last is on top, and that differs.
    assert (pixels(made.image.value) != printed).any(axis=2).mean() < 1e-3


def test_finding_and_table_count_as_counting_does():
    made = explorers.diagram(rank=16, alpha=8, out_features=1024, in_features=4096)
    trained = counting.lora_parameters(1024, 4096, 16)
    assert made.text == (
        f"A and B hold {trained:,} numbers, {trained / 2**22:.3g} times W's 4,194,304; what they add is multiplied by "
        "8/16 = 0.5."
    )
    assert "[16, 4096]" in made.detail.value and "65,536" in made.detail.value


@pytest.mark.parametrize(
    ("rank", "size", "said"),
    [
        (32, 64, None),
        (33, 64, "Above rank 32 the adapter is larger than W itself."),
        (64, 64, "Above rank 32 the adapter is larger than W itself."),
        (65, 64, "No matrix of this size has a rank above 64: the rest is wasted."),
    ],
)
def test_a_rank_past_what_makes_sense_is_explained(rank, size, said):
    text = explorers.diagram(rank=rank, out_features=size, in_features=size).text
    assert text.endswith(said) if said else "rank" not in text.lower().replace("alpha / rank", "")


@pytest.mark.parametrize("control", ["rank", "alpha", "out_features", "in_features"])
def test_each_control_changes_the_picture_and_reset_brings_it_back(control):
    made = explorers.diagram()
    before, widget = made.image.value, made.controls[control]
    widget.value = 64 if control != "alpha" else 17
    assert made.image.value != before
    made.reset()
    assert made.image.value == before
