"""Proofs about the variants of LoRA, and about bases stored in four bits.

Layers are small and random; torch is imported where it is needed, so that listing the proofs stays quick.
"""

from __future__ import annotations

import math
from statistics import mean

import numpy as np

from lora_lab import counting, experiments, shapes
from lora_lab.config import LoraConfig
from lora_lab.proofs import Result

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # as in `nf4_bits` at its defaults


def _layer(width: int = 64, seed: int = 0, **settings):
    """A Sequential of one linear layer [width, width] without bias, with an adapter; `settings` as LoraConfig's."""
    import torch

    from lora_lab.adapters import add_adapter

    torch.manual_seed(seed)
    return add_adapter(torch.nn.Sequential(torch.nn.Linear(width, width, bias=False)), LoraConfig(**settings))


def _update_of(weight, size: float, rank: int = 8):
    """A random update of this rank whose norm is `size` times the weight's."""
    import torch

    update = torch.randn(len(weight), rank).to(weight.dtype) @ torch.randn(rank, weight.shape[1]).to(weight.dtype)
    return update * (size * weight.norm() / update.norm())


def qlora_trains_adapters(model: str = "Llama-2-7B", rank: int = 8) -> Result:
    """One step over an NF4 base: what moved. And the size of a model's base, its blocks in NF4 and the rest in bf16."""
    import torch

    from lora_lab.adapters import add_adapter
    from lora_lab.quantise import NF4Linear, quantise_linears

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Tanh(), torch.nn.Linear(64, 64))
    add_adapter(quantise_linears(net), LoraConfig(rank=rank, target_modules=("0", "2")))
    base = net[0].base
    before = base.codes.clone()
    trained = [p for p in net.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    x = torch.randn(16, 64, requires_grad=True)
    net(x).square().mean().backward()
    with torch.no_grad():
        for p in trained:
            p -= 0.1 * p.grad
    shape = shapes.known(model)
    inside = sum(m.parameters for m in shape.matrices)
    return {
        "trained": sum(p.numel() for p in trained),
        "bf16_bytes": 2 * shape.total,
        "nf4_bytes": inside * NF4_BITS / 8 + 2 * (shape.total - inside),
        "the four-bit codes did not move": isinstance(base, NF4Linear) and torch.equal(base.codes, before),
        "adapters did": any(not torch.equal(p, old) for p, old in zip(trained, start, strict=True)),
        "adapters are float32": {p.dtype for p in trained} == {torch.float32},
        "the gradient went through the base": bool(x.grad.abs().max() > 0),
    }


def nf4_bits(block: int = 64, group: int = 256, billions: float = 65) -> Result:
    """Bits for each number of an NF4 weight, scales and all, without and with double quantisation."""
    import torch

    from lora_lab.quantise import quantise

    single, double = 4 + 32 / block, 4 + 8 / block + 32 / (block * group)
    stored = quantise(torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))).bits
    return {
        "without_double": single,
        "with_double": double,
        "saved": single - double,
        "saved_bytes": (single - double) * billions * 1e9 / 8,
        "our quantiser stores as many": abs(stored - double) < 1e-3,
    }


def nf4_against_even_levels(block: int = 64, seed: int = 0) -> Result:
    """Relative error of 4-bit rounding with NF4's levels and with evenly spaced ones, on normal and on uniform numbers.

    Both scale each block by its largest absolute value. The even levels are -7/7 ... 7/7, as in int4.
    """
    from lora_lab.quantise import LEVELS

    nf4, even = LEVELS.double().numpy(), np.arange(-7, 8) / 7
    random = np.random.default_rng(seed)
    normal, flat = random.standard_normal((512, block)), random.uniform(-1, 1, (512, block))

    def error(blocks: np.ndarray, levels: np.ndarray) -> float:
        scales = np.abs(blocks).max(axis=1, keepdims=True)
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, blocks / scales)
        return float(np.linalg.norm(levels[nearest] * scales - blocks) / np.linalg.norm(blocks))

    found = {
        f"{kind}_{name}": error(x, y)
        for kind, x in (("normal", normal), ("flat", flat))
        for name, y in (("nf4", nf4), ("even", even))
    }
    return found | {
        "levels_above": int((nf4 > 0).sum()),
        "levels_below": int((nf4 < 0).sum()),
        "gap_at_zero": float(nf4[8] - nf4[7]),
        "gap_at_the_end": float(nf4[15] - nf4[14]),
        "NF4 is better on normal numbers": found["normal_nf4"] < found["normal_even"],
        "even levels are better on uniform numbers": found["flat_even"] < found["flat_nf4"],
    }


