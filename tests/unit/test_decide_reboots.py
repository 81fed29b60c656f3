"""A hard reboot is looked up before it is sent, and again where its answer was lost: no guest is reset twice for one failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ha_agent.controller import journal
from ha_agent.decide import Decision
from ha_agent.decide.reboots import MEND_PAUSE_S, NO_RECORD
from ha_agent.model import (
    Beat,
    Command,
    CommandKind,
    Finished,
    GuestFault,
    Health,
    Incident,
    Kind,
    Outcome,
    Phase,
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
)
from ha_agent.plans import GUEST_RECOVER, RECOVER, RESTART
from tests.unit.decide_support import (
    API_S,
    NOW,
    POLICY,
    after,
    answer,
    asked,
    incident,
    lines,
    on,
    sent,
    server,
    told,
    turn,
)

replace = msgspec.structs.replace
EARLY_S = API_S / 4
LOOK = [CommandKind.LAST_REBOOT]
SENT = [CommandKind.REBOOT]


def guest(**fields: Any) -> Incident:
    base = incident(Step.REBOOT, GUEST_RECOVER, kind=Kind.GUEST, subject="s1", verdict=Verdict.ALIVE)
    return replace(base, servers=(server(ServerStage.WAITING, **fields),))


def in_place(stage: ServerStage = ServerStage.STARTING, **fields: Any) -> Incident:
    return incident(
        Step.RESTART,
        RESTART,
        verdict=Verdict.REBOOTED,
        surveyed=True,
        new_boot_id="new",
        cleared_boot_id="new",
        nova_compute=Health.UP,
        settle_by=NOW + 1000,
        poll_at=NOW + 2,
        servers=(server(stage, **fields),),
    )


def moved(**fields: Any) -> Incident:
    return incident(
        Step.VERIFY,
        RECOVER,
        poll_at=NOW + 2,
        settle_by=NOW + 1000,
        servers=(server(ServerStage.STARTING, dest="h2", **fields), server(ServerStage.LANDED, "s2", dest="h3")),
    )


def row(host: str = "h1", **fields: Any) -> Survey:
    return Survey(servers=(replace(Server(id="s1", name="s1", host=host, status="ERROR"), **fields),))


def due(subject: Incident, at: float = NOW) -> Decision:
    """What is done about a server that is in ERROR, or that a guest's fault was reported of."""
    if subject.kind is Kind.GUEST:
        return turn(replace(subject, wake_at=at), Tick(), at)
    kind, host = (CommandKind.SURVEY, "h1") if subject.step is Step.RESTART else (CommandKind.LIST_SERVERS, "h2")
    waiting = replace(asked(subject, kind, hosts=(host,)), poll_at=at + 2)
    return answer(waiting, at, survey=row(host))


SENDERS: dict[str, Callable[..., Incident]] = {"guest": guest, "in place": in_place, "moved": moved}
all_senders = pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)


def looked(subject: Incident, at: float = NOW, **fields: Any) -> Decision:
    return answer(asked(subject, CommandKind.LAST_REBOOT, subject="s1"), at, **fields)


def one(decision: Decision) -> ServerProgress:
    return after(decision).servers[0]


def lost(sender: Callable[..., Incident]) -> Incident:
    """The answer to its reboot was lost, just now."""
    pending = asked(sender(last_reboot="req-1", next_at=NOW - 1), CommandKind.REBOOT, subject="s1")
    return replace(after(answer(pending, status=Status.LOST, error="no answer")), pending=())


# --- before ---


@all_senders
def test_no_reboot_is_sent_before_the_newest_one_is_known(sender: Callable[..., Incident]) -> None:
    decision = due(sender(last_reboot=None))
    assert sent(decision) == LOOK
    assert [c.subject for c in decision.commands] == ["s1"]
    assert told(decision, "guest.recovery.start") == []


