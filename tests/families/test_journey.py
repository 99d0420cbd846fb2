"""Each family from attaching to a plain folder: two steps, the file in peft and back, merge, unmerge, export."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from lora_lab import export, families
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, unmerge
from lora_lab.storage import load_adapter, save_adapter
from tests.families.small import MODELS, base_weights, logits, small, two_steps


def attach(family: str, which: str):
    """The family's model with an adapter on `which`, a classifier's head trained whole beside it."""
    model = small(family)
    head = families.classification_head(model)
    torch.manual_seed(0)
    names = families.targets(model, which)
    return add_adapter(model, LoraConfig(rank=4, target_modules=names, modules_to_save=(head,) if head else ()))


@pytest.mark.parametrize("which", families.WHICH)
@pytest.mark.parametrize("family", MODELS)
def test_from_attaching_to_a_plain_folder(family, which, tmp_path):
    plain, model = logits(small(family)), attach(family, which)
    assert torch.equal(logits(model), plain)  # an untrained adapter changes nothing
    before = base_weights(model)
    losses = two_steps(model, family)
    assert losses[0] > losses[1] > losses[2]
    after = base_weights(model)
    assert before.keys() == after.keys() and all(torch.equal(before[p], after[p]) for p in before)
    trained = logits(model)
    assert not torch.allclose(trained, plain, atol=1e-3)

    save_adapter(model, tmp_path / "adapter", base_model_name="small")
    in_peft = peft.PeftModel.from_pretrained(small(family), tmp_path / "adapter")
    assert torch.equal(logits(in_peft), trained)
    again = load_adapter(small(family), tmp_path / "adapter")
    assert torch.equal(logits(again), trained)

    merge(model)
    torch.testing.assert_close(logits(model), trained, atol=1e-4, rtol=0)
    unmerge(model)
    assert torch.equal(logits(model), trained)
    unmerged = base_weights(model)
    assert all(torch.equal(before[p], unmerged[p]) for p in before)

    merge(model)
    merged = logits(model)
    report = export.export(model, tmp_path / "plain")
    assert report.rounding == 0 and not hasattr(model, "_lora_lab")
    assert torch.equal(logits(model), merged)
    read, loading = type(model).from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.equal(logits(read), merged)


@pytest.mark.parametrize("family", MODELS)
def test_an_exported_folder_bears_no_trace_of_lora(family, tmp_path):
    """The automatic classes load it, it has the tensors of a model that was never adapted, and its own config."""
    small(family).save_pretrained(tmp_path / "never")
    model = attach(family, "all-linear")
    two_steps(model, family)
    export.export(model, tmp_path / "plain")
    tensors = {f: load_file(tmp_path / f / "model.safetensors") for f in ("never", "plain")}
    shapes = {f: {k: (t.shape, t.dtype) for k, t in found.items()} for f, found in tensors.items()}
    assert shapes["plain"] == shapes["never"]
    configs = [json.loads((tmp_path / f / "config.json").read_text(encoding="utf-8")) for f in ("never", "plain")]
    configs[1].pop("problem_type", None)  # which transformers notes when it computes a classifier's first loss
    assert configs[0] == configs[1]
    files = {f: {path.name for path in (tmp_path / f).iterdir()} for f in ("never", "plain")}
    assert files["plain"] == files["never"]
    kind = "SequenceClassification" if families.classification_head(small(family)) else "CausalLM"
    kind = "MaskedLM" if "MaskedLM" in type(model).__name__ else kind
    read = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tmp_path / "plain")
    assert type(read) is type(model) and not read._hf_peft_config_loaded
    assert torch.equal(logits(read), logits(model))


@pytest.mark.parametrize("family", MODELS)
def test_pefts_own_adapter_loads_here(family, tmp_path):
    head = families.classification_head(small(family))
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=families.targets(small(family)),
        modules_to_save=[head] if head else None,
        init_lora_weights=False,
        task_type="SEQ_CLS" if head else None,
    )
    torch.manual_seed(1)
    theirs = peft.get_peft_model(small(family), config)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(small(family), tmp_path)
    assert torch.equal(logits(ours), logits(theirs))
