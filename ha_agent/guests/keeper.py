"""Keeps the newest state on disk without anybody waiting for the disk: one write at a time, in a thread, always of what is newest then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from ha_agent.aside import Aside

RETRY_S = 5.0

log = logging.getLogger(__name__)


class Keeper:
    """`write` blocks and raises OSError. `newest` gives (version, content); `stored` is the version that is on disk."""

    def __init__(self, write: Callable[[bytes], None], newest: Callable[[], tuple[int, bytes]]) -> None:
        self.stored = 0
        self.error = ""  # why the last write failed
        self._write = write
        self._newest = newest
        self._changed = asyncio.Event()
        self._aside = Aside("keeper")

    def changed(self) -> None:
        """There is something newer to be kept."""
        self._changed.set()

    async def run(self, done: Callable[[], None]) -> None:
        """Until cancelled. Calls `done` after each write. A disk that hangs holds up nothing but what is kept."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            version, content = self._newest()
            try:
                await self._aside.run(partial(self._write, content), None)
            except OSError as error:
                self._failed(f"guest events cannot be kept on disk: {error.strerror or error}")
                self._changed.set()
                await asyncio.sleep(RETRY_S)
                continue
            if self.error:
                log.info("guest events are kept on disk again")
            self.error = ""
            self.stored = version
            done()

    def _failed(self, text: str) -> None:
        if text != self.error:
            log.error("%s; a restart of the remote would lose those that no controller has acknowledged", text)
        self.error = text
