"""The pace of our own dials. Thousands at once would share the loop so that none ends before its deadline, and all begin anew.

A TLS handshake takes a few turns of the loop. With a bounded number of dials under way a turn stays short and each dial ends in time,
however many are due: after a restart, or when a network comes back that was gone. A host that does not answer must not keep others
waiting, so a dial counts for a moment only: it is then no work for the loop, or the loop is slow and so is the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

MOST = 64
HOLD_S = 0.25


class Pace:
    """`most` dials begin within `hold_s`, more where they end sooner."""

    def __init__(self, most: int = MOST, hold_s: float = HOLD_S) -> None:
        self._free = asyncio.Semaphore(most)
        self._hold_s = hold_s

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around one dial: waits until it may begin."""
        await self._free.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._hold_s, release)
        try:
            yield
        finally:
            timer.cancel()
            release()
