"""The calculator: what fine-tuning a known model takes, in parameters and bytes, and whether it fits a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from lora_lab import counting, explorer, figures, memory, shapes
from lora_lab.result import megabytes

METHODS = {"full": "full", "LoRA": "lora", "QLoRA": "qlora"}  # and what `memory` calls them
# Which of a model's matrices get an adapter, whatever its family calls them; a fused q, k, v is one matrix.
TARGETS: dict[str, Callable[[counting.Matrix], bool]] = {
    "q and v": lambda m: m.name in ("q_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value"),
    "attention": lambda m: ".mlp." not in m.path,
    "MLP": lambda m: ".mlp." in m.path,
    "all linear": lambda m: True,
}
# What a card is sold as, in GB of 10^9 bytes. It has up to 7 % more, which the driver and the allocator take.
CARDS = {
    "RTX 4060, 8 GB": 8,
    "RTX 3060, 12 GB": 12,
    "T4, 16 GB": 16,
    "RTX 4090, 24 GB": 24,
    "RTX 5090, 32 GB": 32,
    "A100, 40 GB": 40,
    "L40S, 48 GB": 48,
    "H100, 80 GB": 80,
    "H200, 141 GB": 141,
    "MI300X, 192 GB": 192,
}
TIGHT = 0.9  # above this share of the card, a prediction is too close to call
MOST = 200  # per cent of the card that the picture shows


@dataclass(frozen=True)
class Plan:
    """A fine-tune: `batch` sequences of `length` tokens at a time."""

    model: str
    method: str
    rank: int
    targets: str
    batch: int
    length: int
    checkpointing: bool


@dataclass(frozen=True)
class Cost:
    """What one takes. base: parameters of the model; trainable: those that train; file: bytes of what is saved (an
    adapter in float32, a whole model in bfloat16); memory: bytes at the peak by bucket.
    """

    base: int
    trainable: int
    file: int
    memory: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All buckets together."""
        return sum(self.memory.values())


@functools.lru_cache(1024)
def cost(plan: Plan) -> Cost:
    """What `plan` takes. Raises ValueError for an unknown model (with the nearest), method, targets or rank below 1."""
    if plan.targets not in TARGETS:
        raise ValueError(f"targets must be one of {', '.join(TARGETS)}, got {plan.targets!r}")
    if plan.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {plan.method!r}")
    shape = shapes.known(plan.model)
    ends = [m.path.rpartition("}.")[2] for m in shape.matrices if TARGETS[plan.targets](m)]
    full = plan.method == "full"
    return Cost(
        base=shape.total,
        trainable=shape.total if full else counting.lora(shape, plan.rank, ends),
        file=2 * shape.total if full else counting.adapter_bytes(shape, plan.rank, ends),
        memory=memory.memory(
            shape,
            METHODS[plan.method],
            rows=plan.batch,
            length=plan.length,
            rank=plan.rank,
            targets=ends,
            checkpointing=plan.checkpointing,
        ),
    )


def context(model: str) -> int:
    """How many tokens a known model takes at once."""
    config = shapes.entry(model)["config"]
    return config.get("max_position_embeddings") or config.get("n_positions", 1024)  # GPT-2's own default


def way_out(plan: Plan, gpu: float) -> str:
    """The first of the usual remedies with which a plan that does not fit `gpu` bytes would, in words."""
    remedies: dict[str, dict[str, Any]] = {
        "": {},
        "checkpointing": {"checkpointing": True},
        "batches of 1": {"batch": 1},
        "checkpointing and batches of 1": {"checkpointing": True, "batch": 1},
    }
    methods = list(METHODS)  # each takes less than the one before
    for method in methods[methods.index(plan.method) :]:
        for name, change in remedies.items():
            if cost(replace(plan, method=method, **change)).bytes <= gpu:
                words = [method] * (method != plan.method) + [name] * bool(name)
                return f"it would with {' and '.join(words)}"
    return "nothing here makes it fit"


def verdict(need: float, gpu: float) -> str:
    """Whether `need` bytes fit a card of `gpu` bytes, in words.

    >>> verdict(20e9, 24e9), verdict(23e9, 24e9), verdict(30e9, 24e9)
    ('fits, 4.00 GB are left', 'fits by 1.00 GB only: too close to call', 'does not fit: 6.00 GB too much')
    """
    if need > gpu:
        return f"does not fit: {megabytes(need - gpu)} too much"
    if need > TIGHT * gpu:
        return f"fits by {megabytes(gpu - need)} only: too close to call"
    return f"fits, {megabytes(gpu - need)} are left"


