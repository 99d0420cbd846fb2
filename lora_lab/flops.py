"""Floating-point operations of a forward pass and of a training step, one for a multiplication and one for an addition.

Matrix products are counted, as torch's FlopCounterMode counts them: norms, activations and the optimizer are below a
percent. Attention scores count in full, also where a causal mask throws half of them away.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_lab.counting import ALL_LINEAR, Matrices, Matrix, Targets, check_rank, chosen, lora
from lora_lab.shapes import Shape

# What a linear layer is for, by the names that model families give it.
ROLES = {
    "q": "q_proj query",
    "k": "k_proj key",
    "v": "v_proj value",
    "qkv": "qkv_proj c_attn query_key_value Wqkv",
    "o": "o_proj out_proj dense attn.c_proj",
    "gate": "gate_proj",
    "up": "up_proj c_fc fc1 dense_h_to_4h fc_in",
    "gate_up": "gate_up_proj",
    "down": "down_proj fc2 dense_4h_to_h fc_out mlp.c_proj",
}
_ROLE_OF = {name: role for role, spelled in ROLES.items() for name in spelled.split()}


def role(matrix: Matrix) -> str:
    """What a linear layer of a block is for: a key of ROLES. One of unknown name counts as reading the MLP's input."""
    return _ROLE_OF.get(matrix.name) or _ROLE_OF.get(".".join(matrix.path.split(".")[-2:]), "up")


@dataclass(frozen=True)
class Reach:
    """Which activations of a block a gradient reaches, and so must be kept and worked through backwards."""

    given: bool  # the block's input, which q, k and v read
    q: bool
    k: bool
    v: bool
    o: bool  # the output of attention, which o reads
    mlp: bool  # what gate and up read
    gate: bool
    up: bool
    down: bool  # what down reads

    def into(self, name: str) -> bool:
        """Whether the input of the linear layer with this role needs a gradient."""
        return {"o": self.o, "gate": self.mlp, "up": self.mlp, "gate_up": self.mlp, "down": self.down}.get(
            name, self.given
        )


def reach(adapted: set[str], given: bool, parallel: bool = False) -> Reach:
    """The reach of a gradient in a block whose linear layers with these roles train; `given`: its input needs one.

    Below the first adapter nothing needs a gradient: the backward pass ends there. parallel: the MLP reads the block's
    input, and not what attention made of it.
    """
    q, k, v = (given or bool(adapted & {name, "qkv"}) for name in "qkv")
    attention = q or k or v
    mlp = given if parallel else attention or "o" in adapted
    gate, up = (mlp or bool(adapted & {name, "gate_up"}) for name in ("gate", "up"))
    return Reach(given, q, k, v, o=attention, mlp=mlp, gate=gate, up=up, down=gate or up)


def forward(model: Matrices, length: int, rows: int = 1, rank: int = 0, targets: Targets = ALL_LINEAR) -> int:
    """FLOPs of a forward pass of `rows` sequences of `length` tokens; with a rank, an unmerged adapter's included.

    A matrix [out, in] takes 2 x out x in for each token; attention 4 x length x heads x head size.

    >>> forward([Matrix("w", 4096, 4096)], length=1)
    33554432
    """
    matrices = list(getattr(model, "matrices", model))
    flops = 2 * sum(m.count * m.out_features * m.in_features for m in matrices) * rows * length
    if rank:
        flops += 2 * lora(matrices, rank, targets) * rows * length
    if isinstance(model, Shape):
        flops += 2 * model.vocabulary * model.hidden * rows * length  # the output head
        flops += model.layers * 2 * _product(model, length, rows)
    return flops


def _product(shape: Shape, length: int, rows: int) -> int:
    """One of a block's two attention products: queries by keys, or weights by values."""
    return 2 * rows * length**2 * shape.heads * shape.head_size


def step(
    model: Matrices,
    length: int,
    rows: int = 1,
    how: str = "full",
    rank: int = 8,
    targets: Targets = ALL_LINEAR,
) -> int:
    """FLOPs of a forward and a backward pass. how: "full", or "lora", where the base is frozen.

    Training in full costs 3 forward passes. LoRA saves the gradients of the frozen weights, a third, and whatever lies
    below the first adapter. Matrices alone are taken from the middle of a network: their input needs a gradient.

    >>> from lora_lab import shapes
    >>> llama = shapes.known("Llama-2-7B")
    >>> round(step(llama, 512, how="lora", rank=8, targets="q_proj,v_proj") / step(llama, 512), 3)
    0.671

    Raises ValueError for another `how`, a rank below 1, and targets that the model has not.
    """
    if how == "full":
        return 3 * forward(model, length, rows)
    if how != "lora":
        raise ValueError(f"how must be 'full' or 'lora', got {how!r}")
    matrices = list(getattr(model, "matrices", model))
    adapted = {m.path for m in chosen(matrices, targets)}
    flops = forward(model, length, rows, check_rank(rank), targets)
    if not isinstance(model, Shape):
        return flops + sum(m.count * _backward(m, rows * length, rank, m.path in adapted, True) for m in matrices)
    product = _product(model, length, rows)
    roles = {role(m) for m in matrices if m.path in adapted}
    for blocks, given in ((1, False), (model.layers - 1, True)):
        r = reach(roles, given, model.parallel)
        # Backwards: the weights' gradient if queries or keys need one, then that of each which does.
        products = (r.q or r.k) + r.q + r.k + r.v
        linear = sum(_backward(m, rows * length, rank, m.path in adapted, r.into(role(m))) for m in matrices)
        flops += blocks * (linear + products * product)
    return flops + 2 * model.vocabulary * model.hidden * rows * length


def _backward(matrix: Matrix, tokens: int, rank: int, adapted: bool, given: bool) -> int:
    """Of one frozen matrix and its adapter: the gradient of its input if needed, of B, of Ax, of A."""
    out, into = matrix.out_features, matrix.in_features
    flops = out * into * given
    if adapted:
        flops += rank * (2 * out + into + into * given)
    return 2 * tokens * flops
