"""What lesson 12 sums up in five lines. Times here are predicted, never measured: the least that a card can take."""

from __future__ import annotations

from lora_lab import counting, flops, shapes
from lora_lab.hardware import cards, cost, roofline
from lora_lab.memory import memory
from lora_lab.proofs import Result


def l12_the_roof(card: str = "H100 SXM", tokens: int = 4096, width: int = 4096, rank: int = 16) -> Result:
    """A card's ridge from its data sheet, and on which side of it W x and A x lie, W [width, width]."""
    on = cards.card(card)
    whole, thin, single = (roofline.product(n, width, out) for n, out in ((tokens, width), (tokens, rank), (1, width)))
    return {
        "ridge": on.ridge,
        "of_w": whole.intensity,
        "of_a": thin.intensity,
        "the_longer_of_two": all(
            one.seconds(on) == max(one.flops / on.flops, one.bytes / on.bandwidth) for one in (whole, thin, single)
        ),
        "many_tokens_compute": not whole.waits(on),
        "the_adapter_and_a_single_token_wait": thin.waits(on) and single.waits(on),
    }


def l12_two_thirds(
    model: str = "Llama-2-7B", length: int = 2048, rank: int = 8, targets: str = "q_proj,v_proj"
) -> Result:
    """LoRA's FLOPs of a step over full fine-tuning's, and over a forward pass."""
    shape = shapes.known(model)
    full, lora = flops.step(shape, length), flops.step(shape, length, how="lora", rank=rank, targets=targets)
    return {
        "share": lora / full,
        "parameters": counting.lora(shape, rank, targets) / shape.total,
        "two_thirds_and_a_little": 2 / 3 < lora / full < 0.75,
        "both_ways_through_w": lora > 2 * flops.forward(shape, length),
    }


def l12_time_is_not_work(
    card: str = "H100 SXM", model: str = "Llama-2-7B", many: int = 4096, few: int = 512, rank: int = 16
) -> Result:
    """Predicted least time of a LoRA step on all linear layers over one in full, at many tokens a step and at few."""
    shape, on, times = shapes.known(model), cards.card(card), {}
    for tokens in (many, few):
        for how in ("full", "lora"):
            times[how, tokens] = roofline.seconds(roofline.step(shape, how, tokens, rank=rank), on)
    many_over, few_over = (sum(times["lora", n].values()) / sum(times["full", n].values()) for n in (many, few))
    return {
        "share_many": many_over,
        "share_few": few_over,
        "of_the_work": flops.step(shape, many, how="lora", rank=rank) / flops.step(shape, many),
        "more_time_than_work": many_over > flops.step(shape, many, how="lora", rank=rank) / flops.step(shape, many),
        "less_with_few_tokens": few_over < many_over,
        "the_optimizer_is_saved": times["lora", few]["optimizer"] < times["full", few]["optimizer"] / 100,
        "elementwise_is_not": times["lora", many]["elementwise"] > 0.95 * times["full", many]["elementwise"],
    }


def l12_saved(card: str = "H100 SXM", model: str = "Llama-2-7B", tokens: int = 2048, high: int = 256) -> Result:
    """What LoRA leaves of each bucket of memory, rank 16 on all linear layers; the predicted time of rank `high`.

    Activations are also taken of rank 8 on q and v, where fewer copies are kept.
    """
    shape, on = shapes.known(model), cards.card(card)
    full, lora = (memory(shape, how, 1, tokens, 16) for how in ("full", "lora"))
    steps = (roofline.step(shape, "lora", tokens, 2, r, fused=True) for r in (1, high))
    one, other = (sum(roofline.seconds(step, on).values()) for step in steps)
    left = {bucket: lora[bucket] / full[bucket] for bucket in full}
    narrow = memory(shape, "lora", 1, tokens, 8, "q_proj,v_proj")["activations"] / full["activations"]
    return left | {
        "more_time": other / one - 1,
        "gradients_and_optimizer_go": left["gradients"] < 0.02 and left["optimizer"] < 0.02,
        "most_activations_stay": min(left["activations"], narrow) > 0.75,
        "the_rest_stays": left["logits"] == 1 and left["weights"] >= 1,
        "rank_hardly_costs_time": other / one < 1.05,
    }


def l12_money(
    price: float = 2.5, card: str = "H100 SXM", model: str = "Llama-2-7B", mfu: float = 0.3, length: int = 2048
) -> Result:
    """Price of a million tokens, LoRA of rank 16 on all linear layers, from a price an hour and an assumed MFU."""
    shape, on = shapes.known(model), cards.card(card)
    speed = cost.tokens_per_second(shape, on, "lora", mfu, length)
    a_token = flops.step(shape, length, how="lora", rank=16) / length
    million = cost.per_million(price, speed)
    return {
        "tokens_per_second": speed,
        "million": million,
        "price_over_speed": abs(million * speed * 3600 / 1e6 / price - 1) < 1e-9,
        "speed_is_mfu_times_peak_over_work": abs(speed * a_token / (mfu * on.flops) - 1) < 1e-9,
    }
