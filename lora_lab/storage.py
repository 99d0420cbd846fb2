"""Save and load adapters in the PEFT format: what is saved here loads in peft, and back, to the bit.

Adapter "default" is at the top of a folder, adapter NAME in `NAME/` below it. The same adapter gives the same bytes:
tensors are sorted, patterns keep their order, nothing depends on a hash seed. Loading checks everything before the
model is touched, and never unpickles.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lora_lab.adapter_files import read_both, write_both
from lora_lab.adapters import install
from lora_lab.config import ALL_LINEAR, LoraConfig
from lora_lab.layers import LoraLayer
from lora_lab.matching import original_modules
from lora_lab.peft_format import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    bias_key,
    config_from_file,
    config_to_file,
    expected_tensors,
    magnitude_key,
    magnitude_shape,
    matrix_keys,
)
from lora_lab.record import Record, check_known, check_name, finite, record_of
from lora_lab.variants import Dora


def save_adapter(
    model: nn.Module, folder: str | Path, name: str = "default", base_model_name: str | None = None
) -> Path:
    """Write adapter `name` in the PEFT format and return the folder it is in: `folder`, or `folder/NAME`.

    The factor of `set_scale` is saved inside alpha. PiSSA is saved as the plain LoRA of twice the rank that it is, and
    VeRA as one of its own rank. `base_model_name` is noted in the file (default: the name the model knows itself by).
    Both files are written beside their place and moved there when whole. Raises ValueError
    for an unknown adapter, one scaled to 0, or values that are not finite; OSError where the disk refuses.
    """
    record = record_of(model)
    check_known(record, [name])
    if record.scale[name] == 0:
        raise ValueError(
            f"adapter {name!r} is scaled to 0 and would be saved as one that does nothing: set_scale first"
        )
    tensors = _tensors_of(model, record, name)
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not finite(tensor)]
    if broken:
        raise ValueError(f"adapter {name!r} has values that are not finite, first in {broken[0]}: not saved")
    text = json.dumps(config_to_file(model, record, name, base_model_name), indent=2) + "\n"
    place = Path(folder) if name == "default" else Path(folder) / name
    if place.is_symlink() and (name != "default" or not place.is_dir()):
        raise ValueError(f"{place} is a link to {os.readlink(place)}: nothing is saved through it")
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file: an adapter is saved as a folder")
    write_both(place, text.encode(), to_bytes(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    return place


def _tensors_of(model: nn.Module, record: Record, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, layer in record.layers.items():
        if layer.has(name):
            found |= _tensors_of_layer(path, layer, name)
    for path, module in record.saved.items():
        if name in module.copies:
            found |= {f"{PREFIX}{path}.{k}": t for k, t in module.copies[name].state_dict().items()}
    if record.bias_owner == name:
        trained = {id(b): b if record.biases_trained else other for b, other in record.hidden_biases}
        adapted = [p for p, layer in record.layers.items() if name in layer.scaling]
        found |= {bias_key(path, adapted): trained[id(bias)] for path, bias in record.biases.items()}
    for path, layer in _whole_embeddings(model, record, name).items():
        weight = layer.base.weight if layer.pristine is None or record.disabled else layer.pristine
        found[f"{PREFIX}{path}.base_layer.weight"] = weight
    return {k: t.detach().to("cpu", copy=True).contiguous() for k, t in found.items()}


def _tensors_of_layer(path: str, layer: LoraLayer, name: str) -> dict[str, Tensor]:
    a, b = layer.folded(name) or layer.matrices(name)
    variant = layer.variants[name] if name in layer.variants else None
    found = dict(zip(matrix_keys(path, type(layer)), (a, b), strict=True))
    if isinstance(variant, Dora):
        found[magnitude_key(path)] = variant.magnitude.view(magnitude_shape(layer.base.weight, type(layer)))
    return found


def _whole_embeddings(model: nn.Module, record: Record, name: str) -> dict[str, LoraLayer]:
    """Adapted embeddings whose base weight peft saves too: where a target is called embed_tokens or lm_head."""
    targets, usual = record.configs[name].target_modules, ("embed_tokens", "lm_head")
    if isinstance(targets, str):
        named = targets != ALL_LINEAR and any(re.fullmatch(rf"(.*\.)?({'|'.join(usual)})", p) for p in record.layers)
    else:
        named = any(u in targets for u in usual)
    if not named or not hasattr(model, "get_input_embeddings"):
        return {}
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {p: m for p, m in record.layers.items() if any(m is e for e in ends) and name in m.scaling}


def load_adapter(
    model: nn.Module, folder: str | Path, name: str = "default", trainable: bool = False, strict: bool = True
) -> nn.Module:
    """Add the adapter saved in `folder`, or in `folder/NAME`, as `name`, and make it the active one.

    trainable: go on training it; else its parameters are frozen. strict: a missing tensor is an error; else a warning,
    and that part starts untrained. Any float dtype is read. Raises ValueError or FileNotFoundError, and leaves the
    model as it was, for files that are missing, damaged, of another shape, or that ask for what is not built.
    """
    check_name(name)
    config, tensors, bases, _ = read_adapter(model, folder, name, strict)
    install(model, config, name, trainable=trainable, strict=False)
    _fill(model, name, tensors, bases)
    return model


def read_adapter(
    model: nn.Module, folder: str | Path, name: str = "default", strict: bool = True
) -> tuple[LoraConfig, dict[str, Tensor], dict[str, Tensor], Path]:
    """Read and check what `load_adapter` would load, and leave the model alone. Raises and warns as it does.

    Returns the configuration, {key: tensor}, {path of an adapted layer: the base weight it brings} and the weights'
    file.
    """
    folder = Path(folder)
    if name != "default" and (folder / name / CONFIG_FILE).is_file():
        folder = folder / name
    content, tensors = read_both(folder)
    config = config_from_file(content, folder / CONFIG_FILE)
    where = folder / WEIGHTS_FILE
    try:
        expected = expected_tensors(model, config)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from None
    brought = {k: t for k, t in tensors.items() if k not in expected and _adapted_by(k) & expected.keys()}
    bases = _check_bases(model, brought, where)
    if bases and config.init_lora_weights == "pissa":
        raise ValueError(
            f"{where} brings the base weight of '{next(iter(bases))}', and PiSSA starts from the model's own"
        )
    _check_tensors({k: t for k, t in tensors.items() if k not in brought}, expected, where, strict)
    return config, tensors, bases, where


def _adapted_by(key: str) -> set[str]:
    """The keys, one of which the file also holds if `key` is the base weight of an adapted layer."""
    path = key.removesuffix(".base_layer.weight")
    return {f"{path}.lora_A.weight", f"{path}.lora_embedding_A"} if path != key else set()


def _check_bases(model: nn.Module, brought: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """{path: weight} of what differs from the model's own. Raises ValueError for what is no weight."""
    modules, found = dict(original_modules(model)), {}
    for key, weight in brought.items():
        path = key.removeprefix(PREFIX).removesuffix(".base_layer.weight")
        own = modules[path].weight
        _check_values(weight, own, key, where)
        if weight.shape != own.shape:
            warnings.warn(f"{where}: the weight of '{path}' in it has another size and is not used", stacklevel=4)
        elif not torch.equal(weight.to(own), own):
            if "weight" not in modules[path]._parameters:
                raise ValueError(f"{where}: {key} cannot replace the weight of '{path}', which is computed (quantised)")
            warnings.warn(f"{where} replaces the base weight of '{path}' by its own, as in peft", stacklevel=4)
            found[path] = weight
    return found


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], where: Path, strict: bool) -> None:
    """Raises ValueError for what cannot be loaded; `expected` is on the meta device: shapes and dtypes alone."""
    missing = [key for key in expected if key not in tensors]
    surplus = [key for key in tensors if key not in expected]
    if missing:
        text = f"{where} lacks {len(missing)} of the {len(expected)} tensors this model needs, first {missing[0]!r}"
        if surplus:
            text += f"; it has {surplus[0]!r} instead"
            if not any(key.startswith(PREFIX) for key in tensors):
                text += f" (every key should start with {PREFIX!r})"
        if strict:
            raise ValueError(f"{text}. Was it made for another model? strict=False loads what fits.")
        warnings.warn(f"{text}: that part starts untrained", stacklevel=4)
    if surplus:
        warnings.warn(f"{where}: {len(surplus)} tensors not used, first {surplus[0]!r}", stacklevel=4)
    for key, like in expected.items():
        if key not in tensors:
            continue
        tensor, shape = tensors[key], tuple(like.shape)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{where}: {key} has shape {list(tensor.shape)}, expected {list(shape)}. {_cause(tensor, shape, key)}"
            )
        _check_values(tensor, like, key, where)


