"""The journal: the state of `decide` as versioned documents, written before anything is done, read when a controller takes over.

An incident's servers and history lines are documents of their own, so that a change costs what it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ha_agent.decide import Changed
from ha_agent.errors import StoreCorrupt
from ha_agent.model import (
    Entry,
    EvidenceKind,
    Fleet,
    HostRecord,
    Incident,
    Phase,
    ServerProgress,
    ServerStage,
    State,
    Value,
)
from ha_agent.policy import Policy
from ha_agent.ports import Delete, Put, Store

T = TypeVar("T", bound=Value)

MAJOR, MINOR = 1, 0
KEEP_CLOSED = 200

# Fields that say when something was last looked at: not worth a write of their own.
VOLATILE: dict[str, Any] = {
    "verdict_at": 0.0,
    "beat_at": None,
    "poll_at": 0.0,
    "read_at": 0.0,
    "wake_at": None,
    "silent": 1,
    "silent_domain": 1,
}


class FleetDocument(Value, frozen=True, kw_only=True):
    """What holds for all hosts."""

    major: int = MAJOR
    minor: int = MINOR
    fleet: Fleet


class ClockDocument(Value, frozen=True, kw_only=True):
    """Whose CLOCK_BOOTTIME the `at` fields are: void after a reboot of that machine, or on another one."""

    major: int = MAJOR
    minor: int = MINOR
    boot_id: str


class HostDocument(Value, frozen=True, kw_only=True):
    """What is kept of a host."""

    major: int = MAJOR
    minor: int = MINOR
    host: HostRecord


class IncidentDocument(Value, frozen=True, kw_only=True):
    """An incident without its servers and history."""

    major: int = MAJOR
    minor: int = MINOR
    incident: Incident
    entries: int = 0


class ServerDocument(Value, frozen=True, kw_only=True):
    """One server of an incident; `order`: its place in the incident."""

    major: int = MAJOR
    minor: int = MINOR
    server: ServerProgress
    order: int = 0


class EntryDocument(Value, frozen=True, kw_only=True):
    """One line of an incident's history."""

    major: int = MAJOR
    minor: int = MINOR
    entry: Entry


DOCUMENTS: dict[str, type[Value]] = {
    "fleet": FleetDocument,
    "clock": ClockDocument,
    "host": HostDocument,
    "incident": IncidentDocument,
    "server": ServerDocument,
    "history": EntryDocument,
}


def encode(document: Value) -> bytes:
    """A document's stored form."""
    return msgspec.json.encode(document)


def decode(kind: str, key: str, body: bytes) -> Value:
    """Raises StoreCorrupt where the body is no such document, or of a newer major version."""
    try:
        major = msgspec.json.decode(body, type=_Version).major
        if major != MAJOR:
            raise StoreCorrupt(
                f"{kind} {key} is of version {major}, this program reads {MAJOR}", "use the newer program"
            )
        return msgspec.json.decode(body, type=DOCUMENTS[kind])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreCorrupt(f"{kind} {key} cannot be read: {error}", "restore the store, or move it away") from None


class _Version(Value, frozen=True, kw_only=True):
    major: int


def changes(old: State, new: State, changed: Changed | None = None) -> list[Put | Delete]:
    """The writes that turn the stored `old` into `new`. `changed`: what may differ; None: everything is compared."""
    hosts = new.hosts if changed is None else sorted(changed.hosts)
    incidents = new.incidents if changed is None else sorted(changed.incidents & new.incidents.keys())
    writes: list[Put | Delete] = []
    if new.fleet is not old.fleet and new.fleet != old.fleet:
        writes.append(Put(kind="fleet", key="fleet", body=encode(FleetDocument(fleet=new.fleet))))
    for name in hosts:
        record, before = new.hosts[name], old.hosts.get(name)
        if record is not before and record != before:
            writes.append(Put(kind="host", key=name, body=encode(HostDocument(host=record))))
    for key in incidents:
        incident, known = new.incidents[key], old.incidents.get(key)
        if incident is not known:
            writes += _incident(known, incident)
    if changed is None or len(new.incidents) < len(old.incidents) + sum(key not in old.incidents for key in incidents):
        # only closed ones are dropped: those that were, and those that are closed now
        dropped = old.incidents if changed is None else dict.fromkeys((*old.closed, *sorted(changed.incidents)))
        for key in dropped:
            if key in new.incidents or key not in old.incidents:
                continue
            incident = old.incidents[key]
            writes.append(Delete(kind="incident", key=key))
            writes += [Delete(kind="server", key=f"{key}/{s.id}") for s in incident.servers]
            first = incident.dropped_history
            writes += [Delete(kind="history", key=_entry(key, first + n)) for n in range(len(incident.history))]
    return writes


