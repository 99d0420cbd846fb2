"""The LoRA diagram with sliders: shapes, counts and scaling follow rank, alpha and the size of W."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_lab import counting, explorer, figures

SIZES = (64, 256, 512, 768, 1024, 2048, 4096, 5120, 8192, 11008, 14336)


def diagram(
    rank: int = 8,
    alpha: int = 16,
    out_features: int = 4096,
    in_features: int = 4096,
    lock: Mapping[str, Any] | None = None,
) -> explorer.Explorer:
    """Move rank, alpha and the size of W, and read every shape and count beside the flow of the numbers."""
    figure = figures.lora_diagram(out_features, in_features, rank, alpha)
    figure.set_dpi(explorer.DPI)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # as it stands in print: what moves counts for no layout
    parts = {artist.get_gid(): artist for artist in figure.findobj() if artist.get_gid()}
    for part in parts.values():
        part.set_animated(True)
    controls = {
        "rank": explorer.slider("rank", "directions", 1, 256, rank),
        "alpha": explorer.slider("alpha", "no unit", 1, 512, alpha),
        "out_features": explorer.stops("rows of W", "outputs", SIZES, out_features),
        "in_features": explorer.stops("columns of W", "inputs", SIZES, in_features),
    }

    def move(rank: int, alpha: float, out_features: int, in_features: int) -> tuple[str, str]:
        for name, text in figures.lora_texts(out_features, in_features, rank, alpha).items():
            parts[name].set_text(text)
        for name, corners in figures.lora_boxes(rank).items():
            parts[f"box {name}"].set_xy(corners)
        frozen, trained = out_features * in_features, counting.lora_parameters(out_features, in_features, rank)
        finding = (
            f"A and B hold {trained:,} numbers, {trained / frozen:.3g} times W's {frozen:,}; what they add is "
            f"multiplied by {alpha:g}/{rank} = {alpha / rank:.4g}."
        )
        if rank > min(out_features, in_features):
            finding += f" No matrix of this size has a rank above {min(out_features, in_features)}: the rest is wasted."
        elif rank > (even := counting.break_even_rank(out_features, in_features)):
            finding += f" Above rank {even} the adapter is larger than W itself."
        shapes = {"W": (out_features, in_features), "A": (rank, in_features), "B": (out_features, rank)}
        rows = [
            {"matrix": name, "shape [out, in]": list(shape), "numbers": f"{shape[0] * shape[1]:,}"}
            | {"in training": "frozen" if name == "W" else "trained"}
            for name, shape in shapes.items()
        ]
        return finding, figures.table(rows)

    summary = "x goes through the frozen W and, beside it, down through A to the rank and up through B; both are added."
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=120)
