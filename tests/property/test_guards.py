"""The rules that say no, for any readings and any state."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_agent import guards
from ha_agent.model import (
    Command,
    CommandKind,
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
    State,
    Step,
    Verdict,
)
from ha_agent.plans import FENCING_VERDICTS, RECOVER
from ha_agent.policy import Fencing, HostPolicy, Policy, Storm
from tests.property.conftest import TIMES

NOW = 1000.0
DEVICES = ("a", "b")
POLICY = Policy(hosts={h: HostPolicy(name=h, domain="r1") for h in ("c1", "c2", "c3")})

times = st.integers(0, 12).map(float)
readings = st.builds(
    Reading,
    device=st.sampled_from([*DEVICES, "other"]),
    # mostly off, so that evidence is found often enough to be tested
    power=st.sampled_from([Power.OFF, Power.OFF, Power.OFF, Power.OFF, Power.ON, Power.UNKNOWN]),
    at=times,
)
# No two readings of one device at one time: a device is read by one attempt after the other.
looks = st.lists(readings, max_size=12, unique_by=lambda r: (r.device, r.at))
levels = st.sampled_from([("a",), ("b",), DEVICES])


@given(looks, levels, times, st.randoms(use_true_random=False))
def test_evidence_is_two_offs_of_every_device_and_nothing_newer(
    seen: list[Reading], devices: tuple[str, ...], since: float, shuffler: Random
) -> None:
    result = guards.evidence_of(0, devices, seen, since)
    per_device = [sorted((r for r in seen if r.device == d and r.at >= since), key=lambda r: r.at) for d in devices]
    proven = all(len(mine) >= 2 and {r.power for r in mine[-2:]} == {Power.OFF} for mine in per_device)
    assert isinstance(result, Evidence) == proven, result
    if isinstance(result, Evidence):
        assert result.at == min(mine[-1].at for mine in per_device)
        assert {r.device for r in result.readings} == set(devices)
        assert all(r.at >= since and r.power is Power.OFF for r in result.readings)
    again = list(seen)
    shuffler.shuffle(again)
    assert guards.evidence_of(0, devices, again, since) == result


@given(looks, levels, times, readings)
def test_a_newer_reading_that_is_not_off_ends_the_evidence(
    seen: list[Reading], devices: tuple[str, ...], since: float, bad: Reading
) -> None:
    power = Power.ON if bad.power is Power.OFF else bad.power
    newest = msgspec.structs.replace(bad, device=devices[0], power=power, at=99.0)
    assert isinstance(guards.evidence_of(0, devices, [*seen, newest], since), str)


@given(st.integers(0, 20), st.floats(0, 1), st.integers(0, 500))
def test_the_storm_limit_is_a_bounded_share(most: int, share: float, known: int) -> None:
    limit = guards.storm_limit(Storm(max_hosts=max(1, most), max_share=share), known)
    assert 1 <= limit <= max(1, most)
    assert limit == 1 or limit <= share * known


EVIDENCES = (
    None,
    Evidence(kind=EvidenceKind.DEVICES, at=NOW - 1),
    Evidence(kind=EvidenceKind.DEVICES, at=NOW - 100),
    Evidence(kind=EvidenceKind.CONFIRMATION, at=1.0, by="me"),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[State, Command]:
    """An incident that waits for a command, in a fleet that may or may not act."""
    host = draw(st.sampled_from(["c1", "c1", "c1", "gone"]))
    command = Command(
        id="x",
        incident="i1",
        step=Step.EVACUATE,
        kind=draw(st.sampled_from([k for k in CommandKind if k is not CommandKind.NOTIFY])),
        subject="s1",
        host=host,
        epoch=1,
        attempt=1,
        not_after=draw(st.sampled_from([None, NOW + 1, NOW])),
    )
    incident = Incident(
        id="i1",
        kind=Kind.HOST,
        host=host,
        subject=host,
        mode=Mode.AUTO,
        plan=RECOVER,
        opened_at=NOW - 200,
        opened_wall=0,
        verdict=draw(st.sampled_from(Verdict)),
        verdict_at=NOW - draw(st.sampled_from([0, 4, 6, 60])),
        reason="silent",
        evidence=draw(st.sampled_from(EVIDENCES)),
        settled=draw(st.booleans()),
        committed_at=draw(st.sampled_from([None, NOW - 1])),
        ordered_by=draw(st.sampled_from(["", "", "me"])),
        phase=draw(st.sampled_from([Phase.OPEN, Phase.OPEN, Phase.CLOSED])),
        pending=draw(st.sampled_from([(command,), (command,), ()])),
    )
    fleet = Fleet(
        armed=draw(st.sampled_from([True, True, False])),
        paused=draw(st.sampled_from(["", "", "upgrade"])),
        foreign=draw(st.sampled_from(["", "", "controller-9"])),
        fences=tuple(
            FenceRecord(host=h, domain="r1", incident=f"of-{h}", at=NOW - draw(st.sampled_from([1.0, 300.0, 700.0])))
            for h in draw(st.sets(st.sampled_from(["c1", "c2", "c3"])))
        ),
    )
    record = HostRecord(
        host=host,
        first_seen_wall=draw(st.sampled_from([0.0, 1.0])),
        maintenance=draw(st.sampled_from(["", "", "disks"])),
    )
    return State(fleet=fleet, hosts={host: record}, incidents={"i1": incident}), command


def forbidden(state: State, host: str) -> bool:
    """S6, in other words than the guard's."""
    fleet = state.fleet
    held = any((fleet.paused, fleet.foreign, state.hosts[host].maintenance))
    return not fleet.armed or held or host not in POLICY.hosts


