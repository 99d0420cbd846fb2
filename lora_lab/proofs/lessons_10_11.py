"""What lessons 10 and 11 sum up in five lines: eleven bugs on small layers, most of them without an error.

`l11_...` belongs to lesson 11; each bug was reported in a public project, named in the lesson.
"""

from __future__ import annotations

import contextlib

from lora_lab.proofs import Result


def _net(width: int = 16):
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))


def _adapted(net, **settings):
    """A copy of the network with a peft adapter of rank 4 on both layers."""
    import copy

    import peft

    return peft.get_peft_model(
        copy.deepcopy(net), peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["0", "2"]} | settings)
    )


def _matrices(model) -> dict:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def l10_the_card(verdict: str = "exact") -> Result:
    """How the ledger judges the card's sentences: how many have this verdict, and what is said of the others."""
    import tomllib
    from collections import Counter
    from pathlib import Path

    ledger = Path(__file__).parent.parent / "assets" / "claims.toml"
    claims = tomllib.loads(ledger.read_text(encoding="utf-8"))["claim"]
    counts = Counter(claim["verdict"] for claim in claims if claim["lesson"] == "card")
    others = counts.total() - counts[verdict]
    return {name: counts[name] for name in sorted(counts)} | {
        "sentences": counts.total(),
        "fewer_than_half": 2 * counts[verdict] < counts.total(),
        "most_others_depend_or_mislead": 2 * (counts["depends"] + counts["misleading"]) > others,
    }


