"""Models of real shapes with random weights, made on the device; one adapter on them, ours or peft's, begun alike."""

from __future__ import annotations

import contextlib
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab import packing, quantise, scoring, shapes
from lora_lab.adapters import adapter_names, add_adapter
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLinear
from lora_lab.merging import unload

from .sizes import Sizes, shrunk


def config_of(model: str, sizes: Sizes) -> dict:
    """The model's config from the course's table, made small where all is tiny."""
    config = shapes.entry(model)["config"]
    return shrunk(config) if sizes.tiny else dict(config)


def base(model: str, sizes: Sizes, device: torch.device, nf4: str = "") -> torch.nn.Module:
    """A frozen model of that shape with random weights, the same each time.

    nf4: "" or whose 4-bit linear layers it gets, "ours" or "bitsandbytes".

    Made where it is used and in the type it is used in: nothing is downloaded, and nothing passes through the CPU.
    """
    config = AutoConfig.for_model(**config_of(model, sizes))
    config.use_cache = False
    torch.manual_seed(0)
    with device, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, sizes.compute), attn_implementation="sdpa"
        )
    network.requires_grad_(False)
    if not nf4:
        return network
    linear = quantise.NF4Linear if nf4 == "ours" else quantise.best_linear(device)
    return quantise.quantise_linears(network, linear=linear)


@dataclass(frozen=True)
class Adapter:
    """Which linear layers ("all-linear", or names with commas between) get which rank; alpha is twice the rank."""

    targets: str
    rank: int

    @property
    def names(self) -> str | list[str]:
        return self.targets if self.targets == "all-linear" else self.targets.split(",")


def matrices(model: torch.nn.Module) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Path in the base model -> A [rank, in], B [out, rank] of its one adapter, ours or peft's."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found[path] = module.matrices("default")
        elif isinstance(module, peft.tuners.lora.Linear):
            found[path] = module.lora_A["default"].weight, module.lora_B["default"].weight
    return found


@contextlib.contextmanager
def adapted(network: torch.nn.Module, adapter: Adapter, side: str, half: bool = False) -> Iterator[torch.nn.Module]:
    """`network` with the adapter for the body of a `with`: what is trained. side: "ours" or "peft".

    A and B are overwritten with numbers drawn for each path, so that both sides begin with the very same ones. half:
    adapters in bfloat16 instead of float32 (peft: autocast_adapter_dtype=False).
    """
    before = set(vars(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if side == "ours":
            config = LoraConfig(rank=adapter.rank, alpha=2 * adapter.rank, target_modules=adapter.names)
            trained = add_adapter(network, config)
        else:
            config = peft.LoraConfig(
                r=adapter.rank, lora_alpha=2 * adapter.rank, target_modules=adapter.names, task_type="CAUSAL_LM"
            )
            trained = peft.get_peft_model(network, config, autocast_adapter_dtype=not half)
    try:
        for path, (a, b) in matrices(network).items():
            if half:
                a.data, b.data = a.data.bfloat16(), b.data.bfloat16()
            draw = torch.Generator(a.device).manual_seed(zlib.crc32(path.encode()))
            bound = a.shape[1] ** -0.5
            a.data.uniform_(-bound, bound, generator=draw)
            b.data.zero_()
        yield trained
    finally:
        if side == "peft":
            trained.unload()
        elif adapter_names(network):  # else they are merged, and gone
            unload(network)
        # Above all accelerate's autocast around `forward`, and its mark: a model that bears it gets no autocast again.
        for added in set(vars(network)) - before:
            del network.__dict__[added]
        network.requires_grad_(False).zero_grad(set_to_none=True)


def batches(network: torch.nn.Module, sizes: Sizes, steps: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """`steps` x rows examples of full length; tokens by Zipf's law, so that there is something to learn."""
    vocabulary = network.config.vocab_size
    draw = torch.Generator().manual_seed(seed)
    share = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    ids = torch.multinomial(share, steps * sizes.rows * sizes.length, replacement=True, generator=draw)
    return [{"input_ids": row, "labels": row} for row in ids.view(-1, sizes.length)]


def of_many_lengths(full: list[dict[str, torch.Tensor]], packed: bool) -> tuple[list, Callable]:
    """As many rows, each an example of so many eighths of the length, or several packed; and how to batch them.

    Few lengths, for on a GPU the first step of each is slow (cuDNN plans its attention), as it seldom is in a long run.
    """
    length = len(full[0]["input_ids"])
    dice = random.Random(0)
    # Twice as many examples as rows at most: packed, they fill about as many rows.
    examples = [row["input_ids"][: dice.randint(1, 8) * length // 8].tolist() for row in full for _ in range(2)]
    rows = [{"input_ids": ids, "labels": ids} for ids in examples]
    if packed:
        packed_rows = packing.pack(rows, length)[: len(full)]
        return packed_rows, partial(packing.collate, pad_id=0, length=length)
    return rows[: len(full)], partial(scoring.collate, pad_id=0)
