"""The calculator: its numbers are counting's and memory's own, every control moves it, and the verdict is right."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lora_lab import counting, explore_calculator, explorers, figures, memory, shapes
from lora_lab.explore_calculator import Cost, Plan

PLAN = Plan("Llama-2-7B", "LoRA", 8, "q and v", 1, 512, False)


@pytest.fixture
def calculator():
    return explorers.calculator()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_plan_costs_what_counting_and_memory_say():
    shape = shapes.known("Llama-2-7B")
    found = explore_calculator.cost(PLAN)
    assert (found.base, found.trainable) == (6_738_415_616, 4_194_304)
    assert found.file == counting.adapter_bytes(shape, 8, "q_proj,v_proj")
    assert found.memory == memory.memory(shape, "lora", 1, 512, 8, "q_proj,v_proj")
    quantised = explore_calculator.cost(replace(PLAN, method="QLoRA", batch=4, checkpointing=True))
    assert quantised.memory == memory.memory(shape, "qlora", 4, 512, 8, "q_proj,v_proj", checkpointing=True)
    full = explore_calculator.cost(replace(PLAN, method="full"))
    assert full.trainable == full.base and full.file == 2 * full.base
    assert full.memory == memory.memory(shape, "full", 1, 512)


@pytest.mark.parametrize("model", shapes.names())
def test_targets_by_role_are_the_same_in_every_family(model):
    """Attention and MLP share out the linear layers; q and v are a part of attention, or a fused matrix of it."""
    trains = {
        t: explore_calculator.cost(replace(PLAN, model=model, targets=t)).trainable for t in explore_calculator.TARGETS
    }
    shape = shapes.known(model)
    assert trains["all linear"] == counting.lora(shape, 8) == trains["attention"] + trains["MLP"]
    assert 0 < trains["q and v"] < trains["attention"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": "q"}, "targets must be"),
        ({"method": "lora"}, "method must be"),
        ({"model": "Llama-7B"}, "Did you mean"),
    ],
)
def test_what_there_is_not_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        explore_calculator.cost(replace(PLAN, **change))


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("model", "Mistral-7B-v0.1"),
        ("method", "QLoRA"),
        ("rank", 256),
        ("targets", "all linear"),
        ("batch", 4),
        ("length", 1024),
        ("checkpointing", True),
        ("card", 80),
        ("gpu", 48),
    ],
)
def test_each_control_changes_picture_finding_and_table_and_reset_brings_them_back(calculator, control, value):
    before = calculator.image.value, calculator.text
    calculator.controls[control].value = value
    assert calculator.image.value != before[0] and calculator.text != before[1]
    calculator.reset()
    assert (calculator.image.value, calculator.text) == before


def test_the_finding_says_count_shares_peak_and_whether_it_fits(calculator):
    peak = explore_calculator.cost(PLAN).bytes / 1e9
    assert calculator.text == (
        "Llama-2-7B by LoRA, rank 8 on q and v: 4,194,304 parameters train, 0.062% of the base (0.062% of all). "
        f"{peak:.2f} GB at the peak, a card of 24 GB: fits, {24 - peak:.2f} GB are left."
    )
    calculator.controls["card"].value = 8
    assert f"does not fit: {peak - 8:.2f} GB too much; it would with QLoRA." in calculator.text
    assert "16,7" not in calculator.detail.value and "17 MB" in calculator.detail.value


def test_the_way_out_is_the_mildest_remedy_and_really_is_one():
    long = replace(PLAN, length=8192)
    assert explore_calculator.cost(replace(long, checkpointing=True)).bytes < 24e9 < explore_calculator.cost(long).bytes
    assert explore_calculator.way_out(long, 24e9) == "it would with checkpointing"
    full = replace(PLAN, method="full")
    assert explore_calculator.way_out(full, 24e9) == "it would with LoRA"
    large = replace(PLAN, model="Llama-3.1-70B")
    assert explore_calculator.way_out(large, 48e9) == "it would with QLoRA and checkpointing"
    assert explore_calculator.way_out(large, 24e9) == "nothing here makes it fit"


def test_a_text_longer_than_the_model_takes_is_said(calculator):
    calculator.controls["model"].value, calculator.controls["length"].value = "GPT-2", 2048
    assert "2,048 tokens are counted, but this model takes 1,024 at most." in calculator.detail.value
    calculator.controls["length"].value = 1024
    assert "at most" not in calculator.detail.value


def test_bars_are_the_buckets_in_per_cent_of_the_card_and_stop_at_the_edge():
    figure, draw = explore_calculator.fit_figure()
    (axes,) = figure.axes
    parts = dict(zip(memory.BUCKETS, (20e9, 10e9, 40e9, 5e9, 5e9), strict=True))
    small = {bucket: n / 20 for bucket, n in parts.items()}
    draw({"full": Cost(1, 1, 1, parts), "LoRA": Cost(1, 1, 1, small), "QLoRA": Cost(1, 1, 1, small)}, "LoRA", 20e9)
    bars = [[(bar.get_x(), bar.get_width()) for bar in container] for container in axes.containers]
    assert [bucket[1] for bucket in bars] == [(0, 5), (5, 2.5), (7.5, 10), (17.5, 1.25), (18.75, 1.25)]
    assert [bucket[0] for bucket in bars] == [(0, 100), (100, 50), (150, 50), (200, 0), (200, 0)]
    words = [text.get_text() for text in axes.texts]
    assert "→ 80.00 GB" in words and words.count("4.00 GB") == 2
    assert [t.get_fontweight() for t in axes.texts if t.get_text() == "4.00 GB"] == ["bold", "normal"]
    looks = [(c[0].get_facecolor(), c[0].get_hatch()) for c in axes.containers]
    assert len(set(looks)) == 5
    assert "memory" in axes.get_xlabel() and "card" in axes.get_xlabel()


def test_the_live_picture_is_the_static_picture_to_the_pixel(calculator):
    calculator.controls["rank"].value = 256
    assert np.array_equal(pixels(calculator.image.value), pixels(figures.png(calculator.figure, dpi=144)))


def test_start_values_and_locks():
    locked = explorers.calculator("GPT-2", "full", gpu=8, lock={"card": None, "length": (128, 1024)})
    assert locked.text.startswith("GPT-2 in full: all of its 124,439,808 parameters train. ")
    assert max(value for _, value in locked.controls["length"].options) == 1024
    with pytest.raises(ValueError, match="rank is 3, but must be one of"):
        explorers.calculator(rank=3)