@figures.in_style
def fit_figure() -> tuple[Figure, Callable[[Mapping[str, Cost], str, float], None]]:
    """An empty picture, and `draw(costs, chosen, gpu)`: memory of each method by bucket, in per cent of `gpu` bytes.

    `costs` is method -> Cost for all METHODS; the chosen one has a mark at its left. What is past MOST % is cut off.
    """
    figure, (axes,) = figures.new_figure(7.8, 2.7)
    axes.set(ylim=(len(METHODS) - 0.5, -0.5), xlim=(0, MOST * 1.22), xlabel="memory at the peak (100 % = the card's)")
    axes.set_yticks(range(len(METHODS)), list(METHODS))
    axes.tick_params(axis="y", pad=18, length=0)
    axes.set_xticks(range(0, MOST + 1, 25), [f"{x} %" for x in range(0, MOST + 1, 25)])
    axes.grid(False, axis="y")
    axes.axvspan(100, MOST, color=figures.WORSE, lw=0, zorder=0)
    axes.text(MOST - 2, -0.42, "does not fit", ha="right", va="center", fontsize=8.5, zorder=2)
    moving = {"animated": True, "in_layout": False, "zorder": 3}
    bars = [
        axes.barh(range(len(METHODS)), 0, height=0.55, color=colour, hatch=hatch, edgecolor="white", lw=0.4, **moving)
        for _, colour, hatch in zip(memory.BUCKETS, figures.COLOURS, figures.HATCHES, strict=False)
    ]
    axes.axvline(100, color=figures.INK, lw=2, ls="--", animated=True, zorder=4)
    pad = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    labels = [axes.text(0, y, "", va="center", bbox=pad, **moving | {"zorder": 5}) for y in range(len(METHODS))]
    pointer = axes.plot([], [], ">", color=figures.RED, ms=9, clip_on=False, **moving)[0]
    figure.legend(
        [bar[0] for bar in bars], memory.BUCKETS, ncols=len(bars), loc="outside upper left", columnspacing=1.2
    )

    def draw(costs: Mapping[str, Cost], chosen: str, gpu: float) -> None:
        for y, method in enumerate(METHODS):
            cost, left = costs[method], 0.0
            for bar, bucket in zip(bars, memory.BUCKETS, strict=True):
                width = min(100 * cost.memory[bucket] / gpu, MOST - left)
                bar[y].set(x=left, width=width)
                left += width
            cut = 100 * cost.bytes / gpu > MOST
            labels[y].set(x=left + 2, text=f"{'→ ' if cut else ''}{megabytes(cost.bytes)}")
            labels[y].set_fontweight("bold" if method == chosen else "normal")
        pointer.set_data([-5], [list(METHODS).index(chosen)])

    return figure, draw


def finding(plan: Plan, gpu: float) -> str:
    """What the plan takes and whether it fits, in two sentences."""
    take = cost(plan)
    text = f"{plan.model} in full: all of its {take.base:,} parameters train."
    if plan.method != "full":
        shares = [share(take.trainable, take.base) for share in (counting.share_of_base, counting.share_of_total)]
        text = (
            f"{plan.model} by {plan.method}, rank {plan.rank} on {plan.targets}: {take.trainable:,} parameters train, "
            f"{shares[0]:.3%} of the base ({shares[1]:.3%} of all)."
        )
    text += f" {megabytes(take.bytes)} at the peak, a card of {gpu / 1e9:g} GB: {verdict(take.bytes, gpu)}"
    return f"{text}." if take.bytes <= gpu else f"{text}; {way_out(plan, gpu)}."


def twin(costs: Mapping[str, Cost], gpu: float) -> str:
    """The picture in numbers: an HTML table with a row per method."""
    rows = [
        {"method": method, "trains": f"{take.trainable:,}", "saved file": megabytes(take.file)}
        | {bucket: megabytes(take.memory[bucket]) for bucket in memory.BUCKETS}
        | {"all": megabytes(take.bytes), "of the card": f"{take.bytes / gpu:.0%}"}
        for method, take in costs.items()
    ]
    return figures.table(rows, "Bytes at the peak, by bucket (a GB is 10^9 bytes)")


def calculator(
    model: str = "Llama-2-7B",
    method: str = "LoRA",
    rank: int = 8,
    targets: str = "q and v",
    gpu: int = 24,
    lock: Mapping[str, Any] | None = None,
) -> explorer.Explorer:
    """Choose a known model, a card and how to fine-tune: parameters, memory in five buckets, and whether it fits.

    Computed from shapes (`counting`, `memory`), nothing is loaded. full is bfloat16 with float32 master weights, LoRA
    a bfloat16 base with a float32 adapter, QLoRA an NF4 base with a float32 adapter; AdamW and fused attention in all.
    gpu: GB of the card, where none of CARDS is chosen. Raises ValueError for a value that its control cannot take.
    """
    powers = [2**i for i in range(9)]
    controls = {
        "model": explorer.menu("model", shapes.names(), model),
        "method": explorer.menu("method", list(METHODS), method),
        "rank": explorer.stops("rank", "", powers, rank),
        "targets": explorer.menu("targets", list(TARGETS), targets),
        "batch": explorer.stops("batch", "sequences", powers[:7], 1),
        "length": explorer.stops("length", "tokens", [2**i for i in range(7, 16)], 512),
        "checkpointing": explorer.menu("checkpointing", [("off", False), ("on", True)], False),
        "card": explorer.menu("card", [("as the slider says", 0), *CARDS.items()], 0),
        "gpu": explorer.slider("card's memory", "GB", 4, 192, gpu),
    }
    figure, draw = fit_figure()

    def move(card: int, gpu: int, **chosen: Any) -> tuple[str, str]:
        plan, size = Plan(**chosen), 1e9 * (card or gpu)
        costs = {method: cost(replace(plan, method=method)) for method in METHODS}
        draw(costs, plan.method, size)
        longest = context(plan.model)
        note = f"<p>{plan.length:,} tokens are counted, but this model takes {longest:,} at most.</p>"
        return finding(plan, size), note * (plan.length > longest) + twin(costs, size)

    summary = "Memory at the peak of training in full, by LoRA and by QLoRA, in five buckets, against the card's."
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=130)
