"""The network cable of a hypervisor of the rig. Where its remote ends, the cable is silent: a machine without power says no goodbye."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from typing import Any

from ha_agent.sim.wire_cut import SO_DETACH_FILTER, drop_all

CHUNK = 64 * 1024
LINGER_RESET = struct.pack("ii", 1, 0)


class Cable:
    """Listens on 127.0.0.1:`port`, which stays the same, and forwards to the remote of the boot that `plug` named last."""

    def __init__(self) -> None:
        self.whole = False
        self._listener = socket.socket()
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = 0
        self._clients: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener.listen(64)
        drop_all(self._listener)

    async def plug(self, target: int) -> None:
        """A host has booted: the kernel behind the cable is another one and knows nothing of older connections."""
        await self._end_tasks()
        for client in self._clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            client.close()
        self._clients.clear()
        self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, struct.pack("i", 0))
        self._target, self.whole = target, True
        self._start(self._accept())

    def cut(self) -> None:
        """No packet is answered from now on, on old connections and new ones."""
        self.whole = False
        for one in (self._listener, *self._clients):
            drop_all(one)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    async def close(self) -> None:
        """Nothing is left."""
        await self._end_tasks()
        for one in (self._listener, *self._clients):
            one.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.add(client)
            self._start(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        """One connection. A client may end it; where the remote does, it is dead, for here it is never stopped in any other way."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self.cut()
            return
        loop = asyncio.get_running_loop()

        async def up() -> None:
            while data := await loop.sock_recv(client, CHUNK):
                writer.write(data)
                await writer.drain()

        async def down() -> None:
            while data := await reader.read(CHUNK):
                await loop.sock_sendall(client, data)

        pumps = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if self.whole and not self._remote_lives():
                self.cut()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
        if self.whole:
            self._clients.discard(client)
            client.close()

    def _remote_lives(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._target)) == 0
