"""Sweeps that look into trained weights instead of counting runs: the dial, spectra, subspaces, the toy problem."""

from __future__ import annotations

import time
from collections.abc import Callable

from lora_lab import experiments


def dial(seed: int = 0) -> dict:
    """Train one adapter on pirate stories, then turn its scale from 0 to 2 and record what changes.

    At each scale: loss in nats per token on the task's validation passages and on plain stories (what the base model
    was trained for), and 60 tokens sampled after each of three prompts, from the same random numbers at every scale.
    `marker_words` counts the pirate words per 100 in 12 such samples a prompt: three texts are too few to count in.
    """
    from lora_lab import adapters, finetune, generate, scoring, tasks

    task = tasks.load_task("pirate", seed=seed)
    plain = [tasks.Example("", story) for story in tasks.base_stories()]
    trained = finetune.finetune("base", "pirate", rank=8, alpha=16, seed=seed)
    model, tokenizer = trained.model, trained.tokenizer
    rows = []
    for scale in [quarter / 4 for quarter in range(9)]:
        adapters.set_scale(model, scale)
        many = generate.complete(model, tokenizer, task.prompts * 12, max_new_tokens=60, temperature=0.7, seed=seed)
        rows.append(
            {
                "scale": scale,
                "pirate_loss": scoring.loss(model, tokenizer, task.validation),
                "story_loss": scoring.loss(model, tokenizer, plain),
                "marker_words": task.style_score(" ".join(many)),
                "texts": many[: len(task.prompts)],
            }
        )
    return {
        "about": "one LoRA adapter trained on pirate stories, its scale turned from 0 (base model) to 2 (twice)",
        "settings": trained.settings | {"device": model.device.type},
        "training": {f: getattr(trained, f) for f in ("seconds", "loss_before", "loss_after", "best_step")},
        "prompts": list(task.prompts),
        "rows": rows,
    }


MEASUREMENTS: dict[str, Callable[[int], dict]] = {"dial": dial}


def record(name: str, seed: int = 0) -> dict:
    """Run one measurement and put beside its result how, where and when it was made."""
    start = time.perf_counter()
    result = MEASUREMENTS[name](seed)
    result |= experiments.provenance(name, seed, time.perf_counter() - start)
    experiments.check(result)
    return result
