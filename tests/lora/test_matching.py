"""Which modules a configuration means, beside the truth tables of tests/conformance."""

from __future__ import annotations

import peft
import pytest
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig, most_specific_first
from lora_lab.matching import find_saved, find_targets, original_modules, shortest_names
from lora_lab.record import record_of
from tests.lora.tiny import FAMILIES, tiny, to_peft


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["q_proj", "layers.0.self_attn.q_proj"], ["layers.0.self_attn.q_proj", "q_proj"]),
        (["layers.0.self_attn.q_proj", "q_proj"], ["layers.0.self_attn.q_proj", "q_proj"]),
        ([r"(q|k|v)_proj", "q_proj"], ["q_proj", r"(q|k|v)_proj"]),
        ([r".*_proj", r"layers\.\d+\..*q_proj", r"layers\.0\.attn\.q_proj"],
         [r"layers\.0\.attn\.q_proj", r"layers\.\d+\..*q_proj", r".*_proj"]),
        (["q_proj", "^q_proj"], ["^q_proj", "q_proj"]),
        (["v_proj", "q_proj"], ["v_proj", "q_proj"]),  # no overlap: as given
        ([], []),
    ],
)  # fmt: skip
def test_the_most_specific_pattern_comes_first(given, ordered):
    assert most_specific_first(given) == ordered
    assert list(LoraConfig(rank_pattern=dict.fromkeys(given, 2)).rank_pattern) == ordered


def test_patterns_of_a_file_keep_their_order():
    patterns = {"q_proj": 16, r"layers\.0\.self_attn\.q_proj": 64}
    path = "model.layers.0.self_attn.q_proj"
    assert LoraConfig(alpha_pattern=patterns).alpha_for(path) == 64
    assert LoraConfig(alpha_pattern=patterns, patterns_in_order=True).alpha_for(path) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modules_adapted_are_those_peft_adapts(family):
    for targets in (r".*\.0\..*(query|q_proj|c_attn)", ("query", "q_proj", "c_attn"), ("dense", "down_proj", "c_proj")):
        config = LoraConfig(rank=2, target_modules=targets)
        if not isinstance(targets, str):
            there = {p.rpartition(".")[2] for p, _ in tiny(family).named_modules()}
            config = LoraConfig(rank=2, target_modules=tuple(t for t in targets if t in there))
        mine = add_adapter(tiny(family), config)
        its = peft.get_peft_model(tiny(family), to_peft(config))
        adapted = {n.removeprefix("base_model.model.") for n, m in its.named_modules() if hasattr(m, "lora_A")}
        assert set(record_of(mine).layers) == adapted


def test_original_modules_sees_through_adapters():
    plain = tiny("llama")
    before = [p for p, _ in original_modules(plain)]
    add_adapter(plain, LoraConfig(target_modules=("q_proj",), modules_to_save=("lm_head",), rank=2))
    assert [p for p, _ in original_modules(plain)] == before
    assert all(type(m) is nn.Linear for p, m in original_modules(plain) if p.endswith(("q_proj", "lm_head")))


def test_shortest_names_mean_exactly_the_given_paths():
    model = tiny("llama")
    every = [p for p, _ in model.named_modules() if p.endswith(("q_proj", "o_proj"))]
    assert shortest_names(model, every) == ["o_proj", "q_proj"]
    some = every[:1]
    assert shortest_names(model, some) == some
    found, _ = find_targets(model, LoraConfig(target_modules=tuple(some)))
    assert list(found) == some


def test_a_module_inside_one_that_is_saved_whole_is_not_saved_again():
    model = nn.ModuleDict({"classifier": nn.ModuleDict({"sub_classifier": nn.Linear(4, 2)}), "body": nn.Linear(4, 4)})
    config = LoraConfig(rank=1, target_modules=("body",), modules_to_save=("classifier",))
    assert list(find_saved(model, config)) == ["classifier"]
    assert set(record_of(add_adapter(model, config)).saved) == {"classifier"}


class OwnAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0])


def test_all_linear_leaves_out_the_projection_that_multihead_attention_never_calls():
    assert list(find_targets(OwnAttention(), LoraConfig())[0]) == ["out"]
    with pytest.raises(ValueError, match="MultiheadAttention.*would be ignored"):
        add_adapter(OwnAttention(), LoraConfig(target_modules=("out_proj",)))