@all_senders
@pytest.mark.parametrize("known", ["", "req-1"])
def test_a_reboot_is_sent_when_the_newest_one_is_known(sender: Callable[..., Incident], known: str) -> None:
    assert sent(due(sender(last_reboot=known))) == SENT


@all_senders
@pytest.mark.parametrize("newest", ["", "req-1"])
def test_what_was_looked_up_is_kept_before_anything_is_sent(sender: Callable[..., Incident], newest: str) -> None:
    decision = looked(sender(last_reboot=None), last_reboot=newest)
    assert one(decision).last_reboot == newest
    # what else is sent was decided on a list that is older than the look: it is listed anew
    again = {"guest": SENT, "in place": [CommandKind.SURVEY], "moved": [CommandKind.LIST_SERVERS]}
    assert sent(decision) == next(again[n] for n, s in SENDERS.items() if s is sender)


@all_senders
@pytest.mark.parametrize("kind", [CommandKind.LAST_REBOOT, CommandKind.REBOOT])
def test_while_one_is_asked_nothing_is_sent(sender: Callable[..., Incident], kind: CommandKind) -> None:
    pending = Command(
        id="other", incident="i1", step=Step.REBOOT, kind=kind, subject="s1", host="h1", epoch=1, attempt=1
    )
    subject = sender(last_reboot="req-1")
    if subject.kind is Kind.GUEST:
        assert sent(due(replace(subject, pending=(pending,)))) == []
        return
    look, host = (CommandKind.SURVEY, "h1") if subject.step is Step.RESTART else (CommandKind.LIST_SERVERS, "h2")
    waiting = asked(subject, look, hosts=(host,))
    assert sent(answer(replace(waiting, pending=(*waiting.pending, pending)), survey=row(host))) == []


@all_senders
@pytest.mark.parametrize("status", [Status.FAILED, Status.LOST])
@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_look_that_failed_says_nothing_and_sends_nothing(
    sender: Callable[..., Incident], status: Status, in_doubt: bool
) -> None:
    fields = {"last_reboot": "req-1", "lost_until": NOW - 1, "next_at": NOW - 1} if in_doubt else {"last_reboot": None}
    decision = looked(sender(**fields), status=status, error="503", last_reboot="req-9")
    assert sent(decision) == []
    assert "its reboots cannot be looked up: 503" in one(decision).reason
    assert (one(decision).last_reboot, one(decision).next_at) == (fields["last_reboot"], NOW + 5)
    assert one(decision).lost_until == fields.get("lost_until", 0.0)
    assert CommandKind.REBOOT not in sent(due(replace(after(decision), pending=()), NOW + 5))


def test_a_guest_whose_reboots_cannot_be_looked_up_may_be_gone() -> None:
    failed = replace(after(looked(guest(last_reboot=None), status=Status.FAILED, error="404")), pending=())
    assert sent(due(failed, NOW + 5)) == [CommandKind.LIST_SERVERS]


def test_a_refused_look_is_logged_once() -> None:
    first = looked(in_place(last_reboot=None), status=Status.FAILED, error="503")
    assert "cannot be looked up" in lines(first)
    again = replace(after(first), pending=())
    assert "cannot be looked up" not in lines(looked(again, status=Status.FAILED, error="503"))


@all_senders
@pytest.mark.parametrize("status", [Status.OK, Status.FAILED])
def test_each_reboot_has_a_look_of_its_own(sender: Callable[..., Incident], status: Status) -> None:
    pending = asked(sender(last_reboot="req-1"), CommandKind.REBOOT, subject="s1")
    assert one(answer(pending, status=status, error="x")).last_reboot is None


# --- after a lost answer ---


