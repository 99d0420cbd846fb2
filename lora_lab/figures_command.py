"""`python -m lora_lab figures`: every picture in `figures/`, drawn by code."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from lora_lab import explorers, figures, figures_conformance, figures_serving
from lora_lab.experiments import column, recorded

FOLDER = Path(__file__).resolve().parent.parent / "figures"


def draw_all() -> dict[str, Figure]:
    """Every picture in `figures/`, by file name."""
    rows = recorded("dial")["rows"]
    return {
        "lora_diagram.png": figures.lora_diagram(4096, 4096, rank=8, alpha=16),
        "book.png": figures.book(4096, rank=8),
        "dial.png": figures.dial(*(column(rows, f) for f in ("scale", "pirate_loss", "story_loss", "marker_words"))),
        "explorer.png": explorers.results().figure,
        "conformance.png": figures_conformance.conformance(recorded("conformance")),
        "bench.png": figures_serving.bench(recorded("bench")["rows"]),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """The figures command takes one option, the folder."""
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to draw into (default: figures/)")


def main(args: argparse.Namespace) -> int:
    """Redraw every picture; returns 0."""
    args.output.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_all().items():
        (args.output / name).write_bytes(figures.png(figure))
        print(name)
    return 0
