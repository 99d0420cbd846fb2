"""A hub name from the first question to the loaded model, and every way in which that can go wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaForCausalLM

from lora_lab import forecast, models
from lora_lab import hub as ours
from tests.hub.server import Repo

WEIGHTS = "model.safetensors"
NAME = "some/model"


def same(model, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def nothing_half(cache) -> bool:
    """Whether the cache holds no piece of a file."""
    return not [p for p in cache.rglob("*") if "incomplete" in p.name]


# --- what goes well ---------------------------------------------------------------------------------------------------


def test_a_hub_model_is_the_folder_it_was_made_from(hub, repo, tiny, capfd):
    model, tokenizer = models.load(NAME)
    mine, its = models.load(tiny)
    assert same(model, mine)
    assert tokenizer("the cat").input_ids == its("the cat").input_ids
    assert sorted(hub.fetched()) == sorted(repo.files), "each file once"
    sizes = sum(map(len, repo.files.values()))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith(NAME)]
    said = rf"some/model@aaaaaaa \(licence apache-2.0\): {ours.megabytes(sizes)} in 5 files, .* to fetch, .* free on the disk"
    assert re.fullmatch(said, line)
