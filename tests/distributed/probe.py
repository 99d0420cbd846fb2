"""Under torchrun: what a process holds of a sharded base, and that every way through the layers survives it.

Prints one line of JSON from the main process: `probe.py MODEL`.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist

from lora_lab import fused, models, processes
from lora_lab.__main__ import leave
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig


def gradients(model, ids: torch.Tensor, half: bool) -> list[torch.Tensor]:
    """The adapter's gradients of one pass, with B away from zero so that A has some too."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@processes.together
def probe(name: str, device: str = "cpu") -> dict:
    """Largest differences between the sharded model and the whole one, and the bytes of each in this process."""
    sharding = processes.sharding({"fsdp": True, "method": "lora"})
    pair = [models.load_model(name, device, distributed_config=sharding), models.load_model(name, device)]
    ids = torch.arange(40).view(2, 20)
    for model in pair:
        torch.manual_seed(0)
        add_adapter(model, LoraConfig(rank=2, alpha=4))
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and ".B." in key:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(key)))
        model.train()
    held = [
        sum(getattr(p, "_local_tensor", p).nbytes for p in model.parameters() if not p.requires_grad) for model in pair
    ]
    found = {"bytes": held, "kinds": sorted({type(p.data).__name__ for p in pair[0].parameters() if p.requires_grad})}
    for way in ("plain", "fused", "checkpointing"):
        for model in pair:
            fused.fuse(model, way == "fused")
            if way == "checkpointing":
                model.activation_checkpointing_enable()
        for half in (False, True):
            ours, its = (gradients(model, ids, half) for model in pair)
            found[f"{way}{' in bfloat16' * half}"] = max(
                float((a - b).abs().max()) for a, b in zip(ours, its, strict=True)
            )
    found["largest"] = max(float(g.abs().max()) for g in its)
    every: list = [None] * processes.count()
    dist.all_gather_object(every, held[0])
    return found | {"every": every}


if __name__ == "__main__":
    result = probe(sys.argv[1])
    if processes.is_main():
        print(json.dumps(result))
    leave(0)