def _check_values(tensor: Tensor, like: Tensor, key: str, where: Path) -> None:
    """Raises ValueError unless the values can stand in the place of `like`."""
    if tensor.is_floating_point() != like.is_floating_point():
        kind = "floating-point numbers" if like.is_floating_point() else "whole numbers"
        raise ValueError(f"{where}: {key} holds {tensor.dtype}, not {kind}")
    if like.is_floating_point() and not finite(tensor.to(like.dtype)):
        raise ValueError(f"{where}: {key} holds values that are not finite (NaN or infinity) in {like.dtype}")


def _cause(tensor: Tensor, shape: tuple[int, ...], key: str) -> str:
    """The likely reason for a wrong shape."""
    found = tuple(tensor.shape)
    if found == shape[::-1]:
        return "It is transposed: A is [rank, in] and B is [out, rank]."
    if ".lora_" in key and len(found) == len(shape) > 1:
        at = 0 if key.rpartition(".lora_")[2].startswith(("A", "embedding_A")) else 1
        if found[1 - at] == shape[1 - at]:
            return f"The file's rank is {found[at]}, but {CONFIG_FILE} says {shape[at]} (r or rank_pattern)."
    return "It was made for a base model of another size."


def _fill(model: nn.Module, name: str, tensors: dict[str, Tensor], bases: dict[str, Tensor]) -> None:
    """Copy the checked tensors into the freshly added adapter."""
    record = record_of(model)
    config = record.configs[name]
    with torch.no_grad():
        for path, layer in record.layers.items():
            if name not in layer.scaling:
                continue
            if path in bases:
                layer.base.weight.copy_(bases[path])
                if config.use_dora:  # lengths of the weight as it is now, where the file has none
                    layer.variants[name].magnitude.copy_(Dora(layer, name).magnitude)
            keys = matrix_keys(path, type(layer))
            if all(key in tensors for key in keys):  # one trained matrix beside a random one would be noise
                for key, parameter in zip(keys, layer.matrices(name), strict=True):
                    parameter.copy_(tensors[key])
            if magnitude_key(path) in tensors and name in layer.variants:
                layer.variants[name].magnitude.copy_(tensors[magnitude_key(path)].flatten())
        for path, module in record.saved.items():
            if name in module.copies:
                for key, value in module.copies[name].state_dict().items():
                    if f"{PREFIX}{path}.{key}" in tensors:
                        value.copy_(tensors[f"{PREFIX}{path}.{key}"])
        if record.bias_owner == name:
            adapted = [p for p, layer in record.layers.items() if name in layer.scaling]
            for path, bias in record.biases.items():
                if bias_key(path, adapted) in tensors:
                    bias.copy_(tensors[bias_key(path, adapted)])
