"""A language model as its matrices: from a Hugging Face config, without a weight or a library."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_lab.counting import Matrix

TABLE = Path(__file__).parent / "assets" / "models.json"
LAYER = "{}"  # stands in a path for the number of the layer


@dataclass(frozen=True)
class Shape:
    """A decoder in numbers.

    matrices: the linear layers inside the blocks, each with its count; embeddings: all other matrices, the output
    head among them unless it is tied to the token embedding; rest: parameters in no matrix, those of the norms.
    hidden: width of the residual stream; intermediate: of the MLP. Keys and values have kv_heads of the heads.
    block_norms: normalisations over the hidden width in a block; mlp_kept: activations of the MLP's width that its
    nonlinearity keeps for the backward pass, 3 where it multiplies two projections; qk_norm: queries and keys are
    normalised; soft_cap: scores and logits are bent by a tanh; parallel: attention and MLP read the same input, side
    by side.
    """

    matrices: tuple[Matrix, ...]
    embeddings: tuple[Matrix, ...]
    rest: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    block_norms: int = 2
    mlp_kept: int = 3
    qk_norm: bool = False
    soft_cap: bool = False
    parallel: bool = False

    @property
    def total(self) -> int:
        """All parameters; what is tied is counted once.

        >>> known("Llama-2-7B").total
        6738415616
        """
        return sum(m.parameters for m in (*self.matrices, *self.embeddings)) + self.rest


def known(name: str) -> Shape:
    """The shape of a model in the table: `names()` lists them. Raises ValueError with the nearest name for another.

    >>> known("Llama-3.1-8B").kv_heads
    8
    """
    return from_config(entry(name)["config"])


def names() -> list[str]:
    """Names in the table of known models, family by family."""
    return list(_table())


def entry(name: str) -> dict[str, Any]:
    """A row of the table: config, source, published (what the source states) and called (the name's own figure).

    Raises ValueError with the nearest name for one that is not there.
    """
    spelled = {known_name.lower(): known_name for known_name in names()}
    if name.lower() not in spelled:
        near = difflib.get_close_matches(name.lower().rpartition("/")[2], spelled, n=1, cutoff=0.5)
        hint = f"Did you mean {spelled[near[0]]}?" if near else f"Known are {', '.join(names())}."
        raise ValueError(f"no model {name!r} in the table. {hint}")
    return _table()[spelled[name.lower()]]


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def from_file(path: str | Path) -> Shape:
    """`from_config` of a config.json. Raises ValueError, or FileNotFoundError, with the file's name."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}; a model's config.json was expected") from None
    except ValueError as error:  # JSON or UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return from_config(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_config(config: Mapping[str, Any]) -> Shape:
    """The shape that transformers builds from a config.json; what the config leaves out takes transformers' default.

    >>> config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
    ...           "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "tie_word_embeddings": True}
    >>> from_config(config).total
    5770496

    Raises ValueError for a family that is not in FAMILIES and for a size that is missing or not a whole number.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a config is a JSON object, got {type(config).__name__}")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"model_type {kind!r} is not supported. Supported are {', '.join(FAMILIES)}.")
    return FAMILIES[kind](_Sizes(config))


class _Sizes:
    """Reads sizes from a config, and says which one is wrong."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def size(self, key: str, default: int | None = None, null: int | None = None) -> int:
        """`default` stands in for a key that is not there, `null` (or else the default) for one without a value."""
        value = self.config.get(key, default)
        if value is None:
            value = null or default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a whole number of at least 1, got {value!r}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.config.get(key, default))


