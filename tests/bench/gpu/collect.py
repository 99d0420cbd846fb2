"""The rows of one or several runs as one record, with every bar judged: what `lora_lab.recorded` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_lab import experiments, recorded

from . import journal


def main(folders: Sequence[Path], output: Path | None = None) -> int:
    """Print the bars and write the record; what is tiny or of a CPU goes nowhere but where `output` says. Returns 0."""
    result = collect(folders)
    if output is None and (result["tiny"] or not result["memory"]):
        print("not written: this is no GPU's result (--record FILE writes it elsewhere)")
    else:
        experiments.write(result, output or recorded.FILE)
        print(f"{len(result['rows'])} rows of {result['card']} in {output or recorded.FILE.name}")
    for bar in result["bars"]:
        met = {True: "met", False: "NOT met", None: "not measured"}[bar["met"]]
        print(f"{met:>12}  {bar['says']}: {bar['measured']} (bar {bar['target']})")
    return 0


def collect(folders: Sequence[Path]) -> dict:
    """The record: a header as all recorded results have, and the newest row of each id.

    Raises ValueError where the folders hold no row, or rows of more than one card.
    """
    lines = [line for folder in folders for line in journal.read(folder)]
    lines.sort(key=lambda line: line.get("at") or "")
    rows = journal.newest(lines)
    runs = [line for line in lines if line["kind"] == "run"]
    if not rows or not runs:
        raise ValueError(f"no rows in {', '.join(map(str, folders))}: a run writes them to {journal.FILE}")
    if len(cards := sorted({run["card"] for run in runs})) > 1:
        raise ValueError(f"rows of several cards, {', '.join(cards)}: collect those of one at a time")
    lost = journal.lost(lines)
    for name in sorted(set(lost) - set(rows)):
        reason = f"took the process with it, {lost[name]} times"
        blank = dict.fromkeys(recorded.FIELDS) | {"id": name, "part": name.split("/")[0], "status": "failed"}
        rows[name] = blank | {"reason": reason, "card": cards[0]}
    last = runs[-1]
    kept = [{field: row.get(field) for field in recorded.FIELDS} for row in rows.values()]
    spent = sum((row["more"] or {}).get("spent", 0) for row in kept)
    return (
        experiments.provenance("gpu", 0, spent)
        | {field: last[field] for field in ("card", "cards", "memory", "machine", "versions")}
        | {
            "about": "LoRA steps here and in peft, memory, and the card's own limits, on models of random weights",
            "command": last["command"],
            "date": last["at"][:10],
            "settings": last["sizes"],
            "tiny": any(run["tiny"] for run in runs),
            "bars": list(recorded.bars(kept)),
            "rows": kept,
        }
    )
