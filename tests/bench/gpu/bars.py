"""Part B: what fits where, full fine-tuning beside it, and what a rank costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from . import bench, build, card, side_by_side, training
from .bench import Bench, Spec
from .build import Adapter
from .side_by_side import PLAIN
from .sizes import Sizes

QV = Adapter("q_proj,v_proj", 8)
FULL = {  # what -> (the key of memory.WAYS, weights in float32 under autocast)
    "full, float32 weights under autocast": ("full-autocast", True),
    "full, all of it bfloat16": ("full-bf16", False),
}


def specs(sizes: Sizes) -> list[Spec]:
    """The first model, with the fused layer, as `finetune` has it on a GPU; its weights stay while they can."""
    model, found = sizes.models[0], []
    small = replace(PLAIN, what="ours fused layer, checkpointing", fused=True, checkpointing=True)
    ways = [(QV, small)]
    ways += [(Adapter("all-linear", rank), replace(PLAIN, what="ours fused layer", fused=True)) for rank in sizes.ranks]
    ways += [(QV, replace(small, what="ours fused layer, NF4 base, checkpointing", nf4="ours", about=25))]
    for adapter, way in ways:
        make = partial(side_by_side.measure, model=model, adapter=adapter, way=way, steps=sizes.short_steps)
        found.append(Spec(f"B/{model}/{adapter.targets}/r{adapter.rank}/{way.what}", way.about, make))
    for what in FULL:
        found.append(Spec(f"B/{model}/{what}", 20, partial(full, model=model, what=what)))
    return found


def full(b: Bench, model: str, what: str) -> dict:
    """Every parameter trained, checkpointed, for a few steps; the model is made anew for it and forgotten."""
    how, wide = FULL[what]
    b.drop()
    network = b.network(model)
    try:
        if wide:
            network.float()
        network.requires_grad_(True)
        with bench.checkpointed(network):
            got = training.train(
                network,
                build.batches(network, b.sizes, b.sizes.short_steps),
                b.device,
                rows=b.sizes.rows,
                steps=b.sizes.short_steps,
                warm_up=b.sizes.warm_up,
                autocast=wide and b.sizes.compute == "bfloat16",
                until=b.until,
            )
        row = card.summary(got.seconds)
        return (
            row
            | b.cost(model, None, row["seconds"])
            | {
                "what": what,
                "model": model,
                "checkpointing": True,
                "peak_memory": card.peak_memory(b.device),
                "memory_predicted": b.predicted(model, how, None, checkpointing=True),
                "losses": got.losses,
                "more": {"first_step": got.first},
            }
        )
    finally:
        b.forget()
