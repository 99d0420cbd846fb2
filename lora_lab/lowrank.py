"""Low rank, with numpy alone: how much of a matrix few singular values hold, and how two updates lie to each other.

A weight or an update is a matrix [out, in], as PyTorch stores it. Anything that `numpy.asarray` reads will do; the sums
are taken in float64. Write M = U diag(s) V^T for the singular value decomposition, s falling.
"""

from __future__ import annotations

import operator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["left", "right"]
Norm = Literal["frobenius", "spectral"]


def truncate(matrix: ArrayLike, rank: int) -> NDArray:
    """The matrix [out, in] of rank at most `rank` that is nearest to `matrix`, in float64: its `rank` largest parts.

    Nearest in the Frobenius and in the spectral norm alike (Eckart & Young 1936, Mirsky 1960). ValueError for a rank
    outside 1 to min(out, in).
    """
    matrix = _matrix(matrix)
    rank = _whole(rank, "rank", min(matrix.shape))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def energy(matrix: ArrayLike) -> NDArray:
    """Cumulative share of the squared singular values, [min(out, in)]: entry r - 1 is what the best rank r keeps.

    ValueError for a matrix of zeros, which has nothing to share out.
    """
    squares = _nonzero_values(_matrix(matrix)) ** 2
    kept = np.cumsum(squares)
    return kept / kept[-1]


def eckart_young(matrix: ArrayLike, rank: int, norm: Norm = "frobenius", relative: bool = False) -> float:
    """The distance from `matrix` to the nearest matrix of rank `rank`: no rank-r matrix comes closer.

    "frobenius": sqrt(s[r+1]^2 + s[r+2]^2 + ...); "spectral": s[r+1]. `relative` divides by the matrix's own norm; the
    square of the relative Frobenius error is 1 - energy(matrix)[rank - 1]. ValueError for a rank outside 1 to
    min(out, in).
    """
    matrix = _matrix(matrix)
    rank = _whole(rank, "rank", min(matrix.shape))
    if norm not in ("frobenius", "spectral"):
        raise ValueError(f"norm must be 'frobenius' or 'spectral', got {norm!r}")
    s = _nonzero_values(matrix) if relative else np.linalg.svd(matrix, compute_uv=False)
    order = None if norm == "frobenius" else np.inf  # norms of the vector of singular values
    error = np.linalg.norm(s[rank:], order) if rank < len(s) else 0.0
    return float(error / np.linalg.norm(s, order)) if relative else float(error)


