"""What the daemon offers to those who ask: the API, the metrics and, through the API, the CLI.

Everything here is called on the daemon's event loop. Reading never blocks and never changes anything; what is returned is a
frozen value, or a mapping that is not changed afterwards, so that it can be rendered in another thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ha_agent.model import Health, Operator, Power, ServerProgress, State, Value, Verdict


class HostViewSummary(Value, frozen=True, kw_only=True):
    """A host as the detection sees it now. `last_seen_age_s`: since its last heartbeat, None if there never was one. `witnesses`:
    how many are eligible to speak of it. `gate`: "open", "waiting" or "" where that is not known. `certificate_days`: until the newest certificate that it has
    shown ends; None before the first. `planes_lost`: those of its planes, beside that of management, over which no other host reached it
    lately."""

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
        """Every known host, by name."""

    def devices(self) -> Sequence[DeviceHealth]:
        """Every fencing device of every host."""

    def leader(self) -> LeaderInfo: ...

    def now(self) -> float:
        """CLOCK_BOOTTIME seconds, the time in which the state's `at` fields are."""

    def ready(self) -> Sequence[str]:
        """Why this controller is not ready to act; empty when it is. One sentence each."""

    def notes(self) -> Sequence[str]:
        """What somebody should see to soon; it keeps nobody from acting."""

    def alive(self) -> bool:
        """Whether the loop makes progress."""

    def counters(self) -> Mapping[str, float]:
        """Numbers by name. `metrics.KNOWN` says which names have a metric of their own; any other is exported under its name as a label."""

    def events(self, after: int, limit: int) -> Sequence[EventLine]:
        """Recent lines with `seq` above `after`, oldest first, at most `limit`."""

    async def order(self, order: Operator) -> str:
        """Carries out an operator's order. Returns one sentence for a human once it is durably journalled. `new_id` is empty: the daemon
        fills it. Raises UsageError (nothing was changed), StoreError, LeaseLost."""

    async def dry_run(self, host: str) -> Sequence[ServerProgress]:
        """What an evacuation of the host would do with each of its servers; changes nothing. Raises UsageError for an unknown host,
        DriverError or Unanswered where Nova cannot be read."""