def _entry(incident: str, n: int) -> str:
    return f"{incident}/{n:08d}"


def _incident(old: Incident | None, new: Incident) -> list[Put | Delete]:
    writes = _servers(new.id, old.servers if old else (), new.servers)
    written = old.dropped_history + len(old.history) if old else 0
    for n in range(max(written, new.dropped_history), new.dropped_history + len(new.history)):
        entry = new.history[n - new.dropped_history]
        writes.append(Put(kind="history", key=_entry(new.id, n), body=encode(EntryDocument(entry=entry))))
    if old is not None and old.dropped_history < new.dropped_history:
        writes += [
            Delete(kind="history", key=_entry(new.id, n)) for n in range(old.dropped_history, new.dropped_history)
        ]
    if writes or old is None or _lasting(old) != _lasting(new):
        bare = msgspec.structs.replace(new, servers=(), history=())
        writes.append(
            Put(kind="incident", key=new.id, body=encode(IncidentDocument(incident=bare, entries=len(new.history))))
        )
    return writes


def _servers(incident: str, old: Sequence[ServerProgress], new: Sequence[ServerProgress]) -> list[Put | Delete]:
    if old is new:
        return []
    if len(old) == len(new):
        other = [(n, s) for n, s in enumerate(new) if s is not old[n]]
        if all(
            s.id == old[n].id for n, s in other
        ):  # as a rule some of very many have changed, and none has come or gone
            return [_server(incident, s, n) for n, s in other if s != old[n]]
    writes: list[Put | Delete] = []
    before = {s.id: (n, s) for n, s in enumerate(old)}
    for order, server in enumerate(new):
        place, known = before.pop(server.id, (-1, None))
        if place != order or (known is not server and known != server):
            writes.append(_server(incident, server, order))
    return writes + [Delete(kind="server", key=f"{incident}/{gone}") for gone in before]


def _server(incident: str, server: ServerProgress, order: int) -> Put:
    body = encode(ServerDocument(server=server, order=order))
    return Put(kind="server", key=f"{incident}/{server.id}", body=body)


def _lasting(incident: Incident) -> Incident:
    return msgspec.structs.replace(incident, servers=(), history=(), **VOLATILE)


def trimmed(state: State) -> State:
    """Without the oldest closed incidents."""
    surplus = len(state.closed) - KEEP_CLOSED
    if surplus <= 0:
        return state
    gone = state.closed[:surplus]
    kept = dict(state.incidents)
    for key in gone:
        kept.pop(key, None)
    return msgspec.structs.replace(state, incidents=kept, closed=state.closed[surplus:])


def load(store: Store, policy: Policy, now_s: float, boot_id: str) -> State:
    """The stored state, with its times made valid for this machine's clock. Raises StoreError."""
    state = _read(store)
    clock = _all(store, "clock", ClockDocument).get("clock")
    if clock is None or clock.boot_id != boot_id:
        state = rebased(state, policy, now_s)
    return state


