"""What a fine-tune cost and what it changed: one record, as a table for people and as one line of JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

JSON_FIELDS = (
    "trainable total share loss_before loss_after base_loss_before base_loss_after exact_match_before "
    "exact_match_after seconds tokens_per_second peak_memory adapter"
).split()


@dataclass(frozen=True)
class Scores:
    """A model's scores at one moment. Losses in nats per token; exact match a share, or None where there is none."""

    loss: float
    base_loss: float
    exact_match: float | None
    style: float | None
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Of `finetune`. The fields up to `adapter` are the line that --json prints.

    trainable, total: parameters; share: their quotient. loss_*: on the task's validation examples, nats per token.
    base_loss_*: on plain children's stories, so that what was forgotten shows. exact_match_*: share of test answers,
    or None. seconds: training alone. tokens_per_second: padding not counted. peak_memory: bytes above those before the
    model was loaded. adapter: the folder, or None if nothing was to be saved.

    curve: [{"step", "loss"} or {"step", "validation_loss"}]. samples: three {"prompt", "before", "after"}.
    style: the score of {"before", "after", "held_out"} text, or None. memory_predicted: bytes by bucket.
    memory_held: the whole run's peak, freed blocks that the C library kept included. best_step: the step whose
    weights were kept. model, tokenizer: the tuned ones, ready to write.
    """

    trainable: int
    total: int
    share: float
    loss_before: float
    loss_after: float
    base_loss_before: float
    base_loss_after: float
    exact_match_before: float | None
    exact_match_after: float | None
    seconds: float
    tokens_per_second: float
    peak_memory: int
    adapter: str | None
    curve: list[dict[str, float]] = field(repr=False)
    samples: list[dict[str, str]] = field(repr=False)
    style: dict[str, float] | None
    memory_predicted: dict[str, int]
    memory_held: int
    best_step: int
    settings: dict[str, Any] = field(repr=False)
    model: Any = field(repr=False, compare=False)
    tokenizer: Any = field(repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The fields of the --json line, in order."""
        return {name: getattr(self, name) for name in JSON_FIELDS}

    def record(self) -> dict[str, Any]:
        """Everything but the model: what is written to training.json."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "tokenizer")}

    def __str__(self) -> str:
        rows = [
            ("validation loss (nats per token)", f"{self.loss_before:.3f}", f"{self.loss_after:.3f}"),
            ("base-domain loss (nats per token)", f"{self.base_loss_before:.3f}", f"{self.base_loss_after:.3f}"),
        ]
        if self.exact_match_before is not None:
            rows.append(("exact match", f"{self.exact_match_before:.1%}", f"{self.exact_match_after:.1%}"))
        if self.style is not None:
            name = f"style score (held-out text: {self.style['held_out']:.1f})"
            rows.append((name, f"{self.style['before']:.1f}", f"{self.style['after']:.1f}"))
        predicted = sum(self.memory_predicted.values())
        lines = [
            f"trained in {self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens a second; best at step "
            f"{self.best_step} of {self.settings['steps']}",
            f"memory: {megabytes(self.peak_memory)} measured, {megabytes(predicted)} predicted "
            f"({megabytes(self.memory_held)} with freed blocks that the allocator kept)",
            "",
            f"{'':36}{'before':>8}{'after':>8}",
            *(f"{name:36}{before:>8}{after:>8}" for name, before, after in rows),
        ]
        for sample in self.samples:
            lines += ["", f"> {sample['prompt']}"]
            lines += [f"before: {sample['before'].strip()}", f"after:  {sample['after'].strip()}"]
        if self.adapter is not None:
            lines += ["", f"saved in {self.adapter}"]
        return "\n".join(lines)


def megabytes(count: float) -> str:
    """Bytes as people read them: 10^6 bytes are a megabyte.

    >>> megabytes(388_674_560)
    '389 MB'
    """
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
