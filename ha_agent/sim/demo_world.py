"""The world of the demo: hypervisors, BMCs, Nova, the bus, all on loopback, and a clerk who writes down what happens."""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import random
import uuid
from pathlib import Path
from typing import Any

import kombu as _kombu

from ha_agent.heartbeat.pki import Pki
from ha_agent.notify import wire
from ha_agent.notify.bus import PRIORITIES
from ha_agent.ports import Clock
from ha_agent.sim.bmc import PASSWORD, BmcFarm, Fault
from ha_agent.sim.demo_books import Books, Guest, WatchedNova
from ha_agent.sim.demo_failures import Failure
from ha_agent.sim.demo_host import Hypervisor
from ha_agent.sim.nova_api import NovaApi
from ha_agent.sim.nova_state import EVACUATION

kombu: Any = _kombu

LOOK_S = 0.05
SWITCH_S = 5.0  # how long a BMC waits for its host to be switched
TAG = "automatic-recovery"
# What the servers of a host are, in turn: (what its name says, tags, boots from a volume, stopped)
KINDS: tuple[tuple[str, tuple[str, ...], bool, bool], ...] = (
    ("db", (TAG, "recovery-priority:10"), True, False),
    ("scratch", (), True, False),
    ("web", (TAG,), True, False),
    ("cache", (TAG,), False, False),  # image-backed: an evacuation would lose its data
    ("spare", (TAG,), True, True),  # stopped: it must stay so
    ("api", (TAG,), True, False),
)


