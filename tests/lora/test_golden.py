"""Golden files: the format is checked against what peft once wrote and computed, without peft and without tolerance."""

from __future__ import annotations

import json

import peft
import pytest
import torch

from lora_lab.adapters import get_config
from lora_lab.merging import merge_and_unload
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.golden.make import CONFIG, HERE, GoldenModel, adapted

EXPECTED = json.loads((HERE / "expected.json").read_text())
IDS = torch.tensor(EXPECTED["ids"])


def outputs(model):
    with torch.no_grad():
        return model(IDS).tolist()


def test_the_plain_model_is_the_one_the_files_were_made_for():
    assert outputs(GoldenModel()) == EXPECTED["base"] != EXPECTED["adapted"]


@pytest.mark.parametrize("folder", ("from_peft", "from_here"))
def test_a_golden_adapter_computes_what_peft_computed(folder):
    model = load_adapter(GoldenModel(), HERE / folder)
    assert outputs(model) == EXPECTED["adapted"]
    assert outputs(merge_and_unload(model)) == EXPECTED["adapted"]
    assert type(model.embed) is torch.nn.Embedding


def test_the_configuration_survives_the_file():
    read = get_config(load_adapter(GoldenModel(), HERE / "from_here"))
    assert (read.rank, read.alpha, read.rank_pattern, read.alpha_pattern) == (2, 4, {"up": 4}, {"mix": 1})
    assert (read.target_modules, read.modules_to_save) == (CONFIG.target_modules, ("head",))


def test_saving_writes_the_golden_bytes(tmp_path):
    """Written once by another process: the same bytes now mean that nothing depends on a hash seed or on time."""
    save_adapter(adapted(), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(p.name for p in (HERE / "from_here").iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (HERE / "from_here" / name).read_bytes()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_peft_reads_the_golden_adapter_written_here():
    assert outputs(peft.PeftModel.from_pretrained(GoldenModel(), HERE / "from_here")) == EXPECTED["adapted"]
