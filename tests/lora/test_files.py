"""Files both ways: saved here and loaded in peft, saved by peft and loaded here, with equal logits."""

from __future__ import annotations

import json
import os
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lora_lab import storage
from lora_lab.adapters import (
    adapter_names,
    adapter_parameters,
    add_adapter,
    disable_adapters,
    get_config,
    set_adapter,
    set_scale,
    status,
)
from lora_lab.config import LoraConfig
from lora_lab.merging import merge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.tiny import FAMILIES, TARGETS, logits, ours, randomize, theirs, tiny

Q, QV = ("q_proj",), ("q_proj", "v_proj")
CASES = {
    **{f"{family} targets": (family, {"target_modules": TARGETS[family]}) for family in FAMILIES},
    **{f"{family} all-linear": (family, {}) for family in FAMILIES},
    "rslora": ("llama", {"target_modules": QV, "use_rslora": True}),
    "patterns": ("llama", {"target_modules": QV, "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"layers.1.*": 2.5}}),
    "regex": ("llama", {"target_modules": r".*\.1\..*(up|down)_proj"}),
    "layers": ("llama", {"target_modules": QV, "layers_to_transform": (1,), "layers_pattern": "layers"}),
    "all-linear of one layer": ("llama", {"layers_to_transform": (1,)}),
    "excluded": ("llama", {"exclude_modules": ("down_proj",)}),
    "head saved whole": ("bert", {"target_modules": ("query",), "modules_to_save": ("classifier",)}),
    "all biases": ("bert", {"target_modules": ("query",), "bias": "all"}),
    "biases of adapted layers": ("gpt2", {"target_modules": ("c_attn",), "bias": "lora_only"}),
    "embedding and head": ("llama", {"target_modules": ("embed_tokens", "lm_head", "q_proj")}),
}


def trained(family: str, fields: dict) -> nn.Module:
    """An adapter with random A and B, and with its whole modules and biases moved as well."""
    model = ours(family, LoraConfig(rank=4, alpha=10, dropout=0.1, **fields))
    matrices = {id(m) for layer in record_of(model).layers.values() for m in layer.matrices("default")}
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            if id(parameter) not in matrices:
                parameter += torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter)
    return model


def peft_loads(family: str, folder) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(tiny(family), folder).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_files_both_ways_give_equal_logits(case, tmp_path):
    family, fields = CASES[case]
    mine = trained(family, fields)
    expected = logits(mine)
    assert not torch.equal(expected, logits(tiny(family)))
    save_adapter(mine, tmp_path / "ours")
    its = peft_loads(family, tmp_path / "ours")
    assert torch.equal(logits(its), expected)
    its.save_pretrained(tmp_path / "theirs")
    torch.manual_seed(99)  # row 3: another seed at load
    assert torch.equal(logits(load_adapter(tiny(family), tmp_path / "theirs")), expected)
    again = load_adapter(tiny(family), tmp_path / "ours")
    assert torch.equal(logits(again), expected)
    with disable_adapters(again):
        assert torch.equal(logits(again), logits(tiny(family)))
    keys = [set(load_file(tmp_path / side / "adapter_model.safetensors")) for side in ("ours", "theirs")]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("name", ("default", "style", "q_proj", "self"))
def test_row_10_any_name_gives_the_same_keys_and_outputs(name, tmp_path):
    mine = ours("llama", LoraConfig(rank=4, target_modules=QV), name)
    place = save_adapter(mine, tmp_path, name)
    assert place == (tmp_path if name == "default" else tmp_path / name)
    keys = load_file(place / "adapter_model.safetensors")
    assert all(name not in key for key in keys) or name in ("q_proj", "self")
    assert sorted(keys)[0] == "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert len(keys) == 8
    loaded = load_adapter(tiny("llama"), tmp_path, name)
    assert adapter_names(loaded) == [name]
    assert torch.equal(logits(loaded), logits(mine))
    assert torch.equal(logits(peft_loads("llama", place)), logits(mine))


def test_two_adapters_side_by_side_load_in_peft(tmp_path):
    mine = ours("llama", LoraConfig(rank=4, target_modules=QV))
    randomize(add_adapter(mine, LoraConfig(rank=2, target_modules=("o_proj",)), "second"), "second", seed=9)
    for name in ("default", "second"):
        save_adapter(mine, tmp_path, name)
    its = peft_loads("llama", tmp_path)
    its.load_adapter(tmp_path / "second", "second")
    again = load_adapter(load_adapter(tiny("llama"), tmp_path), tmp_path, "second")
    outputs = []
    for name in ("default", "second"):
        set_adapter(mine, name)
        its.set_adapter(name)
        set_adapter(again, name)
        assert torch.equal(logits(mine), logits(its)) and torch.equal(logits(mine), logits(again))
        outputs.append(logits(mine))
    assert not torch.equal(*outputs)


def test_the_bytes_do_not_depend_on_the_order_of_a_set(tmp_path):
    written = []
    for i, names in enumerate(({"v_proj", "q_proj", "up_proj"}, {"up_proj", "v_proj", "q_proj"})):
        save_adapter(ours("llama", LoraConfig(rank=2, target_modules=names)), tmp_path / str(i))
        written.append([p.read_bytes() for p in sorted((tmp_path / str(i)).iterdir())])
    assert written[0] == written[1]
    assert b'"q_proj",\n    "up_proj",\n    "v_proj"' in written[0][0]


def test_saving_twice_or_after_loading_gives_the_same_bytes(tmp_path):
    save_adapter(ours("llama", LoraConfig(rank=2, target_modules=QV, rank_pattern={"v_proj": 3})), tmp_path / "a")
    save_adapter(load_adapter(tiny("llama"), tmp_path / "a"), tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_file_says_what_peft_needs_to_know(tmp_path):
    save_adapter(ours("llama", LoraConfig(rank=2, alpha=6)), tmp_path, base_model_name="somebody/model")
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content["init_lora_weights"] is True and content["inference_mode"] is True
    assert content["base_model_name_or_path"] == "somebody/model"
    assert (content["r"], content["lora_alpha"], content["task_type"]) == (2, 6, "CAUSAL_LM")
    assert content["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_most_specific_pattern_is_written_first_so_that_peft_reads_the_same(tmp_path):
    patterns = {"q_proj": 16.0, "layers.0.self_attn.q_proj": 64.0}
    mine = ours("llama", LoraConfig(rank=4, target_modules=Q, alpha_pattern=patterns))
    save_adapter(mine, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())["alpha_pattern"]
    assert list(written) == ["layers.0.self_attn.q_proj", "q_proj"]
    its = peft_loads("llama", tmp_path)
    scalings = {n.split(".layers.")[1][0]: m.scaling["default"] for n, m in its.named_modules() if hasattr(m, "lora_A")}
    assert scalings == {"0": 16.0, "1": 4.0}
    assert torch.equal(logits(its), logits(mine))


def test_a_half_precision_base_saves_float32_adapters(tmp_path):
    mine = ours("llama", LoraConfig(rank=2, target_modules=Q), dtype=torch.bfloat16)
    save_adapter(mine, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    assert torch.equal(logits(load_adapter(tiny("llama", torch.bfloat16), tmp_path)), logits(mine))


def test_a_merged_adapter_saves_the_plain_embedding(tmp_path):
    mine = ours("llama", LoraConfig(rank=2, target_modules=("embed_tokens",)))
    plain = tiny("llama").model.embed_tokens.weight
    merge(mine)
    for within in (False, True):
        if within:
            with disable_adapters(mine):
                save_adapter(mine, tmp_path)
        else:
            save_adapter(mine, tmp_path)
        saved = load_file(tmp_path / "adapter_model.safetensors")
        assert torch.equal(saved["base_model.model.model.embed_tokens.base_layer.weight"], plain)


def test_saved_biases_are_the_trained_ones_also_while_another_adapter_is_active(tmp_path):
    mine = trained("bert", {"target_modules": ("query",), "bias": "all"})
    expected = logits(mine)
    add_adapter(mine, LoraConfig(rank=2, target_modules=("key",)), "other")
    save_adapter(mine, tmp_path)
    assert torch.equal(logits(load_adapter(tiny("bert"), tmp_path)), expected)


def test_row_12_loaded_adapters_are_frozen_unless_trainable(tmp_path):
    save_adapter(ours("llama", LoraConfig(rank=2, target_modules=Q)), tmp_path)
    frozen = load_adapter(tiny("llama"), tmp_path)
    assert not any(p.requires_grad for p in frozen.parameters())
    set_adapter(frozen, "default")
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not status(frozen).trainable["default"]
    going_on = load_adapter(tiny("llama"), tmp_path, trainable=True)
    assert [n for n, p in going_on.named_parameters() if p.requires_grad] == [
        f"model.layers.{i}.self_attn.q_proj.{m}.default.weight" for i in (0, 1) for m in "AB"
    ]


@pytest.mark.parametrize("fails_at", ("write_bytes", "replace"))
def test_a_full_disk_leaves_the_old_adapter_whole(fails_at, tmp_path, monkeypatch):
    mine = ours("llama", LoraConfig(rank=2, target_modules=Q))
    save_adapter(mine, tmp_path / "a")
    old = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    set_scale(mine, 2.0)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if fails_at == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(storage.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(mine, tmp_path / "a")
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == old
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "a").write_text("something")
    with pytest.raises(ValueError, match="is a file"):
        save_adapter(ours("llama", LoraConfig(rank=2, target_modules=Q)), tmp_path / "a")
    assert (tmp_path / "a").read_text() == "something"


def test_an_untrained_zero_scale_or_broken_adapter_is_not_saved(tmp_path):
    mine = ours("llama", LoraConfig(rank=2, target_modules=Q))
    set_scale(mine, 0)
    with pytest.raises(ValueError, match="scaled to 0"):
        save_adapter(mine, tmp_path / "a")
    set_scale(mine, 1)
    with torch.no_grad():
        next(iter(adapter_parameters(mine).values()))[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite.*lora_A"):
        save_adapter(mine, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_peft_files_with_the_adapter_name_left_in_the_keys_load_too(tmp_path):
    mine = ours("llama", LoraConfig(rank=2, target_modules=Q))
    save_adapter(mine, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {k.replace(".weight", ".default.weight"): t for k, t in load_file(file).items()}
    file.write_bytes(storage.to_bytes(tensors))
    assert torch.equal(logits(load_adapter(tiny("llama"), tmp_path)), logits(mine))


def test_a_file_in_another_float_dtype_is_read_into_float32(tmp_path):
    mine = ours("llama", LoraConfig(rank=2, target_modules=Q))
    with torch.no_grad():
        for parameter in adapter_parameters(mine).values():
            parameter.copy_(parameter.bfloat16())
    save_adapter(mine, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(storage.to_bytes({k: t.bfloat16() for k, t in load_file(file).items()}))
    loaded = load_adapter(tiny("llama"), tmp_path)
    assert {p.dtype for p in adapter_parameters(loaded).values()} == {torch.float32}
    assert torch.equal(logits(loaded), logits(mine))


def test_an_embedding_in_the_file_that_differs_replaces_the_base_one_as_in_peft(tmp_path):
    grown = tiny("llama")
    with torch.no_grad():
        grown.model.embed_tokens.weight[7] += 1
    mine = randomize(add_adapter(grown, LoraConfig(rank=2, target_modules=("embed_tokens",))))
    save_adapter(mine, tmp_path)
    with pytest.warns(UserWarning, match="replaces the base weight of 'model.embed_tokens'"):
        loaded = load_adapter(tiny("llama"), tmp_path)
    assert torch.equal(logits(loaded), logits(mine))
    assert torch.equal(logits(loaded), logits(peft_loads("llama", tmp_path)))


def test_gaussian_initial_values_are_plain_once_trained(tmp_path):
    config = LoraConfig(rank=2, target_modules=Q)
    mine = ours("llama", config)
    its = theirs("llama", config, like=mine)
    its.peft_config["default"].init_lora_weights = "gaussian"
    its.save_pretrained(tmp_path)
    assert torch.equal(logits(load_adapter(tiny("llama"), tmp_path)), logits(mine))


def test_the_configuration_comes_back_from_the_file(tmp_path):
    config = LoraConfig(
        rank=3, alpha=5.5, dropout=0.25, target_modules=QV, layers_to_transform=(0,), rank_pattern={"v_proj": 2},
        use_rslora=True, exclude_modules=("k_proj",),
    )  # fmt: skip
    save_adapter(ours("llama", config), tmp_path)
    assert get_config(load_adapter(tiny("llama"), tmp_path)) == config
