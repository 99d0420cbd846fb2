"""Tiny models of four families, the same adapter in peft and here, and what the tests compare."""

from __future__ import annotations

import copy
import functools

import peft
import torch
import transformers
from torch import nn

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraEmbedding
from lora_lab.record import record_of

VOCABULARY = 61
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}


@functools.cache
def _built(family: str) -> nn.Module:
    torch.manual_seed(11)
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if family == "llama":
        config = transformers.LlamaConfig(**common, **SIZES, num_key_value_heads=2, max_position_embeddings=64)
        model = transformers.LlamaForCausalLM(config)
    elif family == "qwen2":
        config = transformers.Qwen2Config(**common, **SIZES, num_key_value_heads=2, max_position_embeddings=64)
        model = transformers.Qwen2ForCausalLM(config)
    elif family == "gpt2":
        config = transformers.GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, n_positions=64, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.BertConfig(
            **common, **SIZES, max_position_embeddings=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0
        )
        model = transformers.BertForSequenceClassification(config)
    return model.eval()


def tiny(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A fresh copy of the family's tiny model, always with the same weights, trainable, in eval mode."""
    return copy.deepcopy(_built(family)).to(dtype)


FAMILIES = ("llama", "gpt2", "bert", "qwen2")
# One module of each kind per family: the attention's projections, and an embedding or a Conv1D where there is one.
TARGETS = {
    "llama": ("q_proj", "v_proj", "down_proj"),
    "qwen2": ("q_proj", "k_proj", "embed_tokens"),
    "gpt2": ("c_attn", "c_fc", "wte"),
    "bert": ("query", "value", "word_embeddings"),
}


def tokens(rows: int = 3, length: int = 7, seed: int = 5) -> torch.Tensor:
    """Token ids [rows, length], none of them padding."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    """The model's logits, without gradient."""
    with torch.no_grad():
        return model(tokens() if ids is None else ids).logits


def to_peft(config: LoraConfig, **more) -> peft.LoraConfig:
    """The same configuration in peft's words."""

    def listed(value):
        return list(value) if isinstance(value, tuple) else value

    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=listed(config.target_modules),
        exclude_modules=listed(config.exclude_modules),
        layers_to_transform=listed(config.layers_to_transform),
        layers_pattern=listed(config.layers_pattern),
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=config.init_lora_weights,
        modules_to_save=listed(config.modules_to_save) or None,
        bias=config.bias,
        **more,
    )


def randomize(model: nn.Module, name: str = "default", seed: int = 3, size: float = 0.3) -> nn.Module:
    """Give every A and B of adapter `name` normal values, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in record_of(model).layers.values():
            for matrix in layer.matrices(name) if name in layer.scaling else ():
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * size)
    return model


def ours(family: str, config: LoraConfig, name: str = "default", dtype: torch.dtype = torch.float32) -> nn.Module:
    """A tiny model with a non-zero adapter of this package."""
    return randomize(add_adapter(tiny(family, dtype), config, name), name)


Q = LoraConfig(rank=4, target_modules=("q_proj",))
V = LoraConfig(rank=2, alpha=5, target_modules=("v_proj", "up_proj"))


def two_adapters() -> nn.Module:
    """A tiny Llama with Q as "a" and V as "b", which is active."""
    return randomize(add_adapter(ours("llama", Q, "a"), V, "b"), "b", seed=8)


def theirs(family: str, config: LoraConfig, like: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same tiny model wrapped by peft, with the adapter weights of `like`, one of ours."""
    model = peft.get_peft_model(tiny(family, dtype), to_peft(config)).eval()
    with torch.no_grad():
        for its, mine in paired(model, like):
            its.copy_(mine)
    return model


def paired(
    their_model: nn.Module, our_model: nn.Module, name: str = "default"
) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(peft's, ours) for every A and B of adapter `name`."""
    pairs = []
    for path, layer in record_of(our_model).layers.items():
        if name not in layer.scaling:
            continue
        wrapped = their_model.get_submodule(f"base_model.model.{path}")
        if isinstance(layer, LoraEmbedding):
            its = wrapped.lora_embedding_A[name], wrapped.lora_embedding_B[name]
        else:
            its = wrapped.lora_A[name].weight, wrapped.lora_B[name].weight
        pairs += zip(its, layer.matrices(name), strict=True)
    assert pairs, "nothing is compared"
    return pairs


def snapshot(model: nn.Module) -> tuple:
    """Everything a failed call must leave alone: modules, values, what is trainable, mode, and the record."""
    record = model.__dict__.get("_lora_lab")
    noted = None
    if record is not None:
        layers = {}
        for path, m in record.layers.items():
            kept = None if m.pristine is None else m.pristine.data_ptr()
            layers[path] = (list(m.active), list(m.merged), dict(m.scaling), dict(m.used_rank), list(m.variants), kept)
        saved = {p: (list(m.active), list(m.copies)) for p, m in record.saved.items()}
        flags = (record.disabled, record.mixed, record.merged_for_good, record.biases_trained, record.bias_owner)
        noted = (dict(record.configs), dict(record.trainable), list(record.active), dict(record.scale), layers, saved)
        noted += flags
    return (
        [(path, id(module), module.training) for path, module in model.named_modules()],
        [(path, p.requires_grad, p.data_ptr(), p.detach().clone()) for path, p in model.named_parameters()],
        noted,
    )


def same(before: tuple, after: tuple) -> bool:
    """Whether two snapshots are equal; NaN equals NaN."""
    return (
        before[0] == after[0]
        and before[2] == after[2]
        and len(before[1]) == len(after[1])
        and all(
            a[:3] == b[:3] and torch.equal(a[3].nan_to_num(nan=7.0), b[3].nan_to_num(nan=7.0))
            for a, b in zip(before[1], after[1], strict=True)
        )
    )
