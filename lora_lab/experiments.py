"""The sweeps behind the lessons: each is run by one command and recorded with what is needed to run it again.

`python -m lora_lab sweep NAME` runs one; a lesson reads it with `recorded(NAME)`. Reading needs only the standard
library: torch is imported when a sweep runs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent / "assets" / "results"
HEADER = ("sweep", "about", "command", "seed", "seconds", "machine", "versions", "base_model_sha256", "settings")


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


SWEEPS: dict[str, Callable[[int], dict]] = {"dial": dial}


def run(name: str, seed: int = 0) -> dict:
    """Run one sweep and put beside its result the machine, versions, command, time and the base model's hash."""
    from lora_lab.models import BASE

    start = time.perf_counter()
    result = SWEEPS[name](seed)
    result |= {
        "sweep": name,
        "command": f"python -m lora_lab sweep {name} --seed {seed}",
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lora-lab")},
        "base_model_sha256": hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest(),
    }
    check(result)
    return result


def check(result: dict) -> None:
    """Raises ValueError unless `result` has every field of the header and rows alike, with finite numbers."""
    missing = [field for field in (*HEADER, "rows") if field not in result]
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}")
    if not result["rows"]:
        raise ValueError("the result has no rows")
    for row in result["rows"]:
        if row.keys() != result["rows"][0].keys():
            raise ValueError(f"rows differ in their fields: {sorted(row)} and {sorted(result['rows'][0])}")
        for field, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field} is {value}: a recorded number must be finite")


def write(result: dict, path: Path) -> None:
    """Check `result` and write it as JSON: the whole file or, whatever happens, none of it."""
    check(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def recorded(name: str, folder: Path | None = None) -> dict:
    """The recorded result of sweep `name`. Raises FileNotFoundError that says how to make it, ValueError if broken."""
    folder = folder or FOLDER
    path = folder / f"{name}.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        have = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"no recorded result {name!r} (there are: {have}); make it with: python -m lora_lab sweep {name}"
        ) from None
    check(result)
    return result


def column(rows: list[dict], field: str) -> list:
    """One field of every row, in order."""
    return [row[field] for row in rows]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, its seed, and where to write."""
    parser.add_argument("name", choices=sorted(SWEEPS), help="the sweep to run")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and sampling (default: 0)")
    parser.add_argument("--output", type=Path, help="file to write (default: the package's recorded result)")


def main(args: argparse.Namespace) -> int:
    """Run the sweep, write it, print one line; returns 0."""
    result = run(args.name, args.seed)
    write(result, args.output or FOLDER / f"{args.name}.json")
    print(f"{args.name}: {len(result['rows'])} rows in {result['seconds']:g} s")
    return 0