class World:
    """Everything but the controller. `controller_pki`: its certificate; `bmc_password`: a file."""

    def __init__(self, directory: Path, failure: Failure, hosts: int, instances: int, seed: int, clock: Clock) -> None:
        self.books = Books()
        self.nova = WatchedNova(
            clock.now, random.Random(f"{seed} nova"), self.books, failure.detection.nova_report_interval_s
        )
        self.api = NovaApi(self.nova)
        self.farm = BmcFarm()
        self.topic = f"demo-{uuid.uuid4().hex}"  # kombu's memory transport is one for the whole process
        self.ports: dict[str, int] = {}
        self.hosts: dict[str, Hypervisor] = {}
        self.controller_pki = directory / "controller"
        self.bmc_password = directory / "bmc-password"
        self._failure = failure
        self._clock = clock
        self._directory = directory
        self._switched: dict[str, int] = {}
        self._clerk: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._log = _Errors(self.books)
        chance = random.Random(f"{seed} servers")
        for number in range(1, hosts + 1):
            self._add_host(f"compute-{number}")
        names = list(self.hosts)
        for number in range(instances):
            self._add_server(names[number % hosts], KINDS[(number // hosts) % len(KINDS)], number, chance)
        self.books.host = random.Random(f"{seed} host").choice(names)

    @property
    def failed(self) -> Hypervisor:
        """The host that fails."""
        return self.hosts[self.books.host]

    async def start(self) -> None:
        """Everything runs, and nothing is wrong yet."""
        logging.getLogger().addHandler(self._log)
        await self.api.start()
        self._issue()
        self.farm.start()
        loop = asyncio.get_running_loop()
        for name, host in self.hosts.items():
            await host.boot()
            self.ports[name] = await asyncio.to_thread(self.farm.add, name, functools.partial(self._switch, loop, host))
        self._switched = dict.fromkeys(self.hosts, 0)
        self._connection = kombu.Connection("memory://")
        self._queues = [self._connection.SimpleQueue(f"{self.topic}.{p}", no_ack=True) for p in PRIORITIES]
        self._clerk = asyncio.create_task(self._write_down())

    async def stop(self) -> None:
        """Nothing is left but the directory."""
        if self._clerk is not None:
            self._clerk.cancel()
            await asyncio.gather(self._clerk, return_exceptions=True)
        for host in self.hosts.values():
            await host.close()
        await self.api.stop()
        await asyncio.to_thread(self.farm.stop)
        if self._connection is not None:
            self._connection.close()
        logging.getLogger().removeHandler(self._log)

    def finish(self) -> None:
        """The last look into everything."""
        if self._clerk is None:
            return
        self._look()
        books, nova = self.books, self.nova
        for server in nova.servers.values():
            books.ends[server.id] = (server.status, server.host, tuple(sorted(nova.runs.get(server.id, ()))))
        books.unfinished = [m.server for m in nova.migrations if m.kind == EVACUATION and m.status != "completed"]
        row = nova.hosts[books.host]
        books.up_again = row.powered and row.compute and not row.forced_down and nova.is_up(books.host)
        books.doubles += [server for _, server, _ in nova.double_history]
        books.ruined = list(nova.ruined)

    # --- what can happen ---------------------------------------------------------------------------------------------

    def cut_power(self, *, bmc_dead: bool = False) -> None:
        """The failed host loses its power; its BMC has its own, if it lives."""
        self.farm.set_power(self.books.host, False)
        if bmc_dead:
            self.farm.fault(self.books.host, Fault.DEAD)
        self.failed.power_off()

    def repair(self) -> None:
        """Somebody changes the BMC and presses the power button."""
        self.farm.fault(self.books.host, None)
        self.farm.set_power(self.books.host, True)
        self.failed.power_on()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _switch(self, loop: asyncio.AbstractEventLoop, host: Hypervisor, on: bool) -> None:
        """In the farm's thread: the power has changed when this returns, and only then does the BMC say so."""

        async def switch() -> None:
            if on:
                host.power_on()
            else:
                host.power_off()

        asyncio.run_coroutine_threadsafe(switch(), loop).result(SWITCH_S)

    def _add_host(self, name: str) -> None:
        self.nova.add_host(name)
        directory = self._directory / name
        directory.mkdir()
        self.hosts[name] = Hypervisor(name, directory, self.nova, self._clock)

    def _add_server(
        self, host: str, kind: tuple[str, tuple[str, ...], bool, bool], number: int, chance: random.Random
    ) -> None:
        what, tags, volume, stopped = kind
        if number >= len(self.hosts) and tags and chance.random() < 0.1:
            tags, what = (), "scratch"  # hosts differ, but each has a server to recover
        name = f"{what}-{number + 1:02d}"
        server = self.nova.add_server(host, name, tags=tags, volume=volume, stopped=stopped)
        self.books.guests[server.id] = Guest(
            id=server.id, name=name, host=host, runs=not stopped, tagged=TAG in tags, image_backed=not volume
        )

    def _issue(self) -> None:
        """A certificate for everybody."""
        pki = Pki(self._directory / "ca")
        pki.init()
        pki.issue("controller", "controller-1", self.controller_pki)
        for name, host in self.hosts.items():
            pki.issue("host", name, host.directory / "pki")
        self.bmc_password.write_text(PASSWORD, encoding="ascii")
        self.bmc_password.chmod(0o600)

    async def _write_down(self) -> None:
        """The clerk: looks often, changes nothing."""
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        books, now = self.books, self._clock.now()
        books.doubles += self.nova.double_runs()
        for name, host in self.hosts.items():
            commands = self.farm.commands(name)
            books.switched += [(now, name, command) for command in commands[self._switched[name] :]]
            self._switched[name] = len(commands)
            host.note_guests()
        if books.recovered_at is None and books.died_at is not None and self._recovered():
            books.recovered_at = now
        books.notes += [(now, note) for note in sorted(self._arrived(), key=lambda n: n.wall)]

    def _recovered(self) -> bool:
        """Whether every protected server of the failed host is as it was: elsewhere, or started again where it is."""
        started = {server for _, server in self.books.started}
        for guest in self.protected:
            row = self.nova.servers[guest.id]
            wanted = ("ACTIVE", {row.host}) if guest.runs else ("SHUTOFF", set())
            moved = guest.id in started or not guest.runs if self._failure.restarted else row.host != guest.host
            if not moved or row.task_state or (row.status, self.nova.runs.get(guest.id, set())) != wanted:
                return False
        return self._failure.fenced or self._failure.restarted

    @property
    def protected(self) -> list[Guest]:
        """The servers of the failed host that must be recovered."""
        return [g for g in self.books.guests.values() if g.host == self.books.host and self._failure.recovers(g)]

    def landed(self) -> int:
        """How many of them are elsewhere by now."""
        rows = [self.nova.servers[g.id] for g in self.protected]
        return sum(row.host != self.books.host and not row.task_state for row in rows)

    def _arrived(self) -> list[Any]:
        arrived = []
        for one in self._queues:
            while True:
                try:
                    arrived.append(wire.decode(one.get_nowait().payload))
                except queue.Empty:
                    break
        return arrived


class _Errors(logging.Handler):
    """Nothing is expected to be logged as an error. Whatever is, the judge gets to read."""

    def __init__(self, books: Books) -> None:
        super().__init__(logging.ERROR)
        self._books = books

    def emit(self, record: logging.LogRecord) -> None:
        self._books.errors.append(f"{record.name}: {record.getMessage()}")
