"""What the daemon offers to those who ask: the API, the metrics and, through the API, the CLI.

Everything here is called on the daemon's event loop. Reading never blocks and never changes anything; what is returned is a
frozen value, or a mapping that is not changed afterwards, so that it can be rendered in another thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ha_agent.api.fencing_tests import Asked, FencingTest
from ha_agent.api.measured import Measured
from ha_agent.api.readiness import Readiness
from ha_agent.model import Health, Mode, Operator, Power, ServerProgress, State, Value, Verdict
from ha_agent.ports import Delivery


class HostViewSummary(Value, frozen=True, kw_only=True):
    """A host as the detection sees it now. `last_seen_age_s`: since its last heartbeat, None if there never was one. `witnesses`:
    how many are eligible to speak of it. `gate`: "open", "waiting" or "" where that is not known. `certificate_days`: until the newest certificate that it has
    shown ends; None before the first. `planes_lost`: those of its planes, beside that of management, over which no other host reached it
    lately. `dials_failed`: how often its connection ended or could not be made; `false_suspicions`: how often a suspicion of it ended by a heartbeat;
    both since the start."""

    host: str
    verdict: Verdict
    reason: str = ""
    last_seen_age_s: float | None = None
    boot_id: str = ""
    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN
    rtt_s: float = 0.0
    connected: bool = False
    witnesses: int = 0
    gate: str = ""
    certificate_days: float | None = None
    planes_lost: tuple[str, ...] = ()
    dials_failed: int = 0
    false_suspicions: int = 0


class DeviceHealth(Value, frozen=True, kw_only=True):
    """The last periodic look at one fencing device of one host. `level` counts from 1. `checked_age_s`: None before the first look."""

    host: str
    device: str
    level: int
    driver: str = ""
    ok: bool = False
    power: Power = Power.UNKNOWN
    checked_age_s: float | None = None
    error: str = ""


class DeviceLook(Value, frozen=True, kw_only=True):
    """One fencing device, read just now because somebody asked. `level` counts from 1. `machine`: which one it says it is; `took_s`: until its
    whole level had answered. `error`: why it cannot be relied on; empty: it can."""

    host: str
    device: str
    level: int
    driver: str = ""
    power: Power = Power.UNKNOWN
    machine: str = ""
    took_s: float = 0.0
    error: str = ""


class FencingLevel(Value, frozen=True, kw_only=True):
    """One level of a host, counted from 1. `evidence_s`: of silence, until there is evidence at the latest if this level is the one that
    works (L1). `devices`: as they were at the last periodic look."""

    level: int
    evidence_s: float
    devices: tuple[DeviceHealth, ...]


class FencingPlan(Value, frozen=True, kw_only=True):
    """What would happen if the host were silent from now on. `alarm_s`: of silence, until an alarm at the latest. `fence`: whether its policy
    fences at all; `mode`: what becomes of its servers then. `forbidden`: why it would not be fenced as things are now, and `release`
    what ends that; empty: nothing forbids it."""

    host: str
    mode: Mode
    fence: bool
    alarm_s: float
    attempt_s: float
    levels: tuple[FencingLevel, ...]
    forbidden: str = ""
    release: str = ""


class LeaderInfo(Value, frozen=True, kw_only=True):
    """Who leads. `name`: the owner of the lease as last read; `leading`: whether that is us, and we may act; `until_s`: seconds that our
    own lease still holds (0 when we do not lead)."""

    name: str = ""
    epoch: int = 0
    leading: bool = False
    until_s: float = 0.0


class EventLine(Value, frozen=True, kw_only=True):
    """One line of what happened, newest last. `seq` grows without gaps while the daemon runs."""

    seq: int
    wall: float
    text: str
    host: str = ""
    incident: str = ""


class Facade(Protocol):
    """The daemon, seen from outside."""

    def state(self) -> State:
        """All that `decide` knows: fleet, hosts, incidents."""

    def views(self) -> Mapping[str, HostViewSummary]:
        """Every known host, by name, as it was at most about a second ago."""

    def view(self, host: str) -> HostViewSummary | None:
        """One host, as it is now; None: it is not known."""

    def devices(self) -> Sequence[DeviceHealth]:
        """Every fencing device of every host, as it was at most about a second ago."""

    def deliveries(self) -> Sequence[Delivery]:
        """Everybody who is told of what happens."""

    def leader(self) -> LeaderInfo: ...

    def now(self) -> float:
        """CLOCK_BOOTTIME seconds, the time in which the state's `at` fields are."""

    def ready(self) -> Sequence[str]:
        """Why this controller is not ready to act; empty when it is. One sentence each."""

    def readiness(self) -> Readiness:
        """Whether the servers of each host would live on if it died now."""

    def notes(self) -> Sequence[str]:
        """What somebody should see to soon; it keeps nobody from acting."""

    def alive(self) -> bool:
        """Whether the loop makes progress."""

    def counters(self) -> Mapping[str, float]:
        """Numbers by name. `metrics.names` says what each is as a metric; one that is not there is not exported."""

    def measures(self) -> Sequence[Measured]:
        """Histograms."""

    def events(self, after: int, limit: int) -> Sequence[EventLine]:
        """Recent lines with `seq` above `after`, oldest first, at most `limit`."""

    async def order(self, order: Operator) -> str:
        """Carries out an operator's order. Returns one sentence for a human once it is durably journalled. `new_id` is empty: the daemon
        fills it. Raises UsageError (nothing was changed), StoreError, LeaseLost."""

    async def dry_run(self, host: str) -> Sequence[ServerProgress]:
        """What an evacuation of the host would do with each of its servers; changes nothing. Raises UsageError for an unknown host,
        DriverError or Unanswered where Nova cannot be read."""

    async def look_at_devices(self, host: str) -> Sequence[DeviceLook]:
        """Reads every fencing device of a host now; changes nothing. A device that does not answer is an error in its row. Raises UsageError
        for an unknown host."""

    def fencing_plan(self, host: str) -> FencingPlan:
        """What a fence of the host would do, and what forbids it now. Raises UsageError for an unknown host."""

    async def test_fencing(self, host: str, asked: Asked, actor: str) -> FencingTest:
        """Begins to switch a host in maintenance off and on again, as `asked`. Returns when that runs; it ends by itself. Raises UsageError (nothing
        was sent), LeaseLost."""

    def fencing_test(self, host: str) -> FencingTest:
        """The test of the host that runs, or its last one. Raises UsageError where there was none since the start, and for an unknown host."""
