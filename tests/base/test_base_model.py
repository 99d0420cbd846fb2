"""The embedded base model: what its folder holds, that anything loads it, and that its card tells the truth."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_lab import models
from lora_lab.corpus import read_corpus
from lora_lab.scoring import nats_per_character

BASE = models.BASE


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def card():
    return json.loads((BASE / "training.json").read_text())


def test_the_folder_is_small_enough():
    assert sum(f.stat().st_size for f in BASE.iterdir()) <= 16e6


def test_architecture_and_stored_dtype(model, card):
    assert model.config.model_type == "llama"
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] == 5_770_496
    assert AutoModelForCausalLM.from_pretrained(BASE, dtype="auto").dtype == torch.bfloat16


def test_start_token_comes_first(tokenizer):
    assert tokenizer("Once").input_ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == 4096


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_decodes_back_to_itself(text):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["\tdef f():\n        return 1\n\n", "naïve café \U0001f600\U0001f3f4‍☠️", "  two  spaces ", "1234567890"]
)
def test_hard_text_decodes_back_to_itself(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_digits_stay_single(tokenizer):
    assert len(tokenizer("4096", add_special_tokens=False).input_ids) == 4


def test_the_card_gives_the_numbers_of_its_data_file(card):
    text = (BASE / "README.md").read_text()
    assert f"{card['stories_nats_per_character']:.3f}" in text
    assert f"{card['peter_pan_nats_per_character']:.3f}" in text
    for word in ("CDLA-Sharing-1.0", "public domain", f"{card['tokens_seen'] / 1e6:.1f} M tokens"):
        assert word in text


def test_held_out_scores_are_the_cards(model, tokenizer, card):
    folder = os.environ.get("LORA_LAB_DATA")
    if not folder:
        pytest.skip("LORA_LAB_DATA is not set: the held-out text is not part of the project")
    corpus = read_corpus(Path(folder) / "text")
    assert (len(corpus.held_out_stories), len(corpus.held_out_windows)) == (100, 80)
    assert not set(corpus.held_out_stories) & {s[:250] for s in corpus.stories}
    assert not any("Peter Pan" in name for name in corpus.books)
    stories = nats_per_character(model, tokenizer, corpus.held_out_stories)
    assert stories == pytest.approx(card["stories_nats_per_character"], abs=0.003)
    peter_pan = nats_per_character(model, tokenizer, corpus.held_out_windows)
    assert peter_pan == pytest.approx(card["peter_pan_nats_per_character"], abs=0.003)
    assert stories <= 0.50 and peter_pan <= 1.14
