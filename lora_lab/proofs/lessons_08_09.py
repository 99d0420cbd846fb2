"""What lessons 08 and 09 sum up in five lines: merging, rounding, swapping, mixing, and what a variant changes.

`l08_...` belongs to lesson 08; losses of the language model are in nats per token.
"""

from __future__ import annotations

from lora_lab.proofs import Result


def l08_operations(width: int = 64, rank: int = 8) -> Result:
    """Operations that torch runs for one row, by a plain layer, with an adapter beside it, and merged.

    Transposes move nothing and are not counted. The merged output against the separate one is taken in float64. Time of
    a merged layer over a plain one's, 4096 wide (recorded: bench).
    """
    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

    from lora_lab import experiments
    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig
    from lora_lab.merging import merge

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    def operations(layer: nn.Module) -> int:
        seen.clear()
        with torch.no_grad(), Counted():
            layer(x)
        return sum(name != "t" for name in seen)

    torch.manual_seed(0)
    seen: list[str] = []
    x, counts = torch.randn(1, width).double(), {}
    plain = nn.Sequential(nn.Linear(width, width, bias=False).double())
    counts["plain"] = operations(plain)
    for r in (1, rank):
        model = nn.Sequential(nn.Linear(width, width, bias=False).double())
        add_adapter(model, LoraConfig(rank=r, alpha=2 * r))
        nn.init.normal_(model[0].matrices("default")[1], std=0.1)
        counts[f"rank {r}"], separate = operations(model[0]), model(x).detach()
        merge(model)
        counts["merged"] = operations(model[0])
        apart = ((model(x) - separate).norm() / separate.norm()).item()
    timed = [
        r for r in experiments.recorded("bench")["rows"] if (r["what"], r["size"]) == ("merged inference", "d=4096")
    ]
    return {
        "time_merged_over_plain": timed[0]["ratio"],
        "no_extra_time": 0.9 < timed[0]["ratio"] < 1.1,
        "plain": counts["plain"],
        "separate": counts[f"rank {rank}"],
        "separate_at_rank_1": counts["rank 1"],
        "merged": counts["merged"],
        "flops_more": rank * 2 * width / width**2,
        "apart": apart,
        "exact_algebra": apart < 1e-12,
        "merged_is_plain_again": counts["merged"] == counts["plain"],
        "more_operations_at_any_rank": counts["rank 1"] == counts[f"rank {rank}"] > counts["plain"],
    }


def l08_ratio_decides(size: float = 0.01, width: int = 384, rank: int = 8) -> Result:
    """What bfloat16 loses of an update of ||dW|| = size x ||W||, for a W and for one a fiftieth as large.

    Error of the stored sum over the update, in the Frobenius norm; then for an update ten times as large.
    """
    import torch

    def lost(ratio: float, spread: float, seed: int) -> float:
        dice = torch.Generator().manual_seed(seed)
        w = spread * torch.randn(width, width, generator=dice).double()
        update = (torch.randn(width, rank, generator=dice) @ torch.randn(rank, width, generator=dice)).double()
        update *= ratio * w.norm() / update.norm()
        base = w.bfloat16().double()
        return (((base + update).bfloat16().double() - base - update).norm() / update.norm()).item()

    once, other, larger = lost(size, 1.0, 0), lost(size, 0.02, 1), lost(10 * size, 1.0, 0)
    return {
        "lost": once,
        "lost_of_another_w": other,
        "lost_of_a_larger_update": larger,
        "the_ratio_decides": abs(other / once - 1) < 0.15 and larger < 0.15 * once,
        "a_sixth_at_one_percent": abs(once - 1 / 6) < 0.04,
    }


def l08_drift(cycles: int = 50, size: float = 0.05) -> Result:
    """A bfloat16 weight after many merges and unmerges, by subtraction and by the package, which keeps the weight."""
    import torch
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig
    from lora_lab.merging import merge, unmerge

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 96, bias=False).bfloat16())
    layer = add_adapter(model, LoraConfig(rank=4, alpha=4))[0]
    plain = layer.base.weight.detach().clone()
    here, copied = plain.clone(), 0
    path = []
    for _ in range(cycles):
        a, b = layer.matrices("default")
        with torch.no_grad():
            a.normal_(), b.normal_()
            b *= size * plain.float().norm() / (b @ a).norm()
        update = layer.delta("default").detach()
        here = ((here + update).to(here.dtype) - update).to(here.dtype)
        path.append(((here.float() - plain.float()).norm() / plain.float().norm()).item())
        merge(model)
        copied = layer.pristine.nbytes
        unmerge(model)
    return {
        "drift_after_one": path[0],
        "drift_after_all": path[-1],
        "kept_meanwhile_bytes": copied,
        "by_subtraction_it_drifts": path[-1] > 2 * path[0] > 0,
        "kept_it_is_the_same_to_the_bit": torch.equal(layer.base.weight, plain),
        "at_the_price_of_a_copy": copied == plain.nbytes,
    }


