"""Choosing, disabling, deleting; biases and whole modules; what is trainable; the status in words."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import (
    adapter_names,
    adapter_parameters,
    add_adapter,
    count_parameters,
    delete_adapter,
    disable_adapters,
    get_config,
    set_adapter,
    set_scale,
    status,
)
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraConv1D, LoraEmbedding, LoraLinear
from lora_lab.merging import merge, merge_and_unload, unload, unmerge
from tests.lora.tiny import TARGETS, Q, V, logits, ours, randomize, tiny, tokens, two_adapters


def targeted(family: str, **fields) -> LoraConfig:
    return LoraConfig(rank=4, alpha=10, target_modules=TARGETS[family], **fields)


def flags(model: nn.Module) -> set[str]:
    return {n for n, p in model.named_parameters() if p.requires_grad}


def train_steps(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens()).logits.square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("bias", ("lora_only", "all"))
@pytest.mark.parametrize("family", ("bert", "gpt2", "qwen2"))
def test_training_moves_the_biases_that_were_asked_for_and_no_other(family, bias):
    model = add_adapter(tiny(family), targeted(family, bias=bias))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_steps(model)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    mine = {id(p) for p in adapter_parameters(model).values()}
    allowed = {n for n, p in model.named_parameters() if id(p) in mine}
    assert moved <= allowed and any(n.endswith(".bias") for n in moved)
    assert {n for n in allowed if ".A." in n or ".B." in n} <= moved
    with disable_adapters(model):
        assert torch.equal(logits(model), logits(tiny(family)))  # trained biases too are put aside


def test_disabling_restores_several_active_ones_in_their_order_even_after_an_error():
    model = two_adapters()
    set_adapter(model, ["b", "a"])
    before, active = logits(model), status(model)
    with disable_adapters(model) as inside:
        assert inside is model and not status(model).enabled and "disabled" in str(status(model))
        assert torch.equal(logits(model), logits(tiny("llama")))
    assert torch.equal(logits(model), before) and status(model) == active
    with pytest.raises(KeyError), disable_adapters(model):
        raise KeyError("from within")
    assert torch.equal(logits(model), before)


def test_disabling_puts_whole_modules_and_biases_aside():
    config = LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",), bias="all")
    model = ours("bert", config)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter += 0.1
    trained = logits(model)
    for around in (lambda: None, lambda: merge(model)):
        around()
        changed = logits(model)
        with disable_adapters(model):
            assert torch.equal(logits(model), logits(tiny("bert")))
        assert torch.equal(logits(model), changed)
    assert torch.allclose(changed, trained, atol=1e-5) and not torch.allclose(trained, logits(tiny("bert")), atol=1e-2)
    kept = merge_and_unload(model)
    assert torch.equal(logits(kept), changed)
    assert all(p.requires_grad for p in kept.parameters())  # as before the adapter
    assert list(kept.state_dict()) == list(tiny("bert").state_dict())


def test_unloading_puts_the_original_head_and_biases_back():
    config = LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",), bias="all")
    model = ours("bert", config)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter += 0.1
    assert torch.equal(logits(unload(model)), logits(tiny("bert")))


def test_choosing_another_adapter_puts_the_biases_of_the_first_aside():
    model = ours("bert", LoraConfig(rank=2, target_modules=("query",), bias="all"), "a")
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter += 0.1
    with_a = logits(model)
    add_adapter(model, LoraConfig(rank=2, target_modules=("key",)), "b")  # untrained
    assert torch.equal(logits(model), logits(tiny("bert")))
    assert not any("bias" in n for n in flags(model))
    set_adapter(model, "a")
    assert torch.equal(logits(model), with_a)
    set_adapter(model, "b")
    delete_adapter(model, "a")
    assert torch.equal(logits(model), logits(tiny("bert")))


def test_tied_biases_are_swapped_once():
    """BERT's language head shows one bias under two paths."""

    class TiedBias(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.bias = self.one.bias

        def forward(self, x):
            return self.two(self.one(x))

    torch.manual_seed(0)
    plain = TiedBias()
    x = torch.randn(2, 4)
    base = plain(x)
    model = add_adapter(plain, LoraConfig(rank=2, bias="all"))
    with torch.no_grad():
        model.one.base.bias += 1
    trained = model(x)
    for _ in range(2):
        with disable_adapters(model):
            assert torch.equal(model(x), base)
        assert torch.equal(model(x), trained)


@pytest.mark.parametrize("keep", ("a", "b"))
def test_deleting_one_adapter_leaves_the_other(keep):
    model = two_adapters()
    set_adapter(model, keep)
    expected = logits(model)
    gone = {"a": "b", "b": "a"}[keep]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the active one stays: nothing to warn about
        delete_adapter(model, gone)
    assert adapter_names(model) == [keep]
    assert torch.equal(logits(model), expected)
    assert not any(f".{gone}." in n for n, _ in model.named_parameters())
    only = {"a": "up_proj", "b": "q_proj"}[keep]
    assert all(type(m) is nn.Linear for n, m in model.named_modules() if n.endswith(only))  # unwrapped


def test_what_is_trainable_after_each_call():
    model = tiny("llama")
    add_adapter(model, Q, "a")
    of_a = flags(model)
    assert of_a == {f"model.layers.{i}.self_attn.q_proj.{m}.a.weight" for i in (0, 1) for m in "AB"}
    add_adapter(model, V, "b")
    of_b = flags(model)
    assert len(of_b) == 8 and all(".b." in n for n in of_b)
    set_adapter(model, "a")
    assert flags(model) == of_a
    set_adapter(model, ["a", "b"])
    assert flags(model) == of_a | of_b
    with disable_adapters(model):
        pass
    merge(model)
    unmerge(model)
    assert flags(model) == of_a | of_b
    with pytest.warns(UserWarning, match="active"):
        set_adapter(model, "b")
        delete_adapter(model, "b")
    assert flags(model) == of_a
    unload(model)
    assert flags(model) == {n for n, _ in tiny("llama").named_parameters()}


def test_parameters_frozen_before_stay_frozen_after_unloading():
    model = tiny("llama")
    model.model.embed_tokens.requires_grad_(False)
    before = flags(model)
    unload(add_adapter(model, Q))
    assert flags(model) == before and len(before) == len(list(model.parameters())) - 1


def test_the_status_says_what_is_the_case():
    model = two_adapters()
    set_scale(model, 0.5, "b")
    said = status(model)
    assert (said.adapters, said.active, said.merged, said.enabled) == (("a", "b"), ("b",), (), True)
    assert said.layers == {"a": 2, "b": 4} and said.ranks == {"a": (4,), "b": (2,)}
    assert said.trainable == {"a": False, "b": True} and said.dtype == {"a": "float32", "b": "float32"}
    assert str(said).splitlines() == [
        "a: not active, frozen, rank 4, 2 layers, float32",
        "b: active, trainable, rank 2, 4 layers, float32, scaled by 0.5",
    ]
    merge(model)
    assert status(model).merged == ("b",) and "b: merged" in str(status(model))


def test_the_count_keeps_the_head_apart():
    model = add_adapter(tiny("bert"), LoraConfig(rank=3, target_modules=("query",), modules_to_save=("classifier",)))
    base = sum(p.numel() for p in tiny("bert").parameters())
    head = 32 * 2 + 2
    count = count_parameters(model)
    assert (count.adapter, count.head, count.base) == (2 * 3 * (32 + 32), head, base)
    assert count.total == base + count.adapter + head and count.trainable == count.adapter + head
    assert count.share_of_base == count.adapter / base and count.share_of_total == count.trainable / count.total
    assert f"{count.trainable:,} of {count.total:,} parameters are trainable" in str(count)
    its = peft.get_peft_model(
        tiny("bert"), peft.LoraConfig(r=3, target_modules=["query"], modules_to_save=["classifier"])
    )
    assert (count.trainable, count.total) == its.get_nb_trainable_parameters()
    plain = count_parameters(tiny("llama"))
    assert plain.adapter == plain.head == 0 and plain.total == plain.base == plain.trainable


@pytest.mark.parametrize("when", ("before", "after"))
@pytest.mark.parametrize("reentrant", (True, False))
def test_gradient_checkpointing_reaches_every_adapter(reentrant, when):
    model = tiny("llama")
    expected = ours("llama", Q)
    expected.train()(tokens()).logits.square().mean().backward()
    settings = {"use_reentrant": reentrant}
    # transformers 5.17 has only the old name
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    if when == "before":
        enable(settings)
    randomize(add_adapter(model, Q))
    if when == "after":
        enable(settings)
    model.train()(tokens(), use_cache=False).logits.square().mean().backward()
    for path, parameter in adapter_parameters(model).items():
        assert torch.equal(parameter.grad, adapter_parameters(expected)[path].grad), path


def test_the_state_dict_holds_exactly_the_base_and_the_adapters():
    model = ours("llama", Q)
    plain = {k.replace("q_proj.", "q_proj.base.") for k in tiny("llama").state_dict()}
    assert set(model.state_dict()) == plain | flags(model)
    other = add_adapter(tiny("llama"), Q)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("kind", ("Linear", "TransformerEncoderLayer", "Sequential"))
def test_any_torch_module_can_be_adapted(kind):
    torch.manual_seed(0)
    if kind == "TransformerEncoderLayer":  # its fast path in eval mode reads weights and calls no layer
        plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0).eval()
    elif kind == "Sequential":
        plain = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    else:
        plain = nn.ModuleDict({"only": nn.Linear(8, 8)})
        plain.forward = plain["only"].forward
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        base = plain(x)
        model = randomize(add_adapter(plain, LoraConfig(rank=2)))
        if kind == "Linear":
            model.forward = model["only"].forward
        changed = model(x)
        assert not torch.allclose(changed, base, atol=1e-3)
        with disable_adapters(model):
            assert torch.allclose(model(x), base, atol=1e-6)
        merge(model)
        assert torch.allclose(model(x), changed, atol=1e-5)


def test_a_wrapped_layer_still_answers_for_its_base():
    model = ours("gpt2", targeted("gpt2"))
    wte, c_attn = model.transformer.wte, model.transformer.h[0].attn.c_attn
    assert isinstance(wte, LoraEmbedding) and (wte.num_embeddings, wte.padding_idx) == (61, None)
    assert isinstance(c_attn, LoraConv1D) and c_attn.nf == 96 and c_attn.weight is c_attn.base.weight
    assert (c_attn.in_features, c_attn.out_features) == (32, 96)
    with pytest.raises(AttributeError, match="nonsense"):
        c_attn.nonsense  # noqa: B018
    assert get_config(model) == targeted("gpt2")


def test_a_deep_copy_is_of_the_wrapper_even_if_its_base_copies_itself():
    class CopiesItself(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    model = add_adapter(nn.Sequential(CopiesItself(4, 4)), LoraConfig(rank=2))
    assert type(copy.deepcopy(model)[0]) is LoraLinear


def test_generation_and_caching_work_on_an_adapted_model():
    model = ours("llama", Q)
    ids = tokens(rows=1)
    with_cache = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert torch.equal(with_cache, model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=False))
    assert with_cache.shape == (1, 13)
