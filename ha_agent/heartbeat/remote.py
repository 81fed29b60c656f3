"""The remote: the small daemon on a host. It listens; controllers dial it for heartbeats, other hosts to probe it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import certs, wire
from ha_agent.heartbeat.channel import Channel, accept
from ha_agent.heartbeat.claims import Claims
from ha_agent.heartbeat.control import ControlServer, RemoteStatus
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.gate import Gate
from ha_agent.heartbeat.session import Host, Session, challenges
from ha_agent.heartbeat.signing import Signer, Verifier
from ha_agent.heartbeat.sources import CachedHealth, HealthSource, NoGuests
from ha_agent.ports import Clock, GuestSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How a remote runs. Its name is the one in its certificate. `boot_id`: for many "hosts" on one machine; None: the kernel's.
    `machine_file`: holds the DMI uuid, written by root; None: unknown. `port` 0: any free one.
    `override_uids`: who may override the gate; None: root and the remote's own user."""

    pki: Path
    state_directory: Path
    control_socket: Path
    listen: str = "0.0.0.0"  # noqa: S104 -- the operator sets the management address; the certificates guard it
    port: int = 7420
    boot_id: str | None = None
    machine_file: Path | None = None
    override_uids: frozenset[int] | None = None
    handshake_s: float = 5.0
    challenger_idle_s: float = 10.0
    max_connections: int = 256
    max_per_address: int = 64
    health_poll_s: float = 2.0
    health_stale_s: float = 10.0


