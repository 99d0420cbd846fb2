"""Fine-tune a causal language model with LoRA, or in full to compare, and say what it cost and what it changed.

The pieces come from elsewhere: the model (`models`), what to learn (`tasks`), the adapter (`adapters`), the loop
(`trainer`, over transformers' Trainer), the scores (`scoring`). Here they are put in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_lab import chunked_loss, models, processes, scoring, tasks, training_setup
from lora_lab.adapters import count_parameters
from lora_lab.generate import complete
from lora_lab.packing import check as check_packing
from lora_lab.packing import pack, saved
from lora_lab.peak_memory import PeakMemory
from lora_lab.prediction import decoder, predicted_memory
from lora_lab.quantise import numbers_stored
from lora_lab.result import Result, Scores, megabytes
from lora_lab.run_folder import RunFolder

CHECKED_DURING_TRAINING = 64  # validation examples that choose the best step; all of them count before and after
STYLE_SAMPLES = 12
SAMPLE_TOKENS = 60


@processes.together
def finetune(
    model: str | Path = "base",
    task: str | Path = "pirate",
    rank: int = 8,
    alpha: float = 16,
    targets: str | Sequence[str] | None = None,
    lr: float | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
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
    packing: bool = False,
    loss_chunk: int | None = None,
    quantise: str | None = None,
    compile: bool = False,
    fused: bool | None = None,
    fsdp: bool = False,
    quiet: bool = False,
) -> Result:
    """Train `model` on `task` and measure it before and after.

    model: "base", a folder, or a hub name (NAME@REVISION pins it). task: "pirate", "code", "query", or a .txt or
    .jsonl file.
    rank, alpha, targets, dropout: the adapter's; targets is "all-linear", "attention", "mlp" (`families`), a list, or
    names with commas between them.
    lr, steps, targets: None takes the value of DEFAULTS, and for a model other than "base" a rate of OTHER_LR.
    batch_size: examples in one pass; accumulate: passes in one step. max_length: tokens of an example; the rest is cut;
    None is 128 for "base" and 512 for another model, or all it takes. checkpointing: less memory for a third more time.
    method: "lora", or "full" to train every parameter. evaluate_every: steps between validations, each of which
    writes a checkpoint; None makes six of them. The weights with the lowest validation loss are kept.
    packing: several whole examples in a row of max_length, which do not see each other (`packing`); batch_size counts
    such rows. loss_chunk: tokens whose logits exist at once (`chunked_loss`), the same loss in less memory; None is
    all of them for "base" and under fsdp and 1024 for another model, 0 always all. quantise: "nf4" stores the frozen
    linear layers in 4 bits (`quantise`; bitsandbytes does it on a CUDA GPU that has it; settings["quantised_by"] says
    who). compile: torch.compile for the decoder's blocks, which takes a minute and pays on a GPU. fused: base and
    adapter as one operation (`fused`); None is on a CUDA GPU.
    fsdp: of several processes each holds a part of the frozen base, instead of the whole.
    output: where the adapter (or the whole model) goes; None keeps it in memory only. resume: go on from the newest
    checkpoint there; the result is the same as without the break. quiet: print nothing.

    On a GPU the frozen weights and the arithmetic are bfloat16, what is trained float32, and AdamW is the fused one.
    The same seed gives the same result on the same machine.

    Raises ValueError for settings that cannot work, before anything is loaded or written; FloatingPointError if the
    loss stops being a number; OSError if the disk is full. Each leaves whole files only.
    """
    settings = training_setup.settings(
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
        packing=packing,
        loss_chunk=loss_chunk,
        quantise=quantise,
        compile=compile,
        fused=fused,
        fsdp=fsdp,
    )
    sharding = processes.sharding(settings)
    rows = processes.rows_each(batch_size)
    say = print if processes.is_main() and not quiet else lambda *_: None
    place = models.pick_device(device)
    with processes.one_first():
        training_setup.complete(settings, place)
    chosen = tasks.load_task(task, seed, settings["max_length"])
    with RunFolder(output, settings, resume) as folder:
        # Code, tokenizer and examples come first, so that the memory measured is that of the model and its training.
        from lora_lab.trainer import AfterSteps, LabTrainer

        with processes.one_first():
            models.prepare(model)
            tokenizer = models.load_tokenizer(model)
        encoded = tasks.encode_task(chosen, tokenizer, settings["max_length"], cut_into_windows=packing)
        chosen, train, notes = encoded.task, encoded.train, list(encoded.notes)
        if packing:
            train = pack(encoded.train, settings["max_length"], seed)
            notes.append(saved(encoded.train, train, settings["max_length"]))
        validation = encoded.validation[:CHECKED_DURING_TRAINING]
        peak = PeakMemory(place)
        network = training_setup.load(settings, place, sharding)
        tasks.check_vocabulary([row["input_ids"] for row in (*train, *validation)], network)
        if not fsdp:  # a pass leaves a part of a sharded base gathered
            training_setup.check_causal(network)
        training_setup.make_trainable(network, settings)
        chunk = training_setup.loss_chunk(network, settings)
        longest = max(len(row["input_ids"]) for row in train)
        predicted = predicted_memory(network, settings | {"batch_size": rows, "loss_chunk": chunk}, longest)
        if fsdp:
            predicted["weights"] = round(predicted["weights"] * processes.held(decoder(network), processes.count()))
        counts = count_parameters(network)
        counts = replace(counts, total=counts.total + numbers_stored(network))
        folder.check_room(counts.trainable)
        if packing:  # not before all is frozen and counted: a pass leaves a part of a sharded base gathered
            check_packing(network)
        say(_plan(settings | {"loss_chunk": chunk}, chosen, counts, predicted, notes))

        arguments = training_setup.arguments(settings, folder.checkpoints, place)
        with chunked_loss.installed(network, chunk):
            before = _scores(network, tokenizer, chosen, settings)
            trainer = LabTrainer(network, tokenizer, train, validation, arguments, quiet)
            trainer.add_callback(AfterSteps(2, peak.relax))
            with peak, training_setup.compiled(network, compile):
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
                {"prompt": str(p), "before": b, "after": a}
                for p, b, a in zip(chosen.prompts, before.samples, after.samples, strict=True)
            ],
            style=_style(chosen, before, after),
            memory_predicted=predicted,
            memory_held=peak.held,
            best_step=trainer.best_step,
            settings=settings | {"loss_chunk": chunk},
            model=network,
            tokenizer=tokenizer,
        )
        folder.finish(result)
    say(result)
    return result


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


def _plan(settings: dict[str, Any], task: tasks.Task, counts, predicted: dict[str, int], notes: list[str]) -> str:
    """What is about to be done, for people who wait for it."""
    s = settings
    how = "in full"
    if s["method"] == "lora":
        where = s["targets"] if isinstance(s["targets"], str) else ", ".join(s["targets"])
        how = f"by LoRA of rank {s['rank']} and alpha {s['alpha']:g} on {where}"
    ways = [
        s["quantise"] and f"frozen linear layers in {s['quantise'].upper()} by {s['quantised_by']}",
        s["loss_chunk"] and f"logits of {s['loss_chunk']:,} tokens at a time",
        s["checkpointing"] and "activations computed again",
        s["fused"] and not s["dropout"] and "base and adapter in one operation",
        s["compile"] and "blocks compiled",
    ]
    notes = [*notes, *([", ".join(filter(None, ways))] if any(ways) else [])]
    passes = f"{s['batch_size']}" if s["accumulate"] == 1 else f"{s['accumulate']} x {s['batch_size']}"
    shared = f", shared by {processes.count()} processes" if processes.count() > 1 else ""
    return "\n".join(
        [
            f"{s['model']} on {task.name}, {how}: {counts.trainable:,} of {counts.total:,} parameters train "
            f"({counts.trainable / counts.total:.2%})",
            f"{len(task.train):,} examples to learn from, {len(task.validation):,} to validate on; {s['steps']} steps "
            f"of {passes} x {s['max_length']} tokens at most{shared}, learning rate {s['lr']:g}",
            *notes,
            f"memory predicted: {megabytes(sum(predicted.values()))} "
            f"({', '.join(f'{bucket} {megabytes(n)}' for bucket, n in predicted.items())})",
        ]
    )
