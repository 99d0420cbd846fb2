"""A fine-tune leaves the house: merged, as a plain Hugging Face folder, or as an adapter that a server takes.

python -m lora_lab export --model base --adapter runs/pirate --out pirate-merged
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_lab import models, whole_file
from lora_lab.merging import merge_and_unload
from lora_lab.peft_format import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from lora_lab.record import Record, check_enabled, record_of
from lora_lab.storage import load_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_NAME = "base_model_name_or_path"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """What was written. rounding: the noise of rounding to `dtype` as a share of the update, both by their norm."""

    folder: Path
    dtype: str
    bytes: int
    rounding: float

    def __str__(self) -> str:
        cost = "nothing was rounded" if self.rounding == 0 else f"rounding cost {self.rounding:.2%} of the update"
        return f"{self.folder}: a plain model of {self.bytes / 1e6:,.1f} MB in {self.dtype}; {cost}"


def export_named(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype: str | None = None,
    revision: str | None = None,
) -> Exported:
    """Load `model` ("base", a folder, a hub name) with the adapter in the folder `adapter`, merge, and write `out`.

    On the CPU. Each weight's sum is computed in float32 and rounded once, to `dtype`: by default the type of the
    model's own files. Raises as `models.load`, `storage.load_adapter` and `export` do; what can be checked is checked
    before anything is loaded.
    """
    _check_dtype(dtype)
    _check_new(Path(out))
    config, _ = models.configuration(model, revision)
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    dtype = dtype or (stored if stored in DTYPES else "float32")
    tokenizer = models.load_tokenizer(model, revision)
    made_for, given = (str(n or "").partition("@")[0] for n in (_read_config(Path(adapter))[0].get(BASE_NAME), model))
    if made_for and Path(made_for).name != Path(given).name:
        warnings.warn(
            f"the adapter in {adapter} names {made_for} as its base, and is merged into {given} here: right only if "
            "the two are one model",
            stacklevel=2,
        )
    # A type narrower than the file's would round twice, a wider one than what is written takes memory for nothing.
    loaded = models.load_model(model, "cpu", revision, DTYPES[dtype] if dtype == stored else torch.float32)
    load_adapter(loaded, adapter)
    return export(loaded, out, tokenizer, dtype)


def export(
    model: PreTrainedModel,
    out: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str | None = None,
) -> Exported:
    """Merge the active adapters of `model` for good and write the plain model: config, safetensors, generation config,
    and of the tokenizer all its files with the chat template.

    The model itself is plain, merged and of type `dtype` afterwards (default: its own type). `out` is there whole or
    not at all. Raises ValueError for an `out` that exists, another dtype, a model without adapters, and where a merge
    is refused (a tied weight, values that are not finite); OSError where the disk has no room. The folder is not
    written then, and where it was found before the merge the model is as it was.
    """
    _check_dtype(dtype)
    out = Path(out).absolute()
    _check_new(out)
    record = record_of(model)
    check_enabled(record)
    name = dtype or str(next(model.parameters()).dtype).removeprefix("torch.")
    own = {id(p) for p in model.parameters()} - {id(p) for ps in record.parameters.values() for p in ps}
    numbers = sum(p.numel() for p in model.parameters() if id(p) in own)
    whole_file.check_room(out, numbers * getattr(torch, name).itemsize, "the model")
    update, noise = _norms(record, getattr(torch, name))
    merge_and_unload(model)
    for parameter in model.parameters():  # not `model.to`: the frequencies of rotary embeddings stay float32
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, name))

    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        model.save_pretrained(beside)
        if tokenizer is not None:
            tokenizer.save_pretrained(beside)
        files = [file for file in beside.rglob("*") if file.is_file()]
        for file in files:  # safetensors makes its own for its owner alone
            file.chmod((beside / "config.json").stat().st_mode)
        size = sum(file.stat().st_size for file in files)
        if out.is_dir():
            out.rmdir()  # empty: it was looked at
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Exported(out, name, size, noise / update if update else 0.0)


def _check_dtype(dtype: str | None) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")


def _check_new(out: Path) -> None:
    """Raises ValueError unless `out` is new or an empty folder."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out {out} is a file or a link; expected a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} is there already and is not empty: nothing is overwritten, choose another")


