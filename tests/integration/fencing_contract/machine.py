"""A host's power as its device sees it, with each way of being bad that lies behind the login. Used by the simulators that are ours."""

from __future__ import annotations

import threading
import time

from tests.integration.fencing_contract.bad import SLOW_S, Bad


class Machine:
    """`on` is the truth. `offs`: how many offs arrived. Thread-safe."""

    def __init__(self, bad: Bad) -> None:
        self.bad = bad
        self.offs = 0
        self.silent = False  # it died in the middle
        self._on = True
        self._off_at: float | None = None
        self._looks = 0
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        with self._lock:
            return self._is_on()

    def off(self) -> None:
        """The off arrived."""
        with self._lock:
            self.offs += 1
            if self.bad is Bad.DIES_IN_THE_MIDDLE:
                self.silent = True
            elif self.bad is Bad.SLOW:
                self._off_at = time.monotonic() + SLOW_S
            elif self.bad is not Bad.STAYS_ON:
                self._on = False

    def up(self) -> None:
        """The on arrived."""
        with self._lock:
            self._on, self._off_at = True, None

    def look(self) -> str:
        """What the device says: on, off or unknown."""
        with self._lock:
            if self.bad is Bad.REPORTS_UNKNOWN:
                return "unknown"
            on = self._is_on()
            if on:
                return "on"
            self._looks += 1
            if self.bad is Bad.FLAPS and self._looks % 2 == 0:
                return "on"
            if self.bad is Bad.COMES_BACK:
                self._on = True
            return "off"

    def _is_on(self) -> bool:
        if self._off_at is not None and time.monotonic() >= self._off_at:
            self._on, self._off_at = False, None
        return self._on
