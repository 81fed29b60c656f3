"""The rules that say no, one by one."""

from __future__ import annotations

import msgspec
import pytest

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
from ha_agent.plans import RECOVER
from ha_agent.policy import Fencing, HostPolicy, Policy, Storm

NOW = 1000.0
HOSTS = {f"c{i}": HostPolicy(name=f"c{i}", domain=f"rack-{i % 2}") for i in range(10)}
POLICY = Policy(hosts=HOSTS, storm=Storm(max_hosts=5, max_share=0.3, window_s=600, domain_max_hosts=2))


def incident(**changes: object) -> Incident:
    base = Incident(
        id="i1",
        kind=Kind.HOST,
        host="c1",
        subject="c1",
        mode=Mode.AUTO,
        plan=RECOVER,
        opened_at=NOW - 5,
        opened_wall=0,
        verdict=Verdict.DOWN,
        verdict_at=NOW,
        reason="silent",
        boot_id="b",
    )
    return msgspec.structs.replace(base, **changes)


def state(*incidents: Incident, **fleet: object) -> State:
    return State(
        fleet=msgspec.structs.replace(Fleet(armed=True), **fleet),
        hosts={h: HostRecord(host=h, first_seen_wall=1.0) for h in HOSTS},
        incidents={i.id: i for i in incidents or (incident(),)},
    )


def reading(power: Power, at: float, device: str = "bmc", error: str = "") -> Reading:
    return Reading(device=device, power=power, at=at, error=error)


def off(at: float, device: str = "bmc") -> Reading:
    return reading(Power.OFF, at, device)


EVIDENCE = Evidence(kind=EvidenceKind.DEVICES, at=NOW - 1, readings=(off(NOW - 2), off(NOW - 1)))


# --- S2: evidence ---


@pytest.mark.parametrize(
    ("readings", "why"),
    [
        ((), "gave no reading"),
        ((off(10),), "only once"),
        ((off(10), off(10)), "only once"),
        ((off(10), reading(Power.ON, 11)), "reads on"),
        ((off(10), off(11), reading(Power.ON, 12)), "reads on"),
        ((off(10), off(11), reading(Power.UNKNOWN, 12, error="no answer")), "reads unknown: no answer"),
        ((reading(Power.ON, 10), off(11)), "only once"),
        ((off(1), off(2)), "gave no reading"),  # from before the incident
        ((off(4), off(11)), "only once"),
    ],
)
def test_what_is_no_evidence(readings: tuple[Reading, ...], why: str) -> None:
    result = guards.evidence_of(0, ("bmc",), readings, since=5)
    assert isinstance(result, str)
    assert why in result


def test_evidence_needs_every_device_of_the_level_and_is_as_old_as_its_oldest() -> None:
    both = (off(10, "a"), off(12, "a"), off(10, "b"), off(11, "b"))
    result = guards.evidence_of(1, ("a", "b"), both, since=5)
    assert isinstance(result, Evidence)
    assert (result.kind, result.level, result.at) == (EvidenceKind.DEVICES, 1, 11)
    assert guards.evidence_of(1, ("a", "b"), both[:2], since=5) == "b gave no reading"
    assert guards.evidence_of(1, (), both, since=5) == "the level has no device"


def test_readings_age_and_confirmations_do_not() -> None:
    policy = HostPolicy(name="c1", fencing=Fencing(evidence_max_age_s=30))
    held = incident(evidence=EVIDENCE)
    assert guards.evidence_holds(held, policy, NOW)
    assert guards.evidence_holds(held, policy, EVIDENCE.at + 29.9)
    assert not guards.evidence_holds(held, policy, EVIDENCE.at + 30)
    confirmed = incident(evidence=Evidence(kind=EvidenceKind.CONFIRMATION, at=1.0, by="me"))
    assert guards.evidence_holds(confirmed, policy, 1e9)
    trusted = HostPolicy(name="c1", fencing=Fencing(trusted_levels=(0,)))
    assert guards.evidence_holds(held, trusted, 1e9)
    assert not guards.evidence_holds(incident(), policy, NOW)


# --- S6: who may act, and the storm guard ---


@pytest.mark.parametrize(
    ("fleet", "record", "host", "why"),
    [
        ({"armed": False}, {}, "c1", "disarmed"),
        ({"paused": "upgrade (me)"}, {}, "c1", "paused: upgrade"),
        ({"foreign": "controller-9"}, {}, "c1", "another controller"),
        ({}, {"maintenance": "new disk (me)"}, "c1", "maintenance: new disk"),
        ({}, {}, "c99", "not in the inventory"),
    ],
)
def test_what_forbids_everything(fleet: dict[str, object], record: dict[str, object], host: str, why: str) -> None:
    world = state(**fleet)
    world.hosts["c1"] = msgspec.structs.replace(world.hosts["c1"], **record)
    refusal = guards.may_act(world, host, POLICY)
    assert refusal is not None
    assert why in refusal.reason
    assert refusal.release
    assert guards.may_act(state(), "c1", POLICY) is None


@pytest.mark.parametrize(
    ("share", "most", "known", "limit"),
    [(0.2, 5, 3, 1), (0.2, 5, 10, 2), (0.2, 5, 14, 2), (0.2, 5, 100, 5), (0.0, 5, 50, 1)],
)
def test_a_share_is_rounded_down_but_never_below_one(share: float, most: int, known: int, limit: int) -> None:
    assert guards.storm_limit(Storm(max_share=share, max_hosts=most), known) == limit


