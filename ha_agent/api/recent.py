"""What costs much to make and is asked for by many: made anew when it is about a second old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEEP_S = 1.0


class Recent(Generic[T]):
    """However many ask, it costs the same. `make`: makes it; `now`: seconds of a clock that only goes forward."""

    def __init__(self, make: Callable[[], T], now: Callable[[], float]) -> None:
        self._make = make
        self._now = now
        self._kept: tuple[float, T] | None = None

    def __call__(self) -> T:
        """As it is, or was a moment ago."""
        now = self._now()
        if self._kept is None or now - self._kept[0] >= KEEP_S:
            self._kept = now, self._make()
        return self._kept[1]

    def forget(self) -> None:
        """Something was changed that whoever asks next should see."""
        self._kept = None
