"""Where a remote learns how its host is: systemd, or a small file in a lab. Never asked on the way of a heartbeat."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

from ha_agent.model import Health, Presence, Value
from ha_agent.ports import Clock

MAX_FILE = 1024 * 1024


class HealthReport(Value, frozen=True, kw_only=True):
    """How the services of a host are. `machine` of it is not here: that never changes."""

    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN


class HealthSource(Protocol):
    """Looks at the services. May be slow: it is called in a task of its own, with a deadline."""

    async def read(self) -> HealthReport: ...


class ProcessHealth:
    """Asks `systemctl is-active`, in a subprocess that is killed when the deadline of the caller passes. One that not even a kill ends
    (its disk hangs) has no successor until it is gone: they must not pile up."""

    # libvirt runs as one daemon or as several, activated by their sockets: an active socket is a libvirt that answers.
    LIBVIRT_UNITS = ("libvirtd.service", "virtqemud.service", "libvirtd.socket", "virtqemud.socket")

    def __init__(
        self,
        nova_compute_units: tuple[str, ...] = ("nova-compute.service", "openstack-nova-compute.service"),
        libvirt_units: tuple[str, ...] = LIBVIRT_UNITS,
        systemctl: str = "systemctl",
    ) -> None:
        self._nova_compute_units = nova_compute_units
        self._libvirt_units = libvirt_units
        self._systemctl = systemctl
        self._process: asyncio.subprocess.Process | None = None

    async def read(self) -> HealthReport:
        """UP where any of the units is active."""
        return HealthReport(
            nova_compute=await self._any_active(self._nova_compute_units),
            libvirt=await self._any_active(self._libvirt_units),
        )

    async def _any_active(self, units: tuple[str, ...]) -> Health:
        if self._process is not None and self._process.returncode is None:
            return Health.UNKNOWN
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                self._systemctl,
                "is-active",
                "--",
                *units,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            return Health.UNKNOWN
        try:
            out, _ = await process.communicate()
        except BaseException:
            process.kill()
            raise
        states = out.decode("ascii", "replace").split()
        if "active" in states:
            return Health.UP
        # "activating" is a gate that waits, or a start that goes on: not up yet. No line at all: systemd did not answer.
        return Health.DOWN if states else Health.UNKNOWN


class FileHealth:
    """Reads `{"nova_compute": "up", "libvirt": "up"}` from a file: for the demo, labs, and monitors that write it. In a thread: a disk
    that hangs must not stop the heartbeats."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="health")

    async def read(self) -> HealthReport:
        """UNKNOWN where the file is absent or cannot be read."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read)

    def _read(self) -> HealthReport:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE), type=HealthReport)
        except (OSError, msgspec.DecodeError):
            return HealthReport()


class FileGuests:
    """ports.GuestSource over a file: a JSON object whose keys are the servers that exist here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="guests")  # a disk may hang

    async def look(self, server: str) -> Presence:
        """None where the file is absent or cannot be read: unknown is not absent."""
        guests = await asyncio.get_running_loop().run_in_executor(self._threads, self._read)
        return Presence(present=None if guests is None else server in guests)

    def health(self) -> Health:
        """UP where the file can be read."""
        return Health.UNKNOWN if self._read() is None else Health.UP

    def _read(self) -> dict[str, msgspec.Raw] | None:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE), type=dict[str, msgspec.Raw])
        except (OSError, msgspec.DecodeError):
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
