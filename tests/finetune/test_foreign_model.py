"""A real Llama that others trained (karpathy's stories260K), converted and fine-tuned by the same command."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_lab import models, scoring
from lora_lab.corpus import read_corpus
from tests.finetune.conftest import last_json
from tests.finetune.llama2c import convert, logits_by_numpy, read_checkpoint


@pytest.fixture(scope="module")
def stories260k(outside_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories260K")
    convert(outside_data / "models/stories260K.bin", outside_data / "models/tok512.bin", folder)
    return folder


def test_converted_logits_are_those_of_llama2c(stories260k, outside_data):
    model, tokenizer = models.load(stories260k)
    assert sum(p.numel() for p in model.parameters()) == 260_032
    tokens = tokenizer("Once upon a time, there was a little girl named Lily. She liked to play outside.").input_ids
    expected = logits_by_numpy(read_checkpoint(outside_data / "models/stories260K.bin"), tokens)
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_it_scores_as_known_on_the_held_out_stories(stories260k, outside_data):
    """About 0.57 nats per character is known for 100 stories; on these, held out from the base model, it is 0.583."""
    model, tokenizer = models.load(stories260k)
    held_out = read_corpus(outside_data / "text").held_out_stories
    assert len(held_out) == 100
    assert scoring.nats_per_character(model, tokenizer, held_out) == pytest.approx(0.571, abs=0.02)


def test_its_tokenizer_gives_text_back(stories260k):
    tokenizer = models.load_tokenizer(stories260k)
    for text in ('Once upon a time, Lily said: "No!"', "two\nlines", "caf\u00e9 \U0001f600"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_it_learns_shakespeare_through_the_command(stories260k, outside_data, tmp_path, lab):
    words = ["finetune", "--model", stories260k, "--task", outside_data / "adapt/tinyshakespeare.txt", "--steps", 30]
    status, out, err = lab(*words, "--lr", "1e-2", "--max-length", 128, "--output", tmp_path / "out", "--json")
    assert status == 0, err
    result = last_json(out)
    assert result["trainable"] == 46_240
    assert result["loss_after"] < result["loss_before"] - 0.5
    assert result["exact_match_before"] is result["exact_match_after"] is None
