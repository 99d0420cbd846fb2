"""Proofs about using adapters: merging, serving, files, evaluation, and what fine-tuning forgets.

Layers are small and random; torch is imported where it is needed, so that listing the proofs stays quick.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np

from lora_lab import counting, experiments, flops, lowrank, serving, shapes
from lora_lab.config import LoraConfig
from lora_lab.proofs import Result


def _net(seed: int = 0, size: float = 0.3, width: int = 32, layers: int = 1, **settings):
    """Linear layers [width, width] in a row, each with an adapter whose B is random: one that does something.

    `size`: norm of each update over that of its weight.
    """
    import torch

    from lora_lab.adapters import add_adapter
    from lora_lab.layers import LoraLayer

    torch.manual_seed(seed)
    net = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    add_adapter(net, LoraConfig(**{"rank": 4, "alpha": 8} | settings))
    with torch.no_grad():
        for layer in (m for m in net if isinstance(m, LoraLayer)):
            b = torch.nn.init.normal_(layer.matrices("default")[1])
            b *= size * layer.base.weight.norm() / layer.delta("default").norm()
    return net.eval()


def _share(one, other) -> float:
    """Norm of `one` over the norm of `other`."""
    return float(one.norm() / other.norm())


def merge_rounding(size: float = 0.01, width: int = 256) -> Result:
    """What storing W + s B A costs, as a share of the update, in float32 and bfloat16; and for ten times the update."""
    import torch

    from lora_lab.merging import merge

    found = {}
    half = torch.bfloat16
    for name, dtype, times in (("fp32", torch.float32, 1), ("bf16", half, 1), ("bf16_large", half, 10)):
        net = _net(size=size * times, width=width)
        net[0].base.to(dtype)
        before, update = net[0].base.weight.detach().double(), net[0].delta("default").detach().double()
        merge(net)
        found[f"{name}_lost"] = _share(net[0].base.weight.detach().double() - before - update, update)
    return found | {
        "float32 loses next to nothing": found["fp32_lost"] < 1e-4,
        "ten times the update loses about a tenth": 0.07 < found["bf16_large_lost"] / found["bf16_lost"] < 0.14,
    }


def unmerged_cost(model: str = "Llama-2-7B", rank: int = 8, length: int = 512) -> Result:
    """FLOPs that an unmerged adapter adds to a forward pass, as a share of it: all linear layers, and q and v alone."""
    shape = shapes.known(model)
    plain = flops.forward(shape, length)
    everywhere, few = (
        flops.forward(shape, length, rank=rank, targets=t) / plain - 1 for t in ("all-linear", "q_proj,v_proj")
    )
    one = [counting.Matrix("w", 1024, 1024)]
    return {
        "all_linear": everywhere,
        "q_and_v": few,
        "one_layer_of_1024": flops.forward(one, 1, rank=rank) / flops.forward(one, 1) - 1,
        "q and v cost less": few < everywhere,
    }


def unmerge_by_subtraction(size: float = 0.05, cycles: int = 100) -> Result:
    """Different adapters added to a bfloat16 weight and subtracted again: error as a share of an update."""
    import torch

    torch.manual_seed(0)
    weight = torch.randn(128, 128).bfloat16()
    here, path = weight, []
    for _ in range(cycles):
        update = torch.randn(128, 8) @ torch.randn(8, 128)
        update *= size * weight.float().norm() / update.norm()
        here = ((here + update).bfloat16() - update).bfloat16()
        path.append(_share(here.float() - weight.float(), weight.float()) / size)
    return {
        "after_one": path[0],
        "after_all": path[-1],
        "grew": path[-1] / path[0],
        "entries_changed": float((here != weight).float().mean()),
        "it grows about as the root of the cycles": 0.5 < path[-1] / path[0] / math.sqrt(cycles) < 1.5,
    }


def thousand_adapters(count: int = 1000, model: str = "Llama-3.1-8B", rank: int = 16, room: int = 100) -> Result:
    """Bytes (bfloat16) of one base and `count` adapters, and of as many merged models; and a cache for `room`.

    Requests are drawn with popularity 1 / (1 + number of the customer); the cache drops what went unused longest.
    """
    shape = shapes.known(model)
    base, adapter = 2 * shape.total, 2 * counting.lora(shape, rank)
    missing = serving.fetched(serving.zipf_requests(count, 1.0, 20_000), room).mean()
    return {
        "adapter_bytes": adapter,
        "beside_bytes": base + count * adapter,
        "merged_bytes": count * base,
        "adapters_per_base": base / adapter,
        "hits": 1 - float(missing),
        "the cache finds more than its share": bool(1 - missing > room / count),
    }


def one_pass_for_many(adapters: int = 8, rank: int = 8, width: int = 1024) -> Result:
    """A batch whose rows use different adapters: checked against a run for each; weights read, in parts of W."""
    import torch

    from lora_lab.adapters import add_adapter, set_adapter
    from lora_lab.mixed_batch import mixed_batch

    net, names = _net(width=32).double(), ["default"]
    for number in range(1, 3):
        names.append(f"adapter{number}")
        add_adapter(net, LoraConfig(rank=2 * number, alpha=8), names[-1])
        torch.nn.init.normal_(net[0].matrices(names[-1])[1])
    net.double().eval()
    x = torch.randn(3, 32, dtype=torch.double)
    with torch.no_grad():
        with mixed_batch(net, names):
            together = net(x)
        apart = []
        for row, name in zip(x, names, strict=True):
            set_adapter(net, name)
            apart.append(net(row[None]))
    each = counting.lora_parameters(width, width, rank) / width**2
    return {
        "read_in_one_pass": 1 + adapters * each,
        "read_one_by_one": adapters * (1 + each),
        "one mixed pass is three separate ones": torch.allclose(together, torch.cat(apart), atol=1e-12),
    }


def rank_of_sum(first: int = 8, second: int = 4, width: int = 32) -> Result:
    """The rank of the sum of two updates, as one adapter too, and what the best cut back to rank `first` loses."""
    random = np.random.default_rng(0)
    pairs = [(random.standard_normal((width, r)), random.standard_normal((r, width))) for r in (first, second)]
    one, other = (b @ a for b, a in pairs)
    b, a = np.hstack([0.5 * pairs[0][0], pairs[1][0]]), np.vstack([pairs[0][1], pairs[1][1]])
    rank = int(np.linalg.matrix_rank(one + other))
    return {
        "rank": rank,
        "cut_loses": lowrank.eckart_young(one + other, first, relative=True),
        "the ranks add up": rank == min(width, first + second),
        "side by side, weights folded in, they are the weighted sum": bool(np.allclose(b @ a, 0.5 * one + other)),
    }


def average_of_factors(clients: int = 2, rank: int = 8, width: int = 64) -> Result:
    """The product of averaged A and averaged B against the average of the products, as a share of the latter."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((clients, *shape)) for shape in ((rank, width), (width, rank)))
    wanted = (b @ a).mean(axis=0)
    apart = b.mean(axis=0) @ a.mean(axis=0)
    shared = b.mean(axis=0) @ a[0] - (b @ a[0]).mean(axis=0)
    exact = np.concatenate(b / clients, axis=1) @ np.concatenate(a)
    return {
        "error": float(np.linalg.norm(apart - wanted) / np.linalg.norm(wanted)),
        "exact_rank": clients * rank,
        "concatenation is exact": bool(np.allclose(exact, wanted)),
        "with one frozen A for all, averaging B is exact": bool(np.allclose(shared, 0)),
        "averaging both is not": not np.allclose(apart, wanted),
    }