@torch.no_grad()
def _norms(record: Record, dtype: torch.dtype) -> tuple[float, float]:
    """The norms of all that is added to the weights, and of what rounding the sums to `dtype` takes away."""
    update = noise = 0.0
    for layer in record.layers.values():
        names = [n for n in record.merged or record.active if n in layer.scaling]
        if not names:
            continue
        weight = layer.base.weight if layer.pristine is None else layer.pristine
        delta = sum(layer.delta(n) for n in names).float()
        exact = weight.float() if layer.merged and layer.pristine is None else weight.float() + delta
        update += float(delta.square().sum())
        noise += float((exact.to(weight.dtype).to(dtype).float() - exact).square().sum())
    return math.sqrt(update), math.sqrt(noise)


# What a server does with an adapter folder, by vLLM's code: vllm/lora/peft_helper.py (`_validate_features`,
# `validate_legal`), lora_model.py (`from_local_checkpoint`), utils.py (`parse_fine_tuned_lora_name`,
# `get_supported_lora_modules`), config/lora.py, plugins/lora_resolvers/filesystem_resolver.py; read at versions of
# 2025 and 2026. Where versions differ the stricter one is told.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_LACKS = {
    "use_dora": "DoRA (use_dora)",
    "lora_bias": "a bias in B (lora_bias)",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "adapters on bare parameters",
}
_VLLM_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "lora_ga")


def vllm_problems(folder: str | Path, max_lora_rank: int = 16) -> list[str]:
    """What vLLM will refuse, ignore or get wrong in this adapter folder: a sentence for each, none if it is fine.

    Read from the two files alone, and the weights' header alone of the second; the base model is not looked at.
    max_lora_rank: the server's --max-lora-rank, 16 by default. Never raises for what is in the files.
    """
    folder = Path(folder)
    config, said = _read_config(folder)
    shapes, more = _read_shapes(folder)
    return said + _config_problems(config, max_lora_rank) + more + _tensor_problems(config, shapes)


def _read_config(folder: Path) -> tuple[dict, list[str]]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        below = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_FILE}"))
        hint = f" One level down there is: {', '.join(below)}. Give the server that folder." if below else ""
        return {}, [f"{CONFIG_FILE} is not in {folder}: it must be at the top of the folder.{hint}"]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return {}, [f"{CONFIG_FILE} is not JSON: {error}."]
    if not isinstance(content, dict) or content.get("peft_type", "LORA") != "LORA":
        kind = content.get("peft_type") if isinstance(content, dict) else type(content).__name__
        return {}, [f"{CONFIG_FILE} describes {kind!r}: only LORA is served."]
    missing = [key for key in ("r", "lora_alpha", "target_modules") if content.get(key) is None]
    return content, [f"{CONFIG_FILE} lacks {', '.join(missing)}, which a server needs."] if missing else []


def _config_problems(config: dict, max_lora_rank: int) -> list[str]:
    if not config:
        return []
    said, patterns = [], [config.get(f"{key}_pattern") or {} for key in ("rank", "alpha")]
    ranks = [r for r in (config.get("r"), *patterns[0].values()) if isinstance(r, int)]
    if ranks and max(ranks) > max_lora_rank:
        enough = next((n for n in VLLM_RANKS if n >= max(ranks)), None)
        way = f"start it with --max-lora-rank {enough}" if enough else f"no server takes more than {VLLM_RANKS[-1]}"
        said.append(f"Its rank is {max(ranks)}, and the server takes {max_lora_rank} (--max-lora-rank): {way}.")
    if saved := config.get("modules_to_save"):
        heads = set(saved) <= {"classifier", "score"}
        only = "only new versions take the head of a classifier" if heads else "merge it and serve the merged folder"
        said.append(f"It brings whole modules ({', '.join(saved)}, modules_to_save), which is refused: {only}.")
    if config.get("bias", "none") != "none":
        said.append(f"It trains biases (bias = {config['bias']!r}), which is refused: merge it and serve the result.")
    said += [
        f"It uses {what}, which is refused: merge it first." for key, what in _VLLM_LACKS.items() if config.get(key)
    ]
    if (init := config.get("init_lora_weights")) not in _VLLM_INITS:
        said.append(
            f"Its initial values ({init!r}) are taken out of the base weights, which a server does not do: convert it "
            "to plain LoRA (`storage.save_adapter` writes it so)."
        )
    if any(patterns):
        said.append(
            "It has a rank or an alpha for single layers (rank_pattern, alpha_pattern): most versions ignore them and "
            "scale every layer alike, without a word."
        )
    if not config.get(BASE_NAME):
        said.append(
            f"It does not say which model it belongs to ({BASE_NAME}): a server that looks up adapters by "
            "itself passes it over; save it with base_model_name."
        )
    return said


