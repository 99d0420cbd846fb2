"""transformers' Trainer, taught five things: checkpoints that hold the adapter alone and are never half-written, a
validation loss in which every token weighs the same, a stop at the first loss that is not a number, a quiet bar, and
the same steps whatever the number of processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_model, save_model
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import is_in_notebook

from lora_lab import fused, packing, processes, scoring, storage
from lora_lab.adapters import adapter_names, delete_adapter
from lora_lab.run_folder import PARTIAL, step_of

PROGRESS_FILE = "progress.json"
FULL_WEIGHTS = "model.safetensors"


class LabTrainer(Trainer):
    """A Trainer over encoded examples (dicts of `input_ids` and `labels`).

    Several processes read the same batches and each takes its share of every one, so a batch is what one process alone
    would see; the loss is the mean over the tokens of all shares (`average_tokens_across_devices`).

    After `train()`: `seconds` is the time of training alone, evaluation and checkpoints left out, `tokens` how many
    were read, padding left out; both go on counting after a resume. Raises FloatingPointError for a loss that is NaN
    or infinite.
    """

    def __init__(self, model, tokenizer, rows: list, validation: list, arguments: TrainingArguments, quiet: bool):
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=validation,
            data_collator=lambda batch: collate(own_rows(batch), tokenizer.pad_token_id),
        )
        self.pad_id = tokenizer.pad_token_id
        self.pop_callback(PrinterCallback)
        if not quiet and processes.is_main():
            self.add_callback(_progress())
        self.seconds, self.tokens = 0.0, 0

    def train_from(self, checkpoint: Path | None) -> None:
        """Train from the start, or from a checkpoint as if there had been no break."""
        if checkpoint is not None:
            done = json.loads((checkpoint / PROGRESS_FILE).read_text())
            self.seconds, self.tokens = done["seconds"], done["tokens"] if processes.is_main() else 0
            if step_of(checkpoint) >= self.args.max_steps:  # killed between the last step and the end
                self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
                return
        if not processes.is_main():  # other inputs are dropped in each process
            torch.manual_seed(self.args.seed + processes.index())
        self._clock = time.perf_counter()
        try:
            self.train(None if checkpoint is None else str(checkpoint))
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, Bar):
                    callback.close()
        self._count_time()
        self.tokens = int(processes.total(self.tokens)[0])
        # Trainer changed the model for training: no cache, and on a GPU a forward wrapped in autocast.
        self.model.config.use_cache = True
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    @property
    def best_step(self) -> int:
        """The step whose validation loss was the lowest."""
        return self.state.best_global_step

    def restore_best(self) -> None:
        """Give the model the weights of the best step."""
        read_weights(self.model, Path(self.args.output_dir) / f"checkpoint-{self.best_step}")

    def curve(self) -> list[dict[str, float]]:
        """Training and validation losses by step, from the first step on."""
        names = {"loss": "loss", "eval_loss": "validation_loss"}
        return [
            {"step": row["step"], names[key]: row[key]} for row in self.state.log_history for key in names if key in row
        ]

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        self.tokens += tokens_read(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Of all processes, so that all of them stop at the same step; each has its loss times their number.
        value = processes.total(loss.item())[0] / processes.count()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value} at step {self.state.global_step + 1} with a learning rate of "
                f"{self._get_learning_rate():.3g}: try a lower one, such as --lr {self.args.learning_rate / 10:.2g}"
            )
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        self._count_time()
        rows = self.eval_dataset + [unlabelled(self.eval_dataset[0])] * (-len(self.eval_dataset) % processes.count())
        size = processes.rows_each(self.args.per_device_eval_batch_size)
        total, count = processes.total(*scoring.nats(self.model, processes.share(rows), self.pad_id, size))
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the validation loss became {total} at step {self.state.global_step}: try a lower --lr than "
                f"{self.args.learning_rate:.3g}"
            )
        metrics = {"eval_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._clock = time.perf_counter()
        return metrics

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if isinstance(shard := loader.batch_sampler, BatchSamplerShard):
            # Every process reads every batch, and the collator takes its share: accelerate's own sharing would fill up
            # an epoch's last batch with examples from the epoch's beginning, other ones for each number of processes.
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def _save_checkpoint(self, model, trial) -> None:
        """The newest checkpoint and the best one stay; a kill at any moment leaves whole checkpoints only."""
        self._count_time()
        folder = Path(self.args.output_dir)
        partial = folder / PARTIAL
        tokens = int(processes.total(self.tokens)[0])
        if processes.is_main():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_weights(self.model, partial)
            self._save_optimizer_and_scheduler(str(partial))
            (partial / PROGRESS_FILE).write_text(json.dumps({"seconds": self.seconds, "tokens": tokens}))
            self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
        processes.wait()
        self._save_rng_state(str(partial))
        processes.wait()
        if processes.is_main():
            newest = folder / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(newest, ignore_errors=True)
            os.replace(partial, newest)
            for old in folder.glob("checkpoint-*"):
                if step_of(old) not in (self.state.global_step, self.state.best_global_step):
                    shutil.rmtree(old)
        self._clock = time.perf_counter()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        read_weights(self.model, Path(resume_from_checkpoint))

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now


def collate(batch: list[dict[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows as one batch, packed ones (they have `position_ids`) or one example each."""
    return (packing if "position_ids" in batch[0] else scoring).collate(batch, pad_id)


