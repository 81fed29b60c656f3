"""What a verdict, a heartbeat and a reading do to an incident, by how far it is."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import Decision
from ha_agent.model import (
    Beat,
    CommandKind,
    EvidenceKind,
    Health,
    Incident,
    Mode,
    Power,
    PowerRead,
    Reading,
    ServerProgress,
    ServerStage,
    Step,
    Verdict,
    VerdictGiven,
)
from ha_agent.plans import (
    FENCE_AND_TELL,
    GATE,
    IN_PLACE,
    RECOVER,
    RESTART,
    TELL,
    UNFORCE,
    UNFORCE_AND_RESTART,
)
from ha_agent.policy import Policy
from tests.unit.decide_support import (
    NOW,
    POLICY,
    after,
    asked,
    evacuating,
    incident,
    lines,
    on,
    proof,
    sent,
    server,
    told,
    with_recovery,
)

replace = msgspec.structs.replace
UNFORCE_AND_TELL = (Step.UNFENCE, *TELL)
NOTIFY = with_recovery(mode=Mode.NOTIFY, fence=False)


def says(verdict: Verdict, **fields: object) -> VerdictGiven:
    return replace(VerdictGiven(host="h1", verdict=verdict, reason="so it seems", new_id="i9"), **fields)


def beat(boot: str = "old", **fields: object) -> Beat:
    return replace(Beat(host="h1", boot_id=boot, nova_compute=Health.UP, new_id="i9"), **fields)


def opened(decision: Decision) -> Incident | None:
    return decision.state.incidents.get("i9")


# --- a host without an incident ---


@pytest.mark.parametrize(("said", "kept"), [("b7", "b7"), ("", "old")])
def test_an_incident_knows_the_life_that_ended(said: str, kept: str) -> None:
    new = opened(on(says(Verdict.DOWN, boot_id=said)))
    assert new is not None
    assert (new.boot_id, new.verdict, new.plan) == (kept, Verdict.DOWN, RECOVER)


def test_the_end_of_a_suspicion_is_told_only_where_there_was_one() -> None:
    cleared = on(says(Verdict.ALIVE, boot_id="old"), suspect_since=NOW - 5)
    assert [d["verdict"] for d in told(cleared, "host.cleared")] == ["alive"]
    assert cleared.state.hosts["h1"].suspect_since is None
    quiet = on(says(Verdict.ALIVE, boot_id="old"))
    assert (quiet.told, quiet.lines) == ((), ())


def test_with_an_open_incident_its_end_is_told_instead() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED)
    assert told(on(says(Verdict.ALIVE, boot_id="old"), alarmed, suspect_since=NOW - 5), "host.cleared") == []


@pytest.mark.parametrize(
    ("maintenance", "rules", "plan"),
    [("", POLICY, RESTART), ("", NOTIFY, TELL), ("planned", POLICY, GATE)],
)
def test_a_new_boot_of_a_host_without_an_incident(maintenance: str, rules: Policy, plan: tuple[Step, ...]) -> None:
    new = opened(on(says(Verdict.REBOOTED, boot_id="new"), rules=rules, maintenance=maintenance))
    assert new is not None
    assert (new.plan, new.verdict, new.boot_id, new.new_boot_id) == (plan, Verdict.REBOOTED, "old", "new")


def test_only_a_known_boot_that_waits_gets_its_gate_opened() -> None:
    waiting = on(beat(waiting_gate=True))
    new = opened(waiting)
    assert new is not None
    assert (new.plan, new.verdict) == (GATE, Verdict.ALIVE)
    assert sent(waiting) == [CommandKind.OPEN_GATE]
    assert opened(on(beat("new", waiting_gate=True))) is None, "it may be a reboot: that is judged first"
    assert opened(on(beat())) is None


def test_a_host_that_is_not_in_the_inventory_is_not_listened_to() -> None:
    stranger = replace(incident(Step.FENCE), host="h9", subject="h9")
    for event in (beat(host="h9"), says(Verdict.ALIVE, host="h9")):
        assert on(event, stranger).state.incidents == {"i1": stranger}


# --- a verdict before anything was sent ---


@pytest.mark.parametrize(
    ("said", "ends"),
    [("b7", "b7"), ("", "old")],
)
def test_an_alarm_becomes_a_fence_when_the_host_is_believed_dead(said: str, ends: str) -> None:
    """Of the life that ended now; which servers run again in it is remembered."""
    servers = (server(ServerStage.VERIFIED), server(ServerStage.STARTING, "s2"))
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, servers=servers, boot_id="first")
    decision = on(says(Verdict.DOWN, boot_id=said), alarmed)
    now = after(decision)
    assert (now.plan, now.verdict, now.boot_id, now.mode) == (RECOVER, Verdict.DOWN, ends, Mode.AUTO)
    assert [s.stage for s in now.servers] == [ServerStage.VERIFIED, ServerStage.WAITING]
    assert sent(decision) == [CommandKind.FENCE]


def test_where_policy_fences_nothing_a_death_is_only_said() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, beat_at=NOW - 9, mode=Mode.NOTIFY)
    decision = on(says(Verdict.DOWN), alarmed, rules=NOTIFY)
    now = after(decision)
    assert (now.plan, now.step, now.verdict, now.beat_at) == (TELL, Step.AWAIT_RETURN, Verdict.DOWN, None)
    assert told(decision, "host.down") == []
    again = on(says(Verdict.DOWN), now, rules=NOTIFY)
    assert again.lines == ()


def test_in_notify_mode_an_alarm_may_become_a_fence_too() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, mode=Mode.NOTIFY)
    assert after(on(says(Verdict.DOWN), alarmed, rules=with_recovery(mode=Mode.NOTIFY))).plan == FENCE_AND_TELL


@pytest.mark.parametrize("plan", [RECOVER, FENCE_AND_TELL])
def test_another_reason_to_fence_changes_the_reason_alone(plan: tuple[Step, ...]) -> None:
    dying = incident(Step.FENCE, plan, rounds=2, level=1)
    now = after(on(says(Verdict.HUNG), dying))
    assert (now.plan, now.verdict, now.reason, now.rounds, now.level) == (plan, Verdict.HUNG, "so it seems", 2, 1)
    assert "now down" not in lines(on(says(Verdict.DOWN), dying)), "the same again is no news"


@pytest.mark.parametrize(
    ("plan", "was", "is_now", "changes"),
    [
        (TELL, Verdict.PARTITIONED, Verdict.UNKNOWN, True),
        (TELL, Verdict.PARTITIONED, Verdict.AGENT_LOST, True),
        (TELL, Verdict.PARTITIONED, Verdict.PARTITIONED, False),
        (RESTART, Verdict.REBOOTED, Verdict.UNKNOWN, False),
        (RESTART, Verdict.REBOOTED, Verdict.PARTITIONED, True),
        (UNFORCE, Verdict.ALIVE, Verdict.PARTITIONED, True),
    ],
)
def test_an_alarm_follows_the_verdict(plan: tuple[Step, ...], was: Verdict, is_now: Verdict, changes: bool) -> None:
    """A restart goes on while too little is known: the host was just heard."""
    subject = incident(plan[-1], plan, verdict=was, beat_at=NOW - 9, surveyed=True)
    decision = on(says(is_now), subject)
    down = told(decision, "host.down")
    assert (after(decision).verdict, len(down)) == ((is_now, 1) if changes else (was, 0))
    assert all(d["forced_down"] is False and d["evidence"] is None for d in down)
    assert changes is (after(decision).beat_at is None)


@pytest.mark.parametrize("plan", [RECOVER, FENCE_AND_TELL])
def test_the_fence_that_a_person_ordered_is_not_changed_by_the_witnesses(plan: tuple[Step, ...]) -> None:
    ordered = incident(Step.FENCE, plan, ordered_by="anna", reason="fence ordered")
    for verdict in (Verdict.PARTITIONED, Verdict.UNKNOWN, Verdict.HUNG):
        now = after(on(says(verdict), ordered))
        assert (now.plan, now.verdict, now.reason) == (plan, Verdict.DOWN, "fence ordered")


def test_an_order_of_which_nothing_is_left_to_be_fenced_holds_nothing() -> None:
    told_only = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, ordered_by="anna")
    assert after(on(says(Verdict.DOWN), told_only)).plan == RECOVER


@pytest.mark.parametrize("forced", [True, False])
def test_a_signed_answer_ends_what_is_proven_as_long_as_nothing_moves(forced: bool) -> None:
    servers = (server(ServerStage.VERIFIED),)
    proven = incident(Step.FORCE_DOWN, evidence=proof(), forced=forced, servers=servers, next_at=NOW + 9)
    assert after(on(says(Verdict.PARTITIONED), proven)).plan == RECOVER, "what is not signed may be older"
    now = after(on(says(Verdict.PARTITIONED, signed_at=NOW), proven))
    assert (now.plan, now.evidence) == (UNFORCE_AND_TELL if forced else TELL, None)
    assert [s.stage for s in now.servers] == [ServerStage.VERIFIED], "it runs in the same life"


def test_evidence_says_more_than_a_witness_that_cannot_be_asked() -> None:
    proven = incident(Step.FORCE_DOWN, evidence=proof(), next_at=NOW + 9)
    now = after(on(says(Verdict.UNKNOWN, signed_at=NOW), proven))
    assert (now.verdict, now.evidence) == (Verdict.DOWN, proven.evidence)


def test_a_fence_is_cancelled_while_too_little_is_known() -> None:
    fencing = asked(incident(Step.FENCE), CommandKind.FENCE)
    decision = on(says(Verdict.UNKNOWN), fencing)
    assert sent(decision) == [CommandKind.CANCEL_FENCE]
    assert (after(decision).plan, after(decision).verdict) == (RECOVER, Verdict.UNKNOWN)
    again = on(says(Verdict.UNKNOWN), replace(fencing, verdict=Verdict.UNKNOWN))
    assert (sent(again), after(again).history) == ([], ())


@pytest.mark.parametrize(
    ("step", "kind", "plan"),
    [
        (Step.FENCE, CommandKind.FENCE, RECOVER),
        (Step.FORCE_DOWN, CommandKind.FORCE_DOWN, UNFORCE_AND_TELL),
    ],
)
def test_the_plan_changes_when_no_attempt_is_alive_any_more(
    step: Step, kind: CommandKind, plan: tuple[Step, ...]
) -> None:
    """Nova's answer is not waited for."""
    under_way = asked(incident(step, forced=True), kind)
    assert after(on(says(Verdict.PARTITIONED), under_way)).plan == plan


