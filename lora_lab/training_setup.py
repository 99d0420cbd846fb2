"""What a fine-tune is to do: its settings with their defaults, checked, and the same in the words of the libraries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_lab import chunked_loss, counting, families, fused, models, quantise, tasks
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig, did_you_mean

METHODS = ("lora", "full")
QUANTISED = ("nf4",)
BACKEND = "inductor"  # of torch.compile


@dataclass(frozen=True)
class Defaults:
    """What is used where nothing is said."""

    lr: float
    steps: int
    targets: str | tuple[str, ...] = "all-linear"


DEFAULTS = {
    ("pirate", "lora"): Defaults(lr=5e-3, steps=90),
    ("pirate", "full"): Defaults(lr=1e-3, steps=90),
    ("code", "lora"): Defaults(lr=5e-3, steps=120),
    ("code", "full"): Defaults(lr=1e-3, steps=120),
    ("query", "lora"): Defaults(lr=6e-3, steps=400),
    ("query", "full"): Defaults(lr=1e-3, steps=300),
    ("own file", "lora"): Defaults(lr=5e-3, steps=100),
    ("own file", "full"): Defaults(lr=1e-3, steps=100),
}

# For a model other than the embedded one, which is small and takes large steps. LoRA: QLoRA's for 7B and 13B (Dettmers
# et al. 2023, appendix B). In full: Stanford Alpaca's for 7B, a tenth of it, as "LoRA Without Regret" (Schulman et al.
# 2025) finds the two best rates apart.
OTHER_LR = {"lora": 2e-4, "full": 2e-5}
BASE_LENGTH, OTHER_LENGTH = 128, 512  # tokens of an example; 512 is QLoRA's and Alpaca's too
OTHER_CHUNK = 1024  # tokens whose logits are there at once: large vocabularies would take more than the model


def settings(**given: Any) -> dict[str, Any]:
    """Defaults filled in and everything checked, before anything is loaded. Raises ValueError naming the setting."""
    if given["method"] not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {given['method']!r}")
    counting.check_rank(given["rank"])
    for name in ("batch_size", "accumulate", "steps", "evaluate_every"):
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    for name in ("checkpointing", "packing", "compile"):
        if not isinstance(given[name], bool):
            raise ValueError(f"{name} is True or False, got {given[name]!r}")
    if given["fused"] not in (None, True, False):
        raise ValueError(f"fused is True, False or None (on a CUDA GPU), got {given['fused']!r}")
    seed = given["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed!r}")
    if given["loss_chunk"] not in (None, 0):
        try:
            chunked_loss.check_chunk(given["loss_chunk"])
        except ValueError as error:
            raise ValueError(f"{error}; 0 is all of them at once") from None
        if given["fsdp"]:
            raise ValueError("loss_chunk and fsdp do not go together: the output head is spread too. Leave one out")
    if given["quantise"] not in (None, *QUANTISED):
        near = did_you_mean(str(given["quantise"]).lower(), QUANTISED)
        raise ValueError(
            f"quantise must be one of {', '.join(QUANTISED)}, or left out, got {given['quantise']!r}.{near}"
        )
    if given["quantise"] and given["method"] == "full":
        raise ValueError("quantise freezes the weights that it stores in 4 bits, so method 'full' cannot train them")
    if given["method"] == "full":
        for name in ("fused", "dropout", "targets"):
            if given[name]:
                raise ValueError(f"{name} is the adapter's, and method 'full' has none: leave it out")
    if given["fused"] and given["dropout"]:
        raise ValueError("fused and dropout do not go together: base and adapter read different inputs. Leave one out")
    if given["compile"] and given["fsdp"]:
        raise ValueError("compile and fsdp do not go together here: leave one of them out")
    if given["max_length"] is not None and given["max_length"] < 2:
        raise ValueError(
            f"max_length must be at least 2 (one token to read, one to predict), got {given['max_length']}"
        )
    task = given["task"] if given["task"] in tasks.TASKS else "own file"
    defaults = DEFAULTS[task, given["method"]]
    if not embedded(given["model"]):
        defaults = replace(defaults, lr=OTHER_LR[given["method"]])
    for name in ("lr", "steps", "targets"):
        if given[name] is None:
            given[name] = getattr(defaults, name)
    if not 0 < given["lr"] < float("inf"):
        raise ValueError(f"lr must be above 0, got {given['lr']}; the default here is {defaults.lr:g}")
    if given["evaluate_every"] is None:
        given["evaluate_every"] = max(1, -(-given["steps"] // 6))
    given["targets"] = _targets(given["targets"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _adapter_config(given)  # refuses what cannot be an adapter
    return given


def embedded(name: str) -> bool:
    """Whether this is the model that comes with the course, for which the defaults were tried."""
    return name == "base" or Path(name).expanduser().absolute() == models.BASE


def complete(given: dict[str, Any], place: torch.device) -> None:
    """Fill in what depends on the model's configuration and on the device. Raises ValueError where that cannot be."""
    if given["compile"] and BACKEND == "inductor":
        _check_compiler(place)
    context = getattr(models.configuration(given["model"])[0], "max_position_embeddings", None)
    if given["max_length"] is None:
        given["max_length"] = BASE_LENGTH if embedded(given["model"]) else min(OTHER_LENGTH, context or OTHER_LENGTH)
    check_length(context, given)
    if given["fused"] is None:
        given["fused"] = given["method"] == "lora" and place.type == "cuda"
    given["quantised_by"] = quantise.best_linear(place).package if given["quantise"] else None


def _check_compiler(place: torch.device) -> None:
    from torch.utils._triton import has_triton

    if place.type == "cuda":
        if not has_triton():
            raise ValueError("compile needs Triton, which is not installed here: pip install triton, or leave it out")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "compile needs a C++ compiler on a CPU, such as g++, and none was found: leave it out"
        ) from error


