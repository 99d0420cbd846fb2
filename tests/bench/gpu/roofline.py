"""Part C: how fast the card multiplies and moves, where the time of a step goes, and what unmerged adapters cost."""

from __future__ import annotations

import contextlib
import itertools
import time
from functools import partial

import peft
import torch
from torch import Tensor, nn

from lora_lab import chunked_loss, fused
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge_and_unload

from . import build, card
from .bench import Bench, Spec
from .build import Adapter
from .sizes import Sizes

FULL_CACHE = 2**28  # bytes of operands that take turns, so that no cache holds them all
WIDE = Adapter("all-linear", 16)
PROFILED = ("peft default", "ours plain", "ours fused layer", "ours fused layer + chunked logits")
DECODED = ("base alone", "unmerged", "merged")


def specs(sizes: Sizes) -> list[Spec]:
    """Products and passes, then one layer, then a whole step, then generation."""
    model, found = sizes.models[0], []

    def add(name: str, make, about: float = 0.5, **fixed) -> None:
        found.append(Spec(f"C/{model}/{name}", about, partial(make, model=model, **fixed), turn=3))

    for name, tokens in itertools.product(("q_proj", "up_proj", "down_proj", "head"), sizes.tokens):
        add(f"W x, {name}, {tokens} tokens", product, matrix=name, tokens=tokens)
    for letter, rank in itertools.product("AB", sorted({*sizes.ranks, WIDE.rank})):
        add(f"{letter} x, rank {rank}", low_rank, letter=letter, rank=rank)
    for what in PASSES:
        add(what, one_pass, what=what)
    for name, side in itertools.product(("q_proj", "up_proj", "down_proj"), LAYERS):
        add(f"layer {name}, {side}", layer, matrix=name, side=side)
    for what in PROFILED:
        add(f"step, {what}", profiled, 10, what=what)
    for batch, what in itertools.product(sizes.batches, DECODED):
        add(f"decode batch {batch}, {what}", decode, 6, batch=batch, what=what)
    return found


def size_of(b: Bench, model: str, name: str) -> tuple[int, int]:
    """[out, in] of a linear layer by its last name; "head" is the output head."""
    shape = b.shape(model)
    if name == "head":
        return shape.vocabulary, shape.hidden
    matrix = next(m for m in shape.matrices if m.name == name)
    return matrix.out_features, matrix.in_features


