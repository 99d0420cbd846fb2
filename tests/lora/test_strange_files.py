"""Adapter files that are strange on purpose: each is refused before the model is touched, or loads as it says."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_lab import quantise
from lora_lab.config import LoraConfig
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.test_bad_files import FIRST, QV, change_config, change_tensors, refused
from tests.lora.tiny import ours, same, snapshot, tiny


@pytest.fixture
def saved(tmp_path):
    return save_adapter(ours("llama", QV), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"r": 1, "r": 2}', "'r' stands in it twice"),
        ('{"a": {"lora_alpha": 1, "lora_alpha": 2}}', "'lora_alpha' stands in it twice"),
        ('{"r": NaN}', "NaN is no number"),
        ('{"lora_alpha": -Infinity}', "-Infinity is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"r": ' + "1" * 5000 + "}", "digits"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_row_M4_json_that_python_would_let_pass_or_choke_on(saved, text, words):
    (saved / "adapter_config.json").write_text(text, encoding="utf-8")
    refused(saved, f"{saved / 'adapter_config.json'} is not valid JSON.*{words}")


def test_a_configuration_of_many_megabytes_is_not_read(saved):
    path = saved / "adapter_config.json"
    path.write_text(path.read_text() + " " * 10_000_000)
    refused(saved, f"{path} has 10,000,.* bytes: no adapter's configuration is that long")


@pytest.mark.parametrize("where", ("r", "rank_pattern"))
@pytest.mark.parametrize("strict", (True, False))
def test_an_absurd_rank_is_refused_before_memory_is_taken(saved, where, strict):
    rank = 10**9
    change_config(saved, **{where: rank if where == "r" else {"q_proj": rank}})
    change_tensors(saved, lambda t: {k: v for k, v in t.items() if "q_proj" not in k})
    model = tiny("llama")
    before = snapshot(model)
    with pytest.raises(ValueError, match="adapter_config.json: rank 1000000000 at '.*q_proj', whose weight is .32, 32"):
        load_adapter(model, saved, strict=strict)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("alpha", (10**400, 0, True, "8", [8], {}))
def test_an_absurd_alpha_is_refused(saved, alpha):
    change_config(saved, lora_alpha=alpha)
    refused(saved, "adapter_config.json: alpha (must be|is 0)")


# Of each field, values of every wrong type. What peft's own files hold must stay readable, so None is always allowed.
ALLOWED = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": (str, list),
    "exclude_modules": (str, list),
    "layers_to_transform": (int, list),
    "layers_pattern": (str, list),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "fan_in_fan_out": (bool,),
    "modules_to_save": (list,),
    "bias": (str,),
    "init_lora_weights": (bool, str),
    "peft_type": (str,),
}
VALUES = (True, 7, 0.7, "word", ["word", 7], [[]], {"q_proj": "word"}, {"word": []})


@pytest.mark.parametrize(
    ("field", "value"),
    [(f, v) for f, kinds in ALLOWED.items() for v in VALUES if type(v) not in kinds or v == ["word", 7] or v == [[]]],
)
def test_a_field_of_the_wrong_type_is_refused(saved, field, value):
    change_config(saved, **{field: value})
    refused(saved, f"{saved / 'adapter_config.json'}.*")


def test_a_dict_where_a_list_belongs_is_not_read_as_its_keys(saved):
    for field in ("target_modules", "modules_to_save", "exclude_modules", "layers_to_transform"):
        whole = (saved / "adapter_config.json").read_text()
        change_config(saved, **{field: {"q_proj": 1}})
        refused(saved, f"{field} must ")
        (saved / "adapter_config.json").write_text(whole)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["("]),
        ("layers_pattern", "["),
        ("rank_pattern", {"(?i)q_proj": 3}),
        ("alpha_pattern", {"*": 3}),
        ("target_modules", "(q_proj"),
        ("exclude_modules", "+"),
    ],
)
def test_patterns_that_are_no_regular_expressions_where_they_are_used(saved, field, value):
    change_config(saved, layers_to_transform=[0], layers_pattern="layers")
    if field == "target_modules":
        change_config(saved, layers_to_transform=None, layers_pattern=None)
    change_config(saved, **{field: value})
    refused(saved, f"adapter_config.json: {field}: .* is not a regular expression")


@pytest.mark.parametrize("pattern", ("(layers)", "layers|h", "(?P<idx>layers)"))
def test_groups_in_layers_pattern_do_not_hide_the_number(saved, pattern):
    change_config(saved, layers_to_transform=[1], layers_pattern=pattern)
    change_tensors(saved, lambda t: {k: v for k, v in t.items() if ".1." in k})
    if pattern == "layers|h":  # reads as "layers", or "h" and a number: as in peft, no number is found
        refused(saved, "adapter_config.json: no module matches")
    else:
        model = load_adapter(tiny("llama"), saved)
        assert [p for p, m in model.named_modules() if hasattr(m, "lora_A") or type(m).__name__ == "LoraLinear"] == [
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.v_proj",
        ]


def test_a_pickle_named_safetensors_is_not_opened(saved):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(saved / "exploded"),)

    path = saved / "adapter_model.safetensors"
    for protocol in range(2, 6):
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        refused(saved, f"{path} is not a whole safetensors file.*It looks like a pickle.*not read here")
    torch.save({FIRST: Bomb()}, path)
    refused(saved, "It looks like a pickle")
    (saved / "adapter_config.json").write_bytes(pickle.dumps(Bomb()))
    refused(saved, "adapter_config.json is not valid JSON")
    assert not (saved / "exploded").exists()


def test_two_adapters_in_one_file_are_not_mixed_up(saved):
    change_tensors(saved, lambda t: t | {FIRST.replace("lora_A.", "lora_A.other."): t[FIRST] * 2})
    refused(saved, "holds several adapters: some tensors differ only by an adapter's name")


def test_half_a_pair_is_left_out_whole_when_not_strict(saved):
    change_tensors(saved, lambda t: {k: v for k, v in t.items() if k != FIRST})
    with pytest.warns(UserWarning, match="lacks 1 of the 8 .* starts untrained"):
        model = load_adapter(tiny("llama"), saved, strict=False)
    assert not model.model.layers[0].self_attn.q_proj.delta("default").any()
    assert model.model.layers[0].self_attn.v_proj.delta("default").any()


def test_keys_that_are_paths_are_only_keys(saved):
    named = "base_model.model.../../../../../tmp/x.lora_A.weight"
    change_tensors(saved, lambda t: t | {named: torch.zeros(3, 32), "/x.base_layer.weight": torch.zeros(2)})
    with pytest.warns(UserWarning, match="2 tensors not used"):
        load_adapter(tiny("llama"), saved)


def test_row_M8_an_embedding_in_the_file_that_is_not_finite_or_of_integers(tmp_path):
    save_adapter(ours("llama", LoraConfig(rank=2, target_modules=("embed_tokens",))), tmp_path)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    whole = load_file(tmp_path / "adapter_model.safetensors")
    change_tensors(tmp_path, lambda t: t | {key: torch.full((61, 32), float("nan"))})
    refused(tmp_path, f"{key} holds values that are not finite")
    change_tensors(tmp_path, lambda t: t | {key: torch.ones(61, 32, dtype=torch.int8)})
    refused(tmp_path, f"{key} holds torch.int8, not floating-point numbers")
    save_file(whole, tmp_path / "adapter_model.safetensors")
    load_adapter(tiny("llama"), tmp_path)


@pytest.mark.parametrize("field", ("bias", "modules_to_save"))
def test_row_M8_biases_and_whole_modules_of_integers(field, tmp_path):
    more = {"bias": "all"} if field == "bias" else {"modules_to_save": ("classifier",)}
    save_adapter(ours("bert", LoraConfig(rank=2, target_modules=("query",), **more)), tmp_path)
    key = "base_model.model.classifier.bias"
    change_tensors(tmp_path, lambda t: t | {key: t[key].to(torch.int8)})
    refused(tmp_path, f"{key} holds torch.int8, not floating-point", model=tiny("bert"))


def test_row_M8_numbers_too_large_for_the_models_dtype(tmp_path):
    save_adapter(ours("llama", QV), tmp_path)
    change_tensors(tmp_path, lambda t: t | {FIRST: t[FIRST].double() * 1e200})
    refused(tmp_path, f"{FIRST} holds values that are not finite .* in torch.float32")
    save_adapter(ours("bert", LoraConfig(rank=2, target_modules=("query",), bias="all")), tmp_path)
    key = "base_model.model.classifier.bias"
    change_tensors(tmp_path, lambda t: t | {key: t[key] + 1e6})
    refused(tmp_path, f"{key} holds values that are not finite .* in torch.float16", model=tiny("bert", torch.float16))


def test_a_warning_made_an_error_leaves_the_model_alone(saved):
    change_tensors(saved, lambda t: t | {"x": torch.zeros(1)})
    save_adapter(ours("llama", LoraConfig(rank=2, target_modules=("embed_tokens",))), saved / "b")
    change_tensors(saved / "b", lambda t: {k: v + ("base_layer" in k) for k, v in t.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(saved, "not used", UserWarning)
        refused(saved / "b", "replaces the base weight", UserWarning)


def test_a_key_that_stands_twice_in_the_weights(saved):
    path = saved / "adapter_model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].rstrip()
    again = json.dumps({FIRST: json.loads(header)[FIRST]}).encode()
    header = header[:-1] + b"," + again[1:]
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    refused(saved, f"'{FIRST}' stands in it twice")


def test_an_embedding_cannot_replace_a_quantised_weight(tmp_path):
    save_adapter(ours("llama", LoraConfig(rank=2, target_modules=("lm_head",))), tmp_path)
    model = tiny("llama")
    model.lm_head = quantise.NF4Linear(model.lm_head)
    refused(
        tmp_path, "lm_head.base_layer.weight cannot replace the weight of 'lm_head', which is computed", model=model
    )