def l08_chosen_and_swapped(rank: int = 2) -> Result:
    """Two adapters on one network: chosen by name, and swapped by file into code that is compiled already.

    Compilations are counted by a stand-in for the compiler.
    """
    import copy
    import tempfile

    import torch
    from torch import nn
    from torch._dynamo.testing import CompileCounter

    from lora_lab import adapters, storage
    from lora_lab.config import LoraConfig
    from lora_lab.hot_swap import hot_swap, prepare_hot_swap

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16)).eval()
    single = copy.deepcopy(model)
    for name in ("one", "other"):
        adapters.add_adapter(model, LoraConfig(rank=rank, alpha=rank), name)
        nn.init.normal_(model[0].matrices(name)[1])
    x, apart, places = torch.randn(4, 16), {}, [p.data_ptr() for p in model.parameters()]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in ("one", "other"):
            adapters.set_adapter(model, name)
            storage.save_adapter(model, folder, name)
            apart[name] = model(x)
        storage.load_adapter(single, f"{folder}/one")
        prepare_hot_swap(single, rank=rank)
        counter, swapped = CompileCounter(), []
        compiled = torch.compile(single, backend=counter)
        for name in ("one", "other", "one", "other"):
            hot_swap(single, f"{folder}/{name}")
            swapped.append(torch.allclose(compiled(x), apart[name], atol=1e-5))
    return {
        "compilations": counter.frame_count,
        "two_adapters_two_outputs": not torch.allclose(apart["one"], apart["other"], atol=0.1),
        "chosen_without_moving_a_number": places == [p.data_ptr() for p in model.parameters()],
        "hot_swapped_without_recompilation": counter.frame_count == 1 and all(swapped),
    }


def l08_a_thousand(customers: int = 1000, rank: int = 16) -> Result:
    """Bytes in bfloat16 for `customers` of Llama-2-7B: merged copies, or one base and adapters on all linear layers."""
    from lora_lab import counting, shapes

    llama = shapes.known("Llama-2-7B")
    base, adapter = 2 * llama.total, counting.adapter_bytes(llama, rank, bytes_per_number=2)
    copies, shared = customers * base, base + customers * adapter
    return {
        "base": base,
        "adapter": adapter,
        "copies": copies,
        "shared": shared,
        "times_less": copies / shared,
        "one_base_and_small_change": adapter < base / 100,
        "a_thousand_models": copies > 100 * shared,
    }


