"""A llama2.c checkpoint and its tokenizer as a Hugging Face folder, so that a model others trained can be used.

Formats: `export.py` (version 0) and `tokenizer.py` of karpathy/llama2.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def convert(model_file: Path, tokenizer_file: Path, folder: Path) -> None:
    """Write the model and its tokenizer to `folder`."""
    read_model(model_file).save_pretrained(folder)
    read_tokenizer(tokenizer_file).save_pretrained(folder)


@dataclass
class Checkpoint:
    """The numbers of a llama2.c file, in its own layout."""

    heads: int
    kv_heads: int
    embedding: np.ndarray  # [vocabulary, width]
    layers: dict[str, np.ndarray]  # name: [layers, ...]
    norm: np.ndarray  # [width]
    cosines: np.ndarray  # [context, head size / 2]
    sines: np.ndarray


def read_checkpoint(file: Path) -> Checkpoint:
    raw = file.read_bytes()
    width, inner, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", raw[:28])
    assert vocabulary > 0, "a negative size would mean an output matrix of its own"
    numbers, place = np.frombuffer(raw, dtype=np.float32, offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return numbers[place - count : place].reshape(shape)

    kv, pairs = width // heads * kv_heads, width // heads // 2
    checkpoint = Checkpoint(
        heads,
        kv_heads,
        embedding=take(vocabulary, width),
        layers={
            "input_layernorm": take(layers, width),
            "self_attn.q_proj": take(layers, width, width),
            "self_attn.k_proj": take(layers, kv, width),
            "self_attn.v_proj": take(layers, kv, width),
            "self_attn.o_proj": take(layers, width, width),
            "post_attention_layernorm": take(layers, width),
            "mlp.gate_proj": take(layers, inner, width),
            "mlp.down_proj": take(layers, width, inner),
            "mlp.up_proj": take(layers, inner, width),
        },
        norm=take(width),
        cosines=take(context, pairs),
        sines=take(context, pairs),
    )
    assert place == len(numbers), f"{len(numbers) - place} numbers are left over"
    return checkpoint


def logits_by_numpy(c: Checkpoint, tokens: list[int]) -> np.ndarray:
    """The forward pass of llama2.c's `run.c`, written from it: rotary pairs lie side by side. [tokens, vocabulary]"""
    count, head = len(tokens), c.embedding.shape[1] // c.heads
    cosines, sines = c.cosines[:count, None], c.sines[:count, None]
    later = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def turn(x: np.ndarray) -> np.ndarray:
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cosines - odd * sines, even * sines + odd * cosines], -1).reshape(x.shape)

    x = c.embedding[tokens].astype(np.float64)
    for layer in range(len(c.layers["input_layernorm"])):
        w = {name.split(".")[-1]: stack[layer] for name, stack in c.layers.items()}
        y = norm(x, w["input_layernorm"])
        q, k, v = ((y @ w[n].T).reshape(count, -1, head) for n in ("q_proj", "k_proj", "v_proj"))
        k, v = (np.repeat(z, c.heads // c.kv_heads, axis=1) for z in (turn(k), v))
        scores = np.einsum("qhd,khd->hqk", turn(q), k) / np.sqrt(head) + later
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1) @ w["o_proj"].T
        y = norm(x, w["post_attention_layernorm"])
        gate = y @ w["gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up_proj"].T)) @ w["down_proj"].T
    return norm(x, c.norm) @ c.embedding.T


def read_model(file: Path) -> LlamaForCausalLM:
    c = read_checkpoint(file)
    vocabulary, width = c.embedding.shape
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=c.layers["mlp.up_proj"].shape[1],
            num_hidden_layers=len(c.layers["mlp.up_proj"]),
            num_attention_heads=c.heads,
            num_key_value_heads=c.kv_heads,
            max_position_embeddings=len(c.cosines),
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    state = {
        f"model.layers.{layer}.{name}.weight": torch.tensor(weight)
        for name, stack in c.layers.items()
        for layer, weight in enumerate(stack)
    }
    for name in state:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            state[name] = halves(state[name], width // c.heads)
    embedding = torch.tensor(c.embedding)
    state |= {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding,
        "model.norm.weight": torch.tensor(c.norm),
    }
    model.load_state_dict(state)
    return model


def halves(weight: torch.Tensor, head: int) -> torch.Tensor:
    """Rows of each head from pairs (0, 1), (2, 3), ... to a first and a second half: the two rotary layouts."""
    return weight.view(-1, head // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: of all neighbours that make a token, the pair whose token scores highest is joined first."""
    raw, place, pieces, scores = file.read_bytes(), 4, [], []
    while place < len(raw):
        score, length = struct.unpack("fi", raw[place : place + 8])
        piece = raw[place + 8 : place + 8 + length].decode("utf-8")
        place += 8 + length
        pieces.append({"\n<s>\n": "<s>", "\n</s>\n": "</s>"}.get(piece, piece))
        scores.append(score)
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (-scores[i], left, right)
        for piece, i in ids.items()
        if i >= 3 + 256  # after unknown, start, end and the bytes
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    merges.sort(key=lambda m: m[0])
    tokenizer = Tokenizer(
        BPE(ids, [(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
