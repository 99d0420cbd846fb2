"""What an adapter's two files mean, read by hand: JSON, the bytes of safetensors, and s B A in numpy's float64.

Nothing here comes from the package. Which layers a configuration means is asked of peft's own matcher.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import types
from pathlib import Path

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn

from tests.fuzz.adapters import CONFIG, WEIGHTS

Array = NDArray[np.float64]
PREFIX = "base_model.model."
NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
# Settings of peft that change nothing in what a trained adapter computes, or that are read below.
MEANT = set(
    "r lora_alpha target_modules exclude_modules layers_to_transform layers_pattern rank_pattern alpha_pattern "
    "use_rslora use_dora modules_to_save bias fan_in_fan_out init_lora_weights lora_dropout task_type peft_type "
    "base_model_name_or_path revision inference_mode auto_mapping peft_version megatron_core eva_config runtime_config "
    "qalora_group_size".split()
)


def numbers(data: bytes, dtype: str, shape: list[int]) -> Array:
    """The values of one tensor as float64."""
    if dtype == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif dtype in FLOAT8:
        flat = torch.frombuffer(bytearray(data), dtype=FLOAT8[dtype]).double().numpy()
    else:
        flat = np.frombuffer(data, "<" + NUMPY[dtype])
    return flat.astype(np.float64).reshape(shape)


def tensors(data: bytes) -> dict[str, Array]:
    """{key: values} of the bytes of a safetensors file; an adapter's name inside a key is left out, as peft allows."""
    size = struct.unpack("<Q", data[:8])[0]
    found, pairs = {}, []
    header = json.loads(data[8 : 8 + size], object_pairs_hook=lambda p: pairs.append(len(p)) or dict(p))
    assert pairs[-1] == len(header), "a key stands twice in the header"  # the outermost object is parsed last
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        begin, end = (8 + size + n for n in entry["data_offsets"])
        parts = key.split(".")
        if len(parts) > 2 and parts[-1] == "weight" and parts[-3] in ("lora_A", "lora_B"):
            del parts[-2]
        name = ".".join(parts)
        assert name not in found, f"{name} stands twice in the file"
        found[name] = (data[begin:end], entry["dtype"], entry["shape"])
    return found


@dataclasses.dataclass
class Meaning:
    """What a model must hold after loading: changes of weights, and values that replace the model's own, by path."""

    deltas: dict[str, Array]
    replaced: dict[str, Array]  # parameters of whole modules, biases, and base weights
    bases: set[str]  # those of `replaced` that stay when the adapter is deleted
    unused: set[str]
    missing: set[str]


