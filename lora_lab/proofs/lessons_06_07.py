"""What lessons 06 and 07 sum up in five lines: alpha on a toy and in recorded runs, a fine-tune's price and file.

`l07_...` belongs to lesson 07; losses of the language model are in nats per token.
"""

from __future__ import annotations

from lora_lab.proofs import Result


def l06_dial_is_not_loss(quarter: float = 0.25) -> Result:
    """Four equal turns of a trained adapter's dial: equal in the weights, unequal in the loss (recorded: dial)."""
    from itertools import pairwise

    from lora_lab import experiments

    rows = experiments.recorded("dial")["rows"]
    loss, plain = ({row["scale"]: row[f"{kind}_loss"] for row in rows} for kind in ("pirate", "story"))
    turns = [loss[k * quarter] for k in range(5)]
    falls = [a - b for a, b in pairwise(turns)]
    return {
        "at_0": turns[0],
        "first_turn": falls[0],
        "last_turn": falls[-1],
        "lowest_at": min(loss, key=loss.get),
        "loss_is_not_proportional": falls[0] > 2 * falls[-1],
        "plain_stories_at_0": plain[0],
        "plain_stories_at_2": plain[2],
        "more_is_not_better": loss[2] > loss[1],
        "and_costs_on_what_it_knew": plain[2] > plain[0] + 0.3,
    }


def l06_epsilon_breaks_it(times: float = 4.0, eps: float = 1e-4) -> Result:
    """alpha x c against B's rate x c under Adam, as relative difference of the loss curves, with and without epsilon.

    The toy teacher in float64, 200 steps.
    """
    import numpy as np

    from lora_lab import teacher_student

    task = teacher_student.problem(32, 4, seed=0)

    def apart(size: float) -> float:
        how = {"rank": 4, "lr": 0.002, "steps": 200, "eps": size}
        one = teacher_student.train(task, alpha=times, **how)
        other = teacher_student.train(task, alpha=1.0, lr_b=times * 0.002, **how)
        return float(np.max(np.abs(other / one - 1)))

    without, usual, large = apart(1e-30), apart(1e-8), apart(eps)
    return {
        "without_epsilon": without,
        "with_the_usual": usual,
        "with_a_large_one": large,
        "exact_without": without < 1e-9,
        "broken_with": usual > 1e-9 and large > 0.01,
    }


def l06_best_rate_at_twice_the_rank(ratio: float = 2) -> Result:
    """The best of four learning rates at each rank when alpha / rank is held at `ratio` (recorded: grid)."""
    from statistics import mean

    from lora_lab import experiments

    rows = [row for row in experiments.recorded("grid")["rows"] if row["targets"] == "all-linear"]
    best = {}
    for rank in sorted({row["rank"] for row in rows}):
        at: dict[float, list[float]] = {}
        for row in rows:
            if (row["rank"], row["alpha"]) == (rank, ratio * rank):
                at.setdefault(row["lr"], []).append(float("inf") if row["loss"] is None else row["loss"])
        best[rank] = min(at, key=lambda lr: mean(at[lr]))
    rates = list(best.values())
    return {f"best_rate_at_rank_{rank}": rate for rank, rate in best.items()} | {
        "falls_as_the_rank_grows": rates == sorted(rates, reverse=True) and rates[-1] < rates[0]
    }


def l07_price_before_running(rank: int = 8) -> Result:
    """The course's model: parameters counted from its config, and found on the model itself with an adapter on it.

    What autograd keeps of a batch of 8 x 80 tokens, as recorded (variant_costs), beside what shapes predict: the
    activations, and the log-probabilities, a third of the bucket of logits.
    """
    from lora_lab import adapters, counting, experiments, memory, models, shapes
    from lora_lab.config import LoraConfig

    shape = shapes.from_file(models.BASE / "config.json")
    model = adapters.add_adapter(models.load_model("base", "cpu"), LoraConfig(rank=rank, alpha=2 * rank))
    found = adapters.count_parameters(model)
    kept = next(r["kept_bytes"] for r in experiments.recorded("variant_costs")["rows"] if r["label"] == "LoRA")
    buckets = memory.memory(shape, "lora-float32", 8, 80, rank=8)
    predicted = buckets["activations"] + buckets["logits"] // 3
    return {
        "counted": counting.lora(shape, rank),
        "base": shape.total,
        "share_of_base": counting.lora(shape, rank) / shape.total,
        "kept_predicted": predicted,
        "kept_recorded": kept,
        "the_model_has_as_many": found.trainable == counting.lora(shape, rank) and found.base == shape.total,
        "memory_predicted_within_two_percent": 0.98 < predicted / kept < 1.02,
    }


