"""lowrank: numpy and random opponents as oracles, properties of every quantity, and errors that name the value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_lab import lowrank
from lora_lab.lowrank import data_floor, data_truncate, eckart_young, energy, overlap, truncate

SEEDS = st.integers(0, 10**6)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(seed: int, size: int) -> np.ndarray:
    return np.linalg.qr(random(seed, size, size))[0]


def moment(seed: int, size: int, examples: int = 40) -> np.ndarray:
    x = random(seed, examples, size) * np.geomspace(1, 0.05, size) @ orthogonal(seed + 1, size)
    return x.T @ x / examples


# --- truncation and its error -----------------------------------------------------------------------------------------


@given(SEEDS, SIZES, st.data())
def test_truncation_has_the_rank_and_the_error_that_eckart_and_young_say(seed, shape, data):
    matrix = random(seed, *shape)
    rank = data.draw(st.integers(1, min(shape)))
    near = truncate(matrix, rank)
    assert np.linalg.matrix_rank(near) == rank
    for norm, order in (("frobenius", "fro"), ("spectral", 2)):
        error, whole = np.linalg.norm(matrix - near, order), np.linalg.norm(matrix, order)
        assert eckart_young(matrix, rank, norm) == pytest.approx(error, abs=1e-9)
        assert eckart_young(matrix, rank, norm, relative=True) == pytest.approx(error / whole, abs=1e-9)
    assert 1 - energy(matrix)[rank - 1] == pytest.approx(eckart_young(matrix, rank, relative=True) ** 2, abs=1e-9)


@given(SEEDS, SIZES, st.data())
def test_no_matrix_of_that_rank_comes_closer(seed, shape, data):
    """Opponents: random columns with the best rows for them, and small moves away from the truncation itself."""
    matrix, out = random(seed, *shape), shape[0]
    rank = data.draw(st.integers(1, min(shape)))
    columns = random(seed + 1, out, rank)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    nudged = u[:, :rank] * s[:rank] + 0.01 * random(seed + 2, out, rank)
    for left in (columns, nudged):
        opponent = left @ np.linalg.lstsq(left, matrix, rcond=None)[0]
        assert np.linalg.norm(matrix - opponent) >= eckart_young(matrix, rank) - 1e-9
        assert np.linalg.norm(matrix - opponent, 2) >= eckart_young(matrix, rank, "spectral") - 1e-9


@given(SEEDS, SIZES)
def test_more_rank_never_loses_and_full_rank_is_exact(seed, shape):
    matrix = random(seed, *shape)
    errors = [eckart_young(matrix, rank) for rank in range(1, min(shape) + 1)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0
    assert np.allclose(truncate(matrix, min(shape)), matrix)
    kept = energy(matrix)
    assert (np.diff(kept) >= 0).all() and kept[-1] == 1 and len(kept) == min(shape)


@given(SEEDS, SIZES, st.floats(1e-3, 1e3))
def test_turning_and_scaling_change_nothing_relative(seed, shape, scale):
    matrix = random(seed, *shape)
    turned = scale * orthogonal(seed + 1, shape[0]) @ matrix @ orthogonal(seed + 2, shape[1])
    assert np.allclose(energy(turned), energy(matrix))
    assert lowrank.effective_rank(turned) == pytest.approx(lowrank.effective_rank(matrix))
    assert eckart_young(turned, 1, relative=True) == pytest.approx(eckart_young(matrix, 1, relative=True), abs=1e-9)
    assert np.allclose(energy(matrix.T), energy(matrix))


@given(SEEDS, SIZES, st.floats(0.01, 1))
def test_rank_for_energy_is_the_smallest_that_keeps_the_share(seed, shape, share):
    matrix = random(seed, *shape)
    rank, kept = lowrank.rank_for_energy(matrix, share), energy(matrix)
    assert kept[rank - 1] >= share - 1e-9
    assert rank == 1 or kept[rank - 2] < share


def test_known_spectra():
    values = np.diag([4.0, 3.0, 2.0, 1.0])
    assert energy(values) == pytest.approx(np.array([16, 25, 29, 30]) / 30)
    assert eckart_young(values, 2) == pytest.approx(5**0.5) and eckart_young(values, 2, "spectral") == pytest.approx(2)
    assert [lowrank.rank_for_energy(np.eye(10), share) for share in (0.1, 0.3, 0.9, 0.91, 1)] == [1, 3, 9, 10, 10]
    for seed in range(20):  # ten values alike but for rounding, which must not cost a rank
        assert lowrank.rank_for_energy(orthogonal(seed, 10), 0.3) == 3
    assert lowrank.effective_rank(np.eye(7)) == pytest.approx(7)
    assert lowrank.effective_rank(np.outer([1, 2], [3, 4, 5])) == pytest.approx(1)
    # by hand: p = 3/4, 1/4
    assert lowrank.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    assert energy(1e-200 * values) == pytest.approx(energy(values)) == energy(1e200 * values)


def test_what_numpy_can_read_is_enough_and_is_left_alone():
    given_as = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = given_as.copy()
    assert truncate(given_as, 1).dtype == np.float64
    assert np.array_equal(given_as, before)
    assert np.allclose(truncate(given_as.tolist(), np.int64(2)), given_as)


# --- two updates, and an update against W -----------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["left", "right"]))
def test_phi_is_between_0_and_1_symmetric_and_blind_to_turns_inside(seed, i, j, side):
    first, second = random(seed, 7, 4) @ random(seed + 1, 4, 9), random(seed + 2, 7, 4) @ random(seed + 3, 4, 9)
    phi = overlap(first, second, i, j, side)
    assert 0 <= phi <= 1
    assert phi == pytest.approx(overlap(second, first, j, i, side))
    assert overlap(first, first, i, j, side) == pytest.approx(1)  # one of the two holds the other
    other = "left" if side == "right" else "right"
    assert phi == pytest.approx(overlap(first.T, second.T, i, j, other))
    # turning the outputs alone leaves what is read, and the other way round
    turn = orthogonal(seed + 4, 7) @ first if side == "right" else first @ orthogonal(seed + 4, 9)
    assert phi == pytest.approx(overlap(turn, second, i, j, side))


def test_phi_by_hand_and_at_its_ends():
    e = np.eye(6)
    assert overlap(e[:2], e[2:4], 2, 2) == pytest.approx(0)
    assert overlap(e[:2], e[:4], 2, 4) == pytest.approx(1)
    assert overlap(e[:2], e[1:3], 2, 2) == pytest.approx(1 / 2)
    tilted = np.array([[np.cos(0.3), np.sin(0.3), 0, 0, 0, 0]])
    assert overlap(e[:1], tilted, 1, 1) == pytest.approx(np.cos(0.3) ** 2)
    many = [overlap(random(s, 5, 50), random(s + 99, 5, 50), 5, 5) for s in range(50)]
    assert np.mean(many) == pytest.approx(5 / 50, abs=0.02)  # random subspaces: j / in, for i <= j
    strengths = np.diag([3.0, 2, 1]) @ e[:3]  # leading means largest, not first listed
    assert overlap(strengths[::-1], e[:1], 1, 1) == pytest.approx(1)


def test_phi_of_a_product_is_phi_of_what_reads_and_of_what_writes():
    a, b, other = random(0, 3, 20), random(1, 12, 3), random(2, 3, 20)
    assert overlap(b @ a, a, 3, 3) == pytest.approx(1)
    assert overlap(b @ a, b, 3, 3, side="left") == pytest.approx(1)
    assert overlap(b @ a, other, 3, 3) == pytest.approx(overlap(a, other, 3, 3))


@given(SEEDS, st.integers(1, 4))
def test_projection_is_numpys_and_largest_on_its_own_directions(seed, rank):
    w, update = random(seed, 6, 8), random(seed + 1, 6, 4) @ random(seed + 2, 4, 8)
    u, _, vt = np.linalg.svd(update)
    got = lowrank.projection(w, update, rank)
    assert got == pytest.approx(np.linalg.norm(u[:, :rank].T @ w @ vt[:rank].T))
    most = lowrank.projection(w, w, rank)
    assert most == pytest.approx(np.linalg.norm(np.linalg.svd(w, compute_uv=False)[:rank]))
    assert got <= most + 1e-9
    assert lowrank.amplification(w, update, rank) == pytest.approx(np.linalg.norm(update) / got)


def test_amplification_by_hand():
    w = np.diag([5.0, 4.0, 0.1, 0.0])
    assert lowrank.amplification(w, np.diag([0, 0, 2.0, 0]), 1) == pytest.approx(20)
    assert lowrank.amplification(w, w, 3) == pytest.approx(1)
    assert lowrank.amplification(w, np.diag([0, 0, 0, 1.0]), 1) == float("inf")


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_intruder_is_a_strong_new_direction(side):
    u, v = orthogonal(0, 12), orthogonal(1, 12)
    w = (u[:, :10] * np.arange(20, 10, -1)) @ v[:10]  # W writes to ten of twelve directions, and reads from ten
    new, old = np.outer(u[:, 11], v[11]), np.outer(u[:, 2], v[2])
    assert lowrank.intruders(w, 0 * w, side=side) == []
    assert lowrank.intruders(w, 50 * old, side=side) == []  # stronger, but an old direction
    mixed = (u @ np.ones(12) / 12**0.5)[:, None] @ (v.T @ np.ones(12) / 12**0.5)[None]
    assert lowrank.intruders(w, 1000 * mixed, top=1, side=side) == [1]  # a bit of each: cosine 1 / sqrt(12)
    assert lowrank.intruders(w, 1000 * mixed, top=1, threshold=0.2, side=side) == []
    assert lowrank.intruders(w, 50 * new, side=side) == [1]
    assert lowrank.intruders(w, 15.5 * new, side=side) == [6]  # between 16 and 15
    assert lowrank.intruders(w, 0.5 * new, top=10, side=side) == []  # the eleventh


# --- low rank where the data is ---------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 5))
def test_the_data_floor_is_reached_and_never_passed(seed, rank):
    update, c = random(seed, 5, 7), moment(seed, 7)

    def left(m):
        return np.trace((update - m) @ c @ (update - m).T)

    best, floor = data_truncate(update, c, rank), data_floor(update, c, rank)
    assert np.linalg.matrix_rank(best, tol=1e-8) == rank
    assert left(best) == pytest.approx(floor, abs=1e-9 * left(0))
    assert floor <= left(truncate(update, rank)) + 1e-12
    for opponent in (best + 0.01 * random(seed + 1, 5, 7), update):  # the best rows for other columns, of that rank
        columns = np.linalg.svd(opponent)[0][:, :rank] + 0.05 * random(seed + 2, 5, rank)
        rows = np.linalg.lstsq(columns, update, rcond=None)[0]
        assert left(columns @ rows) >= floor - 1e-12
    assert data_floor(update, c, rank, relative=True) == pytest.approx(floor / left(0), abs=1e-12)


@given(SEEDS, st.integers(1, 5), st.floats(0.1, 10))
def test_with_white_inputs_it_is_plain_eckart_young(seed, rank, variance):
    update = random(seed, 5, 7)
    white = variance * np.eye(7)
    assert data_floor(update, white, rank) == pytest.approx(variance * eckart_young(update, rank) ** 2, abs=1e-9)
    assert np.allclose(data_truncate(update, white, rank), truncate(update, rank))


def test_least_squares_finds_the_same_floor_and_rank_deficient_data_need_no_more_than_their_own_rank():
    x = random(0, 200, 3) @ random(1, 3, 8)  # eight inputs, three patterns
    update, c = random(2, 6, 8), x.T @ x / 200
    assert data_floor(update, c, 3, relative=True) < 1e-20 < data_floor(update, c, 2, relative=True)
    assert np.allclose(x @ data_truncate(update, c, 3).T, x @ update.T)
    # reduced-rank regression by least squares: fit, then cut the fitted outputs
    x = random(3, 200, 8) * np.geomspace(1, 0.1, 8)
    y = x @ update.T
    outputs = np.linalg.svd(y, compute_uv=False)
    assert data_floor(update, x.T @ x / 200, 2) == pytest.approx((outputs[2:] ** 2).sum() / 200)


def test_a_flat_full_rank_change_is_low_rank_where_the_data_is():
    change, variance = orthogonal(0, 64), 1 / np.arange(1, 65)
    assert data_floor(change, np.eye(64), 8, relative=True) == pytest.approx(1 - 8 / 64)
    expected = 1 - variance[:8].sum() / variance.sum()
    assert data_floor(change, np.diag(variance), 8, relative=True) == pytest.approx(expected)


# --- errors -----------------------------------------------------------------------------------------------------------

ROUNDED = (random(0, 9, 2) @ random(1, 2, 9)).astype(np.float32)
M, NAN = np.ones((3, 4)) + np.eye(3, 4), np.array([[1.0, np.nan], [0, 1]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: truncate(M, 0), "rank must be from 1 to 3 here, got 0"),
        (lambda: truncate(M, 4), "rank must be from 1 to 3 here, got 4"),
        (lambda: truncate(M, True), "got True"),
        (lambda: truncate(M, 2.0), "rank must be a whole number, got 2.0"),
        (lambda: eckart_young(M, 5), "rank must be from 1 to 3"),
        (lambda: eckart_young(M, 1, "nuclear"), "'frobenius' or 'spectral', got 'nuclear'"),
        (lambda: eckart_young(0 * M, 1, relative=True), "all zeros"),
        (lambda: truncate(np.ones(3), 1), r"two-dimensional, \[out, in\], got shape \[3\]"),
        (lambda: energy(np.ones((0, 3))), r"got shape \[0, 3\]"),
        (lambda: energy(NAN), r"matrix\[0, 1\] is nan"),
        (lambda: energy(1j * M), "real numbers, got complex128"),
        (lambda: energy([["a"]]), "real numbers"),
        (lambda: energy(0 * M), "all zeros"),
        (lambda: lowrank.effective_rank(0 * M), "all zeros"),
        (lambda: lowrank.rank_for_energy(M, 90), "at most 1, got 90: for 90 % say 0.9"),
        (lambda: lowrank.rank_for_energy(M, 0), "share must be above 0"),
        (lambda: overlap(M, M, 1, 4), r"singular vectors of second \(rank 3\) must be from 1 to 3 here, got 4"),
        (lambda: overlap(random(0, 5, 2) @ random(1, 2, 5), M, 3, 1), r"singular vectors of first \(rank 2\)"),
        (lambda: overlap((random(0, 5, 2) @ random(1, 2, 5)).astype("float32"), M, 3, 1), r"first \(rank 2\)"),
        (lambda: lowrank.projection(np.eye(9, dtype="f"), ROUNDED, 3), r"directions \(rank 2\)"),
        (lambda: overlap(M, np.ones((2, 5)), 1, 1), r"first has 4 inputs \(columns\) and second 5"),
        (lambda: overlap(M, np.ones((2, 4)), 1, 1, side="left"), r"first has 3 outputs \(rows\) and second 2"),
        (lambda: overlap(M, M, 1, 1, side="up"), "'left' or 'right', got 'up'"),
        (lambda: overlap(0 * M, M, 1, 1), "first is all zeros"),
        (lambda: lowrank.projection(M, M.T, 1), r"directions must have the weight's shape \[3, 4\], got \[4, 3\]"),
        (lambda: lowrank.amplification(M, 0 * M, 1), "directions is all zeros"),
        (lambda: lowrank.intruders(M, M.T), r"update must have the weight's shape \[3, 4\]"),
        (lambda: lowrank.intruders(M, M, top=4), r"weight \+ update \(rank 3\) must be from 1 to 3 here, got 4"),
        (lambda: lowrank.intruders(M, M, top=3, threshold=0), "threshold is a cosine"),
        (lambda: data_floor(M, np.eye(3), 1), r"\[in, in\] = \[4, 4\], got \[3, 3\]"),
        (lambda: data_floor(M, -np.eye(4), 1), "without negative eigenvalues"),
        (lambda: data_floor(M, np.triu(np.ones((4, 4))) + 9 * np.eye(4), 1), "must be symmetric"),
        (lambda: data_truncate(M, np.diag([1, 1, 1, np.inf]), 1), r"second_moment\[3, 3\] is inf"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(call, says):
    with pytest.raises(ValueError, match=says):
        call()
