"""Singular values with a slider: what is left of a matrix when only its r largest parts are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lora_lab import experiments, explorer, figures, lowrank

LOWEST = 1e-3  # of the largest singular value: what lies below is not drawn
TABLE_RANKS = (1, 4, 16, 64)


class Spectrum:
    """A matrix [out, in], decomposed once, so that a move costs one small product.

    `values` are its singular values; kept[r] is the share of their squares that rank r keeps, r from 0.
    """

    def __init__(self, matrix: ArrayLike) -> None:
        self.matrix = np.asarray(matrix, dtype=float)
        self.kept = np.concatenate([[0.0], lowrank.energy(self.matrix)])  # refuses what is no matrix, or all zeros
        self.limit = np.quantile(np.abs(self.matrix), 0.998)  # of the colours: the few above take the last one
        self.left, self.values, self.right = np.linalg.svd(self.matrix, full_matrices=False)

    def cut(self, rank: int) -> NDArray:
        """The nearest matrix of rank `rank`; `lowrank.truncate` is the same, decomposed anew."""
        return (self.left[:, :rank] * self.values[:rank]) @ self.right[:rank]


def drawing(height: int = 128, width: int = 256) -> NDArray:
    """A test picture [height, width], 0 to 1: a word, and rings behind it. Simple to see, and of full rank."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figures.FigureCanvasAgg(figure)
    size = 55 * min(height / 128, width / 256)
    figure.text(0.5, 0.48, "LoRA", ha="center", va="center", fontsize=size, fontweight="bold", family="DejaVu Sans")
    figure.canvas.draw()
    word = 1 - np.asarray(figure.canvas.buffer_rgba())[:, :, 0] / 255
    y, x = np.mgrid[: word.shape[0], : word.shape[1]]
    rings = 0.15 + 0.15 * np.cos(np.hypot(y - height / 2, x - width / 2) / 4)
    return np.maximum(word, rings)


def trained_update() -> NDArray:
    """The update of one matrix that full fine-tuning made [out, in], as the sweep "spectrum" recorded it."""
    return experiments.matrix(experiments.recorded("spectrum")["update"])


def paint(matrix: NDArray, limit: float) -> NDArray:
    """Colours [out, in, 4] of numbers from -limit, orange, over 0, white, to limit, violet."""
    return matplotlib.colormaps["PuOr"]((matrix / limit + 1) / 2, bytes=True)  # drawn in a third of the time of numbers


@figures.in_style
def svd_figure(shape: tuple[int, int]) -> tuple[Figure, Callable[[Spectrum, int], None]]:
    """An empty picture for matrices of `shape`, and `draw(spectrum, rank)`, which fills it.

    Left: the matrix above what is kept of it, in one scale of colours. Right: its singular values over the largest.
    """
    figure, (left, right) = figures.new_figure(7.8, 3.6, widths=(1, 1.05))
    height, width = shape
    gap = 0.18 * height
    left.set_axis_off()
    look = {"animated": True, "interpolation": "nearest", "in_layout": False}
    pictures = []
    for top in (gap, height + 2 * gap):
        pictures.append(left.imshow(paint(np.zeros(shape), 1), extent=(0, width, top + height, top), **look))
    left.set(xlim=(0, width), ylim=(2 * (height + gap), 0), aspect="equal")
    left.text(0, 0.8 * gap, f"the matrix [{height}, {width}]", in_layout=False)
    title = left.text(0, height + 1.8 * gap, "", animated=True, in_layout=False)
    count = min(shape)
    right.set(yscale="log", xlim=(0, count + 1), ylim=(LOWEST / 1.3, 1.5))
    right.set(xlabel="number of the singular value, largest first", ylabel="singular value (largest = 1)")
    look = {"ls": "", "animated": True, "clip_on": False, "zorder": 3, "in_layout": False}
    (kept,) = right.plot([], [], "o", ms=5, color=figures.BLUE, label="kept", **look)
    (gone,) = right.plot([], [], "x", ms=4, color=figures.GREY, label="cut away", **look)
    right.legend(handles=[kept, gone], loc="upper right")

    def draw(spectrum: Spectrum, rank: int) -> None:
        for picture, matrix in zip(pictures, (spectrum.matrix, spectrum.cut(rank)), strict=True):
            picture.set_data(paint(matrix, spectrum.limit))
        title.set_text(f"its {rank} largest part{'s' if rank > 1 else ''}: rank {rank}")
        numbers, values = np.arange(1, count + 1), spectrum.values / spectrum.values[0]
        values[values < LOWEST] = np.nan
        kept.set_data(numbers[:rank], values[:rank])
        gone.set_data(numbers[rank:], values[rank:])

    return figure, draw


def svd(
    matrix: ArrayLike | Mapping[str, ArrayLike] | None = None, rank: int = 4, lock: Mapping[str, Any] | None = None
) -> explorer.Explorer:
    """Choose how many singular values to keep, and see what is left of a matrix [out, in].

    `matrix` may be name -> matrix, several of one shape to choose from; without it they are a drawing and a trained
    model's recorded update. Raises ValueError for shapes that differ, a matrix of zeros, and a rank it cannot have.
    """
    if matrix is None:
        update = trained_update()
        matrix = {"a drawing": drawing(*update.shape), "the update of full fine-tuning": update}
    named = matrix if isinstance(matrix, Mapping) else {"yours": matrix}
    spectra = {name: Spectrum(matrix) for name, matrix in named.items()}
    shapes = {spectrum.matrix.shape for spectrum in spectra.values()}
    if len(shapes) != 1:
        raise ValueError(f"one slider needs matrices of one shape, got {sorted(shapes)}")
    ((height, width),) = shapes
    figure, draw = svd_figure((height, width))
    controls = {"rank": explorer.slider("rank", "singular values", 1, min(height, width), rank)}
    if len(spectra) > 1:
        controls["matrix"] = explorer.menu("matrix", list(spectra), next(iter(spectra)))

    def move(rank: int, matrix: str = next(iter(spectra))) -> tuple[str, str]:
        spectrum = spectra[matrix]
        draw(spectrum, rank)
        finding = (
            f"Rank {rank} keeps {spectrum.kept[rank]:.1%} of the energy (squared singular values) and misses the "
            f"matrix by {_error(spectrum, rank):.1%} of its size; it takes {rank * (height + width):,} numbers, the "
            f"matrix {height * width:,}."
        )
        ranks = [rank, *(r for r in TABLE_RANKS if r <= min(height, width))]
        rows = [
            {"rank": f"{r} (chosen)" if place == 0 else r, "numbers": f"{r * (height + width):,}"}
            | {"energy kept": f"{spectrum.kept[r]:.2%}", "error (Frobenius)": f"{_error(spectrum, r):.2%}"}
            | {"singular value": f"{spectrum.values[r - 1]:.3g}"}
            for place, r in enumerate(ranks)
        ]
        return finding, figures.table(rows)

    summary = "A matrix, what is left of it when only its largest singular values are kept, and the singular values."
    return explorer.Explorer(figure, controls, move, summary, lock, detail_height=165)


def _error(spectrum: Spectrum, rank: int) -> float:
    return float(np.linalg.norm(spectrum.values[rank:]) / np.linalg.norm(spectrum.values))
