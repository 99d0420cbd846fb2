"""Packed examples: nothing is lost, nothing leaks, and the loss is that of the same examples one by one."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import packing, scoring
from tests.families.small import CAUSAL, VOCABULARY, small

LONG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
# What each does that packing cannot bear.
DOES_NOT = {
    "bloom": ({"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "take no position_ids"),
    "mamba": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "take no position",
    ),
    "falcon": (
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        "sees the one before it",
    ),
}


def built(family, **config):
    torch.manual_seed(0)
    return large(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config)))


def large(model):
    """The model with weights so large that attention matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=generator)
    return model.eval()


def examples(count, longest, seed=0):
    """Rows of 2 to `longest` tokens, each learned from some place on."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        ids = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(2, longest))]
        read = rng.randint(0, len(ids) - 1)
        rows.append({"input_ids": ids, "labels": [-100] * read + ids[read:]})
    return rows


def loss_and_gradients(model, batches):
    """Sum of -log p over learned tokens, by the model's own logits, and its gradient in every parameter."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        labels = batch["labels"][:, 1:].flatten()
        read = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**read, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", CAUSAL)
def test_loss_and_gradients_are_those_of_the_examples_one_by_one(family):
    model, rows = large(small(family)), examples(12, 20)
    packing.check(model)
    packed = packing.pack(rows, 24)
    assert len(packed) < len(rows) * 2 / 3
    one_by_one, their_gradients = loss_and_gradients(model, [scoring.collate([row], 1) for row in rows])
    together, gradients = loss_and_gradients(model, [packing.collate(packed, 1)])
    learned = sum(label != -100 for row in rows for label in row["labels"][1:])
    assert learned == sum(label != -100 for row in packed for label in row["labels"])
    assert together / learned == pytest.approx(one_by_one / learned, abs=1e-5)
    for name, gradient in gradients.items():
        scale = their_gradients[name].abs().max()
        assert torch.allclose(gradient, their_gradients[name], atol=1e-5 * float(scale) + 1e-6), name


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_without_the_positions_it_would_be_another_loss(family):
    """What the test above would not see if attention or positions did not matter."""
    model, packed = large(small(family)), packing.pack(examples(12, 20), 24)
    batch = packing.collate(packed, 1)
    right, _ = loss_and_gradients(model, [batch])
    wrong, _ = loss_and_gradients(model, [{k: v for k, v in batch.items() if k != "position_ids"}])
    masked, _ = loss_and_gradients(model, [batch | {"attention_mask": torch.ones_like(batch["labels"])}])
    assert min(abs(wrong - right), abs(masked - right)) > 1e-3 * right


@pytest.mark.parametrize("family", DOES_NOT)
def test_a_model_that_mixes_examples_is_refused(family):
    config, why = DOES_NOT[family]
    with pytest.raises(ValueError, match=f"{family}.* {why}.*Train it without packing"):
        packing.check(built(family, **config))


def test_a_model_that_counts_positions_from_the_start_of_the_row_is_refused():
    model = small("gpt2")
    forward = model.transformer.wpe.forward
    model.transformer.wpe.forward = lambda positions: forward(torch.arange(positions.shape[-1])[None])
    with pytest.raises(ValueError, match="does not begin at its own position"):
        packing.check(model)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_model_in_bfloat16_may_pack(family):
    model = small(family).to(torch.bfloat16).train()
    packing.check(model)
    assert model.training


