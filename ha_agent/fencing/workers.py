"""The nursery and its workers, seen from the controller: one is forked when it is needed, and dead when we say so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from ha_agent.errors import DriverError
from ha_agent.fencing import nursery
from ha_agent.fencing.topology import Device
from ha_agent.fencing.worker import Line, Request
from ha_agent.programs import below

T = TypeVar("T")

START_S = 10.0  # to start Python and import the drivers, on a busy machine
ANSWER_S = 3.0  # a nursery that has not forked by then is frozen or gone; to import a driver first takes a second
LINE_MAX = 65536
ROOT = str(Path(__file__).resolve().parents[2])  # where the nursery finds our own package, installed or not


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
    """One worker process. `process`: a descriptor of it, which is closed when it has ended; then `forget` is called with its number,
    which nobody else can have until then."""

    def __init__(
        self,
        pid: int,
        process: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forget: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self.pid = pid
        self.served = 0
        self.device: Device | None = None  # that it served last
        self._process = process
        self._reader = reader
        self._writer = writer
        self._forget = forget
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process, self._end)

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    async def send(self, request: Request) -> None:
        """Hands the request over. Raises DriverError where the process is gone."""
        self.served += 1
        self.device = request.device
        try:
            self._writer.write(msgspec.json.encode(request) + b"\n")
            await self._writer.drain()
        except (ConnectionError, RuntimeError):
            raise DriverError("the fencing worker died before it took the request") from None

    async def line(self) -> Line | None:
        """The next line; None where the process has ended or speaks no sense."""
        try:
            return msgspec.json.decode(await self._reader.readline(), type=Line)
        except (msgspec.DecodeError, ValueError, RecursionError, ConnectionError):
            return None

    async def kill(self) -> None:
        """Dead when this returns, also when it is cancelled, and with it whatever it started. SIGKILL ends a frozen process too."""
        if self.alive:
            await certainly(self._kill_below())
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # one that was killed before it had its group
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
        await certainly(self._ended.wait())
        self._writer.close()

    async def _kill_below(self) -> None:
        """First what it started: once it is dead itself, nobody could find that any more. It is stopped meanwhile, so that it
        starts nothing new."""
        if not below.living(self.pid):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGSTOP)
        for _ in range(below.ROUNDS):
            if not (self.alive and below.strike(self.pid)):
                return
            await asyncio.sleep(below.PAUSE_S)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process)
        os.close(self._process)
        self._ended.set()
        self._forget(self.pid)


class Nursery:
    """Forks workers. It starts when the first one is wanted, and anew when it is gone or does not answer within `answer_s`; `python`: what
    runs it. One fork at a time."""

    def __init__(self, python: str = sys.executable, answer_s: float = ANSWER_S) -> None:
        self._python = python
        self._answer_s = answer_s
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None

    async def fork(self, drivers: Iterable[str]) -> Worker:
        """A worker with these drivers loaded, which has said nothing yet. If this is cancelled there is none. Raises DriverError."""
        async with self._lock:
            forking = asyncio.ensure_future(self._fork(tuple(drivers)))
            try:
                return await certainly(forking)
            except asyncio.CancelledError:
                if not forking.cancelled() and forking.exception() is None:
                    await forking.result().kill()
                raise

    async def close(self) -> None:
        """It is dead when this returns, and every worker with it."""
        async with self._lock:
            await certainly(self._end())

    async def _fork(self, drivers: tuple[str, ...]) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                if self._process is None or self._process.returncode is not None:
                    await self._start()
                pid, process = await self._asked(" ".join((nursery.FORK, *drivers)).encode(), theirs.fileno())
        except (OSError, ValueError, TimeoutError) as error:
            ours.close()
            await self._end()
            why = getattr(error, "strerror", None) or "the process that forks them does not answer"
            raise DriverError(f"the fencing worker cannot be started: {why}") from None
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_MAX)
        return Worker(pid, process, reader, writer, self._reap)

    async def _start(self) -> None:
        """Raises OSError, ValueError or TimeoutError."""
        await self._end()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                self._python,
                *("-m", "ha_agent.fencing.nursery", str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                # A session of its own; and nothing of our environment, which may hold secrets.
                start_new_session=True,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONPATH": ROOT},
            )
        async with asyncio.timeout(START_S):
            said, _ = await self._heard()
        if said != nursery.READY:
            raise ValueError("it is not ready")

    async def _asked(self, message: bytes, end: int) -> tuple[int, int]:
        assert self._socket is not None
        socket.send_fds(self._socket, [message], [end])
        async with asyncio.timeout(self._answer_s):
            said, process = await self._heard()
        if process is None and said:
            raise DriverError(f"the fencing worker cannot be started: {said.decode(errors='replace')}")
        if process is None:
            raise ValueError("it has ended")
        return int(said), process

    async def _heard(self) -> tuple[bytes, int | None]:
        """The next message, and the descriptor that came with it. An end is an empty message."""
        assert self._socket is not None
        loop, link = asyncio.get_running_loop(), self._socket
        readable = asyncio.Event()
        loop.add_reader(link, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(link)
        said, given, _, _ = socket.recv_fds(link, nursery.MESSAGE_MAX, 1)
        return said, given[0] if given else None

    def _reap(self, pid: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(f"{nursery.REAP} {pid}".encode())

    async def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process is None:
            return
        try:
            async with asyncio.timeout(
                self._answer_s
            ):  # its socket has ended: so does it, and what it reaped is counted
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
