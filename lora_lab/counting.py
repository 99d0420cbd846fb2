"""Parameters and bytes of LoRA, as exact arithmetic: no torch, nothing measured, every number can be redone by hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


def check_rank(rank: int) -> int:
    """Return `rank` if it is an int of at least 1; raise ValueError naming the value if not."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"rank must be a whole number such as 8, got {rank!r}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return rank


def lora_parameters(out_features: int, in_features: int, rank: int) -> int:
    """Trainable parameters of one adapter: A is [rank, in], B is [out, rank].

    >>> lora_parameters(4096, 4096, rank=8)
    65536

    Raises ValueError if rank < 1. Source: Hu et al. 2021, section 4.1.
    """
    return check_rank(rank) * (in_features + out_features)


def break_even_rank(out_features: int, in_features: int) -> int:
    """The largest rank at which an adapter is still no larger than the matrix [out, in] that it corrects.

    >>> break_even_rank(4096, 4096)
    2048
    >>> lora_parameters(4096, 4096, 2048) == 4096 * 4096
    True
    """
    return out_features * in_features // (out_features + in_features)


@dataclass(frozen=True)
class Decoder:
    """A decoder of Llama's kind in numbers: what its memory depends on."""

    parameters: int  # all of them, a tied embedding counted once
    layers: int
    hidden: int  # width of the residual stream
    intermediate: int  # width inside the MLP
    heads: int
    head_size: int
    vocabulary: int


# Which modules read the same input, by the names that model families give them. Autograd keeps an input for the
# gradient of a weight, so a frozen linear keeps none, and q, k and v share theirs.
READS_HIDDEN = (
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query", "key", "value", "query_key_value"},
    {"gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "dense_h_to_4h"},
)
READS_INTERMEDIATE = {"down_proj", "fc2", "dense_4h_to_h"}


def memory(
    model: Decoder,
    trainable: int,
    rows: int,
    length: int,
    rank: int = 0,
    targets: Collection[str] | None = None,
    weight_bytes: int = 4,
    activation_bytes: int = 4,
    checkpointing: bool = False,
) -> dict[str, int]:
    """Bytes that training needs at its peak, by bucket; their sum is the prediction.

    A step on `rows` sequences of `length` tokens with AdamW, through fused attention. `targets` are the last names
    of the modules with an adapter of rank `rank`; None is full fine-tuning. Buckets:
    weights      all parameters at `weight_bytes`, trainable ones (an adapter) in float32
    gradients    one float32 for each trainable parameter
    optimizer    two: Adam's running mean and square (Kingma and Ba 2015)
    activations  what autograd keeps of the forward pass, in each layer and for each token
    logits       [rows, length, vocabulary] in float32 three times over: the log-probabilities, their gradient, and
                 the logits' gradient, at the moment in which the backward pass begins

    A 6-layer model of 256, 16 x 128 tokens, rank 8 on every linear:

    >>> tiny = Decoder(5_770_496, 6, 256, 768, 8, 32, 4096)
    >>> every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    >>> {bucket: round(n / 1e6) for bucket, n in memory(tiny, 233_472, 16, 128, 8, every).items()}
    {'weights': 24, 'gradients': 1, 'optimizer': 2, 'activations': 261, 'logits': 101}
    """
    full = targets is None
    names = set() if targets is None else set(targets)
    frozen = model.parameters if not full else 0
    h, m, attention = model.hidden, model.intermediate, model.heads * model.head_size
    # Per token and layer: the residual stream before each of the two norms; q, k, v and the output of attention,
    # all at full heads (grouped keys and values are repeated); its log-sum-exp; the mask's row; the norms' factors;
    # in the MLP gate, silu(gate) and up.
    kept = 2 * h + 4 * attention + model.heads + length + 2 + 3 * m
    if full:
        kept += 4 * h + m  # each norm's output before and after its weight, and the input of down_proj
    else:
        kept += h * sum(bool(names & group) for group in READS_HIDDEN) + m * bool(names & READS_INTERMEDIATE)
        kept += rank * len(names)
    tokens = rows * length
    layers = model.layers * kept
    if checkpointing:  # each layer keeps its input alone; one layer at a time is computed again
        layers = model.layers * h + kept
    return {
        "weights": frozen * weight_bytes + trainable * 4,
        "gradients": trainable * 4,
        "optimizer": trainable * 8,
        "activations": tokens * layers * activation_bytes,
        "logits": 3 * tokens * model.vocabulary * 4,
    }