def operands(b: Bench, *sizes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    """Random matrices of these sizes in the base's type, several sets of them, to be used in turn."""
    dtype = getattr(torch, b.sizes.compute)
    one = sum(rows * columns for rows, columns in sizes) * dtype.itemsize
    count = 2 if b.sizes.tiny else max(2, min(16, -(-FULL_CACHE // one)))
    return [tuple(torch.randn(*size, dtype=dtype, device=b.device) for size in sizes) for _ in range(count)]


def timed(b: Bench, call, sets: list, moved: int, flops: int = 0) -> dict:
    """A row of `call(*set)`, the sets in turn: seconds, FLOP/s and bytes/s."""
    turn = itertools.cycle(sets)
    row = card.summary(card.times(lambda: call(*next(turn)), b.device, b.sizes.repeats))
    row |= {"gbs": moved / row["seconds"] / 1e9, "flops": flops or None, "more": {"bytes": moved}}
    return row | {"tflops": flops / row["seconds"] / 1e12 if flops else None}


@torch.no_grad()
def multiply(b: Bench, tokens: int, out: int, into: int) -> dict:
    """x [tokens, in] times W [out, in], as nn.Linear does it."""
    sets = operands(b, (tokens, into), (out, into))
    moved = (tokens * into + out * into + tokens * out) * sets[0][0].itemsize
    return timed(b, nn.functional.linear, sets, moved, 2 * tokens * out * into) | {"rows": tokens}


def product(b: Bench, model: str, matrix: str, tokens: int) -> dict:
    """W x of one of the model's matrices."""
    return multiply(b, tokens, *size_of(b, model, matrix)) | {"what": f"W x, {matrix}", "model": model}


def low_rank(b: Bench, model: str, letter: str, rank: int) -> dict:
    """A x or B (A x) at the width of the residual stream, for a step's tokens."""
    width = b.shape(model).hidden
    out, into = (rank, width) if letter == "A" else (width, rank)
    row = multiply(b, b.sizes.rows * b.sizes.length, out, into)
    return row | {"what": f"{letter} x", "model": model, "rank": rank}


PASSES = {  # what -> (how many tensors it reads and writes, the call); all of the size of a step's activations
    "add": (3, lambda x, y, out: torch.add(x, y, out=out)),
    "add in place": (3, lambda x, y, out: x.add_(y)),
    "scale": (2, lambda x, y, out: torch.mul(x, 0.5, out=out)),
    "copy": (2, lambda x, y, out: out.copy_(x)),
    "cast to float32": (3, lambda x, y, out: x.float()),  # a float32 is two of them
}


@torch.no_grad()
def one_pass(b: Bench, model: str, what: str) -> dict:
    """An elementwise pass over [tokens, intermediate]; "copy" is over a gigabyte."""
    tensors, call = PASSES[what]
    size = (b.sizes.rows * b.sizes.length, b.shape(model).intermediate)
    if what == "copy":
        size = (b.sizes.copy // 2**10, 2**9)
    sets = operands(b, size, size, size)
    return timed(b, call, sets[:2], tensors * sets[0][0].nbytes) | {"what": what, "model": model}


LAYERS = ("frozen alone", "peft", "ours plain", "ours fused layer")


def layer(b: Bench, model: str, matrix: str, side: str) -> dict:
    """Forward and backward of one adapted layer in the middle of a network, under autocast as in training."""
    out, into = size_of(b, model, matrix)
    dtype, tokens = getattr(torch, b.sizes.compute), b.sizes.rows * b.sizes.length
    torch.manual_seed(0)
    with b.device:
        holder = nn.Sequential(nn.Linear(into, out, bias=False, dtype=dtype)).requires_grad_(False)
        x = torch.randn(tokens, into, dtype=dtype).requires_grad_()
        grad = torch.randn(tokens, out, dtype=dtype)
    if side == "peft":
        config = peft.LoraConfig(r=WIDE.rank, lora_alpha=2 * WIDE.rank, target_modules=["0"])
        call = peft.get_peft_model(holder, config, "first").base_model.model[0]
    elif side != "frozen alone":
        add_adapter(holder, LoraConfig(rank=WIDE.rank, alpha=2 * WIDE.rank, target_modules=["0"]))
        fused.fuse(holder, side == "ours fused layer")
    if side != "peft":
        call = holder[0]
    trained = [p for p in call.parameters() if p.requires_grad]

    def step() -> None:
        x.grad = None
        for p in trained:
            p.grad = None
        with autocast(b):
            y = call(x)
        y.backward(grad)

    row = card.summary(card.times(step, b.device, b.sizes.repeats))
    return row | {"what": side, "model": model, "targets": matrix, "rank": WIDE.rank, "rows": tokens}


def autocast(b: Bench):
    """What training computes in: bfloat16 where the base's weights are."""
    return torch.autocast(b.device.type, dtype=torch.bfloat16, enabled=b.sizes.compute == "bfloat16")


def profiled(b: Bench, model: str, what: str) -> dict:
    """Shares of a LoRA step's time on the device by what it is spent on, from torch's profiler."""
    network = b.network(model)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if b.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    side = "peft" if what.startswith("peft") else "ours"
    with build.adapted(network, WIDE, side) as trained, contextlib.ExitStack() as stack:
        if side == "ours":
            fused.fuse(network, "fused" in what)
            stack.enter_context(chunked_loss.installed(network, b.sizes.chunk if "chunked" in what else None))
        optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4, fused=True)
        rows = build.batches(network, b.sizes, 1)
        ids = torch.stack([row["input_ids"] for row in rows]).to(b.device)
        trained.train()

        def step() -> None:
            with autocast(b):
                loss = trained(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        took = []
        for _ in range(3):
            start = time.perf_counter()
            step()
            card.wait(b.device)
            took.append(time.perf_counter() - start)
        with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
            step()
            card.wait(b.device)
        spent = by_kind(profile, b, network.config.vocab_size)
    total = sum(spent.values())
    if not total:
        raise RuntimeError("the profiler saw nothing on the device")
    return {
        "what": what,
        "model": model,
        "targets": WIDE.targets,
        "rank": WIDE.rank,
        "seconds": took[-1],
        "count": 1,
        "shares": {kind: seconds / total for kind, seconds in sorted(spent.items(), key=lambda item: -item[1])},
        "more": {"device_seconds": total},
        "peak_memory": card.peak_memory(b.device),
    } | b.cost(model, WIDE, took[-1])


def by_kind(profile, b: Bench, vocabulary: int) -> dict[str, float]:
    """Seconds on the device, each kernel counted for the operation that launched it."""
    spent: dict[str, float] = {}
    for event in profile.key_averages(group_by_input_shape=True):
        on_device = event.self_device_time_total if b.device.type == "cuda" else event.self_cpu_time_total
        if event.key.startswith("aten::") and on_device > 0:
            sizes = {n for shape in event.input_shapes if isinstance(shape, (list, tuple)) for n in shape}
            kind = kind_of(event.key.removeprefix("aten::"), sizes, vocabulary)
            spent[kind] = spent.get(kind, 0.0) + on_device / 1e6
    return spent


def kind_of(operation: str, sizes: set, vocabulary: int) -> str:
    """What an operation is for, from its name and the sizes of its tensors."""
    if operation in ("mm", "addmm", "addmm_", "linear", "matmul"):
        if WIDE.rank in sizes:
            return "adapter matmuls"
        return "output head" if vocabulary in sizes else "base matmuls"
    if operation in ("bmm", "baddbmm", "_softmax", "_softmax_backward_data") or "attention" in operation:
        return "attention"
    if "adam" in operation:
        return "optimizer"
    # The token embedding has the vocabulary's size as well.
    if operation in ("copy_", "_to_copy", "clone", "contiguous", "cat", "embedding", "index_select"):
        on_logits = vocabulary in sizes and operation not in ("embedding", "index_select")
        return "loss" if on_logits else "casts and copies"
    if any(word in operation for word in ("log_softmax", "nll_loss", "logsumexp")) or vocabulary in sizes:
        return "loss"
    return "elementwise"


def decode(b: Bench, model: str, batch: int, what: str) -> dict:
    """Seconds for one more token of each of `batch` texts, the keys and values of the tokens before kept."""
    network = b.network(model)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(network.config.vocab_size, (batch, b.sizes.context), generator=draw).to(b.device)
    with contextlib.ExitStack() as stack:
        if what != "base alone":
            stack.enter_context(build.adapted(network, WIDE, "ours"))
        if what == "merged":  # B is zero: the weights stay what they are
            merge_and_unload(network)
        network.eval()
        # Once to warm up: cuDNN plans its attention anew for each length that it has not seen, which takes far longer.
        for _ in range(2):
            found = continued(b, network, ids, b.sizes.repeats + 3)
        peak = card.peak_memory(b.device)
    if what == "merged":  # its weights are other tensors now
        b.forget()
    row = card.summary(found[3:])  # the first reads the whole context
    row |= {"what": f"decode, {what}", "model": model, "rows": batch, "targets": WIDE.targets, "rank": WIDE.rank}
    return row | {"tokens_per_second": batch / row["seconds"], "peak_memory": peak}


@torch.inference_mode()
def continued(b: Bench, network: nn.Module, ids: Tensor, steps: int) -> list[float]:
    """Seconds of each of `steps` forward passes: the whole context, then a token at a time, the likeliest."""
    from transformers import DynamicCache

    cache, found = DynamicCache(config=network.config), []
    for _ in range(steps):
        card.wait(b.device)
        start = time.perf_counter()
        logits = network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(-1)
        card.wait(b.device)
        found.append(time.perf_counter() - start)
    return found