def effective_rank(matrix: ArrayLike) -> float:
    """exp(H(p)), p = s / sum(s), H the entropy in nats: from 1, a single direction, to min(out, in), all alike.

    Source: Roy & Vetterli 2007, "The effective rank". ValueError for a matrix of zeros.
    """
    s = _nonzero_values(_matrix(matrix))
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def rank_for_energy(matrix: ArrayLike, share: float) -> int:
    """The smallest rank whose best approximation keeps `share` of the squared singular values (0 < share <= 1)."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}: for 90 % say 0.9")
    kept = energy(matrix)
    return int(np.argmax(kept >= min(share, kept[-1]) * (1 - 1e-12))) + 1  # 1e-12: rounding must not cost a rank


def overlap(first: ArrayLike, second: ArrayLike, i: int, j: int, side: Side = "right") -> float:
    """phi(first, second, i, j) = ||V_i^T V_j||_F^2 / min(i, j): 0 for orthogonal subspaces, 1 if one holds the other.

    V_i and V_j are the leading i and j singular vectors of the two. `side="right"` compares what they read (as the
    paper does for A [r, in]), "left" what they write (for B [out, r]). ValueError if the vectors compared differ in
    length, or beyond a matrix's rank, where its singular vectors are arbitrary. Source: Hu et al. 2021, 7.2 and G.
    """
    v, w = _leading(first, i, side, "first"), _leading(second, j, side, "second")
    if len(v) != len(w):
        axis = "inputs (columns)" if side == "right" else "outputs (rows)"
        raise ValueError(f"first has {len(v)} {axis} and second {len(w)}: compare updates of the same matrix")
    return min(1.0, float(np.linalg.norm(v.T @ w) ** 2 / min(i, j)))


def projection(weight: ArrayLike, directions: ArrayLike, rank: int) -> float:
    """||U^T W V||_F: how much of W [out, in] lies where the leading `rank` singular vectors of `directions` point.

    Give an update as `directions` to see what it acts on, W itself for the most that is possible. ValueError if the
    shapes differ or beyond the rank of `directions`. Source: Hu et al. 2021, 7.3 (there V^T is this V).
    """
    weight = _matrix(weight, "weight")
    _like(weight, directions, "directions")
    u = _leading(directions, rank, "left", "directions")
    v = _leading(directions, rank, "right", "directions")
    return float(np.linalg.norm(u.T @ weight @ v))


def amplification(weight: ArrayLike, update: ArrayLike, rank: int) -> float:
    """||dW||_F / ||U^T W V||_F: how much larger the update is than what W had in the same directions.

    U and V are the leading `rank` singular vectors of `update`; infinite if W has nothing there. Errors as
    `projection`. Source: Hu et al. 2021, 7.3 and table 7.
    """
    there = projection(weight, update, rank)
    return float(np.linalg.norm(_matrix(update, "update")) / there) if there else float("inf")


def intruders(
    weight: ArrayLike, update: ArrayLike, top: int = 10, threshold: float = 0.5, side: Side = "left"
) -> list[int]:
    """Which of the `top` leading singular vectors of W + dW are new to W: their numbers, counted from 1.

    New: the largest |cosine| with any singular vector of W is below `threshold`. Where W has singular values that are
    equal, its vectors are arbitrary and the count means little. ValueError if the shapes differ or for a `top` beyond
    the rank of W + dW. Source: Shuttleworth et al. 2024 (arXiv 2410.21228), "intruder dimensions".
    """
    weight = _matrix(weight, "weight")
    update = _like(weight, update, "update")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a cosine, above 0 and at most 1, got {threshold}")
    before = _vectors(weight, side, "weight")
    after = _leading(weight + update, top, side, "weight + update")
    nearest = np.abs(before.T @ after).max(axis=0)
    return [int(n) + 1 for n in np.flatnonzero(nearest < threshold)]


def data_truncate(update: ArrayLike, second_moment: ArrayLike, rank: int) -> NDArray:
    """The rank-r matrix M that makes E ||(dW - M) x||^2 least for inputs x with C = E[x x^T]: [out, in], float64.

    It is truncate(dW C^(1/2), r) C^(-1/2): low rank in the metric of the data. For white inputs, C = c I, it is
    truncate(dW, r). C is `second_moment` [in, in], not centred: x.T @ x / n for examples in rows. ValueError if it does
    not fit the update, is not symmetric or has a negative eigenvalue.
    """
    update = _matrix(update, "update")
    root, inverse = _roots(second_moment, update.shape[1])
    return truncate(update @ root, rank) @ inverse


def data_floor(update: ArrayLike, second_moment: ArrayLike, rank: int, relative: bool = False) -> float:
    """The least E ||(dW - M) x||^2 that any correction M of rank `rank` can leave: a sum of squares over the outputs.

    It is eckart_young(dW C^(1/2), rank) ** 2. `relative` gives the share of E ||dW x||^2, what is wrong with no
    correction at all. `second_moment` and errors as `data_truncate`.
    """
    update = _matrix(update, "update")
    return eckart_young(update @ _roots(second_moment, update.shape[1])[0], rank, relative=relative) ** 2


def _matrix(matrix: ArrayLike, name: str = "matrix") -> NDArray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be two-dimensional, [out, in], got shape {list(matrix.shape)}")
    if not np.issubdtype(matrix.dtype, np.number) or np.iscomplexobj(matrix):
        raise ValueError(f"{name} must hold real numbers, got {matrix.dtype}")
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{name}[{row}, {column}] is {matrix[row, column]}: every number must be finite")
    return matrix


def _like(weight: NDArray, other: ArrayLike, name: str) -> NDArray:
    other = _matrix(other, name)
    if other.shape != weight.shape:
        raise ValueError(f"{name} must have the weight's shape {list(weight.shape)}, got {list(other.shape)}")
    return other


def _whole(value: int, name: str, most: int) -> int:
    """`value` as an int from 1 to `most`; numpy's own integers are welcome."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, (bool, np.bool_)) or not 1 <= whole <= most:
        raise ValueError(f"{name} must be from 1 to {most} here, got {value!r}")
    return whole


def _nonzero_values(matrix: NDArray) -> NDArray:
    s = np.linalg.svd(matrix, compute_uv=False)
    if not s[0]:
        raise ValueError("the matrix is all zeros: it has no share, no direction and no effective rank")
    return s / s[0]  # only ratios are asked for; so squares of tiny or huge values neither vanish nor overflow


def _vectors(matrix: ArrayLike, side: Side, name: str) -> NDArray:
    """Singular vectors of that side, in columns; those of singular values that are zero are arbitrary and left out."""
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', got {side!r}")
    dtype = np.asarray(matrix).dtype  # a product rounded in float32 has a noise that float64 would take for rank
    epsilon = np.finfo(dtype if np.issubdtype(dtype, np.floating) else float).eps
    u, s, vt = np.linalg.svd(_matrix(matrix, name), full_matrices=False)
    if not s[0]:
        raise ValueError(f"{name} is all zeros: it points nowhere")
    present = s > s[0] * max(u.shape[0], vt.shape[1]) * epsilon  # as numpy.linalg.matrix_rank decides
    return (u if side == "left" else vt.T)[:, present]


def _leading(matrix: ArrayLike, count: int, side: Side, name: str) -> NDArray:
    vectors = _vectors(matrix, side, name)
    rank = vectors.shape[1]
    return vectors[:, : _whole(count, f"singular vectors of {name} (rank {rank})", rank)]


def _roots(second_moment: ArrayLike, width: int) -> tuple[NDArray, NDArray]:
    """C^(1/2) and its inverse; directions without data count nothing in either."""
    c = _matrix(second_moment, "second_moment")
    if c.shape != (width, width):
        raise ValueError(f"second_moment must be [in, in] = [{width}, {width}], got {list(c.shape)}")
    values, vectors = np.linalg.eigh((c + c.T) / 2)
    largest = np.abs(values).max()
    if np.abs(c - c.T).max() > 1e-6 * largest or values[0] < -1e-6 * largest:
        raise ValueError("second_moment must be symmetric without negative eigenvalues: x.T @ x / n, examples in rows")
    present = values > 1e-12 * largest
    root = np.sqrt(np.where(present, values, 0))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=present)
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T
