"""Ways to damage an adapter's two files. Each takes a random source and {file: bytes}, and changes the latter."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Callable

import torch
from safetensors.torch import load, save

from tests.fuzz.adapters import CONFIG, WEIGHTS, folders

Files = dict[str, bytes]
HUGE = (10**9, 2**31, 2**63, 2**64, 10**30, 10**400)
NASTY = (
    *(None, True, False, 0, 1, -1, 2, 3, 4, 8, 16, 8.0, 0.5, -0.0, 1e-300, 1e38, 1e308, *HUGE),
    *("", "q_proj", "all-linear", "none", "all", "lora_only", "pissa", "olora", "LORA", "../../etc/passwd", "\0", "é"),
    *(".*", "(", "(?i)Q_PROJ", "[", "a)(b", r"\1", "(layers)", "layers|h", "lm_head", "norm", "conv", "embed_tokens"),
    *([], {}, [None], [""], ["("], ["q_proj"], ["nope"], ["q_proj", "nope"], [1], [0, 1], [[0]], [True], [-1], [1.5]),
    *({"q_proj": 3}, {"q_proj": 3.5}, {"(": 2}, {"": 2}, {"(?i)q": 2}, {"v_proj": None}, {"q_proj": 10**9}, {"a": {}}),
)
KEYS = tuple(
    "r lora_alpha lora_dropout target_modules exclude_modules layers_to_transform layers_pattern rank_pattern bias "
    "alpha_pattern use_rslora use_dora modules_to_save fan_in_fan_out init_lora_weights peft_type lora_bias "
    "target_parameters trainable_token_indices layer_replication use_qalora base_model_name_or_path revision "
    "runtime_config auto_mapping task_type peft_version loftq_config something_new __class__".split()
)
DTYPES = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 F4 I64 I32 I16 I8 U8 U16 BOOL C64 F33".split() + ["", 7, None]


# --- bytes ------------------------------------------------------------------------------------------------------------


def _bytes(change: Callable[[random.Random, bytearray, int], None], file: str, within: int | None = None):
    """A mutation of the bytes of `file`, at a place chosen among its first `within`."""

    def mutate(rng: random.Random, files: Files) -> None:
        data = bytearray(files[file])
        change(rng, data, rng.randrange(max(1, min(len(data), within or len(data)))))
        files[file] = bytes(data)

    return mutate


def _flip(rng: random.Random, data: bytearray, at: int) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        at += rng.randrange(20)


def _insert(rng: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = rng.choice((rng.randbytes(rng.randint(1, 40)), b"\0", b'"', b"{", b"[" * 200_000, b"\xff\xfe"))


def _cut(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + rng.choice((1, 4, 8, 100, len(data)))]


def _repeat(rng: random.Random, data: bytearray, at: int) -> None:
    piece = data[at : at + rng.randint(1, 200)]
    data[at:at] = piece * rng.randint(1, 3)


def _overwrite(rng: random.Random, data: bytearray, at: int) -> None:
    size = rng.choice((4, 8, 64))
    data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"9" * size))


# --- the header of the weights ----------------------------------------------------------------------------------------


def _header(change: Callable[[random.Random, dict], object]):
    """A mutation of the parsed header; the numbers stay. `change` may return a text to put in the header's place."""

    def mutate(rng: random.Random, files: Files) -> None:
        data = files[WEIGHTS]
        try:
            size = struct.unpack("<Q", data[:8])[0]
            header = json.loads(data[8 : 8 + size])
            text = change(rng, header) or json.dumps(header)
        except (ValueError, struct.error, LookupError, TypeError, AttributeError, RecursionError):  # damaged before
            return _bytes(_flip, WEIGHTS)(rng, files)
        encoded = str(text).encode()
        length = len(encoded) if rng.random() < 0.95 else rng.choice((0, 1, 7, len(encoded) - 1, 2**40, 2**63))
        files[WEIGHTS] = struct.pack("<Q", length) + encoded + data[8 + size :]

    return mutate


