"""Totals and LoRA counts of the whole table, against transformers and peft on the meta device, to the last digit."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import counting, models, shapes
from tests.counting.oracles import on_meta, peft_counts

QUERIES_AND_VALUES = {"gpt2": ["c_attn"], "phi3": ["qkv_proj"], "gpt_neox": ["query_key_value"]}
ATTENTION = {
    "gpt2": ["c_attn", "attn.c_proj"],
    "phi3": ["qkv_proj", "o_proj"],
    "gpt_neox": ["query_key_value", "attention.dense"],
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


@pytest.mark.parametrize("name", shapes.names())
def test_counts_are_those_of_transformers_and_peft(name):
    config = shapes.entry(name)["config"]
    shape, model = shapes.known(name), on_meta(config)
    assert shape.total == model.num_parameters()
    linear = {m.path.replace("{}", "0"): (m.out_features, m.in_features) for m in shape.matrices}
    for path, (out, into) in linear.items():
        assert sorted(model.get_submodule(path).weight.shape) == sorted((out, into)), path
    kind = config["model_type"]
    pair = QUERIES_AND_VALUES.get(kind, ["q_proj", "v_proj"])
    attention = ATTENTION.get(kind, ["q_proj", "k_proj", "v_proj", "o_proj"])
    for targets in (pair, attention, "all-linear"):
        assert [counting.lora(shape, rank, targets) for rank in (1, 8)] == peft_counts(model, targets, (1, 8)), targets


def agrees(total: int, published: str | int) -> bool:
    """Whether a total is a published figure: to the last digit, or within a unit of the last digit that is given."""
    if isinstance(published, int):
        return total == published
    number, unit = re.fullmatch(r"([\d.]+)([MB])", published).groups()
    digit = 10 ** -len(number.partition(".")[2]) * {"M": 1e6, "B": 1e9}[unit]
    return abs(total - float(number) * {"M": 1e6, "B": 1e9}[unit]) < digit


@pytest.mark.parametrize("name", shapes.names())
def test_totals_agree_with_the_published_ones(name):
    row = shapes.entry(name)
    assert agrees(shapes.known(name).total + row.get("buffers", 0), row["published"])
    assert re.match(r"https://(huggingface\.co|github\.com|arxiv\.org)/", row["source"])


def test_a_published_figure_that_is_off_is_noticed():
    assert not agrees(6_738_415_616, "7.24B") and not agrees(6_738_415_616, 6_738_417_664)


def test_published_files_of_llama_2_hold_rotary_frequencies_too():
    for name in ("Llama-2-7B", "Llama-2-13B", "Llama-2-70B"):
        shape = shapes.known(name)
        assert shapes.entry(name)["buffers"] == shape.layers * shape.head_size // 2


def test_the_table_covers_the_families():
    assert len(shapes.names()) >= 16
    assert {shapes.entry(name)["config"]["model_type"] for name in shapes.names()} == set(shapes.FAMILIES)


@pytest.mark.parametrize("kind", shapes.FAMILIES)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 2},
    ],
    ids=str,
)
def test_configs_with_more_or_less_in_them_count_as_transformers_builds_them(kind, extra):
    config = LLAMA | {"model_type": kind, "head_dim": 16, "pad_token_id": 0} | extra
    if kind == "gpt2":
        config = {
            "model_type": "gpt2",
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 80,
            "vocab_size": 100,
        } | extra
    if "num_key_value_heads" not in config and kind in ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"):
        config["num_attention_heads"] = 32  # these default to 4, 8 or 32 heads of keys and values
    assert shapes.from_config(config).total == on_meta(config).num_parameters()


def test_pythias_own_flags_count_as_transformers_builds_them():
    config = LLAMA | {"model_type": "gpt_neox"}
    for extra in ({}, {"attention_bias": False}, {"tie_word_embeddings": True}, {"use_parallel_residual": False}):
        shape = shapes.from_config(config | extra)
        assert shape.total == on_meta(config | extra).num_parameters(), extra
        assert shape.parallel == extra.get("use_parallel_residual", True)


def test_published_counts_without_embeddings_of_pythia():
    """As in the models' cards, which also give the totals."""
    for name, without in (("Pythia-160M", 85_056_000), ("Pythia-410M", 302_311_424), ("Pythia-1.4B", 1_208_602_624)):
        shape = shapes.known(name)
        assert shape.total - sum(m.parameters for m in shape.embeddings) == without