def _read(store: Store) -> State:
    """The state as it is stored."""
    fleet = Fleet()
    documents = _all(store, "fleet", FleetDocument)
    if "fleet" in documents:
        fleet = documents["fleet"].fleet
    hosts = {key: d.host for key, d in _all(store, "host", HostDocument).items()}
    servers: dict[str, list[tuple[int, ServerProgress]]] = {}
    for key, d in _all(store, "server", ServerDocument).items():
        servers.setdefault(key.split("/", 1)[0], []).append((d.order, d.server))
    history: dict[str, list[tuple[str, Entry]]] = {}
    for key, e in _all(store, "history", EntryDocument).items():
        incident, number = key.rsplit("/", 1)
        history.setdefault(incident, []).append((number, e.entry))
    incidents = {}
    for key, i in _all(store, "incident", IncidentDocument).items():
        incidents[key] = msgspec.structs.replace(
            i.incident,
            servers=tuple(s for _, s in sorted(servers.get(key, []), key=lambda x: x[0])),
            history=tuple(x for _, x in sorted(history.get(key, []), key=lambda x: x[0])),
        )
    order = sorted(incidents.values(), key=lambda i: (i.closed_wall or i.opened_wall, i.id))
    closed = tuple(i.id for i in order if i.phase is Phase.CLOSED)
    return State(fleet=fleet, hosts=hosts, incidents={i.id: i for i in order}, closed=closed)


def take_over(store: Store, policy: Policy, now_s: float, boot_id: str) -> tuple[State, list[Put | Delete]]:
    """For a controller that begins to lead: the state, and what must be stored with its first word, for times that were made valid here
    must not be read as those of another boot again. Raises StoreError."""
    stored, valid = _read(store), load(store, policy, now_s, boot_id)
    return valid, [*changes(stored, valid), clock_document(boot_id)]


def clock_document(boot_id: str) -> Put:
    """To be written when a controller takes over."""
    return Put(kind="clock", key="clock", body=encode(ClockDocument(boot_id=boot_id)))


def _all(store: Store, kind: str, cls: type[T]) -> Mapping[str, T]:
    result: dict[str, T] = {}
    for document in store.list(kind, limit=1_000_000):
        value = decode(kind, document.key, document.body)
        assert isinstance(value, cls)
        result[document.key] = value
    return result


def rebased(state: State, policy: Policy, now_s: float) -> State:
    """Times of another boot mean nothing here: durations start anew, and readings are no evidence any more (S2)."""
    fences = tuple(msgspec.structs.replace(f, at=now_s) for f in state.fleet.fences)
    hosts = {
        k: h if h.suspect_since is None else msgspec.structs.replace(h, suspect_since=now_s)
        for k, h in state.hosts.items()
    }
    incidents = {k: i if i.phase is Phase.CLOSED else _rebased(i, policy, now_s) for k, i in state.incidents.items()}
    return msgspec.structs.replace(
        state, fleet=msgspec.structs.replace(state.fleet, fences=fences), hosts=hosts, incidents=incidents
    )


def _rebased(incident: Incident, policy: Policy, now_s: float) -> Incident:
    host = policy.hosts.get(incident.host)
    settle = host.recovery.settle_after_s if host else 3600.0
    api_max = host.recovery.api_max_s if host else 60.0
    evidence = incident.evidence
    if evidence is not None:
        evidence = None if evidence.kind is EvidenceKind.DEVICES else msgspec.structs.replace(evidence, at=now_s)
    return msgspec.structs.replace(
        incident,
        opened_at=now_s,
        last_seen_at=None,
        verdict_at=now_s - 1e6,
        evidence=evidence,
        evidence_since=now_s,
        read_on={},
        committed_at=None if incident.committed_at is None else now_s,
        settle_by=None if incident.settle_by is None else now_s + settle,
        next_at=0.0,
        poll_at=0.0,
        read_at=0.0,
        beat_at=None if incident.beat_at is None else now_s,
        wake_at=now_s,
        stage_at={},
        servers=tuple(
            s.with_(
                next_at=now_s + api_max if s.stage is ServerStage.LOST else 0.0,
                lost_until=now_s + api_max if s.lost_until else 0.0,
                absent_at={},
            )
            for s in incident.servers
        ),
    )
