"""Fine-tune a causal language model with LoRA, or in full to compare, and say what it cost and what it changed.

The pieces come from elsewhere: the model (`models`), what to learn (`tasks`), the adapter (`adapters`), the loop
(`trainer`, over transformers' Trainer), the scores (`scoring`). Here they are put in order.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_lab import counting, flops, models, scoring, shapes, tasks
from lora_lab.adapters import adapter_parameters, add_adapter, count_parameters
from lora_lab.config import LoraConfig
from lora_lab.generate import complete
from lora_lab.layers import is_conv1d
from lora_lab.matching import linear_paths, original_modules
from lora_lab.memory import memory
from lora_lab.peak_memory import PeakMemory
from lora_lab.result import Result, Scores, megabytes
from lora_lab.run_folder import RunFolder

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
CHECKED_DURING_TRAINING = 64  # validation examples that choose the best step; all of them count before and after
STYLE_SAMPLES = 12
SAMPLE_TOKENS = 60


def finetune(
    model: str | Path = "base",
    task: str | Path = "pirate",
    rank: int = 8,
    alpha: float = 16,
    targets: str | Sequence[str] | None = None,
    lr: float | None = None,
    batch_size: int = 16,
    max_length: int = 128,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    method: str = "lora",
    resume: bool = False,
    dropout: float = 0.0,
    accumulate: int = 1,
    checkpointing: bool = False,
    evaluate_every: int | None = None,
    quiet: bool = False,
) -> Result:
    """Train `model` on `task` and measure it before and after.

    model: "base", a folder, or a hub name (NAME@REVISION pins it). task: "pirate", "code", "query", or a .txt or
    .jsonl file.
    rank, alpha, targets, dropout: the adapter's; targets is "all-linear", a list, or names with commas between them.
    lr, steps, targets: None takes the value of DEFAULTS. batch_size: examples in one pass; accumulate: passes in one
    step. max_length: tokens of an example; the rest is cut. checkpointing: less memory for a third more time.
    method: "lora", or "full" to train every parameter. evaluate_every: steps between validations, each of which
    writes a checkpoint; None makes six of them. The weights with the lowest validation loss are kept.
    output: where the adapter (or the whole model) goes; None keeps it in memory only. resume: go on from the newest
    checkpoint there; the result is the same as without the break. quiet: print nothing.

    On a GPU the frozen weights and the arithmetic are bfloat16, what is trained float32. The same seed gives the same
    result on the same machine.

    Raises ValueError for settings that cannot work, before anything is loaded or written; FloatingPointError if the
    loss stops being a number; OSError if the disk is full. Each leaves whole files only.
    """
    settings = _settings(
        model=str(model),
        task=str(task),
        method=method,
        rank=rank,
        alpha=alpha,
        targets=targets,
        lr=lr,
        batch_size=batch_size,
        max_length=max_length,
        steps=steps,
        seed=seed,
        dropout=dropout,
        accumulate=accumulate,
        checkpointing=checkpointing,
        evaluate_every=evaluate_every,
    )
    say = (lambda *_: None) if quiet else print
    place = models.pick_device(device)
    chosen = tasks.load_task(task, seed)
    with RunFolder(output, settings, resume) as folder:
        # Code, tokenizer and examples come first, so that the memory measured is that of the model and its training.
        from lora_lab.trainer import AfterSteps, LabTrainer

        models.prepare(model)
        tokenizer = models.load_tokenizer(model)
        train = [tasks.encode(e, tokenizer, max_length) for e in chosen.train]
        validation = [tasks.encode(e, tokenizer, max_length) for e in chosen.validation[:CHECKED_DURING_TRAINING]]
        peak = PeakMemory(place)
        network = models.load_model(model, str(place))
        _check_length(network, settings)
        _make_trainable(network, settings)
        predicted = predicted_memory(network, settings, max(len(row["input_ids"]) for row in train))
        counts = count_parameters(network)
        folder.check_room(counts.trainable)
        say(_plan(settings, chosen, counts, predicted))

        before = _scores(network, tokenizer, chosen, settings)
        trainer = LabTrainer(
            network, tokenizer, train, validation, _arguments(settings, folder.checkpoints, place), quiet
        )
        trainer.add_callback(AfterSteps(2, peak.relax))
        with peak:
            trainer.train_from(folder.newest_checkpoint())
        trainer.restore_best()
        after = _scores(network, tokenizer, chosen, settings)
        result = Result(
            trainable=counts.trainable,
            total=counts.total,
            share=counts.trainable / counts.total,
            loss_before=before.loss,
            loss_after=after.loss,
            base_loss_before=before.base_loss,
            base_loss_after=after.base_loss,
            exact_match_before=before.exact_match,
            exact_match_after=after.exact_match,
            seconds=trainer.seconds,
            tokens_per_second=trainer.tokens / trainer.seconds,
            peak_memory=peak.bytes,
            adapter=None if output is None else str(output),
            curve=trainer.curve(),
            samples=[
                {"prompt": p, "before": b, "after": a}
                for p, b, a in zip(chosen.prompts, before.samples, after.samples, strict=True)
            ],
            style=_style(chosen, before, after),
            memory_predicted=predicted,
            memory_held=peak.held,
            best_step=trainer.best_step,
            settings=settings,
            model=network,
            tokenizer=tokenizer,
        )
        folder.finish(result)
    say(result)
    return result


def decoder(model) -> shapes.Shape:
    """A model, loaded or on the meta device, in the numbers that its memory depends on; adapters are not counted.

    One of a family that `shapes` does not know is taken for a relative of Llama or GPT-2, with its own linear layers.
    """
    config, total = model.config, count_parameters(model).base
    if config.model_type in shapes.FAMILIES and (known := shapes.from_config(config.to_dict())).total == total:
        return known
    modules, linear = dict(original_modules(model)), Counter()
    for path in linear_paths(model):
        weight = modules[path].weight
        out, into = weight.shape[::-1] if is_conv1d(modules[path]) else weight.shape
        linear[re.sub(r"\.\d+\.", ".{}.", path, count=1), out, into] += 1
    matrices = tuple(counting.Matrix(*size, count=count) for size, count in linear.items())
    width, heads = config.hidden_size, config.num_attention_heads
    # What the MLP keeps; a ReLU only what it puts out, which the layer after it keeps too.
    bends = {"relu": 0, "gelu_new": 4}.get(getattr(config, "activation_function", ""), 1)
    return shapes.Shape(
        matrices=matrices,
        embeddings=(),
        rest=total - sum(m.parameters for m in matrices),
        layers=config.num_hidden_layers,
        hidden=width,
        intermediate=next((m.in_features for m in matrices if flops.role(m) == "down"), 4 * width),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or width // heads,
        vocabulary=config.vocab_size,
        mlp_kept=3 if any(flops.role(m).startswith("gate") for m in matrices) else bends,
    )


def way_of(method: str, gpu: bool) -> str:
    """How `finetune` holds its numbers with this method, as a key of `memory.WAYS`."""
    return {"lora": "lora", "full": "full-autocast"}[method] if gpu else f"{method}-float32"


def predicted_memory(model, settings: dict[str, Any], length: int) -> dict[str, int]:
    """`memory.memory` for a loaded model whose longest training example has `length` tokens."""
    shape = decoder(model)
    adapted = {path.rsplit(".", 2)[-2] for path in adapter_parameters(model)} if settings["method"] == "lora" else set()
    return memory(
        shape,
        way_of(settings["method"], gpu=model.device.type == "cuda"),
        rows=settings["batch_size"],
        length=length,
        rank=settings["rank"],
        targets=sorted(adapted & {m.name for m in shape.matrices}),
        dropout=settings["dropout"],
        padded=settings["batch_size"] > 1,
        checkpointing=settings["checkpointing"],
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _settings(**given: Any) -> dict[str, Any]:
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


def _adapter_config(settings: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        rank=settings["rank"],
        alpha=settings["alpha"],
        dropout=settings["dropout"],
        target_modules=settings["targets"],
    )


def _check_length(model, settings: dict[str, Any]) -> None:
    context = models.context_length(model)
    if context is not None and settings["max_length"] > context:
        raise ValueError(
            f"max_length {settings['max_length']} is more than {settings['model']} takes: {context} tokens"
        )


def _make_trainable(model, settings: dict[str, Any]) -> None:
    torch.manual_seed(settings["seed"])
    if settings["method"] == "lora":
        add_adapter(model, _adapter_config(settings))
    else:
        model.float().requires_grad_(True)  # a small step is lost when it is added to a bfloat16 weight


def _arguments(settings: dict[str, Any], folder: Path, place: torch.device):
    """The same settings in the words of transformers' Trainer."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulate"],
        activation_checkpointing=settings["checkpointing"],
        learning_rate=settings["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings["steps"] // 20),
        weight_decay=0.0,
        optim="adamw_torch",
        logging_steps=max(1, settings["steps"] // 100),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=settings["evaluate_every"],
        save_strategy="steps",
        save_steps=settings["evaluate_every"],
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=settings["seed"],
        data_seed=settings["seed"],
        use_cpu=place.type == "cpu",
        bf16=place.type == "cuda",
        dataloader_pin_memory=place.type == "cuda",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one device was chosen; Trainer would spread the batch over all of them
    return arguments


def _scores(model, tokenizer, task: tasks.Task, settings: dict[str, Any]) -> Scores:
    size = {"max_length": settings["max_length"], "batch_size": settings["batch_size"]}
    stories = [tasks.Example("", story) for story in tasks.base_stories()]
    if task.exact_match:  # one answer is right, so the likeliest is asked for
        samples = complete(model, tokenizer, task.prompts, SAMPLE_TOKENS)
        drawn = []
    else:
        prompts = [task.prompts[i % len(task.prompts)] for i in range(STYLE_SAMPLES if task.style_score else 3)]
        drawn = complete(model, tokenizer, prompts, SAMPLE_TOKENS, temperature=0.7, seed=settings["seed"])
        samples = drawn[:3]
    return Scores(
        loss=scoring.loss(model, tokenizer, task.validation, **size),
        base_loss=scoring.loss(model, tokenizer, stories, **size),
        exact_match=scoring.exact_match(model, tokenizer, task.test) if task.exact_match else None,
        style=sum(map(task.style_score, drawn)) / len(drawn) if task.style_score else None,
        samples=tuple(samples),
    )


def _style(task: tasks.Task, before: Scores, after: Scores) -> dict[str, float] | None:
    if task.style_score is None:
        return None
    held_out = [task.style_score(e.completion) for e in task.validation]
    return {"before": before.style, "after": after.style, "held_out": sum(held_out) / len(held_out)}


def _plan(settings: dict[str, Any], task: tasks.Task, counts, predicted: dict[str, int]) -> str:
    """What is about to be done, for people who wait for it."""
    s = settings
    how = "in full"
    if s["method"] == "lora":
        where = s["targets"] if isinstance(s["targets"], str) else ", ".join(s["targets"])
        how = f"by LoRA of rank {s['rank']} and alpha {s['alpha']:g} on {where}"
    passes = f"{s['batch_size']}" if s["accumulate"] == 1 else f"{s['accumulate']} x {s['batch_size']}"
    return "\n".join(
        [
            f"{s['model']} on {task.name}, {how}: {counts.trainable:,} of {counts.total:,} parameters train "
            f"({counts.trainable / counts.total:.2%})",
            f"{len(task.train):,} examples to learn from, {len(task.validation):,} to validate on; {s['steps']} steps "
            f"of {passes} x {s['max_length']} tokens at most, learning rate {s['lr']:g}",
            f"memory predicted: {megabytes(sum(predicted.values()))} "
            f"({', '.join(f'{bucket} {megabytes(n)}' for bucket, n in predicted.items())})",
        ]
    )