def test_null_heads_of_keys_and_values_are_as_many_as_heads():
    for kind in ("llama", "qwen2", "qwen3", "phi3"):
        config = LLAMA | {"model_type": kind, "num_key_value_heads": None, "pad_token_id": 0}
        assert shapes.from_config(config).total == on_meta(config).num_parameters(), kind


def test_a_head_size_that_is_not_given_is_that_of_transformers():
    for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"):
        config = LLAMA | {"model_type": kind, "num_key_value_heads": 2, "pad_token_id": 0}
        assert shapes.from_config(config).total == on_meta(config).num_parameters(), kind


def test_the_base_models_own_config_file():
    shape = shapes.from_file(models.BASE / "config.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(models.BASE))
    assert shape.total == model.num_parameters() == 5_770_496


def test_names_are_found_in_any_spelling_and_the_nearest_is_offered():
    assert shapes.known("llama-2-7b") == shapes.known("Llama-2-7B")
    for wrong, right in (
        ("Llama2-7B", "Llama-2-7B"),
        ("meta-llama/Llama-3.2-1b-hf", "Llama-3.2-1B"),
        ("gpt2", "GPT-2"),
    ):
        with pytest.raises(ValueError, match=f"no model '{wrong}' .* Did you mean {re.escape(right)}"):
            shapes.known(wrong)
    with pytest.raises(ValueError, match="Known are GPT-2, "):
        shapes.known("%%%")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported. Supported are gpt2, llama, .*phi3"),
        ({}, "model_type None is not supported"),
        ([1], "a config is a JSON object, got list"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "vocab_size must be a whole number .*, got None"),
        (LLAMA | {"hidden_size": 0}, "hidden_size must be .*, got 0"),
        (LLAMA | {"num_hidden_layers": "two"}, "num_hidden_layers must be .*, got 'two'"),
    ],
)
def test_configs_that_cannot_be_counted_say_why(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        shapes.from_config(config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        shapes.from_file(file)


def test_unknown_targets_name_what_there_is():
    message = r"no matrix is called 'q_prj'. Names in this model: q_proj, k_proj, .* Did you mean 'q_proj'\?"
    with pytest.raises(ValueError, match=message):
        counting.lora(shapes.known("Llama-2-7B"), 8, "q_prj,v_proj")


def test_the_same_targets_as_a_list_a_string_and_longer_endings():
    gpt2 = shapes.known("GPT-2")
    assert counting.lora(gpt2, 8, ["attn.c_proj", "c_fc"]) == counting.lora(gpt2, 8, " attn.c_proj , c_fc")
    both = counting.lora(gpt2, 8, "attn.c_proj") + counting.lora(gpt2, 8, "mlp.c_proj")
    assert counting.lora(gpt2, 8, "c_proj") == both


def test_shares_and_break_even():
    llama = shapes.known("Llama-2-7B")
    adapter = counting.lora(llama, 8, "q_proj,v_proj")
    assert f"{counting.share_of_base(adapter, llama.total):.5%}" == "0.06224%"
    assert f"{counting.share_of_total(adapter, llama.total):.5%}" == "0.06221%"
    for targets in ("q_proj", "gate_proj,q_proj", "all-linear"):
        rank = counting.break_even(llama, targets)
        whole = sum(m.count * m.out_features * m.in_features for m in counting.chosen(llama, targets))
        assert counting.lora(llama, rank, targets) <= whole < counting.lora(llama, rank + 1, targets)
