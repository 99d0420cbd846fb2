"""A model, loaded or not, as the shape that `memory` predicts from, and what a fine-tune of it will take."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from lora_lab import counting, flops, shapes
from lora_lab.adapters import adapter_parameters, count_parameters
from lora_lab.layers import is_conv1d
from lora_lab.matching import linear_paths, original_modules
from lora_lab.memory import memory
from lora_lab.quantise import numbers_stored


def decoder(model) -> shapes.Shape:
    """A model, loaded or on the meta device, in the numbers that its memory depends on; adapters are not counted.

    One of a family that `shapes` does not know is taken for a relative of Llama or GPT-2, with its own linear layers.
    """
    config, total = model.config, count_parameters(model).base + numbers_stored(model)
    if config.model_type in shapes.FAMILIES and (known := shapes.from_config(config.to_dict())).total == total:
        return known
    config = config.get_text_config(decoder=True)
    modules, linear = dict(original_modules(model)), Counter()
    for path in linear_paths(model):
        m = modules[path]  # not the weight of a quantised one, which would be computed for its shape
        out, into = m.weight.shape[::-1] if is_conv1d(m) else (m.out_features, m.in_features)
        linear[re.sub(r"\.\d+\.", ".{}.", path, count=1), out, into] += 1
    matrices = tuple(counting.Matrix(*size, count=count) for size, count in linear.items())
    width, heads = config.hidden_size, getattr(config, "num_attention_heads", None) or 1  # Mamba has none
    # What the MLP keeps; a ReLU only what it puts out, which the layer after it keeps too.
    bends = {"relu": 0, "gelu_new": 4}.get(getattr(config, "activation_function", ""), 1)
    return shapes.Shape(
        matrices=matrices,
        embeddings=(),
        rest=total - sum(m.parameters for m in matrices),
        layers=config.num_hidden_layers,
        hidden=width,
        intermediate=next((m.in_features for m in matrices if flops.role(m) == "down"), 4 * width),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=vars(config).get("head_dim") or width // heads,  # Gemma 4's differs by layer: asking raises
        vocabulary=config.vocab_size,
        mlp_kept=3 if any(flops.role(m).startswith("gate") for m in matrices) else bends,
    )


def needs_mask(model, length: int) -> bool:
    """Whether attention gets a mask even where nothing is padded: a sequence longer than the model's sliding window."""
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    return window is not None and length > window


def way_of(method: str, gpu: bool, fused: bool = True, quantised: bool = False) -> str:
    """How `finetune` holds its numbers with this method, as a key of `memory.WAYS`."""
    if method == "full" or not gpu:
        return "full-autocast" if gpu else f"{'q' * quantised}{method}-float32"
    return "qlora-bf16" if quantised else "lora-fused" if fused else "lora"


def predicted_memory(model, settings: dict[str, Any], length: int) -> dict[str, int]:
    """`memory.memory` for a loaded model whose longest training example has `length` tokens."""
    shape = decoder(model)
    adapted = {path.rsplit(".", 2)[-2] for path in adapter_parameters(model)} if settings["method"] == "lora" else set()
    fused = bool(settings.get("fused")) and not settings["dropout"]
    packed = settings.get("packing", False)
    return memory(
        shape,
        way_of(settings["method"], model.device.type == "cuda", fused, bool(settings.get("quantise"))),
        rows=settings["batch_size"],
        length=length,
        rank=settings["rank"],
        targets=sorted(adapted & {m.name for m in shape.matrices}),
        dropout=settings["dropout"],
        padded=settings["batch_size"] > 1 or packed or needs_mask(model, length),
        checkpointing=settings["checkpointing"],
        loss_chunk=settings.get("loss_chunk"),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
