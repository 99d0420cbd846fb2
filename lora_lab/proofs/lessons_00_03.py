"""What lessons 00 to 03 sum up in five lines, computed again on a small scale; `l02_...` belongs to lesson 02."""

from __future__ import annotations

from lora_lab.proofs import Result


def l01_rows_are_mixtures(out_features: int = 12, in_features: int = 10, rank: int = 3) -> Result:
    """A reads x into `rank` numbers, B writes them; every row of B A is in the span of A's rows; its rank."""
    import numpy as np

    random = np.random.default_rng(0)
    a, b = random.standard_normal((rank, in_features)), random.standard_normal((out_features, rank))
    x = random.standard_normal(in_features)
    weights = np.linalg.lstsq(a.T, (b @ a).T, rcond=None)[0].T  # each row of B A, written in A's rows
    other = random.standard_normal((out_features, in_features))
    not_a_mixture = other - np.linalg.lstsq(a.T, other.T, rcond=None)[0].T @ a
    return {
        "numbers_read": len(a @ x),
        "rank": int(np.linalg.matrix_rank(b @ a)),
        "any_matrix_is_off_by": float(np.linalg.norm(not_a_mixture) / np.linalg.norm(other)),
        "read_then_written": bool(np.allclose(b @ (a @ x), (b @ a) @ x)),
        "same_shape_as_w": (b @ a).shape == (out_features, in_features),
        "rows_are_mixtures_and_b_says_which": bool(np.allclose(weights, b)),
        "rank_at_most_r": int(np.linalg.matrix_rank(b @ a)) <= rank,
        "not_any_matrix": float(np.linalg.norm(not_a_mixture)) > 0.1,
    }


def l02_least_number_of_pieces(pieces: int = 3, size: int = 8) -> Result:
    """Sums of column-times-row pieces: their rank, and how near one piece fewer can come (Eckart & Young 1936)."""
    import numpy as np

    from lora_lab import lowrank

    random = np.random.default_rng(0)
    columns, rows = random.standard_normal((pieces, size)), random.standard_normal((pieces, size))
    total = sum(np.outer(c, r) for c, r in zip(columns, rows, strict=True))
    b, a = columns.T, rows
    return {
        "rank": int(np.linalg.matrix_rank(total)),
        "one_piece_fewer_misses": lowrank.eckart_young(total, pieces - 1, relative=True) if pieces > 1 else 1.0,
        "rank_is_the_number_of_pieces": int(np.linalg.matrix_rank(total)) == pieces,
        "no_fewer_do": pieces == 1 or lowrank.eckart_young(total, pieces - 1) > 1e-6,
        "b_a_is_such_a_sum": bool(np.allclose(b @ a, total)),
        "b_a_has_at_most_r": int(np.linalg.matrix_rank(b @ a)) <= pieces,
    }


def l02_nearest_of_its_rank(rank: int = 2, size: int = 16, opponents: int = 200) -> Result:
    """Keep the strongest `rank` pieces of the SVD, against random columns with the best rows for each.

    Distances are Frobenius; the floor is the root of the sum of the dropped squares.
    """
    import numpy as np

    from lora_lab import lowrank

    random = np.random.default_rng(0)
    matrix = random.standard_normal((size, size))
    strengths = np.linalg.svd(matrix, compute_uv=False)
    floor = float(np.sqrt((strengths[rank:] ** 2).sum()))
    distance = float(np.linalg.norm(matrix - lowrank.truncate(matrix, rank)))
    others = []
    for _ in range(opponents):
        columns = random.standard_normal((size, rank))
        rows = np.linalg.lstsq(columns, matrix, rcond=None)[0]
        others.append(float(np.linalg.norm(matrix - columns @ rows)))
    return {
        "cut": distance,
        "floor": floor,
        "best_opponent": min(others),
        "sorted_by_strength": bool((np.diff(strengths) <= 0).all()),
        "distance_is_the_dropped_squares": abs(distance - floor) < 1e-9,
        "no_opponent_is_nearer": min(others) > distance,
    }


def l02_low_rank_where_the_data_is(rank: int = 8, width: int = 64) -> Result:
    """What rank r must miss of a change whose strengths are all alike: on white inputs, and on variances 1/i and 1/i^2.

    The floor is Eckart-Young's of change times the root of the inputs' second moment.
    """
    import numpy as np

    from lora_lab import lowrank

    change = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
    number = np.arange(1, width + 1)

    def misses(variance) -> float:
        return lowrank.data_floor(change, np.diag(variance), rank, relative=True)

    white, uneven, steep = misses(np.ones(width)), misses(1 / number), misses(1 / number**2)
    suited = lowrank.data_truncate(change, np.diag(1 / number**2), rank)
    as_a_matrix = float(np.linalg.norm(change - suited) ** 2 / np.linalg.norm(change) ** 2)
    return {
        "white": white,
        "uneven": uneven,
        "steep": steep,
        "the_suited_one_misses_on_white_inputs": as_a_matrix,
        "rank_of_the_change": int(np.linalg.matrix_rank(change)),
        "full_rank": int(np.linalg.matrix_rank(change)) == width,
        "less_is_missing_where_the_data_is": steep < uneven < white,
        "enough_for_these_data": steep < 0.1,
        "and_no_description_of_the_change": as_a_matrix > 0.8,
    }


