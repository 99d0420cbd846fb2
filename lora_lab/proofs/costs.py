"""Proofs on what LoRA costs: bytes in memory and on disk, floating-point operations, and why time is neither."""

from __future__ import annotations

from collections.abc import Callable

from lora_lab import counting, flops, shapes
from lora_lab.memory import NF4_BITS, WAYS, memory

Result = dict[str, int | float | str | bool]
STATES = ("weights", "gradients", "optimizer")


def memory_not_by_parameters(
    model: str = "Llama-2-7B", rank: int = 8, targets: str = "q_proj,v_proj", bytes_in_full: int = 16
) -> Result:
    """States of full fine-tuning (`bytes_in_full` a parameter) and of LoRA over a 16-bit base, activations aside.

    Bytes. share_of_memory: LoRA's states over full fine-tuning's; at_best: what no adapter, however small, can better.
    """
    base = shapes.known(model).total
    trained = counting.lora(shapes.known(model), rank, targets)
    full, frozen, adapter = bytes_in_full * base, 2 * base, 16 * trained
    counted = memory(shapes.known(model), "lora", rank=rank, targets=targets)
    return {
        "full": full,
        "lora": frozen + adapter,
        "adapter": adapter,
        "share_of_parameters": trained / base,
        "share_of_memory": (frozen + adapter) / full,
        "times_less": full / (frozen + adapter),
        "at_best": full / frozen,
        "the_package_agrees": frozen + adapter == sum(counted[bucket] for bucket in STATES),
    }


def memory_in_full(model: str = "Llama-2-7B", how: str = "full") -> Result:
    """Bytes of full fine-tuning's states, bucket by bucket, with Adam and mixed precision (ZeRO, section 3.1).

    how: a key of `memory.WAYS`. per_parameter: bytes; only_weights: 2 bytes each, the usual wrong answer.
    """
    base, way = shapes.known(model).total, WAYS[how]
    cost = memory(shapes.known(model), how)
    states = sum(cost[bucket] for bucket in STATES)
    eighteen = sum(memory(shapes.known(model), "full-18")[bucket] for bucket in STATES)
    return {
        "bytes": states,
        "per_parameter": states / base,
        "optimizer": cost["optimizer"],
        "optimizer_share": cost["optimizer"] / states,
        "only_weights": 2 * base,
        "with_float32_gradients": eighteen,
        "the_buckets_make_it": states == base * (way.weights + way.gradients + way.optimizer),
        "float32_gradients_add_two_bytes": eighteen - sum(memory(shapes.known(model), "full")[b] for b in STATES)
        == 2 * base,
        "most_is_optimizer": 2 * cost["optimizer"] > states,
    }


def memory_buckets(model: str = "Llama-2-7B", rows: int = 4, length: int = 512, rank: int = 8) -> Result:
    """The five buckets of a training step, in full and by LoRA on q and v: bytes, and what LoRA leaves of each."""
    shape = shapes.known(model)
    full, lora = (memory(shape, how, rows, length, rank, "q_proj,v_proj") for how in ("full", "lora"))
    return {
        "full": sum(full.values()),
        "lora": sum(lora.values()),
        "activations_full": full["activations"],
        "activations_lora": lora["activations"],
        "activations_kept": lora["activations"] / full["activations"],
        "logits": lora["logits"],
        "gradients_and_optimizer": lora["gradients"] + lora["optimizer"],
        "gradients_and_optimizer_full": full["gradients"] + full["optimizer"],
        "kept": sum(lora.values()) / sum(full.values()),
        "logits_stay": full["logits"] == lora["logits"],
        "most_activations_stay": lora["activations"] > 0.7 * full["activations"],
    }


