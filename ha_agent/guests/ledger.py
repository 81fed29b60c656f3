"""The ledger: what is remembered of the domains, and the events that no controller has acknowledged yet. Pure: it is told the time, and
somebody else keeps it on disk.

libvirt repeats nothing, and what happens while it is away leaves at most a trace in a domain's state. So each full listing is compared
with what is remembered. An occurrence is never counted: QEMU itself lets one watchdog event a second through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ha_agent.guests import words
from ha_agent.guests.lines import Domain, Happened, Start, Time
from ha_agent.model import Value
from ha_agent.ports import GuestEvent

CAPACITY = 1000  # events that wait
MAX_DOMAINS = 10_000
QUIET_S = 10.0  # the same fault of the same start again within this is the same event: QEMU and libvirt tell of one in several ways
STALE_S = 6.0  # libvirt has not answered for this long: what it says now may be as old as its last answer

Fault = tuple[str, str]


class Known(Value, frozen=True, kw_only=True):
    """What is remembered of a domain. `start`: empty where it does not run. `fault`: the last one told of it; None: it has gone on since."""

    start: Start = ""
    fault: Fault | None = None

    @property
    def stands(self) -> bool:
        """Whether the domain's state shows it for as long as it lasts."""
        return self.fault in words.STANDING.values()


class Saved(Value, frozen=True, kw_only=True):
    """What is kept on disk. `boot_id`: whose CLOCK_BOOTTIME the times are. `known_at`: when the domains were last known to be so. `lost`:
    how many events were dropped because too many waited, ever."""

    major: int = 1
    minor: int = 0
    boot_id: str
    known_at: Time | None = None
    lost: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    events: tuple[GuestEvent, ...] = ()
    domains: dict[str, Known] = {}