def whole_embeddings(model: str = "Llama-3.1-8B", rank: int = 16, tokens: int = 10) -> Result:
    """Parameters of embedding and output head saved whole (modules_to_save), of new rows alone, and of an adapter."""
    shape = shapes.known(model)
    adapter, whole = counting.lora(shape, rank), sum(m.parameters for m in shape.embeddings)
    return {
        "adapter": adapter,
        "whole": whole,
        "times": whole / adapter,
        "whole_bytes": 2 * whole,
        "new_rows": tokens * shape.hidden * len(shape.embeddings),
        "all linear layers leave the embeddings out": not set(shape.embeddings) & set(counting.chosen(shape)),
    }


def tied_weights(size: float = 0.3) -> Result:
    """A head merged in place where its weight is the embedding's too: how far the embedding moves. And our refusal."""
    import torch

    from lora_lab.adapters import add_adapter
    from lora_lab.merging import merge

    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"embed": torch.nn.Embedding(50, 16), "head": torch.nn.Linear(16, 50, bias=False)})
    net["head"].weight = net["embed"].weight
    add_adapter(net, LoraConfig(rank=4, target_modules=("head",)))
    head = net["head"]
    b = torch.nn.init.normal_(head.matrices("default")[1]).detach()
    b *= size * head.base.weight.norm() / head.delta("default").norm()
    refused = False
    try:
        merge(net)
    except ValueError as error:
        refused = "tied" in str(error)
    before = net["embed"].weight.detach().clone()
    head.base.weight.data += head.delta("default").detach()  # what a merge that does not look does
    return {
        "embedding_moved": _share(net["embed"].weight.detach() - before, before),
        "our merge refuses": refused,
        "a careless one changes what every token means": not torch.equal(net["embed"].weight, before),
    }


