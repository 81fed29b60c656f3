"""A hostile neighbour in a process of its own. `python -m tests.integration.attacker PORT DIRECTORY`

Each line on stdin is `ATTACK SECONDS [PORT]`, the port where it is not PORT; the answer is one line of JSON: how often it was tried, and how often somebody let it in. It comes
from addresses of its own (127.0.0.2 and up). DIRECTORY holds the certificates that it has made, bought or stolen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from ha_agent.heartbeat import certs, wire

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Tally = dict[str, int]
AT_ONCE = 8
SLOW = 300

# attack → counters of the remote of which at least one must grow.
ATTACKS = {
    "flood": {"handshakes_cut", "refused_rate"},
    "garbage": {"handshakes_garbage"},
    "slow_loris": {"handshakes_evicted", "handshakes_slow"},
    "replay": {"handshakes_garbage"},
    "wrong_authority": {"handshakes_untrusted"},
    "expired": {"handshakes_expired"},
    "revoked": {"refused_revoked"},
    "as_controller": {"refused_identities"},
    "as_another": {"refused_identities"},
    "oversized": {"oversized_frames"},
    "forged_order": {"malformed_frames"},
    "everything": {"malformed_frames", "refused_identities", "handshakes_garbage"},
}
MAY_ENTER = {
    "oversized",
    "forged_order",
    "everything",
}  # a stolen, unrevoked host may say Hello, as any host; nothing more


class Attacker:
    """Every attack is a coroutine that makes one attempt; `run` repeats it side by side for some seconds."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory
        self._sources = 0
        self._recorded = b""
        self._identities: dict[str, tuple[ssl.SSLContext, str]] = {}
        self._recording = asyncio.Lock()

    async def run(self, name: str, seconds: float) -> Tally:
        attack: Callable[[Tally], Awaitable[None]] = getattr(self, name)
        tally = {"tried": 0, "welcomed": 0}
        end = asyncio.get_running_loop().time() + seconds

        async def again() -> None:
            while asyncio.get_running_loop().time() < end:
                tally["tried"] += 1
                with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                    await asyncio.wait_for(attack(tally), 2.0)
                await asyncio.sleep(0)

        if name == "slow_loris":
            await self.slow_loris(tally, seconds)
        else:
            await asyncio.gather(*(again() for _ in range(AT_ONCE)))
        return tally

    # --- before TLS -----------------------------------------------------------------------------------------------------

    async def flood(self, _: Tally) -> None:
        """Connects and leaves."""
        writer = (await self._connect())[1]
        writer.transport.abort()

    async def garbage(self, _: Tally) -> None:
        """Bytes that are no TLS, until the other side has enough."""
        reader, writer = await self._connect()
        try:
            writer.write(os.urandom(random.randint(1, 4096)))
            await reader.read()
        finally:
            writer.transport.abort()

    async def slow_loris(self, tally: Tally, seconds: float) -> None:
        """Hundreds of handshakes that go on for ever, a byte at a time; who is thrown out comes again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def dawdle() -> None:
            while loop.time() < end:
                tally["tried"] += 1
                with contextlib.suppress(OSError):
                    _, writer = await self._connect()
                    try:
                        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03":
                            writer.write(bytes([byte]))
                            await writer.drain()
                            await asyncio.sleep(0.3)
                    finally:
                        writer.transport.abort()

        tasks = [asyncio.create_task(dawdle()) for _ in range(SLOW)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def replay(self, _: Tally) -> None:
        """What an honest host has sent over TLS, word for word, on a connection of our own."""
        async with self._recording:
            self._recorded = self._recorded or await self._record()
        reader, writer = await self._connect()
        try:
            writer.write(self._recorded)
            await reader.read()
        finally:
            writer.transport.abort()

    # --- with a certificate -----------------------------------------------------------------------------------------------

    async def wrong_authority(self, tally: Tally) -> None:
        await self._speak("wrong-authority", tally, {"interval_s": 1.0})

    async def expired(self, tally: Tally) -> None:
        await self._speak("expired", tally, {"interval_s": 1.0})

    async def revoked(self, tally: Tally) -> None:
        await self._speak("revoked", tally, {})

    async def as_controller(self, tally: Tally) -> None:
        """A stolen host that wants beats, as if it were a controller."""
        await self._speak("stolen", tally, {"interval_s": 1.0})

    async def as_another(self, tally: Tally) -> None:
        """A stolen host that calls itself another."""
        await self._speak("stolen", tally, {"name": "compute-1"})

    async def oversized(self, tally: Tally) -> None:
        """A frame of two gigabytes, announced."""
        await self._speak("stolen", tally, {}, (2**31 - 1).to_bytes(4, "big"))

    async def forged_order(self, tally: Tally) -> None:
        """A frame that a controller once sent, from a host."""
        frame = wire.encode(wire.OpenGate(request=1, boot_id="boot"))
        await self._speak("stolen", tally, {}, frame)

    async def everything(self, tally: Tally) -> None:
        """Any of these."""
        name = random.choice([name for name in ATTACKS if name not in ("everything", "slow_loris")])
        attack: Callable[[Tally], Awaitable[None]] = getattr(self, name)
        await attack(tally)

    # --- tools ------------------------------------------------------------------------------------------------------------

    async def _connect(self, context: ssl.SSLContext | None = None, port: int = 0) -> Streams:
        self._sources += 1
        source = f"127.0.0.{2 + self._sources % 8}"
        return await asyncio.open_connection(
            "127.0.0.1",
            port or self.port,
            local_addr=(source, 0),
            ssl=context,
            server_hostname="" if context is not None else None,
        )

    async def _speak(self, who: str, tally: Tally, hello: dict[str, object], then: bytes = b"") -> None:
        """TLS as `who`, Hello, and `then` once it is welcomed; until the other side ends it."""
        context, name = self._identity(who)
        reader, writer = await self._connect(context)
        try:
            body = json.dumps({"type": "Hello", "versions": [[1, 0]], "name": name, **hello}).encode()
            writer.write(len(body).to_bytes(4, "big") + body)
            size = int.from_bytes(await reader.readexactly(4), "big")
            answer = json.loads(await reader.readexactly(size))
            tally["welcomed"] += answer["type"] == "Welcome"
            writer.write(then)
            await reader.read()
        finally:
            writer.transport.abort()

    def _identity(self, who: str) -> tuple[ssl.SSLContext, str]:
        """Loaded once: the flood should not wait for us."""
        if who not in self._identities:
            home = self.directory / who
            name = certs.identity(certs.load_certificates(home / "cert.pem")[0])[1]
            self._identities[who] = certs.client_context(home), name
        return self._identities[who]

    async def _record(self) -> bytes:
        """Lets an honest connection pass through our hands, and keeps what its client sent."""
        kept = bytearray()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    kept.extend(data if keep else b"")
                    sink.write(data)
            sink.close()

        async def relay(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
            server, to_server = await self._connect()
            await asyncio.gather(pump(client, to_server, True), pump(server, to_client, False))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        context, name = self._identity("stolen")
        reader, writer = await self._connect(context, port)
        writer.write(wire.encode(wire.Hello(versions=wire.VERSIONS, name=name)))
        await reader.readexactly(4)
        writer.write(wire.encode(wire.Challenge(nonce="0" * 32)))
        await reader.readexactly(4)
        writer.transport.abort()
        server.close()
        return bytes(kept)


async def main(port: int, directory: Path) -> None:
    """Carries out orders until stdin ends."""
    attacker = Attacker(port, directory)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        attacker.port = int(line[2]) if line[2:] else port
        print(json.dumps(await attacker.run(line[0], float(line[1]))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