def _targets(targets: str | Sequence[str]) -> str | list[str]:
    """Names with commas between them as a list; a word of `families.WHICH` and a regular expression as they are."""
    if not isinstance(targets, str):
        return list(targets)
    if targets in families.WHICH or not re.fullmatch(r"[\w.,\s]+", targets):
        return targets
    return [name.strip() for name in targets.split(",") if name.strip()]


def _adapter_config(given: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        rank=given["rank"],
        alpha=given["alpha"],
        dropout=given["dropout"],
        target_modules=given["targets"],
    )


def check_length(context: int | None, given: dict[str, Any]) -> None:
    """Raises ValueError for a max_length above the model's context."""
    if context is not None and given["max_length"] > context:
        raise ValueError(f"max_length {given['max_length']} is more than {given['model']} takes: {context} tokens")


def load(given: dict[str, Any], place: torch.device, sharding=None) -> nn.Module:
    """The model on its device, its linear layers in 4 bits where that is asked for; sharding: transformers' config.

    Those are quantised one by one on their way from the CPU, so that a GPU never holds all of them in 16 bits.
    """
    if not given["quantise"]:
        return models.load_model(given["model"], str(place), distributed_config=sharding)
    linear = quantise.best_linear(place)
    model = models.load_model(given["model"], "cpu", dtype=models.weight_type(place))
    quantise.quantise_linears(model, linear=linear, device=place)
    if not any(isinstance(module, linear) for module in model.modules()):
        raise ValueError(
            f"quantise: {given['model']} has no torch.nn.Linear besides its output head to store in 4 bits "
            f"(a {type(model).__name__}; GPT-2's layers are Conv1D). Leave it out"
        )
    return model.to(place)


def check_causal(model) -> None:
    """Try on twelve tokens whether the first six are blind to the rest. Raises ValueError where they see them."""
    ids = torch.arange(12, device=model.device)[None] * 7 % model.get_input_embeddings().weight.shape[0]
    with models.evaluating(model):
        one, other = (
            model(input_ids=i, use_cache=False).logits[:, :6].float()
            for i in (ids, torch.cat([ids[:, :6], ids[:, 6:].flip(1)], 1))
        )
    # A mixture of experts rounds otherwise with other tokens beside; who looks ahead is off by far more.
    if float((one - other).abs().max()) > max(1e-4, 2 * torch.finfo(model.dtype).eps) * float(one.abs().max()):
        raise ValueError(
            f"this {type(model).__name__} sees the tokens that it is to predict, so it would learn to copy them: "
            "give a causal language model (of an encoder, one whose config says is_decoder)"
        )


def make_trainable(model, given: dict[str, Any]) -> None:
    """Put the adapter on, from the seed, or let every parameter train."""
    torch.manual_seed(given["seed"])
    if given["method"] == "lora":
        word = given["targets"]
        named = families.targets(model, word) if word in families.WHICH[1:] else word
        add_adapter(model, _adapter_config(given | {"targets": named}))
        fused.fuse(model, given["fused"])
    else:
        model.float().requires_grad_(True)  # a small step is lost when it is added to a bfloat16 weight


def loss_chunk(model, given: dict[str, Any]) -> int | None:
    """The tokens whose logits are there at once, or None for all; decided, and tried, when the model is there.

    Where nothing was asked for: all for the embedded model and under fsdp, whose hooks do not bear a backward pass
    through the head inside the forward pass; `OTHER_CHUNK` for another model whose loss can be had so.
    """
    chunk = given["loss_chunk"]
    if chunk is None and (embedded(given["model"]) or given["fsdp"]):
        return None
    if chunk != 0 and (problem := chunked_loss.problem(model)) is not None:
        if chunk is not None:
            raise ValueError(f"{problem}: leave loss_chunk out")
        return None
    return (OTHER_CHUNK if chunk is None else chunk) or None


@contextmanager
def compiled(model: nn.Module, on: bool) -> Iterator[None]:
    """Within it each block of the decoder runs compiled; no module is wrapped, so that no name changes.

    The blocks are alike, so the first one's code serves all. Raises ValueError where transformers names no block.
    """
    names = set(getattr(model, "_no_split_modules", None) or ()) if on else set()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if on and not blocks:
        raise ValueError(f"compile: transformers does not say what the blocks of a {type(model).__name__} are")
    for block in blocks:
        block.compile(backend=BACKEND)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def arguments(given: dict[str, Any], folder: Path, place: torch.device):
    """The same settings in the words of transformers' Trainer."""
    from transformers import TrainingArguments

    new_name = hasattr(TrainingArguments, "activation_checkpointing")  # transformers 5.17 has only the old one
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=given["steps"],
        per_device_train_batch_size=given["batch_size"],
        per_device_eval_batch_size=given["batch_size"],
        gradient_accumulation_steps=given["accumulate"],
        **{"activation_checkpointing" if new_name else "gradient_checkpointing": given["checkpointing"]},
        learning_rate=given["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, given["steps"] // 20),
        weight_decay=0.0,
        optim="adamw_torch_fused" if place.type == "cuda" else "adamw_torch",
        logging_steps=max(1, given["steps"] // 100),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=given["evaluate_every"],
        save_strategy="steps",
        save_steps=given["evaluate_every"],
        save_only_model=given["fsdp"],  # for Trainer, which saves no optimizer beside shards; LabTrainer does
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=given["seed"],
        data_seed=given["seed"],
        use_cpu=place.type == "cpu",
        bf16=place.type == "cuda",
        dataloader_pin_memory=place.type == "cuda",
        ddp_find_unused_parameters=False,  # every adapter takes part in every pass
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one device was chosen; Trainer would spread the batch over all of them
    return arguments
