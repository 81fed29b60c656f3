"""Until when a driver may send: asked immediately before each packet, so that an attempt that was frozen and thawed sends
nothing late (S4)."""

from __future__ import annotations

import time
from typing import Protocol

from ha_agent.errors import OutOfTime


class Time(Protocol):
    """The clock of an attempt. `now`: CLOCK_BOOTTIME seconds; `wall`: Unix seconds, display only."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class Boottime:
    """The machine's own."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Window:
    """`act_by`: after it no part of an off or on is sent; `until`: after it nothing is. Seconds of `clock.now()`. `where`: the
    device, for the error."""

    def __init__(self, clock: Time, act_by: float, until: float, where: str) -> None:
        self._clock = clock
        self._act_by = act_by
        self._until = until
        self._where = where

    def left_s(self, *, changes: bool) -> float:
        """How long one may still send; below zero: not any more. `changes`: it belongs to an off or on."""
        return (min(self._act_by, self._until) if changes else self._until) - self._clock.now()

    def check(self, *, changes: bool) -> None:
        """Raises OutOfTime where the next packet may not go out."""
        if self.left_s(changes=changes) < 0:
            raise OutOfTime(f"timed out: no answer in time from {self._where}")
