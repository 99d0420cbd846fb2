"""What a fine-tune of a model will take on this machine, before anything but its config.json is here.

python -m lora_lab look HuggingFaceTB/SmolLM2-135M
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from lora_lab import counting, hub, memory, shapes

LOSS_CHUNK = 1024  # as `finetune` takes it for a model other than "base" (training_setup.OTHER_CHUNK)


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak of a training step, by way ("lora", "full") and bucket, against the memory of this machine."""

    needed: dict[str, dict[str, int]]
    where: str
    room: int

    def fits(self, way: str = "lora") -> bool:
        """Whether the step fits into the memory found."""
        return sum(self.needed[way].values()) <= self.room


def forecast(
    model: hub.HubModel,
    rank: int = 8,
    targets: counting.Targets = counting.ALL_LINEAR,
    rows: int = 1,
    length: int = 512,
    checkpointing: bool = False,
) -> Forecast:
    """What `finetune` of the model takes here, from its config.json alone, as `memory.memory` counts it.

    bfloat16 on a CUDA GPU, float32 on a CPU, as `models.load` holds it. Raises ValueError for a family that `shapes`
    does not know, and as `fetch` does.
    """
    shape, (where, bytes_, gpu) = shapes.from_config(hub.config(model)), _room()
    ways = {"lora": "lora-fused", "full": "full-autocast"} if gpu else {"lora": "lora-float32", "full": "full-float32"}
    arguments = {"rows": rows, "length": length, "rank": rank, "targets": targets, "checkpointing": checkpointing}
    arguments |= {"padded": rows > 1, "loss_chunk": None if model.name == "base" else LOSS_CHUNK}
    return Forecast({way: memory.memory(shape, how, **arguments) for way, how in ways.items()}, where, bytes_)


def room() -> tuple[str, int]:
    """Where models are trained here, and its memory in bytes: the first CUDA GPU's, or what this machine has free."""
    return _room()[:2]


def _room() -> tuple[str, int, bool]:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return card.name, card.total_memory, True
    return "the memory free on this machine", hub.free_memory(), False


# --- the command ------------------------------------------------------------------------------------------------------


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="a model of the Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M; or base, or a folder")
    add("--revision", metavar="R", help="its commit, tag or branch (default: its newest)")
    add("--rank", type=int, default=8, help="inner size of the adapter (default: 8)")
    add("--rows", type=int, default=1, help="sequences in a step (default: 1)")
    add("--length", type=int, default=512, help="tokens of each (default: 512)")
    add("--checkpointing", action="store_true", help="gradient checkpointing")


def main(args: argparse.Namespace) -> int:
    for name in ("rank", "rows", "length"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    model = hub.look(args.name, args.revision)
    hub.check_loadable(model)
    gated = "open" if not model.gated else "its licence is to be accepted at the hub, then run 'hf auth login'"
    parameters = f", {model.parameters:,} parameters" if model.parameters else ""
    lines = [
        f"{model.name}" + (f" at {model.revision}, commit {model.commit}" if model.commit else ""),
        f"  licence     {model.licence or 'not stated'}",
        f"  access      {gated}",
        f"  size        {hub.megabytes(model.size)} in {len(model.files)} files{parameters}",
        f"  to fetch    {hub.megabytes(model.missing)}, {hub.megabytes(hub.free_disk())} free on the disk",
    ]
    try:
        found = forecast(model, args.rank, rows=args.rows, length=args.length, checkpointing=args.checkpointing)
    except ValueError as error:
        found, lines = None, [*lines, f"  memory      not predicted: {error}"]
    for way, says in {"lora": f"LoRA of rank {args.rank} on all linear layers", "full": "training in full"}.items():
        if found:
            needed, fits = sum(found.needed[way].values()), "fits" if found.fits(way) else "does not fit"
            lines.append(
                f"  memory      {hub.megabytes(needed)} for {says}, {args.rows} x {args.length} tokens: {fits}"
            )
    if found:
        lines.append(f"  against     {hub.megabytes(found.room)}: {found.where}")
    print("\n".join(lines))
    return 0
