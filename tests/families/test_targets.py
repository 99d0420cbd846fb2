"""What "all-linear", "attention" and "mlp" mean on each family, with peft as the oracle where it has an answer."""

from __future__ import annotations

import re
import warnings

import peft
import pytest
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS_DEFAULTS
from torch import nn

from lora_lab import families
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.record import record_of
from tests.families.small import CLASSIFIERS, MODELS, adapted_by_peft, small


def adapted(model: nn.Module, targets, **more) -> set[str]:
    return set(record_of(add_adapter(model, LoraConfig(rank=2, target_modules=targets, **more))).layers)


@pytest.mark.parametrize("family", MODELS)
def test_attention_is_pefts_default(family):
    model = small(family)
    ours = adapted(model, families.targets(small(family), "attention"))
    if family == "phi3":  # peft has no default for it and says so
        assert "phi3" not in PEFTS_DEFAULTS
        assert ours == {f"model.layers.{n}.self_attn.qkv_proj" for n in (0, 1)}
        with pytest.raises(ValueError, match="target_modules"):
            adapted_by_peft(small(family), peft.LoraConfig(r=2))
    else:
        assert ours == adapted_by_peft(small(family), peft.LoraConfig(r=2)) and len(ours) in (2, 4)


@pytest.mark.parametrize("family", MODELS)
def test_all_linear_is_pefts(family):
    """Of a classifier it leaves out the new head, as peft does once it is told that the model classifies."""
    model, head = small(family), families.classification_head(small(family))
    assert bool(head) == (family in CLASSIFIERS)
    task = "SEQ_CLS" if head else None
    theirs = adapted_by_peft(small(family), peft.LoraConfig(r=2, target_modules="all-linear", task_type=task))
    assert adapted(small(family), families.targets(model)) == theirs
    assert adapted(small(family), "all-linear", modules_to_save=(head,) if head else ()) == theirs
    if head:  # without a word on the head it is one linear layer more, in peft as well
        alone = adapted_by_peft(small(family), peft.LoraConfig(r=2, target_modules="all-linear"))
        assert adapted(small(family), "all-linear") == alone == theirs | {head}


@pytest.mark.parametrize("family", MODELS)
def test_mlp_is_every_linear_layer_of_the_feed_forward_blocks(family):
    attention, mlp, every = (
        adapted(small(family), families.targets(small(family), which)) for which in ("attention", "mlp", "all-linear")
    )
    assert mlp == {p for p in every if re.search(r"\.mlp\.|layer\.\d+\.(intermediate|output)\.dense", p)}
    assert len(mlp) in (4, 6) and attention < every - mlp


def test_a_head_that_is_several_layers_is_left_out_whole():
    """RoBERTa's has two linear layers; peft, asked for all-linear, adapts them unless the head is saved whole."""
    import transformers

    config = small("roberta").config
    model = transformers.RobertaForSequenceClassification(config)
    assert families.classification_head(model) == "classifier"
    assert not any(name.startswith("classifier") for name in adapted(model, families.targets(model)))


class Unknown(nn.Module):
    """A family that nobody knows, whose layers have the names given."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))


def test_an_unknown_family_is_read_off_its_names_and_says_so():
    with pytest.warns(UserWarning, match="'Unknown' .* attention is taken to be Wqkv .of Wqkv, fc_in, fc_out"):
        assert families.targets(Unknown("Wqkv", "fc_in", "fc_out"), "attention") == ["Wqkv"]
    with pytest.warns(UserWarning, match="mlp is taken to be fc_in, fc_out"):
        assert families.targets(Unknown("Wqkv", "fc_in", "fc_out"), "mlp") == ["fc_in", "fc_out"]
    with pytest.raises(ValueError, match="none of its linear layers has a name usual for mlp. They end in: a, b."):
        families.targets(Unknown("a", "b"), "mlp")
    assert families.targets(Unknown("a", "b")) == ["a", "b"]
    with pytest.raises(ValueError, match="'attenton': one of all-linear, attention, mlp. Did you mean 'attention'"):
        families.targets(Unknown("a"), "attenton")


def test_targets_need_no_weights():
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = type(small("gpt2"))(small("gpt2").config)
        assert families.targets(model, "mlp") == ["c_fc", "mlp.c_proj"]
