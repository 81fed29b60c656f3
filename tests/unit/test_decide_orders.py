"""What a person may order, when, and what it changes. An order that makes no sense changes nothing and says what would."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import Decision, decide
from ha_agent.errors import UsageError
from ha_agent.model import (
    Beat,
    CommandKind,
    Evidence,
    EvidenceKind,
    Finished,
    Fleet,
    HostRecord,
    Incident,
    Mode,
    Now,
    Operator,
    Order,
    Outcome,
    Phase,
    ServerStage,
    State,
    Status,
    Step,
    Tick,
    Verdict,
    VerdictGiven,
)
from ha_agent.plans import FENCE_AND_TELL, IN_PLACE, RECOVER, RESTART, TELL
from ha_agent.policy import Policy
from tests.unit.decide_support import (
    NOW,
    POLICY,
    after,
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
    with_recovery,
)

replace = msgspec.structs.replace


def order(what: Order, **fields: object) -> Operator:
    return replace(Operator(order=what, actor="anna", host="h1", new_id="i9"), **fields)


def fleet(event: Operator, before: Fleet | None = None, *incidents: Incident) -> Decision:
    state = State(
        fleet=before or Fleet(armed=True, epoch=4),
        hosts={h: HostRecord(host=h, first_seen_wall=1.0, boot_id="old") for h in POLICY.hosts},
        incidents={i.id: i for i in incidents},
    )
    return decide(state, event, POLICY, Now(at=NOW))


def fencing(host: str = "h1", number: str = "i1", **changes: object) -> Incident:
    """An attempt runs."""
    subject = asked(incident(Step.FENCE, id=number, host=host, subject=host), CommandKind.FENCE)
    return replace(subject, **changes)


# --- the whole fleet ---


@pytest.mark.parametrize(
    "what", [Order.MAINTENANCE_ON, Order.MAINTENANCE_OFF, Order.FENCE, Order.CONFIRM_FENCED, Order.REPORT]
)
def test_an_order_for_an_unknown_host_is_refused(what: Order) -> None:
    for host, named in (("h9", "h9"), ("", "no host")):
        with pytest.raises(UsageError, match=f"{named} is not in the inventory"):
            on(order(what, host=host))


def test_arming_and_disarming() -> None:
    armed = fleet(order(Order.ARM, host="", reason="go"), Fleet(foreign="somebody", epoch=4))
    now = armed.state.fleet
    assert (now.armed, now.armed_by, now.foreign) == (True, "anna", "")
    assert [(d["armed"], d["actor"], d["epoch"]) for d in told(armed, "controller.armed")] == [(True, "anna", 4)]
    disarmed = fleet(order(Order.DISARM, host="", reason="no"), now, fencing())
    assert (disarmed.state.fleet.armed, disarmed.state.fleet.armed_by) == (False, "")
    assert sent(disarmed) == [CommandKind.CANCEL_FENCE]
    assert [d["armed"] for d in told(disarmed, "controller.disarmed")] == [False]
    assert "disarmed by anna: no" in lines(disarmed)


def test_another_claimant_disarms_once() -> None:
    met = fleet(order(Order.FOREIGN, host="", reason="store 7"), Fleet(armed=True, armed_by="anna"), fencing())
    now = met.state.fleet
    assert (now.armed, now.armed_by, now.foreign) == (False, "", "store 7")
    assert sent(met) == [CommandKind.CANCEL_FENCE]
    assert told(met, "controller.disarmed")
    assert fleet(order(Order.FOREIGN, host="", reason="store 7"), now).told == ()
    assert fleet(order(Order.FOREIGN, host="", reason="store 8"), now).state.fleet.foreign == "store 8"


@pytest.mark.parametrize(("reason", "kept"), [("upgrade", "upgrade (anna)"), ("", "no reason given (anna)")])
def test_pausing_and_maintenance_keep_who_and_why(reason: str, kept: str) -> None:
    paused = fleet(order(Order.PAUSE, host="", reason=reason), None, fencing())
    assert (paused.state.fleet.paused, sent(paused)) == (kept, [CommandKind.CANCEL_FENCE])
    assert fleet(order(Order.UNPAUSE, host=""), paused.state.fleet).state.fleet.paused == ""
    on_it = on(order(Order.MAINTENANCE_ON, reason=reason))
    assert on_it.state.hosts["h1"].maintenance == kept
    off_it = on(order(Order.MAINTENANCE_OFF), maintenance=kept, contradiction="it lied")
    assert (off_it.state.hosts["h1"].maintenance, off_it.state.hosts["h1"].contradiction) == ("", "")


def test_a_report_is_written_down_and_nothing_else() -> None:
    alone = on(order(Order.REPORT, reason="no ping"))
    assert (alone.state.incidents, alone.commands, alone.told) == ({}, (), ())
    assert "h1 is reported failed by anna: no ping" in lines(alone)
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, waiting="the host to be heard again")
    noted = on(order(Order.REPORT, reason="no ping"), alarmed)
    assert (noted.commands, noted.told) == ((), ())
    assert replace(after(noted), history=(), wake_at=None) == replace(alarmed, wake_at=None)
    assert [(e.text, e.actor) for e in after(noted).history] == [("reported failed by anna: no ping", "anna")]


def test_only_attempts_that_run_and_that_the_order_is_about_are_ended() -> None:
    mine, other = fencing(), fencing("h2", "i2")
    looking = asked(incident(Step.EVACUATE, id="i3", host="h3", committed_at=None), CommandKind.SURVEY)
    closed = replace(fencing("h3", "i4"), phase=Phase.CLOSED)
    one = fleet(order(Order.MAINTENANCE_ON), None, mine, other)
    assert [(c.kind, c.host) for c in one.commands] == [(CommandKind.CANCEL_FENCE, "h1")]
    every = fleet(order(Order.DISARM, host=""), None, mine, other, looking, closed)
    assert [(c.kind, c.host) for c in every.commands if c.kind is CommandKind.CANCEL_FENCE] == [
        (CommandKind.CANCEL_FENCE, "h1"),
        (CommandKind.CANCEL_FENCE, "h2"),
    ]


def test_what_is_proven_stays_proven_when_nothing_runs_that_could_be_ended() -> None:
    moving = asked(evacuating(server(ServerStage.SENT)), CommandKind.EVACUATE, subject="s1")
    assert after(fleet(order(Order.PAUSE, host=""), None, moving)).evidence == moving.evidence


# --- fence ---


@pytest.mark.parametrize(
    ("rules", "plan", "mode"),
    [(POLICY, RECOVER, Mode.AUTO), (with_recovery(mode=Mode.NOTIFY, fence=False), FENCE_AND_TELL, Mode.NOTIFY)],
)
def test_an_ordered_fence_opens_an_incident(rules: Policy, plan: tuple[Step, ...], mode: Mode) -> None:
    """It does not ask whether policy fences by itself."""
    decision = on(order(Order.FENCE, reason="it smokes", heard_at=NOW - 1), rules=rules, contradiction="it lied")
    now = decision.state.incidents["i9"]
    assert (now.plan, now.mode, now.verdict, now.ordered_by) == (plan, mode, Verdict.DOWN, "anna")
    assert (now.boot_id, now.beat_at, now.reason) == ("old", NOW - 1, "fence ordered by anna: it smokes")
    assert decision.state.hosts["h1"].contradiction == ""
    assert sent(decision) == [CommandKind.FENCE]


def test_an_ordered_fence_of_a_host_that_is_fenced_already_changes_who_wants_it() -> None:
    decision = on(order(Order.FENCE, heard_at=NOW - 1), fencing(level=1, rounds=2))
    now = after(decision)
    assert (now.plan, now.level, now.rounds, now.ordered_by, now.beat_at) == (RECOVER, 1, 2, "anna", NOW - 1)
    assert sent(decision) == []
    assert "i9" not in decision.state.incidents
    plain = fencing(plan=FENCE_AND_TELL, mode=Mode.NOTIFY)
    assert after(on(order(Order.FENCE), plain)).plan == FENCE_AND_TELL


def test_an_alarm_becomes_an_ordered_fence() -> None:
    servers = (server(ServerStage.VERIFIED), server(ServerStage.STARTING, "s2"))
    alarmed = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED, servers=servers, boot_id="first")
    now = after(on(order(Order.FENCE), alarmed))
    assert (now.plan, now.verdict, now.boot_id, now.ordered_by) == (RECOVER, Verdict.DOWN, "old", "anna")
    assert [s.stage for s in now.servers] == [ServerStage.VERIFIED, ServerStage.WAITING]


def test_a_settled_host_that_must_be_fenced_again_is_fenced_by_order_when_its_devices_are_mended() -> None:
    """Its devices had lied: the order is the word that they can be trusted again."""
    lied = incident(Step.FENCE, settled=True, blocked="contradiction: bmc read off", release="x")
    decision = on(order(Order.FENCE), lied, contradiction="bmc read off")
    assert sent(decision) == [CommandKind.FENCE]
    assert (after(decision).blocked, decision.state.hosts["h1"].contradiction) == ("", "")


def test_a_settled_host_is_not_fenced_by_order() -> None:
    with pytest.raises(UsageError, match="settled in incident i1"):
        on(order(Order.FENCE), incident(Step.AWAIT_RETURN, settled=True, evidence=proof()))


# --- confirm ---


@pytest.mark.parametrize(("heard_at", "refused"), [(None, False), (NOW - 10.0, False), (NOW - 9.9, True)])
def test_a_host_that_sends_heartbeats_is_not_confirmed_off(heard_at: float | None, refused: bool) -> None:
    event = order(Order.CONFIRM_FENCED, heard_at=heard_at)
    if refused:
        with pytest.raises(UsageError, match="sends heartbeats"):
            on(event, incident(Step.FENCE))
    else:
        assert sent(on(event, incident(Step.FENCE))) == [CommandKind.FORCE_DOWN]


def test_a_confirmation_is_evidence_of_this_incident_and_ends_the_attempt() -> None:
    blocked = fencing(blocked="fencing failed: x", release="y", waiting="z", revoked="w")
    decision = on(order(Order.CONFIRM_FENCED, reason="I pulled the plug"), blocked)
    now = after(decision)
    assert now.evidence == Evidence(kind=EvidenceKind.CONFIRMATION, at=NOW, wall=NOW, by="anna")
    assert (now.blocked, now.revoked, now.stage_at["evidence"]) == ("", "", NOW)
    assert sent(decision) == [CommandKind.CANCEL_FENCE, CommandKind.FORCE_DOWN]
    assert [(d["level"], d["host"]) for d in told(decision, "host.fence.end")] == [(-1, "h1")]
    assert "confirmed off by anna: I pulled the plug" in lines(decision)


@pytest.mark.parametrize(
    ("rules", "plan"), [(POLICY, RECOVER), (with_recovery(mode=Mode.NOTIFY, fence=False), FENCE_AND_TELL)]
)
def test_a_person_who_knows_ends_the_doubt(rules: Policy, plan: tuple[Step, ...]) -> None:
    servers = (server(ServerStage.VERIFIED), server(ServerStage.STARTING, "s2"))
    doubted = incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.UNKNOWN, servers=servers, boot_id="first")
    now = after(on(order(Order.CONFIRM_FENCED), doubted, rules=rules))
    assert (now.plan, now.verdict, now.boot_id) == (plan, Verdict.UNKNOWN, "old")
    assert now.evidence is not None
    assert [s.stage for s in now.servers] == [ServerStage.VERIFIED, ServerStage.WAITING]


def test_a_plan_that_fences_is_kept_by_a_confirmation() -> None:
    for plan in (RECOVER, FENCE_AND_TELL):
        now = after(on(order(Order.CONFIRM_FENCED), incident(Step.FENCE, plan, committed_at=NOW - 5)))
        assert (now.plan, now.committed_at) == (plan, NOW - 5)


@pytest.mark.parametrize("what", [Order.CONFIRM_FENCED, Order.RELEASE, Order.ACK])
def test_an_order_is_bound_to_its_incident(what: Order) -> None:
    with pytest.raises(UsageError, match="has no open incident"):
        on(order(what))
    with pytest.raises(UsageError, match="the open incident of h1 is i1, not i7"):
        on(order(what, incident="i7"), incident(Step.FENCE))
    accepted = evacuating(server(ServerStage.MOVING)) if what is Order.RELEASE else incident(Step.FENCE)
    assert after(on(order(what, incident="i1"), accepted)).history[0].actor == "anna"


# --- release ---


@pytest.mark.parametrize(
    ("step", "plan"),
    [(Step.EVACUATE, RECOVER), (Step.AWAIT_RETURN, FENCE_AND_TELL), (Step.RESTART, IN_PLACE), (Step.RESTART, RESTART)],
)
def test_what_can_be_released(step: Step, plan: tuple[Step, ...]) -> None:
    committed = NOW - 50 if Step.FENCE in plan else None
    subject = incident(step, plan, committed_at=committed, evidence=proof(), surveyed=True, settle_by=NOW + 99)
    busy = asked(replace(subject, servers=(server(ServerStage.SENT),)), CommandKind.SURVEY)
    decision = on(order(Order.RELEASE, reason="enough"), busy)
    assert after(decision).released == "anna"
    assert "released by anna: enough" in lines(decision)


def test_an_alarm_is_not_released_it_ends_by_itself() -> None:
    with pytest.raises(UsageError, match="only waits for the host to be heard"):
        on(order(Order.RELEASE), incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED))


def test_the_incident_of_a_host_that_left_the_inventory_is_closed_by_a_release() -> None:
    gone = incident(Step.FENCE, host="h9", subject="h9")
    decision = on(order(Order.RELEASE, host="h9"), gone)
    assert (after(decision).phase, sent(decision)) == (Phase.CLOSED, [])
    assert "the host left the inventory" in lines(decision)


def withdraw(running: Incident) -> tuple[Decision, Decision]:
    """What a release makes of a fence whose attempt runs; and what the end of the attempt makes of that."""
    first = on(order(Order.RELEASE), running)
    ended = Finished(outcome=Outcome(command=first.commands[0].id, status=Status.OK))
    return first, decide(first.state, ended, POLICY, Now(at=NOW))


def test_an_ordered_fence_is_withdrawn_before_the_servers_to_start_were_listed() -> None:
    _, decision = withdraw(fencing(ordered_by="bert", restarting=True))
    now = after(decision)
    assert (now.phase, now.plan, now.withdrawn) == (Phase.OPEN, RESTART, "")


@pytest.mark.parametrize(
    ("mode", "left", "plan"),
    [(Mode.AUTO, True, RESTART), (Mode.AUTO, False, None), (Mode.NOTIFY, True, None)],
)
def test_an_ordered_fence_can_be_withdrawn(mode: Mode, left: bool, plan: tuple[Step, ...] | None) -> None:
    """Unless its servers were being started after a reboot: that is not over."""
    servers = (server(ServerStage.VERIFIED), *([server(ServerStage.STARTING, "s2")] if left else []))
    first, decision = withdraw(fencing(ordered_by="bert", mode=mode, servers=servers))
    assert sent(first) == [CommandKind.CANCEL_FENCE]
    assert (after(first).phase, after(first).plan) == (Phase.OPEN, RECOVER), "an attempt may still be alive (S4)"
    assert "being ended" in after(first).waiting
    now = after(decision)
    assert (now.phase is Phase.CLOSED) is (plan is None)
    if plan:
        assert (now.plan, now.verdict, now.new_boot_id) == (plan, Verdict.REBOOTED, "old")
        assert [s.stage for s in now.servers] == [ServerStage.VERIFIED, ServerStage.WAITING]
    else:
        assert [d["outcome"] for d in told(decision, "incident.closed")] == ["the ordered fence is withdrawn by anna"]


def test_a_withdrawn_fence_whose_attempt_was_faster_is_a_fence() -> None:
    running = fencing(ordered_by="bert")
    first = on(order(Order.RELEASE), running)
    fence = next(c for c in after(first).pending if c.kind is CommandKind.FENCE)
    done = Outcome(command=fence.id, status=Status.OK, readings=(off(NOW + 1), off(NOW + 2)))
    decision = decide(first.state, Finished(outcome=done), POLICY, Now(at=NOW + 3))
    assert after(decision).evidence is not None
    assert after(decision).withdrawn == ""
    assert "too late to withdraw" in lines(decision)


@pytest.mark.parametrize("ends_first", [CommandKind.FENCE, CommandKind.CANCEL_FENCE])
def test_a_withdrawn_fence_ends_when_attempt_and_cancelling_are_both_over(ends_first: CommandKind) -> None:
    """The attempt fails by itself, or the cancelling does: one of them is still under way."""
    first = on(order(Order.RELEASE), fencing(ordered_by="bert"))
    ended = next(c for c in after(first).pending if c.kind is ends_first)
    failed = Outcome(command=ended.id, status=Status.FAILED, error="no answer")
    half = decide(first.state, Finished(outcome=failed), POLICY, Now(at=NOW + 1))
    assert after(half).phase is Phase.OPEN
    left = Outcome(command=after(half).pending[0].id, status=Status.OK)
    assert after(decide(half.state, Finished(outcome=left), POLICY, Now(at=NOW + 2))).phase is Phase.CLOSED


def test_a_fence_that_was_withdrawn_is_ordered_again() -> None:
    first = on(order(Order.RELEASE), fencing(ordered_by="bert"))
    again = decide(first.state, order(Order.FENCE), POLICY, Now(at=NOW))
    assert (after(again).withdrawn, after(again).ordered_by, after(again).phase) == ("", "anna", Phase.OPEN)


def test_nothing_is_waited_for_where_no_attempt_runs() -> None:
    assert after(on(order(Order.RELEASE), incident(Step.FENCE, ordered_by="bert"))).phase is Phase.CLOSED


@pytest.mark.parametrize(
    "changes",
    [
        {"ordered_by": ""},
        {"ordered_by": "bert", "evidence": proof()},
        {"ordered_by": "bert", "forced": True},
        {"ordered_by": "", "plan": FENCE_AND_TELL},
    ],
)
def test_what_is_not_moved_yet_is_not_released(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="is not proven off yet"):
        on(order(Order.RELEASE), replace(incident(Step.FENCE), **changes))


def test_an_ordered_fence_that_moves_servers_is_released_like_any_other() -> None:
    moving = evacuating(server(ServerStage.SENT), ordered_by="bert", evidence=None, forced=False)
    decision = on(order(Order.RELEASE), asked(moving, CommandKind.EVACUATE, subject="s1"))
    assert (after(decision).released, after(decision).phase) == ("anna", Phase.OPEN)


def test_an_acknowledgement_is_noted() -> None:
    now = after(on(order(Order.ACK), fencing()))
    assert (now.acked_by, now.step) == ("anna", Step.FENCE)


@pytest.mark.parametrize("taken_back", [True, False])
def test_a_reboot_ends_the_order_to_fence(taken_back: bool) -> None:
    """Nobody ordered the fence of the new life; and what ran in the old one is started again, also where the order was taken back just before."""
    state = on(order(Order.RELEASE) if taken_back else Tick(), fencing(ordered_by="bert")).state
    record = HostRecord(host="h1", first_seen_wall=1.0, boot_id="old")
    state = replace(state, hosts={**state.hosts, "h1": record})
    back = VerdictGiven(host="h1", verdict=Verdict.REBOOTED, reason="new boot", boot_id="new", new_id="i8")
    heard = decide(state, back, POLICY, Now(at=NOW + 1))
    now = after(heard)
    assert (now.ordered_by, now.withdrawn, now.phase, now.verdict) == ("", "", Phase.OPEN, Verdict.REBOOTED)
    cancelled = next(c for c in now.pending if c.kind is CommandKind.CANCEL_FENCE)
    ended = decide(
        heard.state, Finished(outcome=Outcome(command=cancelled.id, status=Status.OK)), POLICY, Now(at=NOW + 2)
    )
    assert CommandKind.FENCE not in sent(ended), "it is not fenced again"
    again = decide(ended.state, Beat(host="h1", boot_id="new", new_id="i7"), POLICY, Now(at=NOW + 3))
    assert (after(again).plan, after(again).new_boot_id, after(again).phase) == (RESTART, "new", Phase.OPEN)


def test_an_order_ends_with_its_plan() -> None:
    """A fence that was ordered once is no order for what the host does later."""
    _, decision = withdraw(fencing(ordered_by="bert", restarting=True))
    assert (after(decision).plan, after(decision).ordered_by) == (RESTART, "")


def test_who_takes_an_order_back_says_why() -> None:
    _, decision = withdraw(fencing(ordered_by="bert"))
    assert [d["outcome"] for d in told(decision, "incident.closed")] == ["the ordered fence is withdrawn by anna"]
    first = on(order(Order.RELEASE, reason="wrong host"), fencing(ordered_by="bert"))
    assert after(first).withdrawn == "anna: wrong host"
    assert "withdrawn by anna: wrong host; the attempt that runs is being ended" in lines(first)
