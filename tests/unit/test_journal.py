"""The journal: what is written is what is read, and what an older version wrote stays readable."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from ha_agent.controller import journal
from ha_agent.errors import StoreCorrupt
from ha_agent.model import (
    Command,
    CommandKind,
    Entry,
    Evidence,
    EvidenceKind,
    FenceRecord,
    Fleet,
    HostRecord,
    Incident,
    Kind,
    Mode,
    Phase,
    Power,
    Reading,
    ServerProgress,
    ServerStage,
    State,
    Step,
    Value,
    Verdict,
)
from ha_agent.plans import RECOVER
from ha_agent.policy import HostPolicy, Policy
from ha_agent.store.memory import MemoryStore

FIXTURES = Path(__file__).parents[1] / "fixtures" / "documents"
POLICY = Policy(hosts={"c1": HostPolicy(name="c1")})
READINGS = tuple(Reading(device="bmc", power=Power.OFF, at=50.0 + n, wall=1.0, machine="m-1") for n in range(2))
EVIDENCE = Evidence(kind=EvidenceKind.DEVICES, at=51.0, wall=1.0, readings=READINGS, by="fencing devices")
SERVERS = (
    ServerProgress(
        id="s2",
        name="two",
        project_id="p",
        tags=("t",),
        prior="ACTIVE",
        stage=ServerStage.LOST,
        next_at=99.0,
        attempts=1,
    ),
    ServerProgress(id="s1", prior="SHUTOFF", stage=ServerStage.HELD, wait_for=("c3",), absent_at={"c3": 12.0}),
)
COMMAND = Command(
    id="0" * 32,
    incident="i-1",
    step=Step.EVACUATE,
    kind=CommandKind.EVACUATE,
    subject="s2",
    host="c1",
    epoch=3,
    attempt=4,
    not_after=81.0,
)
INCIDENT = Incident(
    id="i-1",
    kind=Kind.HOST,
    host="c1",
    subject="c1",
    mode=Mode.AUTO,
    plan=RECOVER,
    position=3,
    opened_at=40.0,
    opened_wall=1700000000.0,
    verdict=Verdict.DOWN,
    verdict_at=40.0,
    reason="silent",
    boot_id="b-1",
    evidence=EVIDENCE,
    committed_at=60.0,
    settle_by=3660.0,
    stage_at={"evidence": 51.0},
    servers=SERVERS,
    pending=(COMMAND,),
    history=tuple(Entry(at=40.0 + n, wall=1.0, text=f"line {n}", step=Step.FENCE) for n in range(3)),
)
STATE = State(
    fleet=Fleet(
        epoch=3, armed=True, armed_by="me", fences=(FenceRecord(host="c1", domain="r", incident="i-1", at=45.0),)
    ),
    hosts={"c1": HostRecord(host="c1", first_seen_wall=5.0, boot_id="b-1", machine={"bmc": "m-1"})},
    incidents={"i-1": INCIDENT},
)


def stored(state: State, boot_id: str = "boot") -> MemoryStore:
    store = MemoryStore()
    store.commit(None, [*journal.changes(State(), state), journal.clock_document(boot_id)])
    return store


def test_what_is_written_is_what_is_read() -> None:
    assert journal.load(stored(STATE), POLICY, 100.0, "boot") == STATE


def test_only_what_changed_is_written() -> None:
    assert journal.changes(STATE, STATE) == []
    one = INCIDENT.servers[0].with_(stage=ServerStage.MOVING)
    moved = msgspec.structs.replace(INCIDENT, servers=(one, INCIDENT.servers[1]))
    writes = journal.changes(STATE, msgspec.structs.replace(STATE, incidents={"i-1": moved}))
    assert sorted((w.kind, w.key) for w in writes) == [("incident", "i-1"), ("server", "i-1/s2")]
    looked = msgspec.structs.replace(INCIDENT, verdict_at=99.0, beat_at=99.0, wake_at=99.0)
    assert journal.changes(STATE, msgspec.structs.replace(STATE, incidents={"i-1": looked})) == []


def test_history_is_appended_and_bounded() -> None:
    entry = Entry(at=1.0, wall=1.0, text="new")
    longer = msgspec.structs.replace(INCIDENT, history=(*INCIDENT.history[1:], entry), dropped_history=1)
    store = stored(STATE)
    store.commit(None, journal.changes(STATE, msgspec.structs.replace(STATE, incidents={"i-1": longer})))
    loaded = journal.load(store, POLICY, 100.0, "boot").incidents["i-1"]
    assert [e.text for e in loaded.history] == ["line 1", "line 2", "new"]


def test_the_oldest_closed_incidents_are_forgotten() -> None:
    closed = {f"x{n:03d}": msgspec.structs.replace(INCIDENT, id=f"x{n:03d}", phase=Phase.CLOSED) for n in range(205)}
    full = State(incidents={**closed, "i-1": INCIDENT}, closed=tuple(closed))
    kept = journal.trimmed(full)
    assert len(kept.closed) == journal.KEEP_CLOSED
    assert "x004" not in kept.incidents
    assert "i-1" in kept.incidents
    store = stored(full)
    store.commit(None, journal.changes(full, kept))
    assert set(journal.load(store, POLICY, 1.0, "boot").incidents) == set(kept.incidents)
    assert len(store.list("server")) == 2 * (journal.KEEP_CLOSED + 1)


def test_times_of_another_boot_are_void() -> None:
    read = msgspec.structs.replace(STATE, incidents={"i-1": msgspec.structs.replace(INCIDENT, read_on={"bmc": 49.0})})
    assert journal.load(stored(read), POLICY, 7.0, "boot").incidents["i-1"].read_on == {"bmc": 49.0}
    loaded = journal.load(stored(read, "other"), POLICY, 7.0, "boot").incidents["i-1"]
    assert loaded.read_on == {}
    assert loaded.evidence is None, "readings of another boot are no evidence"
    assert (loaded.committed_at, loaded.settle_by, loaded.stage_at) == (7.0, 7.0 + 3600.0, {})
    assert loaded.servers[0].next_at == 7.0 + 60.0
    assert loaded.servers[1].absent_at == {}
    word = msgspec.structs.replace(EVIDENCE, kind=EvidenceKind.CONFIRMATION)
    confirmed = msgspec.structs.replace(STATE, incidents={"i-1": msgspec.structs.replace(INCIDENT, evidence=word)})
    assert journal.load(stored(confirmed, "other"), POLICY, 7.0, "boot").incidents["i-1"].evidence is not None


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"major":1}', b'{"major":1,"incident":7}', b"\xff"])
def test_what_cannot_be_read_is_said_and_left_alone(body: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="incident i-9 cannot be read"):
        journal.decode("incident", "i-9", body)


def test_a_newer_major_version_is_refused_and_a_newer_minor_one_is_read() -> None:
    with pytest.raises(StoreCorrupt, match="version 2"):
        journal.decode("fleet", "fleet", b'{"major":2,"minor":0,"fleet":{}}')
    newer = journal.decode("fleet", "fleet", b'{"major":1,"minor":9,"fleet":{"armed":true,"colour":"red"},"more":1}')
    assert isinstance(newer, journal.FleetDocument)
    assert newer.fleet.armed


EXAMPLES: dict[str, Value] = {
    "fleet": journal.FleetDocument(fleet=STATE.fleet),
    "clock": journal.ClockDocument(boot_id="boot"),
    "host": journal.HostDocument(host=STATE.hosts["c1"]),
    "incident": journal.IncidentDocument(incident=msgspec.structs.replace(INCIDENT, servers=(), history=()), entries=3),
    "server": journal.ServerDocument(server=SERVERS[1], order=1),
    "history": journal.EntryDocument(entry=INCIDENT.history[0]),
}


@pytest.mark.parametrize("kind", sorted(journal.DOCUMENTS))
def test_frozen_documents_stay_readable(kind: str) -> None:
    """Once released a fixture is never changed: a newer program reads it as it is."""
    path = FIXTURES / f"{kind}-1.0.json"
    if os.environ.get("UPDATE") and not path.exists():
        path.write_text(json.dumps(json.loads(journal.encode(EXAMPLES[kind])), indent=1) + "\n")
    assert journal.decode(kind, "x", path.read_bytes()) == EXAMPLES[kind]