def _tensor(rng: random.Random, header: dict) -> tuple[str, dict]:
    key = rng.choice([k for k in header if k != "__metadata__"])
    return key, header[key]


def _dtype(rng: random.Random, header: dict) -> None:
    _tensor(rng, header)[1]["dtype"] = rng.choice(DTYPES)


def _dtype_same_size(rng: random.Random, header: dict) -> None:
    """Four bytes a number stay four, or become two in twice the columns."""
    tensor = _tensor(rng, header)[1]
    tensor["dtype"] = rng.choice(("I32", "U32", "F16", "BF16", "F8_E4M3"))
    wider = {"F16": 2, "BF16": 2, "F8_E4M3": 4}.get(tensor["dtype"], 1)
    tensor["shape"][-1] *= wider


def _shape(rng: random.Random, header: dict) -> None:
    tensor = _tensor(rng, header)[1]
    shape = tensor["shape"]
    tensor["shape"] = rng.choice(
        (shape[::-1], shape[:-1], [*shape, 1], [], [1, *shape], [n + 1 for n in shape], [-n for n in shape])
        + ([float(n) for n in shape], [rng.choice(HUGE), 0], [0, *shape], [HUGE[2], HUGE[2]], "3", None, [[3]])
    )


def _key(rng: random.Random, header: dict) -> None:
    key, tensor = _tensor(rng, header)
    del header[key]
    swaps = (("base_model.model.", ""), (".weight", ".default.weight"), ("lora_A", "lora_B"), ("layers.0", "layers.9"))
    new = rng.choice(
        [key.replace(*pair) for pair in swaps]
        + ["../../../tmp/" + key, "/" + key, key + "\0", key + "\n", "", key.upper(), key * 50, "__class__", "é" + key]
        + [key.replace("lora_A", "base_layer").replace("lora_B", "base_layer"), "x.base_layer.weight"]
    )
    header[new] = tensor


def _offsets(rng: random.Random, header: dict) -> None:
    tensor = _tensor(rng, header)[1]
    begin, end = tensor["data_offsets"]
    by = rng.choice((1, 4, 24, 10**6, 2**63))
    tensor["data_offsets"] = rng.choice(
        ([begin + by, end + by], [begin - by, end - by], [end, begin], [begin, end + by], [begin, begin], [begin])
        + ([0, end - begin], [float(begin), end], "0", None, [-1, -1])
    )


def _swap(rng: random.Random, header: dict) -> None:
    """Two tensors change their names: a whole file that says something else."""
    one, other = _tensor(rng, header)[0], _tensor(rng, header)[0]
    header[one], header[other] = header[other], header[one]


def _drop(rng: random.Random, header: dict) -> None:
    del header[_tensor(rng, header)[0]]


def _metadata(rng: random.Random, header: dict) -> None:
    header["__metadata__"] = rng.choice(({"format": "np"}, {}, None, [1], {"format": 3}, {"x": "y" * 10_000}, "pt"))


def _twice(rng: random.Random, header: dict) -> str:
    """One key stands twice in the header, with two meanings."""
    key, tensor = _tensor(rng, header)
    other = _tensor(rng, header)[1]
    return json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice((tensor, other)))}}}"


# --- the numbers ------------------------------------------------------------------------------------------------------


def _numbers(change: Callable[[random.Random, dict], None]):
    """A mutation of the tensors themselves, written as a whole file again."""

    def mutate(rng: random.Random, files: Files) -> None:
        try:
            tensors = load(files[WEIGHTS])
            change(rng, tensors)
            files[WEIGHTS] = save({k: t.contiguous() for k, t in tensors.items()}, metadata={"format": "pt"})
        except Exception:  # damaged before, or no such file can be written
            return _bytes(_flip, WEIGHTS)(rng, files)

    return mutate


def _not_finite(rng: random.Random, tensors: dict) -> None:
    tensor = tensors[rng.choice(sorted(tensors))]
    tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice((float("nan"), float("inf"), -float("inf")))


