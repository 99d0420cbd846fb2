"""The explorer of cards: its numbers are memory's and cost's own, every control moves it, and it says it predicts."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lora_lab import explore_hardware, explorers, figures, flops, shapes
from lora_lab.explore_hardware import Choice, Outcome
from lora_lab.hardware import cost

CHOICE = Choice("RTX 4090", "Llama-2-7B", "LoRA", 16, True, 30, 1.0)


@pytest.fixture
def one():
    return explorers.hardware()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_an_outcome_is_what_memory_and_flops_say():
    llama, found = shapes.known("Llama-2-7B"), explore_hardware.outcome(CHOICE)
    assert found.memory == cost.need(llama, "lora", 2048, rank=16, checkpointing=True)
    work = flops.step(llama, 2048, how="lora", rank=16) / 2048
    assert found.speed == pytest.approx(0.3 * 165.2e12 / work)
    assert found.money == pytest.approx(1e6 / found.speed / 3600)
    short = explore_hardware.outcome(replace(CHOICE, model="GPT-2"))
    assert short.memory == cost.need(shapes.known("GPT-2"), "lora", 1024, rank=16)  # it takes no longer text


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("card", "H100 SXM"),
        ("model", "Llama-2-13B"),
        ("method", "QLoRA"),
        ("rank", 256),
        ("checkpointing", False),
        ("mfu", 20),
        ("price", 3.0),
    ],
)
def test_each_control_changes_picture_finding_and_table_and_reset_brings_them_back(one, control, value):
    before = one.image.value, one.text
    one.controls[control].value = value
    assert one.image.value != before[0] and one.text != before[1]
    one.reset()
    assert (one.image.value, one.text) == before


def test_the_finding_says_that_it_predicts_whether_it_fits_and_what_it_costs(one):
    found = explore_hardware.outcome(CHOICE)
    assert one.text.startswith(
        "Predicted, not measured: Llama-2-7B, LoRA, rank 16 on all linear layers, on one RTX 4090"
    )
    assert f"of 24 GB, a text of 2,048 tokens a step. {found.memory / 1e9:.2f} GB at the peak: fits" in one.text
    assert f"{found.speed:,.1f} tokens a second; at 1.00 an hour, {found.money:.4g} for a million tokens." in one.text
    one.controls["method"].value = "full"
    assert "does not fit" in one.text and "rank" not in one.text
    assert "as if each fitted" in one.detail.value
    one.controls["card"].value, one.controls["model"].value = "T4", "GPT-2"
    assert "a text of 1,024 tokens" in one.text
    assert "% of its peak in float16 " in one.text  # it has no bfloat16


def test_bars_and_marks_stand_where_they_should_and_what_does_not_fit_is_open():
    figure, draw = explore_hardware.hardware_figure()
    draw({"full": Outcome(50, 1, 0.5), "LoRA": Outcome(10, 1, 0.3), "QLoRA": Outcome(5, 1, 1e6)}, "LoRA", 20)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.containers[0]] == [200, 50, 25]
    marks = [line for line in right.lines if line.get_marker() == "s"]
    assert [line.get_xdata()[0] for line in marks] == [0.5, 0.3, explore_hardware.DEAR]
    assert [line.get_fillstyle() for line in marks] == ["none", "full", "full"]
    assert [text.get_text() for text in right.texts] == ["does not fit", "0.3", "1e+06"]
    assert [text.get_fontweight() for text in left.texts] == ["normal", "bold", "normal"]


def test_the_line_at_100_per_cent_goes_through_no_number():
    figure, draw = explore_hardware.hardware_figure()
    left, renderer, crossed = figure.axes[0], figure.canvas.get_renderer(), []
    for share in (2, 19, 27, 34, 36, 40, 60, 97, 100, 101, 150, 1000):
        draw(dict.fromkeys(("full", "LoRA", "QLoRA"), Outcome(share * 10**9, 1, 1)), "LoRA", 100e9)
        ends = left.transData.inverted().transform(left.texts[1].get_window_extent(renderer))[:, 0]
        if min(ends) < 100 < max(ends):
            crossed.append(share)
    assert crossed == []


def test_the_live_picture_is_the_static_picture_to_the_pixel(one):
    one.controls["card"].value, one.controls["model"].value = "T4", "GPT-2"
    assert "a text of 1,024 tokens" in one.text
    assert np.array_equal(pixels(one.image.value), pixels(figures.png(one.figure, dpi=144)))


def test_start_values_and_locks():
    locked = explorers.hardware(card="H100 SXM", price=2.5, lock={"mfu": None, "rank": (8, 64)})
    assert "on one H100 SXM of 80 GB" in locked.text and "at 2.50 an hour" in locked.text
    with pytest.raises(ValueError, match="card is 'H100', but must be one of"):
        explorers.hardware(card="H100")
