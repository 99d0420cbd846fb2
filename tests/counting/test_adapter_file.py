"""The predicted size of an adapter's file is that of the file: ours and peft's, to the byte."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import counting, models, shapes
from lora_lab.counting import Matrix
from lora_lab.storage import save_adapter
from tests.counting.oracles import with_adapter

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 12, "n_head": 4, "vocab_size": 300, "n_positions": 64}


def size(folder) -> int:
    return (folder / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], "all-linear"])
@pytest.mark.parametrize("rank", [1, 8, 100])
def test_an_adapter_of_the_base_model(targets, rank, tmp_path):
    model = with_adapter(models.load("base", "cpu")[0], rank, targets)
    shape = shapes.from_file(models.BASE / "config.json")
    assert counting.adapter_bytes(shape, rank, targets) == size(save_adapter(model, tmp_path / "ours"))


@pytest.mark.parametrize(("dtype", "bytes_per_number"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_peft_writes_the_same_number_of_bytes(dtype, bytes_per_number, tmp_path):
    """12 layers: names are sorted as words, so layer 10 stands before layer 2 and offsets have other lengths."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**GPT2))
    config = peft.LoraConfig(r=5, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(model, config).to(dtype)
    adapted.save_pretrained(tmp_path)
    shape = shapes.from_config(GPT2)
    assert counting.adapter_bytes(shape, 5, ["c_attn", "mlp.c_proj"], bytes_per_number) == size(tmp_path)


def test_matrices_alone_are_those_of_a_sequential(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(48, 16), torch.nn.Linear(16, 20))
    with_adapter(model, 4, ["0", "1"])
    assert counting.adapter_bytes([Matrix("0", 16, 48), Matrix("1", 20, 16)], 4) == size(save_adapter(model, tmp_path))
