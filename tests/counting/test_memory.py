"""Memory by bucket: bytes per parameter as published, activations against what autograd keeps, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import chunked_loss, counting, fused, models, shapes
from lora_lab.counting import Matrix
from lora_lab.memory import BUCKETS, NF4_BITS, WAYS, memory
from lora_lab.quantise import quantise_linears
from tests.counting.oracles import LivePeak, kept_by_autograd, with_adapter

BASE = shapes.from_file(models.BASE / "config.json")
BATCHES = [(1, 16, False), (8, 64, False), (8, 128, True), (2, 512, False)]
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 500,
    "pad_token_id": 0,
}
GPT2 = {"model_type": "gpt2", "n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 500, "bos_token_id": 1}
GPT2 |= {"eos_token_id": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def checkpoint_blocks(model) -> None:
    """By the name that this transformers has: 5.17 knows only the older one."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def forward(model: torch.nn.Module, shape: shapes.Shape, rows: int, length: int, padded: bool):
    """The forward pass to be measured: through the blocks and the head, without a loss."""
    tokens = torch.randint(1, shape.vocabulary, (rows, length))
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    return lambda: model(input_ids=tokens, attention_mask=mask if padded else None, use_cache=False).logits


def base_model(how: str, targets="all-linear", dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    model = models.load_model("base", "cpu").train()
    return with_adapter(model, 8, targets, dropout) if how == "lora" else model.requires_grad_(True)


@pytest.mark.parametrize(("rows", "length", "padded"), BATCHES)
@pytest.mark.parametrize(
    ("how", "targets", "dropout"),
    [
        ("full", "all-linear", 0.0),
        ("lora", "all-linear", 0.0),
        ("lora", "all-linear", 0.1),
        ("lora", ["q_proj", "v_proj"], 0.0),
        ("lora", ["q_proj", "v_proj"], 0.1),
        ("lora", ["o_proj"], 0.0),
        ("lora", ["down_proj"], 0.0),
    ],
)
def test_activations_of_the_base_model_are_what_autograd_keeps(how, targets, dropout, rows, length, padded):
    model = base_model(how, targets, dropout)
    kept = kept_by_autograd(model, forward(model, BASE, rows, length, padded))
    expected = memory(BASE, f"{how}-float32", rows, length, 8, targets, dropout=dropout, padded=padded)
    assert expected["activations"] == pytest.approx(kept, rel=0.005)  # the rotary angles, kept once, are not counted


@pytest.mark.parametrize(("rows", "length", "padded"), BATCHES)
@pytest.mark.parametrize("how", ["full", "lora"])
def test_activations_with_checkpointing(how, rows, length, padded):
    """What the forward pass keeps, and one block's own, which are there again while it is worked through."""
    model = base_model(how)
    block = model.model.layers[-1]
    inside = []

    def measured(hidden, **more):
        inside.append(kept_by_autograd(block, lambda: original(hidden, **more)))
        return original(hidden, **more)

    original, block.forward = block.forward, measured
    forward(model, BASE, rows, length, padded)()
    block.forward = original
    checkpoint_blocks(model)
    model.enable_input_require_grads() if how == "lora" else None
    kept = kept_by_autograd(model, forward(model, BASE, rows, length, padded))
    cost = memory(BASE, f"{how}-float32", rows, length, 8, padded=padded, checkpointing=True)
    gradients = 2 * 4 * rows * length * BASE.intermediate
    assert cost["activations"] + cost["logits"] == pytest.approx(
        kept + max(cost["logits"], inside[0] + gradients), rel=0.01
    )
    assert cost["activations"] < memory(BASE, f"{how}-float32", rows, length, 8, padded=padded)["activations"] / 3


@pytest.mark.parametrize(("large", "loss_chunk"), [("vocabulary", None), ("vocabulary", 64), ("blocks", 64)])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("how", ["lora-float32", "qlora-float32", "lora", "lora-fused", "qlora-bf16"])
def test_the_peak_of_a_step_is_what_was_there_at_once(how, checkpointing, loss_chunk, large):
    """A whole forward and backward pass, every tensor watched: either the logits or a block decides the peak."""
    sizes = SMALL | ({"vocab_size": 8000} if large == "vocabulary" else {"num_hidden_layers": 8})
    shape, half = shapes.from_config(sizes | {"model_type": "llama"}), not how.endswith("float32")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), attn_implementation="sdpa").train()
    model = model.bfloat16() if half else model
    if how.startswith("qlora"):
        quantise_linears(model)
    with_adapter(model, 8, "all-linear")
    fused.fuse(model, how in ("lora-fused", "qlora-bf16"))
    if checkpointing:
        checkpoint_blocks(model)
        model.enable_input_require_grads()
    tokens = torch.randint(1, 500, (4, 128))
    with chunked_loss.installed(model, loss_chunk), LivePeak() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    cost = memory(shape, how, 4, 128, 8, checkpointing=checkpointing, loss_chunk=loss_chunk)
    assert cost["activations"] + cost["logits"] == pytest.approx(live.peak, rel=0.05)


