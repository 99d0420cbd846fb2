"""Proofs about alpha, the scaling rules, learning rates, the optimizer, and the choice of rank and layers.

Most train the problem of `teacher_student`, which has no noise; some read recorded runs and say so.
"""

from __future__ import annotations

import math
from statistics import mean

import numpy as np

from lora_lab import counting, experiments, shapes, teacher_student
from lora_lab.config import LoraConfig
from lora_lab.proofs import Result

TINY_EPS = 1e-30  # Adam without the small number that guards its division: equal can then mean equal


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest relative difference of two loss curves."""
    return float(np.max(np.abs(one / other - 1)))


def scaling_factor(rank: int = 8, alpha: float = 16) -> Result:
    """The factor in front of B A, read off the configuration: plain, at twice the rank, and with rsLoRA's rule."""
    plain, twice = (LoraConfig(rank=r, alpha=alpha).scaling() for r in (rank, 2 * rank))
    rooted = LoraConfig(rank=rank, alpha=alpha, use_rslora=True).scaling()
    return {
        "factor": plain,
        "at_twice_the_rank": twice,
        "rslora": rooted,
        "twice the rank halves the factor": plain == 2 * twice,
    }


def trained_dial_recorded(scale: float = 2.0, beside: float = 1.0) -> Result:
    """Recorded: `dial`, one trained adapter at `scale` and at `beside` (1 is as trained).

    Losses in nats per token; pirate words in a hundred words written.
    """
    rows = {row["scale"]: row for row in experiments.recorded("dial")["rows"]}
    chosen, trained, off = rows[scale], rows[beside], rows[0.0]
    lowest = min(rows, key=lambda s: rows[s]["pirate_loss"])
    return {
        "loss_as_trained": trained["pirate_loss"],
        "loss_at_scale": chosen["pirate_loss"],
        "words_as_trained": trained["marker_words"],
        "words_at_scale": chosen["marker_words"],
        "plain_rise_at_scale": chosen["story_loss"] - off["story_loss"],
        "lowest_at": lowest,
        "turned up it writes more pirate words": chosen["marker_words"] > trained["marker_words"],
        "turned up its loss is higher": chosen["pirate_loss"] > trained["pirate_loss"],
        "the loss is lowest where training left it": lowest == 1,
    }


def too_much_alpha(lr: float = 0.1, adam_lr: float = 0.02) -> Result:
    """Losses after 100 steps for alpha 1, 2, 4 ... 1024 and nothing else changed, with SGD at `lr` and with Adam."""
    task = teacher_student.problem(width=32, rank=4)
    alphas = [2.0**k for k in range(11)]
    sgd = {a: float(teacher_student.train(task, 4, a, lr, 100, optimizer="sgd")[-1]) for a in alphas}
    adam = {a: float(teacher_student.train(task, 4, a, adam_lr, 100)[-1]) for a in alphas}
    fine = [a for a in alphas if math.isfinite(sgd[a])]
    best = min(adam, key=adam.get)
    return {
        "sgd_last_alpha": fine[-1],
        "sgd_diverges_at": 2 * fine[-1],
        "adam_best_alpha": best,
        "adam_best_loss": adam[best],
        "adam_loss_at_1024": adam[1024],
        "SGD diverges from some alpha on": len(fine) < len(alphas) and sgd[fine[-1]] < 1,
        "Adam is worse again beyond its best alpha": adam[1024] > 10 * adam[best] and adam[1] > adam[best],
    }


def alpha_is_a_rate(factor: float = 4.0, rank: int = 4) -> Result:
    """Which change of B's learning rate alone gives, at alpha 1, the whole loss curve of alpha `factor`.

    Powers of `factor` from its root to its cube are tried, 100 steps each; for Adam epsilon is all but zero.
    """
    task = teacher_student.problem(width=32, rank=4)
    found, gaps = {}, {}
    for optimizer, lr in (("adam", 0.002), ("sgd", 0.2)):
        how = {"rank": rank, "lr": lr, "steps": 100, "optimizer": optimizer, "eps": TINY_EPS}
        wanted = teacher_student.train(task, alpha=factor, **how)
        rates = [factor**power for power in (0.5, 1, 1.5, 2, 3)]
        apart = {c: _apart(teacher_student.train(task, alpha=1, lr_b=c * lr, **how), wanted) for c in rates}
        found[optimizer] = min(apart, key=apart.get)
        gaps[optimizer] = apart[found[optimizer]]
    return {
        "adam_rate_factor": found["adam"],
        "sgd_rate_factor": found["sgd"],
        "adam_gap": gaps["adam"],
        "sgd_gap": gaps["sgd"],
        "both curves are equal but for rounding": max(gaps.values()) < 1e-9,
    }


