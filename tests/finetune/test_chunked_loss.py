"""The loss in chunks is transformers' own, to rounding, for each family and each kind of head; and the logits are
never there."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import chunked_loss
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from tests.counting.oracles import kept_by_autograd

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
FAMILIES = {
    "llama": SIZES,
    "gemma2": SIZES | {"final_logit_softcapping": 2.0},
    "gemma3_text": SIZES,
    "qwen3": SIZES | {"tie_word_embeddings": True},
    "phi3": SIZES,
    "granite": SIZES | {"logits_scaling": 4.0},
    "cohere": SIZES | {"logit_scale": 0.25},
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **FAMILIES[kind]))
    with torch.no_grad():  # larger logits than a fresh model's, so that softmax, cap and scale count
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.train()


def batch(vocabulary: int = 97) -> dict[str, torch.Tensor]:
    tokens = torch.randint(2, vocabulary, (3, 21), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, 15:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    labels[1, :7] = -100  # a prompt
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    (3 * loss).backward()  # as where a step has several passes, or several devices
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def check_same(model, chunk: int, **more) -> None:
    loss, gradients = loss_and_gradients(model, **batch(), **more)
    with chunked_loss.installed(model, chunk):
        found, its = loss_and_gradients(model, **batch(), **more)
    torch.testing.assert_close(found, loss, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == its.keys() and any(g.any() for g in its.values())
    for name in gradients:
        assert (its[name] - gradients[name]).norm() <= 3e-6 * gradients[name].norm(), name


@pytest.mark.parametrize("kind", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(kind):
    """The base frozen under an adapter, and everything trained: then a head, tied or not, gets its gradient too."""
    model = model_of(kind)
    check_same(model, 8)
    add_adapter(model, LoraConfig(rank=2, target_modules="all-linear", init_lora_weights=False))
    check_same(model, 8)


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
@pytest.mark.parametrize("how", ["adapter on the head", "head saved whole", "adapter on the tied embedding"])
def test_a_trained_head_and_any_chunk(how, chunk):
    kind = "gpt2" if "tied" in how else "llama"
    model = model_of(kind)
    targets = {"adapter on the head": ["lm_head", "q_proj"], "head saved whole": ["q_proj"]}.get(how, ["wte"])
    saved = ["lm_head"] if "whole" in how else []
    config = LoraConfig(rank=2, target_modules=targets, modules_to_save=saved, init_lora_weights=False)
    check_same(add_adapter(model, config), chunk)


@pytest.mark.parametrize("count", [40, torch.tensor(40)])
def test_a_count_of_tokens_divides_as_under_accumulation(count):
    check_same(model_of("llama"), 16, num_items_in_batch=count)


def test_labels_already_shifted():
    tokens = batch()["labels"].roll(-1, 1)
    check_same(model_of("llama"), 16, shift_labels=tokens)


def test_under_autocast_it_is_as_near_as_bfloat16_lets_it_be():
    model = model_of("llama").bfloat16()
    add_adapter(model, LoraConfig(rank=2, init_lora_weights=False))
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(model, **batch())
        with chunked_loss.installed(model, 8):
            found, its = loss_and_gradients(model, **batch())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss, rtol=1e-3, atol=1e-3)
    for name in gradients:
        assert (its[name] - gradients[name]).norm() < 0.03 * gradients[name].norm()


def test_no_logits_are_kept_nor_made():
    model = add_adapter(model_of("llama"), LoraConfig(rank=2))
    inputs, largest = batch(), []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim and result.shape[-1] == 97:
                largest.append(result.numel())
            return result

    with chunked_loss.installed(model, 5), Sizes():
        kept = kept_by_autograd(model, lambda: model(**inputs))
    assert max(largest) == 5 * 97
    whole = kept_by_autograd(model, lambda: model(**inputs))
    # float32 log-probabilities, labels and their number, against one gradient of the hidden states
    assert whole - kept == 4 * 3 * 21 * (97 - 32) + 8 * 3 * 21 + 4


def test_without_labels_nothing_changes_and_afterwards_the_model_is_plain():
    model = model_of("gemma2").eval()
    inputs = batch()
    del inputs["labels"]
    before, attributes = model(**inputs).logits, dict(vars(model))
    with chunked_loss.installed(model, 4):
        assert chunked_loss.is_installed(model)
        assert torch.equal(model(**inputs).logits, before)
        assert model(**batch()).logits is None
        assert model.generate(inputs["input_ids"][:, :5], max_new_tokens=3).shape == (3, 8)
    assert vars(model).keys() == attributes.keys() and not chunked_loss.is_installed(model)
    assert torch.equal(model(**inputs).logits, before)
    copy.deepcopy(model)


def test_none_changes_nothing():
    model = model_of("llama")
    with chunked_loss.installed(model, None):
        assert "forward" not in vars(model) and model(**batch()).logits is not None


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, "many"])
def test_bad_chunks_are_named(chunk):
    with pytest.raises(ValueError, match=f"loss_chunk must be a whole number .* got {chunk!r}"):
        with chunked_loss.installed(model_of("llama"), chunk):
            pass


def test_a_model_of_another_build_is_refused_and_nothing_is_changed():
    model = model_of("llama")
    model.temperature = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="temperature trains outside the decoder and the output head of a Llama"):
        with chunked_loss.installed(model, 4):
            pass
    assert "forward" not in vars(model)
    model.temperature.requires_grad_(False)
    with chunked_loss.installed(model, 4), pytest.raises(ValueError, match="in chunks already"):
        with chunked_loss.installed(model, 4):
            pass
    with pytest.raises(ValueError, match="a Linear has no decoder with an output head"):
        with chunked_loss.installed(torch.nn.Linear(2, 2), 4):
            pass


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_trial_finds_no_problem_where_there_is_none(kind):
    model = model_of(kind).bfloat16()
    assert chunked_loss.problem(model) is None
    assert model.training and "forward" not in vars(model)


def test_a_trial_finds_other_losses_and_other_ways_to_logits():
    model = model_of("llama")
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.square().mean()
    assert "is more than the cross-entropy of its logits" in chunked_loss.problem(model)
    experts = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **experts)).train()
    assert "the loss of a MixtralForCausalLM is more" in chunked_loss.problem(model)
    model.config.output_router_logits = False
    assert chunked_loss.problem(model) is None
    sizes = SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **sizes)).train()
    assert "do not come from its decoder and output head alone" in chunked_loss.problem(model)
    assert model.training and "forward" not in vars(model)
