"""The SVD explorer: it shows the truncation that `lowrank` computes, in numbers and in pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lora_lab import experiments, explore_svd, explorer, explorers, figures, lowrank
from lora_lab.explore_svd import Spectrum


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((12, 20)) @ np.diag(0.8 ** np.arange(20))


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_picture_is_the_truncated_matrix(matrix, rank):
    made = explorers.svd(matrix, rank=rank)
    whole, cut = made.figure.axes[0].images
    for picture, shown in ((whole, matrix), (cut, lowrank.truncate(matrix, rank))):
        colours = explore_svd.paint(shown, np.quantile(np.abs(matrix), 0.998))
        assert np.abs(picture.get_array().astype(int) - colours).max() <= 3  # rounding may cross into the next colour
    assert not np.array_equal(whole.get_array(), cut.get_array()) or rank == 12


def test_colours_say_sign_and_size():
    orange, white, violet, dark = explore_svd.paint(np.array([[-2.0, 0.0, 1.0, 2.0]]), 2)[0, :, :3].astype(int)
    assert orange[0] > orange[2] and violet[2] > violet[1] and white.min() > 240 and dark.sum() < violet.sum()


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_energy_error_and_size_are_those_of_lowrank(matrix, rank):
    made = explorers.svd(matrix)
    made.controls["rank"].value = rank
    energy = lowrank.energy(matrix)[rank - 1]
    assert f"Rank {rank} keeps {energy:.1%} of the energy" in made.text
    assert f"by {lowrank.eckart_young(matrix, rank, relative=True):.1%} of its size" in made.text
    assert f"takes {rank * 32} numbers, the matrix 240." in made.text
    assert f"{rank} (chosen)" in made.detail.value and f"{energy:.2%}" in made.detail.value


def test_kept_and_cut_singular_values_are_marked_apart(matrix):
    made = explorers.svd(matrix, rank=3)
    kept, gone = made.figure.axes[1].lines
    values = np.linalg.svd(matrix, compute_uv=False)
    assert np.allclose(kept.get_ydata(), values[:3] / values[0]) and list(kept.get_xdata()) == [1, 2, 3]
    assert np.allclose(gone.get_ydata(), values[3:] / values[0])
    assert kept.get_marker() != gone.get_marker() and kept.get_color() != gone.get_color()


def test_the_live_picture_is_the_static_picture_to_the_pixel(matrix):
    made = explorers.svd(matrix)
    made.controls["rank"].value = 7
    live = np.asarray(Image.open(io.BytesIO(made.image.value)).convert("RGB"))
    assert np.array_equal(
        live, np.asarray(Image.open(io.BytesIO(figures.png(made.figure, explorer.DPI))).convert("RGB"))
    )


def test_the_slider_ends_at_the_largest_rank_there_is(matrix):
    made = explorers.svd(matrix)
    made.controls["rank"].value = 500
    assert made.controls["rank"].value == 12 and "misses the matrix by 0.0%" in made.text
    with pytest.raises(ValueError, match="rank is 13, but must be 1 to 12"):
        explorers.svd(matrix, rank=13)


def test_of_several_matrices_one_is_chosen(matrix):
    made = explorers.svd({"falling": matrix, "one direction": np.ones((12, 20))}, rank=1)
    picture = made.image.value
    made.controls["matrix"].value = "one direction"
    assert made.image.value != picture and made.text.startswith("Rank 1 keeps 100.0%")


def test_what_is_no_matrix_or_of_another_shape_is_refused(matrix):
    with pytest.raises(ValueError, match="one shape"):
        explorers.svd({"a": matrix, "b": matrix.T})
    with pytest.raises(ValueError):
        explorers.svd(np.zeros((3, 3)))
    with pytest.raises(ValueError):
        explorers.svd([1, 2, 3])


def test_the_drawing_is_of_the_size_asked_for_and_its_word_returns_with_the_rank():
    drawn = explore_svd.drawing(64, 96)
    assert drawn.shape == (64, 96) and 0 <= drawn.min() and drawn.max() <= 1
    kept = Spectrum(drawn).kept
    assert kept[1] < 0.95 < kept[20]


def test_the_update_is_read_as_recorded(monkeypatch):
    update = np.arange(20, dtype="<f2").reshape(4, 5)
    record = {"update": {"shape": [4, 5], "float16": base64.b64encode(update.tobytes()).decode()}}
    monkeypatch.setattr(experiments, "recorded", lambda name: {"spectrum": record}[name])
    assert np.array_equal(explore_svd.trained_update(), update)
    assert explorers.svd(rank=1).controls["matrix"].options == ("a drawing", "the update of full fine-tuning")