class Ledger:
    """See the module. `version` grows with everything that is worth keeping."""

    def __init__(self, boot_id: str, new_id: Callable[[], str], capacity: int = CAPACITY) -> None:
        self.version = 0
        self.lost = 0
        self.known_at: float | None = None
        self._boot_id = boot_id
        self._new_id = new_id
        self._capacity = capacity
        self._events: dict[str, GuestEvent] = {}  # by id, oldest first
        self._domains: dict[str, Known] = {}
        self._last: dict[tuple[str, str, Fault], float] = {}  # when a fault was last seen to happen

    def load(self, saved: Saved) -> None:
        """What an earlier life has kept. After a reboot of the host its times mean nothing, and its domains are gone."""
        same = saved.boot_id == self._boot_id
        before = [e if same else msgspec.structs.replace(e, at=None) for e in saved.events]
        self._events = {event.id: event for event in before[-self._capacity :]}
        self._domains = dict(saved.domains) if same else {}
        self.known_at = saved.known_at if same else None
        self.lost = saved.lost
        self.version += 1

    def saved(self) -> Saved:
        """All that the next life must know."""
        return Saved(
            boot_id=self._boot_id,
            known_at=self.known_at,
            lost=self.lost,
            events=tuple(self._events.values()),
            domains=dict(self._domains),
        )

    @property
    def events(self) -> Sequence[GuestEvent]:
        """What waits for an acknowledgement, oldest first."""
        return tuple(self._events.values())

    def acknowledge(self, ids: Collection[str]) -> None:
        """A controller has journalled these; an id that does not wait here is none of ours any more."""
        for each in ids:
            if self._events.pop(each, None) is not None:
                self.version += 1

    # --- what the watcher says ---

    def alive(self, at: float) -> None:
        """libvirt answered a question of `at`: everything before it was heard."""
        self.known_at = max(at, self.known_at or 0.0)

    def happened(self, event: Happened) -> Sequence[GuestEvent]:
        """One event of libvirt. What is to be told of it."""
        added: list[GuestEvent] = []
        known = self._domains.get(event.server, Known())
        start = event.start or known.start
        if start != known.start:
            known = Known(start=start)
        fault = words.fault_of(event)
        if fault is not None and not self._told(event, start, known, fault):
            added.append(self._add(event.server, fault, start, self._when(event.at), device=event.device))
            known = Known(start=start, fault=fault)
        elif event.what == "lifecycle" and event.first == words.RESUMED:
            known = Known(start=start)
        if event.what == "lifecycle" and event.first == words.STOPPED:
            known = msgspec.structs.replace(known, start="")
        self._remember(event.server, known)
        return added

    def listed(self, domains: Iterable[Domain], at: float) -> Sequence[GuestEvent]:
        """All domains that exist, asked for at `at`: what happened to them while nobody listened? What is to be told of it."""
        added: list[GuestEvent] = []
        now: dict[str, Known] = {}
        for domain in domains:
            now[domain.server] = self._compared(domain, self._domains.get(domain.server), added, self.known_at)
        if now != self._domains:
            self._domains = now
            self.version += 1
        self.alive(at)
        return added

    def settled(self, domain: Domain, since: float) -> Sequence[GuestEvent]:
        """A domain that has become otherwise after `since`. What is to be told of it that no event has told."""
        added: list[GuestEvent] = []
        before = self._domains.get(domain.server)
        standing = words.standing(domain.state, domain.reason)
        known = self._compared(domain, before, added, since)
        if standing is None and before is not None and before.start == known.start and not before.stands:
            return []  # what was told of it leaves no trace in its state
        self._remember(domain.server, known)
        return added

    def _compared(self, domain: Domain, before: Known | None, added: list[GuestEvent], since: float | None) -> Known:
        fault = words.standing(domain.state, domain.reason)
        if fault is None:
            return Known(start=domain.start)
        told = before.fault if before is not None and domain.start in ("", before.start) else None
        fresh = fault != told and fault[0] not in words.FOLLOWS.get(told or ("", ""), ())
        start = domain.start or (before.start if before is not None else "")
        # one that does not run has failed some time ago, unless it ran when it was last seen
        if not fresh or not start:
            return Known(start=domain.start, fault=told or fault)
        # it happened at any time after the last look; where there was none, nobody knows when
        added.append(self._add(domain.server, fault, start, since, found=True))
        return Known(start=domain.start, fault=fault)

    def _told(self, event: Happened, start: str, known: Known, fault: Fault) -> bool:
        """Whether this is only another word for what was told already."""
        if fault == known.fault and known.stands:
            return True  # it stands still since
        cause = known.fault or ("", "")
        if fault[0] in words.FOLLOWS.get(cause, ()) and self._just(event, start, cause):
            return True
        if self._just(event, start, fault):
            return True
        self._last[event.server, start, fault] = event.at
        return False

    def _just(self, event: Happened, start: str, fault: Fault) -> bool:
        """Whether this fault was told within QUIET_S before the event."""
        if len(self._last) > self._capacity:
            self._last = {k: at for k, at in self._last.items() if event.at - at < QUIET_S}
        last = self._last.get((event.server, start, fault))
        return last is not None and event.at - last < QUIET_S

    def _when(self, at: float) -> float:
        """A libvirt that stood still tells late, and does not say since when it knows: the event counts as old as it may be."""
        return at if self.known_at is None or at - self.known_at <= STALE_S else self.known_at

    def _add(
        self, server: str, fault: Fault, start: str, at: float | None, *, device: str = "", found: bool = False
    ) -> GuestEvent:
        if len(self._events) >= self._capacity:
            self._make_room(server)
        kind, action = fault
        event = GuestEvent(
            id=self._new_id(), server=server, kind=kind, action=action, start=start, at=at, device=device, found=found
        )
        self._events[event.id] = event
        self.version += 1
        return event

    def _make_room(self, server: str) -> None:
        """The oldest event of the same guest goes; where it has none, the oldest of the guest that has the most."""
        waiting = Counter(event.server for event in self._events.values())
        whose = server if server in waiting else waiting.most_common(1)[0][0]
        oldest = next(key for key, event in self._events.items() if event.server == whose)
        del self._events[oldest]
        self.lost += 1

    def _remember(self, server: str, known: Known) -> None:
        if known == self._domains.get(server) or (server not in self._domains and len(self._domains) >= MAX_DOMAINS):
            return
        self._domains[server] = known
        self.version += 1