# --- a verdict later on ---


def test_a_host_that_fails_again_while_it_is_started_in_place_gets_a_new_incident() -> None:
    servers = (server(ServerStage.VERIFIED), server(ServerStage.STARTING, "s2"), server(ServerStage.NOT_MOVED, "s3"))
    in_place = incident(Step.RESTART, IN_PLACE, servers=servers, surveyed=True, settled=True)
    decision = on(says(Verdict.DOWN), in_place)
    new = opened(decision)
    assert new is not None
    assert [(s.id, s.prior, s.stage) for s in new.servers] == [
        ("s2", "ACTIVE", ServerStage.WAITING),
        ("s3", "ACTIVE", ServerStage.WAITING),
    ]
    assert told(decision, "incident.closed")
    assert opened(on(says(Verdict.UNKNOWN), in_place)) is None
    assert opened(on(says(Verdict.DOWN), in_place, maintenance="planned")) is None


@pytest.mark.parametrize(("verdict", "forgets"), [(Verdict.DOWN, True), (Verdict.PARTITIONED, False)])
def test_a_settled_host_that_dies_again_must_come_back_again(verdict: Verdict, forgets: bool) -> None:
    """What was moved stays moved, and its evidence is not what matters any more."""
    back = incident(
        Step.AWAIT_RETURN,
        evidence=proof(),
        committed_at=NOW - 50,
        settled=True,
        new_boot_id="new",
        beat_at=NOW - 20,
        nova_compute=Health.UP,
        gate_ok=True,
        clean=False,
        powered_on=True,
        poll_at=NOW + 9,
    )
    cleaned = replace(back, clean=True, gate_ok=True)
    for subject in (back, cleaned):
        now = after(on(says(verdict, signed_at=NOW), subject))
        assert (now.step, now.evidence) == (Step.AWAIT_RETURN, proof())
        kept = (now.beat_at, now.new_boot_id, now.nova_compute, now.gate_ok, now.clean)
        was = (subject.beat_at, subject.new_boot_id, subject.nova_compute, subject.gate_ok, subject.clean)
        assert kept == ((None, "", Health.UNKNOWN, False, False) if forgets else was)