@all_senders
def test_after_a_lost_answer_it_is_looked_up_at_once(sender: Callable[..., Incident]) -> None:
    pending = asked(sender(last_reboot="req-1", next_at=NOW - 1), CommandKind.REBOOT, subject="s1")
    decision = answer(pending, status=Status.LOST, error="no answer")
    assert (one(decision).lost_until, one(decision).last_reboot) == (NOW + API_S, "req-1")
    assert told(decision, "guest.recovery.error") == [], "unknown is not failed"
    assert "the answer to its reboot was lost" in lines(decision)
    assert sent(due(replace(after(decision), pending=()))) == LOOK


def test_what_nova_lists_in_place_is_not_believed_after_a_lost_answer() -> None:
    assert lost(in_place).servers[0].stage is ServerStage.WAITING
    assert lost(moved).servers[0].stage is ServerStage.STARTING


@all_senders
def test_the_same_reboot_says_nothing_while_ours_may_still_come(sender: Callable[..., Incident]) -> None:
    for at, again_at in (
        (NOW, NOW + EARLY_S),
        (NOW + API_S - 1, NOW + API_S),
        (NOW + API_S + 1, NOW + API_S),  # it was asked before the time was over
    ):
        decision = looked(lost(sender), at, last_reboot="req-1")
        assert (one(decision).next_at, one(decision).lost_until) == (again_at, NOW + API_S)
        assert CommandKind.REBOOT not in sent(decision)
    early = replace(after(looked(lost(sender), last_reboot="req-1")), pending=())
    assert LOOK[0] not in sent(due(early, NOW + EARLY_S - 0.1))
    assert sent(due(early, NOW + EARLY_S)) == LOOK


@all_senders
@pytest.mark.parametrize("newest", ["req-1", ""])
def test_no_record_after_the_longest_request_means_that_it_did_not_happen(
    sender: Callable[..., Incident], newest: str
) -> None:
    until = NOW + API_S
    subject = lost(sender)
    subject = replace(subject, servers=(subject.servers[0].with_(next_at=until), *subject.servers[1:]))
    decision = looked(subject, until, last_reboot=newest)
    assert (one(decision).lost_until, one(decision).last_reboot) == (0.0, None)
    assert NO_RECORD in one(decision).reason + lines(decision)
    assert CommandKind.REBOOT not in sent(decision)


@pytest.mark.parametrize("at", [NOW + 1, NOW + API_S + 9])
def test_a_guest_whose_lost_reboot_is_found_is_verified(at: float) -> None:
    decision = looked(lost(guest), at, last_reboot="req-2")
    assert (after(decision).step, one(decision).stage) == (Step.VERIFY, ServerStage.LANDED)
    assert (one(decision).lost_until, one(decision).last_reboot) == (0.0, None)
    assert sent(decision) == [CommandKind.LIST_SERVERS]
    assert told(decision, "guest.recovery.end")


@pytest.mark.parametrize("sender", [in_place, moved])
def test_a_server_whose_lost_reboot_is_found_is_starting(sender: Callable[..., Incident]) -> None:
    decision = looked(lost(sender), NOW + 1, last_reboot="req-2")
    now = one(decision)
    assert (now.stage, now.reason, now.next_at) == (ServerStage.STARTING, "", NOW + 1 + MEND_PAUSE_S)
    assert (now.lost_until, now.last_reboot) == (0.0, None)
    assert "Nova took the reboot whose answer was lost" in lines(decision)
    assert CommandKind.REBOOT not in sent(due(replace(after(decision), pending=()), NOW + 5))


def test_nothing_else_is_sent_while_a_reboot_is_in_doubt() -> None:
    """Nova lists it as SHUTOFF: it would be started."""
    subject = asked(lost(in_place), CommandKind.SURVEY)
    assert sent(answer(subject, survey=row(status="SHUTOFF"))) == LOOK


