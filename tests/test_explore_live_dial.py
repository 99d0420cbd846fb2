"""The live dial: it writes what `generate` writes, the same at the same scale, and shows the base model beside it."""

from __future__ import annotations

import asyncio
import copy
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lora_lab import adapters, explore_live_dial, explorers, generate, models, scoring, storage, tasks
from lora_lab.config import LoraConfig
from lora_lab.explore_live_dial import Written

PROMPT = "Once upon a time, there was a little cat"


@pytest.fixture(scope="module")
def base():
    return models.load("base", "cpu")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Two adapters that do something: random, not trained."""
    place = tmp_path_factory.mktemp("adapters")
    made = {}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = adapters.add_adapter(copy.deepcopy(base[0]), LoraConfig(rank=2, target_modules=["v_proj"]))
        for path, p in model.named_parameters():
            if ".B." in path:
                torch.nn.init.normal_(p, std=0.1)
        made[name] = storage.save_adapter(model, place / name)
    return made


@pytest.fixture
def dial(folders):
    return explorers.live_dial({"one": 1.0, "two": 0.0}, folders, tokens=12)


def written(model, base, prompt=PROMPT, tokens=12, **how):
    return list(explore_live_dial.write(model, *base, prompt, tokens, **how))


def test_at_temperature_zero_it_writes_what_generate_writes(base, folders):
    model = storage.load_adapter(copy.deepcopy(base[0]), folders["one"])
    text = "".join(token.text for token in written(model, base))
    assert PROMPT + text == generate.generate(model, base[1], PROMPT, 12)
    assert PROMPT + text != generate.generate(*base, PROMPT, 12)


def test_probabilities_are_those_of_one_pass_over_the_whole_text(base, folders):
    model, tokenizer = storage.load_adapter(copy.deepcopy(base[0]), folders["one"]), base[1]
    said = written(model, base, temperature=0.7, seed=3)
    ids = tasks.prompt_ids(PROMPT, tokenizer)
    first = len(ids)
    by_text = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    ids += [by_text[token.text] for token in said]
    with torch.no_grad():
        here, plain = (m(torch.tensor([ids])).logits[0].softmax(-1) for m in (model, base[0]))
    for i, token in enumerate(said):
        assert token.here == pytest.approx(float(here[first + i - 1, ids[first + i]]), rel=1e-3)
        assert token.base == pytest.approx(float(plain[first + i - 1, ids[first + i]]), rel=1e-3)
    assert any(token.changed for token in said)


def test_noise_draws_from_the_softmax(base):
    """The first token over many seeds: as often as its probability at that temperature says."""
    model, tokenizer = base
    with torch.no_grad():
        chances = (model(torch.tensor([tasks.prompt_ids(PROMPT, tokenizer)])).logits[0, -1] / 2).softmax(-1)
    likeliest = tokenizer.decode([int(chances.argmax())])
    hits = [written(model, base, tokens=1, temperature=2.0, seed=seed)[0].text == likeliest for seed in range(100)]
    p = float(chances.max())
    assert 0.1 < p < 0.95
    assert abs(np.mean(hits) - p) < 4 * (p * (1 - p) / 100) ** 0.5


def test_scales_of_zero_are_the_base_model_and_the_same_scales_give_the_same_text(dial, base):
    first, picture = dial.detail.value, dial.image.value
    dial.controls["one"].value = 0.0
    assert "12 tokens, at 0 of them the base model would have written another" in dial.text
    plain = "".join(token.text for token in written(base[0], base, temperature=0.7))
    assert f"</i>{plain}</div>" in dial.detail.value
    assert dial.detail.value != first and dial.image.value != picture
    dial.reset()
    assert (dial.detail.value, dial.image.value) == (first, picture)


def test_two_adapters_are_mixed_as_set_scale_mixes_them(dial, base, folders):
    dial.controls["one"].value, dial.controls["two"].value = 0.5, 1.5
    model = copy.deepcopy(base[0])
    for name, folder in folders.items():
        storage.load_adapter(model, folder, name)
    adapters.set_adapter(model, ["one", "two"])
    adapters.set_scale(model, 0.5, "one")
    adapters.set_scale(model, 1.5, "two")
    expected = explore_live_dial.as_html(PROMPT, written(model, base, temperature=0.7))
    assert expected in dial.detail.value
    assert dial.text.startswith("With one at 0.5 and two at 1.5: 12 tokens")


def test_text_comes_token_by_token_and_a_new_move_ends_the_old(folders):
    """As in a kernel, where a loop is running: one token at once, the rest when there is time."""
    seen = []

    async def drag():
        dial = explorers.live_dial({"one": 1.0}, folders, tokens=8)
        assert dial.text == "The base model and its adapters are being loaded."  # seconds, after the first picture
        dial.finish()
        dial.detail.observe(
            lambda change: seen.append((dial.controls["one"].value, change["new"].count("<tr>") - 1)), names="value"
        )
        dial.controls["one"].value = 0.4
        dial.controls["one"].value = 0.8
        assert seen == [(0.4, 1), (0.8, 1)]
        while dial.detail.value.count("<tr>") < 9:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(drag(), 60))
    assert seen[2:] == [(0.8, n) for n in range(2, 9)]


def test_each_beginning_and_each_scale_can_be_chosen_and_no_other(dial):
    assert list(dial.controls) == ["one", "two", "prompt"]
    assert (dial.controls["one"].min, dial.controls["one"].max) == (0.0, 2.0)
    dial.controls["prompt"].value = "def "
    assert "<i>def </i>" in dial.detail.value
    with pytest.raises(ValueError, match="no adapter 'three' to scale: there are one, two"):
        explorers.live_dial({"three": 1.0}, {"one": "a", "two": "b"})
    with pytest.raises(ValueError, match="one is 3.0, but must be 0 to 2"):
        explorers.live_dial({"one": 3.0}, {"one": "a"})


def test_the_picture_is_the_probabilities_and_ends_at_the_rarest():
    figure, draw = explore_live_dial.surprise_figure(5)
    draw([0.5, 0.25], [0.125, 1e-9])
    (axes,) = figure.axes
    here, base = axes.lines
    assert (list(here.get_xdata()), list(here.get_ydata())) == ([1, 2], [0.5, 0.25])
    assert list(base.get_ydata()) == [0.125, explore_live_dial.RAREST]
    assert here.get_marker() != base.get_marker() and here.get_color() != base.get_color()
    assert [path.vertices.tolist() for path in axes.collections[0].get_paths()] == [
        [[1, 0.5], [1, 0.125]],
        [[2, 0.25], [2, explore_live_dial.RAREST]],
    ]
    assert axes.get_yscale() == "log" and "probability" in axes.get_ylabel()
    draw([], [])
    assert len(here.get_xdata()) == 0


def test_what_a_model_writes_is_escaped_and_what_the_base_would_not_write_is_marked():
    said = [Written("<b>", 0.5, 0.25, "<b>"), Written(" ye", 0.5, 0.125, " you")]
    page = explore_live_dial.as_html("a & b", said)
    assert "<i>a &amp; b</i>&lt;b&gt;<b><u> ye</u></b>" in page
    assert page.count("<tr>") == 3
    text = explore_live_dial.told({"pirate": 1.0}, said)
    assert text.startswith("With pirate at 1.0: 2 tokens, at 1 of them the base model would have written another.")
    assert "+1.04 nats per token against" in text  # (ln 2 + ln 4) / 2
    assert text.endswith("Pirate words per 100: 50.")
    assert "Pirate" not in explore_live_dial.told({"mine": 1.0}, said)
    assert explore_live_dial.told({"pirate": 1.0}, []) == "With pirate at 1.0 the likeliest is to write nothing."


@pytest.mark.parametrize("name", explore_live_dial.ADAPTERS)
def test_the_adapters_that_are_shipped_are_small_trained_and_for_this_base_model(name, base):
    folder = explore_live_dial.ADAPTERS[name]
    weights = folder / storage.WEIGHTS_FILE
    assert weights.stat().st_size < 300_000
    with safe_open(weights, "pt") as file:
        assert all(file.get_tensor(key).abs().max() > 0 for key in file.keys() if "lora_B" in key)
    model = storage.load_adapter(copy.deepcopy(base[0]), folder)
    task = tasks.load_task(name)
    before, after = (scoring.loss(m, base[1], task.validation[:8], max_length=128) for m in (base[0], model))
    assert after < before - 0.5
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2
