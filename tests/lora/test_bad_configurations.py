"""Bad configurations. Row names are those of a table of what peft and others do with each:
what raises here says what was expected and what is near, and leaves the model as it was."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lora_lab.adapters import (
    add_adapter,
)
from lora_lab.config import LoraConfig
from lora_lab.merging import unload
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.tiny import randomize, tiny
from tests.lora.two import Two, X, plain_warnings, refused

Q = LoraConfig(rank=2, target_modules=("q_proj",))


@pytest.mark.parametrize("rank", (0, -1))
def test_row_A_rank_below_one(rank):
    with pytest.raises(ValueError, match=f"rank must be at least 1, got {rank}"):
        LoraConfig(rank=rank)
    with pytest.raises(ValueError, match="rank_pattern\\['q'\\] must be at least 1"):
        LoraConfig(rank_pattern={"q": rank})


@pytest.mark.parametrize("rank", (1.5, 8.0, True))
def test_row_A2_rank_that_is_no_int(rank):
    with pytest.raises(TypeError, match=f"rank must be int, got {rank}"):
        LoraConfig(rank=rank)


@pytest.mark.parametrize("rank", ("8", None))
def test_row_A3_rank_of_another_type(rank):
    with pytest.raises(TypeError, match=f"rank must be int, got {rank!r}"):
        LoraConfig(rank=rank)


def test_row_B_rank_above_what_the_layer_can_use_warns_and_works():
    with pytest.warns(UserWarning, match=r"rank 1000 is more than lin0 can use: min\(32, 16\) = 16.*48,000 .*has 512"):
        model = add_adapter(Two(), LoraConfig(rank=1000, target_modules=("lin0",)))
    assert torch.equal(model(X), Two()(X))


def test_row_B2_what_can_be_added_can_be_read_again_and_the_rest_is_refused_at_once(tmp_path):
    """A fine-tune reads its best checkpoint at the end: a rank that the file's reader refuses would lose the run."""
    for rank in (1000, 10**9):
        config, model = LoraConfig(rank=rank, target_modules=("lin0",)), Two()
        if rank == 10**9:
            with pytest.raises(
                ValueError, match=r"rank 1000000000 at 'lin0', whose weight is \[32, 16\]: no adapter is"
            ):
                add_adapter(model, config)
            assert list(model.state_dict()) == list(Two().state_dict())
            continue
        with pytest.warns(UserWarning, match="rank 1000 is more"):
            save_adapter(add_adapter(model, config), tmp_path)
            assert torch.equal(load_adapter(Two(), tmp_path)(X), model(X))


def test_row_C_alpha_zero():
    with pytest.raises(ValueError, match="alpha is 0.*nothing could be learned"):
        LoraConfig(alpha=0)
    with pytest.raises(ValueError, match=r"alpha_pattern\['q'\] is 0"):
        LoraConfig(alpha_pattern={"q": 0})


def test_row_C2_negative_alpha_warns_and_subtracts():
    with pytest.warns(UserWarning, match="alpha is -8: the update is subtracted"):
        config = LoraConfig(rank=8, alpha=-8)
    assert config.scaling() == -1


@pytest.mark.parametrize("alpha", (float("nan"), float("inf")))
def test_row_C3_alpha_not_finite(alpha):
    with pytest.raises(ValueError, match="alpha must be finite"):
        LoraConfig(alpha=alpha)
    with pytest.raises(TypeError, match="alpha must be a number, got '16'"):
        LoraConfig(alpha="16")


@pytest.mark.parametrize("dropout", (-0.1, 1.0, 1.5, float("nan")))
def test_row_D_dropout_outside_zero_to_one(dropout):
    with pytest.raises(ValueError, match="dropout must be"):
        LoraConfig(dropout=dropout)


def test_row_E_unknown_bias_or_initial_values():
    with pytest.raises(ValueError, match="unknown bias 'lora': it is one of 'none', 'all', 'lora_only'. Did you mean"):
        LoraConfig(bias="lora")
    with pytest.raises(ValueError, match="unknown init_lora_weights 'foo': it is True .* or False"):
        LoraConfig(init_lora_weights="foo")


def test_row_F_no_target_matches():
    model = tiny("llama")
    refused(
        lambda: add_adapter(model, LoraConfig(target_modules=("q_prj",))),
        model,
        "no module matches 'q_prj'. Linear modules in this model end in: q_proj, k_proj, v_proj, o_proj, gate_proj, "
        "up_proj, down_proj, lm_head. .*Did you mean 'q_proj'?",
    )
    refused(lambda: add_adapter(model, LoraConfig(target_modules=".*q_prj")), model, "no module matches '.*q_prj'")
    gpt2 = tiny("gpt2")
    refused(lambda: add_adapter(gpt2, LoraConfig(target_modules=("att",))), gpt2, "Conv1D .*: c_attn, c_proj, c_fc")


