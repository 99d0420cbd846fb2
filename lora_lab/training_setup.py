"""What a fine-tune is to do: its settings with their defaults, checked, and the same in the words of the libraries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_lab import counting, models, tasks
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig

METHODS = ("lora", "full")


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


def settings(**given: Any) -> dict[str, Any]:
    """Defaults filled in and everything checked, before anything is loaded. Raises ValueError naming the setting."""
    if given["method"] not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {given['method']!r}")
    counting.check_rank(given["rank"])
    for name in ("batch_size", "accumulate", "steps", "evaluate_every"):
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if given["max_length"] < 2:
        raise ValueError(
            f"max_length must be at least 2 (one token to read, one to predict), got {given['max_length']}"
        )
    task = given["task"] if given["task"] in tasks.TASKS else "own file"
    defaults = DEFAULTS[task, given["method"]]
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


def _targets(targets: str | Sequence[str]) -> str | list[str]:
    """Names with commas between them as a list; "all-linear" and a regular expression as they are."""
    if not isinstance(targets, str):
        return list(targets)
    if targets == "all-linear" or not re.fullmatch(r"[\w.,\s]+", targets):
        return targets
    return [name.strip() for name in targets.split(",") if name.strip()]


def _adapter_config(given: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        rank=given["rank"],
        alpha=given["alpha"],
        dropout=given["dropout"],
        target_modules=given["targets"],
    )


def check_length(model, given: dict[str, Any]) -> None:
    context = models.context_length(model)
    if context is not None and given["max_length"] > context:
        raise ValueError(f"max_length {given['max_length']} is more than {given['model']} takes: {context} tokens")


def make_trainable(model, given: dict[str, Any]) -> None:
    torch.manual_seed(given["seed"])
    if given["method"] == "lora":
        add_adapter(model, _adapter_config(given))
    else:
        model.float().requires_grad_(True)  # a small step is lost when it is added to a bfloat16 weight


def arguments(given: dict[str, Any], folder: Path, place: torch.device):
    """The same settings in the words of transformers' Trainer."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=given["steps"],
        per_device_train_batch_size=given["batch_size"],
        per_device_eval_batch_size=given["batch_size"],
        gradient_accumulation_steps=given["accumulate"],
        activation_checkpointing=given["checkpointing"],
        learning_rate=given["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, given["steps"] // 20),
        weight_decay=0.0,
        optim="adamw_torch",
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