def l09_one_thing_each(rank: int = 4) -> Result:
    """What differs from plain LoRA in each variant, on one layer: s, the step, what trains, the start, the storage.

    Trained numbers, the factor, and the output before training are compared with LoRA's from the same seed.
    """
    import torch
    from torch import nn

    from lora_lab import quantise, training_variants
    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))

    def made(four_bits: bool = False, **settings) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48))
        model = quantise.quantise_linears(model) if four_bits else model
        return add_adapter(model, LoraConfig(rank=rank, alpha=2 * rank, **settings))

    def trained(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    lora, rooted, dora, pissa, qlora = (
        made(),
        made(use_rslora=True),
        made(use_dora=True),
        made(init_lora_weights="pissa"),
        made(four_bits=True),
    )
    fa = training_variants.freeze_a(made())
    torch.manual_seed(0)
    vera = training_variants.add_vera(nn.Sequential(nn.Linear(64, 48)), rank=rank)
    plus = training_variants.lora_plus_groups(made(), lr=1e-3, ratio=16)
    plain, factor = trained(lora), lora[0].scaling["default"]
    same_start = [torch.allclose(m(x), lora(x), atol=1e-4) for m in (rooted, dora, pissa, fa, vera)]
    return {
        "trained_lora": plain,
        "trained_lora_fa": trained(fa),
        "trained_vera": trained(vera),
        "trained_dora": trained(dora),
        "all_start_as_the_old_model": all(same_start),
        "rslora_changes_s": rooted[0].scaling["default"] == factor * rank**0.5 and trained(rooted) == plain,
        "lora_plus_changes_the_step": sorted(g["lr"] for g in plus) == [1e-3, 16e-3],
        "lora_fa_and_vera_change_what_is_trained": trained(fa) == rank * 48 and trained(vera) == rank + 48,
        "dora_changes_what_a_layer_computes": trained(dora) == plain + 48,
        "pissa_changes_the_start": bool(pissa[0].matrices("default")[1].any()) and trained(pissa) == plain,
        "qlora_changes_how_w_is_stored": isinstance(qlora[0].base, quantise.NF4Linear) and trained(qlora) == plain,
    }


def l09_what_is_saved(block: int = 64, group: int = 256) -> Result:
    """What a step keeps, what a file holds and what matrices take, by variant (recorded: variant_costs); NF4's bits."""
    import torch

    from lora_lab import experiments, quantise

    rows = {row["label"]: row for row in experiments.recorded("variant_costs")["rows"]}
    lora, four = rows["LoRA"], rows["QLoRA (NF4 base)"]

    def over(label: str, field: str) -> float:
        return rows[label][field] / lora[field]

    bits = quantise.quantise(torch.randn(2 * block * group, generator=torch.Generator().manual_seed(0))).bits
    kept = {label: over(label, "kept_bytes") for label in rows}
    return {
        "nf4_bits": 4 + 8 / block + 32 / (block * group),
        "lora_fa_keeps": kept["LoRA-FA"],
        "vera_file": over("VeRA", "file_bytes"),
        "nf4_matrices": four["matrix_bytes"] / lora["matrix_bytes"],
        "dora_keeps": kept["DoRA"],
        "dora_step": rows["DoRA"]["step"],
        "stored_in_as_many_bits": abs(bits - (4 + 8 / block + 32 / (block * group))) < 0.01,
        "lora_fa_saves_activations": min(kept, key=kept.get) == "LoRA-FA" and kept["LoRA-FA"] < 0.85,
        "vera_saves_disk": min(rows, key=lambda label: rows[label]["file_bytes"]) == "VeRA",
        "qlora_saves_the_base": four["matrix_bytes"] < 0.14 * lora["matrix_bytes"],
        "dora_costs_memory_and_time": max(kept, key=kept.get) == "DoRA" and rows["DoRA"]["step_low"] > 1,
    }


def l09_rates_apart(rates: tuple[float, ...] = (0.002, 0.004, 0.008)) -> Result:
    """Best rates by method, and which adapter leads at each of `rates` (recorded: variants; first seed's search)."""
    from lora_lab import experiments

    sweep = experiments.recorded("variants")
    best = {label: rows[0]["lr"] for (_, label), rows in experiments.best_rows(sweep["rows"]).items()}
    loss: dict[str, dict[float, float]] = {}
    for row in sweep["rows"]:
        if row["seed"] == sweep["seed"] and row["loss"] is not None:
            loss.setdefault(row["label"], {})[row["lr"]] = row["loss"]
    leaders = {lr: min((loss[k][lr], k) for k in loss if k != "full" and lr in loss[k])[1] for lr in rates}
    behind = {label: loss[label][rates[-1]] - min(loss[label].values()) for label in ("PiSSA", "LoRA-FA")}
    return {f"first_at_{lr:g}": leader for lr, leader in leaders.items()} | {
        "lowest_best_rate": min(best.values()),
        "highest_best_rate": max(best.values()),
        "apart_by": max(best.values()) / min(best.values()),
        "pissa_behind_its_best": behind["PiSSA"],
        "lora_fa_behind_its_best": behind["LoRA-FA"],
        "far_apart": max(best.values()) > 10 * min(best.values()),
        "at_loras_rate_others_are_far_from_their_best": min(behind.values()) > 0.05,
        "another_rate_another_leader": len(set(leaders.values())) == len(rates),
    }


def l09_nobody_beat_lora(method: str = "LoRA") -> Result:
    """Losses of five seeds, each variant at its own tuned rate, against plain LoRA's (recorded: variants)."""
    from lora_lab import experiments

    runs = {
        label: [row["loss"] for row in rows]
        for (_, label), rows in experiments.best_rows(experiments.recorded("variants")["rows"]).items()
        if label != "full"
    }
    reference = runs.pop(method)
    overlap = [k for k, v in runs.items() if min(v) <= max(reference) and max(v) >= min(reference)]
    return {
        "seeds": len(reference),
        "variants": len(runs),
        "not_to_be_told_apart": ", ".join(sorted(overlap)),
        "no_variant_beat_it": not any(max(losses) < min(reference) for losses in runs.values()),
        "three_overlap": sorted(overlap) == ["DoRA", "QLoRA (NF4 base)", "rsLoRA"],
    }
