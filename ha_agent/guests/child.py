"""A program beside the event loop, one at a time: whatever hangs while it starts or ends holds up a thread, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

from ha_agent.aside import Aside

END_S = 1.0  # a process that was killed is gone by then, unless the kernel holds it


class Child:
    """`make` starts the program, with pipes for stdin and stdout and in a session of its own; it blocks, for to start a program means to read
    it from the disk, and raises OSError. `line_max`: bytes of a line that it says."""

    def __init__(self, make: Callable[[], subprocess.Popen[bytes]], line_max: int) -> None:
        self._make = make
        self._line_max = line_max
        self._aside = Aside("watcher")
        self._process: subprocess.Popen[bytes] | None = None
        self._life: asyncio.Task[None] | None = None
        self._pipes: list[asyncio.ReadTransport | asyncio.WriteTransport] = []

    @property
    def pid(self) -> int | None:
        """Of the one that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def busy(self) -> bool:
        """Whether the last one is not gone, or still starts: it has no successor until then, so they do not pile up."""
        return self._aside.busy

    async def start(self, deadline_s: float) -> asyncio.StreamReader:
        """What it says. Raises OSError, TimeoutError; one that starts after that is killed. Whatever comes of it, `end` is to be called."""
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[subprocess.Popen[bytes]] = loop.create_future()
        self._process = None
        life = self._life = loop.create_task(self._aside.run(partial(self._live, loop, begun), None))
        life.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            either: set[asyncio.Future[Any]] = {life, begun}
            await asyncio.wait(either, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        if begun.cancelled():
            if life.done():
                life.result()
            raise TimeoutError
        process, said = begun.result(), asyncio.StreamReader(self._line_max)
        self._pipes.append((await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin))[0])
        self._pipes.append(
            (await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), process.stdout))[0]
        )
        return said

    def write(self, line: bytes) -> None:
        """Never waits. Nobody may read it."""
        for pipe in self._pipes:
            if isinstance(pipe, asyncio.WriteTransport):
                pipe.write(line)

    async def end(self) -> None:
        """Kills it. Returns when it is gone, or cannot be killed."""
        if self._process is not None:
            _kill(self._process)
            if self._life is not None:
                await asyncio.wait({self._life}, timeout=END_S)
        while self._pipes:
            pipe = self._pipes.pop()
            if pipe.is_closing():
                continue  # its other side was closed first
            pipe.abort() if isinstance(pipe, asyncio.WriteTransport) else pipe.close()

    # --- in the thread ---

    def _live(self, loop: asyncio.AbstractEventLoop, begun: asyncio.Future[subprocess.Popen[bytes]]) -> None:
        """A whole life. The thread lasts as long, for the kernel sends PR_SET_PDEATHSIG when the thread ends that has started the process."""
        process = self._make()
        try:
            loop.call_soon_threadsafe(self._begin, process, begun)
        except RuntimeError:  # the loop has ended meanwhile
            _kill(process)
        process.wait()

    def _begin(self, process: subprocess.Popen[bytes], begun: asyncio.Future[subprocess.Popen[bytes]]) -> None:
        if begun.cancelled():  # nobody waits for it any more
            _kill(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        else:
            self._process = process
            begun.set_result(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
