"""What the card says, computed: counts, the order of A and B, alpha, what rank buys, merging, subspaces."""

from __future__ import annotations

from lora_lab.proofs import Result

SEVEN_BILLION = ("Llama-2-7B", "Mistral-7B-v0.1", "Llama-3.1-8B", "Qwen2.5-7B")


def claim_one_matrix(rank: int = 8, out_features: int = 4096, in_features: int = 4096) -> Result:
    """Numbers of one W [out, in] and of its adapter, the adapter's share, and the rank at which it is as large as W.

    Pages: numbers over the length of a row of W. Source: Hu et al. 2021, section 4.1; the card.
    """
    from lora_lab import counting

    whole = out_features * in_features
    a, b = rank * in_features, out_features * rank
    return {
        "matrix": whole,
        "adapter": counting.lora_parameters(out_features, in_features, rank),
        "share": (a + b) / whole,
        "one_in": whole / (a + b),
        "break_even_rank": counting.break_even_rank(out_features, in_features),
        "book_pages": out_features,
        "pages_of_a": a / in_features,
        "pages_of_b": b / in_features,
        "pages": (a + b) / in_features,
        "share_of_the_pages_of_a": a / whole,
        "package_counts_alike": counting.lora_parameters(out_features, in_features, rank) == a + b,
        "smaller_than_the_matrix": a + b < whole,
    }


