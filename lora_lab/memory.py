"""Memory that training needs at its peak, in five buckets, from a model's shape alone.

The model of it is a decoder block as transformers computes it through fused attention (sdpa), with AdamW; nothing is
measured here. The tests hold it against what autograd keeps and what a process takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_lab.counting import ALL_LINEAR, Matrices, Matrix, Targets, chosen, lora
from lora_lab.flops import Reach, reach, role
from lora_lab.shapes import Shape

BUCKETS = ("weights", "gradients", "optimizer", "activations", "logits")

# NF4: 4 bits, an 8-bit scale for each block of 64, and a float32 for each 256 of those (QLoRA, section 3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


@dataclass(frozen=True)
class Way:
    """Bytes of one number. weights, gradients, optimizer: for a parameter that trains; frozen: for one that does not;
    activation: for what is kept of the forward pass; stream: for the residual stream and what norms put out. nf4: the
    frozen linear layers are quantised. shared: what several adapters read is kept once for all (`fused`).
    """

    says: str
    weights: float
    gradients: int
    optimizer: int
    activation: int
    stream: int
    frozen: int = 0
    nf4: bool = False
    shared: bool = False

    @property
    def full(self) -> bool:
        """Whether every parameter trains."""
        return not self.frozen

    @property
    def autocast(self) -> bool:
        """Whether every parameter trains and is computed with as a copy of fewer bytes."""
        return self.full and self.stream > self.activation


WAYS = {
    # ZeRO (Rajbhandari et al. 2020, section 3.1): the optimizer holds a float32 copy of the weights and two means.
    "full": Way("in full, bfloat16 with float32 master weights: 16 bytes a parameter", 2, 2, 12, 2, 2),
    "full-18": Way("in full, the same with float32 gradients: 18 bytes", 2, 4, 12, 2, 2),
    "full-bf16": Way("in full, all of it bfloat16: 8 bytes", 2, 2, 4, 2, 2),
    "full-float32": Way("in full, all of it float32: 16 bytes", 4, 4, 8, 4, 4),
    # autocast keeps a bfloat16 copy of each weight from the forward pass to the backward pass
    "full-autocast": Way("in full, float32 computed in bfloat16 (autocast): 18 bytes", 6, 4, 8, 2, 4),
    "lora": Way("LoRA, frozen base in bfloat16, adapter in float32", 4, 4, 8, 2, 2, frozen=2),
    "lora-fused": Way("LoRA, the same with base and adapter as one operation", 4, 4, 8, 2, 2, frozen=2, shared=True),
    "lora-float32": Way("LoRA, all of it float32", 4, 4, 8, 4, 4, frozen=4, shared=True),
    # prepare_model_for_kbit_training turns what is not quantised (embeddings, norms, output head) into float32
    "qlora": Way(
        "QLoRA, frozen linear layers in NF4, the rest and the adapter in float32", 4, 4, 8, 2, 2, frozen=4, nf4=True
    ),
    "qlora-bf16": Way(
        "QLoRA, the same with the rest in bfloat16, base and adapter as one operation", 4, 4, 8, 2, 2, 2, True, True
    ),
    "qlora-float32": Way("QLoRA, computed in float32", 4, 4, 8, 4, 4, frozen=4, nf4=True, shared=True),
}


def memory(
    model: Matrices,
    how: str,
    rows: int = 1,
    length: int = 512,
    rank: int = 8,
    targets: Targets = ALL_LINEAR,
    *,
    dropout: float = 0.0,
    padded: bool = False,
    checkpointing: bool = False,
    loss_chunk: int | None = None,
    trainable: int | None = None,
    gradients_kept: bool = True,
) -> dict[str, int]:
    """Bytes at the peak of a training step on `rows` sequences of `length` tokens, by bucket.

    how: a key of WAYS, which says what a parameter and an activation take. dropout: the adapter's. padded: the batch
    has a padding mask (or packed examples, which need one too), so that keys and values are repeated for each head.
    checkpointing: a block keeps its input alone and is computed again. loss_chunk: tokens whose logits are there at
    once (`chunked_loss`). trainable: if another number than `counting.lora` gives. gradients_kept: they are counted
    whole, as where several passes make a step, and those of an earlier one are there from the start; else an upper
    bound, since those of full fine-tuning come as the activations go, into the same memory. False: so counted, and
    `activations` (autocast's copies of the weights among them) and `logits` are what is needed beyond the gradients,
    and at least one block, with which the backward pass ends. Buckets:
    weights      the model's, and the adapter's
    gradients    of what trains
    optimizer    Adam's two running means (Kingma and Ba 2015), and the master copy where there is one
    activations  what autograd keeps of the forward pass, and what the backward pass of a block takes beyond the logits
                 if that is more: the block itself with checkpointing, and two gradients as wide as the MLP, or one
                 and, with NF4, the largest matrix unpacked
    logits       [rows, length, vocabulary] in float32 three times over: the log-probabilities, their gradient, and
                 the logits' gradient, at the moment in which the backward pass begins; with a loss_chunk each of its
                 logits, and twice in float32 if it is not float32 itself, or else once; and the hidden states
                 that the head reads, with their gradient, and that of the head, twice, if it trains

    On a GPU, what the CUDA libraries take for themselves and what the allocator holds free is not in it.

    >>> from lora_lab import shapes
    >>> cost = memory(shapes.known("Llama-2-7B"), "qlora", rows=1, length=512, rank=16)
    >>> {bucket: round(n / 1e6) for bucket, n in cost.items()}  # MB
    {'weights': 4550, 'gradients': 160, 'optimizer': 320, 'activations': 3328, 'logits': 197}

    Raises ValueError for an unknown `how`, a rank below 1, and targets that the model has not.
    """
    if how not in WAYS:
        raise ValueError(f"how must be one of {', '.join(WAYS)}, got {how!r}")
    way, matrices = WAYS[how], list(getattr(model, "matrices", model))
    base = model.total if isinstance(model, Shape) else sum(m.parameters for m in matrices)
    if trainable is None:
        trainable = base if way.full else lora(matrices, rank, targets)
    linear = sum(m.count * m.out_features * m.in_features for m in matrices) if way.nf4 else 0
    frozen = 0 if way.full else (base - linear) * way.frozen + round(linear * NF4_BITS / 8)
    kept = _Kept(way, rank, dropout, [] if way.full else chosen(matrices, targets))
    tokens, copies = rows * length, trainable * way.activation * way.autocast
    weights, gradients = frozen + round(trainable * way.weights), trainable * way.gradients
    if isinstance(model, Shape):
        held, again, work = kept.model(model, length, padded, checkpointing)
        logits = tokens * model.vocabulary * (12 + way.activation * model.soft_cap)
        if loss_chunk is not None:
            a = way.activation
            logits = min(loss_chunk, tokens) * model.vocabulary * (4 + a * (1 + model.soft_cap) + 4 * (a < 4))
            logits += 2 * a * tokens * model.hidden
            # A head that trains has its gradient at once: the sum over the chunks, and one chunk's (cast by autocast).
            logits += model.vocabulary * model.hidden * (2 * way.gradients + a * way.autocast) * way.full
        unpacked = way.nf4 * way.activation * max(m.out_features * m.in_features for m in matrices)
        # The MLP's two gradients are there together, or one of them and the matrix that it goes through.
        work = tokens * work + max(0, unpacked - tokens * model.intermediate * way.activation)
        beyond = max(0, tokens * again * checkpointing + work - logits)
        if checkpointing and copies:  # those go before a block is computed again
            beyond, copies, weights = (0, copies, weights) if copies > beyond else (beyond, 0, weights - copies)
        activations = tokens * held + beyond
        if not gradients_kept:
            left = max(copies + activations + logits - gradients, tokens * again + work)
            weights, logits = weights - copies, min(logits, left)
            activations = left - logits
    else:
        activations, logits = tokens * sum(m.count * kept.read([m], m.in_features, True) for m in matrices), 0
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": trainable * way.optimizer,
        "activations": activations,
        "logits": logits,
    }


@dataclass(frozen=True)
class _Kept:
    """Bytes that autograd keeps for each token. Every activation is kept once, whoever else reads it."""

    way: Way
    rank: int
    dropout: float
    adapted: list[Matrix]

    def model(self, shape: Shape, length: int, padded: bool, checkpointing: bool) -> tuple[int, int, int]:
        """Of the forward pass; of one block by itself; of the gradients in its backward pass."""
        roles = {role(m) for m in self.adapted}
        first, other = (
            self.block(shape, reach(roles, g, shape.parallel), length, padded) for g in (self.way.full, True)
        )
        blocks = first + (shape.layers - 1) * other
        if checkpointing:
            blocks = shape.layers * shape.hidden * self.way.stream
        head = shape.hidden * self.way.activation * self.way.full
        held = blocks + self.norm(shape, shape.hidden, True) + head
        # An adapter that is not fused casts what it reads, and that gradient, to its own float32.
        cast = 4 * ("down" in roles and self.way.activation < 4 and not self.way.shared)
        return held, other, shape.intermediate * (2 * self.way.activation + cast)

    def block(self, shape: Shape, r: Reach, length: int, padded: bool) -> int:
        a, h, m = self.way.activation, shape.hidden, shape.intermediate
        readers = {
            name: [x for x in shape.matrices if role(x) in name.split()]
            for name in ("q k v qkv", "o", "gate up gate_up", "down")
        }
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        kept = self.norm(shape, h, r.given) + self.read(readers["q k v qkv"], h, r.given)
        if shape.qk_norm:
            kept += self.norm(shape, queries, r.q, shape.heads) + self.norm(shape, keys, r.k, shape.kv_heads)
        # Phi-3 and GPT-NeoX turn queries into another layout than Llama, in which attention's output is copied for o.
        rotated_apart = any(x.name in ("qkv_proj", "query_key_value") for x in shape.matrices)
        if r.o and shape.soft_cap:  # not in sdpa: q, k, v for each head, tanh and softmax of each score
            kept += a * 3 * queries + shape.heads * length * (a + 4 + a * (a < 4))
        elif r.o:  # q, k, v, the output and its log-sum-exp; with a mask, k and v for each head and a row of it
            kept += a * (2 * queries + 2 * (queries if padded else keys) + length * padded) + 4 * shape.heads
            if rotated_apart and not (padded and keys < queries):
                kept += a * (queries + keys)  # v is a part of the fused projection, which is kept whole for it
        kept += self.read(readers["o"], queries, r.o, kept_anyway=r.o and not shape.soft_cap and not rotated_apart)
        kept += 8 * r.mlp if shape.parallel else self.norm(shape, h, r.mlp) * (shape.block_norms // 2)
        kept += self.norm(shape, h, r.down) * (shape.block_norms // 2 - 1)
        kept += self.read(readers["gate up gate_up"], h, r.mlp)
        # Of a gated MLP: gate, up and silu(gate).
        kept += a * m * (2 * r.gate + r.up if shape.mlp_kept == 3 else shape.mlp_kept * r.up)
        return kept + self.read(readers["down"], m, r.down)

    def norm(self, shape: Shape, width: int, given: bool, factors: int = 1) -> int:
        """A normalisation: its input, its factor, and, where its weight trains, the normalised input.

        RMSNorm works in float32 whatever it is given. GPT-2's LayerNorm keeps its input, a mean and a factor.
        """
        if shape.mlp_kept != 3:
            return given * (width * self.way.stream + 8)
        wide = 4 if shape.soft_cap else self.way.stream
        return given * 4 * (width + factors) + self.way.full * width * wide

    def read(self, readers: list[Matrix], width: int, given: bool, kept_anyway: bool = False) -> int:
        """Linear layers that read one input [width]: a frozen one keeps nothing, so only an adapter's copy counts."""
        a = self.way.activation
        if self.way.full:  # autocast casts a float32 input for each of its readers
            return a * width * (len(readers) if self.way.stream > a and not kept_anyway else not kept_anyway)
        adapted = [m for m in readers if m in self.adapted]
        kept = a * self.rank * len(adapted)
        if self.dropout:  # its own masked copy, and the mask: float32 on a CPU, a byte on a GPU
            return kept + len(adapted) * width * (a + (4 if a == 4 else 1) * given)
        # In bfloat16 each adapter casts the input for itself, if it is not fused; in float32 they share it.
        return kept + a * width * (bool(adapted) and not kept_anyway if self.way.shared else len(adapted))
