"""Part A: a LoRA step here and in peft, under one Trainer, on the same rows from the same A and B, taking turns."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass, replace
from functools import partial

from lora_lab import chunked_loss, fused

from . import bench, build, card, training
from .bench import Bench, Spec
from .build import Adapter
from .sizes import Sizes

GROUPS = (("all-linear", 16), ("q_proj,v_proj", 8))
BASELINE, AGAIN = "peft default", "peft default, again"


@dataclass(frozen=True)
class Way:
    """One way to train: a side, and what is switched on or off."""

    what: str
    side: str = "ours"
    half: bool = False  # adapters in bfloat16
    fused: bool = False  # base and adapter as one operation
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    compile: bool = False
    chunk: bool = False  # logits of a part of the tokens at a time
    nf4: str = ""  # whose 4-bit base: "ours" or "bitsandbytes"
    autocast: bool = True
    lengths: str = ""  # "padded" or "packed": examples of many lengths, instead of full rows
    about: float = 10
    turn: int = 3  # 1: of every group; 2: of the first group, early; 3: of the first group late, then of the others


PLAIN = Way("ours plain", turn=1)
BEST = replace(PLAIN, what="ours fused layer + chunked logits", fused=True, chunk=True)
WAYS = (
    Way(BASELINE, "peft", turn=1),
    PLAIN,
    replace(PLAIN, what="ours fused layer", fused=True, turn=2),
    BEST,
    replace(BEST, what="ours fused layer + chunked logits + compile", compile=True, about=50),
    Way("ours chunked logits", chunk=True),
    Way("ours checkpointing", checkpointing=True),
    Way("ours bf16 adapters", half=True),
    Way("ours mixed lengths, padded", lengths="padded"),
    Way("ours mixed lengths, packed", lengths="packed"),
    Way("ours chunked logits + compile", chunk=True, compile=True, about=50),
    Way("peft compile", "peft", compile=True, about=50),
    Way("peft checkpointing", "peft", checkpointing=True),
    Way("peft bf16 adapters", "peft", half=True),
    replace(BEST, what="ours fused layer + chunked logits + bf16 adapters", half=True, turn=3),
    Way("ours AdamW not fused", optimizer="adamw_torch"),
    Way("ours compile", compile=True, about=50),
    Way("peft without autocast", "peft", autocast=False, about=20),
    Way("ours NF4 base", nf4="ours", about=25),
    Way("ours NF4 base, fused layer + chunked logits + checkpointing", nf4="ours", fused=True, chunk=True,
        checkpointing=True, about=30),
    Way("ours NF4 base by bitsandbytes", nf4="bitsandbytes", about=25),
)  # fmt: skip


def specs(sizes: Sizes) -> list[Spec]:
    """The groups one after the other; in each, peft's default before and after the others of the same weights."""
    found = []
    for model in sizes.models:
        for targets, rank in GROUPS:
            group, first = f"A/{model}/{targets}/r{rank}", (model, targets) == (sizes.models[0], GROUPS[0][0])
            turns = {1: 1 if model == sizes.models[0] else 2, 2: 1 if first else 5, 3: 4 if first else 5}
            # Once more at the end: what the card's heat or a neighbour changed meanwhile shows here.
            again = replace(WAYS[0], what=AGAIN)
            for way in (*(w for w in WAYS if not w.nf4), again, *(w for w in WAYS if w.nf4)):
                if way.nf4 == "bitsandbytes" and not importlib.util.find_spec("bitsandbytes"):
                    continue
                make = partial(measure, model=model, adapter=Adapter(targets, rank), way=way, group=group)
                if sizes.tiny and not first and (way.turn > 1 or model != sizes.models[0] and rank != 16):
                    continue  # the first group has tried it
                baseline = way.what in (BASELINE, AGAIN)
                found.append(Spec(f"{group}/{way.what}", way.about, make, turns[way.turn], group, baseline))
    return found


def measure(b: Bench, model: str, adapter: Adapter, way: Way, group: str = "", steps: int = 0) -> dict:
    """One row: losses, time and memory of the steps; beside the group's baseline where this process has it."""
    steps = steps or b.sizes.steps
    network = b.network(model, way.nf4)
    with build.adapted(network, adapter, way.side, way.half) as trained, contextlib.ExitStack() as stack:
        if way.side == "ours":
            fused.fuse(network, way.fused)
            stack.enter_context(chunked_loss.installed(network, b.sizes.chunk if way.chunk else None))
        if way.checkpointing:
            stack.enter_context(bench.checkpointed(network))
        if way.compile:
            stack.enter_context(bench.compiled(network, b.sizes.backend))
        data, collate = build.batches(network, b.sizes, steps), training.collate
        if way.lengths:
            data, collate = build.of_many_lengths(data, packed=way.lengths == "packed")
        trainable = sum(p.numel() for p in trained.parameters() if p.requires_grad)
        got = training.train(
            trained,
            data,
            b.device,
            rows=b.sizes.rows,
            steps=steps,
            warm_up=b.sizes.warm_up,
            optimizer=way.optimizer,
            autocast=way.autocast and b.sizes.compute == "bfloat16",
            until=b.until,
            collator=collate,
        )
        peak = card.peak_memory(b.device)
    row = card.summary(got.seconds)
    row |= b.cost(model, adapter, row["seconds"])
    if way.lengths:  # other rows: only what is no padding counts, and nothing is compared with peft's full ones
        read = sum(len(example["input_ids"]) for example in data) / len(data) * b.sizes.rows
        row |= {"tokens_per_second": read / row["seconds"] if row["seconds"] else None, "flops": None, "mfu": None}
    row |= {"peak_memory": peak, "losses": got.losses, "more": {"trainable": trainable, "first_step": got.first}}
    try:
        row["memory_predicted"] = predicted(b, model, adapter, way)
    except Exception as error:  # what was measured counts, whatever is said of it
        row["more"]["prediction"] = f"{type(error).__name__}: {error}"
    row |= {"what": way.what, "model": model, "targets": adapter.targets, "rank": adapter.rank}
    row["checkpointing"] = way.checkpointing
    return row if way.lengths else row | against(row, b.lately.get(f"{group}/{BASELINE}"))


def predicted(b: Bench, model: str, adapter: Adapter, way: Way) -> int | None:
    """Bytes of the prediction; None where it says nothing of such a way."""
    if way.compile or way.lengths or not way.autocast or (way.nf4 and not way.fused):
        return None
    how = "lora-float32"
    if b.sizes.compute == "bfloat16":
        # Adapters in bfloat16 cast nothing: like a fused layer, they keep what they read once for all.
        how = "qlora-bf16" if way.nf4 else "lora-fused" if way.fused or way.half else "lora"
    chunk = b.sizes.chunk if way.chunk else None
    return b.predicted(model, how, adapter, way.half, checkpointing=way.checkpointing, loss_chunk=chunk)


def against(row: dict, baseline: dict | None) -> dict:
    """How a row compares with peft's default: speed, memory, and the largest difference of a loss."""
    if baseline is None or baseline["status"] != "ok":
        return {}
    pairs = list(zip(row["losses"], baseline["losses"], strict=True))
    return {
        "ratio": _over(row["tokens_per_second"], baseline["tokens_per_second"]),
        "memory_ratio": _over(row["peak_memory"], baseline["peak_memory"]),
        "loss_difference": max(abs(ours - theirs) for ours, theirs in pairs) if pairs else None,
    }


def _over(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None
