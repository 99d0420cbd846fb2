"""Predicted memory against what autograd keeps, tensor by tensor, and against the memory of the process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lora_lab import counting, models, shapes
from lora_lab.adapters import add_adapter, count_parameters
from lora_lab.config import LoraConfig
from lora_lab.memory import memory
from lora_lab.prediction import decoder, predicted_memory
from tests.counting.oracles import kept_by_autograd
from tests.families.tiny import tiny as tiny_model

SETTINGS = {"dropout": 0.0, "rank": 8, "batch_size": 4, "checkpointing": False}


def test_lora_parameters_are_those_of_a_built_adapter(tiny):
    model, _ = models.load(tiny)
    add_adapter(model, LoraConfig(rank=3))
    shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)] * 2
    assert count_parameters(model).trainable == sum(counting.lora_parameters(*shape, rank=3) for shape in shapes)


def test_break_even_rank_is_the_last_that_is_no_larger():
    for out, into in [(4096, 4096), (128, 256), (7, 3), (1, 1)]:
        rank = counting.break_even_rank(out, into)
        assert rank * (out + into) <= out * into < (rank + 1) * (out + into)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "8"])
def test_bad_ranks_are_named(rank):
    with pytest.raises(ValueError, match="rank must be"):
        counting.lora_parameters(4, 4, rank)


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], None, ["gate_proj", "o_proj"], ["down_proj"]], ids=str
)
@pytest.mark.parametrize("grouped", [True, False])
def test_activations_are_what_autograd_keeps(targets, grouped):
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2 if grouped else 4,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    if targets is not None:
        add_adapter(model, LoraConfig(rank=8, target_modules=targets))
    tokens = torch.randint(0, 500, (4, 64))
    mask = torch.ones_like(tokens)
    mask[0, -9:] = 0  # padding, as in a batch of texts
    settings = SETTINGS | {"method": "full" if targets is None else "lora"}
    predicted = predicted_memory(model.train(), settings, length=64)
    log_probabilities = predicted["logits"] // 3  # the one of the three that the forward pass keeps
    kept = kept_by_autograd(model, lambda: model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False))
    assert predicted["activations"] + log_probabilities == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("kind", ["opt", "gpt_neox", "gptj"])
def test_a_family_that_has_no_shape_of_its_own_is_read_off_its_modules(kind):
    sizes = {"hidden_size": 64, "n_embd": 64, "ffn_dim": 128, "intermediate_size": 128, "n_inner": 128}
    sizes |= {"num_hidden_layers": 12, "n_layer": 12, "num_attention_heads": 4, "n_head": 4, "word_embed_proj_dim": 64}
    sizes |= {"rotary_dim": 8, "vocab_size": 200, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, embd_pdrop=0.0))
    add_adapter(model, LoraConfig(rank=4))
    shape, count = decoder(model), count_parameters(model)
    assert (shape.total, shape.layers, shape.hidden) == (count.base, 12, 64)
    assert counting.lora(shape, 4) == count.adapter
    assert all(matrix.count == 12 for matrix in shape.matrices)
    predicted = predicted_memory(model, SETTINGS | {"method": "lora", "rank": 4}, length=64)
    tokens = torch.randint(2, 200, (4, 64))
    mask = (torch.arange(64) < torch.tensor([[64], [50], [40], [30]])).long()
    kept = kept_by_autograd(
        model.train(), lambda: model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False)
    )
    # An estimate: GPT-NeoX keeps its fused q, k, v whole, GPT-J every score.
    assert predicted["activations"] + predicted["logits"] // 3 == pytest.approx(kept, rel=0.15)


def test_weights_gradients_and_optimizer_are_those_of_a_step():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2))
    add_adapter(model, LoraConfig(rank=4))
    predicted = predicted_memory(model, SETTINGS | {"method": "lora", "rank": 4}, length=8)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    tokens = torch.zeros(4, 8, dtype=torch.long)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()

    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    assert predicted["weights"] == size(model.parameters())
    assert predicted["gradients"] == size(p.grad for p in trained)
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    assert predicted["optimizer"] == size(moments)


def test_checkpointing_predicts_less():
    model = shapes.from_file(models.BASE / "config.json")
    plain, saved = (memory(model, "lora-float32", 16, 128, 8, "q_proj", checkpointing=c) for c in (False, True))
    assert saved["activations"] < plain["activations"] / 3
    assert {k: v for k, v in saved.items() if k != "activations"} == {
        k: v for k, v in plain.items() if k != "activations"
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_predicted_memory_is_within_a_fifth_of_the_process(method):
    """In a process of its own, of a first training and of a second, to which the first lends its freed memory."""
    program = (
        "import json, torch; from lora_lab import finetune as f; torch.set_num_threads(1)\n"
        "f._scores = lambda *_: f.Scores(1.0, 1.0, None, None, ('', '', ''))\n"  # only the training is of interest
        "f._style = lambda *_: None\n"
        f"for _ in range({2 if method == 'lora' else 1}):\n"
        f"    r = f.finetune(steps=3, evaluate_every=3, method={method!r}, quiet=True)\n"
        "    print(json.dumps([r.peak_memory, sum(r.memory_predicted.values())])); del r"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for measured, predicted in map(json.loads, run.stdout.splitlines()):
        assert predicted == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("name", ["mamba", "gemma3", "gemma4_text"])
def test_a_config_without_heads_or_with_parts_or_with_sizes_by_layer_is_read(name):
    model = tiny_model(name)
    assert decoder(model).total == count_parameters(model).base


def test_look_refuses_a_batch_that_cannot_be(lab):
    for name in ("rows", "length"):
        status, _, err = lab("look", "base", f"--{name}", "-1")
        assert status == 1 and f"{name} must be at least 1, got -1" in err
