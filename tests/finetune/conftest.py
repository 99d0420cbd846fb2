"""A tiny random Llama with the base model's tokenizer, and a page of text: what most tests here train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lora_lab import __main__ as command_line
from lora_lab import models

WORDS = "the cat and the dog went down to the old red house where a small mouse sat by the fire".split()


@pytest.fixture(scope="module", autouse=True)
def in_one_thread(one_thread):
    """For every module of this folder."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a random model of 2 layers of 32 and the base model's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(models.BASE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """A .txt file of 40 short paragraphs."""
    path = tmp_path_factory.mktemp("texts") / "page.txt"
    paragraphs = [" ".join(WORDS[(i + 3 * j) % len(WORDS)] for j in range(60 + i)) for i in range(40)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture
def lab(capfd):
    """Runs `python -m lora_lab ...` in this process; returns its status, its output and its errors."""

    def run(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        status = command_line.main([str(w) for w in words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def quick(tiny, page) -> dict:
    """Arguments of a fine-tune that takes a second or two."""
    return {
        "model": tiny,
        "task": page,
        "rank": 2,
        "alpha": 4,
        "lr": 1e-2,
        "batch_size": 4,
        "max_length": 32,
        "steps": 12,
        "evaluate_every": 4,
    }


def flags(options: dict) -> list[str]:
    """The same arguments as words of the command."""
    return [w for name, value in options.items() for w in (f"--{name.replace('_', '-')}", str(value))]


def last_json(text: str) -> dict:
    """The line of JSON that --json ends with."""
    return json.loads(text.strip().splitlines()[-1])