def qlora_step_recorded(label: str = "QLoRA (NF4 base)", beside: str = "LoRA") -> Result:
    """Recorded: `variant_costs`. Time of a step in parts of a LoRA step's, and bytes of the frozen matrices."""
    rows = {row["label"]: row for row in experiments.recorded("variant_costs")["rows"]}
    chosen, lora = rows[label], rows[beside]
    return {
        "step": chosen["step"],
        "matrices_bytes": chosen["matrix_bytes"],
        "lora_matrices_bytes": lora["matrix_bytes"],
        "a step takes longer": chosen["step_low"] > lora["step_high"],
        "the matrices are smaller": chosen["matrix_bytes"] < lora["matrix_bytes"] / 7,
        "what is kept of the batch is not": chosen["kept_bytes"] == lora["kept_bytes"],
    }


def dora_row_lengths(size: float = 0.2, model: str = "Llama-2-7B") -> Result:
    """Mean change of the row lengths of W by a random B of this size, LoRA and DoRA; and DoRA's extra parameters."""
    import torch

    changes = {}
    for name, switch in (("lora", False), ("dora", True)):
        layer = _layer(rank=4, use_dora=switch)[0]
        torch.nn.init.normal_(layer.matrices("default")[1], std=size, generator=torch.Generator().manual_seed(1))
        weight = layer.base.weight.detach()
        lengths = (weight + layer.delta("default").detach()).norm(dim=1)
        changes[name] = float((lengths / weight.norm(dim=1) - 1).abs().mean())
    shape = shapes.known(model)
    return {
        "lora_change": changes["lora"],
        "dora_change": changes["dora"],
        "magnitudes": sum(m.count * m.out_features for m in shape.matrices),
        "lora_parameters": counting.lora(shape, 8),
        "whatever B A is, DoRA's rows keep the length of m": changes["dora"] < 1e-5,
        "LoRA's rows do not": changes["lora"] > 0.01,
    }


def dora_unmerged(width: int = 256, rank: int = 8, tokens: int = 1) -> Result:
    """FLOPs of one layer's forward for `tokens` tokens, in parts of the plain layer's; torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lora_lab.merging import merge

    def flops(net) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(tokens, width))
        return counter.get_total_flops()

    lora, dora = (_layer(width, rank=rank, use_dora=switch) for switch in (False, True))
    plain = 2 * width * width * tokens
    found = {"lora": flops(lora) / plain, "dora": flops(dora) / plain}
    merge(dora)
    return found | {
        "merged": flops(dora) / plain,
        "merged it costs what the plain layer costs": flops(dora) == plain,
        "unmerged it costs more than the rank times a plain layer, for one token": found["dora"] > rank,
    }


def pissa_switched_off(rank: int = 8, width: int = 64) -> Result:
    """PiSSA with the rest of W in W's place, as in the paper: how far from W with the adapter off, or put on W itself.

    W is random. Ours keeps W and subtracts the start: off, it is W to the bit.
    """
    import torch

    from lora_lab.adapters import disable_adapters

    ours = _layer(width, rank=rank, alpha=rank, init_lora_weights="pissa")
    weight = ours[0].base.weight.detach()
    a, b = (m.detach() for m in ours[0].matrices("default"))
    rest = weight - b @ a
    x = torch.randn(4, width)
    with torch.no_grad():
        wanted, on = torch.nn.functional.linear(x, weight), ours(x)
        with disable_adapters(ours):
            off = torch.equal(ours(x), wanted)
    return {
        "missing": float((rest - weight).norm() / weight.norm()),
        "on_the_original": float((weight + b @ a - weight).norm() / weight.norm()),
        "switched on, the start changes nothing": torch.allclose(on, wanted, atol=1e-5),
        "the start is the largest part: no matrix of that rank is nearer": bool(
            abs((rest.norm() - torch.linalg.svdvals(weight)[rank:].norm()) / weight.norm()) < 1e-5
        ),
        "ours, switched off, is the base to the bit": off,
    }


def vera_count(model: str = "Llama-2-7B", rank: int = 256, lora_rank: int = 8) -> Result:
    """What VeRA trains on all linear layers, one number for each row of A and each output, beside LoRA.

    The same sum is held against a small network on which VeRA is put.
    """
    import torch

    from lora_lab.training_variants import add_vera

    net = add_vera(torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Linear(40, 16)), 8, ("0", "1"))
    shape = shapes.known(model)
    layers = sum(m.count for m in shape.matrices)
    vera = sum(m.count * (m.out_features + rank) for m in shape.matrices)
    lora = counting.lora(shape, lora_rank)
    return {
        "vera": vera,
        "lora": lora,
        "share": vera / lora,
        "per_more_rank": layers,
        "VeRA is smaller at a much higher rank": vera < lora and rank > lora_rank,
        "a small network trains as the sum says": sum(p.numel() for p in net.parameters() if p.requires_grad)
        == (40 + 8) + (16 + 8),
    }


def lora_fa_keeps(width: int = 256, rank: int = 8, tokens: int = 640) -> Result:
    """Numbers that autograd keeps of one layer's forward, A trained and A frozen; and what a frozen A cannot reach."""
    import torch

    from lora_lab.training_variants import freeze_a

    def kept(net) -> int:
        tensors = {}
        x = torch.zeros(tokens, width, requires_grad=True)
        own = {p.data_ptr() for p in net.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.setdefault(t.data_ptr(), t), lambda t: t):
            net(x)
        return sum(t.numel() for place, t in tensors.items() if place not in own)

    lora, frozen = _layer(width, rank=rank), freeze_a(_layer(width, rank=rank))
    saved = kept(lora) - kept(frozen)
    a = lora[0].matrices("default")[0].detach().double()
    wish = torch.randn(width, width, dtype=torch.double)
    basis = torch.linalg.qr(a.T).Q
    outside = float((wish - wish @ basis @ basis.T).norm() / wish.norm())
    trained = sum(p.numel() for p in frozen.parameters() if p.requires_grad)
    return {
        "kept_by_lora": kept(lora),
        "kept_with_frozen_a": kept(frozen),
        "saved": saved,
        "trained": trained,
        "out_of_reach": outside,
        "the layer's whole input need not be kept": saved == tokens * width,
        "a random update is out of reach by sqrt(1 - rank / in)": abs(outside - math.sqrt(1 - rank / width)) < 0.01,
    }


