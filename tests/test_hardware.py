"""Predictions for real cards: from data sheets and shapes alone, and in agreement with what flops and memory say."""

from __future__ import annotations

import json

import pytest

from lora_lab import flops, memory, shapes
from lora_lab.hardware import cards, cost, roofline
from lora_lab.hardware.cards import Card

LLAMA = shapes.known("Llama-2-7B")
H100 = cards.card("H100 SXM")
# Operations that take a second for 100 of them, bytes for 10: a ridge of 10 that one can compute with by hand.
SLOW = Card("slow", memory=1e9, bandwidth=10, flops=100)


def everything(operations) -> float:
    return sum(operation.flops * operation.count for operation in operations)


# --- cards ------------------------------------------------------------------------------------------------------------


def test_every_card_has_a_source_and_the_sparse_figures_are_halved():
    rows = json.loads(cards.TABLE.read_text(encoding="utf-8"))
    assert list(cards.every()) == list(rows) and len(rows) >= 10
    for name, row in rows.items():
        one = cards.card(name)
        assert one.flops == 1e12 * row["sheet_tflops"] * (0.5 if row["sparse"] else 1) and one.halved == row["sparse"]
        assert "data sheet" in one.source or "whitepaper" in one.source
    assert [c.memory for c in cards.every().values()] == sorted(c.memory for c in cards.every().values())


def test_what_the_sheets_say_of_four_cards():
    """Dense 16-bit TFLOP/s, GB/s and GB, written out once more by hand."""
    said = {"T4": (65, 320, 16), "A100 80 GB": (312, 2039, 80), "H100 SXM": (989.5, 3350, 80), "L4": (121, 300, 24)}
    for name, (tflops, speed, size) in said.items():
        one = cards.card(name)
        assert (one.flops / 1e12, one.bandwidth / 1e9, one.memory / 1e9) == (tflops, speed, size)
    assert not cards.card("T4").bfloat16 and H100.bfloat16


def test_a_card_that_is_not_there_is_said_with_the_nearest():
    with pytest.raises(ValueError, match="no card 'H100' in the table. Did you mean 'H200'"):
        cards.card("H100")


# --- roofline ---------------------------------------------------------------------------------------------------------


def test_an_operation_takes_the_longer_of_computing_and_moving():
    computes, moves = roofline.Operation("loss", 400, 10), roofline.Operation("loss", 50, 20, count=3)
    assert computes.seconds(SLOW) == 4 and not computes.waits(SLOW)
    assert moves.seconds(SLOW) == 6 and moves.waits(SLOW)
    assert roofline.seconds([computes, moves], SLOW) == {"loss": 10}


@pytest.mark.parametrize("model", shapes.names())
@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize("length", [64, 2048])
def test_the_operations_are_those_that_flops_counts(model, how, length):
    shape = shapes.known(model)
    targets = [shape.matrices[0].name if "attn.c" not in shape.matrices[0].path else "attn.c_attn"]
    for chosen in ("all-linear", targets):
        found = roofline.step(shape, how, length, 3, 8, chosen)
        assert everything(found) == pytest.approx(flops.step(shape, length, 3, how, 8, chosen), rel=1e-12)


def test_what_the_switches_add_and_take():
    plain = roofline.seconds(roofline.step(LLAMA, "lora", 2048), H100)
    again = roofline.seconds(roofline.step(LLAMA, "lora", 2048, checkpointing=True), H100)
    assert again["base matmuls"] > plain["base matmuls"] and again["optimizer"] == plain["optimizer"]
    in_blocks = 2 * 2048 * sum(m.count * m.out_features * m.in_features for m in LLAMA.matrices)
    in_attention = 4 * 2048**2 * LLAMA.hidden * LLAMA.layers
    more = everything(roofline.step(LLAMA, "lora", 2048, checkpointing=True)) - everything(
        roofline.step(LLAMA, "lora", 2048)
    )
    adapters = 2 * 2048 * sum(m.count * 16 * (m.out_features + m.in_features) for m in LLAMA.matrices)
    assert more == pytest.approx(in_blocks + in_attention + adapters)  # one more forward pass through the blocks
    compiled = roofline.seconds(roofline.step(LLAMA, "lora", 2048, compiled=True), H100)
    assert compiled["elementwise"] < plain["elementwise"] / 2 and compiled["base matmuls"] == plain["base matmuls"]
    fused = roofline.seconds(roofline.step(LLAMA, "lora", 2048, fused=True), H100)
    assert fused.pop("adapter passes") < compiled["adapter passes"] / 2 < plain.pop("adapter passes") / 4
    assert fused == plain
    plain = roofline.seconds(roofline.step(LLAMA, "lora", 2048), H100)
    quantised = roofline.seconds(roofline.step(LLAMA, "qlora", 2048), H100)
    assert quantised.pop("unpacking") > 0 and quantised == plain
    assert "unpacking" not in plain and "adapter passes" not in roofline.seconds(roofline.step(LLAMA, "full", 64), H100)


def test_the_optimizer_reads_and_writes_what_trains():
    (in_full,) = [o for o in roofline.step(LLAMA, "full", 64) if o.part == "optimizer"]
    (by_lora,) = [o for o in roofline.step(LLAMA, "lora", 64, rank=8, targets="q_proj,v_proj") if o.part == "optimizer"]
    assert in_full.bytes == 28 * 6_738_415_616 and by_lora.bytes == 28 * 4_194_304


def test_unknown_methods_and_ranks_are_refused():
    with pytest.raises(ValueError, match="method must be one of full, lora, qlora, got 'LoRA'"):
        roofline.step(LLAMA, "LoRA", 64)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        roofline.step(LLAMA, "lora", 64, rank=0)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_speed_is_the_share_of_the_peak_over_the_work_of_a_token():
    in_full, by_lora = (cost.tokens_per_second(LLAMA, H100, how, mfu=0.5, length=512) for how in ("full", "lora"))
    assert in_full == pytest.approx(0.5 * 989.5e12 / (flops.step(LLAMA, 512) / 512))
    assert by_lora / in_full == pytest.approx(flops.step(LLAMA, 512) / flops.step(LLAMA, 512, how="lora", rank=16))
    assert cost.tokens_per_second(LLAMA, H100, "qlora", 0.5, 512) == by_lora


@pytest.mark.parametrize("mfu", [0, -0.1, 1.5, 40])
def test_an_mfu_is_a_share(mfu):
    with pytest.raises(ValueError, match="a share of the card's peak"):
        cost.tokens_per_second(LLAMA, H100, mfu=mfu)


def test_money():
    assert cost.per_million(2.0, 1e6 / 3600) == pytest.approx(2.0)  # a million tokens in an hour
    assert cost.per_million(0, 5) == 0
    for wrong in ((-1, 5), (1, 0), (float("nan"), 5)):
        with pytest.raises(ValueError, match="are needed"):
            cost.per_million(*wrong)


def test_need_is_memorys_and_a_sum_takes_two_rounds_of_a_ring():
    expected = memory.memory(LLAMA, "lora", 1, 2048, 16, "all-linear", checkpointing=True)
    assert cost.need(LLAMA, "lora") == sum(expected.values())
    assert cost.all_reduce(8e9, 1, 1e9) == 0
    assert cost.all_reduce(8e9, 4, 1e9) == 12 and cost.all_reduce(8e9, 8, 1e9) == 14