def _read_shapes(folder: Path) -> tuple[dict[str, list[int]], list[str]]:
    from safetensors import safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        hint = "There is a pickle, adapter_model.bin: save it again as safetensors." if pickled else "Save it again."
        return {}, [f"{WEIGHTS_FILE} is not in {folder}. {hint}"]
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in sorted(file.keys())}, []
    except Exception as error:  # a SafetensorError, which is of no usual kind
        return {}, [f"{WEIGHTS_FILE} is not a whole safetensors file: {error}."]


def _tensor_problems(config: dict, shapes: dict[str, list[int]]) -> list[str]:
    if not shapes:
        return []
    ends = (".lora_A.weight", ".lora_B.weight")
    embedding = (".lora_embedding_A", ".lora_embedding_B")
    ignored = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
    known = {k for k in shapes if k.endswith((*ends, *embedding, *ignored))}
    said = []
    if strange := [k for k in shapes if k not in known]:
        said.append(
            f"{len(strange)} of {len(shapes)} tensors have a name that is refused, first {strange[0]}: every key is "
            f"{PREFIX}PATH.lora_A.weight or lora_B.weight."
        )
    if bare := [k for k in known if not k.startswith(PREFIX)]:
        said.append(f"{len(bare)} keys do not begin with {PREFIX}, first {min(bare)}: the layers will not be found.")
    if whole := [k for k in known if k.endswith(ignored)]:
        said.append(f"{min(whole)} is a base weight, which is ignored: harmless only if it equals the server's own.")
    if images := [k for k in known if len(shapes[k]) != 2]:
        said.append(f"{min(images)} has {len(shapes[min(images)])} dimensions: only linear layers are served.")
    ends_at = {k.rpartition(".lora_")[0].rpartition(".")[2] for k in known if k.endswith((*ends, *embedding))}
    if tables := sorted(n for n in ends_at & {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out"}):
        said.append(
            f"It adapts {', '.join(tables)}: of the embedding and the output head vLLM adapts what its class of the "
            "model names (embedding_modules), for many models none, and refuses the rest."
        )
    halves = {k.removesuffix(e) for e in (*ends, *embedding) for k in known if k.endswith(e)}
    if odd := [h for h in sorted(halves) if sum(h + e in known for e in (*ends, *embedding)) != 2]:
        said.append(f"{odd[0]} has only one of A and B.")
    fits = [shapes[k][0] for k in known if k.endswith(ends[0]) and len(shapes[k]) == 2]
    patterns = config.get("rank_pattern") or {}
    if isinstance(config.get("r"), int) and not patterns and any(rank != config["r"] for rank in fits):
        said.append(f"{CONFIG_FILE} says rank {config['r']}, and the tensors have {max(fits)}: save it again.")
    return said


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="base", help="base, a folder, or a hub name (default: base)")
    parser.add_argument("--revision", metavar="R", help="the commit, tag or branch of a hub model")
    parser.add_argument("--adapter", required=True, metavar="DIR", help="a folder in the PEFT format")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the plain model goes: new, or empty")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the weights written (default: as in the model's own files); bfloat16 takes half of float32's bytes",
    )


def main(args: argparse.Namespace) -> int:
    print(export_named(args.model, args.adapter, args.out, args.dtype, args.revision))
    return 0
