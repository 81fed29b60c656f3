"""Quantities that are measured many times: how many of them were how large, since the start."""

from __future__ import annotations

import threading
from bisect import bisect_left

from ha_agent.model import Value


class Measured(Value, frozen=True, kw_only=True):
    """A histogram. `name`: as `metrics.names` knows it; `of`: which of its kind, empty where there is but one. `counts`: how many fell up to and
    including each of `bounds`, but above the one before; the last: how many above all. `total`: of all that was measured."""

    name: str
    of: str = ""
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Measure:
    """Takes what is measured, from any thread."""

    def __init__(self, name: str, bounds: tuple[float, ...], of: str = "") -> None:
        self._name, self._of, self._bounds = name, of, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """One more."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._total += value

    def measured(self) -> Measured:
        """As it is now."""
        with self._lock:
            counts = tuple(self._counts)
            return Measured(name=self._name, of=self._of, bounds=self._bounds, counts=counts, total=self._total)
