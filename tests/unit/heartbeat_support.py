"""A little world of real remotes and monitors over loopback TLS, for the tests of the heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from ha_agent.heartbeat import certs, pki, wire
from ha_agent.heartbeat.channel import Channel, accept, dial
from ha_agent.heartbeat.link import Endpoint, MonitorOptions
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.sources import HealthReport
from ha_agent.model import Health
from ha_agent.ports import AnyObservation, GuestSource, GuestWatch, Observation
from ha_agent.system import SystemClock, SystemRandom

DEADLINE_S = 10.0  # of a test's wait; passing tests need milliseconds
NONCE = "0123456789abcdef0123456789abcdef"
QUICK = MonitorOptions(interval_s=0.05, dial_s=2.0, silence_s=2.0, retry_min_s=0.01, retry_max_s=0.05)
O = TypeVar("O", bound=Observation)  # noqa: E741 -- an observation


@functools.cache
def certificates(role: str, name: str, authority: str = "ours") -> Path:
    """The files of an identity, made once per run."""
    directory = _authority(authority)
    return directory.issue(role, name)


@functools.cache
def _authority(name: str) -> pki.Pki:
    made = pki.Pki(Path(_temporary().name) / name)
    made.init()
    return made


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ha-agent-test-")


class Well:
    """A health source: all is up."""

    async def read(self) -> HealthReport:
        return HealthReport(nova_compute=Health.UP, libvirt=Health.UP)


class Seen:
    """An observer that can be waited on. `all`: what was not looked at yet; `ever`: everything."""

    def __init__(self) -> None:
        self.all: list[AnyObservation] = []
        self.ever: list[AnyObservation] = []
        self._more = asyncio.Event()

    def __call__(self, observation: AnyObservation) -> None:
        self.all.append(observation)
        self.ever.append(observation)
        self._more.set()

    async def next(self, kind: type[O], test: Callable[[O], bool] = lambda _: True) -> O:
        """The next observation of this kind that passes the test; what comes before it is dropped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while self.all:
                    observation = self.all.pop(0)
                    if isinstance(observation, kind) and test(observation):
                        return observation
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def remote(
    directory: Path,
    name: str = "compute-1",
    *,
    config: Callable[[RemoteConfig], RemoteConfig] = lambda same: same,
    guests: GuestSource | None = None,
    watch: GuestWatch | None = None,
    boot_id: str = "boot-1",
    port: int = 0,
) -> AsyncIterator[Remote]:
    """A running remote; its files are in `directory`/`name`."""
    home = directory / name
    home.mkdir(exist_ok=True)
    settings = RemoteConfig(
        pki=certificates("host", name),
        state_directory=home,
        control_socket=home / "control",
        listen="127.0.0.1",
        port=port,
        boot_id=boot_id,
    )
    made = Remote(config(settings), SystemClock(), Well(), guests, watch=watch)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def monitor(
    hosts: dict[str, int],
    *,
    name: str = "controller-1",
    options: MonitorOptions = QUICK,
    certificate: Path | None = None,
) -> AsyncIterator[tuple[Monitor, Seen]]:
    """A running monitor of hosts on these ports of the loopback."""
    seen = Seen()
    endpoints = {host: Endpoint(address="127.0.0.1", port=port) for host, port in hosts.items()}
    directory = certificate or certificates("controller", name)
    made = Monitor(directory, endpoints, seen, SystemClock(), SystemRandom(), options)
    await made.start()
    try:
        yield made, seen
    finally:
        await made.stop()


async def session(port: int, directory: Path, interval_s: float | None = None, **hello: object) -> Channel:
    """A connection that has said Hello, its answer not read yet."""
    role, name = certs.identity(certs.load_certificates(directory / "cert.pem")[0])
    assert role
    channel = await dial("127.0.0.1", port, certs.client_context(directory), DEADLINE_S)
    fields: dict[str, object] = {"versions": [[1, 0]], "name": name, "interval_s": interval_s, **hello}
    channel._writer.write(raw({"type": "Hello", **fields}))
    return channel


def raw(body: object) -> bytes:
    """Any JSON as it would go over the wire."""
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return len(encoded).to_bytes(4, "big") + encoded


@contextlib.asynccontextmanager
async def impostor(directory: Path, answer: Callable[[Channel], Awaitable[None]]) -> AsyncIterator[int]:
    """A listener with a valid certificate that does what `answer` (a coroutine function) does. Yields its port."""
    listener = listening()
    context: ssl.SSLContext = certs.server_context(directory)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(sock: socket.socket) -> None:
        channel = await accept(sock, context, DEADLINE_S)
        try:
            await answer(channel)
        finally:
            channel.abort()

    async def run() -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            task = asyncio.ensure_future(serve(sock))
            tasks.add(task)

    tasks.add(asyncio.ensure_future(run()))
    try:
        yield listener.getsockname()[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()


async def welcomed(channel: Channel, name: str) -> wire.Hello:
    """The polite beginning of an impostor that calls itself `name`."""
    hello = await channel.receive(DEADLINE_S)
    assert isinstance(hello, wire.Hello)
    channel.send(wire.Welcome(version=(1, 0), name=name, boot_id="boot-1"))
    return hello


def listening() -> socket.socket:
    """A listening socket that nobody serves yet: its kernel accepts, and says nothing."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    sock.setblocking(False)
    return sock


def closed_port() -> int:
    """A port that refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def until(test: Callable[[], bool]) -> None:
    """Waits for something that no event tells of."""
    async with asyncio.timeout(DEADLINE_S):
        while not test():  # noqa: ASYNC110 -- plain state, nobody sets an event for it
            await asyncio.sleep(0.005)
