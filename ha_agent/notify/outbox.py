"""Notifications wait in the store until the bus has them: none is lost to a broker that is down, and recovery never waits for one.

The journal writes a notification in the same transaction as the change that it reports (see `writer`). The `Outbox` publishes
the oldest first, with the broker's confirmation, and deletes what was confirmed. A crash in between repeats a notification with
the same ids: at least once, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from ha_agent.errors import HaAgentError
from ha_agent.model import Notification
from ha_agent.notify.writer import KIND
from ha_agent.ports import Bus, Delete, Document, Random, Store

BATCH = 20
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class Outbox:
    """Drains the outbox of a store into a bus, while this controller leads. `run` is its task: one at a time, and again after
    the next election.

    `bound`: how many notifications may wait. Above it the oldest are dropped, counted in `dropped`, and logged as an error.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        random: Random,
        bound: int = 10_000,
        poll_s: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._bus = bus
        self._random = random
        self._bound = bound
        self._poll_s = poll_s
        self._sleep = sleep
        self._added = asyncio.Event()
        self._empty = asyncio.Event()
        self._counted = False
        self._thread: ThreadPoolExecutor | None = None
        self.backlog = 0
        self.published = 0
        self.failures = 0
        self.dropped = 0
        self.last_error = ""

    def wake(self, added: int = 1) -> None:
        """The journal has committed this many more notifications. Call it on the event loop."""
        self.backlog += added
        self._empty.clear()
        self._added.set()

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nothing is left to be published. False: something is, after `timeout_s`."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Publishes until it is cancelled. It raises nothing else: a failure is logged, counted and tried again."""
        failed = 0
        # Its own thread: a frozen broker must not use up those that recovery calls Nova with, nor the other way round.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._counted = False
        try:
            while True:
                error = await self._once()
                if error is None:
                    failed = 0
                    continue
                self.failures += 1
                if error != self.last_error:  # once per change of cause, not once per attempt
                    log.warning("%d notifications wait: %s", self.backlog, error)
                self.last_error = error
                pause = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failed, 16))
                failed += 1
                await self._sleep(pause * self._random.uniform(0.8, 1.2))
        finally:
            self._thread.shutdown(wait=False)

    async def _once(self) -> str | None:
        """Publishes one batch, or waits for the next. Answers what failed."""
        try:
            await self._trim()
            self._added.clear()
            batch = await self._look(BATCH)
            if batch:
                return await self._publish(batch)
            if self.backlog == 0:
                self._empty.set()
            await self._idle()
        except HaAgentError as error:
            return str(error)
        except Exception as error:
            log.exception("the outbox met an unexpected error")
            return f"{type(error).__name__}: {error}"
        return None

    async def _publish(self, batch: Sequence[Document]) -> str | None:
        """Oldest first, up to the first failure. What was confirmed is deleted, even then."""
        done: list[Delete] = []
        failure: str | None = None
        for document in batch:
            try:
                notification = msgspec.json.decode(document.body, type=Notification)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                log.error("notification %s cannot be decoded and is dropped: %s", document.key, error)
                self.dropped += 1
                done.append(Delete(kind=KIND, key=document.key))
                continue
            try:
                await self._call(self._bus.publish, notification)
            except HaAgentError as error:
                failure = str(error)
                break
            except Exception as error:
                log.exception("the bus failed in an unexpected way")
                failure = f"{type(error).__name__}: {error}"
                break
            self.published += 1
            self.last_error = ""
            done.append(Delete(kind=KIND, key=document.key))
        if done:
            await self._delete(done)
        return failure

    async def _look(self, limit: int) -> Sequence[Document]:
        """The oldest ones. Where that is all, the backlog is known again; what is added meanwhile comes on top."""
        before = self.backlog
        waiting = await self._call(self._store.list, KIND, limit)
        if len(waiting) < limit:
            self.backlog += len(waiting) - before
            self._counted = True
        return waiting

    async def _trim(self) -> None:
        """Above the bound the oldest go. A little more than needed, so that it is not done for every new one."""
        if self._counted and self.backlog <= self._bound:
            return
        waiting = await self._look(2 * self._bound + 1)
        surplus = len(waiting) - self._bound
        if surplus <= 0:
            return
        oldest = waiting[: surplus + self._bound // 20]
        await self._delete([Delete(kind=KIND, key=document.key) for document in oldest])
        self.dropped += len(oldest)
        log.error("%d notifications were dropped, the oldest: more than %d wait for the bus", len(oldest), self._bound)

    async def _delete(self, documents: list[Delete]) -> None:
        await self._call(self._store.commit, None, documents)
        self.backlog = max(0, self.backlog - len(documents))

    async def _idle(self) -> None:
        """Until something is added; looks now and then by itself. An idle connection is not kept: nobody answers its heartbeats."""
        try:
            await asyncio.wait_for(self._added.wait(), self._poll_s)
        except TimeoutError:
            await self._call(self._bus.close)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
