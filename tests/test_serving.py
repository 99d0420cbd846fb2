"""The simulation of a server against cases worked out by hand, plain Python, and queueing theory."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from lora_lab import serving


def test_requests_follow_zipfs_law():
    asked = serving.zipf_requests(10, 1.0, 200_000)
    share = np.bincount(asked, minlength=10) / len(asked)
    law = 1 / np.arange(1, 11)
    assert np.allclose(share, law / law.sum(), atol=0.004)
    even = np.bincount(serving.zipf_requests(10, 0.0, 200_000), minlength=10) / 200_000
    assert np.allclose(even, 0.1, atol=0.004)


def test_the_same_seed_asks_the_same():
    first, again, other = (serving.zipf_requests(100, 1.0, 50, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_what_went_unused_for_longest_makes_room():
    asked = np.array([0, 1, 0, 2, 1, 0])  # room for two: 2 throws out 1, then 1 throws out 0
    assert serving.fetched(asked, 2).tolist() == [True, True, False, True, True, True]
    assert serving.fetched(asked, 3).tolist() == [True, True, False, True, False, False]
    assert serving.fetched(asked, 1).all()


@pytest.mark.parametrize("room", [1, 7, 40, 100])
def test_fetched_is_an_lru_store(room):
    asked, inside, missing = serving.zipf_requests(60, 0.8, 3000), OrderedDict(), []
    for customer in asked.tolist():
        missing.append(customer not in inside)
        inside[customer] = None
        inside.move_to_end(customer)
        while len(inside) > room:
            inside.popitem(last=False)
    assert serving.fetched(asked, room).tolist() == missing


def test_only_what_is_fetched_waits_and_each_load_waits_for_the_one_before():
    missing = np.array([True, False, True, True])
    seldom = serving.waits(missing, rate=1e-6, load=0.5)
    assert seldom == pytest.approx([0.5, 0, 0.5, 0.5])
    all_at_once = serving.waits(missing, rate=1e9, load=0.5)
    assert all_at_once == pytest.approx([0.5, 0, 1.0, 1.5], abs=1e-6)


def test_the_mean_wait_is_what_queueing_theory_says():
    rate, load = 8.0, 0.1  # an M/D/1 queue, busy 0.8 of the time: wait load + load x 0.8 / (2 (1 - 0.8))
    wait = serving.waits(np.ones(400_000, dtype=bool), rate, load)
    assert wait.mean() == pytest.approx(load + load * 0.8 / 0.4, rel=0.05)


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        serving.fetched(np.array([1]), 0)
