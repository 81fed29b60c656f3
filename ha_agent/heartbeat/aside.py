"""Blocking calls beside the event loop: a disk, a libvirt or a systemctl that hangs keeps its thread, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """Runs calls in threads, at most `most` at a time; others wait for their turn until their deadline, so nothing piles up. A thread
    lasts for one call, and it is a daemon: one that hangs does not keep the process from ending."""

    def __init__(self, name: str, most: int = 1) -> None:
        self._name = name
        self._free = asyncio.Semaphore(most)

    @property
    def busy(self) -> bool:
        """Whether a further call would have to wait."""
        return self._free.locked()

    async def run(self, call: Callable[[], T], deadline_s: float | None) -> T:
        """What the call returns or raises. Raises TimeoutError where it takes longer, its wait for a thread included: the call itself goes
        on, holds its thread until it ends, and nobody hears what came of it. `deadline_s` None: it may take for ever."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(deadline_s):
            await self._free.acquire()
            answer: asyncio.Future[T] = loop.create_future()
            thread = threading.Thread(target=self._work, args=(call, loop, answer), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads may be made
                self._free.release()
                raise OSError(str(error)) from None
            return await answer

    def _work(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        settle: Callable[[], None]
        try:
            settle = partial(answer.set_result, call())
        except Exception as error:
            settle = partial(answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._end, answer, settle)

    def _end(self, answer: asyncio.Future[T], settle: Callable[[], None]) -> None:
        self._free.release()
        if not answer.done():
            settle()
