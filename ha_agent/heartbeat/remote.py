"""The remote: the small daemon on a host. It listens; controllers dial it for heartbeats, other hosts to probe it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from ha_agent.errors import UsageError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.admission import Limits
from ha_agent.heartbeat.aside import Aside
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.claims import Claims
from ha_agent.heartbeat.control import ControlServer, RemoteStatus
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.door import Door, listen
from ha_agent.heartbeat.expiry import Note, Reminder, Thresholds, authority_days, notes, own_days
from ha_agent.heartbeat.gate import Gate
from ha_agent.heartbeat.session import Host, Session, challenges
from ha_agent.heartbeat.sources import CachedHealth, HealthSource, NoGuests
from ha_agent.ports import Clock, GuestSource

log = logging.getLogger(__name__)

REMIND_S = 600.0
RECALL_S = 1.0  # a disk that takes longer hangs; heartbeats do not wait for it


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How a remote runs. Its name is the one in its certificate. `boot_id`: for many "hosts" on one machine; None: the kernel's.
    `machine_file`: holds the DMI uuid, written by root; None: unknown. `port` 0: any free one. `listen_also`: further addresses with
    their ports, of which a plane that is lost at the start keeps the remote from none of the others.
    `override_uids`: who may override the gate; None: root and the remote's own user."""

    pki: Path
    state_directory: Path
    control_socket: Path
    listen: str = "0.0.0.0"  # noqa: S104 -- the operator sets the management address; the certificates guard it
    port: int = 7420
    listen_also: tuple[tuple[str, int], ...] = ()
    boot_id: str | None = None
    machine_file: Path | None = None
    override_uids: frozenset[int] | None = None
    handshake_s: float = 5.0
    challenger_idle_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    expiry: Thresholds = field(default_factory=Thresholds)
    pki_poll_s: float = 5.0
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
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[socket.socket] = []
        self.port = config.port

    @property
    def name(self) -> str:
        """The host's name, from its certificate. Only after `start`."""
        return self._host.credentials.name

    @property
    def gate(self) -> Gate:
        """The host's gate. Only after `start`."""
        return self._host.gate

    async def start(self) -> None:
        """Listens. Raises UsageError: files that cannot be used, an address or a socket that is taken, a certificate of another role."""
        config = self._config
        credentials = Credentials(config.pki)
        if credentials.role != "host":
            raise UsageError(
                f"{config.pki / 'cert.pem'} is a controller's", "issue one with `ha-agent pki issue host NAME`"
            )
        boot_id = config.boot_id or self._clock.boot_id()
        gate = Gate(config.state_directory, boot_id, self._clock)
        await self._recall(gate)
        self._host = Host(
            boot_id=boot_id,
            started_at=self._clock.now(),
            machine=_machine(config.machine_file),
            clock=self._clock,
            gate=gate,
            health=self._health,
            guests=self._guests,
            guest_threads=Aside("guests", 2),
            credentials=credentials,
            claims=Claims(self._clock),
            counters=self.counters,
            challenger_idle_s=config.challenger_idle_s,
        )
        self._door = Door(credentials, self.counters, boot_id, config.limits, config.handshake_s, self._session)
        self._listen()
        overriders = config.override_uids if config.override_uids is not None else frozenset({0, os.geteuid()})
        self._control = ControlServer(config.control_socket, self._host.gate, self.status, overriders)
        try:
            await self._control.start()
        except UsageError:
            self._close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks += [
            *(loop.create_task(self._door.stand(each)) for each in self._listeners),
            loop.create_task(self._health.run()),
            loop.create_task(self._remind()),
            loop.create_task(credentials.watch(config.pki_poll_s, self._door.reconsider)),
        ]
        also = "".join(f" and {address}:{port}" for address, port in config.listen_also)
        log.info("remote %s listens on %s:%d%s in boot %s", self.name, config.listen, self.port, also, boot_id)

    def _listen(self) -> None:
        config = self._config
        several = bool(config.listen_also)
        try:
            for address, port in ((config.listen, config.port), *config.listen_also):
                self._listeners.append(listen(address, port, absent_too=several))
        except UsageError:
            self._close()
            raise
        self.port = self._listeners[0].getsockname()[1]

    def _close(self) -> None:
        while self._listeners:
            self._listeners.pop().close()

    async def stop(self) -> None:
        """Ends everything; the gate's state stays on disk."""
        if not self._listeners:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._door.close()
        self._close()
        await self._control.stop()
        self._host.credentials.close()

    def notes(self) -> list[Note]:
        """What somebody should see to."""
        found = notes(self._host.credentials, self._door.peers(), self._clock.wall(), self._config.expiry)
        if not self._host.gate.recalled:
            text = (
                f"{self._config.state_directory} cannot be read: its disk hangs, or see the log; the gate stays closed"
            )
            found.append(Note(key="gate", text=text, urgent=True))
        return found

    def status(self) -> RemoteStatus:
        """How it is, for a human."""
        report = self._health.get()
        credentials, wall = self._host.credentials, self._clock.wall()
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
            certificate_days=own_days(credentials, wall),
            authority_days=authority_days(credentials, wall),
            notes=tuple(note.text for note in self.notes()),
        )

    async def _recall(self, gate: Gate) -> None:
        """The gate's state is read before anybody hears of us, unless its disk hangs. Raises UsageError."""
        recalling = asyncio.get_running_loop().create_task(gate.recall())
        await asyncio.wait({recalling}, timeout=RECALL_S)
        if recalling.done():
            recalling.result()
        else:
            log.warning("%s cannot be read yet; the gate is closed until it can", self._config.state_directory)
            recalling.add_done_callback(_recalled)
            self._tasks.append(recalling)

    async def _remind(self) -> None:
        reminder = Reminder()
        while True:
            reminder.remind(self.notes(), self._clock.now())
            await asyncio.sleep(REMIND_S)

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


def _recalled(late: asyncio.Task[None]) -> None:
    """The disk has answered after all."""
    if late.cancelled():
        return
    error = late.exception()
    if error is None:
        log.info("the gate's state has been read")
    else:
        log.error("the gate stays closed: %s", error)


def _machine(path: Path | None) -> str:
    """The DMI uuid that root has left for us; empty where it has not."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip().lower()
    except OSError:
        return ""
