"""A small model of any causal architecture of transformers, from the configuration that it has by default."""

from __future__ import annotations

import dataclasses
import re

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LAYERS = r"num_(hidden_|decoder_)?layers|n_layers?|(en|de)coder_layers|num_blocks|depth"
WIDTH = r"n_embd|d_model|(attention_|backbone_)?hidden_size|(input_|output_)?embedding_size|emb(edding)?_dim|lru_width"
RULES = {  # what a field of a configuration becomes, by its name; the first that fits
    r"(\w+_)?vocab_size(_per_layer_input)?": 259,
    r"pad_token_id": 0,
    r"(bos|cls|start|decoder_start)_token_id": 1,
    r"(eos|sep)_token_id": 2,
    r"\w+_token_id": 3,
    r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_target_positions|context_length": 512,
    WIDTH + r"|word_embed_proj_dim": 64,
    r"(num_|swa_num_|num_global_)key_value_heads|num_kv_heads|num_query_groups": 2,
    r"n_heads?|num_heads|(\w+_)?attention_heads|linear_num_(key_|value_)?heads|index_n_heads": 4,
    r"qk_(nope|rope)_head_dim|rotary_dim|(mamba_)?(d_state|chunk_size)|(ssm_)?state_size|mamba_dt_rank": 8,
    r"(\w+_)?head_dim|dim_head|d_head|kv_channels|attention_head_size": 16,
    r"\w*lora_rank|router_hidden_size|\w*_rank|hc_lowrank|ple_embed_dim|hidden_size_per_layer_input": 16,
    r"(n_routed|num|num_local|moe_num)_experts": 4,
    r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|zero_expert_num": 2,
    r"n_group|num_expert_group|topk_group|first_k_dense_replace|num_dense_layers|split_ngram_parts": 1,
    r"\w*(n|num)_shared_experts": 1,
    r"\w*(intermediate_size(_mlp)?|ffn_dim|ffn_hidden_size)|d_inner|dff|dim_ff|feed_forward_size": 96,
    r"sliding_window(_size)?|window_size|local_attention|attention_window_size|attention_chunk_size|index_topk": 8,
    r"num_nextn_predict_layers|num_kv_shared_layers": 0,
    r"ngram_vocab_size_base": 200,
    r"query_pre_attn_scalar|num_mel_bins|(pronunciation|shape)_embed_dim": 16,
    r"\w*drop(out)?(_\w+)?|\w*layerdrop": 0,
}
MAY_BE_NONE = r"\w+_token_id|num_key_value_heads|head_dim|num_experts_per_tok|n_(routed|shared)_experts"
MIXED = ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid", "hybrid"]
DECODER = {"is_decoder": True}
MORE = {  # what the rules cannot guess
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": "auto"},
    "granitemoehybrid": {"layer_types": MIXED[:1] + ["full_attention"], "mamba_n_heads": 8, "mamba_d_head": "auto"},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": MIXED, "attention_hidden_size": 128}
    | {"attention_head_dim": 32, "n_mamba_heads": 2, "num_key_value_heads": 4},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": MIXED, "num_key_value_heads": 4}
    | {"attention_hidden_size": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen4_exp_text": dict(zip(("indexer_n_heads", "indexer_kv_heads"), (2, 1), strict=True))
    | {"indexer_head_dim": 16, "indexer_budget": 8, "indexer_compress_ratio": 2},
    "xlstm": {"chunk_size": 16, "qk_dim_factor": 1.0},
    "mamba2": {"expand": 1, "n_groups": 2},
    "zaya": {"num_experts_per_tok": 1},
    "deepseek_v2": {"topk_method": "greedy"},
    "xmod": {"default_language": "en_XX"} | DECODER,
    **dict.fromkeys("bert bert-generation big_bird camembert data2vec-text electra ernie".split(), DECODER),
    **dict.fromkeys("megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer".split(), DECODER),
    **dict.fromkeys("xlm-roberta xlm-roberta-xl".split(), DECODER),
}


def small_config(kind: type, **more):
    """A configuration of class `kind` with everything small, one layer of each sort that the default one has."""
    usual = vars(kind())
    deep = next((n for key, n in usual.items() if re.fullmatch(LAYERS, key) and isinstance(n, int)), 0)
    each = {key: v for key, v in usual.items() if isinstance(v, list) and len(v) == deep > 2}
    sorts = {tuple(str(v[i]) for v in each.values()): i for i in reversed(range(deep if each else 0))}
    layers = sorted({*sorts.values(), 0, 1})[:4]
    given = {}
    for key in {f.name for f in dataclasses.fields(kind)} | usual.keys():
        value = usual.get(key)
        if key in kind.sub_configs and value is not None:
            given[key] = small_config(type(value))
        elif key in each:
            given[key] = [4 if "attention_heads" in key else each[key][i] for i in layers]
        elif re.fullmatch(LAYERS, key) and value is not None:
            given[key] = len(layers)
        elif type(value) in (int, float) or (value is None and re.fullmatch(MAY_BE_NONE, key)):
            rule = next((rule for rule in RULES if re.fullmatch(rule, key)), None)
            if rule and not key.startswith("_") and (value or RULES[rule]):
                given[key] = (int if value is None else type(value))(RULES[rule])
    if "kv_lora_rank" in given:  # latent attention: as many keys as queries, turned in a part of their own
        given |= {"num_key_value_heads": 4, "head_dim": 8}
    return kind(**given | MORE.get(kind.model_type, {}) | more)


def tiny(name: str, **more):
    """The architecture's model with random weights, always the same, in eval mode."""
    torch.manual_seed(4)
    config = small_config(CONFIG_MAPPING[name], **more)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model
