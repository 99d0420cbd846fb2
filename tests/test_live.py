"""The chooser: its prediction is finetune's own, every control changes picture and settings, nothing is loaded."""

from __future__ import annotations

import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lora_lab import counting, figures, finetune, live, models, shapes, training_setup
from lora_lab.adapters import add_adapter, count_parameters
from lora_lab.config import LoraConfig

START = {"model": "base", "task": "pirate", "rank": 8, "alpha": 16}


@pytest.fixture
def settings():
    return dict(START)


def finetunes_own(model: torch.nn.Module, method: str, rank: int) -> dict[str, int]:
    rows = {"batch_size": live.ROWS, "checkpointing": False, "dropout": 0.0}
    return finetune.predicted_memory(model, rows | {"method": method, "rank": rank}, live.LENGTH)


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_the_plan_is_what_finetune_counts_and_predicts(rank):
    model, _ = models.load("base", "cpu")
    plan = live.plan("base", "pirate", rank)
    assert plan.full == finetunes_own(model, "full", rank)
    add_adapter(model, LoraConfig(rank=rank))
    count = count_parameters(model)
    assert (plan.trainable, plan.base) == (count.adapter, count.base)
    assert counting.share_of_total(plan.trainable, plan.base) == pytest.approx(count.share_of_total)
    assert plan.lora == finetunes_own(model, "lora", rank)


def test_the_plan_assumes_finetunes_own_batch_size_and_length():
    assert (live.ROWS, live.LENGTH) == (
        inspect.signature(finetune.finetune).parameters["batch_size"].default,
        training_setup.BASE_LENGTH,
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("135M", 134_515_008), ("360M", 361_821_120), ("1.7B", 1_711_376_384)],  # as the hub counts them
)
def test_hub_models_have_the_size_that_the_hub_states(name, parameters):
    assert live.plan(f"HuggingFaceTB/SmolLM2-{name}").base == parameters


def test_a_model_on_the_meta_device_is_adapted_as_the_plan_counts():
    """Grouped keys and values, 30 layers: the hub shapes go through the same code as a loaded model."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = shapes.entry("SmolLM2-135M")["config"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**config))
    add_adapter(model, LoraConfig(rank=4))
    plan = live.plan("HuggingFaceTB/SmolLM2-135M", rank=4)
    assert plan.trainable == count_parameters(model).trainable
    assert plan.lora == finetunes_own(model, "lora", 4)


def test_on_a_gpu_frozen_weights_and_activations_take_half():
    cpu, gpu = live.plan(), live.plan(gpu=True)
    assert 0.5 < gpu.lora["activations"] / cpu.lora["activations"] < 0.7  # norms work in float32 there too
    assert cpu.lora["weights"] - gpu.lora["weights"] == 2 * cpu.base
    assert gpu.full["weights"] == 1.5 * cpu.full["weights"]  # what trains stays float32, beside a copy in bfloat16


def test_a_rank_of_zero_and_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        live.plan(rank=0)
    with pytest.raises(ValueError, match="Did you mean 'pirate'"):
        live.plan(task="pirat")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("control", "value"),
    [("rank", 9), ("alpha", 17), ("model", "HuggingFaceTB/SmolLM2-135M"), ("task", "query")],
)
def test_a_move_changes_picture_finding_and_settings(settings, control, value):
    explorer = live.chooser(settings)
    picture, finding = explorer.image.value, explorer.text
    explorer.controls[control].value = value
    assert explorer.image.value != picture
    assert explorer.text != finding
    assert settings == START | {control: value}
    explorer.controls[control].value = START[control]
    assert explorer.image.value == picture
    assert settings == START


def test_the_live_picture_is_the_static_picture_to_the_pixel(settings):
    explorer = live.chooser(settings)
    explorer.controls["rank"].value = 32
    assert np.array_equal(pixels(explorer.image.value), pixels(figures.png(explorer.figure)))


def test_finding_and_table_say_the_numbers(settings):
    explorer = live.chooser(settings)
    plan = live.plan(**settings)
    assert f"{plan.trainable:,} parameters train" in explorer.text
    assert f"{sum(plan.lora.values()) / 1e6:.0f} MB" in explorer.text
    assert f">{plan.full['optimizer'] / 1e6:.0f} MB</td>" in explorer.detail.value


def test_it_starts_from_the_given_settings_also_from_outside_its_lists(settings, tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("\n\n".join(f"This is passage {i} of my own text, and it is long enough." for i in range(40)))
    settings |= {"task": str(own), "rank": 100, "model": str(models.BASE), "lr": 1e-3}
    explorer = live.chooser(settings)
    assert explorer.controls["task"].value == str(own)
    assert explorer.controls["rank"].value == 100
    assert explorer.controls["model"].options == (str(models.BASE), "base", *live.HUB_MODELS)
    assert settings["lr"] == 1e-3


@pytest.mark.parametrize("alpha", [0.5, 16, 200.5])
def test_an_alpha_that_is_given_is_kept(settings, alpha):
    explorer = live.chooser(own := settings | {"alpha": alpha})
    assert own["alpha"] == explorer.controls["alpha"].value == alpha