def where_alpha_is_no_rate(factor: float = 4.0, weight_decay: float = 0.1) -> Result:
    """Largest relative difference between alpha times `factor` and its twin by learning rate, in four cases (Adam).

    left_...: shares of the loss left after 200 steps, by both rates times `factor` and by alpha times `factor`.
    """
    task = teacher_student.problem(width=32, rank=4)

    def train(**how) -> np.ndarray:
        return teacher_student.train(task, **{"rank": 4, "lr": 0.002, "steps": 200, "eps": TINY_EPS} | how)

    decay = {"weight_decay": weight_decay}
    exact = _apart(train(alpha=1, lr_b=0.002 * factor), train(alpha=factor))
    root = math.sqrt(factor)
    started = _apart(train(alpha=1, lr=0.002 * root), train(alpha=factor, init=1 / root))
    shared, raised = train(alpha=1, lr=0.002 * factor), train(alpha=factor)
    decayed = _apart(train(alpha=1, lr_b=0.002 * factor, **decay), train(alpha=factor, **decay))
    return {
        "b_alone": exact,
        "both_by_the_root_and_a_smaller_start": started,
        "left_by_both_rates": float(shared[-1]),
        "left_by_alpha": float(raised[-1]),
        "b_alone_with_decay": decayed,
        "without decay B's rate alone is an exact twin": exact < 1e-9,
        "a shared rate is one if A's start shrinks": started < 1e-9,
        "both rates times the factor is none": _apart(shared, raised) > 0.1,
        "weight decay breaks the twin": decayed > 0.01,
    }


def published_factors(peft: float = 8, qlora: float = 16, gpt2: float = 32) -> Result:
    """alpha / rank of published settings (the alphas are inputs), and what alpha = 2 x rank makes of the factor.

    Ranks: peft's default 8, QLoRA's script 64, the LoRA paper's GPT-2 runs 4 (Hu et al. 2021, table 11).
    """
    ratios = {"peft": peft / 8, "qlora": qlora / 64, "gpt2": gpt2 / 4}
    doubled = {LoraConfig(rank=r, alpha=2 * r).scaling() for r in (1, 8, 64, 256)}
    return ratios | {
        "lowest": min(ratios.values()),
        "highest": max(ratios.values()),
        "spread": max(ratios.values()) / min(ratios.values()),
        "with_alpha_2r": doubled.pop(),
        "alpha = 2r gives one factor at every rank": not doubled,
        "none of the three is 2": 2 not in ratios.values(),
    }


def first_steps_by_rule(largest: int = 64, steps: int = 1) -> Result:
    """The power of the rank with which the loss taken off by the first `steps` grows, ranks 1 to `largest`."""
    task = teacher_student.problem(width=128, rank=32)
    ranks = [2**k for k in range(int(math.log2(largest)) + 1)]
    slopes = {}
    for optimizer, lr in teacher_student.EARLY_RATE.items():
        for rule, name in (("alpha/r", "by_rank"), ("alpha/sqrt(r)", "by_root"), ("alpha", "undivided")):
            gains = [
                np.mean([1 - teacher_student.train(task, r, 1, lr, steps, rule, optimizer, s)[-1] for s in range(4)])
                for r in ranks
            ]
            slopes[f"{optimizer}_{name}"] = teacher_student.slope(ranks, gains)
    return slopes | {
        "Adam is level under alpha / r": abs(slopes["adam_by_rank"]) < 0.1,
        "SGD is level under alpha / sqrt(r)": abs(slopes["sgd_by_root"]) < 0.1,
        "SGD falls under alpha / r": slopes["sgd_by_rank"] < -0.9,
        "Adam rises under alpha / sqrt(r)": slopes["adam_by_root"] > 0.4,
    }


def rslora_is_alpha(rank: int = 64, alpha: float = 16) -> Result:
    """Two whole training runs: rsLoRA at alpha, and plain LoRA at alpha times the root of the rank."""
    task = teacher_student.problem(width=64, rank=16)
    how = {"rank": rank, "lr": 0.001, "steps": 40}
    rooted = teacher_student.train(task, alpha=alpha, rule="alpha/sqrt(r)", **how)
    plain = teacher_student.train(task, alpha=alpha * math.sqrt(rank), **how)
    factors = [LoraConfig(rank=rank, alpha=alpha, use_rslora=switch).scaling() for switch in (True, False)]
    return {
        "rslora_factor": factors[0],
        "plain_factor": factors[1],
        "times": factors[0] / factors[1],
        "same_as_alpha": alpha * math.sqrt(rank),
        "the two runs are one": _apart(rooted, plain) < 1e-9,
    }