# --- readings ---


@pytest.mark.parametrize(
    ("power", "settled", "revokes"),
    [
        (Power.ON, False, True),
        (Power.OFF, False, False),
        (Power.UNKNOWN, False, False),
        (Power.ON, True, False),
    ],
)
def test_which_reading_revokes(power: Power, settled: bool, revokes: bool) -> None:
    moving = evacuating(server(ServerStage.MOVING), settled=settled)
    event = PowerRead(host="h1", readings=(Reading(device="bmc", power=power, at=NOW),))
    now = after(on(event, moving))
    assert (now.evidence is None) is revokes


@pytest.mark.parametrize(
    ("power", "known"), [(Power.ON, {"a": 1.0, "bmc": NOW}), (Power.OFF, {"a": 1.0}), (Power.UNKNOWN, {"a": 1.0})]
)
def test_what_reads_on_beside_an_attempt_is_remembered(power: Power, known: dict[str, float]) -> None:
    event = PowerRead(host="h1", readings=(Reading(device="bmc", power=power, at=NOW),))
    fencing = asked(incident(Step.FENCE, read_on={"a": 1.0}), CommandKind.FENCE)
    assert after(on(event, fencing)) == replace(fencing, read_on=known)


def test_a_reading_of_a_host_that_nobody_is_switching_off_says_nothing() -> None:
    event = PowerRead(host="h1", readings=(Reading(device="bmc", power=Power.ON, at=NOW),))
    assert on(event).state.incidents == {}
    for waiting in (incident(Step.ANNOUNCE, plan=TELL), incident(Step.FENCE)):
        assert after(on(event, waiting)) == waiting