def _as_dtype(rng: random.Random, tensors: dict) -> None:
    dtype = getattr(
        torch,
        rng.choice(
            "float64 float16 bfloat16 float8_e4m3fn float8_e5m2 int8 int64 uint8 bool complex64 uint16 float32".split()
        ),
    )
    for key in tensors if rng.random() < 0.5 else [rng.choice(sorted(tensors))]:
        tensors[key] = tensors[key].to(dtype)


def _scaled(rng: random.Random, tensors: dict) -> None:
    key = rng.choice(sorted(tensors))
    tensors[key] = tensors[key].double() * rng.choice((0.0, -1.0, 1e-30, 1e20, 1e36, 1e200))


def _left_out(rng: random.Random, tensors: dict) -> None:
    for _ in range(rng.choice((1, 1, 2, 5))):
        tensors.pop(rng.choice(sorted(tensors)))


def _another_tensor(rng: random.Random, tensors: dict) -> None:
    key = rng.choice(sorted(tensors))
    tensors[_near(rng, key)] = torch.randn(
        tensors[key].shape, generator=torch.Generator().manual_seed(rng.randrange(99))
    )


def _near(rng: random.Random, key: str) -> str:
    """A key near `key`, often one that means something too."""
    start = key.partition(".lora_")[0]
    weight = "embed_tokens" if rng.random() < 0.5 else start.removeprefix("base_model.model.")
    return rng.choice(
        (f"base_model.model.{weight}.base_layer.weight", f"{start}.lora_A.second.weight", f"{start}.lora_B.bias")
        + (f"{start}.lora_magnitude_vector", "base_model.model.lm_head.weight", f"{start}.base_layer.bias", "x")
    )


# --- the configuration ------------------------------------------------------------------------------------------------


def _config(change: Callable[[random.Random, dict], object]):
    """A mutation of the parsed configuration; `change` may return a text to put in its place."""

    def mutate(rng: random.Random, files: Files) -> None:
        try:
            content = json.loads(files[CONFIG])
            text = change(rng, content) or json.dumps(content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return _bytes(_flip, CONFIG)(rng, files)
        files[CONFIG] = str(text).encode("utf-8", "surrogatepass")

    return mutate


def _value(rng: random.Random, content: dict) -> None:
    content[rng.choice(KEYS)] = rng.choice(NASTY)


def _sensible(rng: random.Random, content: dict) -> None:
    """A value that could be meant: a whole configuration that says something else."""
    key, values = rng.choice(
        (
            ("lora_alpha", (1, 2.5, -4, 64, None)),
            ("r", (1, 2, 3, 4, 8)),
            ("use_rslora", (True, False)),
            ("use_dora", (True, False)),
            ("bias", ("none", "all", "lora_only")),
            ("target_modules", (["q_proj"], ["v_proj"], ["q_proj", "v_proj", "conv"], ".*_proj", "all-linear")),
            ("target_modules", (["layers.0.attn.q_proj"], ["attn.v_proj", "1.attn.q_proj"], r"layers\.\d.*")),
            ("exclude_modules", (["v_proj"], "layers.1.*", ["q_proj", "conv"])),
            ("layers_to_transform", (0, 1, [0, 1], [5])),
            ("layers_pattern", ("layers", ["layers"], "h", "(layers)", "layers|h")),
            ("rank_pattern", ({"q_proj": 3}, {"v_proj": 2}, {"layers.0.*": 2, "q_proj": 3}, {"q": 1})),
            ("alpha_pattern", ({"q_proj": 3}, {"proj": 7}, {".*proj": 7}, {"0.attn.q_proj": 1, "q_proj": 2})),
            ("modules_to_save", (["lm_head"], ["norm"], ["head"], None, ["q_proj"], ["layers"])),
            ("init_lora_weights", ("gaussian", "eva", "pissa", False)),
            ("fan_in_fan_out", (True, False)),
        )
    )
    content[key] = rng.choice(values)


def _without(rng: random.Random, content: dict) -> None:
    del content[rng.choice(sorted(content))]


def _written_twice(rng: random.Random, content: dict) -> str:
    key = rng.choice(sorted(content))
    return json.dumps(content)[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(NASTY))}}}"


