"""Save and load adapters in the PEFT format: what is saved here loads in peft, and back, to the bit.

Adapter "default" is at the top of a folder, adapter NAME in `NAME/` below it. The same adapter gives the same bytes:
tensors are sorted, patterns keep their order, nothing depends on a hash seed. Loading checks everything before the
model is touched, and never unpickles.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lora_lab.adapters import install
from lora_lab.config import ALL_LINEAR, LoraConfig
from lora_lab.layers import LoraLayer
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
from lora_lab.variants import Dora, Pissa


def save_adapter(
    model: nn.Module, folder: str | Path, name: str = "default", base_model_name: str | None = None
) -> Path:
    """Write adapter `name` in the PEFT format and return the folder it is in: `folder`, or `folder/NAME`.

    The factor of `set_scale` is saved inside alpha. PiSSA is saved as the plain LoRA of twice the rank that it is.
    `base_model_name` is noted in the file (default: the name the model knows itself by). Both files are written
    beside their place and moved there when whole. Raises ValueError
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
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file: an adapter is saved as a folder")
    _write_both(place, text.encode(), to_bytes(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    return place


def _write_both(place: Path, config: bytes, weights: bytes) -> None:
    """Both files or neither: written to a folder beside, then moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        (beside / WEIGHTS_FILE).write_bytes(weights)
        (beside / CONFIG_FILE).write_bytes(config)
        place.mkdir(exist_ok=True)
        os.replace(beside / WEIGHTS_FILE, place / WEIGHTS_FILE)
        os.replace(beside / CONFIG_FILE, place / CONFIG_FILE)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _tensors_of(model: nn.Module, record: Record, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, layer in record.layers.items():
        if name in layer.scaling:
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
    a, b = layer.matrices(name)
    variant = layer.variants[name] if name in layer.variants else None
    if isinstance(variant, Pissa):  # s(BA - B0A0) as one product: plain LoRA of twice the rank
        a, b = torch.cat([a, variant.a0]), torch.cat([b, -variant.b0], dim=1)
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
    folder = Path(folder)
    if name != "default" and (folder / name / CONFIG_FILE).is_file():
        folder = folder / name
    config = config_from_file(_read_json(folder), folder / CONFIG_FILE)
    weights_file = folder / WEIGHTS_FILE
    tensors = _read_tensors(weights_file)
    extra = _check_tensors(tensors, expected_tensors(model, config), weights_file, strict, config)
    install(model, config, name, trainable=trainable, strict=False)
    _fill(model, name, tensors, extra, weights_file)
    return model


def _read_json(folder: Path) -> object:
    path = folder / CONFIG_FILE
    if not path.is_file():
        below = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_FILE}")) if folder.is_dir() else []
        hint = f" There are adapters below it: {', '.join(below)}." if below else ""
        raise ValueError(f"can't find '{CONFIG_FILE}' in {folder}.{hint}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON or UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickled = path.with_name("adapter_model.bin")
        if pickled.is_file():
            raise ValueError(
                f"{pickled} is a pickle, which can run any code when it is opened, so it is not read here. Load it in "
                f"peft and save it again: that writes {path.name}."
            )
        raise FileNotFoundError(f"{path.parent} has {CONFIG_FILE} but neither {path.name} nor {pickled.name}")
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} is not a whole safetensors file ({size:,} bytes): {error}. Was a copy or download cut short?"
        ) from None
    # peft also reads keys in which the adapter's name was left.
    return {re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", k): t for k, t in tensors.items()}


def _check_tensors(
    tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], where: Path, strict: bool, config: LoraConfig
) -> dict[str, Tensor]:
    """Raises ValueError for what cannot be loaded; returns the base weights of embeddings that peft puts in a file."""
    missing = [key for key in expected if key not in tensors]
    surplus = [key for key in tensors if key not in expected]
    extra = {k: tensors[k] for k in surplus if k.endswith(".base_layer.weight")}
    surplus = [key for key in surplus if key not in extra]
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
    for key, shape in expected.items():
        tensor = tensors.get(key)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{where}: {key} has shape {list(tensor.shape)}, expected {list(shape)}. {_cause(tensor, shape, key)}"
            )
        if not tensor.is_floating_point() and ".lora_" in key:
            raise ValueError(f"{where}: {key} holds {tensor.dtype}, not floating-point numbers")
        if tensor.is_floating_point() and not finite(tensor):
            raise ValueError(f"{where}: {key} holds values that are not finite (NaN or infinity)")
    return extra


def _cause(tensor: Tensor, shape: tuple[int, ...], key: str) -> str:
    """The likely reason for a wrong shape."""
    found = tuple(tensor.shape)
    if found == shape[::-1]:
        return "It is transposed: A is [rank, in] and B is [out, rank]."
    if ".lora_" in key and len(found) == 2:
        at = 0 if key.rpartition(".lora_")[2].startswith(("A", "embedding_A")) else 1
        if found[1 - at] == shape[1 - at]:
            return f"The file's rank is {found[at]}, but {CONFIG_FILE} says {shape[at]} (r or rank_pattern)."
    return "It was made for a base model of another size."


def _fill(model: nn.Module, name: str, tensors: dict[str, Tensor], extra: dict[str, Tensor], where: Path) -> None:
    """Copy the checked tensors into the freshly added adapter."""
    record = record_of(model)
    with torch.no_grad():
        for path, layer in record.layers.items():
            if name not in layer.scaling:
                continue
            for key, parameter in zip(matrix_keys(path, type(layer)), layer.matrices(name), strict=True):
                if key in tensors:
                    parameter.copy_(tensors[key])
            if magnitude_key(path) in tensors and name in layer.variants:
                layer.variants[name].magnitude.copy_(tensors[magnitude_key(path)].flatten())
            whole = extra.get(f"{PREFIX}{path}.base_layer.weight")
            if whole is not None and not torch.equal(whole.to(layer.base.weight), layer.base.weight):
                if whole.shape != layer.base.weight.shape:
                    warnings.warn(
                        f"{where}: the weight of '{path}' in it has another size and is not used", stacklevel=3
                    )
                else:
                    warnings.warn(f"{where} replaces the base weight of '{path}' by its own, as in peft", stacklevel=3)
                    layer.base.weight.copy_(whole)
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
