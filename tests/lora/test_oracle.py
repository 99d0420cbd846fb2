"""peft as the oracle: with the same weights, the same logits and the same gradients, to the bit."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import add_adapter, set_adapter
from lora_lab.config import LoraConfig
from lora_lab.record import record_of
from tests.lora.tiny import FAMILIES, TARGETS, logits, ours, paired, randomize, theirs, tiny, to_peft, tokens

CONFIGS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layers?.0.*": 2, r".*h\.1\..*": 5}, "alpha_pattern": {"q_proj|query|c_attn": 3.5}},
    "one layer": {"layers_to_transform": (1,)},
}


def config_for(family: str, **fields) -> LoraConfig:
    targets = TARGETS[family]
    if "layers_to_transform" in fields:
        targets = targets[:2]
    return LoraConfig(rank=4, alpha=10, target_modules=targets, **fields)


def loss_of(model: nn.Module) -> torch.Tensor:
    """A loss that reaches every logit differently."""
    out = model(tokens()).logits
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return (out.float() * weights).sum() + out.float().square().mean()


def assert_same_gradients(its: nn.Module, mine: nn.Module) -> None:
    for theirs_, ours_ in paired(its, mine):
        assert theirs_.grad is not None and theirs_.grad.abs().max() > 0
        assert torch.equal(theirs_.grad, ours_.grad)


@pytest.mark.filterwarnings("ignore:.*matches no adapted module")
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_gradients_and_three_adamw_steps_equal_peft(family, kind):
    config = config_for(family, **CONFIGS[kind])
    mine = ours(family, config)
    its = theirs(family, config, like=mine)
    assert not torch.equal(logits(mine), logits(tiny(family)))
    assert torch.equal(logits(mine), logits(its))
    trained = []
    for model in (mine, its):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        trained.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
        model.train()
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            if step == 0 and model is its:
                first = [p.grad.clone() for p, _ in paired(its, mine)]
            elif step == 0:
                my_first = {id(p): p.grad.clone() for p in model.parameters() if p.grad is not None}
            optimizer.step()
        model.eval()
    assert trained[0] == trained[1]
    assert all(torch.equal(g, my_first[id(p)]) for g, (_, p) in zip(first, paired(its, mine), strict=True))
    assert_same_gradients(its, mine)
    assert all(torch.equal(a, b) for a, b in paired(its, mine))
    assert torch.equal(logits(mine), logits(its))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("family", ("llama", "gpt2"))
def test_row_22_half_precision_base_has_float32_adapters_and_peft_outputs(family, dtype):
    config = config_for(family)
    mine = ours(family, config, dtype=dtype)
    its = theirs(family, config, like=mine, dtype=dtype)
    assert all(a.dtype == b.dtype == torch.float32 for a, b in paired(its, mine))
    assert logits(mine).dtype == dtype
    assert torch.equal(logits(mine), logits(its))
    for model in (mine, its):
        loss_of(model).backward()
    assert_same_gradients(its, mine)


def test_a_float64_base_has_float64_adapters():
    mine = ours("llama", LoraConfig(target_modules=("q_proj",)), dtype=torch.float64)
    assert {m.dtype for layer in record_of(mine).layers.values() for m in layer.matrices("default")} == {torch.float64}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_means_the_same_modules_as_in_peft(family):
    config = LoraConfig(rank=4)
    mine = ours(family, config)
    its = peft.get_peft_model(tiny(family), to_peft(config))
    adapted = {n.removeprefix("base_model.model.") for n, m in its.named_modules() if hasattr(m, "lora_A")}
    assert set(record_of(mine).layers) == adapted


def test_row_13_several_adapters_of_different_ranks_and_targets_equal_peft():
    first = LoraConfig(rank=4, target_modules=("q_proj", "v_proj"))
    second = LoraConfig(rank=7, alpha=3, target_modules=("v_proj", "up_proj"))
    mine = randomize(add_adapter(ours("llama", first), second, "second"), "second", seed=8)
    its = theirs("llama", first, like=mine)
    its.add_adapter("second", to_peft(second))
    with torch.no_grad():
        for a, b in paired(its, mine, "second"):
            a.copy_(b)
    outputs = []
    for names in (["default"], ["second"], ["default", "second"], ["second", "default"]):
        set_adapter(mine, names)
        its.base_model.set_adapter(names)
        assert torch.equal(logits(mine), logits(its))
        outputs.append(logits(mine))
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_dropout_draws_the_same_mask_as_peft():
    config = LoraConfig(rank=4, target_modules=("q_proj",), dropout=0.3)
    mine = ours("llama", config)
    its = theirs("llama", config, like=mine)
    outputs = []
    for model in (mine, its):
        model.train()
        torch.manual_seed(0)
        outputs.append(model(tokens()).logits)
        model.eval()
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], logits(mine))
    assert torch.equal(logits(mine), logits(its))


def test_autocast_equals_peft():
    config = LoraConfig(rank=4, target_modules=("q_proj", "down_proj"))
    mine = ours("llama", config)
    its = theirs("llama", config, like=mine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(mine), logits(its))


class ScaledEmbedding(nn.Embedding):
    """As Gemma's: the output is multiplied."""

    embed_scale = 5.5

    def forward(self, ids):
        return super().forward(ids) * self.embed_scale


def test_an_embedding_that_scales_its_output_equals_peft():
    torch.manual_seed(0)
    plain = nn.Sequential(ScaledEmbedding(10, 6), nn.Linear(6, 3))
    config = LoraConfig(rank=2, target_modules=("0",))
    mine = randomize(add_adapter(plain, config))
    layer = mine[0]
    its = peft.get_peft_model(nn.Sequential(layer.base, mine[1]), to_peft(config))
    with torch.no_grad():
        for a, b in paired(its, mine):
            a.copy_(b)
    ids = torch.arange(10)
    assert torch.equal(mine(ids), its(ids))
    assert not torch.equal(mine(ids), mine[1](layer.base(ids)))


@pytest.mark.parametrize("bias", ("all", "lora_only"))
def test_the_same_biases_are_trainable_as_in_peft(bias):
    config = LoraConfig(rank=4, target_modules=("query",), bias=bias)
    mine = add_adapter(tiny("bert"), config)
    its = peft.get_peft_model(tiny("bert"), to_peft(config))
    names = {
        n.removeprefix("base_model.model.").replace("base_layer", "base")
        for n, p in its.named_parameters()
        if p.requires_grad and n.endswith("bias")
    }
    assert {n for n, p in mine.named_parameters() if p.requires_grad and n.endswith("bias")} == names
    assert names