def l03_equal_to_peft(rank: int = 8, alpha: float = 16) -> Result:
    """The dozen lines, this package and peft with the same A and B: outputs and gradients, compared to the bit."""
    import copy

    import peft
    import torch
    from torch import nn

    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Linear(32, 24)), torch.randn(8, 32)
    ours = add_adapter(copy.deepcopy(plain), LoraConfig(rank=rank, alpha=alpha, target_modules=["0"]))
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])
    theirs = peft.get_peft_model(copy.deepcopy(plain), settings)
    a, b = torch.randn(rank, 32).requires_grad_(), torch.randn(24, rank).requires_grad_()
    pairs = [[a, b], *([p for p in m.parameters() if p.requires_grad] for m in (ours, theirs))]
    with torch.no_grad():
        for others in pairs[1:]:
            for mine, other in zip(pairs[0], others, strict=True):
                other.copy_(mine)
    by_hand = plain(x).detach() + (x @ a.T) @ b.T * (alpha / rank)
    outputs = [by_hand, ours(x), theirs(x)]
    gradients = [torch.autograd.grad(y.square().mean(), ps) for y, ps in zip(outputs, pairs, strict=True)]
    return {
        "largest_output": by_hand.abs().max().item(),
        "outputs_equal_to_the_bit": all(torch.equal(y, by_hand) for y in outputs),
        "gradients_equal_to_the_bit": all(
            torch.equal(mine, other) for those in gradients[1:] for mine, other in zip(gradients[0], those, strict=True)
        ),
        "the_adapter_does_something": not torch.allclose(by_hand, plain(x), atol=0.01),
    }


def l03_alpha_is_a_factor(alpha: float = 16, times: float = 2.0) -> Result:
    """The update of a trained layer, at alpha and at `times` alpha: proportional, whatever A and B."""
    import numpy as np

    random = np.random.default_rng(0)
    a, b, x = random.standard_normal((8, 32)), random.standard_normal((24, 8)), random.standard_normal(32)
    once, more = (factor * alpha / 8 * b @ (a @ x) for factor in (1, times))
    return {
        "more_over_once": float(np.linalg.norm(more) / np.linalg.norm(once)),
        "proportional": bool(np.allclose(more, times * once)),
    }


def l03_few_examples(rank: int = 4, examples: int = 64, noise: float = 0.5, steps: int = 400) -> Result:
    """Rank 4 against full training on few noisy examples of a change [32, 32] of rank 4; at half the rank, the tail.

    Adam with a falling rate, the best of three rates for each; missing: share of the change's squares (3 teachers).
    """
    import numpy as np

    def missing(seed: int, r: int | None, rate: float) -> float:
        random = np.random.default_rng(seed)
        left, right = (np.linalg.qr(random.standard_normal((32, 4)))[0] for _ in range(2))
        change = (left * [4.0, 3.0, 2.0, 1.0]) @ right.T
        x = random.standard_normal((examples, 32))
        y = x @ change.T + noise * random.standard_normal((examples, 32))
        moment, crossed = x.T @ x, y.T @ x  # all that the gradient needs of the examples
        weights = [np.zeros((32, 32))] if r is None else [random.standard_normal((r, 32)) / 32**0.5, np.zeros((32, r))]
        first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
        for step in range(1, steps + 1):
            guess = weights[0] if r is None else 2 * weights[1] @ weights[0]
            slope = 2 * (guess @ moment - crossed) / y.size
            gradients = [slope] if r is None else [2 * weights[1].T @ slope, 2 * slope @ weights[0].T]
            for i, g in enumerate(gradients):
                first[i] += 0.1 * (g - first[i])
                second[i] += 0.001 * (g * g - second[i])
                size = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                falling = rate * (1 + np.cos(np.pi * step / steps)) / 2
                weights[i] = weights[i] - falling * first[i] / (1 - 0.9**step) / size
        guess = weights[0] if r is None else 2 * weights[1] @ weights[0]
        return float(((guess - change) ** 2).sum() / 30)

    def best(r: int | None) -> list[float]:
        return min(([missing(seed, r, rate) for seed in range(3)] for rate in (0.003, 0.01, 0.03)), key=sum)

    low, full, too_low = best(rank), best(None), best(rank // 2)
    tail = (2**2 + 1**2) / 30
    return {
        "missing_at_this_rank": float(np.mean(low)),
        "missing_in_full": float(np.mean(full)),
        "missing_at_half_the_rank": float(np.mean(too_low)),
        "tail": tail,
        "beats_full_training": max(low) < min(full),
        "at_half_the_rank_the_tail_is_missing": min(too_low) > tail,
    }
