"""Training steps under transformers' Trainer, one for both sides, with its losses and the time of each step."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from . import card
from .bench import Unfinished


@dataclass
class Trained:
    """losses: of each step; seconds: of each after the first `warm_up`, from the end of the one before to its own.

    first: seconds of the first step, compilation and all.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: float | None = None


class _Recording(Trainer):
    """A Trainer that keeps every loss as it is; Trainer's own log rounds them."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        self.kept.append((found[0] if return_outputs else found).detach().float())
        return found


class _Clock(TrainerCallback):
    """Notes when each step ended, and ends the training where its time is over."""

    def __init__(self, device: torch.device, until: float) -> None:
        self.device, self.until, self.ends, self.begun = device, until, [], 0.0

    def on_train_begin(self, args, state, control, **_) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        card.wait(self.device)
        self.ends.append(time.perf_counter())
        if time.monotonic() > self.until:
            control.should_training_stop = True


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Examples of one length as a batch. No mask: there is no padding, and attention is fastest without one."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def train(
    model: torch.nn.Module,
    data: list,
    device: torch.device,
    *,
    rows: int,
    steps: int,
    warm_up: int,
    optimizer: str = "adamw_torch_fused",
    autocast: bool = True,
    rate: float = 2e-4,
    until: float = float("inf"),
    collator=collate,
) -> Trained:
    """`steps` steps on batches of `rows` examples in a fixed order.

    Raises Unfinished where time.monotonic() passes `until` before the last: a few steps are no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows,
            learning_rate=rate,
            lr_scheduler_type="constant",
            optim=optimizer,
            bf16=autocast,
            use_cpu=device.type == "cpu",
            seed=0,
            data_seed=0,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,  # looks at each loss, for which the device must be waited for
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # one card is measured, however many there are
        trainer = _Recording(model=model, args=arguments, train_dataset=data, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        trainer.kept = []
        clock = _Clock(device, until)
        trainer.add_callback(clock)
        trainer.train()
    if len(clock.ends) < steps:
        raise Unfinished(f"{len(clock.ends)} of {steps} steps were done when the time was over")
    ends = clock.ends[max(0, warm_up - 1) :]
    return Trained(
        losses=[loss.item() for loss in trainer.kept],
        seconds=[after - before for before, after in zip(ends, ends[1:], strict=False)],
        first=clock.ends[0] - clock.begun,
    )