# --- heartbeats of a host that is to be fenced, or was ---


def test_a_heartbeat_without_a_boot_is_no_new_life() -> None:
    now = after(on(beat(""), evacuating(server(ServerStage.MOVING))))
    assert now.contradicted == 1
    assert "after a new boot" not in now.revoked


@pytest.mark.parametrize("plan", [RECOVER, FENCE_AND_TELL])
def test_the_first_heartbeat_after_the_commit_may_have_been_on_its_way(plan: tuple[Step, ...]) -> None:
    moving = incident(plan[-2], plan, evidence=proof(), committed_at=NOW - 50)
    first = on(beat(), moving)
    assert (after(first).step, after(first).contradicted) == (Step.FENCE, 1)
    assert not first.state.hosts["h1"].contradiction
    second = on(beat(), replace(moving, contradicted=1))
    assert second.state.hosts["h1"].contradiction
    switched_on = on(beat("new"), replace(moving, contradicted=1))
    assert not switched_on.state.hosts["h1"].contradiction
    assert after(switched_on).step is Step.FENCE


@pytest.mark.parametrize(("boot", "step"), [("new", Step.AWAIT_RETURN), ("old", Step.FENCE)])
@pytest.mark.parametrize("plan", [RECOVER, FENCE_AND_TELL])
def test_a_settled_host_is_expected_but_only_with_a_new_boot(plan: tuple[Step, ...], boot: str, step: Step) -> None:
    back = incident(Step.AWAIT_RETURN, plan, evidence=proof(), committed_at=NOW - 50, settled=True, powered_on=True)
    decision = on(beat(boot), back)
    assert after(decision).step is step
    assert bool(decision.state.hosts["h1"].contradiction) is (boot == "old")
    assert after(decision).new_boot_id == ("new" if boot == "new" else "")


def test_a_settled_host_that_is_fenced_again_proves_nothing_from_before_its_last_heartbeat() -> None:
    again = asked(incident(Step.FENCE, settled=True, committed_at=NOW - 50), CommandKind.FENCE)
    assert after(on(beat(), again)).evidence_since == NOW


def test_the_gate_is_for_one_boot_of_the_host() -> None:
    back = incident(
        Step.AWAIT_RETURN, evidence=proof(), settled=True, new_boot_id="new", gate_ok=True, clean=True, poll_at=NOW + 9
    )
    pending = asked(back, CommandKind.OPEN_GATE)
    same = after(on(beat("new"), pending))
    assert (same.new_boot_id, same.gate_ok, same.clean, same.beat_at) == ("new", True, True, NOW)
    other = after(on(beat("newer"), pending))
    assert (other.new_boot_id, other.gate_ok, other.clean) == ("newer", False, False)