def memory_many_tokens(model: str = "Llama-2-7B", few: int = 128, many: int = 8192, rank: int = 8) -> Result:
    """LoRA's memory over full fine-tuning's, on q and v, at few and at many tokens a step, texts of 128 tokens.

    checkpointed: at `many`, where a block keeps its input alone and is computed again.
    """

    def share(tokens: int, **more: bool) -> float:
        step = {"rows": tokens // 128, "length": 128, "rank": rank, "targets": "q_proj,v_proj", **more}
        lora, full = (sum(memory(shapes.known(model), how, **step).values()) for how in ("lora", "full"))
        return lora / full

    at = {"few": share(few), "many": share(many), "checkpointed": share(many, checkpointing=True)}
    return {
        **at,
        "the_saving_shrinks": at["few"] < at["many"],
        "checkpointing_brings_it_back": at["checkpointed"] < at["many"],
    }


def memory_lower_rank(model: str = "Llama-2-7B", card: int = 24_000_000_000, rank: int = 8) -> Result:
    """The longest text with which LoRA on q and v stays within a card's bytes, and what moves that limit.

    lower_rank: tokens at rank 1; checkpointing: at `rank`; saved: bytes that rank 1 saves at the first limit.
    """
    shape = shapes.known(model)

    def needed(length: int, r: int, **more: bool) -> int:
        return sum(memory(shape, "lora", 1, length, r, "q_proj,v_proj", **more).values())

    def longest(r: int, **more: bool) -> int:
        return _last(lambda length: needed(length, r, **more) <= card)

    plain = longest(rank)
    found = {"plain": plain, "lower_rank": longest(1), "checkpointing": longest(rank, checkpointing=True)}
    return {
        **found,
        "saved": needed(plain, rank) - needed(plain, 1),
        "longer_by_rank": found["lower_rank"] / plain - 1,
        "longer_by_checkpointing": found["checkpointing"] / plain,
        "rank_buys_little": found["lower_rank"] < 1.05 * plain,
        "checkpointing_buys_much": found["checkpointing"] > 3 * plain,
    }


def _last(fits: Callable[[int], bool], most: int = 1 << 20) -> int:
    """The largest number from 1 to `most` that fits, where all smaller ones do."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def memory_qlora(model: str = "Llama-2-7B", rank: int = 16, bits: float = NF4_BITS) -> Result:
    """Bytes of QLoRA's states on all linear layers: the quantised matrices, the rest in float32, and the adapter.

    bits: of a quantised number, its share of the scales included (QLoRA, section 3).
    """
    shape = shapes.known(model)
    linear = sum(m.count * m.out_features * m.in_features for m in shape.matrices)
    quantised, rest, adapter = round(linear * bits / 8), 4 * (shape.total - linear), 16 * counting.lora(shape, rank)
    counted = memory(shape, "qlora", rank=rank)
    return {
        "bits": bits,
        "quantised": quantised,
        "rest": rest,
        "base": quantised + rest,
        "adapter": adapter,
        "states": quantised + rest + adapter,
        "base_in_16_bits": 2 * shape.total,
        "times_smaller": 2 * shape.total / (quantised + rest),
        "the_package_agrees_at_nf4": sum(counted[b] for b in STATES) == quantised + rest + adapter,
        "not_four_times_smaller": 2 * shape.total < 4 * (quantised + rest),
    }


def memory_gpt3(
    base_millions: float = 175255.8, full_bytes: float = 1.2e12, lora_bytes: float = 350e9, per_parameter: int = 16
) -> Result:
    """The LoRA paper's "1.2 TB to 350 GB", divided by GPT-3's parameters, and what mixed-precision Adam would take.

    base_millions, full_bytes, lora_bytes: as the paper gives them (table 4 and section 4.2).
    """
    base = base_millions * 1e6
    return {
        "full_per_parameter": full_bytes / base,
        "lora_per_parameter": lora_bytes / base,
        "ratio": full_bytes / lora_bytes,
        "weights": 2 * base,
        "mixed_precision": per_parameter * base,
        "ratio_mixed_precision": per_parameter * base / (2 * base),
        "lora_is_the_weights": abs(lora_bytes / (2 * base) - 1) < 0.01,
        "full_is_not_16_bytes": full_bytes < 0.5 * per_parameter * base,
    }


def memory_logits(rows: int = 8, length: int = 1024, small: str = "Gemma-2-2B", large: str = "Llama-2-7B") -> Result:
    """Bytes of the logits' bucket in two models, LoRA with checkpointing: the vocabulary decides, not the size."""
    costs = [
        memory(shapes.known(name), "lora", rows=rows, length=length, checkpointing=True) for name in (small, large)
    ]
    one, two = (cost["logits"] for cost in costs)
    return {
        "small_model": one,
        "large_model": two,
        "small_model_weights": costs[0]["weights"],
        "small_vocabulary": shapes.known(small).vocabulary,
        "large_vocabulary": shapes.known(large).vocabulary,
        "ratio": one / two,
        "small_in_all": sum(costs[0].values()),
        "large_in_all": sum(costs[1].values()),
        "it_is_the_smaller_model": shapes.known(small).total < shapes.known(large).total,
        "and_needs_more_in_all": sum(costs[0].values()) > sum(costs[1].values()),
    }


def adapter_file(model: str = "Llama-2-7B", rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """Bytes of an adapter's file in the PEFT format, beside the model's in bfloat16."""
    shape = shapes.known(model)
    wide, narrow = (counting.adapter_bytes(shape, rank, targets, width) for width in (4, 2))
    numbers = 4 * counting.lora(shape, rank, targets)
    return {
        "float32": wide,
        "bfloat16": narrow,
        "header": wide - numbers,
        "model": 2 * shape.total,
        "times_smaller": 2 * shape.total / wide,
        "hundred_adapters": 2 * shape.total + 100 * wide,
        "hundred_models": 100 * 2 * shape.total,
        "mostly_numbers": 0 < wide - numbers < 0.01 * wide,
    }


def flops_two_thirds(model: str = "Llama-2-7B", length: int = 512, rank: int = 8, deep: int = 256) -> Result:
    """FLOPs of a training step by LoRA on q and v over those in full; `deep`: the same on all linear layers."""
    shape = shapes.known(model)
    full = flops.step(shape, length)
    small = flops.step(shape, length, how="lora", rank=rank, targets="q_proj,v_proj") / full
    large = flops.step(shape, length, how="lora", rank=deep) / full
    trained = counting.lora(shape, rank, "q_proj,v_proj") / shape.total
    return {
        "share": small,
        "share_deep": large,
        "saved": 1 - small,
        "share_of_parameters": trained,
        "near_two_thirds": abs(small - 2 / 3) < 0.02,
        "far_from_the_share_of_parameters": small > 100 * trained,
    }


def flops_one_matrix(width: int = 4096, rank: int = 8) -> Result:
    """FLOPs for one token of one matrix in the middle of a network: forward, back through it, its own gradient.

    In units of forward's. The adapter's part is 3 passes through A and B.
    """
    forward = through = own = 2 * width * width
    adapter = 3 * 2 * counting.lora_parameters(width, width, rank)
    lora = forward + through + adapter
    matrix = [counting.Matrix("w", width, width)]
    return {
        "full": (forward + through + own) / forward,
        "lora": lora / forward,
        "share": lora / (forward + through + own),
        "adapter": adapter / forward,
        "as_the_package": lora == flops.step(matrix, 1, how="lora", rank=rank),
        "a_third_goes": abs(1 - lora / (forward + through + own) - 1 / 3) < 0.01,
    }


def flops_of_brackets(out_features: int = 4096, in_features: int = 4096, rank: int = 8) -> Result:
    """Multiplications of B (A x) and of (B A) x for one x; the second forms a matrix of W's size first.

    By the formulas, and as torch counts the products, without memory for them.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    a, b, x = (
        torch.empty(shape, device="meta") for shape in ((rank, in_features), (out_features, rank), (in_features, 1))
    )
    counted = []
    for way in (lambda: b @ (a @ x), lambda: (b @ a) @ x):
        with FlopCounterMode(display=False) as counter:
            way()
        counted.append(counter.get_total_flops() // 2)  # it counts an addition with each multiplication
    apart = rank * in_features + out_features * rank
    formed = out_features * rank * in_features + out_features * in_features
    return {
        "apart": apart,
        "formed": formed,
        "times": formed / apart,
        "of_w": apart / (out_features * in_features),
        "torch_counts_the_same": counted == [apart, formed],
        "forming_costs_more_than_w": formed > out_features * in_features > apart,
    }


def backward_through_frozen(layers: int = 4, width: int = 32, rank: int = 4, factor: float = 2.0) -> Result:
    """A stack of frozen layers, an adapter on the first alone: its gradient comes through every later W.

    gradient_ratio: size of B's gradient where the last, frozen W is multiplied by `factor`, over what it was.
    """
    import torch
    from torch import nn

    from lora_lab.layers import LoraLinear

    torch.manual_seed(0)
    first = LoraLinear(nn.Linear(width, width, bias=False))
    first.add("default", rank, scaling=1.0)
    first.active = ["default"]
    later = [nn.Linear(width, width, bias=False) for _ in range(layers - 1)]
    for module in (first.base, *later):
        module.requires_grad_(False)
    a, b = first.matrices("default")
    x = torch.randn(16, width)

    def gradient_of_b(scale: float = 1.0) -> torch.Tensor:
        b.grad = None
        y = first(x)
        for module in later[:-1]:
            y = torch.tanh(module(y))
        (scale * later[-1](torch.tanh(y))).sum().backward()
        return b.grad.clone()

    plain, scaled = gradient_of_b(), gradient_of_b(factor)
    with torch.no_grad():
        y = first(x)
    return {
        "frozen_layers_above": len(later),
        "gradient_of_b": float(plain.norm()),
        "gradient_ratio": float(scaled.norm() / plain.norm()),
        "b_has_a_gradient": bool(plain.norm() > 0),
        "it_depends_on_the_last_weight": not torch.equal(scaled, plain),
        "no_frozen_weight_has_one": all(module.weight.grad is None for module in (first.base, *later)),
        "without_the_graph_there_is_none": not y.requires_grad,
    }


def flops_last_layers(layers: int = 32, adapted: int = 8, width: int = 64, rank: int = 1) -> Result:
    """FLOPs of a step, as torch counts them, with adapters on all layers of a stack, and on the last `adapted` alone.

    Over full fine-tuning's of the same stack, which needs no gradient of its input.
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from lora_lab.layers import LoraLinear

    def step(chosen: range | None) -> int:
        stack = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        if chosen is not None:
            stack.requires_grad_(False)
            for i in chosen:
                stack[i] = LoraLinear(stack[i])
                stack[i].add("default", rank, scaling=1.0)
                stack[i].active = ["default"]
        with FlopCounterMode(display=False) as counter:
            stack(torch.ones(8, width)).sum().backward()
        return counter.get_total_flops()

    full, everywhere, last = step(None), step(range(layers)), step(range(layers - adapted, layers))
    return {
        "everywhere": everywhere / full,
        "last": last / full,
        "by_hand": (2 * layers + 2 * (adapted - 1)) / (2 * (3 * layers - 1)),
        "last_is_cheaper": last < 0.75 * everywhere,
        "counted_is_near_the_sum_by_hand": 0 <= last / full - (layers + adapted - 1) / (3 * layers - 1) < 0.02,
    }


def time_is_not_flops(
    tokens: int = 2048, width: int = 4096, rank: int = 8, tflops: float = 989.0, terabytes: float = 3.35
) -> Result:
    """Least time of one layer's forward pass on a processor with that speed and memory: of W, and of the adapter.

    A roofline: each step takes the longer of computing and of moving its bytes (16-bit numbers, no cache). The adapter
    is A, B, times alpha / rank, plus y, one after the other. Defaults: NVIDIA's figures for an H100 SXM.
    """

    def seconds(operations: float, numbers: float) -> float:
        return max(operations / (tflops * 1e12), 2 * numbers / (terabytes * 1e12))

    t, d, r = tokens, width, rank
    base = seconds(2 * t * d * d, d * d + 2 * t * d)
    steps = [
        (2 * t * d * r, t * d + d * r + t * r),
        (2 * t * d * r, t * r + d * r + t * d),
        (t * d, 2 * t * d),
        (t * d, 3 * t * d),
    ]
    adapter = sum(seconds(*step) for step in steps)
    return {
        "more_flops": 2 * t * 2 * d * r / (2 * t * d * d),
        "more_time": adapter / base,
        "operations_per_byte_w": 2 * t * d * d / (2 * (d * d + 2 * t * d)),
        "operations_per_byte_a": steps[0][0] / (2 * steps[0][1]),
        "balance": tflops / terabytes,
        "the_adapter_waits_for_memory": steps[0][0] / (2 * steps[0][1]) < tflops / terabytes,
        "time_grows_more_than_flops": adapter / base > 10 * 2 * r / d,
    }
