"""Variants of how an adapter is trained: LoRA+ (a rate for B alone), LoRA-FA (A frozen), VeRA (shared random A and B).

rsLoRA, DoRA and PiSSA are settings of `LoraConfig`; QLoRA is a LoRA on `quantise.quantise_linears`.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from lora_lab.adapters import add_adapter
from lora_lab.config import ALL_LINEAR, LoraConfig
from lora_lab.layers import LoraEmbedding, LoraLinear
from lora_lab.matching import find_targets
from lora_lab.record import check_known, own_parameters, record_of
from lora_lab.variants import Vera


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0, embedding_lr: float = 1e-6) -> list[dict]:
    """LoRA+: the active adapters' parameters as an optimizer's groups, B's learning rate `ratio` times A's.

    As in peft's `create_loraplus_optimizer`: vectors (DoRA's magnitudes, biases) go with B, whole saved matrices with
    A, adapters of embeddings have a small rate of their own. Raises ValueError for a rate or ratio not above 0.
    Source: Hayou et al. 2024 (LoRA+), section 4; 16 (2^4) is what its authors recommend.
    """
    if not lr > 0 or not ratio > 0:
        raise ValueError(f"lr and ratio must be above 0, got {lr} and {ratio}")
    record = record_of(model)
    embeddings = {
        id(p) for layer in record.layers.values() if isinstance(layer, LoraEmbedding) for p in layer.parameters()
    }
    groups = {lr: [], lr * ratio: [], embedding_lr: []}
    found = {path: p for name in record.active for path, p in own_parameters(record, name).items()} | record.biases
    for path, p in found.items():
        if p.requires_grad:
            beside_b = path.endswith(".B") or p.ndim == 1
            groups[embedding_lr if id(p) in embeddings else lr * ratio if beside_b else lr].append(p)
    return [{"params": params, "lr": rate} for rate, params in groups.items() if params]


def freeze_a(model: nn.Module, name: str = "default") -> nn.Module:
    """LoRA-FA: from now on adapter `name` trains B alone; A stays the random matrix it is. Returns the same model.

    What A's gradient needs, the layer's input, is then not kept for the backward pass: only A x is. peft's optimizer
    of that name also divides B's gradient by s^2 A A^T, which this does not. Source: Zhang et al. 2023 (LoRA-FA).
    """
    record = record_of(model)
    check_known(record, [name])
    matrices = [
        layer.matrices(name)[0].requires_grad_(False) for layer in record.layers.values() if name in layer.scaling
    ]
    frozen = set(map(id, matrices))  # no more among what set_adapter makes trainable again
    record.parameters[name] = [p for p in record.parameters[name] if id(p) not in frozen]
    return model


def add_vera(
    model: nn.Module,
    rank: int = 256,
    target_modules: tuple[str, ...] | str = ALL_LINEAR,
    name: str = "default",
    seed: int = 0,
    d_initial: float = 0.1,
) -> nn.Module:
    """Add a VeRA adapter, in place: trained are d [rank] and b [out] of each layer. Returns the same model.

    The shared A [rank, widest in] and B [widest out, rank] are Kaiming uniform and depend on `seed` alone, as peft's
    on `projection_prng_key`; each layer uses the first columns of A and rows of B that fit. Raises ValueError for
    targets that are not linear layers. Source: Kopiczko et al. 2024 (VeRA); peft 0.21, `tuners/vera`.
    """
    config = LoraConfig(rank=rank, alpha=rank, target_modules=target_modules)  # a scaling of 1
    targets, _ = find_targets(model, config)
    odd = next((f"'{p}' is a {type(m).__name__}" for p, m in targets.items() if not isinstance(m, nn.Linear)), None)
    if odd:
        raise ValueError(f"VeRA is for linear layers here: {odd}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="rank ")  # of a wide rank VeRA trains one number per direction
        add_adapter(model, config, name)
    record = record_of(model)
    layers = [layer for layer in record.layers.values() if name in layer.scaling]
    dice = torch.Generator().manual_seed(seed)
    shared_a = _kaiming(rank, max(layer.in_features for layer in layers), dice)
    shared_b = _kaiming(max(layer.out_features for layer in layers), rank, dice)
    record.parameters[name] = []
    for layer in layers:
        _share(layer, name, shared_a, shared_b)
        layer.variants[name] = Vera(layer, name, d_initial)
        record.parameters[name] += layer.variants[name].parameters()
    return model


def _kaiming(rows: int, columns: int, dice: torch.Generator) -> Tensor:
    bound = math.sqrt(6 / columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=dice)


def _share(layer: LoraLinear, name: str, shared_a: Tensor, shared_b: Tensor) -> None:
    a, b = layer.matrices(name)
    place = {"device": a.device, "dtype": a.dtype}
    layer.A[name].weight = nn.Parameter(shared_a[:, : layer.in_features].to(**place), requires_grad=False)
    layer.B[name].weight = nn.Parameter(shared_b[: layer.out_features].to(**place), requires_grad=False)
