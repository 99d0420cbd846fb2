"""A small model of each family with random weights, and what the tests do to all of them alike."""

from __future__ import annotations

import copy
import functools
import warnings

import peft
import torch
import transformers
from torch import nn

from lora_lab.record import record_of

VOCABULARY = 61
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
GEMMA = {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6}
# family: (class of the model, what its config has beside IDS and SIZES)
MODELS = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 2, "sliding_window": 6}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 16}),  # head_dim x heads is not the width
    "gemma2": ("Gemma2ForCausalLM", GEMMA),  # soft caps, four norms, tied, scaled embeddings
    "gemma3_text": ("Gemma3ForCausalLM", GEMMA),  # five layers in six look at a window alone
    "phi3": ("Phi3ForCausalLM", {"num_key_value_heads": 2}),
    "gpt2": ("GPT2LMHeadModel", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    # SmolLM2-135M has 9 heads and 3 of keys and values, ties its head, and turns slowly (theta 100,000).
    "smollm2": (
        "LlamaForCausalLM",
        {
            "hidden_size": 72,
            "intermediate_size": 192,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "rms_norm_eps": 1e-5,
        },
    ),
    "pythia": ("GPTNeoXForCausalLM", {"tie_word_embeddings": False}),
    "bert": ("BertForMaskedLM", NO_DROPOUT),
    "roberta": ("RobertaForMaskedLM", NO_DROPOUT | {"max_position_embeddings": 66}),
    "bert classifier": ("BertForSequenceClassification", NO_DROPOUT | {"num_labels": 3}),
    "llama classifier": ("LlamaForSequenceClassification", {"num_key_value_heads": 2, "num_labels": 3}),
}
CAUSAL = [f for f, (name, _) in MODELS.items() if name.endswith(("CausalLM", "LMHeadModel"))]
CLASSIFIERS = [f for f in MODELS if f.endswith("classifier")]
TIED = ["gemma2", "gemma3_text", "gpt2", "smollm2"]


@functools.cache
def _built(family: str) -> nn.Module:
    name, more = MODELS[family]
    model_class = getattr(transformers, name)
    config = model_class.config_class(**IDS | SIZES | {"max_position_embeddings": 64} | more)
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_class(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # norms and biases start at 0 or 1, where some mistakes would not show
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def small(family: str) -> nn.Module:
    """A fresh copy of the family's model, always with the same weights, in eval mode."""
    return copy.deepcopy(_built(family))


def tokens(rows: int = 3, length: int = 9) -> torch.Tensor:
    """Token ids [rows, length], none of them special: longer than the window of those that have one."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(6))


def batch(family: str) -> dict[str, torch.Tensor]:
    """Inputs and labels: the same tokens, or a class for each row."""
    ids = tokens()
    return {"input_ids": ids, "labels": torch.tensor([0, 2, 1]) if family in CLASSIFIERS else ids}


def logits(model: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    """The model's logits in eval mode, without gradient."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=tokens() if ids is None else ids).logits


def two_steps(model: nn.Module, family: str) -> list[float]:
    """The losses before, between and after two steps of AdamW on what trains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for step in range(3):
        loss = model.train()(**batch(family)).loss
        losses.append(loss.item())
        if step < 2:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    return losses


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """{path: a copy of the weight or bias} of an adapted model's frozen part, under the names of the plain model."""
    record = record_of(model)
    own = {id(p) for parameters in record.parameters.values() for p in parameters}
    found = {}
    for path, parameter in model.named_parameters():
        if id(parameter) not in own:
            found[path.replace(".base.", ".").replace(".original.", ".")] = parameter.detach().clone()
    return found


def adapted_by_peft(model: nn.Module, config: peft.LoraConfig) -> set[str]:
    """The paths that peft adapts on this model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config)
    return {n.removeprefix("base_model.model.") for n, m in wrapped.named_modules() if hasattr(m, "lora_A")}
