"""Proofs by counting: how many numbers an adapter has, on one matrix and on models whose shapes are known."""

from __future__ import annotations

import numpy as np

from lora_lab import counting, shapes
from lora_lab.counting import Matrix

Result = dict[str, int | float | str | bool]


def count_one_matrix(out_features: int = 4096, in_features: int = 4096, rank: int = 8) -> Result:
    """Parameters of LoRA beside one W [out, in], by the formula and by counting a real layer. Hu et al. 2021, 4.1.

    times_fewer: W's parameters over the adapter's.
    """
    trained, whole = rank * (in_features + out_features), out_features * in_features
    return {
        "parameters": trained,
        "matrix": whole,
        "share": trained / whole,
        "times_fewer": whole / trained,
        "a_layer_has_as_many": sum(_numbers_of_a_layer(out_features, in_features, rank)) == trained,
    }


def _numbers_of_a_layer(out_features: int, in_features: int, rank: int) -> tuple[int, int]:
    """Numbers in A and in B of a layer that is built, without memory for its weights."""
    from torch import nn

    from lora_lab.layers import LoraLinear

    layer = LoraLinear(nn.Linear(in_features, out_features, bias=False, device="meta"))
    layer.add("default", rank, scaling=1.0)
    a, b = layer.matrices("default")
    return a.numel(), b.numel()


def count_wide_matrix(out_features: int = 11008, in_features: int = 4096, rank: int = 8) -> Result:
    """LoRA beside a matrix that is not square, a layer that is built, and what formulas for square ones make of it.

    as_if_square: 2 x rank x in; rank_times_matrix: rank x in x out, as if the rank multiplied W.
    """
    trained = counting.lora_parameters(out_features, in_features, rank)
    a, b = _numbers_of_a_layer(out_features, in_features, rank)
    return {
        "parameters": trained,
        "in_a": a,
        "in_b": b,
        "as_if_square": 2 * rank * in_features,
        "rank_times_matrix": rank * in_features * out_features,
        "a_and_b_differ": a != b,
        "a_and_b_make_it": a + b == trained,
        "the_square_formula_is_short": 2 * rank * in_features < a + b,
    }


