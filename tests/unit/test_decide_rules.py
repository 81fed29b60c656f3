"""Rules of the plans, one by one, at the boundary where each begins to hold. What a whole recovery does is in the scenarios."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent import guards
from ha_agent.decide import Decision, decide
from ha_agent.errors import UsageError
from ha_agent.model import (
    DESTRUCTIVE,
    Beat,
    CommandKind,
    EvidenceKind,
    FenceRecord,
    Fleet,
    GuestFault,
    Health,
    HostRecord,
    Incident,
    Migration,
    Mode,
    Now,
    Operator,
    Order,
    Paused,
    Power,
    PowerRead,
    Presence,
    Reading,
    Resumed,
    Server,
    ServerProgress,
    ServerStage,
    State,
    Status,
    Step,
    Survey,
    Tick,
    Verdict,
    VerdictGiven,
)
from ha_agent.plans import RECOVER, RESTART, TELL
from ha_agent.policy import HostPolicy, Policy, Storm
from tests.unit.decide_support import (
    API_S,
    NOW,
    POLICY,
    after,
    answer,
    asked,
    evacuating,
    evacuation,
    incident,
    off,
    proof,
    sent,
    server,
    turn,
)

# --- fence: what evidence is, and what ends it ---


def test_no_server_moves_while_its_evidence_is_too_old() -> None:
    waiting = evacuating(server(ServerStage.WAITING), evidence=proof(NOW - 30), wake_at=NOW)
    decision = turn(waiting, Tick())
    assert CommandKind.EVACUATE not in sent(decision)
    assert (after(decision).step, after(decision).evidence) == (Step.FENCE, None)
    young = turn(msgspec.structs.replace(waiting, evidence=proof(NOW - 29)), Tick())
    assert CommandKind.EVACUATE in sent(young)


def test_evidence_may_age_when_nothing_is_to_be_sent_any_more() -> None:
    decision = turn(evacuating(server(ServerStage.MOVING), evidence=proof(NOW - 90), wake_at=NOW), Tick())
    assert after(decision).step is Step.EVACUATE
    assert sent(decision) == [CommandKind.READ_POWER]


def test_the_last_permitted_moment_goes_with_the_intent() -> None:
    decision = turn(evacuating(server(ServerStage.WAITING), wake_at=NOW), Tick())
    (command,) = (c for c in decision.commands if c.kind is CommandKind.EVACUATE)
    assert command.not_after == NOW - 1 + 30


def test_readings_from_before_the_cancelling_are_no_evidence() -> None:
    fencing = asked(incident(Step.FENCE, evidence_since=NOW - 5), CommandKind.FENCE)
    assert after(answer(fencing, readings=(off(NOW - 7), off(NOW - 6)))).evidence is None
    assert after(answer(fencing, readings=(off(NOW - 6), off(NOW - 4)))).evidence is None
    assert after(answer(fencing, readings=(off(NOW - 4), off(NOW - 3)))).evidence is not None


@pytest.mark.parametrize(
    ("read_on", "proven"),
    [
        ({}, True),
        ({"bmc": NOW - 4.5}, True),
        ({"bmc": NOW - 3.5}, False),
        ({"bmc": NOW - 2}, False),
        ({"pdu": NOW - 3.5}, True),
    ],
)
def test_a_device_that_read_on_between_two_offs_was_not_off(read_on: dict[str, float], proven: bool) -> None:
    """Whoever read it. Another device of the host may be slower to switch."""
    fencing = asked(incident(Step.FENCE, read_on=read_on), CommandKind.FENCE)
    now = after(answer(fencing, readings=(off(NOW - 4), off(NOW - 3))))
    assert (now.evidence is not None) is proven
    assert now.read_on == ({} if proven else read_on)


def test_the_answer_off_is_nothing_without_readings() -> None:
    decision = answer(asked(incident(Step.FENCE), CommandKind.FENCE))
    assert after(decision).evidence is None
    assert after(decision).level == 1, "the next level is tried"


def test_what_was_not_sent_is_no_failure_of_the_device() -> None:
    fencing = asked(incident(Step.FENCE), CommandKind.FENCE)
    decision = answer(fencing, status=Status.FAILED, error="not sent: disarmed")
    assert (after(decision).level, after(decision).rounds) == (0, 0)
    failed = answer(fencing, status=Status.FAILED, error="refused")
    assert after(failed).level == 1


def test_after_the_last_level_it_begins_again_and_names_the_way_out() -> None:
    decision = answer(asked(incident(Step.FENCE, level=1), CommandKind.FENCE, level=1))
    assert (after(decision).level, after(decision).rounds) == (0, 1)
    assert after(decision).release == "ha-agent confirm-fenced h1"


@pytest.mark.parametrize(
    ("power", "settled", "step"),
    [
        (Power.ON, False, Step.FENCE),
        (Power.ON, True, Step.EVACUATE),
        (Power.UNKNOWN, False, Step.EVACUATE),
        (Power.OFF, False, Step.EVACUATE),
    ],
)
def test_a_device_that_reads_on_while_servers_move(power: Power, settled: bool, step: Step) -> None:
    reading = Reading(device="bmc", power=power, at=NOW)
    moving = evacuating(server(ServerStage.MOVING), settled=settled)
    # settled: it would go on by itself; only the evidence matters then
    decision = answer(asked(moving, CommandKind.READ_POWER), readings=(reading,))
    assert (after(decision).evidence is None) is (step is Step.FENCE)
    assert settled or after(decision).step is step


def test_reading_on_revokes_only_if_it_is_younger_than_the_evidence() -> None:
    moving = evacuating(server(ServerStage.MOVING))

    def read(at: float) -> Decision:
        return turn(moving, PowerRead(host="h1", readings=(Reading(device="bmc", power=Power.ON, at=at),)))

    assert after(read(NOW - 1)).evidence is not None
    assert after(read(NOW)).evidence is None


def test_an_earlier_level_that_reads_on_is_a_contradiction() -> None:
    proven = incident(Step.FENCE, evidence=proof(level=1, device="pdu"))
    decision = turn(msgspec.structs.replace(proven, wake_at=NOW), Tick())
    assert [(c.kind, c.level) for c in decision.commands] == [(CommandKind.READ_POWER, 0)]
    on = Reading(device="bmc", power=Power.ON, at=NOW)
    decision = answer(asked(proven, CommandKind.READ_POWER, level=0), readings=(on,))
    assert after(decision).evidence is None
    assert decision.state.hosts["h1"].contradiction
    assert CommandKind.FENCE not in sent(decision)
    unknown = Reading(device="bmc", power=Power.UNKNOWN, at=NOW)
    decision = answer(asked(proven, CommandKind.READ_POWER, level=0), readings=(unknown,))
    assert sent(decision) == [CommandKind.FORCE_DOWN]


@pytest.mark.parametrize(
    ("domain_limit", "others", "allowed"),
    [(2, 1, True), (2, 2, False), (1, 0, True), (1, 1, False), (0, 0, True), (0, 1, False)],
)
def test_the_limit_of_a_failure_domain_itself_is_allowed(domain_limit: int, others: int, allowed: bool) -> None:
    """S6: so many hosts of one rack within the window, this one included, and not one more; never less than one."""
    rules = Policy(
        hosts={f"h{n}": HostPolicy(name=f"h{n}", domain="rack") for n in range(1, 11)},
        storm=Storm(max_hosts=9, max_share=0.9, domain_max_hosts=domain_limit),
    )
    fences = tuple(
        FenceRecord(host=f"h{n}", domain="rack", incident=f"i{n}", at=NOW - 10) for n in range(2, 2 + others)
    )
    subject = incident(Step.FENCE)
    state = State(fleet=Fleet(armed=True, fences=fences), hosts={}, incidents={"i1": subject})
    refusal = guards.storm(state, subject, rules, NOW)
    assert (refusal is None) is allowed, refusal


# --- verdicts and heartbeats ---


def test_only_a_question_younger_than_the_evidence_revokes_it() -> None:
    moving = evacuating(server(ServerStage.MOVING))

    def partitioned(signed_at: float | None) -> Incident:
        event = VerdictGiven(host="h1", verdict=Verdict.PARTITIONED, reason="reached", signed_at=signed_at)
        return after(turn(moving, event))

    assert partitioned(None).evidence is not None
    assert partitioned(NOW - 1).evidence is not None
    assert partitioned(NOW - 0.5).evidence is None


def test_a_pause_makes_an_old_verdict_worth_nothing() -> None:
    decision = turn(incident(Step.FENCE), Paused(gap_s=5.0))
    assert CommandKind.FENCE not in sent(decision)
    assert sent(turn(incident(Step.FENCE, wake_at=NOW), Tick())) == [CommandKind.FENCE]
    committed = turn(incident(Step.FENCE, committed_at=NOW - 50), Paused(gap_s=5.0))
    assert after(committed).verdict_at == NOW, "servers move: S1 outranks S5"


def test_a_heartbeat_after_the_commit_revokes_and_does_not_cancel() -> None:
    decision = turn(evacuating(server(ServerStage.MOVING)), Beat(host="h1", boot_id="new", nova_compute=Health.UP))
    assert (after(decision).step, after(decision).evidence) == (Step.FENCE, None)
    assert after(decision).evidence_since == NOW


@pytest.mark.parametrize(("boot", "lies"), [("old", True), ("new", False)])
def test_devices_that_read_off_a_boot_that_is_heard_are_not_believed_again(boot: str, lies: bool) -> None:
    """Nothing was moved yet. A new boot is no contradiction: somebody switched it on."""
    proven = incident(Step.FORCE_DOWN, evidence=proof())
    decision = turn(proven, Beat(host="h1", boot_id=boot, nova_compute=Health.UP))
    assert bool(decision.state.hosts["h1"].contradiction) is lies
    assert after(decision).evidence is None
    assert CommandKind.FORCE_DOWN not in sent(decision)


def test_a_host_that_was_only_alarmed_about_is_restarted_after_a_new_boot() -> None:
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED)
    decision = turn(alarmed, Beat(host="h1", boot_id="new", nova_compute=Health.UP))
    assert (after(decision).verdict, after(decision).plan) == (Verdict.REBOOTED, RESTART)
    told_only = turn(
        msgspec.structs.replace(alarmed, mode=Mode.NOTIFY), Beat(host="h1", boot_id="new", nova_compute=Health.UP)
    )
    assert Step.RESTART not in after(told_only).plan


def test_a_new_controller_waits_out_what_the_old_one_sent() -> None:
    moving = asked(evacuating(server(ServerStage.SENT)), CommandKind.EVACUATE, subject="s1")
    decision = turn(moving, Resumed(epoch=2))
    (one,) = after(decision).servers
    assert (one.stage, one.next_at) == (ServerStage.LOST, NOW + API_S)
    assert CommandKind.EVACUATE not in sent(decision)


# --- evacuate: one server, one attempt at a time ---


def test_a_lost_request_is_repeated_only_when_it_can_have_no_effect_any_more() -> None:
    lost = evacuating(server(ServerStage.LOST, next_at=NOW + 1, attempts=1))
    following = asked(lost, CommandKind.FOLLOW)

    def stage(at: float) -> ServerStage:
        fresh = msgspec.structs.replace(following, evidence=proof(at - 1), read_at=at)
        return after(answer(fresh, at, survey=Survey())).servers[0].stage

    assert stage(NOW) is ServerStage.LOST
    assert stage(NOW + 1) is ServerStage.RETRY


def test_what_may_still_be_carried_out_is_not_given_up() -> None:
    servers = (
        server(ServerStage.SENT, "sent"),
        server(ServerStage.LOST, "lost", next_at=NOW + 1),
        server(ServerStage.LOST, "late", next_at=NOW),
        server(ServerStage.MOVING, "moving", dest="h2"),
        server(ServerStage.WAITING, "waiting"),
    )
    left = {s.id: s for s in after(turn(evacuating(*servers, settle_by=NOW, wake_at=NOW), Tick())).servers}
    assert {k: s.stage for k, s in left.items()} == {
        "sent": ServerStage.SENT,
        "lost": ServerStage.LOST,
        "late": ServerStage.GIVEN_UP,
        "moving": ServerStage.MOVING,
        "waiting": ServerStage.GIVEN_UP,
    }


def test_nothing_is_given_up_before_its_time() -> None:
    waiting = evacuating(server(ServerStage.WAITING), settle_by=NOW + 0.1, wake_at=NOW)
    assert after(turn(waiting, Tick())).servers[0].stage is ServerStage.SENT


def test_the_window_counts_what_is_in_flight() -> None:
    servers = [server(ServerStage.MOVING, "a"), *(server(ServerStage.WAITING, n) for n in ("b", "c"))]
    decision = turn(evacuating(*servers, wake_at=NOW), Tick())
    assert [c.subject for c in decision.commands if c.kind is CommandKind.EVACUATE] == ["b"]


def test_a_server_that_becomes_movable_is_moved() -> None:
    """It was left where it was; a later look finds that it may be moved after all."""
    looking = asked(evacuating(server(ServerStage.NOT_MOVED), surveyed=False), CommandKind.SURVEY)
    decision = answer(looking, survey=Survey(servers=(Server(id="s1", name="s1", host="h1", status="ACTIVE"),)))
    assert [c.subject for c in decision.commands if c.kind is CommandKind.EVACUATE] == ["s1"]


@pytest.mark.parametrize(
    ("status", "number", "stage"),
    [
        ("done", 7, ServerStage.LANDED),
        ("done", 6, ServerStage.HELD),
        ("failed", 7, ServerStage.WAITING),
        ("failed", 8, ServerStage.HELD),
        ("pre-migrating", 7, ServerStage.HELD),
    ],
)
def test_a_held_server_is_freed_by_the_end_of_the_very_record_that_holds_it(
    status: str, number: int, stage: ServerStage
) -> None:
    held = server(ServerStage.HELD, baseline=7, wait_for=("h2",), next_at=NOW + 10)
    blocker = server(ServerStage.MOVING, "other")
    following = asked(evacuating(held, blocker, window=1.0), CommandKind.FOLLOW)
    decision = answer(following, survey=Survey(migrations=(evacuation(status, number),)))
    assert after(decision).servers[0].stage is stage


def test_absence_is_believed_when_two_looks_lie_the_longest_request_apart() -> None:
    def look(first: float | None, present: bool | None, status: Status = Status.OK) -> ServerProgress:
        absent = {} if first is None else {"h2": first}
        held = server(ServerStage.HELD, wait_for=("h2",), absent_at=absent, next_at=NOW + 10)
        question = asked(evacuating(held, poll_at=NOW + 10), CommandKind.CHECK_ABSENT, subject="s1", host="h2")
        return after(answer(question, status=status, presence=Presence(present=present))).servers[0]

    assert look(None, False).absent_at == {"h2": NOW}
    assert look(None, False).stage is ServerStage.HELD
    assert look(NOW - API_S + 0.1, False).stage is ServerStage.HELD
    assert look(NOW - API_S, False).stage is ServerStage.SENT
    assert look(NOW - API_S, True).absent_at == {}
    assert look(NOW - API_S, None).absent_at == {}
    assert look(NOW - API_S, False, Status.LOST).absent_at == {}


@pytest.mark.parametrize(
    ("age_s", "free"),
    [(1.0, True), (29.0, True), (30.0, False)],
)
def test_a_held_server_is_free_when_the_other_host_is_proven_off(age_s: float, free: bool) -> None:
    other = incident(Step.FORCE_DOWN, id="i2", host="h2", subject="h2", evidence=proof(NOW - age_s))
    held = server(ServerStage.HELD, wait_for=("h2",), next_at=NOW + 10)
    decision = turn(evacuating(held, wake_at=NOW), Tick(), others=(other,))
    assert (CommandKind.EVACUATE in sent(decision)) is free


def test_a_host_that_left_the_inventory_is_proven_off_by_nothing() -> None:
    gone = incident(Step.FORCE_DOWN, id="i2", host="gone", subject="gone", evidence=proof())
    held = server(ServerStage.HELD, wait_for=("gone",), next_at=NOW + 10)
    decision = turn(evacuating(held, wake_at=NOW), Tick(), others=(gone,))
    assert after(decision).servers[0].stage is ServerStage.HELD


def test_each_host_that_may_run_it_is_proven_off_by_itself() -> None:
    other = incident(Step.FORCE_DOWN, id="i2", host="h2", subject="h2", evidence=proof())
    held = server(ServerStage.HELD, wait_for=("h2", "h3"))
    decision = turn(evacuating(held, wake_at=NOW), Tick(), others=(other,))
    assert after(decision).servers[0].wait_for == ("h3",)
    assert [c.host for c in decision.commands if c.kind is CommandKind.CHECK_ABSENT] == ["h3"]
    assert CommandKind.EVACUATE not in sent(decision)


# --- orders ---


def confirm(subject: Incident) -> Decision:
    return turn(subject, Operator(order=Order.CONFIRM_FENCED, actor="anna", host="h1"))


def test_a_person_knows_better_only_where_the_host_is_not_believed_alive() -> None:
    for verdict in (Verdict.DOWN, Verdict.OFF, Verdict.HUNG):
        assert sent(confirm(incident(Step.FENCE, verdict=verdict))) == [CommandKind.FORCE_DOWN]
    unknown = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.UNKNOWN)
    assert sent(confirm(unknown)) == [CommandKind.FORCE_DOWN]
    for verdict in (Verdict.PARTITIONED, Verdict.AGENT_LOST, Verdict.NEVER_SEEN):
        with pytest.raises(UsageError, match="cannot be confirmed off"):
            confirm(incident(Step.AWAIT_RETURN, TELL, verdict=verdict))


def test_a_confirmation_does_not_replace_evidence_nor_come_too_late() -> None:
    with pytest.raises(UsageError, match="not needed"):
        confirm(incident(Step.FENCE, evidence=proof()))
    with pytest.raises(UsageError, match="not needed"):
        confirm(incident(Step.VERIFY, committed_at=NOW - 50))


def test_what_is_not_proven_off_cannot_be_released() -> None:
    with pytest.raises(UsageError, match="not proven off"):
        turn(incident(Step.FENCE), Operator(order=Order.RELEASE, actor="anna", host="h1"))


# --- coming back ---


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (EvidenceKind.DEVICES, [CommandKind.POWER_ON]),
        (EvidenceKind.CONFIRMATION, []),
    ],
)
def test_only_what_our_devices_switched_off_is_switched_on(kind: EvidenceKind, expected: list[CommandKind]) -> None:
    evidence = msgspec.structs.replace(proof(), kind=kind)
    waiting = incident(Step.AWAIT_RETURN, evidence=evidence, settled=True, forced=True, wake_at=NOW)
    assert sent(turn(waiting, Tick())) == expected


def returning(**changes: object) -> Incident:
    fields: dict[str, object] = {
        "evidence": proof(),
        "settled": True,
        "forced": True,
        "powered_on": True,
        "new_boot_id": "new",
        "nova_compute": Health.UP,
    }
    return incident(Step.AWAIT_RETURN, RECOVER, **{**fields, **changes})


@pytest.mark.parametrize(
    ("status", "opens"),
    [("accepted", False), ("pre-migrating", False), ("done", True), ("failed", True), ("completed", True)],
)
def test_the_gate_stays_shut_while_an_evacuation_off_the_host_is_unfinished(status: str, opens: bool) -> None:
    rows = Survey(servers=(Server(id="s1", host="h1"),), migrations=(evacuation(status),))
    decision = answer(asked(returning(), CommandKind.SURVEY), survey=rows)
    assert (CommandKind.OPEN_GATE in sent(decision)) is opens
    assert CommandKind.CLEAR_FORCE_DOWN not in sent(decision)


@pytest.mark.parametrize(
    ("status", "boot", "health", "clears"),
    [
        ("completed", "new", Health.UP, True),
        ("done", "new", Health.UP, False),
        ("completed", "old", Health.UP, False),
        ("completed", "new", Health.DOWN, False),
    ],
)
def test_the_flag_is_cleared_last_of_all(status: str, boot: str, health: Health, clears: bool) -> None:
    back = returning(cleared_boot_id=boot, nova_compute=health)
    decision = answer(asked(back, CommandKind.SURVEY), survey=Survey(migrations=(evacuation(status),)))
    assert (CommandKind.CLEAR_FORCE_DOWN in sent(decision)) is clears


def test_a_failed_look_opens_nothing() -> None:
    decision = answer(asked(returning(), CommandKind.SURVEY), status=Status.LOST, error="500")
    assert sent(decision) == []


def test_the_host_that_returned_is_told_with_its_new_boot() -> None:
    clearing = incident(Step.UNFENCE, settled=True, forced=True, new_boot_id="new")
    decision = answer(asked(clearing, CommandKind.CLEAR_FORCE_DOWN))
    (told,) = (t for t in decision.told if t.event_type == "host.returned")
    assert told.data["boot_id"] == "new"


# --- verify ---


def landed(name: str = "s1", **fields: object) -> ServerProgress:
    return server(ServerStage.LANDED, name, dest="h2", **fields)


def verifying(*servers: ServerProgress, **changes: object) -> Incident:
    return msgspec.structs.replace(evacuating(*servers, **changes), position=RECOVER.index(Step.VERIFY))


@pytest.mark.parametrize(
    ("settle_by", "poll_at", "looks"),
    [(NOW + 1, 0.0, True), (NOW + 1, NOW, True), (NOW + 1, NOW + 1, False), (NOW, 0.0, True)],
)
def test_landed_servers_are_looked_for_at_their_time_and_at_least_once(
    settle_by: float, poll_at: float, looks: bool
) -> None:
    decision = turn(verifying(landed(), settle_by=settle_by, poll_at=poll_at, wake_at=NOW), Tick())
    assert after(decision).servers[0].stage is ServerStage.LANDED
    assert (CommandKind.LIST_SERVERS in sent(decision)) is looks


@pytest.mark.parametrize("released", ["", "anna"])
def test_what_is_not_verified_in_time_is_given_up(released: str) -> None:
    settle_by = NOW + 1000 if released else NOW
    decision = turn(verifying(landed(), settle_by=settle_by, released=released, poll_at=NOW, wake_at=NOW), Tick())
    assert after(decision).servers[0].stage is ServerStage.GIVEN_UP


@pytest.mark.parametrize(
    ("prior", "status", "expected"),
    [
        ("ACTIVE", "ACTIVE", []),
        ("SHUTOFF", "SHUTOFF", []),
        ("ACTIVE", "SHUTOFF", [CommandKind.START]),
        ("SHUTOFF", "ACTIVE", [CommandKind.STOP]),
        ("ACTIVE", "ERROR", [CommandKind.REBOOT]),
        ("ERROR", "ERROR", [CommandKind.REBOOT]),
        ("ERROR", "ACTIVE", []),
    ],
)
def test_a_landed_server_is_brought_to_what_it_was(prior: str, status: str, expected: list[CommandKind]) -> None:
    rows = Survey(servers=(Server(id="s1", name="s1", host="h2", status=status),))
    # another one, on a host that was not listed, keeps the step open
    subject = verifying(landed(prior=prior), server(ServerStage.LANDED, "s2", dest="h3"))
    decision = answer(asked(subject, CommandKind.LIST_SERVERS, hosts=("h2",)), survey=rows)
    assert [k for k in sent(decision) if k is not CommandKind.LIST_SERVERS] == expected
    assert after(decision).servers[0].stage is (ServerStage.STARTING if expected else ServerStage.VERIFIED)
    assert after(decision).servers[1].looks == 0


def test_a_server_that_is_busy_or_was_just_mended_is_left_alone() -> None:
    for row, mark in (
        (Server(id="s1", host="h2", status="SHUTOFF", task_state="powering-on"), landed()),
        (Server(id="s1", host="h2", status="SHUTOFF"), landed(next_at=NOW + 1)),
    ):
        subject = asked(verifying(mark), CommandKind.LIST_SERVERS, hosts=("h2",))
        assert sent(answer(subject, survey=Survey(servers=(row,)))) == []


@pytest.mark.parametrize("kind", [CommandKind.START, CommandKind.STOP, CommandKind.REBOOT])
def test_a_request_that_was_refused_is_said_and_tried_later(kind: CommandKind) -> None:
    subject = asked(verifying(landed(), poll_at=NOW + 1), kind, subject="s1")
    decision = answer(subject, status=Status.FAILED, error="409")
    (one,) = after(decision).servers
    assert "409" in one.reason
    assert one.next_at == NOW + 5.0


def test_one_listing_without_it_does_not_lose_a_server() -> None:
    for looks, stage in ((0, ServerStage.LANDED), (1, ServerStage.LANDED), (2, ServerStage.NOT_MOVED)):
        subject = asked(verifying(landed(looks=looks)), CommandKind.LIST_SERVERS, hosts=("h2",))
        assert after(answer(subject, survey=Survey())).servers[0].stage is stage


# --- one guest ---


@pytest.mark.parametrize(
    ("host", "mode", "opened", "expected"),
    [
        ("h2", "auto", True, [CommandKind.LAST_REBOOT]),
        ("h2", "notify", True, []),
        ("h2", "ignore", False, []),
        ("stranger", "auto", False, []),
        ("h1", "auto", False, []),
    ],
)
def test_a_guest_is_rebooted_only_where_policy_says_so(
    host: str, mode: str, opened: bool, expected: list[CommandKind]
) -> None:
    """On h1, whose own incident is open, it is only noted there."""
    rules = msgspec.structs.replace(POLICY, guest_mode=mode)
    event = GuestFault(host=host, server="s9", fault="watchdog", new_id="i9")
    decision = turn(incident(Step.VERIFY), event, rules=rules)
    assert ("i9" in decision.state.incidents) is opened
    assert [k for k in sent(decision) if k is CommandKind.LAST_REBOOT] == expected, "looked up, then sent"
    assert any("s9" in e.text for e in after(decision).history) is (host == "h1")


# --- looking again, answers, maintenance ---


def test_a_server_that_stays_on_its_host_keeps_what_it_was() -> None:
    """An ERROR after our own attempt is not the server's prior state, and no reason to leave it."""
    tried = server(ServerStage.RETRY, attempts=1, next_at=NOW + 10)
    rows = Survey(servers=(Server(id="s1", name="s1", host="h1", status="PAUSED"),))
    fields = {"surveyed": False, "poll_at": NOW + 2}
    again = after(answer(asked(evacuating(tried, **fields), CommandKind.SURVEY), survey=rows)).servers[0]
    assert (again.stage, again.prior) == (ServerStage.RETRY, "ACTIVE")
    untried = tried.with_(attempts=0)
    left = after(answer(asked(evacuating(untried, **fields), CommandKind.SURVEY), survey=rows)).servers[0]
    assert left.stage is ServerStage.NOT_MOVED


