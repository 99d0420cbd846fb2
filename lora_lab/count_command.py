"""`python -m lora_lab count`: the parameters, bytes and work of LoRA on a model, without the model."""

from __future__ import annotations

import argparse
import json
import re

from lora_lab import counting, flops, memory, shapes
from lora_lab.counting import Matrix

WAYS = ("full", "lora", "qlora")


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="NAME", help=f"a known model: {', '.join(shapes.names())}")
    what.add_argument("--config", metavar="FILE", help="a Hugging Face config.json")
    what.add_argument("--shape", metavar="OUTxIN", help="a matrix such as 4096x4096, or several with commas between")
    add("--rank", type=int, default=8, help="inner size of the adapter (default: 8)")
    add("--targets", default=counting.ALL_LINEAR, metavar="NAMES", help="all-linear (default), or q_proj,v_proj ...")
    add("--rows", type=int, default=1, help="sequences in a step, for memory and FLOPs (default: 1)")
    add("--length", type=int, default=512, help="tokens of each (default: 512)")
    add("--checkpointing", action="store_true", help="gradient checkpointing")
    add("--json", action="store_true", help="the counts alone, as one line of JSON")


def main(args: argparse.Namespace) -> int:
    for name in ("rows", "length"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.shape:
        model = parse(args.shape)
        name, total = args.shape, sum(m.parameters for m in model)
    else:
        model = shapes.known(args.model) if args.model else shapes.from_file(args.config)
        name, total = args.model or args.config, model.total
    lora = counting.lora(model, args.rank, args.targets)
    counts = {
        "total": total,
        "lora": lora,
        "share_of_base": counting.share_of_base(lora, total),
        "share_of_total": counting.share_of_total(lora, total),
        "breakeven_rank": counting.break_even(model, args.targets),
        "adapter_bytes": counting.adapter_bytes(model, args.rank, args.targets),
    }
    print(json.dumps(counts) if args.json else "\n".join([f"{name}, rank {args.rank}", *_table(model, counts, args)]))
    return 0


def parse(text: str) -> list[Matrix]:
    """Matrices [out, in] from "4096x4096,11008x4096". Raises ValueError for what is not of this form.

    >>> parse("1024x4096")
    [Matrix(path='0', out_features=1024, in_features=4096, count=1, bias=False)]
    """
    sizes = [re.fullmatch(r"\s*([1-9]\d*)[xX×]([1-9]\d*)\s*", part) for part in text.split(",")]
    if None in sizes:
        raise ValueError(f"--shape is OUTxIN such as 4096x4096, with commas between several, got {text!r}")
    return [Matrix(str(i), int(size[1]), int(size[2])) for i, size in enumerate(sizes)]


def _table(model: counting.Matrices, counts: dict[str, float], args: argparse.Namespace) -> list[str]:
    chosen = counting.chosen(model, args.targets)
    on = ", ".join(f"{m.name} [{m.out_features}, {m.in_features}] x {m.count}" for m in chosen)
    tokens = {"rows": args.rows, "length": args.length}
    adapter = {"rank": args.rank, "targets": args.targets}
    full, lora = (flops.step(model, how=how, **tokens, **adapter) for how in ("full", "lora"))
    lines = [
        f"  adapted          {on}",
        f"  base             {counts['total']:>17,} parameters",
        f"  LoRA             {counts['lora']:>17,} parameters, {counts['share_of_base']:.5%} of the base, "
        f"{counts['share_of_total']:.5%} of base and adapter",
        f"  break-even rank  {counts['breakeven_rank']:>17,}",
        f"  adapter file     {counts['adapter_bytes']:>17,} bytes in float32",
        f"\n  a step of {args.rows} x {args.length} tokens",
        f"  TFLOP            forward {flops.forward(model, **tokens) / 1e12:.4g}, training in full {full / 1e12:.4g}, "
        f"LoRA {lora / 1e12:.4g} ({lora / full:.1%})",
        f"  memory in GB     {' '.join(f'{bucket:>11}' for bucket in (*memory.BUCKETS, 'all'))}",
    ]
    for way in WAYS:
        cost = memory.memory(model, way, **tokens, **adapter, checkpointing=args.checkpointing)
        numbers = [*cost.values(), sum(cost.values())]
        lines.append(f"    {way:<14} {' '.join(f'{n / 1e9:>11.2f}' for n in numbers)}")
    return [*lines, *(f"    {way}: {memory.WAYS[way].says}" for way in WAYS)]
