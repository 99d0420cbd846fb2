"""The golden files: one adapter as peft wrote it and as this package writes it, with the outputs peft computed.

    python -m tests.lora.golden.make

Every number is a multiple of a power of two and small, so every product and sum is exact: the outputs are the same on
every machine, and the tests compare them without tolerance.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.record import record_of
from lora_lab.storage import save_adapter

HERE = Path(__file__).parent
CONFIG = LoraConfig(
    rank=2,
    alpha=4,
    target_modules=("embed", "up", "mix"),
    rank_pattern={"up": 4},
    alpha_pattern={"mix": 1},
    modules_to_save=("head",),
)
IDS = [[0, 1, 2, 3, 4, 5], [11, 10, 9, 8, 7, 6]]


def halves(*shape: int, start: int) -> Tensor:
    """Values among -1, -0.5, 0, 0.5, 1 in a fixed irregular order."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) + start
    return (((n * n * 7 + n * 3) % 11 % 5) - 2).reshape(shape) / 2


class GoldenModel(nn.Module):
    """An embedding, a Linear, a Conv1D and a head, without anything non-linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.mix, self.head = nn.Embedding(12, 8), nn.Linear(8, 6), Conv1D(5, 6), nn.Linear(5, 3)
        for start, parameter in enumerate(self.parameters()):
            parameter.data = halves(*parameter.shape, start=start)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.up(self.embed(ids))))


def adapted() -> nn.Module:
    """The golden model with the golden adapter, made here."""
    model = add_adapter(GoldenModel(), CONFIG)
    record = record_of(model)
    with torch.no_grad():
        for start, path in enumerate(("embed", "up", "mix")):
            for offset, matrix in enumerate(record.layers[path].matrices("default")):
                matrix.copy_(halves(*matrix.shape, start=100 + 10 * start + offset))
        head = record.saved["head"].copies["default"]
        head.weight.copy_(halves(3, 5, start=200))
        head.bias.copy_(halves(3, start=201))
    return model


def main() -> None:
    import peft

    shutil.rmtree(HERE / "from_peft", ignore_errors=True)
    save_adapter(adapted(), HERE / "from_here")
    its = peft.PeftModel.from_pretrained(GoldenModel(), HERE / "from_here")
    its.save_pretrained(HERE / "from_peft")
    (HERE / "from_peft" / "README.md").unlink()
    with torch.no_grad():
        outputs = {"base": GoldenModel()(torch.tensor(IDS)).tolist(), "adapted": its(torch.tensor(IDS)).tolist()}
    note = f"computed by peft {peft.__version__}"
    (HERE / "expected.json").write_text(json.dumps({"note": note, "ids": IDS, **outputs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