def test_a_server_that_an_unfinished_migration_names_is_held_at_the_next_look() -> None:
    """S2: somebody else began to move it between two of our attempts."""
    tried = server(ServerStage.RETRY, attempts=1, next_at=NOW)
    live = Migration(id=9, server="s1", kind="live-migration", status="running", source="h1", dest="h3")
    rows = Survey(servers=(Server(id="s1", name="s1", host="h1", status="ACTIVE"),), migrations=(live,))
    decision = answer(asked(evacuating(tried, surveyed=False), CommandKind.SURVEY), survey=rows)
    assert after(decision).servers[0].wait_for == ("h3",)
    assert CommandKind.EVACUATE not in sent(decision)


@pytest.mark.parametrize(
    ("status", "stage"),
    [("done", ServerStage.LANDED), ("completed", ServerStage.LANDED), ("failed", ServerStage.NOT_MOVED)],
)
def test_a_server_that_is_gone_from_the_host_is_not_moved_again(status: str, stage: ServerStage) -> None:
    tried = server(ServerStage.RETRY, attempts=1, next_at=NOW)
    looking = asked(evacuating(tried, surveyed=False), CommandKind.SURVEY)
    decision = answer(looking, survey=Survey(migrations=(evacuation(status),)))
    assert after(decision).servers[0].stage is stage
    assert CommandKind.EVACUATE not in sent(decision)


