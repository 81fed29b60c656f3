"""Making sure that a host is off: when an attempt is sent, what its answer means, and how evidence is kept young."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import Decision, decide
from ha_agent.model import (
    Beat,
    CommandKind,
    EvidenceKind,
    FenceRecord,
    Finished,
    Fleet,
    Health,
    HostRecord,
    Incident,
    Now,
    Operator,
    Order,
    Outcome,
    Phase,
    Power,
    PowerRead,
    Reading,
    ServerStage,
    State,
    Status,
    Step,
    Tick,
)
from ha_agent.plans import IN_PLACE
from ha_agent.policy import Policy
from tests.unit.decide_support import (
    NOW,
    POLICY,
    after,
    answer,
    asked,
    evacuating,
    incident,
    lines,
    off,
    on,
    proof,
    sent,
    server,
    told,
)

replace = msgspec.structs.replace


def tick(subject: Incident, rules: Policy = POLICY) -> Decision:
    return on(Tick(), replace(subject, wake_at=NOW), rules=rules)


def with_fencing(**changes: object) -> Policy:
    hosts = {n: replace(h, fencing=replace(h.fencing, **changes)) for n, h in POLICY.hosts.items()}
    return replace(POLICY, hosts=hosts)


def read(power: Power, device: str = "bmc", at: float = NOW) -> Reading:
    return Reading(device=device, power=power, at=at)


# --- sending ---


@pytest.mark.parametrize(
    ("pending", "kinds"),
    [
        (CommandKind.FENCE, []),
        (CommandKind.CANCEL_FENCE, []),
        (CommandKind.FORCE_DOWN, [CommandKind.FENCE]),
    ],
)
def test_one_attempt_at_a_time(pending: CommandKind, kinds: list[CommandKind]) -> None:
    assert sent(tick(asked(incident(Step.FENCE), pending))) == kinds


@pytest.mark.parametrize(("next_at", "kinds", "wake_at"), [(NOW, [CommandKind.FENCE], None), (NOW + 1, [], NOW + 1)])
def test_the_next_attempt_has_its_time(next_at: float, kinds: list[CommandKind], wake_at: float | None) -> None:
    decision = tick(incident(Step.FENCE, next_at=next_at))
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)


def test_an_attempt_names_its_level_and_its_end() -> None:
    decision = tick(incident(Step.FENCE, level=1, blocked="paused: x"))
    (command,) = decision.commands
    assert (command.level, command.not_after) == (1, NOW + 20.0)
    assert "off is sent to level 2 (pdu)" in lines(decision)
    assert (after(decision).blocked, after(decision).stage_at["fence"]) == ("", NOW)
    last = tick(incident(Step.FENCE, level=7))
    assert [c.level for c in last.commands] == [1], "the config has fewer levels by now"


def test_that_fencing_fails_stays_said_until_it_works() -> None:
    failing = incident(Step.FENCE, blocked="fencing failed: no answer", release="x")
    assert after(tick(failing)).blocked == "fencing failed: no answer"


def test_a_host_without_a_fencing_device_waits_for_a_person() -> None:
    decision = tick(incident(Step.FENCE), with_fencing(levels=()))
    assert sent(decision) == []
    assert after(decision).blocked == "fencing failed: no fencing device"
    assert after(decision).release == "ha-agent confirm-fenced h1"


def test_devices_that_lied_are_not_asked_again() -> None:
    decision = on(Tick(), incident(Step.FENCE, wake_at=NOW), contradiction="they guard something else")
    assert sent(decision) == []
    assert (after(decision).blocked, after(decision).release) == (
        "they guard something else",
        "ha-agent fence h1, once its devices are mended; or switch it off by hand and ha-agent confirm-fenced h1",
    )


@pytest.mark.parametrize(
    ("fences", "kept"),
    [
        ((), ["i1"]),
        ((("i0", NOW - 599),), ["i0", "i1"]),
        ((("i0", NOW - 601),), ["i1"]),
        ((("i1", NOW - 9),), ["i1"]),
    ],
)
def test_a_fence_is_counted_once_and_before_it_is_sent(fences: tuple[tuple[str, float], ...], kept: list[str]) -> None:
    records = tuple(FenceRecord(host="h2" if i == "i0" else "h1", domain="", incident=i, at=at) for i, at in fences)
    rules = replace(POLICY, storm=replace(POLICY.storm, max_share=1.0))
    state = State(
        fleet=Fleet(armed=True, fences=records),
        hosts={"h1": HostRecord(host="h1", first_seen_wall=1.0)},
        incidents={"i1": incident(Step.FENCE, wake_at=NOW)},
    )
    decision = decide(state, Tick(), rules, Now(at=NOW))
    assert sent(decision) == [CommandKind.FENCE]
    assert [f.incident for f in decision.state.fleet.fences] == kept


def test_what_is_only_confirmed_again_is_waited_for_and_not_called_a_block() -> None:
    decision = tick(incident(Step.FENCE, verdict_at=NOW - 6))
    assert (after(decision).waiting, after(decision).blocked) == ("the verdict is being confirmed", "")
    assert after(decision).wake_at == NOW + 1


# --- the levels before ---


def test_all_levels_before_are_asked_once() -> None:
    proven = incident(Step.FENCE, evidence=proof(level=2, device="plug"))
    rules = with_fencing(levels=(("bmc",), ("pdu",), ("plug",)))
    assert [(c.kind, c.level) for c in tick(proven, rules).commands] == [
        (CommandKind.READ_POWER, 0),
        (CommandKind.READ_POWER, 1),
    ]
    waiting = asked(proven, CommandKind.READ_POWER, level=0)
    assert [c.level for c in tick(waiting, rules).commands] == [1]
    assert sent(tick(replace(proven, crosschecked=(0, 1)), rules)) == [CommandKind.FORCE_DOWN]


def test_a_person_s_word_contradicts_no_device() -> None:
    confirmed = replace(proof(), kind=EvidenceKind.CONFIRMATION, by="anna", readings=())
    decision = tick(incident(Step.FENCE, evidence=confirmed))
    assert sent(decision) == [CommandKind.FORCE_DOWN]
    assert "off is proven: confirmed by anna" in lines(decision)


def test_what_proves_the_off_is_said() -> None:
    assert "off is proven: bmc read off twice" in lines(tick(incident(Step.FENCE, evidence=proof())))
    trusted = replace(proof(), kind=EvidenceKind.TRUSTED)
    assert "off is proven: level 1 is declared trusted" in lines(tick(incident(Step.FENCE, evidence=trusted)))


def test_the_levels_before_are_asked_again_at_their_time() -> None:
    proven = incident(Step.FENCE, evidence=proof(level=1, device="pdu"))
    for next_at, kinds, wake_at in ((NOW, [CommandKind.READ_POWER], None), (NOW + 1, [], NOW + 1)):
        decision = tick(replace(proven, next_at=next_at))
        assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)


# --- answers ---


OFFS = (off(NOW - 2), off(NOW - 1))


def test_evidence_ends_the_attempt_and_its_trouble() -> None:
    failing = incident(
        Step.FENCE, blocked="fencing failed: x", rounds=3, revoked="y", next_at=NOW + 9, crosschecked=(0,)
    )
    decision = answer(asked(failing, CommandKind.FENCE), readings=OFFS)
    now = after(decision)
    assert now.evidence is not None
    assert (now.blocked, now.rounds, now.revoked, now.step) == ("", 0, "", Step.FORCE_DOWN)
    assert now.stage_at["evidence"] == NOW
    assert [d["level"] for d in told(decision, "host.fence.end")] == [0]


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (Status.FAILED, "401", "401"),
        (Status.LOST, "", "the attempt ended as lost"),
        (Status.LOST, "not sent: by chance", "not sent: by chance"),
        (Status.OK, "", "bmc gave no reading"),
    ],
)
def test_why_a_level_failed_is_told_and_the_next_one_is_tried(status: Status, error: str, why: str) -> None:
    decision = answer(asked(incident(Step.FENCE), CommandKind.FENCE), status=status, error=error)
    assert [(d["error"], d["devices"], d["level"]) for d in told(decision, "host.fence.error")] == [(why, ["bmc"], 0)]
    assert [(c.kind, c.level) for c in decision.commands] == [(CommandKind.FENCE, 1)]


def test_readings_of_an_attempt_that_did_not_end_well_are_no_evidence() -> None:
    for status in (Status.LOST, Status.FAILED):
        assert (
            after(answer(asked(incident(Step.FENCE), CommandKind.FENCE), status=status, readings=OFFS)).evidence is None
        )


def test_what_was_not_sent_is_tried_again_in_a_second() -> None:
    decision = answer(asked(incident(Step.FENCE), CommandKind.FENCE), status=Status.FAILED, error="not sent: paused")
    assert (after(decision).next_at, after(decision).wake_at) == (NOW + 1, NOW + 1)
    assert "the off was not sent: paused" in lines(decision)
    assert told(decision, "host.fence.error") == []


def test_a_level_that_the_config_has_no_more_proves_nothing() -> None:
    for level in (2, 7):
        decision = answer(asked(incident(Step.FENCE), CommandKind.FENCE, level=level), readings=OFFS)
        assert [d["error"] for d in told(decision, "host.fence.error")] == ["the level has no device"]


@pytest.mark.parametrize(("rounds", "pause"), [(0, 5.0), (1, 10.0), (2, 20.0), (4, 60.0), (99, 60.0)])
def test_rounds_over_all_levels_become_rarer(rounds: int, pause: float) -> None:
    last = asked(incident(Step.FENCE, level=1, rounds=rounds), CommandKind.FENCE, level=1)
    now = after(answer(last, status=Status.FAILED, error="x"))
    assert (now.level, now.rounds, now.next_at) == (0, rounds + 1, NOW + pause)


@pytest.mark.parametrize(
    ("beat_at", "release"),
    [
        (None, "ha-agent confirm-fenced h1"),
        (NOW - 10.0, "ha-agent confirm-fenced h1"),
        (NOW - 9.9, "ha-agent release h1"),
    ],
)
def test_the_fence_of_a_living_host_can_only_be_withdrawn(beat_at: float | None, release: str) -> None:
    last = asked(incident(Step.FENCE, level=1, ordered_by="anna", beat_at=beat_at), CommandKind.FENCE, level=1)
    assert after(answer(last, status=Status.FAILED, error="x")).release == release


def test_an_answer_after_the_fence_is_over_is_nobody_s_failure() -> None:
    decision = answer(
        asked(incident(Step.FORCE_DOWN, evidence=proof(), next_at=NOW + 9), CommandKind.FENCE), status=Status.LOST
    )
    assert told(decision, "host.fence.error") == []
    assert (after(decision).level, after(decision).rounds) == (0, 0)


@pytest.mark.parametrize(("status", "alive"), [(Status.OK, 0), (Status.LOST, 1), (Status.FAILED, 1)])
def test_an_attempt_is_dead_when_its_cancelling_says_so(status: Status, alive: int) -> None:
    fencing = asked(incident(Step.FENCE, verdict_at=0.0), CommandKind.CANCEL_FENCE)
    attempt = replace(fencing.pending[0], id="attempt", kind=CommandKind.FENCE)
    other = replace(fencing.pending[0], id="other", kind=CommandKind.SURVEY)
    decision = answer(replace(fencing, pending=(*fencing.pending, attempt, other)), status=status, error="x")
    left = [c.id for c in after(decision).pending]
    assert left == (["attempt"] if alive else []) + ["other"]
    assert ("the cancelling answered: x" in lines(decision)) is bool(alive)


def test_a_cancelling_without_a_word_is_named_by_how_it_ended() -> None:
    fencing = asked(incident(Step.FENCE, verdict_at=0.0), CommandKind.CANCEL_FENCE)
    assert "the cancelling answered: lost" in lines(answer(fencing, status=Status.LOST))


def test_nothing_is_cancelled_twice() -> None:
    pause = Operator(order=Order.PAUSE, actor="anna")
    attempt = asked(incident(Step.FENCE), CommandKind.FENCE)
    assert sent(on(pause, attempt)) == [CommandKind.CANCEL_FENCE]
    cancel = replace(attempt.pending[0], id="c", kind=CommandKind.CANCEL_FENCE)
    assert sent(on(pause, replace(attempt, pending=(*attempt.pending, cancel)))) == []


# --- keeping evidence young ---


def moving(stage: ServerStage = ServerStage.MOVING, **changes: object) -> Incident:
    return replace(evacuating(server(stage, next_at=NOW + 99)), **changes)


@pytest.mark.parametrize(
    ("age_s", "read_at", "reads", "wake_at"),
    [
        (10.0, NOW, True, NOW + 2),
        (9.0, NOW, False, NOW + 1),
        (10.0, NOW + 1, False, NOW + 1),
        (1.0, NOW - 5, False, NOW + 2),
    ],
)
def test_devices_are_read_again_well_before_their_readings_age(
    age_s: float, read_at: float, reads: bool, wake_at: float
) -> None:
    """The servers in flight are looked at in two seconds anyway."""
    decision = tick(moving(evidence=proof(NOW - age_s), read_at=read_at))
    assert (CommandKind.READ_POWER in sent(decision)) is reads
    assert after(decision).wake_at == wake_at


def test_the_end_of_the_evidence_wakes_while_an_answer_is_waited_for() -> None:
    waiting = asked(moving(evidence=proof(NOW - 29.5), poll_at=NOW + 2), CommandKind.READ_POWER)
    decision = tick(waiting)
    assert (sent(decision), after(decision).wake_at) == ([], NOW + 0.5)
    ended = tick(replace(waiting, evidence=proof(NOW - 30)))
    assert (sent(ended), after(ended).wake_at) == ([], NOW + 2)
    assert after(ended).step is Step.EVACUATE


@pytest.mark.parametrize(
    ("stage", "revoked"),
    [
        (ServerStage.WAITING, True),
        (ServerStage.RETRY, True),
        (ServerStage.HELD, True),
        (ServerStage.MOVING, False),
        (ServerStage.SENT, False),
        (ServerStage.LOST, False),
    ],
)
def test_a_fence_is_repeated_only_where_an_intent_may_follow(stage: ServerStage, revoked: bool) -> None:
    decision = tick(moving(stage, evidence=proof(NOW - 30)))
    assert (after(decision).step is Step.FENCE) is revoked


def test_before_anything_is_known_of_the_servers_old_evidence_is_renewed() -> None:
    unknown = evacuating(evidence=proof(NOW - 30), surveyed=False, committed_at=None)
    assert after(tick(unknown)).step is Step.FENCE
    blocked = incident(Step.FORCE_DOWN, evidence=proof(NOW - 29.9), servers=(server(ServerStage.MOVING),))
    assert after(tick(blocked)).step is Step.FORCE_DOWN
    old = replace(blocked, evidence=proof(NOW - 30))
    assert after(tick(old)).step is Step.FENCE


def test_while_nova_is_retried_old_evidence_is_renewed() -> None:
    """Moved servers of an earlier life change nothing: force_down needs evidence."""
    waiting = incident(Step.FORCE_DOWN, evidence=proof(NOW - 1), servers=(server(ServerStage.MOVING),), next_at=NOW + 9)
    assert sent(tick(waiting)) == [CommandKind.FOLLOW]


def test_without_evidence_nothing_is_moved() -> None:
    decision = tick(moving(ServerStage.WAITING, evidence=None))
    assert after(decision).revoked == "there is none"


def test_evidence_that_does_not_age_is_not_read_again() -> None:
    decision = tick(moving(evidence=proof(NOW - 999)), with_fencing(levels=(("bmc",),), trusted_levels=(0,)))
    assert CommandKind.READ_POWER not in sent(decision)
    assert after(decision).step is Step.EVACUATE


@pytest.mark.parametrize(
    ("status", "readings", "at", "read_at"),
    [
        (Status.OK, (off(NOW - 0.5),), NOW - 0.5, NOW),
        (Status.LOST, (off(NOW - 0.5),), NOW - 1, NOW + 2),
        (Status.FAILED, (off(NOW - 0.5),), NOW - 1, NOW + 2),
        (Status.OK, (), NOW - 1, NOW),
        (Status.OK, (read(Power.UNKNOWN, at=NOW - 0.5),), NOW - 1, NOW + 2),
    ],
)
def test_one_more_off_makes_evidence_younger(
    status: Status, readings: tuple[Reading, ...], at: float, read_at: float
) -> None:
    decision = answer(asked(moving(), CommandKind.READ_POWER), status=status, readings=readings)
    now = after(decision)
    assert now.evidence is not None
    assert (now.evidence.at, now.read_at) == (at, read_at)


def test_a_short_lived_evidence_is_asked_for_soon_after_a_failure() -> None:
    rules = with_fencing(evidence_max_age_s=10.0)
    event = Finished(outcome=Outcome(command="asked", status=Status.LOST))
    assert after(on(event, asked(moving(), CommandKind.READ_POWER), rules=rules)).read_at == NOW + 1


def test_an_answer_to_a_question_from_before_a_confirmation_is_not_evidence_against_it() -> None:
    """A reading that is younger is told as an event of its own."""
    confirmed = moving(evidence=replace(proof(), kind=EvidenceKind.CONFIRMATION, readings=()))
    for readings in ((read(Power.ON),), (off(NOW - 0.5), off(NOW))):
        decision = answer(asked(confirmed, CommandKind.READ_POWER), readings=readings)
        assert after(decision).evidence == confirmed.evidence
    revoked = answer(
        asked(moving(ServerStage.MOVING, evidence=None), CommandKind.READ_POWER), readings=(read(Power.ON),)
    )
    assert after(revoked).revoked == "there is none"
    younger = on(PowerRead(host="h1", readings=(read(Power.ON),)), confirmed)
    assert after(younger).evidence is None


def test_evidence_of_a_level_that_the_config_has_no_more_is_not_renewed() -> None:
    proven = moving(evidence=proof(level=2), crosschecked=(0, 1))
    now = after(answer(asked(proven, CommandKind.READ_POWER, level=2), readings=(off(NOW - 0.5),)))
    assert (now.evidence, now.read_at) == (proven.evidence, NOW + 2)


# --- revoking ---


def test_in_a_plan_without_a_fence_there_is_nothing_to_revoke() -> None:
    in_place = incident(Step.RESTART, IN_PLACE, evidence=proof(), surveyed=True, nova_compute=Health.DOWN)
    in_place = replace(in_place, settle_by=NOW + 9, servers=(server(ServerStage.WAITING),))
    now = after(on(PowerRead(host="h1", readings=(read(Power.ON),)), in_place))
    assert (now.plan, now.evidence) == (IN_PLACE, in_place.evidence)


def test_while_it_is_fenced_again_a_heartbeat_only_voids_what_was_read_before() -> None:
    again = asked(incident(Step.FENCE, committed_at=NOW - 50, rounds=3, evidence_since=0.0), CommandKind.FENCE)
    decision = on(Beat(host="h1", boot_id="new", nova_compute=Health.UP), again)
    assert (after(decision).rounds, after(decision).evidence_since, after(decision).revoked) == (3, NOW, "")
    assert decision.lines == ()


def test_wherever_it_is_a_committed_incident_goes_back_to_the_fence() -> None:
    for evidence in (None, proof()):
        late = incident(Step.VERIFY, committed_at=NOW - 50, evidence=evidence, rounds=3, powered_on=True)
        now = after(on(Beat(host="h1", boot_id="new", nova_compute=Health.UP), late))
        assert (now.step, now.evidence, now.rounds, now.powered_on) == (Step.FENCE, None, 0, False)
        assert now.revoked == "it sends heartbeats after a new boot"


def test_a_contradiction_names_each_device_once() -> None:
    both = replace(proof(), readings=(off(NOW - 2, "b"), off(NOW - 1, "b"), off(NOW - 2, "a"), off(NOW - 1, "a")))
    decision = on(Beat(host="h1", boot_id="old"), incident(Step.FORCE_DOWN, evidence=both))
    assert [d["device"] for d in told(decision, "fencing_device.failed")] == ["a", "b"]


def test_of_the_lower_levels_only_one_that_reads_on_is_named() -> None:
    proven = asked(incident(Step.FENCE, evidence=proof(level=1, device="pdu")), CommandKind.READ_POWER, level=0)
    readings = (read(Power.UNKNOWN, "a"), read(Power.ON, "b"))
    decision = answer(proven, readings=readings)
    assert [(d["device"], d["level"]) for d in told(decision, "fencing_device.failed")] == [("b", 0)]
    assert "b reads on although level 2 reads off" in after(decision).revoked


@pytest.mark.parametrize(("phase", "noted"), [(Phase.OPEN, True), (Phase.CLOSED, False)])
def test_that_a_destination_is_proven_off_is_noted_where_something_may_follow(phase: Phase, noted: bool) -> None:
    elsewhere = replace(
        evacuating(server(ServerStage.MOVING, dest="h1", record=7)), id="i2", host="h2", subject="h2", phase=phase
    )
    decision = answer(asked(incident(Step.FENCE), CommandKind.FENCE), others=(elsewhere,), readings=OFFS)
    assert (decision.state.incidents["i2"].servers[0].void == (7,)) is noted
