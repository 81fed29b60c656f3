"""The network cable of a hypervisor of the rig: where its remote ends, the cable falls silent. A machine without power says no goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ha_agent.sim.wire_cut import CHUNK, Cable, Wire


class PowerWire(Wire):
    """A Wire whose far end may be killed at any moment. In the rig a remote ends in no other way."""

    def cut(self) -> None:
        """Once is enough."""
        if self.state is not Cable.SILENT:
            super().cut()

    async def _serve(self, client: socket.socket) -> None:
        """One connection. A client may end it, or a living remote; what a dead one's kernel says here is kept from everybody."""
        server = socket.socket()
        server.setblocking(False)
        self._connections[client] = server
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_connect(server, ("127.0.0.1", self._target))
            pumps = [asyncio.create_task(_pump(*pair)) for pair in ((client, server), (server, client))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        if not self._far_end_lives():
            self.cut()
        elif self._connections.pop(client, None) is not None:
            client.close()
            server.close()

    def _far_end_lives(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._target)) == 0


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