@pytest.mark.parametrize(("number", "again"), [(6, False), (7, False), (8, True)])
def test_only_a_record_younger_than_our_attempt_speaks_of_it(number: int, again: bool) -> None:
    flying = server(ServerStage.MOVING, baseline=7, attempts=1)
    decision = answer(
        asked(evacuating(flying), CommandKind.FOLLOW), survey=Survey(migrations=(evacuation("failed", number),))
    )
    assert (after(decision).servers[0].stage is ServerStage.RETRY) is again


@pytest.mark.parametrize(("off_is_proven", "stage"), [(True, ServerStage.RETRY), (False, ServerStage.MOVING)])
def test_a_destination_that_died_ends_the_attempt_only_with_proof(off_is_proven: bool, stage: ServerStage) -> None:
    flying = server(ServerStage.MOVING, dest="h2", attempts=1)
    other = incident(Step.FORCE_DOWN, id="i2", host="h2", subject="h2", evidence=proof() if off_is_proven else None)
    following = asked(evacuating(flying), CommandKind.FOLLOW)
    decision = answer(following, others=(other,), survey=Survey(migrations=(evacuation("pre-migrating"),)))
    assert after(decision).servers[0].stage is stage


@pytest.mark.parametrize(
    ("status", "stage"),
    [(Status.OK, ServerStage.MOVING), (Status.LOST, ServerStage.LOST), (Status.FAILED, ServerStage.RETRY)],
)
def test_what_an_answer_to_an_evacuation_means(status: Status, stage: ServerStage) -> None:
    waiting = asked(evacuating(server(ServerStage.SENT, attempts=1)), CommandKind.EVACUATE, subject="s1")
    decision = answer(waiting, status=status, error="" if status is Status.OK else "500")
    (one,) = after(decision).servers
    assert one.stage is stage
    assert one.next_at == {Status.OK: 0.0, Status.LOST: NOW + API_S, Status.FAILED: NOW + 5.0}[status]
    assert CommandKind.EVACUATE not in sent(decision)