@pytest.mark.parametrize(("rows", "length"), [(1, 16), (4, 128)])  # the gradients decide the peak, the activations do
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("how", ["full-float32", "full-autocast"])
def test_in_full_the_gradients_come_as_the_activations_go(how, checkpointing, rows, length):
    """A first pass and, with its gradients still there, a second; autocast's copies live as long as a forward pass."""
    sizes = SMALL | {"num_hidden_layers": 8}
    shape = shapes.from_config(sizes | {"model_type": "llama"})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), attn_implementation="sdpa").train()
    if checkpointing:
        checkpoint_blocks(model)
    tokens = torch.randint(1, 500, (rows, length))
    with LivePeak() as live:
        for again in (False, True):
            live.peak = live.now
            with torch.autocast("cpu", torch.bfloat16, enabled=how == "full-autocast"):
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            cost = memory(shape, how, rows, length, checkpointing=checkpointing, gradients_kept=again)
            beyond = sum(cost.values()) - 4 * shape.total - cost["optimizer"]
            assert beyond == pytest.approx(live.peak, rel=0.07), again
            del loss


def test_what_a_7b_model_needs_on_one_card():
    """Predictions, of 2 x 2048 tokens at rank 8 on queries and values: a 24 GB card, a 12 GB card in four bits."""
    llama, batch = shapes.known("Llama-2-7B"), (2, 2048, 8, "q_proj,v_proj")
    for chunk in (None, 1024):
        assert sum(memory(llama, "lora", *batch, checkpointing=True, loss_chunk=chunk).values()) < 24e9
        assert sum(memory(llama, "lora-fused", *batch, checkpointing=True, loss_chunk=chunk).values()) < 24e9
        assert sum(memory(llama, "qlora-bf16", *batch, checkpointing=True, loss_chunk=chunk).values()) < 12e9
    assert sum(memory(llama, "lora", *batch).values()) > 24e9
    assert sum(memory(llama, "full-bf16", *batch, checkpointing=True).values()) > 48e9


def test_a_chunk_bounds_the_logits_whatever_the_batch():
    for rows, length in ((1, 16), (8, 64), (64, 512)):
        cost = memory(BASE, "lora", rows, length, loss_chunk=256)
        assert (
            cost["logits"] == min(256, rows * length) * BASE.vocabulary * (2 + 4 + 4) + 4 * rows * length * BASE.hidden
        )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("how", ["full-float32", "lora-float32", "full-autocast", "lora"])
