"""Nova as a state machine: what it accepts, what it does then, and what really runs where. No I/O, no threads, no clock of its own.

The HTTP simulator serves it to openstacksdk; the virtual-time simulator drives it directly. The rules are those that a real
Nova showed, the unpleasant ones included: a second evacuation during the first is accepted and ruins the server; a destination that
froze in the middle starts the guest when it thaws; a live migration moves the guest before it moves the record.

`guests` is the truth about what runs where, whatever Nova believes; S1 is judged from it alone.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # clock 0 as Nova shows it: any fixed day will do
EVACUATION = "evacuation"
LIVE_MIGRATION = "live-migration"
REBUILDING, SPAWNING = "rebuilding", "rebuild_spawning"
UNFINISHED = ("accepted", "pre-migrating")
REBOOT_DURING = ("rebooting", "rebooting_hard", "resuming", "pausing", "unpausing", "suspending")  # tasks
# What may be asked of an active server that leaves it in another state: action -> (state, status)
SET_ASIDE = {
    "pause": ("paused", "PAUSED"),
    "suspend": ("suspended", "SUSPENDED"),
    "rescue": ("rescued", "RESCUE"),
    "shelve": ("shelved_offloaded", "SHELVED_OFFLOADED"),
}
STATUSES = {"active": "ACTIVE", "stopped": "SHUTOFF", **dict(SET_ASIDE.values())}
FIRST_STOPPING_MICROVERSION = (2, 95)  # from here on an evacuated server lands stopped


class NovaError(Exception):
    """Nova refused: an HTTP status and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Fault(StrEnum):
    """What happens to a request. The front end (HTTP or direct) acts it out; see `NovaState.take_fault`."""

    ERROR_500 = "error_500"  # refused inside, nothing was done
    ERROR_503 = "error_503"
    LOST_DONE = "lost_done"  # done, and the answer is lost
    LOST_NOT_DONE = "lost_not_done"  # not done, and no answer comes
    GARBAGE_DONE = "garbage_done"  # done, and the answer cannot be decoded
    TOO_MANY = "too_many"  # 429


@dataclass
class SimServer:
    """One instance. `vm_state`: active | stopped | error, or one of SET_ASIDE. `volume`: it boots from a volume, so keeps its data."""

    id: str
    name: str
    host: str
    vm_state: str = "active"
    task_state: str | None = None
    power_state: int = 1
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    project_id: str = "a0000000000000000000000000000001"
    locked: bool = False
    volume: bool = False
    extra_specs: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def status(self) -> str:
        """The status that the API shows."""
        if self.task_state in (REBUILDING, SPAWNING) and self.vm_state != "paused":
            return "REBUILD"
        if self.task_state and self.task_state.startswith("reboot"):
            return "HARD_REBOOT"
        return STATUSES.get(self.vm_state, "ERROR")


@dataclass
class SimMigration:
    """A row of os-migrations."""

    id: int
    uuid: str
    server: str
    kind: str
    source: str
    status: str
    dest: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    life: int = 0  # of the nova-compute that works on it
    deleted: bool = False  # with its server: no list shows it any more, but the source still cleans up by it


@dataclass
class SimAction:
    """A row of os-instance-actions."""

    action: str
    request_id: str
    start_at: float


@dataclass
class SimHost:
    """One hypervisor. `frozen`: its kernel hangs, guests may still write. `isolated`: it runs and reaches nobody."""

    name: str
    service_id: str
    powered: bool = True
    compute: bool = True
    frozen: bool = False
    isolated: bool = False
    forced_down: bool = False
    disabled: bool = False
    started_at: float = 0.0
    reported_at: float = 0.0
    changed_at: float = 0.0
    spawn_fails: str = ""

    @property
    def works(self) -> bool:
        """Whether its nova-compute does anything at all."""
        return self.powered and self.compute and not self.frozen and not self.isolated


@dataclass
class _Job:
    """A rebuild on its way. Each stage runs on `dest` at its time, or waits until that host works again."""

    migration: SimMigration
    server: SimServer
    dest: str
    target_stopped: bool
    stage: int = 0
    life: int = 0
    step_s: float = 0.0