def test_nothing_is_sent_to_a_host_in_maintenance() -> None:
    for subject in (
        incident(Step.FENCE, wake_at=NOW),
        incident(Step.FORCE_DOWN, evidence=proof(), wake_at=NOW),
        evacuating(server(ServerStage.WAITING), wake_at=NOW),
        incident(Step.AWAIT_RETURN, evidence=proof(), settled=True, wake_at=NOW),
        incident(Step.UNFENCE, settled=True, forced=True, wake_at=NOW),
    ):
        state = State(
            fleet=Fleet(armed=True, epoch=1),
            hosts={"h1": HostRecord(host="h1", first_seen_wall=1.0, maintenance="new fans")},
            incidents={"i1": subject},
        )
        decision = decide(state, Tick(), POLICY, Now(at=NOW))
        assert not DESTRUCTIVE & set(sent(decision)), subject.step
        assert "maintenance" in after(decision).blocked


# --- what a second reading of the whole found ---


def test_only_a_verdict_that_calls_for_a_fence_is_a_confirmation_of_it() -> None:
    """S5: evidence stands against an unsigned `partitioned`; if it ages before anything was sent, the old verdict is not young again."""
    waiting = incident(Step.FORCE_DOWN, evidence=proof(), verdict_at=NOW - 60)
    told = VerdictGiven(host="h1", verdict=Verdict.PARTITIONED, reason="Nova heard of it", boot_id="old")
    assert after(turn(waiting, event=told)).verdict_at < NOW - 60, "and it ends the confirmation that there was"
    dead = msgspec.structs.replace(told, verdict=Verdict.DOWN)
    assert after(turn(waiting, event=dead)).verdict_at == NOW


