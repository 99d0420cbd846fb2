"""What the rows share: the device, the sizes, and the one frozen model that is in memory at a time."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lora_lab import counting, flops, shapes
from lora_lab.memory import memory

from . import build, card
from .build import Adapter
from .sizes import Sizes


@dataclass(frozen=True)
class Spec:
    """A row to be: id, about how many seconds it takes on an H100, and what measures it; turn 1 comes before turn 2.

    again: measured once in each process that measures anything of its group, as what the group is compared with.
    open: takes all the time there is, and goes on in another run.
    """

    id: str
    about: float
    make: Callable[[Bench], dict]
    turn: int = 1
    group: str = ""
    again: bool = False
    open: bool = False

    @property
    def part(self) -> str:
        return self.id.split("/")[0]


SLACK = 2**29  # bytes: what libraries keep for themselves, cuBLAS above all, is no leak


class Unfinished(RuntimeError):
    """What a row raises that goes on in another run."""


@dataclass
class Bench:
    """until: time.monotonic() at which a row should come to its end. lately: this process's rows, by id."""

    device: torch.device
    sizes: Sizes
    out: Path
    text: Path | None = None
    workers: int = 1
    until: float = float("inf")
    lately: dict[str, dict] = field(default_factory=dict)
    _kept: tuple | None = None

    def network(self, model: str, nf4: str = "") -> torch.nn.Module:
        """The frozen model, made anew only where it is another one than the last; the peak counts from here on.

        Raises RuntimeError where something of an earlier row is still in memory: no peak would be true any more.
        """
        if self._kept is None or self._kept[0] != (model, nf4):
            self.drop()
            network = build.base(model, self.sizes, self.device, nf4)
            self._kept = ((model, nf4), network, sum(p.nbytes for p in (*network.parameters(), *network.buffers())))
        card.clean(self.device)
        self._check(self._kept[2])
        return self._kept[1]

    def forget(self) -> None:
        """Keep the model no longer: for what has changed it."""
        self._kept = None

    def drop(self) -> None:
        """Forget the model, and give its memory back. Raises RuntimeError where that cannot be."""
        self.forget()
        card.clean(self.device)
        self._check(0)

    def _check(self, wanted: int) -> None:
        if (more := card.held(self.device) - wanted) > SLACK:
            raise RuntimeError(f"{more / 1e9:.1f} GB of earlier rows are still in memory")

    def shape(self, model: str) -> shapes.Shape:
        """The model's shape: what is predicted from."""
        return shapes.from_config(build.config_of(model, self.sizes))

    def cost(self, model: str, adapter: Adapter | None, seconds: float | None, rows: int | None = None) -> dict:
        """A step's tokens a second, FLOPs (LoRA's own, or of full fine-tuning where there is no adapter) and MFU."""
        rows, length = rows or self.sizes.rows, self.sizes.length
        how = {"how": "full"} if adapter is None else {"how": "lora", "rank": adapter.rank, "targets": adapter.names}
        step, peak = flops.step(self.shape(model), length, rows, **how), card.peak_flops(card.name(self.device))
        return {
            "tokens_per_second": rows * length / seconds if seconds else None,
            "flops": step,
            "mfu": step / seconds / peak if seconds and peak else None,
            "rows": rows,
            "length": length,
        }

    def predicted(self, model: str, how: str, adapter: Adapter | None, half: bool = False, **more) -> int:
        """Bytes that `lora_lab.memory` predicts at the peak of one pass; half: the adapter and its Adam in bfloat16."""
        shape, known = self.shape(model), inspect.signature(memory).parameters
        asked = {} if adapter is None else {"rank": adapter.rank, "targets": adapter.names}
        unknown = {name for name, value in more.items() if name not in known and value is not None}
        if unknown:
            raise ValueError(f"lora_lab.memory does not know {', '.join(sorted(unknown))}")
        more = {name: value for name, value in more.items() if name in known}
        asked["gradients_kept"] = False
        total = sum(memory(shape, how, self.sizes.rows, self.sizes.length, **asked, **more).values())
        return total - 6 * counting.lora(shape.matrices, adapter.rank, adapter.names) if half else total


@contextlib.contextmanager
def compiled(network: torch.nn.Module, backend: str) -> Iterator[None]:
    """Every decoder block compiled, one code for all of them."""
    blocks = network.model.layers
    torch._dynamo.reset()
    for block in blocks:
        block.compile(backend=backend)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()


@contextlib.contextmanager
def checkpointed(network: torch.nn.Module) -> Iterator[None]:
    """Every decoder block computed again in the backward pass."""
    # transformers 5.20 or so changed the word; the older one goes with version 6.
    word = "activation" if hasattr(network, "activation_checkpointing_enable") else "gradient"
    getattr(network, f"{word}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(network, f"{word}_checkpointing_disable")()
