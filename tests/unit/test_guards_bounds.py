"""Each rule at the very bound where it begins to hold, and each of its conditions alone."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent import guards
from ha_agent.model import CommandKind, Evidence, EvidenceKind, HostRecord, Incident, Phase, Power, Step, Verdict
from ha_agent.plans import RECOVER, RESTART
from ha_agent.policy import HostPolicy, Policy, Storm
from tests.unit.test_guards import EVIDENCE, NOW, POLICY, command, fence, incident, off, reading, state

WAITS = {
    "phase": Phase.OPEN,
    "position": RECOVER.index(Step.FENCE),
    "evidence": None,
    "committed_at": None,
    "verdict": Verdict.DOWN,
    "opened_at": NOW - 599.9,
}
OTHERS = ("c3", "c5", "c7")


def other(host: str, **changes: object) -> Incident:
    """Another host that waits to be fenced."""
    return incident(id=f"of-{host}", host=host, subject=host, **{**WAITS, **changes})


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"phase": Phase.CLOSED}, False),
        ({"position": RECOVER.index(Step.FORCE_DOWN)}, False),
        ({"evidence": EVIDENCE}, False),
        ({"committed_at": NOW - 1}, False),
        ({"verdict": Verdict.PARTITIONED}, False),
        ({"opened_at": NOW - 600}, False),
    ],
)
def test_which_incidents_count_for_the_storm_guard(changes: dict[str, object], counts: bool) -> None:
    """Three others are over the limit of three together with this one."""
    mine = incident()
    refusal = guards.storm(state(mine, *(other(h, **changes) for h in OTHERS)), mine, POLICY, NOW)
    assert (refusal is not None) is counts


def test_hosts_that_may_not_be_fenced_do_not_count_for_the_storm_guard() -> None:
    mine = incident()
    world = state(mine, *(other(h) for h in OTHERS))
    for host in OTHERS:
        world.hosts[host] = msgspec.structs.replace(world.hosts[host], maintenance="planned")
    assert guards.storm(world, mine, POLICY, NOW) is None


def test_a_host_counts_once_for_the_storm_guard() -> None:
    """Itself, and one that was fenced and waits again."""
    mine = incident()
    fences = (fence("c1", NOW - 1), fence("c3", NOW - 1), fence("c3", NOW - 2))
    assert guards.storm(state(mine, other("c3"), fences=fences), mine, POLICY, NOW) is None


def test_a_fence_counts_for_the_storm_guard_until_the_window_is_over() -> None:
    mine = incident()
    for age_s, counts in ((599.9, True), (600.0, False)):
        fences = tuple(fence(h, NOW - age_s) for h in ("c2", "c4", "c6"))
        assert (guards.storm(state(mine, fences=fences), mine, POLICY, NOW) is not None) is counts


def test_waiting_hosts_count_in_their_own_failure_domain() -> None:
    mine = incident()
    same = [other(h) for h in ("c3", "c5")]
    refusal = guards.storm(state(mine, *same), mine, POLICY, NOW)
    assert refusal is not None
    assert "3 hosts of failure domain rack-1" in refusal.reason
    assert guards.storm(state(mine, other("c2"), other("c4")), mine, POLICY, NOW) is None


def test_hosts_without_a_failure_domain_are_no_failure_domain() -> None:
    loose = Policy(
        hosts={h: HostPolicy(name=h) for h in ("c1", "c2", "c3")}, storm=Storm(max_share=1.0, domain_max_hosts=1)
    )
    mine = incident()
    assert guards.storm(state(mine, other("c2")), mine, loose, NOW) is None


def test_a_host_of_which_nothing_is_kept_may_be_acted_on_but_was_never_seen() -> None:
    mine = incident()
    world = state(mine)
    del world.hosts["c1"]
    assert guards.may_act(world, "c1", POLICY) is None
    refusal = guards.may_fence(world, mine, POLICY, NOW)
    assert refusal is not None
    assert "never seen alive" in refusal.reason
    assert guards.may_fence(world, incident(ordered_by="me"), POLICY, NOW) is None


@pytest.mark.parametrize(
    ("verdict", "release"),
    [(Verdict.UNKNOWN, "ha-agent fence c1"), (Verdict.PARTITIONED, ""), (Verdict.NEVER_SEEN, "")],
)
def test_only_where_too_little_is_known_a_person_is_asked(verdict: Verdict, release: str) -> None:
    mine = incident(verdict=verdict)
    refusal = guards.may_fence(state(mine), mine, POLICY, NOW)
    assert refusal is not None
    assert refusal.release == release


def test_a_verdict_is_believed_up_to_its_greatest_age() -> None:
    for age_s, fenced in ((5.0, True), (5.1, False)):
        mine = incident(verdict_at=NOW - age_s)
        assert (guards.may_fence(state(mine), mine, POLICY, NOW) is None) is fenced


@pytest.mark.parametrize(
    ("host", "age_s", "ordered_by", "fenced"),
    [
        ("c1", 59.9, "", False),
        ("c1", 60.0, "", True),
        ("c1", 59.9, "me", True),
        ("c2", 59.9, "", True),
    ],
)
def test_the_least_interval_is_kept_between_two_fences_of_one_host(
    host: str, age_s: float, ordered_by: str, fenced: bool
) -> None:
    mine = incident(ordered_by=ordered_by)
    world = state(mine, fences=(fence(host, NOW - age_s),))
    assert (guards.may_fence(world, mine, POLICY, NOW) is None) is fenced


def test_the_fence_of_this_very_incident_is_no_other_fence() -> None:
    mine = incident(id="of-c1")
    assert guards.may_fence(state(mine, fences=(fence("c1", NOW - 1),)), mine, POLICY, NOW) is None


# --- evidence ---


def test_readings_count_from_the_very_moment_on() -> None:
    assert isinstance(guards.evidence_of(0, ("bmc",), (off(5), off(6)), since=5), Evidence)
    assert isinstance(guards.evidence_of(0, ("bmc",), (off(4.9), off(6)), since=5), str)


def test_a_device_that_was_on_between_two_offs_is_off_only_once() -> None:
    readings = (off(6), reading(Power.ON, 7), off(8))
    assert guards.evidence_of(0, ("bmc",), readings, since=5) == "bmc read off only once"


@pytest.mark.parametrize(
    ("changes", "proven"),
    [
        ({}, True),
        ({"phase": Phase.CLOSED}, False),
        ({"settled": True}, False),
        ({"evidence": None}, False),
        ({"host": "c3"}, False),
    ],
)
def test_which_incident_proves_a_destination_off(changes: dict[str, object], proven: bool) -> None:
    """After it is settled the host may be switched on again at any time."""
    holder = incident(id="i2", **{"host": "c2", "evidence": EVIDENCE, **changes})
    assert guards.proven_off(state(holder), "c2", POLICY, NOW) is proven


# --- the last look before the sending ---


def test_a_command_of_no_incident_is_not_sent() -> None:
    one = command(CommandKind.EVACUATE)
    assert "no longer waits" in guards.may_send(state(incident(id="i2")), one, POLICY, NOW)


def test_what_is_being_cancelled_is_the_fence_alone() -> None:
    cancel = command(CommandKind.CANCEL_FENCE, id="c", not_after=None)
    for kind, why in ((CommandKind.FENCE, "it is being cancelled"), (CommandKind.POWER_ON, "")):
        one = command(kind, not_after=None)
        step = Step.FENCE if kind is CommandKind.FENCE else Step.AWAIT_RETURN
        mine = incident(pending=(one, cancel), position=RECOVER.index(step))
        assert guards.may_send(state(mine), one, POLICY, NOW) == why


@pytest.mark.parametrize(
    ("kind", "evidence", "why"),
    [
        (CommandKind.EVACUATE, EVIDENCE, ""),
        (CommandKind.FORCE_DOWN, EVIDENCE, ""),
        (CommandKind.EVACUATE, None, "there is no evidence any more"),
        (CommandKind.FORCE_DOWN, None, "there is no evidence any more"),
        (CommandKind.EVACUATE, msgspec.structs.replace(EVIDENCE, at=NOW - 30), "there is no evidence any more"),
        (CommandKind.FORCE_DOWN, msgspec.structs.replace(EVIDENCE, at=NOW - 30), "there is no evidence any more"),
        (CommandKind.CLEAR_FORCE_DOWN, None, ""),
        (CommandKind.START, None, ""),
    ],
)
def test_which_commands_need_evidence_at_the_last_look(kind: CommandKind, evidence: Evidence | None, why: str) -> None:
    one = command(kind, not_after=None)
    step = Step.UNFENCE if kind is CommandKind.CLEAR_FORCE_DOWN else Step.EVACUATE
    mine = incident(pending=(one,), evidence=evidence, position=RECOVER.index(step))
    assert guards.may_send(state(mine), one, POLICY, NOW) == why


def test_only_an_evacuation_is_too_late_once_the_incident_is_settled() -> None:
    for kind, why in ((CommandKind.EVACUATE, "the incident is settled"), (CommandKind.POWER_ON, "")):
        one = command(kind)
        step = Step.EVACUATE if kind is CommandKind.EVACUATE else Step.AWAIT_RETURN
        mine = incident(pending=(one,), evidence=EVIDENCE, settled=True, position=RECOVER.index(step))
        assert guards.may_send(state(mine), one, POLICY, NOW) == why


@pytest.mark.parametrize("kind", [CommandKind.POWER_ON, CommandKind.OPEN_GATE, CommandKind.CLEAR_FORCE_DOWN])
@pytest.mark.parametrize("step", RECOVER)
def test_what_takes_a_host_back_never_meets_an_off(kind: CommandKind, step: Step) -> None:
    """S3, S4: it was handed over before the host was to be fenced again, and its time is over."""
    one = command(kind, not_after=None)
    mine = incident(pending=(one,), position=RECOVER.index(step))
    allowed = step in (Step.AWAIT_RETURN, Step.UNFENCE)
    assert guards.may_send(state(mine), one, POLICY, NOW) == ("" if allowed else f"the incident is at {step} again")
    again = incident(pending=(one,), plan=RESTART, position=RESTART.index(Step.RESTART))
    assert guards.may_send(state(again), one, POLICY, NOW) == ""


def test_a_look_is_allowed_where_nothing_destructive_is() -> None:
    one = command(CommandKind.SURVEY, not_after=None)
    assert guards.may_send(state(incident(pending=(one,)), armed=False), one, POLICY, NOW) == ""


def test_a_host_that_left_the_inventory_has_no_failure_domain() -> None:
    mine = incident(host="gone", subject="gone")
    assert guards.storm(state(mine, fences=(fence("c3", NOW - 1),)), mine, POLICY, NOW) is None
    assert not guards.proven_off(state(incident(host="gone", evidence=EVIDENCE)), "gone", POLICY, NOW)


def test_evidence_by_a_person_does_not_age_and_that_of_an_untrusted_level_does() -> None:
    fencing = POLICY.hosts["c1"].fencing
    assert guards.expires_at(EVIDENCE, fencing) == EVIDENCE.at + 30.0
    assert guards.expires_at(EVIDENCE, msgspec.structs.replace(fencing, trusted_levels=(0,))) is None
    confirmed = Evidence(kind=EvidenceKind.CONFIRMATION, at=NOW, by="me")
    assert guards.expires_at(confirmed, fencing) is None


def test_a_record_without_maintenance_forbids_nothing() -> None:
    assert guards.may_act(state(), "c1", POLICY) is None
    world = state()
    world.hosts["c1"] = HostRecord(host="c1", maintenance="planned")
    assert guards.may_act(world, "c1", POLICY) is not None
    assert guards.may_act(world, "c2", POLICY) is None