def _llama(
    read: _Sizes,
    bias: str = "",
    fused: bool = False,
    block_norms: int = 2,
    tied: bool = False,
    qk_norm: bool = False,
    soft_cap: bool = False,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    reads: str = "",
) -> Shape:
    """Llama and its relatives. bias: names that have one whatever the config says; reads: flags for bias that count;
    fused: q, k, v are one matrix, and gate and up another."""
    h, m, layers, vocabulary = map(read.size, ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    heads = read.size("num_attention_heads")
    kv = read.size("num_key_value_heads", kv_heads or heads, null=heads)
    d = read.size("head_dim", head_dim or h // heads, null=h // heads)
    attention = {"q_proj": (heads * d, h), "k_proj": (kv * d, h), "v_proj": (kv * d, h), "o_proj": (h, heads * d)}
    mlp = {"gate_proj": (m, h), "up_proj": (m, h), "down_proj": (h, m)}
    if fused:
        attention = {"o_proj": (h, heads * d), "qkv_proj": ((heads + 2 * kv) * d, h)}
        mlp = {"gate_up_proj": (2 * m, h), "down_proj": (h, m)}
    where = {"self_attn": attention, "mlp": mlp}
    has_bias = {part: f"{part}_bias" in reads and read.flag(f"{part}_bias") for part in ("attention", "mlp")}
    biases = [*bias.split(), *(attention if has_bias["attention"] else ()), *(mlp if has_bias["mlp"] else ())]
    tokens = [Matrix("model.embed_tokens", vocabulary, h), Matrix("lm_head", vocabulary, h)]
    return Shape(
        matrices=tuple(
            Matrix(f"model.layers.{LAYER}.{part}.{name}", *size, count=layers, bias=name in biases)
            for part, linears in where.items()
            for name, size in linears.items()
        ),
        embeddings=tuple(tokens[: 1 if read.flag("tie_word_embeddings", tied) else 2]),
        rest=layers * (block_norms * h + 2 * d * qk_norm) + h,
        layers=layers,
        hidden=h,
        intermediate=m,
        heads=heads,
        kv_heads=kv,
        head_size=d,
        vocabulary=vocabulary,
        block_norms=block_norms,
        qk_norm=qk_norm,
        soft_cap=soft_cap,
    )


def _layer_normed(h: int, m: int, layers: int, heads: int, vocabulary: int) -> dict[str, int]:
    """What GPT-2 and GPT-NeoX share: LayerNorms, each with a weight and a bias, and a key head for every query head."""
    sizes = {"layers": layers, "hidden": h, "intermediate": m, "vocabulary": vocabulary}
    return sizes | {"heads": heads, "kv_heads": heads, "head_size": h // heads, "rest": (2 * layers + 1) * 2 * h}


def _gpt2(read: _Sizes) -> Shape:
    h, layers, vocabulary, heads = map(read.size, ("n_embd", "n_layer", "vocab_size", "n_head"))
    m = read.size("n_inner", 4 * h)
    linears = {"attn.c_attn": (3 * h, h), "attn.c_proj": (h, h), "mlp.c_fc": (m, h), "mlp.c_proj": (h, m)}
    ends = [("transformer.wte", vocabulary), ("transformer.wpe", read.size("n_positions", 1024))]
    if not read.flag("tie_word_embeddings", True):
        ends.append(("lm_head", vocabulary))
    return Shape(
        matrices=tuple(
            Matrix(f"transformer.h.{LAYER}.{name}", *size, count=layers, bias=True) for name, size in linears.items()
        ),
        embeddings=tuple(Matrix(path, rows, h) for path, rows in ends),
        **_layer_normed(h, m, layers, heads, vocabulary),
        mlp_kept=4,  # gelu_new, written out: x, x / 2, the tanh and 1 + tanh
    )


def _gpt_neox(read: _Sizes) -> Shape:
    h, layers, vocabulary, heads, m = map(
        read.size, ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "intermediate_size")
    )
    attention_bias = read.flag("attention_bias", True)
    linears = {
        "attention.query_key_value": (3 * h, h, attention_bias),
        "attention.dense": (h, h, attention_bias),
        "mlp.dense_h_to_4h": (m, h, True),
        "mlp.dense_4h_to_h": (h, m, True),
    }
    ends = ["gpt_neox.embed_in"] if read.flag("tie_word_embeddings") else ["gpt_neox.embed_in", "lm_head"]
    return Shape(
        matrices=tuple(
            Matrix(f"gpt_neox.layers.{LAYER}.{name}", out, into, count=layers, bias=bias)
            for name, (out, into, bias) in linears.items()
        ),
        embeddings=tuple(Matrix(path, vocabulary, h) for path in ends),
        **_layer_normed(h, m, layers, heads, vocabulary),
        mlp_kept=1,  # gelu as one operation: x
        parallel=read.flag("use_parallel_residual", True),
    )


_GEMMA = functools.partial(_llama, reads="attention_bias", block_norms=4, tied=True, head_dim=256, kv_heads=4)

# What each family's own code in transformers adds to, or assumes beside, its config.
FAMILIES: dict[str, Callable[[_Sizes], Shape]] = {
    "gpt2": _gpt2,
    "llama": functools.partial(_llama, reads="attention_bias mlp_bias"),
    "mistral": functools.partial(_llama, kv_heads=8),
    "qwen2": functools.partial(_llama, bias="q_proj k_proj v_proj", kv_heads=32),
    "qwen3": functools.partial(_llama, reads="attention_bias", qk_norm=True, head_dim=128, kv_heads=32),
    "gemma2": functools.partial(_GEMMA, soft_cap=True),
    "gemma3_text": functools.partial(_GEMMA, qk_norm=True),
    "gpt_neox": _gpt_neox,
    "phi3": functools.partial(_llama, fused=True),
}
