"""`python -m lora_lab finetune`: the command around `lora_lab.finetune`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="base", help="base (the embedded one, default), a folder, or a hub name")
    add("--revision", metavar="R", help="the commit, tag or branch of a hub model (default: its newest)")
    add("--task", default="pirate", metavar="TASK", help="pirate (default), code, query, a .txt, .jsonl or .json file")
    add("--method", default="lora", choices=("lora", "full"), help="an adapter (default) or every parameter")
    add("--rank", type=int, default=8, help="inner size of the adapter (default: 8)")
    add("--alpha", type=float, default=16, help="the update is multiplied by alpha / rank (default: 16)")
    add("--targets", metavar="NAMES", help="all-linear (default), attention, mlp, or names such as q_proj,v_proj")
    add("--dropout", type=float, default=0.0, metavar="P", help="share of inputs dropped before A (default: 0)")
    add("--lr", type=float, help="learning rate (default: by model, task and method)")
    add("--batch-size", type=int, default=16, metavar="B", help="examples in one pass (default: 16)")
    add("--accumulate", type=int, default=1, metavar="N", help="passes in one step (default: 1)")
    add(
        "--max-length", type=int, metavar="L", help="tokens of an example, the rest is cut (default: 128; another: 512)"
    )
    add("--steps", type=int, metavar="N", help="optimizer steps (default: by task)")
    add("--evaluate-every", type=int, metavar="N", help="steps between validations and checkpoints (default: a sixth)")
    add("--checkpointing", action="store_true", help="keep fewer activations: less memory, a third more time")
    add("--fsdp", action="store_true", help="under torchrun: spread the frozen base over the processes")
    add("--packing", action="store_true", help="several whole examples in a row, which do not see each other")
    add(
        "--loss-chunk", type=int, metavar="N", help="tokens whose logits exist at once; 0: all (base: 0, another: 1024)"
    )
    add("--quantise", metavar="nf4", help="store the frozen linear layers in 4 bits")
    add("--compile", action="store_true", help="torch.compile for the decoder's blocks: slow to begin, pays on a GPU")
    add("--fused", action=argparse.BooleanOptionalAction, help="base and adapter in one operation (default: on a GPU)")
    add("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--output", metavar="DIR", help="where the adapter goes (default: runs/TASK-METHOD)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    add("--quiet", action="store_true", help="no progress bar and no report")
    add("--json", action="store_true", help="end with the figures as one line of JSON")


def main(args: argparse.Namespace) -> int:
    from lora_lab import processes
    from lora_lab.finetune import finetune

    options = vars(args) | {"output": args.output or f"runs/{Path(args.task).stem}-{args.method}"}
    as_json = options.pop("json")
    options.pop("command", None)
    if revision := options.pop("revision"):
        options["model"] += f"@{revision}"
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning if processes.is_main() else lambda *_, **__: None
        result = finetune(**options)
    if as_json and processes.is_main():
        print(json.dumps(result.as_json()), flush=True)
    return 0


def _show_warning(message, category, filename, *_, **__) -> None:
    """Ours in one line; what libraries say about their own future is of no use here."""
    if Path(filename).parent == Path(__file__).parent:
        print(f"warning: {message}", file=sys.stderr, flush=True)
