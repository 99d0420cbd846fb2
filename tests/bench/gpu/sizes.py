"""How large everything is: real, or tiny so that a CPU runs every line of it in a minute."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """rows x length: tokens of a step. steps: of a comparison of losses, of which the first `warm_up` are not timed.

    compute: the dtype of the frozen weights; autocast: trained as the Trainer does with bf16=True. tokens, ranks: of
    the single matrix products. repeats: how often one of these is timed.
    """

    tiny: bool
    models: tuple[str, ...]
    rows: int
    length: int
    steps: int
    warm_up: int
    short_steps: int
    compute: str
    ranks: tuple[int, ...]
    tokens: tuple[int, ...]
    context: int
    batches: tuple[int, ...]
    repeats: int
    copy: int
    chunk: int
    pretrain_tokens: float
    sweep_seconds: float
    backend: str
    pace: float  # how many of the seconds a row is said to take it takes here


REAL = Sizes(
    tiny=False,
    models=("Llama-2-7B", "Llama-3.1-8B"),
    rows=2,
    length=2048,
    steps=20,
    warm_up=5,
    short_steps=9,
    compute="bfloat16",
    ranks=(1, 4, 16, 64, 256),
    tokens=(1, 16, 64, 512, 4096, 16384),
    context=128,
    batches=(1, 64),
    repeats=30,
    copy=2**30,
    chunk=1024,
    pretrain_tokens=120e6,
    sweep_seconds=3600.0,
    backend="inductor",
    pace=1.0,
)
TINY = replace(
    REAL,
    tiny=True,
    length=24,
    steps=4,
    warm_up=1,
    short_steps=3,
    ranks=(1, 4),
    tokens=(1, 16),
    context=4,
    batches=(1, 3),
    repeats=3,
    copy=2**16,
    chunk=16,
    pretrain_tokens=8192,
    sweep_seconds=1.0,
    backend="eager",
    pace=0.05,
)

# What a tiny model keeps of the real one's config: its family, its proportions and its grouped keys.
SHRINK = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}


def shrunk(config: dict) -> dict:
    """A model's config with few and narrow layers; as many query heads for a key head as before."""
    heads, keys = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    return (
        {k: v for k, v in config.items() if k not in ("head_dim", "rope_scaling")}
        | SHRINK
        | {"num_key_value_heads": max(1, SHRINK["num_attention_heads"] * keys // heads)}
    )