@pytest.mark.parametrize("kind", shapes.FAMILIES)
def test_activations_of_other_families(kind, how, padded):
    """Small models of each family, in float32 and as on a GPU: autocast to bfloat16, for LoRA over a bfloat16 base."""
    config = GPT2 if kind == "gpt2" else SMALL | {"model_type": kind, "eos_token_id": 1}
    shape, half = shapes.from_config(config), not how.endswith("float32")
    attention = "eager" if kind == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation=attention).train()
    if how == "lora":
        model = model.bfloat16()
    if how.startswith("lora"):
        model = with_adapter(model, 8, "all-linear")
    run = forward(model, shape, 4, 64, padded)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        kept = kept_by_autograd(model, run)
    expected = memory(shape, how, 4, 64, 8, padded=padded)
    counted = expected["activations"]
    if how == "full-autocast":
        counted += 2 * shape.total  # the weights' copies in bfloat16, which stand under weights
    if shape.soft_cap:
        counted += 4 * 64 * shape.vocabulary * (2 if half else 4)  # the tanh, which stands under logits
    assert counted == pytest.approx(kept, rel=0.07 if half else 0.005)


@pytest.mark.parametrize(
    ("how", "per_parameter"), [("full", 16), ("full-18", 18), ("full-bf16", 8), ("full-float32", 16)]
)
def test_bytes_per_parameter_of_full_fine_tuning(how, per_parameter):
    llama = shapes.known("Llama-2-7B")
    cost = memory(llama, how)
    assert tuple(cost) == BUCKETS
    assert cost["weights"] + cost["gradients"] + cost["optimizer"] == per_parameter * llama.total


def test_states_of_lora_and_qlora_in_gigabytes():
    """As computed by hand from the papers' bytes: weights, gradients and optimizer, without activations."""

    def states(name, how, rank, targets):
        cost = memory(shapes.known(name), how, rank=rank, targets=targets)
        return round((cost["weights"] + cost["gradients"] + cost["optimizer"]) / 1e9, 2)

    assert states("Llama-2-7B", "lora", 8, "q_proj,v_proj") == 13.54
    assert states("Llama-2-7B", "lora", 16, "all-linear") == 14.12
    assert states("Llama-3.1-8B", "lora", 16, "all-linear") == 16.73
    assert states("Llama-2-7B", "qlora", 16, "all-linear") == 5.03
    assert states("Llama-3.1-8B", "qlora", 16, "all-linear") == 8.48
    assert round(NF4_BITS, 3) == 4.127


def test_a_rank_raises_only_what_depends_on_it():
    small, large = (memory(BASE, "lora", 2, 64, rank) for rank in (8, 16))
    assert large["logits"] == small["logits"]
    for bucket, each in (("gradients", 4), ("optimizer", 8), ("weights", 4)):
        assert large[bucket] - small[bucket] == each * counting.lora(BASE, 8)
    assert large["activations"] > small["activations"]


def test_dropout_and_a_mask_cost_activations():
    plain = memory(BASE, "lora", 4, 128)
    for option in ({"dropout": 0.1}, {"padded": True}):
        more = memory(BASE, "lora", 4, 128, **option)
        assert more["activations"] > plain["activations"]
        assert {b: more[b] for b in BUCKETS if b != "activations"} == {
            b: plain[b] for b in BUCKETS if b != "activations"
        }


def test_matrices_alone():
    layer = torch.nn.Sequential(torch.nn.Linear(96, 64, bias=False))
    inputs = torch.zeros(5, 96, requires_grad=True)
    matrix = [Matrix("0", 64, 96)]
    expected = memory(matrix, "full-float32", 1, 5)
    assert expected["activations"] == kept_by_autograd(layer, lambda: layer(inputs)) == 4 * 5 * 96
    assert expected["weights"] == 4 * 64 * 96 and expected["logits"] == 0
    with_adapter(layer, 4, ["0"])
    assert memory(matrix, "lora-float32", 1, 5, 4)["activations"] == kept_by_autograd(layer, lambda: layer(inputs))


def test_an_unknown_way_names_all():
    with pytest.raises(ValueError, match=f"how must be one of {', '.join(WAYS)}, got 'half'"):
        memory(BASE, "half")
