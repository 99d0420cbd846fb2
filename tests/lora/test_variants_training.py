"""LoRA+, LoRA-FA and VeRA: equal to peft's where peft has the same thing."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn

from lora_lab.adapters import add_adapter, disable_adapters, set_adapter, set_scale, trainable_parameters
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, unload, unmerge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from lora_lab.training_variants import add_vera, freeze_a, lora_plus_groups
from tests.lora.tiny import logits, paired, same, snapshot, tiny, to_peft, tokens


def trained_step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        ids = tokens()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# --- LoRA+ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "fields"),
    [(("q_proj", "down_proj"), {}), (("q_proj",), {"use_dora": True}), (("q_proj", "embed_tokens"), {})],
    ids=["plain", "dora", "embedding"],
)
def test_lora_plus_gives_every_parameter_pefts_rate(targets, fields):
    config = LoraConfig(rank=2, target_modules=targets, **fields)
    mine = add_adapter(tiny("llama"), config)
    rates = {id(p): group["lr"] for group in lora_plus_groups(mine, lr=1e-3, ratio=8) for p in group["params"]}
    model = peft.get_peft_model(tiny("llama"), to_peft(config))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8)
    theirs = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    pairs = paired(model, mine)
    if fields:
        for path, layer in record_of(mine).layers.items():
            its = model.get_submodule(f"base_model.model.{path}").lora_magnitude_vector["default"].weight
            pairs.append((its, layer.variants["default"].magnitude))
    assert [theirs[id(its)] for its, _ in pairs] == pytest.approx([rates[id(own)] for _, own in pairs])
    assert len(rates) == len(theirs) == len(pairs) and len(set(rates.values())) >= 2


def test_lora_plus_trains_as_peft_does():
    config = LoraConfig(rank=4, target_modules=("q_proj", "down_proj"))
    torch.manual_seed(0)
    mine = add_adapter(tiny("llama"), config).train()
    model = peft.get_peft_model(tiny("llama"), to_peft(config)).train()
    with torch.no_grad():
        for its, own in paired(model, mine):
            its.copy_(own)
    trained_step(model, create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16), 3)
    trained_step(mine, torch.optim.AdamW(lora_plus_groups(mine, lr=1e-3), weight_decay=0.0), 3)
    for its, own in paired(model, mine):
        torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-6)


def test_lora_plus_leaves_frozen_parameters_and_takes_biases_with_b():
    model = add_adapter(tiny("bert"), LoraConfig(rank=2, target_modules=("query",), bias="lora_only"))
    freeze_a(model)
    (group,) = lora_plus_groups(model, lr=1e-3)
    assert group["lr"] == pytest.approx(1.6e-2)
    assert {id(p) for p in group["params"]} == {id(p) for p in trainable_parameters(model)}


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": 1e-3, "ratio": -1.0}, {"lr": float("nan")}])
def test_lora_plus_refuses_rates_that_are_none(bad):
    with pytest.raises(ValueError, match="above 0"):
        lora_plus_groups(add_adapter(tiny("llama"), LoraConfig(target_modules=("q_proj",))), **bad)


# --- LoRA-FA ----------------------------------------------------------------------------------------------------------


def test_a_stays_and_b_learns_also_after_another_adapter_was_chosen():
    model = add_adapter(tiny("llama"), LoraConfig(rank=2, target_modules=("q_proj",))).train()
    freeze_a(model)
    add_adapter(model, LoraConfig(rank=2, target_modules=("q_proj",)), "other")
    set_adapter(model, "default")
    before = [[m.detach().clone() for m in layer.matrices("default")] for layer in record_of(model).layers.values()]
    chosen = trainable_parameters(model)
    assert all(not layer.matrices("default")[0].requires_grad for layer in record_of(model).layers.values())
    trained_step(model, torch.optim.AdamW(chosen, lr=1e-2), 2)
    for (a, b), layer in zip(before, record_of(model).layers.values(), strict=True):
        now_a, now_b = layer.matrices("default")
        assert torch.equal(a, now_a) and not torch.equal(b, now_b)


def test_peft_freezes_the_same_and_steps_b_along_another_direction():
    """peft's optimizer multiplies B's gradient by (A A^T)^-1 / s^2; after that both are Adam."""
    config = LoraConfig(rank=4, alpha=8, target_modules=("q_proj",))
    torch.manual_seed(0)
    mine = freeze_a(add_adapter(tiny("llama"), config).train())
    model = peft.get_peft_model(tiny("llama"), to_peft(config)).train()
    with torch.no_grad():
        for its, own in paired(model, mine):
            its.copy_(own)
    optimizer = create_lorafa_optimizer(model, r=4, lora_alpha=8, lr=1e-3)
    assert [its.requires_grad for its, _ in paired(model, mine)] == [
        own.requires_grad for _, own in paired(model, mine)
    ]
    ids = tokens()
    for one in (model, mine):
        one(ids, labels=ids).loss.backward()
    wanted = []
    for layer in record_of(mine).layers.values():
        a, b = layer.matrices("default")
        torch.testing.assert_close(b.grad, paired(model, mine)[len(wanted) * 2 + 1][0].grad)
        wanted.append((b.grad @ torch.linalg.inv(a @ a.T) / layer.scaling["default"] ** 2).sign())
    optimizer.step()
    moved = [its.sign() for its, own in paired(model, mine) if own.requires_grad]
    for step, direction in zip(moved, wanted, strict=True):  # Adam's first step is the sign of the gradient
        assert (step == -direction).float().mean() > 0.95  # peft rounds the product to bfloat16


# --- VeRA -------------------------------------------------------------------------------------------------------------


def vera_pair(rank: int = 6, seed: int = 3) -> tuple[nn.Module, nn.Module]:
    """The same VeRA adapter, with vectors as if trained: ours, and peft's."""
    targets = ["q_proj", "v_proj", "down_proj"]
    mine = add_vera(tiny("llama"), rank=rank, target_modules=targets, seed=seed)
    config = peft.VeraConfig(r=rank, target_modules=targets, projection_prng_key=seed)
    theirs = peft.get_peft_model(tiny("llama"), config).eval()
    dice = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for path, layer in record_of(mine).layers.items():
            its, own = theirs.get_submodule(f"base_model.model.{path}"), layer.variants["default"]
            for a, b in ((own.d, its.vera_lambda_d["default"]), (own.b, its.vera_lambda_b["default"])):
                a.copy_(torch.randn(a.shape, generator=dice))
                b.copy_(a)
    return mine, theirs


