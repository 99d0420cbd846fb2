"""FLOPs against torch's own counter, on meta tensors: real widths, two layers, to the last digit.

On the meta device sdpa falls apart into two matrix products, which the counter sees as it sees eager attention's.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lora_lab import flops, shapes
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.counting import Matrix
from tests.counting.oracles import on_meta, step_flops, with_adapter

# Grouped keys, head sizes apart from the width, a fused projection, queries that are normalised, a fourth norm.
SDPA = ["Llama-2-7B", "Llama-3.1-8B", "GPT-2", "Qwen3-0.6B", "Phi-3-mini", "Gemma-3-270M", "Pythia-160M"]
WIDTHS = [(name, attention) for name in SDPA for attention in ("sdpa", "eager")] + [("Gemma-2-2B", "eager")]
LENGTHS = [(128, 2), (2048, 1)]


def cut(name: str, layers: int = 2) -> dict:
    config = shapes.entry(name)["config"]
    return config | {"n_layer" if "n_layer" in config else "num_hidden_layers": layers}


@pytest.mark.parametrize(("length", "rows"), LENGTHS)
@pytest.mark.parametrize(("name", "attention"), WIDTHS)
def test_forward_and_full_step(name, attention, length, rows):
    config = cut(name)
    shape, model = shapes.from_config(config), on_meta(config, attention)
    assert flops.forward(shape, length, rows) == step_flops(model, length, rows, backward=False)
    assert flops.step(shape, length, rows) == step_flops(model, length, rows)


@pytest.mark.parametrize(("name", "attention"), WIDTHS)
def test_lora_step(name, attention):
    """Each name alone, so that the first adapter stands early or late in a block; then two, then all."""
    config = cut(name)
    shape = shapes.from_config(config)
    alone = list(dict.fromkeys(m.name for m in shape.matrices))
    for targets in (*([each] for each in alone), [alone[0], alone[2]], "all-linear"):
        adapted = with_adapter(on_meta(config, attention), 8, targets)
        assert flops.forward(shape, 256, 2, 8, targets) == step_flops(adapted, 256, 2, backward=False), targets
        assert flops.step(shape, 256, 2, "lora", 8, targets) == step_flops(adapted, 256, 2), targets


@pytest.mark.parametrize("targets", ["c_proj", "attn.c_proj", "mlp.c_proj", "c_attn", "c_fc"])
def test_lora_step_of_gpt2s_names(targets):
    config = cut("GPT-2", layers=3)
    adapted = with_adapter(on_meta(config), 4, [targets])
    assert flops.step(shapes.from_config(config), 100, 1, "lora", 4, targets) == step_flops(adapted, 100)


def test_a_matrix_in_the_middle_of_a_network():
    layer = torch.nn.Sequential(torch.nn.Linear(96, 64, device="meta"))
    inputs = torch.zeros(7, 96, device="meta", requires_grad=True)
    counted = []
    for adapted in (False, True):
        if adapted:
            add_adapter(layer, LoraConfig(rank=4, target_modules=["0"]))
        with FlopCounterMode(display=False) as counter:
            layer(inputs).sum().backward()
        counted.append(counter.get_total_flops())
    matrix = [Matrix("0", 64, 96)]
    assert [flops.step(matrix, 7), flops.step(matrix, 7, how="lora", rank=4)] == counted


def test_what_the_literature_says_of_llama():
    """Full fine-tuning is three forward passes; LoRA about two thirds of it, more at high rank and for long texts."""
    llama = shapes.known("Llama-2-7B")
    shares = {
        (length, rank, targets): round(
            flops.step(llama, length, 1, "lora", rank, targets) / flops.step(llama, length), 3
        )
        for length, rank, targets in ((512, 8, "q_proj,v_proj"), (512, 256, "all-linear"), (4096, 8, "q_proj,v_proj"))
    }
    assert list(shares.values()) == [0.671, 0.766, 0.711]


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="how must be 'full' or 'lora', got 'qlora'"):
        flops.step(shapes.known("GPT-2"), 8, how="qlora")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        flops.step(shapes.known("GPT-2"), 8, how="lora", rank=0)