def _no_json(rng: random.Random, content: dict) -> str:
    whole = json.dumps(content)
    return rng.choice(
        ("[" * 100_000, '{"a":' * 50_000, "NaN", "null", "3", "[]", '""', whole + "x", "\ufeff" + whole, "\ud800")
        + (whole.replace(str(content["lora_alpha"]), rng.choice(("NaN", "Infinity", "1e999", "-0", "1" * 5000))),)
        + (whole[:-1] + ', "x": "' + "y" * 11_000_000 + '"}' if rng.random() < 0.1 else "{}",)
    )


# --- whole files ------------------------------------------------------------------------------------------------------


def _another_adapters(rng: random.Random, files: Files) -> None:
    """One of the two files comes from another adapter of the same model."""
    file = rng.choice((CONFIG, WEIGHTS))
    files[file] = rng.choice(list(folders().values()))[file]


def _missing_or_swapped(rng: random.Random, files: Files) -> None:
    how = rng.randrange(4)
    if how == 0:
        files[CONFIG], files[WEIGHTS] = files[WEIGHTS], files[CONFIG]
    elif how == 1:
        del files[rng.choice((CONFIG, WEIGHTS))]
    elif how == 2:
        files[rng.choice((CONFIG, WEIGHTS))] = b""
    else:
        files["adapter_model.bin"] = files.pop(WEIGHTS)


class Bomb:
    """Ends the process if it is ever unpickled."""

    def __reduce__(self):
        import os

        return os._exit, (66,)


def _pickle(rng: random.Random, files: Files) -> None:
    files[rng.choice((WEIGHTS, WEIGHTS, CONFIG))] = pickle.dumps(Bomb(), protocol=rng.randint(0, 5))


KINDS: dict[str, Callable[[random.Random, Files], None]] = {
    "weights: bits flipped": _bytes(_flip, WEIGHTS),
    "weights: bits flipped in the header": _bytes(_flip, WEIGHTS, within=700),
    "weights: bytes inserted": _bytes(_insert, WEIGHTS),
    "weights: bytes cut": _bytes(_cut, WEIGHTS),
    "weights: bytes repeated": _bytes(_repeat, WEIGHTS),
    "weights: bytes overwritten": _bytes(_overwrite, WEIGHTS),
    "weights: length of the header lies": _bytes(_overwrite, WEIGHTS, within=8),
    "header: dtype": _header(_dtype),
    "header: dtype, sizes kept": _header(_dtype_same_size),
    "header: shape": _header(_shape),
    "header: key": _header(_key),
    "header: offsets lie": _header(_offsets),
    "header: two keys exchanged": _header(_swap),
    "header: a tensor left out, a hole": _header(_drop),
    "header: metadata": _header(_metadata),
    "header: a key twice": _header(_twice),
    "numbers: not finite": _numbers(_not_finite),
    "numbers: another dtype": _numbers(_as_dtype),
    "numbers: scaled": _numbers(_scaled),
    "numbers: tensors left out": _numbers(_left_out),
    "numbers: one tensor more": _numbers(_another_tensor),
    "config: bits flipped": _bytes(_flip, CONFIG),
    "config: bytes inserted": _bytes(_insert, CONFIG),
    "config: bytes cut": _bytes(_cut, CONFIG),
    "config: any value": _config(_value),
    "config: a sensible value": _config(_sensible),
    "config: a key left out": _config(_without),
    "config: a key twice": _config(_written_twice),
    "config: no JSON object": _config(_no_json),
    "files: one of another adapter": _another_adapters,
    "files: missing, empty or exchanged": _missing_or_swapped,
    "files: a pickle": _pickle,
}