def claim_seven_billion(rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """Numbers that train in four models "of 7B", and their share of the base: one recipe, several counts.

    The shapes are the published configs'. Source: Hu et al. 2021 for q and v.
    """
    from lora_lab import counting, shapes

    result: Result = {}
    counts = {}
    for name in SEVEN_BILLION:
        base = shapes.known(name).total
        counts[name] = counting.lora(shapes.known(name), rank, targets)
        key = name.lower().replace("-", "_").replace(".", "_")
        result |= {f"{key}_base": base, f"{key}_trained": counts[name], f"{key}_share": counts[name] / base}
    whole = shapes.known("Llama-2-7B").total
    return result | {
        "share_of_base_plus_adapter": counts["Llama-2-7B"] / (whole + counts["Llama-2-7B"]),
        "seven_billion_over_the_count": 7e9 / whole,
        "newer_models_train_fewer": max(n for name, n in counts.items() if name != "Llama-2-7B") < counts["Llama-2-7B"],
        "within_four_percent_of_seven_billion": abs(7e9 / whole - 1) < 0.04,
    }


def claim_order_of_the_factors(width: int = 6, rank: int = 2, scale: float = 2.0, seed: int = 0) -> Result:
    """Four readings of one adapter, with numbers: column, row and PyTorch form agree, the card's A B x does not.

    The card's shapes, A [in, r] and B [r, out], are the row form's; A·B·x applies B first and computes with the
    transpose. Source: Hu et al. 2021, equation 3; Dettmers et al. 2023, equation 3.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    w, x = random.standard_normal((width, width)), random.standard_normal(width)
    a, b = random.standard_normal((rank, width)), random.standard_normal((width, rank))  # PyTorch: [r, in], [out, r]
    card_a, card_b = a.T, b.T
    column = w @ x + scale * (b @ (a @ x))
    row = x @ w.T + scale * ((x @ card_a) @ card_b)
    batch = (x[None] @ w.T + scale * (x[None] @ a.T) @ b.T)[0]
    written = w @ x + scale * (card_a @ (card_b @ x))
    return {
        "apart_as_written": float(np.linalg.norm(written - column) / np.linalg.norm(column - w @ x)),
        "column_row_and_torch_agree": bool(np.allclose(column, row) and np.allclose(column, batch)),
        "a_b_x_is_another_vector": not np.allclose(written, column),
        "a_b_is_the_transpose": bool(np.allclose(card_a @ card_b, (b @ a).T)),
    }


def claim_scale(alpha: float = 16, rank: int = 8, other_rank: int = 16) -> Result:
    """alpha / rank as a layer of this package has it, at two ranks, and with rsLoRA's root of the rank."""
    from lora_lab.config import LoraConfig

    def scaling(r: int, rooted: bool = False) -> float:
        return LoraConfig(rank=r, alpha=alpha, target_modules=["q_proj"], use_rslora=rooted).scaling("q_proj")

    return {
        "scale": scaling(rank),
        "scale_at_the_other_rank": scaling(other_rank),
        "scale_rslora": scaling(rank, rooted=True),
        "scale_rslora_at_the_other_rank": scaling(other_rank, rooted=True),
        "alpha_over_rank": scaling(rank) == alpha / rank and scaling(other_rank) == alpha / other_rank,
        "rslora_is_alpha_times_root_of_rank": abs(scaling(rank, rooted=True) - alpha * rank**0.5 / rank) < 1e-12,
    }


def claim_higher_alpha(alpha: float = 4.0, higher: float = 64.0, lr: float = 0.1) -> Result:
    """While training, alpha has an optimum: on the toy teacher, SGD at one rate learns more, then diverges.

    Loss after 100 steps, 1 is nothing learned; inf stands for a run that diverged.
    """
    from lora_lab import teacher_student

    task = teacher_student.problem(32, 4, seed=0)
    low, high, too_high = (
        float(teacher_student.train(task, 4, a, lr, 100, optimizer="sgd")[-1]) for a in (alpha, higher, 16 * higher)
    )
    return {
        "loss": low,
        "loss_higher": high,
        "diverged_sixteen_times_higher": too_high == float("inf"),
        "more_alpha_helps_at_first": high < low,
    }


def claim_conventions(rank: int = 8) -> Result:
    """alpha / rank in settings that sources use or recommend: "alpha = 2 x rank" is one of several habits.

    Sources: peft 0.21 `LoraConfig`; Hu et al. 2021, tables 9 to 11; artidoro/qlora, qlora.py; Biderman et al. 2024,
    section 4.7; "LoRA Without Regret" (Thinking Machines 2025).
    """
    used = {"peft": (8, 8), "gpt2": (4, 32), "roberta_large": (8, 16), "qlora": (64, 16), "learns_less": (256, 512)}
    used |= {"without_regret": (512, 32), "card": (rank, 2 * rank)}
    factors = {name: alpha / r for name, (r, alpha) in used.items()}
    return {f"factor_{name}": factor for name, factor in factors.items()} | {
        "largest_over_smallest": max(factors.values()) / min(factors.values()),
        "at_two": sum(factor == 2 for factor in factors.values()),
        "card_is_two_at_any_rank": factors["card"] == 2,
        "others_differ": len({factor for name, factor in factors.items() if name != "card"}) > 2,
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


def claim_share_by_rank(rank: int = 8, higher: int = 32) -> Result:
    """Share of Llama-2-7B that LoRA trains, on q and v and on all linear layers: when it is under 1 %, when not."""
    from lora_lab import counting, shapes

    llama = shapes.known("Llama-2-7B")

    def share(r: int, targets: str) -> float:
        return counting.lora(llama, r, targets) / llama.total

    return {
        "q_and_v": share(rank, "q_proj,v_proj"),
        "all_linear": share(rank, counting.ALL_LINEAR),
        "all_linear_higher": share(higher, counting.ALL_LINEAR),
        "all_linear_256": share(256, counting.ALL_LINEAR),
        "under_one_percent": share(rank, counting.ALL_LINEAR) < 0.01,
        "no_longer_at_the_higher_rank": share(higher, counting.ALL_LINEAR) > 0.01,
    }


def claim_full_update_has_no_low_rank(share: float = 0.9) -> Result:
    """Directions that hold `share` of what full fine-tuning added to a real matrix, beside what LoRA needs to suffice.

    The matrix [128, 256] is one of the course's model after training on Python source (recorded: spectrum); that rank 1
    makes most of the gain in loss is from the runs (recorded: rank).
    """
    from statistics import mean

    import numpy as np

    from lora_lab import experiments, lowrank

    update = experiments.matrix(experiments.recorded("spectrum")["update"])
    chance = np.random.default_rng(0).standard_normal(update.shape)
    needed, by_chance = (lowrank.rank_for_energy(m, share) for m in (update, chance))
    record = experiments.recorded("rank")
    best = experiments.best_rows(record["rows"])
    gain = {
        label: record["before"]["pirate"]["loss"] - mean(row["loss"] for row in best["pirate", label])
        for label in ("rank 1", "full")
    }
    return {
        "directions": min(update.shape),
        "needed": needed,
        "needed_by_chance": by_chance,
        "gain_of_rank_1": gain["rank 1"] / gain["full"],
        "not_of_low_rank": needed > 16,
        "not_like_noise": needed < 0.7 * by_chance,
        "rank_1_makes_most_of_the_gain": gain["rank 1"] / gain["full"] > 0.8,
    }


def claim_where_counts(cheap: str = "all linear", dear: str = "all attention") -> Result:
    """One budget of parameters on the attention alone and on every linear layer (recorded: targets), five seeds."""
    from statistics import mean

    from lora_lab import experiments

    where = experiments.best_rows(experiments.recorded("targets")["rows"])
    loss = {label: [row["loss"] for row in where["pirate", label]] for label in (cheap, dear, "MLP", "q, v")}
    trained = {label: where["pirate", label][0]["trainable"] for label in loss}
    return {
        "parameters": trained[cheap],
        "loss_all_linear": mean(loss[cheap]),
        "loss_all_attention": mean(loss[dear]),
        "same_budget": trained[cheap] == trained[dear],
        "all_linear_beats_attention": max(loss[cheap]) < min(loss[dear]),
        "mlp_beats_attention": max(loss["MLP"]) < min(loss[dear]),
    }


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

    Sources: artidoro/qlora, qlora.py (64); "LoRA Without Regret" (32 in Tinker).
    """
    import peft

    defaults = {"peft": peft.LoraConfig().r, "qlora": 64, "tinker": 32}
    return {f"default_{name}": value for name, value in defaults.items()} | {
        "peft_starts_at_this": defaults["peft"] == rank,
        "not_the_only_default": len(set(defaults.values())) > 1,
    }
