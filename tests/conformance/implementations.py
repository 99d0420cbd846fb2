"""Two implementations behind one interface: this package and peft. Properties are written against the interface.

A model is what `add` returned. An operation that an implementation lacks raises NotBuilt; what it refuses raises its
own error.
"""

from __future__ import annotations

import re
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from lora_lab import adapters, merging, storage
from lora_lab.combining import combine
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraLayer, SavedModule
from lora_lab.matching import find_targets
from lora_lab.mixed_batch import mixed_batch
from lora_lab.record import own_parameters, record_of
from tests.lora.tiny import to_peft


class NotBuilt(Exception):
    """The implementation has no such operation."""


class Implementation:
    """What both share: outputs, and adapters with random values, as if they had been trained."""

    name: str

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    def fill(self, model: nn.Module, name: str = "default", seed: int = 3, size: float = 0.2) -> nn.Module:
        """Move every parameter of adapter `name` by random values."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters(model, name).values():
                parameter += torch.randn(parameter.shape, generator=generator) * size
        return model

    def trained(self, base: nn.Module, config: LoraConfig, name: str = "default", seed: int = 3) -> nn.Module:
        """`add`, then `fill`."""
        torch.manual_seed(seed)
        return self.fill(self.add(base, config, name), name, seed)


class Ours(Implementation):
    """This package."""

    name = "lora_lab"

    def add(self, model, config, name="default"):
        return adapters.add_adapter(model, config, name)

    def meant(self, model, config) -> set[str]:
        return set(find_targets(model, config, strict=False)[0])  # strict: a target that matches nothing is an error

    def choose(self, model, names):
        adapters.set_adapter(model, names)

    def disabled(self, model):
        return adapters.disable_adapters(model)

    def merge(self, model, names=None, safe=False):
        merging.merge(model, names)  # always safe

    def unmerge(self, model):
        merging.unmerge(model)

    def merge_and_unload(self, model):
        return merging.merge_and_unload(model)

    def unload(self, model):
        return merging.unload(model)

    def delete(self, model, name):
        adapters.delete_adapter(model, name)

    def save(self, model, folder, name="default", initial=None) -> Path:
        return storage.save_adapter(model, folder, name)

    def load(self, base, folder, name="default", trainable=False):
        return storage.load_adapter(base, folder, name, trainable=trainable)

    def parameters(self, model, name="default") -> dict[str, nn.Parameter]:
        return own_parameters(record_of(model), name)

    def scaling(self, model, name="default") -> dict[str, float]:
        return {p: m.scaling[name] for p, m in record_of(model).layers.items() if name in m.scaling}

    def rank(self, model, name="default") -> dict[str, int]:
        return {p: m.rank[name] for p, m in record_of(model).layers.items() if name in m.scaling}

    def delta(self, model, name="default") -> dict[str, Tensor]:
        layers = record_of(model).layers.items()
        return {p: m.delta(name).detach().clone() for p, m in layers if name in m.scaling}

    def status(self, model) -> dict:
        said = adapters.status(model)
        return {
            "adapters": list(said.adapters),
            "active": list(said.active),
            "merged": list(said.merged),
            "enabled": said.enabled,
            "trainable": dict(said.trainable),
        }

    def is_wrapped(self, model) -> bool:
        return any(isinstance(m, (LoraLayer, SavedModule)) for m in model.modules())

    def mixed(self, model, x, names):
        with mixed_batch(model, names):
            return self(model, x)

    def combine(self, model, weights, name, how="exact", rank=None):
        combine(model, weights, name, rank, "linear" if how == "apart" else "exact")


class Peft(Implementation):
    """peft, called as its documentation says."""

    name = "peft"

    def add(self, model, config, name="default"):
        config = to_peft(config)
        if not isinstance(model, peft.PeftModel):
            return peft.get_peft_model(model, config, adapter_name=name).eval()
        model.add_adapter(name, config)
        model.set_adapter(name)
        return model.eval()

    def meant(self, model, config) -> set[str]:
        return set(self._layers(peft.inject_adapter_in_model(to_peft(config), model), "default"))

    def choose(self, model, names):
        if isinstance(names, str):
            model.set_adapter(names)
        else:
            model.base_model.set_adapter(names)  # PeftModel's own takes one name

    def disabled(self, model):
        return model.disable_adapter()

    def merge(self, model, names=None, safe=False):
        model.merge_adapter(names if names is None or isinstance(names, list) else [names], safe_merge=safe)

    def unmerge(self, model):
        model.unmerge_adapter()

    def merge_and_unload(self, model):
        return model.merge_and_unload()

    def unload(self, model):
        return model.unload()

    def delete(self, model, name):
        model.delete_adapter(name)

    def save(self, model, folder, name="default", initial=None) -> Path:
        model.save_pretrained(folder, selected_adapters=[name], path_initial_model_for_weight_conversion=initial)
        return Path(folder) if name == "default" else Path(folder) / name

    def load(self, base, folder, name="default", trainable=False):
        folder = folder if name == "default" or not (Path(folder) / name).is_dir() else Path(folder) / name
        if not isinstance(base, peft.PeftModel):
            return peft.PeftModel.from_pretrained(base, folder, adapter_name=name, is_trainable=trainable)
        base.load_adapter(folder, name, is_trainable=trainable)
        base.base_model.set_adapter(name, inference_mode=not trainable)
        return base.eval()

    def parameters(self, model, name="default") -> dict[str, nn.Parameter]:
        place = re.compile(rf"\.(lora_\w+|modules_to_save)\.{re.escape(name)}(\.|$)")
        return {p: v for p, v in model.named_parameters() if place.search(p)}

    def _layers(self, model, name) -> dict[str, nn.Module]:
        modules = ((p.removeprefix("base_model.model."), m) for p, m in model.named_modules())
        return {p: m for p, m in modules if name in getattr(m, "scaling", ())}

    def scaling(self, model, name="default") -> dict[str, float]:
        return {p: m.scaling[name] for p, m in self._layers(model, name).items()}

    def rank(self, model, name="default") -> dict[str, int]:
        return {p: m.r[name] for p, m in self._layers(model, name).items()}

    def delta(self, model, name="default") -> dict[str, Tensor]:
        return {p: m.get_delta_weight(name).detach().clone() for p, m in self._layers(model, name).items()}

    def status(self, model) -> dict:
        said = model.get_model_status()
        return {
            "adapters": said.available_adapters,
            "active": said.active_adapters,
            "merged": said.merged_adapters,
            "enabled": said.enabled,
            "trainable": said.requires_grad,
        }

    def is_wrapped(self, model) -> bool:
        return any(type(m).__module__.startswith("peft.") for m in model.modules())

    def mixed(self, model, x, names):
        with torch.no_grad():
            return model(x, adapter_names=["__base__" if n is None else n for n in names])

    def combine(self, model, weights, name, how="exact", rank=None):
        model.base_model.add_weighted_adapter(
            list(weights), list(weights.values()), name,
            combination_type={"exact": "cat", "svd": "svd", "apart": "linear"}[how], svd_rank=rank,
        )  # fmt: skip
        model.set_adapter(name)


OURS, PEFT = Ours(), Peft()
BOTH = (OURS, PEFT)
