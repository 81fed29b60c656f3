"""Notifications wait in the store until who is to have them has them: none is lost to a broker that is down, and recovery never waits.

The journal writes a notification in the same transaction as the change that it reports (see `writer`). A `Drain` takes the oldest first and
deletes what is done with; an `Outbox` is one that hands them to a sink. A crash in between repeats a notification with the same ids: at
least once, in order.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from ha_agent.errors import HaAgentError, Rejected
from ha_agent.model import Notification
from ha_agent.notify.writer import KIND
from ha_agent.ports import Bus, Delete, Document, Put, Random, Sink, Store

BATCH = 20
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Of what waits. `bound`: how many notifications may; above it the oldest are dropped, counted in `dropped`, and logged as an error.
    `poll_s`: how often it is looked at without being told."""

    bound: int = 10_000
    poll_s: float = 5.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


LIMITS = Limits()


class Drain:
    """Empties one kind of a store, while this controller leads. `run` is its task: one at a time, and again after the next election. `name`:
    of whom it is for."""

    def __init__(self, store: Store, random: Random, kind: str, name: str, limits: Limits = LIMITS) -> None:
        self._store = store
        self._random = random
        self.kind = kind
        self.name = name
        self._limits = limits
        self._added = asyncio.Event()
        self._empty = asyncio.Event()
        self._counted = False
        self._thread: ThreadPoolExecutor | None = None
        self.backlog = 0
        self.failures = 0
        self.dropped = 0
        self.last_error = ""

    def wake(self, added: int = 1) -> None:
        """So many more notifications are committed. Call it on the event loop."""
        self.backlog += added
        self._empty.clear()
        self._added.set()

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nothing is left. False: something is, after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Until it is cancelled. It raises nothing else: a failure is logged, counted and tried again."""
        failed = 0
        # Its own thread: a store that is slow must not use up those that recovery calls Nova with, nor the other way round.
        thread = self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._counted = False
        try:
            while True:
                error = await self._once()
                if error is None:
                    failed = 0
                    continue
                self.failures += 1
                if error != self.last_error:  # once per change of cause, not once per attempt
                    log.warning("%d notifications wait for %s: %s", self.backlog, self.name, error)
                self.last_error = error
                pause = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failed, 16))
                failed += 1
                await self._limits.sleep(pause * self._random.uniform(0.8, 1.2))
        finally:
            thread.shutdown(wait=False)  # its own: the next election may have begun another

    @abstractmethod
    async def _take(self, batch: Sequence[Document]) -> str | None:
        """Does with them what is to be done, oldest first, and deletes them. Answers what failed."""

    async def _begin(self) -> None:
        """Before anything is taken."""

    async def _rest(self) -> None:
        """Nothing has come for a while."""

    async def _once(self) -> str | None:
        """One batch, or waits for the next. Answers what failed."""
        try:
            await self._begin()
            await self._trim()
            self._added.clear()
            batch = await self._look(BATCH)
            if batch:
                return await self._take(batch)
            if self.backlog == 0:
                self._empty.set()
            await self._idle()
        except HaAgentError as error:
            return str(error)
        except Exception as error:
            log.exception("what keeps notifications for %s met an unexpected error", self.name)
            return f"{type(error).__name__}: {error}"
        return None

    async def _look(self, limit: int) -> Sequence[Document]:
        """The oldest ones. Where that is all, the backlog is known again; what is added meanwhile comes on top."""
        before = self.backlog
        waiting = await self._call(self._store.list, self.kind, limit)
        if len(waiting) < limit:
            self.backlog += len(waiting) - before
            self._counted = True
        return waiting

    async def _trim(self) -> None:
        """Above the bound the oldest go. A little more than needed, so that it is not done for every new one."""
        if self._counted and self.backlog <= self._limits.bound:
            return
        waiting = await self._look(2 * self._limits.bound + 1)
        surplus = len(waiting) - self._limits.bound
        if surplus <= 0:
            return
        oldest = waiting[: surplus + self._limits.bound // 20]
        await self._delete(oldest)
        self.dropped += len(oldest)
        log.error(
            "%d notifications were dropped, the oldest: more than %d wait for %s",
            len(oldest),
            self._limits.bound,
            self.name,
        )

    async def _delete(self, documents: Sequence[Document], also: Sequence[Put] = ()) -> None:
        writes = [*also, *(Delete(kind=self.kind, key=document.key) for document in documents)]
        await self._call(self._store.commit, None, writes)
        self.backlog = max(0, self.backlog - len(documents))

    async def _idle(self) -> None:
        """Until something is added; looks now and then by itself."""
        try:
            async with asyncio.timeout(self._limits.poll_s):
                await self._added.wait()
        except TimeoutError:
            await self._rest()

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class Outbox(Drain):
    """Hands notifications to a sink. What that rejects for good is counted in `rejected`, and logged; nothing waits behind it."""

    def __init__(
        self,
        store: Store,
        sink: Sink,
        random: Random,
        kind: str = KIND,
        name: str = "the bus",
        limits: Limits = LIMITS,
    ) -> None:
        super().__init__(store, random, kind, name, limits)
        self.sink = sink
        self.published = 0
        self.rejected = 0

    async def _take(self, batch: Sequence[Document]) -> str | None:
        """Up to the first failure. What was taken is deleted, even then."""
        done: list[Document] = []
        failure: str | None = None
        for document in batch:
            try:
                notification = msgspec.json.decode(document.body, type=Notification)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                log.error("notification %s cannot be decoded and is dropped: %s", document.key, error)
                self.dropped += 1
                done.append(document)
                continue
            try:
                await self.sink.publish(notification)
            except Rejected as error:
                self.rejected += 1
                log.error("%s: %s is not tried again: %s", self.name, notification.event_type, error)
                done.append(document)
                continue
            except HaAgentError as error:
                failure = str(error)
                break
            except Exception as error:
                log.exception("%s failed in an unexpected way", self.name)
                failure = f"{type(error).__name__}: {error}"
                break
            self.published += 1
            self.last_error = ""
            done.append(document)
        if done:
            await self._delete(done)
        return failure

    async def _rest(self) -> None:
        """An idle connection is not kept: nobody answers its heartbeats."""
        await self.sink.close()


class Threaded:
    """A blocking bus as a sink, in a thread of its own: a frozen broker must not use up those that recovery calls Nova with."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bus")

    async def publish(self, notification: Notification) -> None:
        """See ports.Bus."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._bus.publish, notification)

    async def close(self) -> None:
        """See ports.Bus."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._bus.close)