@pytest.mark.parametrize("evidence", [None, proof()])
def test_the_ordered_fence_of_a_living_host_is_not_cancelled_by_its_heartbeats(evidence: object) -> None:
    fencing = asked(incident(Step.FENCE, ordered_by="anna", evidence=evidence), CommandKind.FENCE)
    decision = on(beat(), fencing)
    now = after(decision)
    assert (now.plan, now.step, now.evidence, now.beat_at) == (RECOVER, Step.FENCE, None, NOW)
    assert bool(decision.state.hosts["h1"].contradiction) is (evidence is not None)
    assert sent(decision) == []


def test_an_ordered_fence_is_over_when_the_host_boots_by_itself() -> None:
    now = after(on(beat("new"), incident(Step.FENCE, ordered_by="anna")))
    assert (now.plan, now.verdict) == (RESTART, Verdict.REBOOTED)


@pytest.mark.parametrize(
    ("mode", "forced", "plan"),
    [
        (Mode.AUTO, False, RESTART),
        (Mode.AUTO, True, UNFORCE_AND_RESTART),
        (Mode.NOTIFY, False, TELL),
        (Mode.NOTIFY, True, UNFORCE_AND_TELL),
    ],
)
def test_a_dead_host_that_reboots_by_itself(mode: Mode, forced: bool, plan: tuple[Step, ...]) -> None:
    dying = incident(Step.FENCE, mode=mode, forced=forced, surveyed=True, evidence_since=0.0)
    decision = on(beat("new"), dying)
    now = after(decision)
    assert (now.plan, now.verdict, now.new_boot_id, now.beat_at) == (plan, Verdict.REBOOTED, "new", NOW)
    assert not now.surveyed
    assert not decision.state.hosts["h1"].contradiction


def test_a_reboot_while_nobody_led_is_one_although_the_incident_knows_the_boot() -> None:
    """The journal knew another boot; only the verdict says so."""
    dying = incident(Step.FENCE, evidence=None, boot_id="new")
    assert after(on(says(Verdict.REBOOTED, boot_id="new"), dying)).plan == RESTART
    closed = on(says(Verdict.ALIVE, boot_id="new"), dying)
    assert told(closed, "incident.closed")


@pytest.mark.parametrize(
    ("mode", "forced", "left", "plan"),
    [
        (Mode.AUTO, False, False, RECOVER),
        (Mode.AUTO, True, False, UNFORCE),
        (Mode.AUTO, False, True, RESTART),
        (Mode.AUTO, True, True, UNFORCE_AND_RESTART),
        (Mode.NOTIFY, False, True, RECOVER),
        (Mode.NOTIFY, True, True, UNFORCE),
    ],
)
def test_a_dead_host_that_is_heard_again_in_the_same_life(
    mode: Mode, forced: bool, left: bool, plan: tuple[Step, ...]
) -> None:
    """Over, unless its servers were being started when it fell silent."""
    servers = (server(ServerStage.VERIFIED), *([server(ServerStage.STARTING, "s2")] if left else []))
    decision = on(beat(), incident(Step.FENCE, mode=mode, forced=forced, servers=servers))
    now = after(decision)
    assert now.plan == plan
    ended = plan == RECOVER
    assert CommandKind.FENCE not in sent(decision)
    assert not ended or (now.waiting, now.wake_at) == ("", None), "nothing is done about a closed incident"
    assert bool(told(decision, "incident.closed")) is ended
    assert [d["verdict"] for d in told(decision, "host.cleared")] == (["alive"] if ended else [])
    if Step.RESTART in plan:
        assert (now.verdict, now.new_boot_id) == (Verdict.REBOOTED, "old")
        assert [s.stage for s in now.servers] == [ServerStage.VERIFIED, ServerStage.WAITING]
    elif not ended:
        assert now.verdict is Verdict.ALIVE


