"""Which modules to adapt, by model family: "all-linear", "attention" and "mlp" as names that `LoraConfig` takes."""

from __future__ import annotations

import re
import warnings

from torch import nn

from lora_lab.config import ALL_LINEAR, did_you_mean
from lora_lab.flops import ROLES
from lora_lab.matching import linear_paths, out_of_reach, shortest_names

WHICH = (ALL_LINEAR, "attention", "mlp")
LAYER = "{}"  # stands for the number of the layer, where a name alone would mean a module of another kind too
_LLAMA = ("q_proj v_proj", "gate_proj up_proj down_proj")
_BERT = ("query value", "intermediate.dense layer.{}.output.dense")
# {model_type: (attention, MLP)}. Attention is peft's default where peft 0.21 has one (it has none for Phi-3): queries
# and values (Hu et al. 2021, section 7.1), or the one matrix in which they are fused.
FAMILIES = {
    **dict.fromkeys("llama mistral qwen2 qwen3 gemma gemma2 gemma3_text".split(), _LLAMA),
    "phi3": ("qkv_proj", "gate_up_proj down_proj"),
    "gpt2": ("c_attn", "c_fc mlp.c_proj"),
    "gpt_neox": ("query_key_value", "dense_h_to_4h dense_4h_to_h"),
    **dict.fromkeys("bert roberta xlm-roberta electra camembert ernie megatron-bert rembert roformer".split(), _BERT),
    **dict.fromkeys("big_bird roc_bert bert-generation data2vec-text roberta-prelayernorm".split(), _BERT),
    **dict.fromkeys("xlm-roberta-xl xmod".split(), _BERT),
}
_ROLES_OF = {"attention": "q v qkv", "mlp": "gate up gate_up down"}
# What the same matrices are called elsewhere: with latent attention (DeepSeek), in LFM2, Granite, ModernBERT, CTRL.
_ALSO = {
    "attention": "q_b_proj kv_b_proj kv_proj query_proj value_proj Wq Wv",
    "mlp": "w1 w2 w3 input_linear output_linear mlp.Wi mlp.Wo",
}


def targets(model: nn.Module, which: str = ALL_LINEAR) -> list[str]:
    """The `target_modules` that `which` means on this model, loaded or on the meta device.

    which: "all-linear", every linear layer but the output head, and but a classifier's (`classification_head`);
    "attention", queries and values, or the projection in which they are fused; "mlp", the feed-forward layers. A family
    that is not in FAMILIES is read off the names of its linear layers, with a warning that says what was taken.

    Raises ValueError for another word, and where no linear layer has a name that is known, with the names there are.
    """
    if which not in WHICH:
        raise ValueError(f"targets {which!r}: one of {', '.join(WHICH)}.{did_you_mean(str(which), WHICH)}")
    head = classification_head(model)
    paths = [p for p in linear_paths(model) if p.partition(".")[0] != head]
    if which == ALL_LINEAR:
        if text := out_of_reach(model):
            warnings.warn(f"{ALL_LINEAR!r}: {text}", stacklevel=2)
        return shortest_names(model, paths)
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind in FAMILIES:
        names = FAMILIES[kind][which == "mlp"].split()
        layers = range(config.num_hidden_layers)
        return [name.format(n) for name in names for n in (layers if LAYER in name else layers[:1])]
    known = {name for role in _ROLES_OF[which].split() for name in ROLES[role].split()} | set(_ALSO[which].split())
    found = [p for p in paths if any(f".{p}".endswith(f".{name}") for name in known)]
    last = ", ".join(dict.fromkeys(p.rpartition(".")[2] for p in paths))
    beyond = out_of_reach(model) if which == "mlp" else None
    if not found:
        raise ValueError(
            f"{kind!r} is a family that is not known here, and none of its linear layers has a name usual for {which}. "
            f"They end in: {last}. Name the targets, or take 'all-linear'." + (f" {beyond}." if beyond else "")
        )
    names = shortest_names(model, found)
    warnings.warn(
        f"{kind!r} is a family that is not known here: by their names, {which} is taken to be {', '.join(names)} "
        f"(of {last})" + (f". {beyond}" if beyond else ""),
        stacklevel=2,
    )
    return names


def classification_head(model: nn.Module) -> str | None:
    """The path of a classifier's new head, which belongs into `modules_to_save`; None for a model that has none.

    Such a head starts from random numbers, so it is trained whole and saved with the adapter; peft does so where
    `task_type` says that the model classifies. transformers calls it `classifier` (encoders) or `score` (decoders).
    """
    if not re.search(r"For(Sequence|Token)Classification$", type(model).__name__):
        return None
    return next((name for name, _ in model.named_children() if name in ("classifier", "score")), None)
