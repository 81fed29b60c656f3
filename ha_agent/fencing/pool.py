"""The workers, seen from the controller: a few wait ready, more are started as needed, each serves one attempt at a
time.

A worker that has sent an off or on, or that failed in any way, is killed and waited for; only one that ended a plain
read cleanly is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Literal

from ha_agent.errors import DriverError
from ha_agent.fencing.worker import Request
from ha_agent.fencing.workers import START_S, Nursery, Worker, certainly

Use = Literal["look", "act"]

ACCEPT_S = 2.0  # a waiting worker that does not take a request by then is frozen or gone
READS_PER_WORKER = 200  # then a fresh one, so that no leak grows


class WorkerPool:
    """`idle`: how many wait ready. `looks`, `acts`: how many may run at once that only read, and that switch;
    separate, so that hung reads never keep an off waiting. `starts`: how many start at once. `drivers`: that a worker loads when it starts, so that no attempt waits for it; others when they are first used."""

    def __init__(
        self,
        idle: int = 2,
        looks: int = 32,
        acts: int = 64,
        starts: int = 4,
        drivers: Iterable[str] = ("ipmi",),
        nursery: Nursery | None = None,
    ) -> None:
        self.drivers = tuple(drivers)
        self._target = idle
        self._idle: deque[Worker] = deque()
        self._slots: dict[Use, asyncio.Semaphore] = {"look": asyncio.Semaphore(looks), "act": asyncio.Semaphore(acts)}
        self._starting = asyncio.Semaphore(starts)
        self._all: set[Worker] = set()
        self._nursery = nursery or Nursery()
        self._refill: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Of every living worker."""
        return [worker.pid for worker in self._all if worker.alive]

    async def start(self) -> None:
        """Has the first workers ready when it returns. Raises DriverError where they cannot start."""
        while len(self._idle) < self._target and not self._closed:
            self._idle.append(await self._spawn())

    @contextlib.asynccontextmanager
    async def attempt(self, request: Request) -> AsyncIterator[Worker]:
        """A worker that has taken the request. When the block ends it is dead, or (a read whose `end` was seen) waits
        again: then `reusable()` was called in the block. Raises DriverError where none can be started."""
        async with self._slots["look" if request.op == "read" else "act"]:
            worker = await self._take(request)
            try:
                yield worker
            finally:
                if not (request.op == "read" and worker in self._idle):
                    await self._end(worker)
                self._keep_ready()

    def reusable(self, worker: Worker) -> None:
        """The worker ended a read without an error and may serve another."""
        if (
            not self._closed
            and worker.alive
            and worker.served < READS_PER_WORKER
            and len(self._idle) < 4 * self._target
        ):
            self._idle.append(worker)

    async def close(self) -> None:
        """No worker is alive when it returns."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.wait({self._refill})
        self._idle.clear()
        await certainly(asyncio.gather(*(self._end(worker) for worker in list(self._all))))
        await self._nursery.close()

    async def _take(self, request: Request) -> Worker:
        while True:
            waited = bool(self._idle)
            worker = self._waiting(request) if waited else await self._spawn()
            taken = False
            try:
                if worker.alive:
                    await worker.send(request)
                    async with asyncio.timeout(ACCEPT_S if waited else START_S):
                        line = await worker.line()
                    taken = line is not None and line.kind == "taken"
            except (DriverError, TimeoutError):
                pass
            finally:
                if not taken:
                    await self._end(worker)
            if taken:
                return worker
            if not waited:  # a fresh one: another would fare no better
                raise DriverError("the fencing worker died before it took the request")

    def _waiting(self, request: Request) -> Worker:
        """Of those that wait, the one that read this device last and may still have its session; else one without any; else the
        one that waits longest."""
        for wanted in (request.device, None):
            if request.op == "read" or wanted is None:
                for worker in self._idle:
                    if worker.device == wanted:
                        self._idle.remove(worker)
                        return worker
        return self._idle.popleft()

    async def _spawn(self) -> Worker:
        async with self._starting:
            if self._closed:
                raise DriverError("the fencer is closed")
            worker = await self._nursery.fork(self.drivers)
            self._all.add(worker)
            ready = False
            try:
                async with asyncio.timeout(START_S):
                    line = await worker.line()
                ready = line is not None and line.kind == "ready"
            except TimeoutError:
                pass
            finally:
                if not ready:
                    await self._end(worker)
            if not ready:
                raise DriverError(
                    "the fencing worker does not start: see its message in the log, and the memory and processes left"
                )
            return worker

    async def _end(self, worker: Worker) -> None:
        try:
            await worker.kill()
        finally:
            self._all.discard(worker)

    def _keep_ready(self) -> None:
        if self._closed or (self._refill is not None and not self._refill.done()):
            return
        self._refill = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        with contextlib.suppress(DriverError):  # the next attempt will say so
            await self.start()