@pytest.mark.parametrize("order", [Order.FENCE, Order.CONFIRM_FENCED])
def test_an_order_on_a_host_that_came_back_ends_its_present_life(order: Order) -> None:
    """The boot that is fenced is not the one that is waited for afterwards, or its host is never switched on again."""
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.UNKNOWN, boot_id="old", new_boot_id="new")
    state = State(
        fleet=Fleet(armed=True, epoch=1),
        hosts={"h1": HostRecord(host="h1", first_seen_wall=1.0, boot_id="new")},
        incidents={"i1": alarmed},
    )
    decided = decide(state, Operator(order=order, actor="me", host="h1"), POLICY, Now(at=NOW))
    assert (after(decided).boot_id, after(decided).new_boot_id) == ("new", "")


def test_what_holds_the_gate_is_named_after_a_reboot_of_our_own_machine_too() -> None:
    """Its times begin anew then, those of the stages are gone."""
    waiting = returning(stage_at={}, opened_at=NOW - 10 * API_S)
    waiting = asked(waiting, CommandKind.SURVEY)
    rows = Survey(servers=(Server(id="s1", host="h1"),), migrations=(evacuation("accepted", dest="h2"),))
    assert "remote gate --override" in after(answer(waiting, survey=rows)).release


def test_a_lower_level_that_could_not_be_asked_has_not_agreed() -> None:
    """S2: only an answer of the device, or its silence, counts; our own failure to ask is asked again, at a bounded pace."""
    proven = asked(incident(Step.FENCE, evidence=proof(level=1, device="pdu")), CommandKind.READ_POWER, level=0)
    decided = answer(proven, status=Status.LOST, error="a bug")
    assert after(decided).step is Step.FENCE
    assert after(decided).crosschecked == ()
    assert sent(decided) == []
    later = turn(after(decided), Tick(), NOW + 1.0)
    assert sent(later) == [CommandKind.READ_POWER]