@settings(max_examples=250 * max(TIMES, 1))  # most worlds are refused for more than one reason
@given(worlds())
def test_the_last_look_lets_nothing_through_that_is_forbidden(world: tuple[State, Command]) -> None:
    state, command = world
    incident = state.incidents["i1"]
    if guards.may_send(state, command, POLICY, NOW):
        return
    assert incident.phase is Phase.OPEN
    assert command in incident.pending
    assert command.not_after is None or command.not_after > NOW
    if command.kind in guards.GUARDED:
        assert not forbidden(state, command.host)
    if command.kind in (CommandKind.EVACUATE, CommandKind.FORCE_DOWN):
        assert incident.evidence is not None
        assert incident.evidence.kind is EvidenceKind.CONFIRMATION or NOW - incident.evidence.at < 30
    if command.kind is CommandKind.EVACUATE:
        assert not incident.settled


@given(worlds())
def test_the_last_look_refuses_a_forbidden_host_everything_that_is_guarded(world: tuple[State, Command]) -> None:
    state, command = world
    if command.kind in guards.GUARDED and forbidden(state, command.host):
        assert guards.may_send(state, command, POLICY, NOW)
        assert guards.may_act(state, command.host, POLICY)


@given(worlds())
def test_a_first_fence_needs_a_young_verdict_of_a_host_that_once_lived(world: tuple[State, Command]) -> None:
    state, command = world
    incident = state.incidents["i1"]
    if guards.may_fence(state, incident, POLICY, NOW) is not None:
        return
    assert not forbidden(state, command.host)
    if incident.committed_at is None and not incident.ordered_by:
        assert incident.verdict in FENCING_VERDICTS
        assert NOW - incident.verdict_at <= 5
        assert state.hosts[command.host].first_seen_wall
        lately = {f.host for f in state.fleet.fences if f.at > NOW - 600}
        assert lately <= {command.host}, "of three hosts one in ten minutes"
        assert all(f.at <= NOW - 60 for f in state.fleet.fences if f.host == command.host)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1, 100), st.booleans())
def test_evidence_once_too_old_stays_too_old(at: float, later: float, age: float, trusted: bool) -> None:
    fencing = Fencing(evidence_max_age_s=age, trusted_levels=(0,) if trusted else ())
    incident = Incident(
        id="i",
        kind=Kind.HOST,
        host="c1",
        subject="c1",
        mode=Mode.AUTO,
        plan=RECOVER,
        opened_at=0,
        opened_wall=0,
        verdict=Verdict.DOWN,
        verdict_at=0,
        reason="",
        evidence=Evidence(kind=EvidenceKind.DEVICES, at=at),
    )
    policy = HostPolicy(name="c1", fencing=fencing)
    assert guards.evidence_holds(incident, policy, at + later) == (trusted or at + later < at + age)