@pytest.mark.parametrize("step", [Step.FENCE, Step.AWAIT_RETURN])
def test_a_restart_that_has_not_begun_is_not_forgotten(step: Step) -> None:
    """Its host fell silent, or was alarmed about, before anybody could say which servers are to be started."""
    plan = RECOVER if step is Step.FENCE else TELL
    owing = incident(step, plan, restarting=True, verdict=Verdict.PARTITIONED)
    assert after(on(beat(), owing)).plan == RESTART
    assert after(on(beat(), replace(owing, forced=True))).plan == UNFORCE_AND_RESTART
    assert after(on(beat(), replace(owing, servers=(server(ServerStage.VERIFIED),)))).plan != RESTART


def test_what_a_plan_owes_stays_owed_by_the_next_one() -> None:
    rebooted = after(on(says(Verdict.REBOOTED, boot_id="new"), incident(Step.FENCE)))
    assert rebooted.restarting
    silent = after(on(says(Verdict.DOWN, boot_id="new"), rebooted))
    assert (silent.plan, silent.restarting) == (RECOVER, True)
    assert not after(on(says(Verdict.DOWN), incident(Step.FENCE))).restarting


@pytest.mark.parametrize(("boot", "verdict"), [("old", Verdict.ALIVE), ("new", Verdict.REBOOTED)])
def test_a_heartbeat_waits_for_the_attempt_to_be_dead(boot: str, verdict: Verdict) -> None:
    fencing = asked(incident(Step.FENCE), CommandKind.FENCE)
    decision = on(beat(boot), fencing)
    assert sent(decision) == [CommandKind.CANCEL_FENCE]
    assert (after(decision).plan, after(decision).verdict) == (RECOVER, verdict)
    assert ("after a new boot" in lines(decision)) is (boot == "new")
    silent = on(beat(boot), replace(fencing, verdict=verdict))
    assert "it sends heartbeats" not in lines(silent), "said once"
    telling_nova = asked(incident(Step.FORCE_DOWN, forced=True), CommandKind.FORCE_DOWN)
    assert after(on(beat(), telling_nova)).plan == UNFORCE, "Nova's answer is not waited for"


def test_evidence_by_a_person_is_no_lie_of_a_device() -> None:
    confirmed = incident(Step.FORCE_DOWN, evidence=replace(proof(), kind=EvidenceKind.CONFIRMATION))
    assert not on(beat(), confirmed).state.hosts["h1"].contradiction


# --- heartbeats of a host that was only alarmed about ---


@pytest.mark.parametrize(
    ("plan", "forced", "boot", "left", "becomes"),
    [
        (TELL, False, "new", False, RESTART),
        (TELL, True, "new", False, UNFORCE_AND_RESTART),
        (UNFORCE_AND_TELL, True, "new", False, UNFORCE_AND_RESTART),
        (TELL, False, "old", True, RESTART),
        (TELL, False, "old", False, TELL),
        (GATE, False, "new", True, GATE),
    ],
)
def test_an_alarm_ends_in_a_restart_where_there_is_something_to_start(
    plan: tuple[Step, ...], forced: bool, boot: str, left: bool, becomes: tuple[Step, ...]
) -> None:
    servers = (server(ServerStage.VERIFIED), server(ServerStage.STARTING, "s2")) if left else ()
    alarmed = incident(plan[-1], plan, verdict=Verdict.PARTITIONED, forced=forced, servers=servers)
    now = after(on(beat(boot), alarmed))
    assert now.plan == becomes
    if Step.RESTART in becomes:
        assert (now.verdict, now.new_boot_id, now.beat_at) == (Verdict.REBOOTED, boot, NOW)
        stages = [s.stage for s in now.servers]
        assert stages == ([ServerStage.VERIFIED, ServerStage.WAITING] if left else [])
        assert ("with a new boot" in now.reason) is (boot == "new")


def test_an_alarm_ends_in_a_restart_after_a_reboot_that_only_the_journal_shows() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, boot_id="new")
    assert after(on(says(Verdict.REBOOTED, boot_id="new"), alarmed)).plan == RESTART


@pytest.mark.parametrize(("seen_at", "since_s"), [(NOW - 4.0, 4.0), (None, None)])
def test_a_suspicion_says_since_when(seen_at: float | None, since_s: float | None) -> None:
    decision = on(says(Verdict.SUSPECT, last_seen_at=seen_at))
    assert [d["last_seen_s"] for d in told(decision, "host.suspected")] == [since_s]
    assert decision.state.hosts["h1"].suspect_since == NOW
    assert on(says(Verdict.SUSPECT), suspect_since=NOW - 1).told == ()


