"""Where a remote learns how its host is: systemd, or a small file in a lab. Never asked on the way of a heartbeat."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Protocol

import msgspec

from ha_agent.aside import Aside
from ha_agent.model import Health, Presence, Value
from ha_agent.ports import Clock

MAX_FILE = 1024 * 1024
ASK_S = 8.0  # less than a report may be old


class HealthReport(Value, frozen=True, kw_only=True):
    """How the services of a host are. `machine` of it is not here: that never changes."""

    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN


class HealthSource(Protocol):
    """Looks at the services. May be slow: it is called in a task of its own, with a deadline."""

    async def read(self) -> HealthReport: ...


class ProcessHealth:
    """Asks `systemctl is-active`, in a subprocess that is killed when it takes too long. One that not even a kill ends (its disk hangs) has
    no successor until it is gone: they must not pile up."""

    # libvirt runs as one daemon or as several, activated by their sockets: an active socket is a libvirt that answers.
    LIBVIRT_UNITS = ("libvirtd.service", "virtqemud.service", "libvirtd.socket", "virtqemud.socket")

    def __init__(
        self,
        nova_compute_units: tuple[str, ...] = ("nova-compute.service", "openstack-nova-compute.service"),
        libvirt_units: tuple[str, ...] = LIBVIRT_UNITS,
        systemctl: str = "systemctl",
    ) -> None:
        self._nova_compute_units = nova_compute_units
        self._units = (*nova_compute_units, *libvirt_units)
        self._systemctl = systemctl
        self._aside = Aside("systemctl")
        self._process: subprocess.Popen[bytes] | None = None

    async def read(self) -> HealthReport:
        """UP where any of the units is active. UNKNOWN where systemd does not tell all of them."""
        if self._aside.busy:
            return HealthReport()
        try:
            # To start a program means to read it from the disk, so that as well is done in the thread.
            out = await self._aside.run(self._ask, None)
        except OSError:
            return HealthReport()
        except asyncio.CancelledError:
            if self._process is not None:
                self._process.kill()
            raise
        states = out.decode("ascii", "replace").split()
        if len(states) != len(self._units):
            return HealthReport()
        split = len(self._nova_compute_units)
        return HealthReport(nova_compute=_any_active(states[:split]), libvirt=_any_active(states[split:]))

    def _ask(self) -> bytes:
        """A line for each unit. Raises OSError."""
        process = self._process = subprocess.Popen(  # noqa: S603 -- no shell, and the units are ours
            [self._systemctl, "is-active", "--", *self._units],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            return process.communicate(timeout=ASK_S)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return b""


def _any_active(states: list[str]) -> Health:
    # "activating" is a gate that waits, or a start that goes on: not up yet.
    return Health.UP if "active" in states else Health.DOWN


class FileHealth:
    """Reads `{"nova_compute": "up", "libvirt": "up"}` from a file: for the demo, labs, and monitors that write it. In a thread: a disk
    that hangs must not stop the heartbeats."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = Aside("health")

    async def read(self) -> HealthReport:
        """UNKNOWN where the file is absent or cannot be read. Raises TimeoutError where that takes too long."""
        return await self._aside.run(self._read, ASK_S)

    def _read(self) -> HealthReport:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE), type=HealthReport)
        except (OSError, ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
            return HealthReport()


class FileGuests:
    """ports.GuestSource over a file: a JSON object whose keys are the servers that exist here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = Aside("guests", 2)  # a disk may hang

    async def look(self, server: str) -> Presence:
        """None where the file is absent or cannot be read: unknown is not absent. Raises TimeoutError where that takes too long."""
        guests = await self._aside.run(self._read, ASK_S)
        return Presence(present=None if guests is None else server in guests)

    def health(self) -> Health:
        """UP where the file can be read."""
        return Health.UNKNOWN if self._read() is None else Health.UP

    def _read(self) -> dict[str, msgspec.Raw] | None:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE), type=dict[str, msgspec.Raw])
        except (OSError, ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
            return None


class NoGuests:
    """ports.GuestSource of a remote that cannot see its guests: it says so."""

    async def look(self, server: str) -> Presence:
        """Always None."""
        del server
        return Presence(present=None)

    def health(self) -> Health:
        """Always UNKNOWN."""
        return Health.UNKNOWN


class CachedHealth:
    """The last report and its age, for those who must not wait."""

    def __init__(self, source: HealthSource, clock: Clock, poll_s: float = 2.0, stale_s: float = 10.0) -> None:
        self._source = source
        self._clock = clock
        self._poll_s = poll_s
        self._stale_s = stale_s
        self._report = HealthReport()
        self._at = clock.now()

    def get(self) -> HealthReport:
        """The last report; all UNKNOWN once it is too old."""
        return self._report if self._clock.now() - self._at <= self._stale_s else HealthReport()

    async def run(self) -> None:
        """Looks again and again, until cancelled. A source that hangs or fails leaves the report to grow old."""
        while True:
            try:
                async with asyncio.timeout(self._stale_s):
                    at = self._clock.now()
                    self._report = await self._source.read()
                    self._at = at
            except (TimeoutError, OSError, ValueError):
                pass
            await asyncio.sleep(self._poll_s)