def sweep_with_alpha_2r(low: int = 8, high: int = 64) -> Result:
    """First-step progress at rank `high` over that at `low`, Adam at one small rate: alpha = 2r, and alpha fixed."""
    task = teacher_student.problem(width=256, rank=64)

    def progress(rank: int, alpha: float) -> float:
        return float(np.mean([1 - teacher_student.train(task, rank, alpha, 1e-4, 1, seed=s)[-1] for s in range(2)]))

    tied = progress(high, 2 * high) / progress(low, 2 * low)
    fixed = progress(high, 16) / progress(low, 16)
    return {
        "ranks": high / low,
        "tied": tied,
        "fixed": fixed,
        "with alpha = 2r the first step grows as the rank": abs(tied / (high / low) - 1) < 0.1,
        "with alpha fixed it does not grow": abs(fixed - 1) < 0.1,
    }


def best_rates_recorded(task: str = "pirate", rank: int = 8) -> Result:
    """Recorded: `rank`. The best learning rate of those tried: LoRA, and full fine-tuning of the same matrices."""
    best = experiments.best_rows(experiments.recorded("rank")["rows"])
    lora, full = (best[task, label][0]["lr"] for label in (f"rank {rank}", "full"))
    ratios = [best[t, f"rank {r}"][0]["lr"] / best[t, "full"][0]["lr"] for t, _ in best for r in (1, 8, 64)]
    return {
        "lora": lora,
        "full": full,
        "ratio": lora / full,
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "LoRA's best rate is higher, at ranks 1, 8 and 64 of every task": min(ratios) > 1,
    }


def rank_needed_recorded(share: float = 0.8, strict: float = 0.99) -> Result:
    """Recorded: `rank`. The least rank with at least `share`, or `strict`, of full fine-tuning's gain; 0 for none."""
    record = experiments.recorded("rank")
    best, ranks = experiments.best_rows(record["rows"]), (1, 2, 4, 8, 16, 64)

    def loss(task: str, label: str) -> float:
        return mean(row["loss"] for row in best[task, label])

    def needed(task: str, wanted: float) -> int:
        start = record["before"][task]["loss"]
        whole = start - loss(task, "full")
        return next((r for r in ranks if (start - loss(task, f"rank {r}")) / whole >= wanted), 0)

    tasks = ("pirate", "code", "query")
    loose, tight = ({t: needed(t, wanted) for t in tasks} for wanted in (share, strict))
    return {
        **{f"{t}_at_share": loose[t] for t in tasks},
        **{f"{t}_at_strict": tight[t] for t in tasks},
        "the rank needed depends on what counts as enough": loose != tight,
        "and on the task": len(set(tight.values())) > 1,
        "on code no rank tried is enough for the strict share": tight["code"] == 0,
    }


def which_layers_recorded(first: str = "q, v", second: str = "MLP", third: str = "all linear") -> Result:
    """Recorded: `targets`, one budget of parameters spent on different matrices; mean losses of five seeds (nats)."""
    rows = experiments.best_rows(experiments.recorded("targets")["rows"])
    spent = {label: [row["loss"] for row in group] for (_, label), group in rows.items()}
    sizes = {label: group[0]["trainable"] for (_, label), group in rows.items()}
    return {
        "first": mean(spent[first]),
        "second": mean(spent[second]),
        "third": mean(spent[third]),
        "gap": mean(spent[first]) - mean(spent[second]),
        "parameters": sizes[first],
        "every seed of the MLP is below every seed of q, v": max(spent["MLP"]) < min(spent["q, v"]),
        "all linear is within the spread of the MLP": min(spent["MLP"]) < mean(spent["all linear"]) < max(spent["MLP"]),
        "the budgets are within 2 %": max(chosen := [sizes[k] for k in (first, second, third)]) < 1.02 * min(chosen),
    }


def lora_plus_is_alpha(ratio: float = 16.0) -> Result:
    """LoRA+ (B's rate `ratio` times A's) at alpha 1 against plain LoRA at other alphas, 200 steps of Adam."""
    task = teacher_student.problem(width=32, rank=4)
    how = {"rank": 4, "lr": 5e-4, "steps": 200, "eps": TINY_EPS}
    plus = teacher_student.train(task, alpha=1, lr_b=ratio * 5e-4, **how)
    gaps = {2.0**k: _apart(teacher_student.train(task, alpha=2.0**k, **how), plus) for k in range(8)}
    alpha = min(gaps, key=gaps.get)
    return {
        "alpha": alpha,
        "gap": gaps[alpha],
        "gap_at_alpha_1": gaps[1.0],
        "it is plain LoRA at alpha = ratio": alpha == ratio and gaps[alpha] < 1e-9,
    }