def dropout_beside_the_base(p: float = 0.1, draws: int = 400) -> Result:
    """Adapter dropout in training: what it adds as noise to the update's output, and that W x is never touched."""
    import torch

    net, fresh = _net(dropout=p), _net(dropout=p, size=0.0)
    x = torch.randn(8, 32)
    with torch.no_grad():
        clean = net(x)
        update = clean - net[0].base(x)
        net.train(), fresh.train()
        noise = torch.stack([net(x) - clean for _ in range(draws)])
        untouched = torch.equal(fresh(x), fresh[0].base(x))
    return {
        "noise": float(noise.square().mean().sqrt() / update.square().mean().sqrt()),
        "left_on_average": _share(noise.mean(dim=0), update),
        "with B zero the output is the base's to the bit, in training": untouched,
        "on average nothing is lost": _share(noise.mean(dim=0), update) < 0.2,
        "in eval there is no noise": torch.equal(net.eval()(x), clean),
    }


def _saved(net) -> tuple[tempfile.TemporaryDirectory, dict]:
    """The folder into which the adapter was saved, and the tensors of its file."""
    from safetensors.torch import load_file

    from lora_lab.storage import save_adapter

    folder = tempfile.TemporaryDirectory()
    save_adapter(net, folder.name)
    return folder, load_file(Path(folder.name) / "adapter_model.safetensors")


def strict_false(layers: int = 2) -> Result:
    """An adapter's file given to load_state_dict(..., strict=False) of the base: how many of its tensors arrive."""
    import copy

    import torch

    from lora_lab.merging import unload
    from lora_lab.storage import load_adapter

    net = _net(layers=layers)
    folder, tensors = _saved(net)
    x = torch.randn(4, 32)
    wanted, plain = net(x), unload(copy.deepcopy(net))
    report = copy.deepcopy(plain).load_state_dict(tensors, strict=False)
    with folder:
        loaded = load_adapter(copy.deepcopy(plain), folder.name).eval()
    return {
        "in_the_file": len(tensors),
        "unexpected": len(report.unexpected_keys),
        "arrived": len(tensors) - len(report.unexpected_keys),
        "no tensor arrives and no error says so": len(report.unexpected_keys) == len(tensors),
        "the adapter's own loader gives the same outputs": torch.equal(loaded(x), wanted),
    }


def adapter_folder(model: str = "Llama-2-7B", rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """What an adapter's file holds: tensors and bytes for a model (float32), and the keys of a small one."""
    matrices = counting.chosen(shapes.known(model), targets)
    folder, tensors = _saved(_net(layers=2))
    with folder:
        files = sorted(path.name for path in Path(folder.name).iterdir())
    return {
        "tensors": 2 * sum(m.count for m in matrices),
        "bytes": counting.adapter_bytes(matrices, rank),
        "key": min(tensors),
        "two files": files == ["adapter_config.json", "adapter_model.safetensors"],
        "only A and B are in it": all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in tensors),
    }


def rslora_flag_lost(rank: int = 64, width: int = 64) -> Result:
    """An rsLoRA adapter saved, and loaded by a program that does not know the flag: its factor and its output."""
    import torch

    from lora_lab.merging import unload
    from lora_lab.storage import load_adapter

    net = _net(width=width, rank=rank, alpha=16, use_rslora=True)
    factor, x = net[0].scaling["default"], torch.randn(4, width)
    wanted = net(x).detach()
    folder, _ = _saved(net)
    plain = unload(net)
    base = plain(x).detach()
    with folder:
        config = Path(folder.name) / "adapter_config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps(content | {"use_rslora": False}), encoding="utf-8")
        loaded = load_adapter(plain, folder.name)
    off = _share(loaded.eval()(x).detach() - wanted, wanted - base)
    return {
        "trained_factor": factor,
        "loaded_factor": loaded[0].scaling["default"],
        "times": factor / loaded[0].scaling["default"],
        "output_lost": off,
        "the file was written with the flag": content["use_rslora"] is True,
        "loading raised nothing and gave another model": off > 0.1,
    }