def test_vera_draws_pefts_projections_and_gives_its_output_and_gradients():
    mine, theirs = vera_pair()
    with disable_adapters(mine):
        base = logits(mine)
    assert torch.equal(logits(mine), logits(theirs)) and not torch.allclose(logits(mine), base)
    ids = tokens()
    for model in (mine, theirs):
        model(ids, labels=ids).loss.backward()
    for path, layer in record_of(mine).layers.items():
        its, own = theirs.get_submodule(f"base_model.model.{path}"), layer.variants["default"]
        assert torch.equal(own.d.grad, its.vera_lambda_d["default"].grad) and own.d.grad.any()
        assert torch.equal(own.b.grad, its.vera_lambda_b["default"].grad) and own.b.grad.any()
        assert torch.equal(layer.delta("default"), its.get_delta_weight("default"))


def test_vera_starts_as_no_change_and_trains_its_vectors_alone():
    model = add_vera(tiny("llama"), rank=5, target_modules=["q_proj", "down_proj"])
    assert torch.equal(logits(model), logits(tiny("llama")))
    trained = trainable_parameters(model)
    assert sorted(p.numel() for p in trained) == [5, 5, 5, 5, 32, 32, 32, 32]
    set_adapter(model, "default")
    assert {id(p) for p in trainable_parameters(model)} == {id(p) for p in trained}
    before = [p.detach().clone() for p in trained]
    trained_step(model.train(), torch.optim.AdamW(trained, lr=1e-2), 2)
    assert all(not torch.equal(p, old) for p, old in zip(trained, before, strict=True))
    unload(model)
    assert torch.equal(logits(model.eval()), logits(tiny("llama")))


def test_vera_layers_share_one_a_and_one_b():
    model = add_vera(tiny("llama"), rank=5, target_modules=["q_proj", "k_proj", "down_proj"])
    layers = list(record_of(model).layers.values())
    for place in (0, 1):
        assert len({layer.matrices("default")[place].untyped_storage().data_ptr() for layer in layers}) == 1


def test_vera_merges_scales_and_is_saved_as_the_plain_lora_that_it_is(tmp_path):
    model, _ = vera_pair()
    wanted = logits(model)
    merge(model)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    unmerge(model)
    assert torch.equal(logits(model), wanted)
    set_scale(model, 0.5)
    wanted = logits(model)
    save_adapter(model, tmp_path)
    torch.testing.assert_close(logits(load_adapter(tiny("llama"), tmp_path)), wanted, rtol=1e-4, atol=1e-5)
    theirs = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path)
    torch.testing.assert_close(logits(theirs), wanted, rtol=1e-4, atol=1e-5)


def test_vera_says_nothing_of_a_wide_rank_and_refuses_embeddings():
    model = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_vera(model, rank=64, target_modules=["q_proj"])
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"linear layers here: 'model.embed_tokens' is a Embedding"):
        add_vera(model, target_modules=["embed_tokens"], name="other")
    assert same(before, snapshot(model))


@pytest.mark.parametrize("add", ["dora", "pissa", "vera"])
def test_variants_work_on_a_quantised_base(add):
    from lora_lab.quantise import dequantise_linears, quantise_linears

    stored = quantise_linears(tiny("llama"))
    plain = dequantise_linears(copy.deepcopy(stored))
    for model in (stored, plain):
        torch.manual_seed(0)
        if add == "vera":
            add_vera(model, rank=4, target_modules=["q_proj"])
        else:
            fields = {"use_dora": True} if add == "dora" else {"init_lora_weights": "pissa"}
            add_adapter(model, LoraConfig(rank=4, target_modules=["q_proj"], **fields))
        trained_step(model.train(), torch.optim.SGD(trainable_parameters(model), lr=0.1), 2)
    assert not torch.equal(logits(stored), logits(quantise_linears(tiny("llama"))))
    torch.testing.assert_close(logits(stored), logits(plain), rtol=1e-4, atol=1e-5)