class Remote:
    """One host's remote. All its counts are in `counters`."""

    def __init__(
        self,
        config: RemoteConfig,
        clock: Clock,
        health: HealthSource,
        guests: GuestSource | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters if counters is not None else Counters()
        self._config = config
        self._clock = clock
        self._health = CachedHealth(health, clock, config.health_poll_s, config.health_stale_s)
        self._guests = guests if guests is not None else NoGuests()
        self._per_address: Counter[str] = Counter()
        self._served: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: socket.socket | None = None
        self.port = config.port

    @property
    def name(self) -> str:
        """The host's name, from its certificate. Only after `start`."""
        return self._host.signer.name

    @property
    def gate(self) -> Gate:
        """The host's gate. Only after `start`."""
        return self._host.gate

    async def start(self) -> None:
        """Listens. Raises UsageError: files that cannot be used, an address or a socket that is taken, a certificate of another role."""
        config = self._config
        signer = Signer(config.pki)
        if signer.role != "host":
            raise UsageError(
                f"{config.pki / 'cert.pem'} is a controller's", "issue one with `ha-agent pki issue host NAME`"
            )
        try:
            config.state_directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise UsageError(f"{config.state_directory} cannot be made: {error.strerror}") from None
        boot_id = config.boot_id or self._clock.boot_id()
        self._host = Host(
            boot_id=boot_id,
            started_at=self._clock.now(),
            machine=_machine(config.machine_file),
            clock=self._clock,
            gate=Gate(config.state_directory, boot_id, self._clock),
            health=self._health,
            guests=self._guests,
            guest_threads=ThreadPoolExecutor(2, thread_name_prefix="guests"),
            signer=signer,
            verifier=Verifier(config.pki),
            dial_context=certs.client_context(config.pki),
            claims=Claims(self._clock),
            counters=self.counters,
            challenger_idle_s=config.challenger_idle_s,
        )
        self._context = certs.server_context(config.pki)
        self._listener = _listen(config.listen, config.port)
        self.port = self._listener.getsockname()[1]
        overriders = config.override_uids if config.override_uids is not None else frozenset({0, os.geteuid()})
        self._control = ControlServer(config.control_socket, self._host.gate, self.status, overriders)
        try:
            await self._control.start()
        except UsageError:
            self._listener.close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._accept(self._listener)), loop.create_task(self._health.run())]
        log.info("remote %s listens on %s:%d in boot %s", self.name, config.listen, self.port, boot_id)

    async def stop(self) -> None:
        """Ends everything; the gate's state stays on disk."""
        if self._listener is None:
            return
        tasks = [*self._tasks, *self._served]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        self._listener = None
        await self._control.stop()
        self._host.guest_threads.shutdown(wait=False, cancel_futures=True)

    def status(self) -> RemoteStatus:
        """How it is, for a human."""
        report = self._health.get()
        return RemoteStatus(
            name=self.name,
            boot_id=self._host.boot_id,
            port=self.port,
            controllers=tuple(sorted(self._host.sessions)),
            gate_open=self._host.gate.is_open,
            waiting_gate=self._host.gate.waiting > 0,
            nova_compute=report.nova_compute,
            libvirt=report.libvirt,
            machine=self._host.machine,
            counters=dataclasses.asdict(self.counters),
        )

    async def _accept(self, listener: socket.socket) -> None:
        """Takes connections. Those over a cap are closed before they cost a handshake."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, where = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the peer is gone already
                log.warning("accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            address = str(where[0])
            full = len(self._served) >= self._config.max_connections
            if full or self._per_address[address] >= self._config.max_per_address:
                self.counters.caps_hit += 1
                sock.close()
                continue
            self._per_address[address] += 1
            task = loop.create_task(self._serve(sock, address))
            self._served.add(task)
            task.add_done_callback(self._served.discard)

    async def _serve(self, sock: socket.socket, address: str) -> None:
        """One connection, from handshake to end: whatever goes wrong with it ends it, is counted, and harms no other."""
        try:
            channel = await self._greeted(sock)
            if channel is None:
                return
            try:
                await self._session(*channel)
            finally:
                channel[0].abort()
        except ProtocolError as error:
            self.counters.malformed_frames += 1
            log.warning("%s: connection closed: %s", address, error)
        except TimeoutError:
            self.counters.idle_closed += 1
            log.info("%s: connection closed: nothing came for too long", address)
        except OSError as error:
            log.info("%s: connection ended: %s", address, error)
        finally:
            self._per_address[address] -= 1
            if self._per_address[address] <= 0:
                del self._per_address[address]

    async def _greeted(self, sock: socket.socket) -> tuple[Channel, wire.Hello] | None:
        """TLS and Hello within one deadline. None where they did not come about (counted). Raises ProtocolError."""
        channel: Channel | None = None
        done = False
        try:
            async with asyncio.timeout(self._config.handshake_s):
                channel = await accept(sock, self._context, self._config.handshake_s)
                hello = await channel.receive(self._config.handshake_s)
            if not isinstance(hello, wire.Hello):
                raise ProtocolError(f"the first frame is {type(hello).__name__}, not Hello")
            version = wire.negotiate(hello.versions)
            if hello.name != channel.name:
                self.counters.refused_identities += 1
                await self._refuse(channel, f"your certificate names {channel.role} {channel.name}, your Hello another")
                return None
            if hello.interval_s is not None and channel.role != "controller":
                self.counters.refused_identities += 1
                await self._refuse(channel, "beats are for controllers; your certificate is a host's")
                return None
            channel.send(wire.Welcome(version=version, name=self.name, boot_id=self._host.boot_id))
            self.counters.connections += 1
            done = True
            return channel, hello
        except ProtocolError as error:
            if channel is not None:
                await self._refuse(channel, str(error))
            raise
        except UsageError as error:
            self.counters.refused_identities += 1
            log.warning("connection refused: %s", error)
        except (OSError, TimeoutError) as error:
            self.counters.handshake_failures += 1
            log.info("handshake failed: %s", error or "too slow")
        finally:
            if channel is not None and not done:
                channel.abort()
        return None

    async def _session(self, channel: Channel, hello: wire.Hello) -> None:
        if hello.interval_s is None:
            await challenges(channel, self._host)
            return
        sessions = self._host.sessions
        earlier = sessions.get(channel.name)
        if earlier is not None:
            earlier.end()
        session = sessions[channel.name] = Session(channel, self._host, hello, hello.interval_s)
        try:
            await session.run()
        finally:
            if sessions.get(channel.name) is session:
                del sessions[channel.name]

    @staticmethod
    async def _refuse(channel: Channel, reason: str) -> None:
        """Says why, and ends it."""
        log.warning("%s %s refused: %s", channel.role, channel.name, reason)
        channel.send(wire.Refused(reason=reason[:1000]))
        await channel.close()


def _listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {address}:{port}: {error.strerror or error}",
            "set `listen` to a free address of this host",
        ) from None
    return listener


def _machine(path: Path | None) -> str:
    """The DMI uuid that root has left for us; empty where it has not."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip().lower()
    except OSError:
        return ""