def forgetting_recorded(task: str = "code", low: int = 1, middle: int = 8) -> Result:
    """Recorded: `rank`. How much the loss on plain stories, the base's own ground, rose in training (nats)."""
    record = experiments.recorded("rank")
    best, start = experiments.best_rows(record["rows"]), record["before"][task]["base_loss"]
    rise = {key: mean(row["base_loss"] for row in rows) - start for key, rows in best.items()}
    return {
        "low": rise[task, f"rank {low}"],
        "middle": rise[task, f"rank {middle}"],
        "full": rise[task, "full"],
        "pirate_middle": rise["pirate", f"rank {middle}"],
        "pirate_full": rise["pirate", "full"],
        "every adapter forgot something": min(value for (_, label), value in rise.items() if label != "full") > 0,
        "on code, rank 8 forgot less than full fine-tuning": rise["code", "rank 8"] < rise["code", "full"],
        "on the pirate it forgot more": rise["pirate", "rank 8"] > rise["pirate", "full"],
    }


def intruders_recorded(first: str = "rank 4", second: str = "rank 64", third: str = "full") -> Result:
    """Recorded: `adapters`. New directions among the first ten of W + dW, over all matrices. And one made by hand."""
    found: dict[str, list[int]] = {}
    for row in experiments.recorded("adapters")["rows"]:
        found.setdefault(row["label"], []).append(row["intruders"])
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 64))
    column, row = random.standard_normal((64, 1)), random.standard_normal((1, 64))
    one = column @ row / np.linalg.norm(column) / np.linalg.norm(row)
    largest = np.linalg.norm(weight, 2)
    return {
        "first": sum(found[first]),
        "second": sum(found[second]),
        "third": sum(found[third]),
        "of": 10 * len(found[first]),
        "a direction stronger than W's first is an intruder": lowrank.intruders(weight, 2 * largest * one) == [1],
        "a weak one is none": not lowrank.intruders(weight, 0.1 * largest * one),
        "full fine-tuning has the fewest": sum(found["full"]) == min(map(sum, found.values())),
    }


def full_wins_recorded(task: str = "code", rank: int = 64, against: str = "full") -> Result:
    """Recorded: `rank`. Mean losses of five seeds, LoRA and `against`; shares of right answers on `query`."""
    best = experiments.best_rows(experiments.recorded("rank")["rows"])
    lora, full = ([row["loss"] for row in best[task, label]] for label in (f"rank {rank}", against))
    style = {label: [row["loss"] for row in best["pirate", label]] for label in ("rank 64", "full")}
    right = {label: mean(row["exact_match"] for row in best["query", label]) for label in (f"rank {rank}", against)}
    return {
        "lora": mean(lora),
        "full": mean(full),
        "lora_right": right[f"rank {rank}"],
        "full_right": right[against],
        "every seed of full fine-tuning is below every one of LoRA": max(full) < min(lora),
        "on the style rank 64 is level with it": min(style["full"]) < mean(style["rank 64"]) < max(style["full"]),
    }


def evaluation_faults(rank: int = 16, p: float = 0.05, merges: int = 2) -> Result:
    """How far the output is off, as a share of the update's part of it, for faults that raise no error."""
    import torch

    from lora_lab.adapters import disable_adapters, set_scale

    net = _net(rank=rank, alpha=16, dropout=p)
    x = torch.randn(256, 32)
    with torch.no_grad():
        wanted = net(x)
        update = wanted - net[0].base(x)
        found = {"dropout_left_on": _share(net.train()(x) - wanted, update)}
        with disable_adapters(net.eval()):
            found["not_active"] = _share(net(x) - wanted, update)
        set_scale(net, merges)
        found["merged_again"] = _share(net(x) - wanted, update)
        set_scale(net, 1 / math.sqrt(rank))
        found["rslora_read_as_lora"] = _share(net(x) - wanted, update)
    return found | {
        "each is seen in the logits": min(found.values()) > 0.05,
        "twice is as wrong as not at all": abs(found["merged_again"] - found["not_active"]) < 1e-4,
    }