def variants_recorded(
    first: str = "LoRA", second: str = "DoRA", third: str = "PiSSA", fourth: str = "VeRA", judged: str = "LoRA"
) -> Result:
    """Recorded: `variants`, each at its own best rate, five seeds: mean losses (nats), and how many beat `judged`.

    One beats another if all its five losses are below all five of the other.
    """
    rows = experiments.best_rows(experiments.recorded("variants")["rows"])
    losses = {label: [row["loss"] for row in group] for (_, label), group in rows.items()}
    winners = [name for name in losses if name not in (judged, "full") and max(losses[name]) < min(losses[judged])]
    return {
        "first": mean(losses[first]),
        "second": mean(losses[second]),
        "third": mean(losses[third]),
        "fourth": mean(losses[fourth]),
        "winners": len(winners),
        "no variant beats it": not winners,
    }


def merge_into_nf4(size: float = 0.01, width: int = 256) -> Result:
    """A merge stored again in NF4 and in bfloat16: the error as a share of the update, and what is kept along it.

    `size`: norm of the update over that of W, which is what its storage type reads.
    """
    import torch

    from lora_lab.quantise import dequantise, quantise

    torch.manual_seed(0)
    found = {}
    for name, store in (("nf4", lambda w: dequantise(quantise(w))), ("bf16", torch.Tensor.bfloat16)):
        base = store(torch.randn(width, width)).double()
        update = _update_of(base, size)
        change = store((base + update).float()).double() - base
        found[f"{name}_lost"] = float((change - update).norm() / update.norm())
        found[f"{name}_kept"] = float((change * update).sum() / update.square().sum())
    return found | {
        "NF4 is as wrong as no adapter at all": found["nf4_lost"] > 0.9,
        "bfloat16 keeps the update but for noise": found["bf16_kept"] > 0.95 and found["bf16_lost"] < 0.3,
    }


def merge_into_original(size: float = 0.05, tail: float = 1.0) -> Result:
    """An adapter trained over NF4(W), merged into W itself: how far that is from what was trained, in updates.

    W is normal numbers raised to the power `tail`, sign kept: above 1 it has outliers.
    """
    import torch

    from lora_lab.quantise import dequantise, quantise

    torch.manual_seed(0)
    weight = torch.randn(256, 256)
    weight = weight.sign() * weight.abs() ** tail
    base = dequantise(quantise(weight))
    update = _update_of(base, size)
    trained = base + update
    original = float((weight + update - trained).norm() / update.norm())
    own = float(((base + update).bfloat16().float() - trained).norm() / update.norm())
    rounding = float((base - weight).norm() / weight.norm())
    return {
        "rounding_of_w": rounding,
        "off_on_the_original": original,
        "off_in_16_bits": own,
        "NF4 moves W by a tenth": 0.05 < rounding < 0.15,
        "the original base gives another model": original > 1,
        "its own base in 16 bits gives nearly the same": own < 0.1,
    }