def fence(host: str, at: float) -> FenceRecord:
    return FenceRecord(host=host, domain=HOSTS[host].domain, incident=f"of-{host}", at=at)


def test_storm_guard_counts_fenced_waiting_and_silent_hosts() -> None:
    mine = incident()
    assert guards.storm(state(mine, fences=(fence("c2", NOW - 1), fence("c4", NOW - 1))), mine, POLICY, NOW) is None
    over = state(mine, fences=(fence("c2", NOW - 1), fence("c4", NOW - 1), fence("c6", NOW - 1)))
    refusal = guards.storm(over, mine, POLICY, NOW)
    assert refusal is not None
    assert "storm guard: 4 hosts" in refusal.reason
    assert refusal.release == "ha-agent fence c1"
    assert (
        guards.storm(state(mine, fences=tuple(fence(h, NOW - 601) for h in ("c2", "c4", "c6"))), mine, POLICY, NOW)
        is None
    )
    waiting = [incident(id=f"w{i}", host=f"c{i}") for i in (2, 4, 6)]
    assert guards.storm(state(mine, *waiting), mine, POLICY, NOW) is not None
    assert guards.storm(state(incident(silent=4)), incident(silent=4), POLICY, NOW) is not None
    assert guards.storm(over, incident(ordered_by="me"), POLICY, NOW) is None


def test_storm_guard_per_failure_domain() -> None:
    mine = incident()
    refusal = guards.storm(state(mine, fences=(fence("c3", NOW - 1), fence("c5", NOW - 1))), mine, POLICY, NOW)
    assert refusal is not None
    assert "failure domain rack-1" in refusal.reason


# --- S5: what stands before the first off ---


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"verdict": Verdict.PARTITIONED}, "the verdict is partitioned"),
        ({"verdict": Verdict.UNKNOWN}, "the verdict is unknown"),
        ({"verdict": Verdict.AGENT_LOST}, "the verdict is agent_lost"),
        ({"verdict": Verdict.NEVER_SEEN}, "the verdict is never_seen"),
        ({"verdict": Verdict.ALIVE}, "the verdict is alive"),
        ({"verdict_at": NOW - 6}, "being confirmed"),
    ],
)
def test_only_a_young_verdict_of_a_dead_host_is_fenced(changes: dict[str, object], why: str) -> None:
    mine = incident(**changes)
    refusal = guards.may_fence(state(mine), mine, POLICY, NOW)
    assert refusal is not None
    assert why in refusal.reason


def test_a_host_never_seen_is_not_fenced_and_an_interval_is_kept() -> None:
    mine = incident()
    assert guards.may_fence(state(mine), mine, POLICY, NOW) is None
    unseen = state(mine)
    unseen.hosts["c1"] = HostRecord(host="c1")
    refusal = guards.may_fence(unseen, mine, POLICY, NOW)
    assert refusal is not None
    assert "never seen alive" in refusal.reason
    again = guards.may_fence(state(mine, fences=(fence("c1", NOW - 10),)), mine, POLICY, NOW)
    assert again is not None
    assert "less than 60 s ago" in again.reason


def test_after_servers_have_moved_only_the_operator_can_stop_a_fence() -> None:
    mine = incident(committed_at=NOW - 1, verdict=Verdict.ALIVE, verdict_at=0.0, silent=9)
    assert guards.may_fence(state(mine), mine, POLICY, NOW) is None
    assert guards.may_fence(state(mine, armed=False), mine, POLICY, NOW) is not None


# --- the last look before the sending ---


def command(kind: CommandKind, **changes: object) -> Command:
    base = Command(
        id="x",
        incident="i1",
        step=Step.EVACUATE,
        kind=kind,
        subject="s1",
        host="c1",
        epoch=1,
        attempt=1,
        not_after=NOW + 5,
    )
    return msgspec.structs.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "fleet", "sent", "why"),
    [
        ({}, {}, {}, ""),
        ({"pending": ()}, {}, {}, "no longer waits"),
        ({"phase": Phase.CLOSED}, {}, {}, "no longer waits"),
        ({}, {"armed": False}, {}, "disarmed"),
        ({"evidence": None}, {}, {}, "no evidence"),
        ({"settled": True}, {}, {}, "settled"),
        ({}, {}, {"not_after": NOW}, "aged"),
    ],
)
def test_the_last_look(changes: dict[str, object], fleet: dict[str, object], sent: dict[str, object], why: str) -> None:
    one = command(CommandKind.EVACUATE, **sent)
    mine = incident(**{"evidence": EVIDENCE, "pending": (one,), "committed_at": NOW, **changes})
    reason = guards.may_send(state(mine, **fleet), one, POLICY, NOW)
    assert (why in reason) if why else reason == ""


def test_a_fence_that_comes_too_late_is_not_sent() -> None:
    one = command(CommandKind.FENCE, not_after=NOW)
    assert guards.may_send(state(incident(pending=(one,))), one, POLICY, NOW) == "its time is over"


def test_a_gate_may_be_opened_while_disarmed() -> None:
    one = command(CommandKind.OPEN_GATE, not_after=None)
    mine = incident(pending=(one,), position=RECOVER.index(Step.AWAIT_RETURN))
    assert guards.may_send(state(mine, armed=False), one, POLICY, NOW) == ""