def meaning(folder: Path, model: nn.Module) -> Meaning:
    """What the files in `folder` say about the plain `model`. Raises AssertionError for what no loader may accept."""
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    raw = tensors((folder / WEIGHTS).read_bytes())
    said = {k: v for k, v in content.items() if v is not None}
    assert said["peft_type"] == "LORA"
    for field in dataclasses.fields(peft.LoraConfig):
        default = field.default_factory() if callable(field.default_factory) else field.default
        asked = said.get(field.name, default)
        assert field.name in MEANT or not asked or asked == default, f"loaded although it asks for {field.name}"
    init = content.get("init_lora_weights", True)
    assert init in (True, False, None, "gaussian", "eva", "pissa"), f"loaded although it starts from {init!r}"

    modules, used, missing = dict(model.named_modules()), set(), set()
    out = Meaning({}, {}, set(), set(), set())

    def read(key: str, shape: tuple[int, ...]) -> Array | None:
        if key not in raw:
            missing.add(key)
            return None
        data, dtype, said_shape = raw[key]
        assert tuple(said_shape) == shape, f"{key} loaded with shape {said_shape}, not {shape}"
        assert dtype[0] in "FB" and dtype != "BOOL", f"{key} loaded as {dtype}"
        used.add(key)
        values = numbers(data, dtype, said_shape)
        with np.errstate(over="ignore"):
            assert np.isfinite(values.astype(np.float32)).all(), f"{key} loaded with values that are not finite"
        return values

    targets = _targets(said, model)
    assert targets, "loaded although no module is meant"
    for path in targets:
        weight = modules[path].weight.detach().double().numpy()
        key = f"{PREFIX}{path}.base_layer.weight"
        if key in raw:
            used.add(key)
            if tuple(raw[key][2]) == weight.shape:
                out.replaced[f"{path}.weight"] = read(key, weight.shape)
                out.bases.add(f"{path}.weight")
                weight, own = out.replaced[f"{path}.weight"], weight
                assert init != "pissa" or np.allclose(own, weight), "PiSSA on another weight than the model's own"
        out.deltas[path] = _delta(path, modules[path], weight, said, init, read)
    whole = [p for p in modules if p and said.get("modules_to_save") and p.endswith(tuple(said["modules_to_save"]))]
    whole = [p for p in whole if not any(p.startswith(f"{q}.") for q in whole)]
    for path in whole:
        for name, value in modules[path].state_dict().items():
            out.replaced[f"{path}.{name}"] = read(f"{PREFIX}{path}.{name}", tuple(value.shape))
    bias = said.get("bias", "none")
    for path, module in modules.items():
        if (
            bias == "none"
            or getattr(module, "bias", None) is None
            or f"{path}.".startswith(tuple(f"{p}." for p in whole))
        ):
            continue
        if path in targets or bias == "all":
            key = f"{PREFIX}{path}.base_layer.bias" if path in targets else f"{PREFIX}{path}.bias"
            out.replaced[f"{path}.bias"] = read(key, tuple(module.bias.shape))
    out.replaced = {k: v for k, v in out.replaced.items() if v is not None}
    out.unused, out.missing = set(raw) - used, missing
    return out


def _targets(said: dict, model: nn.Module) -> list[str]:
    """The paths that peft would adapt."""
    targets = said["target_modules"]
    if isinstance(targets, str) and targets.lower() == "all-linear":
        linear = [p for p, m in model.named_modules() if isinstance(m, nn.Linear) and m is not model.lm_head]
        targets = sorted({p.rpartition(".")[2] for p in linear} - {"lm_head"})
    config = types.SimpleNamespace(
        target_modules=targets,
        target_parameters=None,
        **{k: said.get(k) for k in ("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")},
    )
    return [p for p, _ in model.named_modules() if p and check_target_module_exists(config, p)]


def _delta(path: str, module: nn.Module, weight: Array, said: dict, init: object, read) -> Array:
    """The change of the weight of one layer."""
    embedding, kernel = isinstance(module, nn.Embedding), weight.shape[2:]
    rows = (weight.T if embedding else weight).reshape(weight.shape[1 if embedding else 0], -1)  # [out, in]
    ranks, alphas = said.get("rank_pattern", {}), said.get("alpha_pattern", {})
    rank = ranks.get(get_pattern_key(ranks, path), said.get("r", 8))
    alpha = alphas.get(get_pattern_key(alphas, path), said.get("lora_alpha", 8))
    scaling = alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)
    key = f"{PREFIX}{path}."
    key_a, key_b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    into = weight.shape[0 if embedding else 1]
    a = read(key + key_a, (rank, into, *kernel))
    b = read(key + key_b, (rows.shape[0], rank, *[1] * len(kernel)))
    untrained = a is None or b is None  # such a pair is left out whole, so that it changes nothing
    with np.errstate(all="ignore"):
        change = np.zeros_like(rows) if untrained else scaling * b.reshape(-1, rank) @ a.reshape(rank, -1)
        if init == "pissa" and not untrained:
            u, values, v = np.linalg.svd(rows, full_matrices=False)
            change = change - (u[:, :rank] * values[:rank]) @ v[:rank]
        if said.get("use_dora"):
            m = read(f"{key}lora_magnitude_vector", (1, len(rows), 1, 1) if kernel else (len(rows),))
            m = np.linalg.norm(rows, axis=1) if m is None else m.reshape(-1)
            moved = rows + change
            if not all(np.abs(x).max(initial=0) < 1e15 for x in (moved, change, *([] if untrained else (a, b)))):
                return np.full_like(weight, np.inf)  # the lengths' squares overflow float32: nothing to compare
            change = m[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - rows
    return (change.T if embedding else change).reshape(weight.shape)