def test_row_F_everything_excluded():
    model = Two()
    config = LoraConfig(target_modules=("lin0",), exclude_modules=("lin0",))
    refused(lambda: add_adapter(model, config), model, "no module matches 'lin0' .after exclude_modules")


def test_row_F2_one_of_two_targets_misses():
    model = Two()
    config = LoraConfig(target_modules=("lin0", "lin", "nope"))
    refused(
        lambda: add_adapter(model, config), model, "no module matches 'lin', 'nope'. .*lin0, lin1.*Did you mean 'lin"
    )


def test_row_F3_target_that_cannot_be_adapted():
    model = Two()
    refused(
        lambda: add_adapter(model, LoraConfig(target_modules=("lin0", "relu"))),
        model,
        "'relu' is a ReLU: only torch.nn.Linear, torch.nn.Embedding",
    )


def test_row_F4_bad_regex():
    with pytest.raises(ValueError, match=re.escape("target_modules: '*.q_proj' is not a regular expression")):
        LoraConfig(target_modules="*.q_proj")
    with pytest.raises(ValueError, match=re.escape("rank_pattern: '(q' is not a regular expression")):
        LoraConfig(rank_pattern={"(q": 4})


def test_row_G_pattern_or_exclusion_that_matches_nothing_warns():
    config = LoraConfig(
        rank=2, target_modules=("lin0",), exclude_modules=("line0",), rank_pattern={"lin3": 4}, alpha_pattern={"x": 1}
    )
    said = plain_warnings(lambda: add_adapter(Two(), config))
    assert len(said) == 3
    assert any("rank_pattern: 'lin3' matches no adapted module" in s and "Did you mean 'lin0'?" in s for s in said)
    assert any("alpha_pattern: 'x'" in s for s in said)
    assert any("exclude_modules: 'line0' matches no module" in s for s in said)


def test_row_G2_modules_to_save_that_is_not_there():
    model = tiny("bert")
    config = LoraConfig(target_modules=("query",), modules_to_save=("clasifier",))
    refused(lambda: add_adapter(model, config), model, "no module ends in 'clasifier'.*Did you mean 'classifier'?")


class Attends(nn.Module):
    """torch's own attention, which reads its projections' weights and calls no layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0])


@pytest.mark.parametrize("target", ("attention", "out_proj"))
def test_row_W_multihead_attention_is_refused_and_stays_exact(target):
    """peft merges and unmerges its weights at every forward: a bfloat16 base drifts. Here it is never touched."""
    model = Attends().bfloat16().eval()
    refused(lambda: add_adapter(model, LoraConfig(rank=2, target_modules=(target,))), model, "MultiheadAttention")
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    randomize(add_adapter(model, LoraConfig(rank=2, target_modules=("out",))))
    x = torch.ones(1, 3, 8, dtype=torch.bfloat16)
    for _ in range(100):
        model(x)
    assert all(torch.equal(p, base[n]) for n, p in unload(model).named_parameters())


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"target_modules": ()}, ValueError, "target_modules is empty"),
        ({"target_modules": ("q_proj", 3)}, TypeError, "target_modules must hold"),
        ({"target_modules": 3}, TypeError, "target_modules must be a list"),
        ({"modules_to_save": "classifier"}, TypeError, "modules_to_save must be a list"),
        ({"layers_to_transform": (-1,)}, TypeError, "layer numbers from 0 on"),
        ({"layers_pattern": "layers"}, ValueError, "give layers_to_transform as well"),
        ({"target_modules": ".*q", "layers_to_transform": 1}, ValueError, "a regex can name layers itself"),
        ({"rank_pattern": ["q_proj"]}, TypeError, "rank_pattern must map"),
        ({"use_rslora": "yes"}, TypeError, "use_rslora must be True or False"),
    ],
)
def test_other_fields_are_checked_when_the_config_is_made(fields, error, match):
    with pytest.raises(error, match=match):
        LoraConfig(**fields)


def test_a_config_cannot_be_changed_behind_the_models_back():
    with pytest.raises(AttributeError):
        Q.rank = 4
    with pytest.raises(TypeError, match="config must be a LoraConfig, got dict"):
        add_adapter(Two(), {"rank": 2})
