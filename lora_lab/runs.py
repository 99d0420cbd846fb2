"""What one short run of a sweep is, in plain data: torch is needed to make it, not to say it."""

from __future__ import annotations

from dataclasses import dataclass

from lora_lab.config import LoraConfig

# LoRA and its variants, then what is trained without an adapter
ADAPTERS = ("lora", "frozen A", "lora+", "dora", "pissa", "vera", "qlora")
METHODS = (*ADAPTERS, "full", "last block", "norms")


@dataclass(frozen=True)
class Recipe:
    """What all runs on one task share: steps of AdamW on batches of `batch_size` rows of at most `length` tokens."""

    steps: int
    batch_size: int
    length: int


RECIPES = {"pirate": Recipe(50, 8, 80), "code": Recipe(60, 8, 128), "query": Recipe(160, 8, 128)}
QUICK = {"pirate": Recipe(32, 8, 64)}  # for the explorer's grid of hundreds of runs


@dataclass(frozen=True)
class Run:
    """What one run is. targets: "all-linear", or names with commas between; "q_proj:10" gives a name a rank of its own.

    method: "lora"; "frozen A" (LoRA-FA: B alone is trained); "lora+" (lr is A's, 16 times as much B's); "dora";
    "pissa"; "vera"; "qlora" (LoRA on a base in NF4); "full" (the matrices that `targets` names); "last block" (the
    matrices of the last block); "norms" (the weights of the norms). rank and alpha are 0 where there is no LoRA.
    """

    label: str
    task: str
    method: str
    targets: str
    rank: int
    alpha: float
    lr: float
    seed: int
    rslora: bool = False

    def config(self) -> LoraConfig:
        """The adapter's settings."""
        names = [part.split(":") for part in self.targets.split(",")]
        return LoraConfig(
            rank=self.rank,
            alpha=self.alpha,
            target_modules="all-linear" if self.targets == "all-linear" else [name[0] for name in names],
            rank_pattern={name[0]: int(name[1]) for name in names if len(name) == 2},
            use_rslora=self.rslora,
            use_dora=self.method == "dora",
            init_lora_weights="pissa" if self.method == "pissa" else True,
        )