def bits_in_rewards(problems: int = 10_000, samples: int = 32, model: str = "Llama-3.1-8B") -> Result:
    """Bits that a run with rewards can teach, at one bit an episode, beside the numbers of a rank-1 adapter."""
    shape = shapes.known(model)
    inside, head = counting.lora(shape, 1), counting.lora([shape.embeddings[-1]], 1)
    bits = problems * samples
    return {
        "bits": bits,
        "parameters": inside,
        "with_head": inside + head,
        "bits_per_parameter": bits / inside,
        "less than one bit for each parameter": bits < inside,
    }


def decay_pulls_to_base(weight_decay: float = 0.1, lr: float = 1e-3, steps: int = 2000) -> Result:
    """A layer's adapter under torch's AdamW with no gradient: the share of A, and of the update B A, that is left."""
    import torch

    from lora_lab.adapters import add_adapter

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
    layer = add_adapter(net, LoraConfig(rank=4, init_lora_weights=False))[0]
    weight, (a, b) = layer.base.weight.detach().clone(), layer.matrices("default")
    first, update = a.detach().clone(), layer.delta("default").detach().clone()
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    chosen = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.step()
    one, left = (float(now.detach().norm() / old.norm()) for now, old in ((a, first), (layer.delta("default"), update)))
    return {
        "matrix_left": one,
        "update_left": left,
        "the update shrinks as the square of a matrix": abs(left - one**2) < 1e-3 < 1 - left,
        "W is as it was": torch.equal(layer.base.weight, weight),
    }


def _half_precision_step(name: str, lr: float) -> tuple[float, float]:
    """Shares of A and of B that are not a number after one step of Adam, everything stored in this type."""
    import torch

    dtype = getattr(torch, name)
    torch.manual_seed(0)
    weight, a, b = (torch.randn(*shape).to(dtype) for shape in ((16, 16), (4, 16), (16, 4)))
    a, b = a.requires_grad_(), torch.zeros_like(b, requires_grad=True)
    x = torch.randn(8, 16).to(dtype)
    (x @ weight.T + (x @ a.T) @ b.T).float().square().mean().backward()
    torch.optim.Adam([a, b], lr=lr, foreach=False).step()
    return tuple(float(p.isnan().float().mean()) for p in (a, b))


def half_precision_adapters(dtype: str = "float16", beside: str = "bfloat16", lr: float = 1e-6) -> Result:
    """One step of Adam on A and B stored in half precision: the shares that are not a number, in two types."""
    a, b = _half_precision_step(dtype, lr)
    other_a, other_b = _half_precision_step(beside, lr)
    return {
        "a_broken": a,
        "b_broken": b,
        "beside_broken": max(other_a, other_b),
        "all of A is broken after one step": a == 1,
        "none of B is, nor anything in the other type": max(b, other_a, other_b) == 0,
    }


def _small_net(rank: int):
    """A frozen network of two layers, 32 wide, the function that adapts it, and the loss of a batch."""
    import torch

    from lora_lab.adapters import add_adapter

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32))
    x, wanted = torch.randn(16, 32, requires_grad=True), torch.randn(16, 32)  # embeddings often need gradients, too
    config = LoraConfig(rank=rank, target_modules=("0", "2"))
    return net, lambda: add_adapter(net, config), lambda: (net(x) - wanted).square().mean()


def optimizer_made_too_early(rank: int = 8, early: bool = True) -> Result:
    """An optimizer that is given the model's parameters before the adapter is added: what it holds and what it does."""
    import torch

    net, adapt, loss = _small_net(rank)
    if not early:
        adapt()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    if early:
        adapt()
    trainable = [p for p in net.parameters() if p.requires_grad]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    losses = []
    for _ in range(5):
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
    return {
        "trainable": sum(p.numel() for p in trainable),
        "held": sum(p.numel() for p in trainable if id(p) in held),
        "the loss never moves": len({value.item() for value in losses}) == 1,
        "though A and B have gradients": all(p.grad is not None for p in trainable),
    }


def frozen_twice(rank: int = 8, freeze_first: bool = False) -> Result:
    """A base that is frozen after its adapter was added: A and B are frozen with it, and no line complains."""
    import torch

    net, adapt, loss = _small_net(rank)
    if freeze_first:
        net.requires_grad_(False)
    adapt()
    before = sum(p.numel() for p in net.parameters() if p.requires_grad)
    if not freeze_first:
        net.requires_grad_(False)  # meant for the base
    optimizer = torch.optim.SGD([{"params": [p for p in net.parameters() if p.requires_grad]}], lr=0.1)
    losses = []
    for _ in range(5):
        losses.append(loss())
        losses[-1].backward()  # no error: the inputs require a gradient
        optimizer.step()
    return {
        "trainable_before": before,
        "trainable_after": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "the loss is level to the last bit": len({value.item() for value in losses}) == 1,
    }
