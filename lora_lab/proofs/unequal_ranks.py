"""Proofs about adapters whose ranks differ: from layer to layer, by need or by a pattern, and from swap to swap.

Layers are small and random; torch is imported where it is needed, so that listing the proofs stays quick.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from lora_lab.config import LoraConfig
from lora_lab.proofs import Result


def ranks_by_need(width: int = 64, rank: int = 4, hardest: int = 9, noise: float = 0.02) -> Result:
    """Four wanted updates of ranks 1, 2, 4 and `hardest`, with noise: the same number of directions spent in two ways.

    equal: `rank` for each, the share of the squares that is missed. by_need: the strongest directions of all four
    together, which is what AdaLoRA aims for (Zhang et al. 2023, section 3); ranks: how many each then has.
    """
    random, strengths = np.random.default_rng(0), []
    for needed in (1, 2, 4, hardest):
        left, right = (np.linalg.qr(random.standard_normal((width, needed)))[0] for _ in range(2))
        wanted = left @ right.T + noise * random.standard_normal((width, width)) / width**0.5
        strengths.append(np.linalg.svd(wanted, compute_uv=False))
    squares = np.array(strengths) ** 2  # [update, direction], the strongest first
    spent = 4 * rank
    chosen = squares >= np.sort(squares, axis=None)[-spent]
    return {
        "equal": float(squares[:, rank:].sum() / squares.sum()),
        "by_need": float(squares[~chosen].sum() / squares.sum()),
        "ranks": ", ".join(map(str, chosen.sum(axis=1))),
        "spent": int(chosen.sum()),
        "as many directions as with equal ranks": int(chosen.sum()) == spent,
        "by need misses less": bool(squares[~chosen].sum() < 0.1 * squares[:, rank:].sum()),
    }


def _two_layers(**settings):
    """Linear layers "attn" and "mlp", 128 wide, one after the other, with an adapter that does something."""
    import torch

    from lora_lab.adapters import add_adapter

    torch.manual_seed(0)
    net = torch.nn.Sequential(OrderedDict(attn=torch.nn.Linear(128, 128), mlp=torch.nn.Linear(128, 128)))
    return add_adapter(net, LoraConfig(init_lora_weights=False, **settings)).eval()


def rank_pattern_factors(rank: int = 4, mlp_rank: int = 16, alpha: float = 8.0) -> Result:
    """A rank of its own for "mlp": the factors in front of B A without and with an alpha of its own.

    And a reader of the file that drops one of the two patterns: does it notice? Ours stands for it.
    """
    import torch

    from lora_lab.merging import unload
    from lora_lab.storage import load_adapter, save_adapter

    wider = {"rank": rank, "alpha": alpha, "rank_pattern": {"mlp": mlp_rank}}
    plain = _two_layers(**wider)
    level = _two_layers(**wider, alpha_pattern={"mlp": alpha * mlp_rank / rank})
    x = torch.randn(4, 128)
    wanted, base = level(x).detach(), unload(copy.deepcopy(level))
    said, off = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(level, folder)
        file = Path(folder) / "adapter_config.json"
        written = json.loads(file.read_text(encoding="utf-8"))
        for dropped in ("rank_pattern", "alpha_pattern"):
            file.write_text(json.dumps(written | {dropped: {}}), encoding="utf-8")
            try:
                loaded = load_adapter(copy.deepcopy(base), folder).eval()
                said[dropped], off[dropped] = "", float((loaded(x) - wanted).detach().norm())
            except ValueError as error:
                said[dropped] = str(error)
    return {
        "attn_factor": plain.attn.scaling["default"],
        "mlp_factor": plain.mlp.scaling["default"],
        "times_smaller": plain.attn.scaling["default"] / plain.mlp.scaling["default"],
        "mlp_alpha": alpha * mlp_rank / rank,
        "mlp_factor_with_its_own_alpha": level.mlp.scaling["default"],
        "mlp_parameters": sum(m.numel() for m in plain.mlp.matrices("default")),
        "an alpha of its own makes the factors level": level.mlp.scaling == level.attn.scaling,
        "the file keeps both patterns": {"rank_pattern", "alpha_pattern"} <= {k for k, v in written.items() if v},
        "without the rank pattern the shapes do not fit, and it is said": bool(said["rank_pattern"]),
        "without the alpha pattern nothing is said and the output is another": not said["alpha_pattern"]
        and off["alpha_pattern"] > 0.1,
    }


def hot_swap_padding(rank: int = 8, room: int = 64, alpha: float = 16.0) -> Result:
    """An adapter of `rank` swapped into a model that has room for `room`: outputs, factor, and what the zeros take.

    if_divided_by_the_room: the factor by a program that reads the rank off the padded shape.
    """
    import torch

    from lora_lab.hot_swap import hot_swap, prepare_hot_swap
    from lora_lab.storage import save_adapter

    net = _two_layers(rank=room // 2, alpha=alpha)
    prepare_hot_swap(net, room)
    places = {name: (id(p), p.shape) for name, p in net.named_parameters()}
    x, other = torch.randn(4, 128), _two_layers(rank=rank, alpha=alpha)
    with torch.no_grad():
        for layer in (other.attn, other.mlp):
            torch.nn.init.normal_(layer.matrices("default")[1])
        first, wanted = net(x), other(x)
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(other, folder)
            hot_swap(net, folder)
        swapped = net(x)
    own, padded = (sum(m.numel() for m in n.mlp.matrices("default")) for n in (other, net))
    factor = float(net.mlp.scaling["default"])
    return {
        "factor": factor,
        "if_divided_by_the_room": alpha / room,
        "times_too_weak": factor / (alpha / room),
        "own_numbers": own,
        "padded_numbers": padded,
        "times_the_work": padded / own,
        "the swapped model is the other one": torch.allclose(swapped, wanted, atol=1e-5),
        "and not the one before": not torch.allclose(swapped, first, atol=1e-2),
        "same parameters, same shapes: nothing to compile again": places
        == {name: (id(p), p.shape) for name, p in net.named_parameters()},
    }
