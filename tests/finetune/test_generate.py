"""The command that writes text, and its dial."""

from __future__ import annotations

import pytest

from lora_lab import models
from lora_lab.adapters import adapter_parameters, add_adapter, disable_adapters, set_scale
from lora_lab.config import LoraConfig
from lora_lab.generate import generate
from lora_lab.storage import save_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A random adapter on the base model, strong enough to change every text; and what it writes at three settings."""
    import torch

    folder = tmp_path_factory.mktemp("adapters") / "random"
    model, tokenizer = models.load("base", device="cpu")
    torch.manual_seed(1)
    add_adapter(model, LoraConfig(rank=2, alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.mul_(3.0)
    save_adapter(model, folder)
    written = {}
    for scale in (0.5, 1.0):
        set_scale(model, scale)
        written[scale] = generate(model, tokenizer, "Once upon", 12)
    with disable_adapters(model):
        written[0.0] = generate(model, tokenizer, "Once upon", 12)
    assert len(set(written.values())) == 3
    return folder, written


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_the_dial_goes_from_the_base_model_to_the_adapter(adapter, scale, lab):
    folder, written = adapter
    words = ["generate", "--adapter", folder, "--alpha-scale", scale, "--max-new-tokens", 12, "Once upon"]
    status, out, err = lab(*words)
    assert (status, out) == (0, written[scale] + "\n"), err


def test_temperature_and_seed(lab, tiny):
    words = ["generate", "--model", tiny, "--max-new-tokens", 10, "Once", "--temperature", "1.0", "--seed"]
    first, again, other = (lab(*words, seed)[1] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--alpha-scale", "0.5"], "name one with --adapter"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--model", "deep/er/base"], "no model 'deep/er/base'"),
        (["--temperature", "-1"], "temperature must be 0"),
        (["--temperature", "nan"], "temperature must be 0"),
        (["--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        (["--chat", "--system", "\udce9"], "the prompt has '\\udce9', half of a character"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(words, said, lab):
    status, out, err = lab("generate", "The", *words)
    assert status == 1 and out == ""
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_a_tokenizer_that_does_not_belong_to_the_model(tiny):
    model, tokenizer = models.load(tiny)
    model.resize_token_embeddings(1000)
    with pytest.raises(ValueError, match=r"token 2,\d+, and the model has embeddings for 1,000"):
        generate(model, tokenizer, "hello zzz")


def test_nothing_to_begin_with(tiny):
    model, tokenizer = models.load(tiny)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the prompt is empty, and this tokenizer has no start token"):
        generate(model, tokenizer, "")