def l11_level_loss(steps: int = 5) -> Result:
    """A healthy adapter, one frozen after it was put on (twice frozen), and one in float16, trained by Adam.

    Losses on one batch; whether a step moved any A or B; the dtypes of A and B.
    """
    import copy

    import peft
    import torch

    net = _net()
    x, wanted = torch.randn(32, 16), torch.randn(32, 16)

    def losses(model, n: int) -> list[float]:
        optimizer = torch.optim.Adam([{"params": [p for p in model.parameters() if p.requires_grad]}], lr=0.01)
        inputs = x.to(next(model.parameters()).dtype, copy=True).requires_grad_()
        found = []
        for _ in range(n):
            loss = (model(inputs).float() - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    def moves(model) -> bool:
        before = {name: p.detach().clone() for name, p in _matrices(model).items()}
        losses(model, 1)
        return any(not torch.equal(p, before[name]) for name, p in _matrices(model).items())

    healthy, frozen = _adapted(net), peft.prepare_model_for_kbit_training(_adapted(net))
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"])
    half = peft.get_peft_model(copy.deepcopy(net).half(), settings, autocast_adapter_dtype=False)
    level, falling, broken = losses(frozen, steps), losses(_adapted(net), steps), losses(copy.deepcopy(half), 3)
    return {
        "healthy_first": falling[0],
        "healthy_last": falling[-1],
        "frozen_last": level[-1],
        "healthy_moves": moves(healthy) and falling[-1] < falling[0],
        "frozen_is_level_to_the_last_bit": min(level) == max(level),
        "frozen_moves_nothing": not moves(frozen),
        "half_precision_breaks": broken[1] != broken[1],
        "and_shows_in_the_dtype": {p.dtype for p in _matrices(half).values()} == {torch.float16},
    }


def l11_the_factor(alpha: float = 8, rank: int = 4, width: int = 32) -> Result:
    """A layer that multiplies by alpha, and one by alpha / rank: both train; the factor, measured on outputs."""
    import torch

    torch.manual_seed(0)
    x, wanted = torch.randn(64, width), torch.randn(64, 2) @ torch.randn(2, width)

    def train(factor: float) -> tuple[list[float], float]:
        a = (torch.randn(rank, width) / width**0.5).requires_grad_()
        b = torch.zeros(width, rank, requires_grad=True)
        optimizer, losses = torch.optim.Adam([a, b], lr=0.01), []
        for _ in range(60):
            loss = ((x @ a.T) @ b.T * factor - wanted).square().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            added, plain = (x @ a.T) @ b.T * factor, (x @ a.T) @ b.T
            return losses, ((added * plain).sum() / plain.square().sum()).item()

    (wrong, measured), (right, expected) = train(alpha), train(alpha / rank)
    return {
        "measured": measured,
        "alpha_over_rank": expected,
        "loss_with_the_wrong_factor": wrong[-1],
        "loss_with_the_right_one": right[-1],
        "both_curves_fall": wrong[-1] < wrong[0] and right[-1] < right[0],
        "measuring_tells": abs(measured - alpha) < 1e-3 and abs(expected - alpha / rank) < 1e-3,
    }


def l11_merges(width: int = 24) -> Result:
    """Four merges that go wrong: transposed, in eval(), taken out by what A and B are now, and into a tied matrix.

    A check is red where it finds the bug. With B = 0 the transposed merge passes it, with another B it does not.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    w, a = torch.randn(width, width), torch.randn(4, width)
    x = torch.randn(8, width)

    def red(b: torch.Tensor, merged: torch.Tensor) -> bool:
        return not torch.allclose(x @ merged.T, x @ w.T + (x @ a.T) @ b.T, atol=1e-3)

    zero, trained = torch.zeros(width, 4), torch.randn(width, 4)
    on_the_bug = {name: red(b, w + a.T @ b.T) for name, b in (("zero", zero), ("trained", trained))}
    on_the_mend = {name: red(b, w + b @ a) for name, b in (("zero", zero), ("trained", trained))}

    class MergesInEval(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(w.clone())

        def train(self, mode: bool = True):
            if not mode:
                self.weight.data += trained @ a
            return super().train(mode)

    layer = MergesInEval()
    before = layer.weight.detach().clone()
    tomorrow = torch.randn(width, 4)
    by_subtraction, kept = (w + trained @ a) - tomorrow @ a, w
    tied = nn.Embedding(width, width)
    head = nn.Linear(width, width, bias=False)
    head.weight = tied.weight
    embedded = tied.weight.detach().clone()
    head.weight.data += trained @ a
    return {
        "off_by_subtraction": (by_subtraction - w).norm().item() / w.norm().item(),
        "zero_b_lets_it_pass": not on_the_bug["zero"] and not on_the_mend["zero"],
        "red_on_the_bug_with_a_trained_b": on_the_bug["trained"],
        "green_on_the_mend": not on_the_mend["trained"],
        "eval_changed_a_tensor": not torch.equal(layer.eval().weight, before),
        "unmerged_by_what_a_and_b_are_now": not torch.allclose(by_subtraction, w, atol=0.1),
        "what_was_kept_comes_back": torch.equal(kept, w),
        "a_tie_changes_both": not torch.equal(tied.weight, embedded),
    }


def l11_silent_load(rank: int = 4) -> Result:
    """A saved adapter read with strict=False: keys without the adapter's name fit nothing, no error, every B zero."""
    import tempfile

    import torch
    from safetensors.torch import load_file
    from torch import nn

    net = _net()
    trained = _adapted(net, r=rank)
    for name, p in _matrices(trained).items():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    x = torch.randn(4, 16)
    quiet, raised = _adapted(net, r=rank), True
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        trained.save_pretrained(folder)
        weights = load_file(f"{folder}/adapter_model.safetensors")
        with contextlib.suppress(RuntimeError):
            unused = quiet.load_state_dict(weights, strict=False).unexpected_keys
            raised = False
        import peft

        again = peft.PeftModel.from_pretrained(_net(), folder)
        reloaded = torch.allclose(again(x), trained(x), atol=1e-6)
        silent = torch.equal(quiet(x), net(x))
    return {
        "in_the_file": len(weights),
        "not_used": len(unused),
        "no_error": not raised,
        "nothing_arrived": len(unused) == len(weights) and silent,
        "b_shows_it": not any(bool(p.any()) for name, p in _matrices(quiet).items() if "lora_B" in name),
        "reloading_tells": reloaded and not silent if len(unused) == 0 else reloaded,
    }
