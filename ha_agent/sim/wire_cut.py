"""A network cable in front of a daemon on loopback, which can be cut as cables are: nothing says goodbye.

A process that ends on loopback closes its sockets, and its port refuses from then on: a machine that lost its power does neither.
So each simulated host is reached through a small TCP relay. No privileges are needed: Linux answers no SYN to a listener whose
queue of connections to be accepted is full, so we fill it with our own. (A socket filter would do as well, but newer kernels want
privileges for one on TCP.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

BACKLOG = 1024  # a mute host goes on taking connections for a while
CHUNK = 64 * 1024
FILLERS = 3  # a backlog of 0 takes one; the others stay outside, should another leave


class Cable(StrEnum):
    """What the cable does."""

    OPEN = "open"
    SILENT = "silent"  # nothing is answered: connections hang, connecting times out
    MUTE = "mute"  # the kernel answers, and accepts connections; nobody behind it does
    REFUSED = "refused"  # the kernel answers that nobody listens


class Wire:
    """Listens on 127.0.0.1:`port`, which stays the same, and forwards to the daemon at `plug`'s port."""

    def __init__(self) -> None:
        self.state = Cable.REFUSED
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self._target = 0
        self._connections: dict[socket.socket, socket.socket | None] = {}  # accepted -> ours to the daemon
        self._fillers: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def plug(self, target: int) -> None:
        """Forward to this port from now on; the cable is open, and nothing is left of older connections."""
        await self._drop()
        if self.state in (Cable.SILENT, Cable.MUTE):
            self._empty()
        self._socket.listen(BACKLOG)
        self.state = Cable.OPEN
        self._target = target
        self._start(self._accept())

    def cut(self) -> None:
        """From now on nothing is answered, on old connections and new ones."""
        self._stop()
        self._socket.listen(0)
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        self.state = Cable.SILENT

    async def mend(self) -> None:
        """The cable is whole again."""
        await self.plug(self._target)

    def mute(self) -> None:
        """The kernel goes on, what it serves does not."""
        self._stop()
        self.state = Cable.MUTE

    async def refuse(self) -> None:
        """The daemon is gone: its connections end, its port refuses."""
        await self._drop()
        self._socket.close()
        self._socket = _bound(self.port)
        self.state = Cable.REFUSED

    async def close(self) -> None:
        """Nothing is left."""
        await self._drop()
        self._socket.close()

    # --- forwarding ---

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _drop(self) -> None:
        """Tasks first: a socket that is closed while the loop still watches it would blind its successor of the same number."""
        tasks = list(self._tasks)
        self._stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client, server in self._connections.items():
            client.close()
            if server is not None:
                server.close()
        self._connections.clear()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def _empty(self) -> None:
        """Nobody is served who came while the cable was dead: the machine behind it knows nothing of them."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._socket)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[client] = None
            self._start(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        """One connection, until either side ends it. Cancelled: the cable was cut, and the sockets stay as they are."""
        server = socket.socket()
        server.setblocking(False)
        self._connections[client] = server
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_connect(server, ("127.0.0.1", self._target))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [asyncio.ensure_future(_pump(*pair)) for pair in ((client, server), (server, client))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        if self._connections.pop(client, None) is not None:
            client.close()
            server.close()


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)


def _bound(port: int) -> socket.socket:
    """Bound, and not listening: whoever connects is refused."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setblocking(False)
    one.bind(("127.0.0.1", port))
    return one
