"""A small cloud of real processes, whose controller may be killed at any moment.

    async with Rig(directory) as rig:
        await rig.start_controller()
        await rig.ready()
        rig.lose("compute-1")            # cut off from everybody, its guests run on: only an off ends them
        await rig.kill_controller()      # SIGKILL; its fencing workers must be gone with it
        await rig.start_controller()

Real: OpenIPMI's ipmi_sim, whose off kills a process group; remotes, gate, TLS; the controller with SQLite on disk. Simulated: Nova, over
HTTP, in this process, so that it outlives every controller.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.pki import Pki
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import NovaState, SimHost
from tests.integration.controller_process import ROOT
from tests.integration.ipmi_sim import IpmiSim
from tests.integration.rig_cable import PowerWire
from tests.integration.rig_controller import ControllerProcess

HOSTS = ("compute-1", "compute-2", "compute-3")
TAG = "automatic-recovery"
# (name, tags, stopped): what runs on compute-1. All boot from volumes.
SERVERS = (
    ("db", (TAG, "recovery-priority:10"), False),
    ("web-1", (TAG,), False),
    ("web-2", (TAG,), False),
    ("web-3", (TAG,), False),
    ("spare", (TAG,), True),
    ("scratch", (), False),
)


class WatchedNova(NovaState):
    """Nova's simulator, and a list of what it was told of services: (host, forced_down)."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        super().__init__(clock, rng)
        self.told: list[tuple[str, bool]] = []
        self.slow(False)

    def slow(self, yes: bool) -> None:
        """Whether evacuations that are asked for from now on outlast a restart of the controller."""
        self._evacuation_s = (7.0, 8.0) if yes else (1.2, 1.6)

    def force_down(self, service_id: str, value: bool) -> SimHost:
        """Kept where Nova accepted it."""
        row = super().force_down(service_id, value)
        self.told.append((row.name, value))
        return row


class Rig(ControllerProcess):
    """See the module. One event loop runs all of it."""

    def __init__(
        self,
        directory: Path,
        second_level: Mapping[str, object] | None = None,
        notifications: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(directory, HOSTS)
        self._notifications = notifications  # as it stands in the config
        self._second_level = second_level  # a device of compute-1, as it stands in the config
        self.nova = WatchedNova(time.monotonic, random.Random(7))
        self.api = NovaApi(self.nova)
        self.bmcs: dict[str, IpmiSim] = {}
        self.cables = {name: PowerWire() for name in HOSTS}
        self.boots: list[str] = []  # hosts, in the order in which they booted
        self._guests: dict[str, frozenset[str]] = {}
        self._server: asyncio.Server | None = None
        self._lives: set[asyncio.Task[None]] = set()
        self._clerk: asyncio.Task[None] | None = None

    # --- coming and going ---

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True)
        try:
            await self._build()
        except BaseException:
            await self._tear_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tear_down()

    async def _build(self) -> None:
        pki = Pki(self.directory / "ca")
        pki.init()
        pki.issue("controller", "controller-1", self.directory / "pki")
        await self.api.start()
        for name in HOSTS:
            self.nova.add_host(name)
            (self.directory / name).mkdir()
            pki.issue("host", name, self.directory / name / "pki")
        for server, tags, stopped in SERVERS:
            self.nova.add_server(HOSTS[0], server, tags=tags, stopped=stopped)
        self._note_guests()
        self._server = await asyncio.start_unix_server(self._host_lives, self.directory / "rig.sock")
        for name in HOSTS:
            program = [sys.executable, "-m", "tests.integration.rig_host", str(self.directory / name)]
            log = shlex.quote(str(self.directory / name / "log"))
            command = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(program)} >> {log} 2>&1"
            self.bmcs[name] = IpmiSim(self.directory / "bmc", name, command)
        starts = [asyncio.to_thread(bmc.start) for bmc in self.bmcs.values()]
        for result in await asyncio.gather(*starts, return_exceptions=True):  # none is left behind in the middle of it
            if result is not None:
                raise result
        self.configure(
            self.api.cloud(),
            {name: bmc.port for name, bmc in self.bmcs.items()},
            {name: cable.port for name, cable in self.cables.items()},
            second_level=self._second_level,
            notifications=self._notifications,
        )
        self._clerk = asyncio.create_task(self._write_down())
        await self.until(lambda: set(self.boots) == set(HOSTS), 30, "the hosts boot")

    async def _tear_down(self) -> None:
        self.end_controller()
        if self._clerk is not None:
            self._clerk.cancel()
            await asyncio.gather(self._clerk, return_exceptions=True)
        for bmc in self.bmcs.values():
            if bmc.installed:
                await asyncio.to_thread(bmc.stop)
        if self._server is not None:
            self._server.close()
        for task in self._lives:
            task.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        for cable in self.cables.values():
            await cable.close()
        await self.api.stop()

    # --- hosts ---

    def lose(self, name: str) -> None:
        """The host is cut off from everybody. It runs on, and so do its guests, until somebody switches it off."""
        self.cables[name].cut()
        self.nova.isolate(name)

    async def _host_lives(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One boot of one host: it ends when the kernel closes the connection of its killed process."""
        task = asyncio.current_task()
        assert task is not None
        self._lives.add(task)
        name = ""
        try:
            while line := (await reader.readline()).decode().split():
                if line[0] == "boot":
                    name = line[1]
                    self.nova.power_on(name)
                    self.nova.join(name)
                    await self.cables[name].plug(int(line[2]))
                    self.boots.append(name)
                else:
                    self.nova.compute_start(name)
                writer.write(b"ok\n")
        except ConnectionError:
            pass
        finally:
            if name:
                self.nova.power_cut(name)
                self.cables[name].cut()
            writer.close()
            self._lives.discard(task)

    async def _write_down(self) -> None:
        """Time passes in Nova, and each host's "libvirt" lists its domains."""
        while True:
            self.nova.tick()
            self._note_guests()
            await asyncio.sleep(0.05)

    def _note_guests(self) -> None:
        for name in HOSTS:
            guests = frozenset(self.nova.domains[name])
            if self._guests.get(name) != guests:
                self._guests[name] = guests
                listed = msgspec.json.encode({server: {} for server in sorted(guests)})
                write_durably(self.directory / name / "guests.json", listed)
