"""What the sweep over every architecture (`python -m tests.families.zoo`) found, each held by its smallest case."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch

from lora_lab import families, packing
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.layers import is_linear
from lora_lab.matching import linear_paths
from lora_lab.merging import merge
from lora_lab.record import record_of
from lora_lab.storage import save_adapter
from tests.families.tiny import tiny
from tests.families.zoo import journey, logits


def adapted(model, targets="all-linear"):
    """The model with an adapter whose B is not zero, so that one that is never called shows."""
    model = add_adapter(model, LoraConfig(rank=2, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in record_of(model).layers.values():
            layer.matrices("default")[1].normal_(0, 0.05, generator=generator)
    return model


# A router returns a tuple; a layer by groups multiplies each part of its input by rows of its own.
@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("llama4_text", "router", "Llama4Router"),
        ("phimoe", "router", "PhimoeTopKRouter"),
        ("deepseek_v4", "o_a_proj", "DeepseekV4GroupedLinear"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_only_stored_as_a_linear_layer_is_left_out_and_refused(name, module, kind):
    logits(adapted(tiny(name)))  # it runs
    assert not any(p.endswith(module) for p in linear_paths(tiny(name)))
    with pytest.raises(ValueError, match=f"{module}' is a {kind}: only torch.nn.Linear"):
        add_adapter(tiny(name), LoraConfig(rank=2, target_modules=[module]))


def test_falcons_own_linear_layer_is_one():
    model = tiny("falcon")
    layer = model.transformer.h[0].self_attention.query_key_value
    assert type(layer).forward is not torch.nn.Linear.forward and is_linear(layer)


@pytest.mark.parametrize(
    ("name", "module"), [("mamba", "dt_proj"), ("jamba", "dt_proj"), ("longcat_flash", "classifier")]
)
@pytest.mark.filterwarnings("ignore")
def test_a_layer_whose_weight_is_read_without_calling_it_is_left_out_and_refused(name, module):
    model = adapted(tiny(name))
    before = logits(model)
    merge(model)  # with one of those in it this is far off: the merged weight is read, the adapter was not
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    with pytest.raises(
        ValueError, match=f"{module}' belongs to a .*, which reads the weight and never calls the layer"
    ):
        add_adapter(tiny(name), LoraConfig(rank=2, target_modules=[module]))


def test_what_kernels_read_on_a_gpu_is_left_out_and_told_where_it_is_asked_for():
    assert {p.rpartition(".")[2] for p in linear_paths(tiny("mamba2"))} == {"in_proj"}
    with pytest.warns(UserWarning, match="out_proj': on a GPU with kernels for state-space models"):
        add_adapter(tiny("mamba2"), LoraConfig(rank=2, target_modules=["out_proj"]))


def test_experts_held_as_one_parameter_are_said_to_be_left_out():
    said = r"7\d % of this model's numbers .* cannot be adapted, such as model.layers.0.mlp.experts.gate_up_proj \[4, "
    with pytest.warns(UserWarning, match=f"'all-linear': {said}"):
        add_adapter(tiny("mixtral"), LoraConfig(rank=2, target_modules="all-linear"))
    with pytest.warns(UserWarning, match=said):
        families.targets(tiny("mixtral"))
    with pytest.raises(ValueError, match=f"usual for mlp. .*{said}"):
        families.targets(tiny("mixtral"), "mlp")
    with pytest.warns(UserWarning, match="mlp is taken to be .* cannot be adapted"):
        families.targets(tiny("qwen2_moe"), "mlp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapter(tiny("llama"), LoraConfig(rank=2, target_modules="all-linear"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "misread"), [("dots1", True), ("qwen2_moe", False)])
def test_names_that_peft_takes_for_those_of_experts_are_told(name, misread, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = adapted(tiny(name), families.targets(tiny(name)))
    assert any(f"peft 0.21 takes such a name in a {name} model" in str(w.message) for w in told) == misread
    save_adapter(model, tmp_path, base_model_name="tiny")
    theirs = logits(peft.PeftModel.from_pretrained(tiny(name), tmp_path))
    assert torch.allclose(theirs, logits(model), atol=1e-4) != misread


@pytest.mark.filterwarnings("ignore")
def test_latent_attention_and_an_encoder_made_a_decoder_have_their_targets():
    assert families.targets(tiny("deepseek_v3"), "attention") == ["kv_b_proj", "q_b_proj"]
    model = adapted(tiny("camembert"), families.targets(tiny("camembert"), "mlp"))
    ends = {p.partition("layer.")[2] for p in record_of(model).layers}
    assert ends == {f"{n}.{part}.dense" for n in (0, 1) for part in ("intermediate", "output")}


def test_blocks_that_share_their_weights_are_not_advised_to_be_untied():
    """Untied, Zamba's blocks would be tied again, and their sums lost, when the exported folder is loaded."""
    model = adapted(tiny("zamba2"), ["q_proj"])
    before = logits(model)
    with pytest.raises(ValueError, match="blocks of a Zamba2ForCausalLM share it.* Serve the adapter beside the base"):
        merge(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ["qwen3_moe", "olmoe", "granitemoe"])
def test_the_rounding_of_experts_does_not_count_as_seeing_another_example(name):
    packing.check(tiny(name))


def test_attention_that_chooses_from_the_whole_row_is_not_packed():
    with pytest.raises(ValueError, match="a glm_moe_dsa model chooses from the whole row what to attend to"):
        packing.check(tiny("glm_moe_dsa"))


@pytest.mark.filterwarnings("ignore")
def test_the_sweep_would_tell(tmp_path, monkeypatch):
    """With a layer that is read let in again, its journey fails."""
    assert journey("mamba", "all-linear", tmp_path / "right") == "all-linear ok"
    monkeypatch.setattr("lora_lab.matching.READ_BY", {})
    with pytest.raises(ArithmeticError, match=r"merged .* off"):
        journey("mamba", "all-linear", tmp_path / "wrong")
