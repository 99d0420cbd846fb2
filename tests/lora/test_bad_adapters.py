"""Bad calls on adapters. Row names are those of a table of what peft and others do with each:
what raises here says what was expected and what is near, and leaves the model as it was."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from lora_lab.adapters import (
    add_adapter,
    delete_adapter,
    disable_adapters,
    get_config,
    set_adapter,
    set_scale,
    status,
    trainable_parameters,
)
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, merge_and_unload, unload, unmerge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.tiny import logits, ours, randomize, same, snapshot, tiny
from tests.lora.two import Two, X, break_one, refused, with_adapter

Q = LoraConfig(rank=2, target_modules=("q_proj",))


def test_row_H_duplicate_name():
    model = with_adapter()
    refused(lambda: add_adapter(model, LoraConfig(rank=4)), model, "adapter 'default' exists already")


@pytest.mark.parametrize("name", ("a.b", "", "a/b", 3, "keys", "train"))
def test_row_H2_name_that_cannot_be_a_key(name):
    model = Two()
    refused(lambda: add_adapter(model, LoraConfig(rank=2), name), model, f"adapter name {name!r}")


def test_row_H3_name_lora():
    model = Two()
    refused(lambda: add_adapter(model, LoraConfig(rank=2), "lora"), model, "confused with peft's 'lora_'")


def test_row_I_unknown_adapter():
    model = with_adapter()
    for call in (
        lambda: set_adapter(model, "defult"),
        lambda: set_adapter(model, ["default", "defult"]),
        lambda: delete_adapter(model, "defult"),
        lambda: set_scale(model, 2.0, "defult"),
        lambda: merge(model, "defult"),
        lambda: get_config(model, "defult"),
        lambda: save_adapter(model, "nowhere", "defult"),
    ):
        refused(call, model, "no adapter 'defult'. Adapters here: 'default'. Did you mean 'default'?")


def test_row_I2_a_list_of_adapters():
    model = with_adapter()
    randomize(add_adapter(model, LoraConfig(rank=3), "other"), "other", seed=1)
    set_adapter(model, ["default", "other"])
    assert status(model).active == ("default", "other")
    refused(lambda: set_adapter(model, []), model, "no adapter named")
    refused(lambda: set_adapter(model, ["other", "other"]), model, "named twice")


def test_row_J_merging_twice_warns_and_adds_once():
    model = with_adapter()
    merge(model)
    once = model(X)
    with pytest.warns(UserWarning, match="merged already, nothing to do"):
        merge(model)
    assert torch.equal(model(X), once)


def test_row_J2_unmerge_before_merge_warns():
    model = with_adapter()
    before = snapshot(model)
    with pytest.warns(UserWarning, match="nothing is merged"):
        unmerge(model)
    assert same(before, snapshot(model))


def test_row_J3_merging_an_unknown_adapter():
    model = with_adapter()
    refused(lambda: merge(model, ["zzz"]), model, "no adapter 'zzz'")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_row_J4_a_hundred_cycles_leave_the_base_exact(dtype):
    model = Two().to(dtype)
    base = [p.clone() for p in model.parameters()]
    randomize(add_adapter(model, LoraConfig(rank=2)))
    for _ in range(100):
        merge(model)
        unmerge(model)
    assert all(torch.equal(a, b) for a, b in zip(base, unload(model).parameters(), strict=True))


def test_row_J5_a_broken_adapter_is_not_merged():
    model = with_adapter()
    break_one(model)
    refused(lambda: merge(model), model, "merging would make 'lin1' not finite .* from adapter 'default'. Nothing was")
    refused(lambda: merge(model, keep_backup=False), model, "Nothing was merged")
    refused(lambda: merge_and_unload(model), model, "Nothing was merged")


def test_row_J6_a_refused_merge_leaves_every_layer_untouched():
    model = with_adapter()
    base = model.lin0.base.weight.clone()
    break_one(model, "lin1")  # lin0 comes first and is sound
    refused(lambda: merge(model), model, "lin1")
    assert torch.equal(model.lin0.base.weight, base)
    assert status(model).merged == ()


def test_row_J6_an_overflow_of_a_half_precision_weight_is_refused():
    model = add_adapter(Two().half(), LoraConfig(rank=2, target_modules=("lin0",)))
    with torch.no_grad():
        for matrix in model.lin0.matrices("default"):
            matrix.fill_(200.0)
    refused(lambda: merge(model), model, "their sum with the torch.float16 weight")


def test_row_J6_a_small_update_of_a_weight_near_the_largest_float_is_refused():
    model = add_adapter(Two().half(), LoraConfig(rank=2, alpha=2, target_modules=("lin0",)))
    with torch.no_grad():
        model.lin0.base.weight.fill_(65000.0)
        for matrix in model.lin0.matrices("default"):
            matrix.fill_(20.0)  # an update of 800; the largest float16 is 65504
    refused(lambda: merge(model), model, "their sum with the torch.float16 weight")


def test_row_J7_editing_an_adapter_while_merged_does_not_reach_the_base():
    model = with_adapter()
    base = model.lin0.base.weight.clone()
    merge(model)
    randomize(model, seed=77)
    unmerge(model)
    assert torch.equal(model.lin0.base.weight, base)


def test_row_J8_training_while_merged():
    model = with_adapter().eval()
    merge(model)
    with pytest.raises(RuntimeError, match=r"adapter 'default' is merged: .*Call unmerge\(model\) before train\(\)"):
        model.train()
    model.eval()
    unmerge(model)
    assert model.train().training and model.lin0.training


def test_row_J9_unload_while_merged_gives_the_plain_base():
    model = with_adapter()
    merge(model)
    unload(model)
    assert torch.equal(model(X), Two()(X))
    assert type(model.lin0) is nn.Linear


def test_row_J10_disabling_while_merged_restores_the_merged_state():
    model = with_adapter()
    merge(model)
    merged = model(X)
    before = snapshot(model)
    with disable_adapters(model):
        assert torch.equal(model(X), Two()(X))
    assert torch.equal(model(X), merged)
    assert same(before, snapshot(model))
    assert status(model).merged == ("default",)


def test_row_J10_choosing_while_merged_unmerges_with_a_warning():
    model = with_adapter()
    randomize(add_adapter(model, LoraConfig(rank=3), "other"), "other", seed=1)
    other = model(X)
    merge(model)
    with pytest.warns(UserWarning, match="'other' was merged: unmerging before choosing"):
        set_adapter(model, "default")
    assert status(model).merged == ()
    assert torch.equal(model(X), with_adapter()(X)) and not torch.equal(model(X), other)


def test_row_K_adapting_a_model_that_is_adapted_already():
    model = tiny("llama")
    add_adapter(model, Q)
    refused(lambda: add_adapter(model, Q), model, "adapter 'default' exists already")
    refused(lambda: add_adapter(model.model, Q, "b"), model, "'layers.0.self_attn.q_proj' is already adapted through")
    inner = tiny("llama")
    add_adapter(inner.model, Q)
    refused(lambda: add_adapter(inner, Q, "b"), inner, "'model.layers.0.self_attn.q_proj' is already adapted")
    refused(lambda: set_adapter(inner, "default"), inner, "is adapted: pass the module that add_adapter was given")


def test_row_K2_wrapping_works_in_place_and_a_deep_copy_stays_plain():
    model = tiny("llama")
    plain = logits(model)
    other = randomize(add_adapter(copy.deepcopy(model), Q))
    assert torch.equal(logits(model), plain) and not torch.equal(logits(other), plain)
    assert add_adapter(model, Q) is model
    again = copy.deepcopy(other)  # and a copy of an adapted model is complete and apart
    delete_adapter(again, "default")
    assert torch.equal(logits(again), plain) and status(other).adapters == ("default",)


def test_row_K3_a_model_that_peft_wrapped():
    model = peft.get_peft_model(Two(), peft.LoraConfig(target_modules=["lin0"]))
    refused(lambda: add_adapter(model, LoraConfig(rank=2)), model, "is peft's: call its unload")


def test_row_L_deleting_the_active_adapter_warns_and_the_next_is_active():
    model = with_adapter()
    expected = model(X)
    add_adapter(model, LoraConfig(rank=3), "other")
    merge(model)
    refused(lambda: delete_adapter(model, "other"), model, "is merged: unmerge before deleting")
    unmerge(model)
    with pytest.warns(UserWarning, match="'other' was the active one; 'default' is active now"):
        delete_adapter(model, "other")
    assert status(model).active == ("default",) and torch.equal(model(X), expected)


def test_row_L2_deleting_the_only_adapter_leaves_the_base():
    model = with_adapter()
    delete_adapter(model, "default")
    assert torch.equal(model(X), Two()(X))
    assert str(status(model)) == "no adapter: the plain model"
    assert list(model.state_dict()) == list(Two().state_dict())
    with disable_adapters(add_adapter(model, LoraConfig(rank=2))):
        assert torch.equal(model(X), Two()(X))


def test_row_M9_a_state_dict_of_a_file_is_not_loaded_silently():
    """Its keys are not the model's; strict loading, torch's default, says so."""
    model = with_adapter()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({"base_model.model.lin0.lora_A.weight": torch.zeros(2, 16)})


def test_row_M10_training_a_frozen_adapter(tmp_path):
    save_adapter(with_adapter(), tmp_path)
    model = load_adapter(Two(), tmp_path)
    with pytest.raises(
        ValueError, match="nothing here is trainable: adapter 'default' was loaded frozen.*trainable=True"
    ):
        trainable_parameters(model)
    assert len(trainable_parameters(load_adapter(Two(), tmp_path, trainable=True))) == 4


def test_row_M11_the_scale_is_saved(tmp_path):
    model = with_adapter(LoraConfig(rank=2, alpha=3, alpha_pattern={"lin1": 5}))
    set_scale(model, 0.35)
    save_adapter(model, tmp_path)
    loaded = load_adapter(Two(), tmp_path)
    assert torch.equal(loaded(X), model(X)) and not torch.equal(model(X), with_adapter()(X))
    its = peft.PeftModel.from_pretrained(Two(), tmp_path)
    assert torch.equal(its(X), model(X))
    set_scale(model, 1)  # not cumulative
    assert torch.equal(model(X), with_adapter(LoraConfig(rank=2, alpha=3, alpha_pattern={"lin1": 5}))(X))


@pytest.mark.parametrize("factor", (float("nan"), float("inf"), "2", None, True))
def test_a_scale_that_is_no_finite_number(factor):
    model = with_adapter()
    refused(lambda: set_scale(model, factor), model, "the scale must be a finite number")


def test_the_scale_of_a_merged_adapter():
    model = with_adapter()
    merge(model)
    refused(lambda: set_scale(model, 2.0), model, "merged with the old scale")


def test_row_O_overlapping_patterns_survive_the_file(tmp_path):
    patterns = {"q_proj": 16, "layers.0.self_attn.q_proj": 64}
    model = ours("llama", LoraConfig(rank=4, target_modules=("q_proj",), alpha_pattern=patterns, rank_pattern={
        "q_proj": 2, r"layers\.0\..*": 8}))  # fmt: skip
    save_adapter(model, tmp_path)
    loaded = load_adapter(tiny("llama"), tmp_path)
    scalings = [layer.scaling["default"] for layer in record_of(loaded).layers.values()]
    assert scalings == [64 / 8, 16 / 2]
    assert torch.equal(logits(loaded), logits(model))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


@pytest.mark.parametrize("target", ("embed", "head"))
def test_row_S_merging_into_a_tied_weight(target):
    torch.manual_seed(0)
    model = randomize(add_adapter(Tied(), LoraConfig(rank=2, target_modules=(target,))))
    other = {"embed": "head", "head": "embed"}[target]
    advice = f"the weight of '{target}' is tied to '{other}'.*model.{other}.weight = torch.nn.Parameter"
    refused(lambda: merge(model), model, advice)
    refused(lambda: merge_and_unload(model), model, advice)
    ids = torch.arange(10)
    expected = model(ids)
    matrices = [m.detach().clone() for m in model.get_submodule(target).matrices("default")]
    unload(model)
    plain = model.get_submodule(other)
    plain.weight = nn.Parameter(plain.weight.detach().clone())  # what the error says
    add_adapter(model, LoraConfig(rank=2, target_modules=(target,)))
    with torch.no_grad():
        for mine, kept in zip(model.get_submodule(target).matrices("default"), matrices, strict=True):
            mine.copy_(kept)
    merge(model)
    assert torch.allclose(model(ids), expected, atol=1e-5)


def test_one_adapter_cannot_update_what_another_saves_whole():
    model = add_adapter(tiny("bert"), LoraConfig(target_modules=("query",), modules_to_save=("classifier",)))
    wide = LoraConfig(rank=2, target_modules=("classifier",))
    refused(lambda: add_adapter(model, wide, "b"), model, "another adapter saves 'classifier' whole")
    model = add_adapter(tiny("bert"), wide)
    whole = LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",))
    refused(lambda: add_adapter(model, whole, "b"), model, "cannot be saved whole: another adapter is on 'classifier'")


def test_two_heads_or_two_sets_of_biases_at_once():
    config = LoraConfig(rank=2, target_modules=("query",), modules_to_save=("classifier",), bias="all")
    model = add_adapter(tiny("bert"), config)
    refused(lambda: add_adapter(model, config, "b"), model, "'default' trains biases already")
    add_adapter(model, LoraConfig(rank=2, target_modules=("key",), modules_to_save=("classifier",)), "b")
    refused(lambda: set_adapter(model, ["default", "b"]), model, "each bring their own whole 'classifier'")
    refused(lambda: merge(model, ["default", "b"]), model, "each bring their own whole 'classifier'")


def test_changing_adapters_while_they_are_disabled():
    model = with_adapter()
    with disable_adapters(model):
        for call in (
            lambda: set_adapter(model, "default"),
            lambda: add_adapter(model, LoraConfig(rank=2), "b"),
            lambda: delete_adapter(model, "default"),
            lambda: merge(model),
            lambda: unmerge(model),
            lambda: unload(model),
            lambda: merge_and_unload(model),
        ):
            refused(call, model, "leave disable_adapters first", RuntimeError)


def test_adding_to_a_merged_model():
    model = with_adapter()
    merge(model)
    refused(lambda: add_adapter(model, LoraConfig(rank=2), "b"), model, "is merged: unmerge before adding")


def test_functions_on_a_plain_model_say_what_to_call():
    model = Two()
    for call in (lambda: set_adapter(model, "default"), lambda: merge(model), lambda: unload(model)):
        refused(call, model, "this Two has no adapter. Call add_adapter or load_adapter first")
