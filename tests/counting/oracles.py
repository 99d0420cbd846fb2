"""Models of transformers on the meta device, with adapters of peft or ours: what the counts are held against."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable

import peft
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig


def on_meta(config: dict, attention: str | None = None) -> torch.nn.Module:
    """The model that transformers builds from `config`, with shapes and no numbers."""
    with torch.device("meta"):
        built = AutoConfig.for_model(**config)
        return AutoModelForCausalLM.from_config(built, attn_implementation=attention)


def peft_counts(model: torch.nn.Module, targets: str | list[str], ranks: tuple[int, ...]) -> list[int]:
    """Trainable parameters of peft's adapter at each of `ranks`; the model is as before afterwards."""
    counts = []
    for rank in ranks:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=targets))
        counts.append(sum(p.numel() for p in adapted.parameters() if p.requires_grad))
        adapted.unload()
    return counts


def with_adapter(model: torch.nn.Module, rank: int, targets: str | list[str], dropout: float = 0.0) -> torch.nn.Module:
    return add_adapter(model, LoraConfig(rank=rank, target_modules=targets, dropout=dropout))


def step_flops(model: torch.nn.Module, length: int, rows: int = 1, backward: bool = True) -> int:
    """What torch counts in one step on meta tensors."""
    tokens = torch.zeros(rows, length, dtype=torch.long, device="meta")
    mask = torch.zeros(rows, 1, length, length, device="meta")  # ready made: transformers looks into any other
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def kept_by_autograd(model: torch.nn.Module, run: Callable[[], object]) -> int:
    """Bytes of the distinct storages that `run()` saves for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(size for size, _ in kept.values())


class LivePeak(TorchDispatchMode):
    """The most bytes of tensors made within it that were there at once: `with LivePeak() as live: ...; live.peak`.

    What an allocator that gave back every block at once would need; an operator's own scratch space is not seen.
    """

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given | self.sizes.keys():
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