@all_senders
def test_a_reboot_without_a_look_before_it_is_waited_out(sender: Callable[..., Incident]) -> None:
    """An intent of an older version, or of an earlier boot: there is nothing to compare with."""
    pending = asked(sender(last_reboot=None), CommandKind.REBOOT, subject="s1")
    decision = answer(pending, status=Status.LOST)
    assert (one(decision).lost_until, one(decision).next_at) == (0.0, NOW + API_S)
    waiting = replace(after(decision), pending=())
    assert CommandKind.LAST_REBOOT not in sent(due(waiting, NOW + API_S - 1))
    assert sent(due(waiting, NOW + API_S)) == LOOK


@pytest.mark.parametrize("kind", [CommandKind.REBOOT, CommandKind.LAST_REBOOT])
@pytest.mark.parametrize("status", [Status.OK, Status.LOST])
def test_an_answer_for_nobody_changes_nothing(kind: CommandKind, status: Status) -> None:
    subject = asked(in_place(last_reboot="req-1"), kind, subject="gone")
    assert after(answer(subject, status=status, last_reboot="req-2")).servers == subject.servers
    fencing = asked(incident(Step.FENCE, servers=in_place(last_reboot="req-1").servers), kind, subject="s1")
    if kind is CommandKind.LAST_REBOOT or status is Status.LOST:
        assert after(answer(fencing, status=status, last_reboot="req-2")).servers == fencing.servers


# --- crashes, and other boots ---


@all_senders
def test_after_a_crash_a_reboot_is_looked_for_and_a_look_is_repeated(sender: Callable[..., Incident]) -> None:
    pending = asked(sender(last_reboot="req-1", next_at=NOW - 1), CommandKind.REBOOT, subject="s1")
    resumed = turn(pending, Resumed(epoch=2))
    assert one(resumed).lost_until == NOW + API_S
    assert CommandKind.REBOOT not in sent(resumed)
    looking = turn(asked(sender(last_reboot=None), CommandKind.LAST_REBOOT, subject="s1"), Resumed(epoch=2))
    assert (one(looking).reason, one(looking).next_at) == ("", 0.0)
    assert "it is asked again" in lines(looking)


@pytest.mark.parametrize(("lost_until", "then"), [(0.0, 0.0), (NOW + 9, 50.0 + API_S)])
def test_on_another_machine_the_wait_begins_anew(lost_until: float, then: float) -> None:
    state = State(incidents={"i1": guest(lost_until=lost_until)})
    (now,) = journal.rebased(state, POLICY, 50.0).incidents["i1"].servers
    assert (now.lost_until, now.next_at) == (then, 0.0)


@pytest.mark.parametrize("stage", [ServerStage.WAITING, ServerStage.STARTING])
def test_a_reboot_in_doubt_says_nothing_of_another_boot(stage: ServerStage) -> None:
    """It may have been carried out in the boot that ended: waited out, then looked at anew."""
    subject = in_place(stage, last_reboot="req-1", lost_until=NOW + 40, next_at=NOW + 3)
    now = one(on(Beat(host="h1", boot_id="newer"), subject))
    assert (now.stage, now.last_reboot, now.lost_until, now.next_at) == (ServerStage.WAITING, None, 0.0, NOW + 40)


# --- one event of a guest, reported twice ---


@pytest.mark.parametrize(("report", "opens"), [("e1", False), ("e2", True), ("", True)])
def test_an_event_that_is_reported_again_is_not_acted_on_again(report: str, opens: bool) -> None:
    done = replace(guest(), phase=Phase.CLOSED, report="e1" if report else "")
    rules = replace(POLICY, guest_mode="auto")
    event = GuestFault(host="h1", server="s1", fault="watchdog", report=report, new_id="i9")
    decision = on(event, done, rules=rules)
    assert ("i9" in decision.state.incidents) is opens
    if opens:
        assert decision.state.incidents["i9"].report == report


def test_an_answer_finds_its_way_by_its_command() -> None:
    stranger = Finished(outcome=Outcome(command="nobody asked", status=Status.OK, last_reboot="req-9"))
    assert one(turn(guest(last_reboot=None), stranger)).last_reboot is None
