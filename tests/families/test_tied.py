"""Tied embeddings: adapting one end works as in peft; merging it is refused with a way out, and the way out works."""

from __future__ import annotations

import peft
import pytest
import torch

from lora_lab import export
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, merge_and_unload
from lora_lab.storage import load_adapter, save_adapter
from tests.families.small import TIED, logits, small, two_steps

ENDS = [(f, end) for f in TIED for end in (("wte", "lm_head") if f == "gpt2" else ("embed_tokens", "lm_head"))]


def trained(model, end: str, family: str):
    torch.manual_seed(0)
    add_adapter(model, LoraConfig(rank=3, target_modules=(end,)))
    two_steps(model, family)
    return model


@pytest.mark.parametrize(("family", "end"), ENDS)
def test_one_end_of_a_tied_model(family, end, tmp_path):
    model = trained(small(family), end, family)
    before = logits(model)
    assert not torch.allclose(before, logits(small(family)), atol=1e-3)
    save_adapter(model, tmp_path / "adapter", base_model_name="small")
    assert torch.equal(logits(load_adapter(small(family), tmp_path / "adapter")), before)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(small(family), tmp_path / "adapter")), before)

    for attempt in (merge, merge_and_unload, lambda m: export.export(m, tmp_path / "out")):
        with pytest.raises(
            ValueError, match=f"'.*{end}' is tied to '.*': merging would change both. To untie"
        ) as error:
            attempt(model)
        assert torch.equal(logits(model), before) and not (tmp_path / "out").exists()

    untied = small(family)  # exactly as the sentence says
    first, second = str(error.value).partition("on the plain model: ")[2].split(", and ")
    exec(first, {"model": untied, "torch": torch})
    exec(second.partition(" if ")[0], {"model": untied})
    load_adapter(untied, tmp_path / "adapter")
    assert torch.equal(logits(untied), before)
    export.export(untied, tmp_path / "out")
    torch.testing.assert_close(logits(untied), before, atol=1e-4, rtol=0)
    read = type(untied).from_pretrained(tmp_path / "out")
    assert torch.equal(logits(read), logits(untied))
    assert read.get_input_embeddings().weight is not read.get_output_embeddings().weight


@pytest.mark.parametrize("family", TIED)
def test_what_was_tied_is_tied_in_the_exported_folder(family, tmp_path):
    model = trained(small(family), "c_attn" if family == "gpt2" else "q_proj", family)
    export.export(model, tmp_path / "out")
    read = type(model).from_pretrained(tmp_path / "out")
    assert read.get_input_embeddings().weight is read.get_output_embeddings().weight
    assert torch.equal(logits(read), logits(model))