def l07_larger_models_save_more(rank: int = 8, rows: int = 16, length: int = 128) -> Result:
    """LoRA's predicted memory over full fine-tuning's, in float32, from the course's model to one of 1.7 billion."""
    from lora_lab import memory, models, shapes

    sizes = {"ours": shapes.from_file(models.BASE / "config.json")}
    sizes |= {size: shapes.known(f"SmolLM2-{size}") for size in ("135M", "360M", "1.7B")}
    shares, kept = {}, {}
    for name, shape in sizes.items():
        lora, full = (memory.memory(shape, f"{how}-float32", rows, length, rank) for how in ("lora", "full"))
        shares[name] = sum(lora.values()) / sum(full.values())
        kept[name] = lora["activations"] / full["activations"], lora["weights"] / full["weights"]
    return {f"share_{name.replace('.', '_').lower()}": share for name, share in shares.items()} | {
        "the_larger_the_more": list(shares.values()) == sorted(shares.values(), reverse=True),
        "weights_and_activations_stay": all(min(pair) > 0.7 for pair in kept.values()),
    }


def l07_most_of_the_gain(label: str = "rank 8") -> Result:
    """Share of full fine-tuning's gain on the style by 4 % of the parameters, five seeds each at its own learning
    rate and the same number of steps (recorded: rank)."""
    from statistics import mean

    from lora_lab import experiments, models, shapes

    record = experiments.recorded("rank")
    before, best = record["before"], experiments.best_rows(record["rows"])
    lora, full = best["pirate", label], best["pirate", "full"]
    start, goal = before["pirate"]["loss"], mean(row["loss"] for row in full)
    share = (start - mean(row["loss"] for row in lora)) / (start - goal)
    shape = shapes.from_file(models.BASE / "config.json")
    return {
        "base": shape.total,
        "vocabulary": shape.vocabulary,
        "parameters": lora[0]["trainable"] / shape.total,
        "share_of_the_gain": share,
        "rate_lora": lora[0]["lr"],
        "rate_full": full[0]["lr"],
        "most_of_the_gain": share > 0.5,
        "each_at_its_own_rate": lora[0]["lr"] != full[0]["lr"],
    }


def l07_on_and_off(scale: float = 1.0, stories: int = 8) -> Result:
    """Loss on plain stories with the shipped pirate adapter on and off, and the base's logits with it off."""
    import torch

    from lora_lab import adapters, models, scoring, tasks

    plain, tokenizer = models.load("base", "cpu")
    model, _ = models.load("base", "cpu", adapter=models.BASE.parent / "adapters" / "pirate")
    adapters.set_scale(model, scale)
    texts = [tasks.Example("", story) for story in tasks.base_stories()[:stories]]
    tokens = torch.tensor([tokenizer("Once upon a time").input_ids])
    with torch.no_grad(), adapters.disable_adapters(model):
        same = torch.equal(model(tokens).logits, plain(tokens).logits)
        off = scoring.loss(model, tokenizer, texts)
    on, before = scoring.loss(model, tokenizer, texts), scoring.loss(plain, tokenizer, texts)
    return {
        "loss_before": before,
        "loss_on": on,
        "loss_off": off,
        "on_something_is_forgotten": on > before + 0.01,
        "off_nothing_is": same and abs(off - before) < 1e-6,
    }


def l07_peft_opens_the_file(adapter: str = "pirate") -> Result:
    """A shipped adapter's file beside the model's, opened here and by peft: logits compared to the bit."""
    import warnings

    import torch
    from peft import PeftModel

    from lora_lab import models

    folder = models.BASE.parent / "adapters" / adapter
    plain, tokenizer = models.load("base", "cpu")
    ours, _ = models.load("base", "cpu", adapter=folder)
    tokens = torch.tensor([tokenizer("Once upon a time, there was a little cat").input_ids])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = plain(tokens).logits.clone()
        theirs = PeftModel.from_pretrained(plain, folder).eval()(tokens).logits
        logits = ours.eval()(tokens).logits
    sizes = [
        (p / name).stat().st_size
        for p, name in ((folder, "adapter_model.safetensors"), (models.BASE, "model.safetensors"))
    ]
    return {
        "adapter_bytes": sizes[0],
        "model_bytes": sizes[1],
        "the_file_is_small": sizes[0] < sizes[1] / 10,
        "same_logits_to_the_bit": torch.equal(theirs, logits),
        "the_adapter_does_something": not torch.allclose(logits, base, atol=0.1),
    }