def count_seven_billion(model: str = "Llama-2-7B", rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """LoRA on a known model: how many matrices it corrects, its count, and the count as a share of two things."""
    shape = shapes.known(model)
    trained = counting.lora(shape, rank, targets)
    matrices = counting.chosen(shape, targets)
    number = sum(m.count for m in matrices)
    each = matrices[0].out_features * rank + rank * matrices[0].in_features
    return {
        "parameters": trained,
        "base": shape.total,
        "share_of_base": counting.share_of_base(trained, shape.total),
        "share_of_total": counting.share_of_total(trained, shape.total),
        "matrices": number,
        "each": each,
        "q_and_v_are_alike": number * each == trained,
        "below_seven_billion": shape.total < 7_000_000_000,
    }


def count_grouped_queries(
    heads: int = 32, kv_heads: int = 8, head_size: int = 128, hidden: int = 4096, layers: int = 32, rank: int = 8
) -> Result:
    """LoRA on q and v where keys and values have fewer heads; the defaults are Mistral-7B's and Llama-3.1-8B's.

    without_groups: as many key heads as heads; halved: the wrong guess that the whole count shrinks with the heads.
    """
    q = rank * (hidden + heads * head_size)
    v = rank * (hidden + kv_heads * head_size)
    whole = 2 * layers * q
    models = [counting.lora(shapes.known(name), 8, "q_proj,v_proj") for name in ("Mistral-7B-v0.1", "Llama-3.1-8B")]
    rows = {m.name: m.out_features for m in shapes.known("Mistral-7B-v0.1").matrices}
    return {
        "parameters": layers * (q + v),
        "without_groups": whole,
        "kept": layers * (q + v) / whole,
        "rows_of_v": kv_heads * head_size,
        "mistral_is_llama_3": models[0] == models[1],
        "as_the_models": layers * (q + v) == models[0],
        "mistral's_v_has_a_quarter_of_q's_rows": 4 * rows["v_proj"] == rows["q_proj"],
    }


def count_head_size(model: str = "Qwen3-0.6B", rank: int = 8) -> Result:
    """LoRA on q and v of a model whose heads together are wider, or narrower, than its hidden size.

    naive: the count by somebody who takes W_q for [hidden, hidden] and head size for hidden / heads.
    """
    shape = shapes.known(model)
    trained = counting.lora(shape, rank, "q_proj,v_proj")
    q = next(m for m in shape.matrices if m.name == "q_proj")
    naive_v = shape.kv_heads * (shape.hidden // shape.heads)
    naive = shape.layers * rank * (2 * shape.hidden + shape.hidden + naive_v)
    return {
        "parameters": trained,
        "naive": naive,
        "missing": 1 - naive / trained,
        "hidden": shape.hidden,
        "heads_times_size": q.out_features,
        "naive_is_wrong": naive != trained,
        "q_is_not_square": q.out_features != q.in_features,
    }


def count_fused(hidden: int = 768, rank: int = 8, parts: int = 3) -> Result:
    """One adapter on `parts` projections kept in one matrix, as GPT-2 keeps q, k and v, against one for each.

    rank_fused, rank_apart: of the whole update [parts x hidden, hidden], for random factors of a small width.
    """
    fused = counting.lora_parameters(parts * hidden, hidden, rank)
    apart = parts * counting.lora_parameters(hidden, hidden, rank)
    c_attn = next(m for m in shapes.known("GPT-2").matrices if m.name == "c_attn")
    random, width = np.random.default_rng(0), 2 * parts * rank
    a, b = random.normal(size=(parts, rank, width)), random.normal(size=(parts, width, rank))
    ranks = [int(np.linalg.matrix_rank(np.vstack(list(update)))) for update in (b @ a[0], b @ a)]
    return {
        "fused": fused,
        "apart": apart,
        "ratio": fused / apart,
        "gpt2_is_fused": (c_attn.out_features, c_attn.in_features) == (3 * 768, 768),
        "rank_fused": ranks[0],
        "rank_apart": ranks[1],
        "one_rank_for_all_parts": ranks == [rank, parts * rank],
    }


def count_tied(model: str = "GPT-2") -> Result:
    """A model whose embedding is also its output head: counted once, and what it would be counted twice."""
    shape = shapes.known(model)
    table = shape.vocabulary * shape.hidden
    rows = [m.out_features for m in shape.embeddings]
    return {
        "parameters": shape.total,
        "table": table,
        "counted_twice": shape.total + table,
        "too_much": table / shape.total,
        "one_table_of_the_vocabulary": rows.count(shape.vocabulary) == 1,
    }


def count_all_linear(model: str = "Llama-2-7B", rank: int = 8) -> Result:
    """ "all-linear": which matrices it takes, its count, and how it splits between attention and MLP."""
    shape = shapes.known(model)
    taken = counting.chosen(shape, "all-linear")
    names = [m.name for m in taken]
    by_part = {
        part: sum(counting.lora([m], rank) for m in taken if f".{part}." in m.path) for part in ("self_attn", "mlp")
    }
    trained = counting.lora(shape, rank)
    q_and_v = counting.lora(shape, rank, "q_proj,v_proj")
    return {
        "parameters": trained,
        "share": trained / shape.total,
        "kinds": len(names),
        "mlp_share": by_part["mlp"] / trained,
        "times_q_and_v": trained / q_and_v,
        "no_head_no_embedding": not {"lm_head", "embed_tokens"} & set(names),
        "the_parts_make_it": sum(by_part.values()) == trained,
    }


def count_over_one_percent(model: str = "Llama-2-7B", low: int = 16, middle: int = 64, high: int = 256) -> Result:
    """Shares of the base that LoRA on all linear layers trains at three ranks, and on q and v at rank 8."""
    shape = shapes.known(model)
    at = {rank: counting.lora(shape, rank) / shape.total for rank in (low, middle, high)}
    q_and_v = counting.lora(shape, 8, "q_proj,v_proj") / shape.total
    return {
        "low": at[low],
        "middle": at[middle],
        "high": at[high],
        "q_and_v": q_and_v,
        "low_is_below": at[low] < 0.01,
        "the_others_are_above": min(at[middle], at[high]) > 0.01,
    }


def count_last_rank_below(model: str = "Llama-2-7B", limit: float = 0.01) -> Result:
    """The largest rank on all linear layers whose share is below `limit`: of the base, and of base plus adapter."""
    shape = shapes.known(model)
    ranks = range(1, 10_000)
    counts = [counting.lora(shape, rank) for rank in (1, 2)]
    of_base = max(r for r in ranks if counting.share_of_base(r * counts[0], shape.total) < limit)
    of_both = max(r for r in ranks if counting.share_of_total(r * counts[0], shape.total) < limit)
    return {
        "of_base": of_base,
        "of_total": of_both,
        "between_base": counting.share_of_base(of_both * counts[0], shape.total),
        "between_total": counting.share_of_total(of_both * counts[0], shape.total),
        "linear_in_the_rank": counts[1] == 2 * counts[0],
        "they_disagree": of_both > of_base,
    }


def count_break_even(out_features: int = 4096, in_features: int = 4096, flat: int = 1024, above: int = 4096) -> Result:
    """The rank at which A and B have as many numbers as W [out, in], and what they have at a rank `above` it.

    flat: outputs of a second matrix, with as many inputs.
    """
    rank = counting.break_even_rank(out_features, in_features)
    whole = out_features * in_features
    return {
        "rank": rank,
        "flat_rank": counting.break_even_rank(flat, in_features),
        "times_the_matrix": counting.lora_parameters(out_features, in_features, above) / whole,
        "no_larger_at_it": counting.lora_parameters(out_features, in_features, rank) <= whole,
        "larger_above_it": counting.lora_parameters(out_features, in_features, rank + 1) > whole,
    }


def count_convolution(in_channels: int = 256, out_channels: int = 512, kernel: int = 3, rank: int = 8) -> Result:
    """LoRA on a convolution: A a convolution with the base's kernel to r channels, B a 1 x 1 one back, both built.

    And on a small one with random A and B, whether the two in a row are one kernel of the base's size.
    """
    import torch
    from torch import nn
    from torch.nn.functional import conv2d

    from lora_lab.layers import LoraConv2d

    base = nn.Conv2d(in_channels, out_channels, kernel, bias=False, device="meta")
    layer = LoraConv2d(base)
    layer.add("default", rank, scaling=1.0)
    a, b = layer.matrices("default")
    whole, trained = base.weight.numel(), a.numel() + b.numel()
    small = LoraConv2d(nn.Conv2d(3, 5, kernel, padding=1, bias=False))
    small.add("default", 2, scaling=1.0, zero_init=False)
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, one = small.product("default", x), conv2d(x, small.delta("default"), padding=1)
    return {
        "parameters": trained,
        "in_a": a.numel(),
        "in_b": b.numel(),
        "base": whole,
        "share": trained / whole,
        "as_a_matrix": trained == counting.lora_parameters(out_channels, in_channels * kernel**2, rank),
        "b_is_one_by_one": tuple(b.shape) == (out_channels, rank, 1, 1),
        "the_two_are_one_kernel_of_the_base's_size": small.delta("default").shape == small.base.weight.shape
        and torch.allclose(both, one, atol=1e-5),
    }


def count_embedding(vocabulary: int = 32000, hidden: int = 4096, rank: int = 8, new_tokens: int = 10) -> Result:
    """Three ways to train an embedding [vocabulary, hidden]: an adapter, all of it, or the new tokens' rows alone."""
    import torch
    from torch import nn

    from lora_lab.layers import LoraEmbedding

    layer = LoraEmbedding(nn.Embedding.from_pretrained(torch.empty(vocabulary, hidden, device="meta")))
    layer.add("default", rank, scaling=1.0)
    adapter = sum(m.numel() for m in layer.matrices("default"))
    return {
        "adapter": adapter,
        "whole": vocabulary * hidden,
        "rows": new_tokens * hidden,
        "untouched_by_all_linear": all(m.name != "embed_tokens" for m in shapes.known("Llama-2-7B").matrices),
        "by_the_formula": adapter == counting.lora_parameters(hidden, vocabulary, rank),
    }


def count_head(model: str = "Llama-3.1-8B", rank: int = 8) -> Result:
    """What the output head adds to an adapter on all linear layers, and how the wide vocabulary makes it so."""
    shape = shapes.known(model)
    head = counting.lora([Matrix("lm_head", shape.vocabulary, shape.hidden)], rank)
    blocks = counting.lora(shape, rank)
    one_layer = blocks // shape.layers
    widest = max(max(m.out_features, m.in_features) for m in shape.matrices)
    return {
        "head": head,
        "blocks": blocks,
        "more": head / blocks,
        "layers_worth": head / one_layer,
        "share_in_b": shape.vocabulary / (shape.vocabulary + shape.hidden),
        "by_far_the_widest": shape.vocabulary > 2 * widest,
    }


def count_gpt3(layers: int = 96, hidden: int = 12288, rank: int = 4, base_millions: float = 175255.8) -> Result:
    """The LoRA paper's "10,000 times fewer" and "35 MB", from its own settings: q and v, 2 bytes a number.

    base_millions: the count in full of the paper's table 4.
    """
    trained = layers * 2 * counting.lora_parameters(hidden, hidden, rank)
    times = base_millions * 1e6 / trained
    return {
        "parameters": trained,
        "times_fewer": times,
        "bytes": 2 * trained,
        "fewer_than_ten_thousand": times < 10_000,
        "table_and_config_agree": abs(shapes.known("GPT-3-175B").total / (base_millions * 1e6) - 1) < 0.01,
    }


def count_by_rank(model: str = "Llama-2-7B", rank: int = 8, times: int = 2) -> Result:
    """The count at `rank` and at `times` that: linear in the rank. And a small net's trained numbers at two alphas."""
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    shape = shapes.known(model)
    at_alpha = []
    for alpha in (16, 32):
        net = add_adapter(nn.Sequential(nn.Linear(64, 64)), LoraConfig(rank=2, alpha=alpha, target_modules=["0"]))
        at_alpha.append(sum(p.numel() for p in net.parameters() if p.requires_grad))
    small, large = (counting.lora(shape, r, "q_proj,v_proj") for r in (rank, times * rank))
    return {
        "small": small,
        "large": large,
        "ratio": large / small,
        "large_share": large / shape.total,
        "linear": large == times * small,
        "alpha_trains_nothing": at_alpha[0] == at_alpha[1],
    }