def naive(model, ids, window):
    """A Llama's or Mistral's logits for one sequence, attention token by token from its weights."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    body, heads = model.model, model.config.num_attention_heads
    x = body.embed_tokens(ids)[None]
    cos, sin = body.rotary_emb(x, torch.arange(len(ids))[None])
    for layer in body.layers:
        h, attention = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            p(h).view(1, len(ids), -1, 8).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v))
        read = torch.zeros_like(q)
        for i in range(len(ids)):
            first = 0 if window is None else max(0, i + 1 - window)
            weights = (q[:, :, i : i + 1] @ k[:, :, first : i + 1].transpose(2, 3) / 8**0.5).softmax(-1)
            read[:, :, i] = (weights @ v[:, :, first : i + 1])[:, :, 0]
        x = x + attention.o_proj(read.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(body.norm(x))[0]


@pytest.mark.parametrize(("family", "window"), [("llama", None), ("mistral", 100)])
def test_a_few_thousand_tokens_against_attention_by_hand(family, window):
    model = built(family, **LONG, **({} if window is None else {"sliding_window": window}))
    ids = torch.randint(2, VOCABULARY, (2500,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        logits = naive(model, torch.tensor(ids), window)
        other = naive(model, torch.tensor(ids), 99)
    targets = torch.tensor(ids[1:])
    expected = torch.nn.functional.cross_entropy(logits[:-1], targets).item()
    total, count = scoring.nats(model, [{"input_ids": ids, "labels": ids}], 1, 1)
    assert count == 2499 and total / count == pytest.approx(expected, abs=1e-5)
    assert abs(torch.nn.functional.cross_entropy(other[:-1], targets).item() - expected) > 1e-4
    # and the same as windows would be packed, beside a short one
    packed = packing.pack([{"input_ids": ids, "labels": ids}, {"input_ids": ids[:40], "labels": ids[:40]}], 2540)
    both, _ = loss_and_gradients(model, [packing.collate(packed, 1)])
    short, _ = scoring.nats(model, [{"input_ids": ids[:40], "labels": ids[:40]}], 1, 1)
    assert len(packed) == 1 and (both - short) / count == pytest.approx(expected, abs=1e-5)


sizes = st.lists(st.integers(1, 30), max_size=60)


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, length=st.integers(30, 70), seed=st.integers(0, 5))
def test_packing_keeps_every_example_whole(sizes, length, seed):
    rows = [
        {"input_ids": [100 * i + j for j in range(n)], "labels": [100 * i + j for j in range(n)]}
        for i, n in enumerate(sizes)
    ]
    packed = packing.pack(rows, length, seed)
    assert packed == packing.pack(rows, length, seed)
    found = []
    for row in packed:
        assert 0 < len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= length
        for token, label, position in zip(*(row[k] for k in ("input_ids", "labels", "position_ids")), strict=True):
            assert position == token % 100 and label == (-100 if position == 0 else token)
            found.append(token)
    assert sorted(found) == [token for row in rows for token in row["input_ids"]]
    fill = sorted(len(row["input_ids"]) for row in packed)
    assert all(a + b > length for a, b in zip(fill[:1], fill[1:2], strict=False))  # no two rows would fit into one


def test_order_is_drawn_from_the_seed():
    rows = examples(60, 20)
    first, again, other = (packing.pack(rows, 64, seed) for seed in (0, 0, 1))
    assert first == again != other
    lengths = [len(row["input_ids"]) for row in first]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_what_packing_saves_is_said():
    rows = examples(240, 40)
    packed = packing.pack(rows, 128)
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert packing.saved(rows, packed, 128) == (
        f"packed 240 examples into {len(packed)} rows: padding {100 * (1 - tokens / 240 / 128):.0f} % -> "
        f"{100 * (1 - tokens / len(packed) / 128):.0f} %"
    )
    assert 1 - tokens / len(packed) / 128 < 0.02


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a row of 9 tokens does not fit into 8: cut it first"):
        packing.pack([{"input_ids": [5] * 9, "labels": [5] * 9}], 8)
    assert packing.pack([], 8) == []


def test_a_batch_of_packed_rows():
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
    batch = packing.collate(packing.pack(rows, 5) + packing.pack(rows[1:], 5), 1, length=6)
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1], [8, 9, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100], [-100, 9, -100, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    assert packing.count_tokens(batch["position_ids"]) == 7
    assert packing.collate(packing.pack(rows, 5), 1)["input_ids"].shape == (1, 5)
