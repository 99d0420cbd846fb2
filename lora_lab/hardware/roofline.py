"""The least time that a card needs for a training step, part by part: a prediction, from shapes alone.

An operation reads numbers, computes, and writes numbers. It takes as long as computing takes at the card's peak, or
as long as moving its bytes takes, whichever is longer (the roofline, Williams et al. 2009). No real step is as fast:
kernels miss their peaks, and waiting, launching and loading come on top. What it shows is where the time must go.
Two figures are not quite the least: attention counts in full, as in `flops`, though a causal kernel skips nearly half
of it; and every pass reads from memory what a card's cache may still hold of the pass before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lora_lab.counting import ALL_LINEAR, Targets, chosen, lora
from lora_lab.flops import reach, role
from lora_lab.hardware.cards import Card
from lora_lab.memory import NF4_BITS
from lora_lab.shapes import Shape

PARTS = tuple(
    "base matmuls, adapter matmuls, adapter passes, attention, elementwise, loss, optimizer, unpacking".split(", ")
)
METHODS = ("full", "lora", "qlora")

# Bytes read and written for each number, forwards, as transformers' Llama does it in bfloat16: (an operation at a time,
# compiled to one kernel). Backwards twice as many are assumed.
NORM = (36, 4)  # to float32, square, mean, scale, back, times the weight
ROTATION = (20, 4)  # of queries and keys: negate a half, join, two products, a sum
GATE = (10, 6)  # silu, and the product with up
RESIDUAL = (6, 6)
LOSS = 28  # of the logits, both ways: to float32, log-probabilities, their gradients, back; outside the compiled blocks
# Bytes for each number of (x, y), forwards and backwards, of an adapter's passes: see `adapter_passes`.
PLAIN = (12, 10), (18, 4)  # x to float32 and back, scaling, sum; scaling, two casts, the sum into x's gradient
COMPILED = (0, 4), (4, 2)  # what is left of these by Inductor's own count of a Llama block's bytes
FUSED = (0, 2), (2, 0)  # the product adds to y, and to x's gradient, in place: these are read once more
# Of a number that trains: weight, gradient and two means read, all but the gradient written, in float32; with a
# bfloat16 weight and gradient beside a float32 copy it is as many.
ADAM = 28


@dataclass(frozen=True)
class Operation:
    """`count` times: so many operations on numbers, so many bytes moved. part: one of PARTS."""

    part: str
    flops: float
    bytes: float
    count: float = 1

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.bytes

    def seconds(self, card: Card) -> float:
        """The least time, of all `count` together."""
        return self.count * max(self.flops / card.flops, self.bytes / card.bandwidth)

    def waits(self, card: Card) -> bool:
        """Whether moving its bytes takes longer than computing."""
        return self.intensity < card.ridge


def product(rows: int, inside: int, columns: int, part: str = "base matmuls", count: float = 1) -> Operation:
    """[rows, inside] by [inside, columns] in 16 bits: each matrix is moved once.

    >>> round(product(1, 4096, 4096).intensity, 2), round(product(4096, 4096, 4096).intensity)
    (1.0, 1365)
    """
    moved = rows * inside + inside * columns + rows * columns
    return Operation(part, 2 * rows * inside * columns, 2 * moved, count)


def step(
    shape: Shape,
    method: str,
    length: int,
    rows: int = 1,
    rank: int = 16,
    targets: Targets = ALL_LINEAR,
    *,
    checkpointing: bool = False,
    fused: bool = False,
    compiled: bool = False,
) -> list[Operation]:
    """The operations of a training step on `rows` texts of `length` tokens, matrix products as `flops.step` has them.

    method: "full" (weights in bfloat16), "lora" (the adapter in float32 under autocast, peft's default), or "qlora",
    whose frozen matrices are unpacked from 4 bits at each use. checkpointing: the blocks are computed again on the way
    back. fused: base and adapter are one operation (`lora_lab.fused`). compiled: in the blocks a chain of elementwise
    operations is one kernel, as torch.compile makes it; else one after the other. Attention is one either way. Raises
    ValueError for another method, a rank below 1, and targets that the model has not.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    full, tokens = method == "full", rows * length
    adapted = set() if full else {m.path for m in chosen(shape, targets)}
    roles = {role(m) for m in shape.matrices if m.path in adapted}
    forwards = 1 + checkpointing
    found: list[Operation] = []
    for blocks, given in ((1, full), (shape.layers - 1, True)):
        r = reach(roles, given, shape.parallel)
        for m in shape.matrices:
            out, into, through = m.out_features, m.in_features, r.into(role(m))
            each = m.count / shape.layers * blocks
            uses = each * (forwards + through)
            found.append(product(tokens, into, out, count=each * (forwards + through + full)))
            if method == "qlora":
                found.append(Operation("unpacking", 0, out * into * (NF4_BITS / 8 + 2), uses))
            if m.path in adapted:
                thin = {"part": "adapter matmuls"}
                passes = tokens * adapter_passes(into, out, forwards, through, fused, compiled)
                found += [
                    product(tokens, into, rank, **thin, count=each * (forwards + 1 + through)),  # A x, of A, of x
                    product(tokens, rank, out, **thin, count=each * (forwards + 2)),  # B (A x), of A x, of B
                    Operation("adapter passes", 0, passes, each),
                ]
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        products = 2 * forwards + (4 if full else (r.q or r.k) + r.q + r.k + r.v)
        moved = 2 * tokens * (queries + keys)  # a product's share of queries, keys, values and output
        found.append(Operation("attention", 2 * rows * length**2 * queries, moved, blocks * products))
        wide = (
            shape.block_norms * shape.hidden * NORM[compiled]
            + (queries + keys) * ROTATION[compiled]
            + shape.intermediate * GATE[compiled]
            + 2 * shape.hidden * RESIDUAL[compiled]
        )
        found.append(Operation("elementwise", 0, tokens * wide, blocks * (forwards + 2)))
    found.append(product(tokens, shape.hidden, shape.vocabulary, count=2 + full))  # the output head
    found.append(Operation("loss", 0, tokens * shape.vocabulary * LOSS))
    found.append(Operation("optimizer", 0, ADAM * (shape.total if full else lora(shape, rank, targets))))
    return [operation for operation in found if operation.count]


def adapter_passes(
    into: int, out: int, forwards: int = 1, through: bool = True, fused: bool = False, compiled: bool = False
) -> int:
    """Bytes that an adapter beside a layer [out, into] moves for each token, apart from its products.

    through: x needs a gradient. With the products' own, 12 for each number, one step of a plain layer moves 56 bytes
    for each number of a square layer's x, a fused one 16: lesson 12 counts them.

    >>> adapter_passes(1, 1), adapter_passes(1, 1, fused=True)
    (44, 4)
    """
    (x, y), (grad_x, grad_y) = FUSED if fused else COMPILED if compiled else PLAIN
    return forwards * (x * into + y * out) + through * grad_x * into + grad_y * out


def seconds(operations: Iterable[Operation], card: Card) -> dict[str, float]:
    """The least time of each of PARTS that takes any."""
    parts = dict.fromkeys(PARTS, 0.0)
    for operation in operations:
        parts[operation.part] += operation.seconds(card)
    return {part: time for part, time in parts.items() if time}