def tokens_read(batch: dict[str, torch.Tensor]) -> int:
    """The tokens of a batch, padding left out; none where it is a row that only keeps step with other processes."""
    if not (batch["labels"] != scoring.IGNORE).any():
        return 0
    if batch.get("attention_mask") is None:
        return packing.count_tokens(batch["position_ids"])
    return int(batch["attention_mask"].sum())


def own_rows(batch: list[dict[str, list[int]]]) -> list[dict[str, list[int]]]:
    """This process's share of a batch; where that is none, a row that weighs nothing: all take part in every step."""
    return processes.share(batch) or [unlabelled(batch[0])]


def unlabelled(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """The row with no token to score."""
    return row | {"labels": [scoring.IGNORE] * len(row["labels"])}


def write_weights(model: torch.nn.Module, folder: Path) -> None:
    """What is trained: the adapter in the PEFT format, or the whole model where there is no adapter."""
    if adapter_names(model):
        storage.save_adapter(model, folder)
    else:
        save_model(model, str(folder / FULL_WEIGHTS))


def read_weights(model: torch.nn.Module, folder: Path) -> None:
    """Put back what `write_weights` wrote, in place; the adapter is trainable again."""
    if adapter_names(model):
        one_operation = any(getattr(module, "fused", False) for module in model.modules())
        delete_adapter(model, "default")
        storage.load_adapter(model, folder, trainable=True)
        fused.fuse(model, one_operation)
    else:
        load_model(model, str(folder / FULL_WEIGHTS))


class AfterSteps(TrainerCallback):
    """Calls `act` once, after the first `count` steps of this session."""

    def __init__(self, count: int, act: Callable[[], None]):
        self.left, self.act = count, act

    def on_step_end(self, args, state, control, **_) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def _progress() -> TrainerCallback:
    if is_in_notebook():
        from transformers.utils.notebook import NotebookProgressCallback

        return NotebookProgressCallback()
    return Bar()


class Bar(TrainerCallback):
    """One line on stderr with the step, the speed and the two losses; Trainer's own prints a dict at every log."""

    def __init__(self):
        self.bar = tqdm(disable=True)
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **_) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", mininterval=0.5)

    def on_step_end(self, args, state, control, **_) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        names = {"loss": "loss", "eval_loss": "validation"}
        self.losses |= {name: f"{logs[key]:.3f}" for key, name in names.items() if key in (logs or {})}
        self.bar.set_postfix(self.losses, refresh=False)

    def close(self) -> None:
        """End the line, however the training ended."""
        self.bar.close()