class NovaState:
    """See the module. `clock`: seconds. `evacuation_s`: bounds of the duration of one evacuation; it grows when more than `slots`
    are under way. `capacity`: servers per host. `report_s`, `down_s`: Nova's report interval and the silence after which it calls a
    service down. `sync_s`: delay after which a returned host's Nova notes that a guest does not run."""

    def __init__(
        self,
        clock: Callable[[], float],
        rng: random.Random,
        *,
        evacuation_s: tuple[float, float] = (1.5, 2.0),
        slots: int = 8,
        capacity: int = 1_000_000,
        report_s: float = 10.0,
        down_s: float = 60.0,
        sync_s: float = 60.0,
    ) -> None:
        self.clock = clock
        self.hosts: dict[str, SimHost] = {}
        self.servers: dict[str, SimServer] = {}
        self.migrations: list[SimMigration] = []  # oldest first
        self.guests: dict[str, set[str]] = {}  # host -> servers that run there: the truth
        self.runs: dict[str, set[str]] = {}  # the same by server -> hosts
        self.domains: dict[str, set[str]] = {}  # host -> servers whose domain is defined there, running or not
        self.double_history: list[tuple[float, str, tuple[str, ...]]] = []
        self.ruined: list[str] = []  # servers that were evacuated a second time during the first
        self.evacuate_calls: list[tuple[float, str]] = []  # every accepted one
        self.calls: list[tuple[float, str, str]] = []  # every change that was accepted: when, what, of what
        self._rng = rng
        self._evacuation_s = evacuation_s
        self._slots = slots
        self._capacity = capacity
        self._report_s = report_s
        self._down_s = down_s
        self._sync_s = sync_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._seq = 0
        self._instant: float | None = None
        self._parked: dict[str, list[Callable[[], None]]] = {}
        self._lives: dict[str, int] = {}  # host -> how often its nova-compute was started
        self._faults: dict[str, deque[Fault]] = {}

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Does all that is due. Every public method does this first; calling it more often changes nothing."""
        now = self.clock()
        while self._due and self._due[0][0] <= now:
            self._instant, _, action = heapq.heappop(self._due)
            try:
                action()
            finally:
                self._instant = None

    def _now(self) -> float:
        """The time of the event that is being worked off, else the clock's: who looks rarely sees the same history."""
        return self.clock() if self._instant is None else self._instant

    def next_due(self) -> float | None:
        """When something happens next, in the clock's seconds."""
        return self._due[0][0] if self._due else None

    @property
    def planned(self) -> int:
        """How many things are to come."""
        return len(self._due)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._seq += 1
        heapq.heappush(self._due, (self._now() + delay_s, self._seq, action))

    def _uuid(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))

    # --- the world -------------------------------------------------------------------------------------------------

    def add_host(self, name: str) -> SimHost:
        """A new hypervisor, up and reporting."""
        now = self._now()
        host = SimHost(name, self._uuid(), started_at=now, reported_at=now)
        self.hosts[name] = host
        self.domains[name] = set()
        self.guests[name] = set()
        self._lives[name] = 0
        return host

    def add_server(
        self,
        host: str,
        name: str = "",
        *,
        server_id: str = "",
        tags: Sequence[str] = (),
        volume: bool = True,
        stopped: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> SimServer:
        """A server, as if booted on `host` long ago."""
        row = SimServer(
            server_id or self._uuid(), name or f"vm-{len(self.servers)}", host, tags=tuple(tags), volume=volume
        )
        row.metadata = dict(metadata or {})
        self.servers[row.id] = row
        self.domains[host].add(row.id)
        if stopped:
            row.vm_state, row.power_state = "stopped", 4
        else:
            self._run(row.id, host)
        return row

    def power_cut(self, host: str) -> None:
        """The host is off at once, and everything on it."""
        self.tick()
        row = self._settle_report(host)
        row.powered = row.compute = row.frozen = False
        self._parked[host] = [again for again in self._parked.get(host, []) if _is_queued(again)]
        for server in list(self.guests[host]):
            self._halt(server, host)

    def power_on(self, host: str) -> None:
        """The host boots. Its guests do not start, nor does its nova-compute (see `compute_start`)."""
        self.tick()
        self._settle_report(host)
        self.hosts[host].powered = True

    def compute_stop(self, host: str) -> None:
        """nova-compute ends; the guests run on."""
        self.tick()
        row = self._settle_report(host)
        row.compute = False
        self._parked[host] = [again for again in self._parked.get(host, []) if _is_queued(again)]

    def compute_start(self, host: str) -> None:
        """nova-compute starts: it removes guests that were evacuated from here, and the newest record of each becomes completed."""
        self.tick()
        row = self.hosts[host]
        if not row.powered or row.compute:
            return
        self._settle_report(host)
        row.compute = True
        row.started_at = row.reported_at = self._now()
        self._lives[host] += 1
        newest: dict[str, SimMigration] = {}
        for record in self.migrations:
            if (
                record.kind == EVACUATION
                and record.source == host
                and record.status in ("accepted", "pre-migrating", "done")
            ):
                newest[record.server] = record
        for server, record in newest.items():
            local = server in self.domains[host]
            if local:
                self.domains[host].discard(server)
                self._halt(server, host)
            if local or server in self.servers:  # of a deleted server, only what it still has on disk is cleaned up
                self._set(record, "completed")
        self._after(self._sync_s, lambda: self._sync(host))
        self._unpark(host)

    def freeze(self, host: str) -> None:
        """The kernel hangs; guests count as running, for they may write."""
        self._stall(host, frozen=True)

    def thaw(self, host: str) -> None:
        """The kernel goes on where it stood."""
        self._stall(host, frozen=False)

    def isolate(self, host: str) -> None:
        """The host runs and reaches nobody."""
        self._stall(host, isolated=True)

    def join(self, host: str) -> None:
        """The network of the host is back."""
        self._stall(host, isolated=False)

    def _stall(self, host: str, *, frozen: bool | None = None, isolated: bool | None = None) -> None:
        self.tick()
        row = self._settle_report(host)
        row.frozen = row.frozen if frozen is None else frozen
        row.isolated = row.isolated if isolated is None else isolated
        if row.works:
            row.started_at = row.reported_at = self._now()
            self._unpark(host)

    def guest_start(self, server: str) -> None:
        """Starts the guest behind Nova's back on the host that defines it (`virsh start`, autostart)."""
        for host, there in self.domains.items():
            if server in there and self.hosts[host].powered:
                self._run(server, host)
                return

    # --- the truth -------------------------------------------------------------------------------------------------

    def domain_present(self, host: str, server: str) -> bool:
        """Whether the host has the server's domain, running or not."""
        self.tick()
        return server in self.domains[host] or host in self.runs.get(server, ())

    def double_runs(self) -> list[str]:
        """The servers that run on two hosts now (S1). `double_history` has every moment at which that began."""
        self.tick()
        return sorted(server for server, hosts in self.runs.items() if len(hosts) > 1)

    def _run(self, server: str, host: str) -> None:
        where = self.runs.setdefault(server, set())
        if host in where:
            return
        where.add(host)
        self.guests[host].add(server)
        self.domains[host].add(server)
        if len(where) > 1:
            self.double_history.append((self._now(), server, tuple(sorted(where))))

    def _halt(self, server: str, host: str) -> None:
        self.guests[host].discard(server)
        where = self.runs.get(server)
        if where is not None:
            where.discard(host)
            if not where:
                del self.runs[server]

    def listed(self) -> Iterator[SimMigration]:
        """The records that Nova shows, oldest first."""
        return (record for record in self.migrations if not record.deleted)

    # --- services --------------------------------------------------------------------------------------------------

    def _settle_report(self, host: str) -> SimHost:
        """Reports happen every `report_s` while the host works; they are worked out when somebody looks."""
        row = self.hosts[host]
        if row.works:
            beats = int((self._now() - row.started_at) / self._report_s)
            row.reported_at = max(row.reported_at, row.started_at + beats * self._report_s)
        return row

    def is_up(self, host: str) -> bool:
        """Whether Nova calls the service up."""
        row = self._settle_report(host)
        return not row.forced_down and self._now() - row.reported_at <= self._down_s

    def updated_at(self, host: str) -> str:
        """The time of its last report, as os-services shows it."""
        return stamp(self._settle_report(host).reported_at)

    def force_down(self, service_id: str, value: bool) -> SimHost:
        """PUT os-services/{id}. Refused (400) to clear while an evacuation off the host is `done`."""
        self.tick()
        row = next((h for h in self.hosts.values() if h.service_id == service_id), None)
        if row is None:
            raise NovaError(404, f"Service {service_id} could not be found.")
        if not value and any(
            m.status == "done" and m.kind == EVACUATION and m.source == row.name for m in self.listed()
        ):
            raise NovaError(
                400,
                f"Unable to force up host {row.name} as `done` evacuation migration records remain associated with the host. "
                "Ensure the compute service has been restarted, allowing these records to move to `completed` "
                "before retrying this request.",
            )
        row.forced_down = value
        row.changed_at = self._now()
        self.calls.append((self._now(), f"forced_down={value}", row.name))
        return row

    # --- what a client may ask of a server --------------------------------------------------------------------------

    def server(self, server_id: str) -> SimServer:
        """The row, or 404."""
        self.tick()
        row = self.servers.get(server_id)
        if row is None:
            raise NovaError(404, f"Instance {server_id} could not be found.")
        return row

    def delete(self, server_id: str) -> None:
        """The server is gone from Nova and from every working host that has it."""
        row = self.server(server_id)
        del self.servers[row.id]
        for record in self.migrations:
            record.deleted = record.deleted or record.server == row.id
        for host in list(self.domains):
            if self.hosts[host].works:
                self.domains[host].discard(row.id)
                self._halt(row.id, host)

    def evacuate(self, server_id: str, microversion: tuple[int, int] = (2, 94), target: str | None = None) -> None:
        """POST evacuate. Accepts a second one during the first, as Nova does."""
        row = self.server(server_id)
        if not row.host:
            raise NovaError(400, f"Instance {row.id} is not on any host.")
        if row.vm_state not in ("active", "stopped", "error"):
            raise NovaError(409, f"Cannot 'evacuate' instance {row.id} while it is in vm_state {row.vm_state}")
        if target is not None and target not in self.hosts:
            raise NovaError(404, f"Compute host {target} not found.")
        if target is not None and target == row.host:
            raise NovaError(400, f"The target host {target} is the host of the server.")
        if self.is_up(row.host):
            raise NovaError(400, f"Compute service of {row.host} is still in use.")
        row.task_state = REBUILDING
        record = self._record(row.id, EVACUATION, row.host, "accepted", target or "")
        self.evacuate_calls.append((self._now(), row.id))
        self.calls.append((self._now(), "evacuate", row.id))
        crowd = sum(m.kind == EVACUATION and m.status in UNFINISHED for m in self.migrations[-500:])
        duration = self._rng.uniform(*self._evacuation_s) * (1 + crowd // self._slots)
        stopped = microversion >= FIRST_STOPPING_MICROVERSION
        job = _Job(record, row, target or "", stopped or row.vm_state == "stopped", step_s=duration / 4)
        self._after(job.step_s, lambda: self._schedule(job))

    def start(self, server_id: str) -> None:
        """POST os-start."""
        row = self._may(server_id, "start", ("stopped",))
        row.task_state = "powering-on"
        self.calls.append((self._now(), "start", row.id))
        self._on_host(row.host, lambda: self._started(row))

    def stop(self, server_id: str) -> None:
        """POST os-stop."""
        row = self._may(server_id, "stop", ("active", "error"))
        row.task_state = "powering-off"
        self.calls.append((self._now(), "stop", row.id))
        self._on_host(row.host, lambda: self._stopped(row))

    def reboot(self, server_id: str) -> None:
        """POST reboot, hard: the guest runs afterwards, whatever it was before."""
        row = self._may(server_id, "reboot", ("active", "stopped", "paused", "error"))
        row.task_state = "rebooting_hard"
        self.calls.append((self._now(), "reboot", row.id))
        self._on_host(row.host, lambda: self._started(row))

    def actions(self, server_id: str) -> list[SimAction]:
        """GET os-instance-actions: what was asked of the server, newest first; of a deleted one, too."""
        self.tick()
        found = [
            SimAction(what, f"req-{UUID(int=n)}", at) for n, (at, what, of) in enumerate(self.calls) if of == server_id
        ]
        if not found:
            self.server(server_id)
        return found[::-1]

    def set_aside(self, server_id: str, action: str) -> None:
        """POST pause, suspend, rescue or shelve (of a server that boots from a volume: it leaves its host at once)."""
        row = self._may(server_id, action, ("active",))
        row.vm_state = SET_ASIDE[action][0]
        if action in ("suspend", "shelve"):
            self._halt(row.id, row.host)
        if action == "shelve":
            self.domains[row.host].discard(row.id)
            row.host = ""

    def reset_state(self, server_id: str, state: str) -> None:
        """POST os-resetState: also forgets the task."""
        row = self.server(server_id)
        row.vm_state, row.task_state = state, None

    def live_migrate(self, server_id: str, dest: str, duration_s: float = 4.0) -> SimMigration:
        """POST os-migrateLive. Half-way the guest moves; Nova's books follow only at the end, and only if the source lives."""
        row = self._may(server_id, "migrate", ("active",))
        if dest not in self.hosts or dest == row.host:
            raise NovaError(400, f"{dest} cannot take the server.")
        row.task_state = "migrating"
        record = self._record(row.id, LIVE_MIGRATION, row.host, "running", dest)
        source = row.host

        def move() -> None:
            if self.hosts[source].works and self.hosts[dest].works and source in self.runs.get(row.id, ()):
                self._halt(row.id, source)
                self._run(row.id, dest)
                self._after(duration_s / 2, finish)
            elif self.hosts[source].works:
                self._set(record, "error")
                row.task_state = None

        def finish() -> None:
            if self.hosts[source].works and row.task_state == "migrating":
                self.domains[source].discard(row.id)
                row.host, row.task_state = dest, None
                self._set(record, "completed")

        self._after(duration_s / 2, move)
        return record

    def _may(self, server_id: str, action: str, states: Iterable[str]) -> SimServer:
        row = self.server(server_id)
        if row.vm_state not in states:
            raise NovaError(409, f"Cannot '{action}' instance {row.id} while it is in vm_state {row.vm_state}")
        if row.task_state is not None and not (action == "reboot" and row.task_state in REBOOT_DURING):
            raise NovaError(409, f"Cannot '{action}' instance {row.id} while it is in task_state {row.task_state}")
        return row

    def _on_host(self, host: str, action: Callable[[], None]) -> None:
        """Nova casts to the host's nova-compute; without it the task stays for ever (a message waits in its queue)."""
        self._after(0.1, lambda: self._when_working(host, _queued(action)))

    def _started(self, row: SimServer) -> None:
        if row.id in self.servers:
            self._run(row.id, row.host)
            row.vm_state, row.task_state, row.power_state = "active", None, 1

    def _stopped(self, row: SimServer) -> None:
        if row.id in self.servers:
            self._halt(row.id, row.host)
            row.vm_state, row.task_state, row.power_state = "stopped", None, 4

    def _sync(self, host: str) -> None:
        """A returned nova-compute notices that guests it believed running are not, and writes SHUTOFF."""
        if not self.hosts[host].works:
            return
        for row in self.servers.values():
            if (
                row.host == host
                and row.vm_state == "active"
                and row.task_state is None
                and host not in self.runs.get(row.id, ())
            ):
                row.vm_state, row.power_state = "stopped", 4

    # --- how an evacuation goes --------------------------------------------------------------------------------------

    def _schedule(self, job: _Job) -> None:
        """The conductor asks for a host, and casts to it."""
        row, record = job.server, job.migration
        load: dict[str, int] = {}
        for server in self.servers.values():
            load[server.host] = load.get(server.host, 0) + 1
        wanted = [job.dest] if job.dest else sorted(self.hosts)
        fit = [
            name
            for name in wanted
            if name != record.source
            and self.is_up(name)
            and not self.hosts[name].disabled
            and load.get(name, 0) < self._capacity
        ]
        if not fit:
            self._set(record, "error")
            row.vm_state, row.task_state, row.fault = "error", None, "No valid host was found."
            return
        least = sorted(fit, key=lambda name: load.get(name, 0))[:3]  # as a scheduler does that shuffles the best
        job.dest = self._rng.choice(least)
        self._when_working(job.dest, _queued(lambda: self._begin(job)))

    def _begin(self, job: _Job) -> None:
        """The destination takes the message. Nova looks at the task here, so a message that waited too long does nothing."""
        row, record = job.server, job.migration
        job.life = self._lives[job.dest]
        if row.id not in self.servers or row.task_state != REBUILDING:
            self._spoil(job)
            return
        row.task_state = SPAWNING
        record.dest, record.life = job.dest, job.life
        self._set(record, "pre-migrating")
        self._after(job.step_s, lambda: self._when_working(job.dest, lambda: self._spawn(job)))

    def _spawn(self, job: _Job) -> None:
        """The guest is started. Nothing is looked at any more: a destination that thaws here starts it all the same."""
        if job.life != self._lives[job.dest]:
            return
        host = self.hosts[job.dest]
        if host.spawn_fails:
            self._set(job.migration, "failed")
            job.server.vm_state, job.server.task_state, job.server.fault = "error", None, host.spawn_fails
            return
        self.domains[job.dest].add(job.server.id)
        if not job.target_stopped:
            self._run(job.server.id, job.dest)
        self._after(job.step_s * 2, lambda: self._when_working(job.dest, lambda: self._finish(job)))

    def _finish(self, job: _Job) -> None:
        row = job.server
        if job.life != self._lives[job.dest]:
            return
        if row.id not in self.servers or row.task_state != SPAWNING or self._newest(row.id) is not job.migration:
            self._spoil(job)
            return
        row.host, row.task_state, row.fault = job.dest, None, ""
        row.vm_state, row.power_state = ("stopped", 4) if job.target_stopped else ("active", 1)
        self._set(job.migration, "done")

    def _spoil(self, job: _Job) -> None:
        """Somebody else changed the server meanwhile: this attempt fails, and if another is under way the server is ruined."""
        self._set(job.migration, "failed")
        row = job.server
        if row.id in self.servers and row.task_state in (REBUILDING, SPAWNING):
            row.vm_state, row.task_state, row.fault = "error", None, "Unexpected task state"
            self.ruined.append(row.id)

    def may_land(self, m: SimMigration) -> bool:
        """Whether an evacuation may still start its server: its message waits, or the process that works on it lives."""
        if m.kind != EVACUATION or m.status not in UNFINISHED:
            return False
        if m.status == "accepted" or not m.dest:
            return True
        dest = self.hosts[m.dest]
        return dest.powered and dest.compute and self._lives[m.dest] == m.life

    def _newest(self, server: str) -> SimMigration | None:
        return next((m for m in reversed(self.migrations) if m.server == server and m.kind == EVACUATION), None)

    def _when_working(self, host: str, action: Callable[[], None]) -> None:
        if self.hosts[host].works:
            action()
        elif self.hosts[host].compute or _is_queued(action):
            self._parked.setdefault(host, []).append(action)
        # else the process died with its half-done work, and the record stays as it is for ever

    def _unpark(self, host: str) -> None:
        for action in self._parked.pop(host, []):
            self._after(0.1, lambda action=action: self._when_working(host, action))  # type: ignore[misc]

    def _record(self, server: str, kind: str, source: str, status: str, dest: str) -> SimMigration:
        now = self._now()
        record = SimMigration(len(self.migrations) + 1, self._uuid(), server, kind, source, status, dest, now, now)
        self.migrations.append(record)
        return record

    def _set(self, record: SimMigration, status: str) -> None:
        record.status, record.updated_at = status, self._now()

    # --- faults ----------------------------------------------------------------------------------------------------

    def fail_next(self, operation: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests of `operation` suffer `fault`. Operations: services, force_down, servers, server, migrations,
        evacuate, start, stop, reboot, actions, token."""
        self._faults.setdefault(operation, deque()).extend([fault] * times)

    def take_fault(self, operation: str) -> Fault | None:
        """The fault that the request which is being served suffers, if any."""
        waiting = self._faults.get(operation)
        return waiting.popleft() if waiting else None


class _Queued:
    """A message in a host's queue: it survives the death of the process that would have read it."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __call__(self) -> None:
        self._action()


def _queued(action: Callable[[], None]) -> Callable[[], None]:
    return _Queued(action)


def _is_queued(action: Callable[[], None]) -> bool:
    return isinstance(action, _Queued)


@lru_cache(maxsize=4096)
def stamp(at: float) -> str:
    """A time as Nova writes it."""
    return (EPOCH + timedelta(seconds=at)).replace(tzinfo=None).isoformat()
