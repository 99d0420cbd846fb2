"""What lessons 04 and 05 sum up in five lines: counts and memory from shapes, rank from the recorded runs.

`l05_...` belongs to lesson 05; its losses are in nats per token.
"""

from __future__ import annotations

from lora_lab.proofs import Result


def l04_what_stays(rank: int = 8, targets: str = "q_proj,v_proj") -> Result:
    """Bytes of Llama-2-7B's states in training: 16 for each parameter in full, 2 for a frozen one; NF4's bits.

    Source: Rajbhandari et al. 2020, section 3.1 (the 16 bytes); Dettmers et al. 2023, section 3 (the bits).
    """
    from lora_lab import memory, shapes

    llama = shapes.known("Llama-2-7B")
    full, lora, qlora = memory.WAYS["full"], memory.WAYS["lora"], memory.WAYS["qlora"]
    states = {
        how: sum(memory.memory(llama, how, rank=rank, targets=targets)[b] for b in memory.BUCKETS[:3])
        for how in ("full", "lora", "qlora")
    }
    whole, frozen = full.weights + full.gradients + full.optimizer, lora.frozen
    return {
        "bytes_in_full": whole,
        "bytes_frozen": frozen,
        "bytes_removed": whole - frozen,
        "nf4_bits": memory.NF4_BITS,
        "states_in_full": states["full"],
        "states_lora": states["lora"],
        "states_qlora": states["qlora"],
        "lora_over_full": states["lora"] / states["full"],
        "frozen_weights_stay": states["lora"] > frozen * llama.total,
        "qlora_takes_them_down": qlora.nf4 and states["qlora"] < 0.5 * states["lora"],
    }


