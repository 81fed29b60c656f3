"""One hypervisor of the demo: a real remote behind cables that can be cut, and the compute that Nova knows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from ha_agent.heartbeat import gate
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.sources import FileGuests, FileHealth, HealthReport
from ha_agent.model import Health
from ha_agent.ports import Clock
from ha_agent.sim.nova_state import NovaState
from ha_agent.sim.wire_cut import Wire

BOOT_S = 2.0  # from power on to a remote that listens
COMPUTE_S = 0.5  # from an open gate to a nova-compute that reports


class Hypervisor:
    """`directory` holds its PKI files (in pki/) and its state. `management`: the cable to the controller; `neighbours`: the one to the
    other hosts."""

    def __init__(self, name: str, directory: Path, nova: NovaState, clock: Clock) -> None:
        self.name = name
        self.directory = directory
        self.management = Wire()
        self.neighbours = Wire()
        self.boot_id = ""
        self._nova = nova
        self._clock = clock
        self._remote: Remote | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._guests: frozenset[str] | None = None
        self._compute = Health.UP

    async def boot(self) -> None:
        """A new life: a new boot id, and a remote that listens."""
        self.boot_id = str(uuid.uuid4())
        await self.agent_start()

    async def agent_start(self) -> None:
        """The remote starts, in the boot that the host is in."""
        self._write_health()
        self.note_guests()
        config = RemoteConfig(
            pki=self.directory / "pki",
            state_directory=self.directory / "state",
            control_socket=self.directory / "remote.sock",
            listen="127.0.0.1",
            port=0,
            boot_id=self.boot_id,
            health_poll_s=0.5,
        )
        guests = FileGuests(self.directory / "guests.json")
        self._remote = Remote(config, self._clock, FileHealth(self.directory / "health.json"), guests)
        await self._remote.start()
        for wire in (self.management, self.neighbours):
            await wire.plug(self._remote.port)

    def power_off(self) -> None:
        """At once everything is gone, and nothing says goodbye. Returns when no guest runs any more."""
        self._nova.power_cut(self.name)
        self.management.cut()
        self.neighbours.cut()
        for task in self._tasks:
            task.cancel()
        self._compute = Health.DOWN
        self._later(self._agent_end())

    def power_on(self, boot_s: float = BOOT_S) -> None:
        """The host boots; its nova-compute waits at the gate."""
        self._nova.power_on(self.name)
        self._later(self._return(boot_s))

    def hang(self) -> None:
        """The kernel accepts connections, and that is all."""
        self._nova.freeze(self.name)
        self.management.mute()
        self.neighbours.mute()

    async def agent_crash(self) -> None:
        """Only the remote dies."""
        await self._agent_end()
        await self.management.refuse()
        await self.neighbours.refuse()

    def note_guests(self) -> None:
        """What the host's libvirt would say goes into the file that its remote reads."""
        guests = frozenset(self._nova.domains[self.name])
        if guests != self._guests:
            self._guests = guests
            write_durably(
                self.directory / "guests.json", msgspec.json.encode({server: {} for server in sorted(guests)})
            )

    async def close(self) -> None:
        """Nothing is left."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._agent_end()
        await self.management.close()
        await self.neighbours.close()

    async def _return(self, boot_s: float) -> None:
        await asyncio.sleep(boot_s)
        await self.boot()
        # what nova-compute's unit runs before it starts: no time-out, only a controller's word opens it
        await gate.wait(self.directory / "remote.sock", say=lambda line: None)
        await asyncio.sleep(COMPUTE_S)
        self._nova.compute_start(self.name)
        self._compute = Health.UP
        self._write_health()

    async def _agent_end(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.stop()

    def _write_health(self) -> None:
        report = HealthReport(nova_compute=self._compute, libvirt=Health.UP)
        write_durably(self.directory / "health.json", msgspec.json.encode(report))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
