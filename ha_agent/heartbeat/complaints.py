"""Log lines about peers that misbehave: who, why, how often. A flood of connections must not become a flood of lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

EVERY_S = 60.0
MAX_LINES = 20  # in EVERY_S, about all addresses together
MAX_KEPT = 1024


class Complaints:
    """The first line about an address and a reason comes at once, the next one when a minute has passed, with how many there were."""

    def __init__(self, log: logging.Logger, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._kept: dict[tuple[str, str], tuple[float, int]] = {}  # → (last line at, not said since)
        self._minute_at = now()
        self._lines = 0
        self._untold = 0

    def say(self, address: str, reason: str, text: str) -> None:
        """`reason`: a word that groups what is alike; `text`: the whole sentence."""
        now = self._now()
        if now - self._minute_at >= EVERY_S:
            if self._untold:
                self._log.warning("%d more connections were refused or ended badly in the last minute", self._untold)
            self._minute_at, self._lines, self._untold = now, 0, 0
        key = (address, reason)
        at, silent = self._kept.get(key, (now - EVERY_S, 0))
        if now - at < EVERY_S or self._lines >= MAX_LINES:
            if key in self._kept or len(self._kept) < MAX_KEPT:
                self._kept[key] = (at, silent + 1)
            self._untold += 1
            return
        self._lines += 1
        self._kept.pop(key, None)
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (now, 0)
        self._log.warning(
            "%s: %s%s", address, text, f" ({silent} more like this since the last line)" if silent else ""
        )
