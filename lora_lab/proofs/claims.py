"""What the card says and no other module proves: the book, what rank buys, cutting against training."""

from __future__ import annotations

from lora_lab.proofs import Result


def claim_book_pages(rank: int = 8, width: int = 4096) -> Result:
    """The card's book: a page is a row of W [width, width]; the pages that A and B fill, and their share of it."""
    whole, a, b = width * width, rank * width, width * rank
    return {
        "book": whole // width,
        "pages_of_a": a // width,
        "pages_of_b": b // width,
        "pages": (a + b) // width,
        "share": (a + b) / whole,
        "share_of_a_alone": a / whole,
        "half_of_it_is_b": (a + b) // width == 2 * rank,
    }


def claim_style_and_domain(low: int = 8, high: int = 64) -> Result:
    """Whether rank `high` beats rank `low` on a style and on a domain, every seed below every other's (recorded: rank).

    Losses in nats per token, five seeds, each rank at its own learning rate; 5.8 million parameters, short runs.
    """
    from statistics import mean

    from lora_lab import experiments

    best = experiments.best_rows(experiments.recorded("rank")["rows"])
    loss = {
        (task, label): [row["loss"] for row in best[task, label]]
        for task in ("pirate", "code")
        for label in (f"rank {low}", f"rank {high}", "full")
    }

    def beats(task: str, one: str, other: str) -> bool:
        return max(loss[task, one]) < min(loss[task, other])

    gains = {task: mean(loss[task, f"rank {low}"]) - mean(loss[task, f"rank {high}"]) for task in ("pirate", "code")}
    return {
        "gain_on_the_style": gains["pirate"],
        "gain_on_the_domain": gains["code"],
        "high_rank_buys_little_on_the_style": gains["pirate"] < 0.05,
        "high_rank_beats_low_on_the_style": beats("pirate", f"rank {high}", f"rank {low}"),
        "high_rank_does_not_beat_low_on_the_domain": not beats("code", f"rank {high}", f"rank {low}"),
        "full_beats_the_high_rank_on_the_domain": beats("code", "full", f"rank {high}"),
    }


def claim_no_approximation(rank: int = 1) -> Result:
    """LoRA trained at a rank against full fine-tuning's update cut to that rank, three seeds (recorded: truncation)."""
    from statistics import mean

    from lora_lab import experiments

    rows = [row for row in experiments.recorded("truncation")["rows"] if row["rank"] == rank]
    result: Result = {}
    for task in ("pirate", "code"):
        cut, trained = ([row[field] for row in rows if row["task"] == task] for field in ("truncated", "trained"))
        result |= {f"{task}_cut": mean(cut), f"{task}_trained": mean(trained)}
        result |= {f"{task}_trained_is_better": max(trained) < min(cut)}
    return result


def claim_rank_of_a_correction(rank: int = 8, width: int = 48, seed: int = 0) -> Result:
    """The rank of one matrix's correction, and of two corrected matrices one after the other, less their base.

    Per matrix it is at most r; a network of several adapted layers is changed in more directions than r.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    first, second = random.standard_normal((2, width, width)) / width**0.5
    changes = [random.standard_normal((width, rank)) @ random.standard_normal((rank, width)) / width for _ in range(2)]
    both = (second + changes[1]) @ (first + changes[0]) - second @ first
    ranks = [int(np.linalg.matrix_rank(m, tol=1e-9)) for m in (*changes, both)]
    return {
        "rank_of_one": ranks[0],
        "rank_of_two_layers": ranks[2],
        "at_most_r_in_a_matrix": max(ranks[:2]) <= rank,
        "more_in_a_network": ranks[2] > rank,
    }


def claim_default_rank(rank: int = 8) -> Result:
    """Which rank widely used configurations start from: peft's default, as installed, and those of other sources.

    And the factor, alpha / rank, that peft's defaults come to.

    Sources: artidoro/qlora, qlora.py (64); "LoRA Without Regret" (32 in Tinker).
    """
    import peft

    started = peft.LoraConfig()
    defaults = {"peft": started.r, "qlora": 64, "tinker": 32}
    return {f"default_{name}": value for name, value in defaults.items()} | {
        "factor_in_peft": started.lora_alpha / started.r,
        "peft_starts_at_this": defaults["peft"] == rank,
        "peft_does_not_start_at_twice_the_rank": started.lora_alpha != 2 * started.r,
        "not_the_only_default": len(set(defaults.values())) > 1,
    }