def test_in_notify_mode_an_alarm_starts_nothing() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, mode=Mode.NOTIFY)
    assert after(on(beat("new"), alarmed)).plan == TELL


@pytest.mark.parametrize(
    ("verdict", "beat_at", "noted"),
    [
        (Verdict.ALIVE, None, True),
        (Verdict.ALIVE, NOW - 9, False),
        (Verdict.PARTITIONED, NOW - 9, True),
    ],
)
def test_when_a_heartbeat_is_noted(verdict: Verdict, beat_at: float | None, noted: bool) -> None:
    """Not each of a host that is alive anyway: each would be written."""
    gate = asked(incident(Step.AWAIT_RETURN, GATE, verdict=verdict, beat_at=beat_at), CommandKind.OPEN_GATE)
    assert (after(on(beat(), gate)).beat_at == NOW) is noted


# --- a host that reboots once more ---


def restarting(*servers: ServerProgress, **changes: object) -> Incident:
    """Its guests are being started after a reboot into boot `new`."""
    fields: dict[str, object] = {"new_boot_id": "new", "surveyed": True, "servers": servers, "settle_by": NOW + 9}
    return replace(incident(Step.RESTART, RESTART, verdict=Verdict.REBOOTED), **{**fields, **changes})


def test_what_was_started_in_a_boot_that_ended_is_started_again() -> None:
    servers = (
        server(ServerStage.VERIFIED, "ran", looks=2, next_at=NOW + 9),
        server(ServerStage.STARTING, "began"),
        server(ServerStage.VERIFIED, "elsewhere", dest="h2"),
        server(ServerStage.NOT_MOVED, "stays"),
    )
    decision = on(beat("newer"), restarting(*servers))
    now = after(decision)
    assert "announced" not in lines(decision), "it was before"
    assert [(s.id, s.stage, s.looks, s.next_at) for s in now.servers] == [
        ("ran", ServerStage.WAITING, 0, 0.0),
        ("began", ServerStage.WAITING, 0, 0.0),
        ("elsewhere", ServerStage.VERIFIED, 0, 0.0),
        ("stays", ServerStage.NOT_MOVED, 0, 0.0),
    ]
    assert (now.step, now.new_boot_id) == (Step.RESTART, "newer")


@pytest.mark.parametrize(
    ("plan", "step", "was", "boot", "back_to"),
    [
        (RESTART, Step.VERIFY, "new", "newer", Step.RESTART),
        (RESTART, Step.VERIFY, "new", "new", Step.VERIFY),
        (RESTART, Step.VERIFY, "", "newer", Step.VERIFY),
        (GATE, Step.AWAIT_RETURN, "new", "newer", Step.AWAIT_RETURN),
        (TELL, Step.AWAIT_RETURN, "new", "newer", Step.AWAIT_RETURN),
    ],
)
def test_only_a_restart_begins_again_with_another_boot(
    plan: tuple[Step, ...], step: Step, was: str, boot: str, back_to: Step
) -> None:
    servers = (server(ServerStage.STARTING), server(ServerStage.VERIFIED, "s2"))
    subject = replace(restarting(*servers, new_boot_id=was), plan=plan, position=plan.index(step), mode=Mode.NOTIFY)
    now = after(on(beat(boot), replace(asked(subject, CommandKind.LIST_SERVERS), poll_at=NOW + 9)))
    assert now.step is back_to
    again = back_to is Step.RESTART
    assert [s.stage for s in now.servers] == (
        [ServerStage.WAITING, ServerStage.WAITING] if again else [ServerStage.STARTING, ServerStage.VERIFIED]
    )


def test_where_nothing_was_started_another_boot_changes_no_plan() -> None:
    subject = restarting(server(ServerStage.WAITING), cleared_boot_id="new", settle_by=NOW + 9)
    now = after(on(beat("newer"), subject))
    assert (now.settle_by, [s.stage for s in now.servers]) == (NOW + 9, [ServerStage.WAITING])
    assert "again" not in "".join(e.text for e in now.history)
