"""The workers, seen from the controller: a few wait ready, more are started as needed, each serves one attempt at a
time.

A worker that has sent an off or on, or that failed in any way, is killed and waited for; only one that ended a plain
read cleanly is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from ha_agent.errors import DriverError
from ha_agent.fencing import below
from ha_agent.fencing.topology import Device
from ha_agent.fencing.worker import Line, Request

T = TypeVar("T")
Use = Literal["look", "act"]

START_S = 10.0  # to start Python and import the driver, on a busy machine
ACCEPT_S = 2.0  # a waiting worker that does not take a request by then is frozen or gone
READS_PER_WORKER = 200  # then a fresh one, so that no leak grows
LINE_MAX = 65536
ROOT = str(Path(__file__).resolve().parents[2])  # where the worker finds our own package, installed or not


async def certainly(work: Awaitable[T]) -> T:
    """Waits for `work` to its end, whoever cancels us meanwhile; the cancellation is passed on afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


class Worker:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.served = 0
        self.device: Device | None = None  # that it served last

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def send(self, request: Request) -> None:
        """Hands the request over. Raises DriverError where the process is gone."""
        assert self._process.stdin is not None
        self.served += 1
        self.device = request.device
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise DriverError("the fencing worker died before it took the request") from None

    async def line(self) -> Line | None:
        """The next line; None where the process has ended or speaks no sense."""
        assert self._process.stdout is not None
        try:
            return msgspec.json.decode(await self._process.stdout.readline(), type=Line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None

    async def kill(self) -> None:
        """Dead and waited for when this returns, also when it is cancelled, and with it whatever it started. SIGKILL ends a
        frozen process too."""
        if self.alive:
            await certainly(self._kill_below())
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await certainly(self._process.wait())

    async def _kill_below(self) -> None:
        """First what it started: once it is dead itself, nobody could find that any more. It is stopped meanwhile, so that it
        starts nothing new."""
        if not below.living(self.pid):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        for _ in range(below.ROUNDS):
            if not (self.alive and below.strike(self.pid)):
                return
            await asyncio.sleep(below.PAUSE_S)


class WorkerPool:
    """`idle`: how many wait ready. `looks`, `acts`: how many may run at once that only read, and that switch;
    separate, so that hung reads never keep an off waiting. `starts`: how many start at once (importing takes processor
    time). `drivers`: that a worker loads when it starts, so that no attempt waits for it; others when they are first used."""

    def __init__(
        self, idle: int = 2, looks: int = 32, acts: int = 64, starts: int = 4, drivers: Iterable[str] = ("ipmi",)
    ) -> None:
        self.drivers = tuple(drivers)
        self._target = idle
        self._idle: deque[Worker] = deque()
        self._slots: dict[Use, asyncio.Semaphore] = {"look": asyncio.Semaphore(looks), "act": asyncio.Semaphore(acts)}
        self._starting = asyncio.Semaphore(starts)
        self._all: set[Worker] = set()
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

    async def _take(self, request: Request) -> Worker:
        while True:
            waited = bool(self._idle)
            worker = self._waiting(request) if waited else await self._spawn()
            taken = False
            try:
                if worker.alive:
                    await worker.send(request)
                    line = await asyncio.wait_for(worker.line(), ACCEPT_S if waited else START_S)
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
            starting = asyncio.ensure_future(self._process())
            try:
                worker = await certainly(starting)
            except asyncio.CancelledError:
                if not starting.cancelled() and starting.exception() is None:
                    await self._end(starting.result())
                raise
            ready = False
            try:
                line = await asyncio.wait_for(worker.line(), START_S)
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

    async def _process(self) -> Worker:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ha_agent.fencing.worker",
                str(os.getpid()),
                *self.drivers,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_MAX,
                # A group of its own, to be killed as a whole; and nothing of our environment, which may hold secrets.
                start_new_session=True,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONPATH": ROOT},
            )
        except OSError as error:
            raise DriverError(f"the fencing worker cannot be started: {error.strerror}") from None
        worker = Worker(process)
        self._all.add(worker)
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
