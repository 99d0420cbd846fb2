"""Serving many adapters from one base, simulated: who asks, whose weights must be fetched, and how long that takes.

A model of queues, not of a machine: speeds and prices are the caller's assumptions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def zipf_requests(customers: int, exponent: float, count: int, seed: int = 0) -> NDArray:
    """The customer of each of `count` requests, counted from 0: number k asks in proportion to 1 / (k + 1)^exponent."""
    popularity = np.arange(1, customers + 1.0) ** -exponent
    return np.random.default_rng(seed).choice(customers, count, p=popularity / popularity.sum())


def fetched(asked: NDArray, room: int) -> NDArray:
    """For each request, whether its weights must be fetched, where `room` of them fit: bool, shaped as `asked`.

    The store starts empty; when it is full, what has gone unused for longest makes room (LRU). ValueError for no room.
    """
    if room < 1:
        raise ValueError(f"there must be room for at least 1, got {room}")
    inside: dict[int, bool] = {}  # a dict keeps its order: first what has gone unused for longest
    missing = []
    for customer in np.asarray(asked).tolist():
        missing.append(inside.pop(customer, None) is None)
        inside[customer] = True
        if len(inside) > room:
            del inside[next(iter(inside))]
    return np.array(missing)


def waits(missing: NDArray, rate: float, load: float, seed: int = 1) -> NDArray:
    """Seconds that each request waits for its weights, shaped as `missing`.

    Requests come at random (a Poisson process), `rate` a second. Those in `missing` need `load` seconds of one bus,
    which serves them in order, one at a time; the others do not wait.
    """
    arrivals = np.random.default_rng(seed).exponential(1 / rate, len(missing)).cumsum()
    free, seconds = 0.0, np.zeros(len(missing))
    for i in np.flatnonzero(missing):
        free = max(free, arrivals[i]) + load
        seconds[i] = free - arrivals[i]
    return seconds