def l04_tokens(tokens: int = 8192) -> Result:
    """LoRA's memory over full fine-tuning's with few tokens in a step and with many, for a small and a large model.

    The course's model (float32, all linear layers) and Llama-2-7B (mixed precision, q and v); texts of 128 tokens.
    """
    from lora_lab import memory, models, shapes

    ours, llama = shapes.from_file(models.BASE / "config.json"), shapes.known("Llama-2-7B")

    def over(shape: shapes.Shape, kind: str, n: int, **more) -> float:
        lora, full = (memory.memory(shape, way + kind, n // 128, 128, **more) for way in ("lora", "full"))
        return sum(lora.values()) / sum(full.values())

    def by_token(how: str, bucket: str) -> float:
        few, many = (memory.memory(llama, how, rows, 128, targets="q_proj,v_proj")[bucket] for rows in (1, 64))
        return many / few

    small = [over(ours, "-float32", n) for n in (128, tokens)]
    large = [over(llama, "", n, targets="q_proj,v_proj") for n in (128, tokens)]
    return {
        "small_few": small[0],
        "small_many": small[1],
        "small_saved_few": 1 - small[0],
        "small_saved": 1 - small[1],
        "large_few": large[0],
        "large_many": large[1],
        "they_grow_with_tokens": by_token("lora", "activations") == by_token("lora", "logits") == 64,
        "they_stay": memory.memory(llama, "lora")["logits"] == memory.memory(llama, "full")["logits"],
        "the_more_tokens_the_less_saved": small[1] > small[0] and large[1] > large[0],
    }


def _rank_runs() -> tuple[dict, dict]:
    from lora_lab import experiments

    record = experiments.recorded("rank")
    return record["before"], experiments.best_rows(record["rows"])


def _beats(one: list[float], other: list[float]) -> bool:
    """Every seed of the first is below every seed of the second: lesson 05's rule."""
    return max(one) < min(other)


def l05_falling_return(step_end: int = 8) -> Result:
    """Pirate stories: whether each doubling of the rank up to `step_end` helped in every seed, and by how much
    (recorded: rank). Full fine-tuning of the same matrices is the yardstick."""
    from itertools import pairwise
    from statistics import mean

    _, best = _rank_runs()
    loss = {r: [row["loss"] for row in best["pirate", f"rank {r}"]] for r in (1, 2, 4, 8, 16, 64)}
    full = [row["loss"] for row in best["pirate", "full"]]
    steps = [(a, b) for a, b in pairwise(loss) if b <= step_end]
    gains = [mean(loss[a]) - mean(loss[b]) for a, b in steps]
    return {f"gain_{a}_to_{b}": gain for (a, b), gain in zip(steps, gains, strict=True)} | {
        "each_doubling_helped": all(_beats(loss[b], loss[a]) for a, b in steps),
        "by_less_each_time": gains == sorted(gains, reverse=True),
        "full_beats_rank_8": _beats(full, loss[8]),
        "full_does_not_beat_16_or_64": not _beats(full, loss[16]) and not _beats(full, loss[64]),
    }


def l05_enough_for_what(rank: int = 1) -> Result:
    """The query task at one rank: its share of full fine-tuning's gain in loss, and of the answers (recorded: rank)."""
    from statistics import mean

    before, best = _rank_runs()
    loss, full = (mean(row["loss"] for row in best["query", label]) for label in (f"rank {rank}", "full"))
    right = mean(row["exact_match"] for row in best["query", f"rank {rank}"])
    share = (before["query"]["loss"] - loss) / (before["query"]["loss"] - full)
    return {
        "share_of_the_gain": share,
        "answers_right": right,
        "nearly_all_of_the_gain": share > 0.97,
        "less_than_half_of_the_answers": right < 0.5,
    }


def l05_room_that_training_did_not_find(rank: int = 64) -> Result:
    """Code at rank 64: full fine-tuning's update cut to that rank against LoRA trained at it (recorded: truncation)."""
    from statistics import mean

    from lora_lab import experiments

    rows = [r for r in experiments.recorded("truncation")["rows"] if (r["task"], r["rank"]) == ("code", rank)]
    cut = [row["truncated"] for row in rows]
    _, best = _rank_runs()
    trained = [row["loss"] for row in best["code", f"rank {rank}"]]
    return {
        "cut": mean(cut),
        "trained": mean(trained),
        "an_update_of_that_rank_is_better": _beats(cut, [row["trained"] for row in rows]),
        "most_seeds_did_not_find_it": sum(loss < max(cut) for loss in trained) < len(trained) / 2,
    }


def l05_where_before_how_much(rank: int = 1, other_rank: int = 64) -> Result:
    """Rank 1 on all linear layers against rank 64 on q and v, each at its best alpha and rate (recorded: grid)."""
    from statistics import mean

    from lora_lab import experiments

    rows = [row for row in experiments.recorded("grid")["rows"] if row["loss"] is not None]

    def best(targets: str, r: int) -> list[dict]:
        chosen = [row for row in rows if (row["targets"], row["rank"]) == (targets, r)]
        settings = {(row["alpha"], row["lr"]) for row in chosen}
        runs = [[row for row in chosen if (row["alpha"], row["lr"]) == s] for s in sorted(settings)]
        return min(runs, key=lambda seeds: mean(row["loss"] for row in seeds))

    everywhere, attention = best("all-linear", rank), best("q_proj,v_proj", other_rank)
    return {
        "everywhere": mean(row["loss"] for row in everywhere),
        "on_q_and_v": mean(row["loss"] for row in attention),
        "parameters_over": attention[0]["trainable"] / everywhere[0]["trainable"],
        "everywhere_is_better": _beats([r["loss"] for r in everywhere], [r["loss"] for r in attention]),
        "with_fewer_parameters": everywhere[0]["trainable"] < attention[0]["trainable"],
    }


def l05_forgetting(rank: int = 1, other_rank: int = 8) -> Result:
    """Rise of the loss on plain stories by rank, on a style and on a domain (recorded: rank): less rank, less lost?"""
    from statistics import mean

    before, best = _rank_runs()
    rise = {
        (task, r): mean(row["base_loss"] for row in best[task, f"rank {r}"]) - before[task]["base_loss"]
        for task in ("pirate", "code")
        for r in (rank, other_rank)
    }
    return {f"{task}_rank_{r}": value for (task, r), value in rise.items()} | {
        "smaller_rank_did_not_forget_less": all(rise[t, rank] > rise[t, other_rank] for t in ("pirate", "code"))
    }
