"""Whether what was moved runs as before, when that is good enough, and the reboot of one guest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ha_agent.decide import Decision
from ha_agent.model import (
    CommandKind,
    Finished,
    GuestFault,
    Incident,
    Kind,
    Mode,
    Outcome,
    Phase,
    Server,
    ServerProgress,
    ServerStage,
    Status,
    Step,
    Survey,
    Tick,
    Verdict,
)
from ha_agent.plans import GUEST_RECOVER, GUEST_TELL, IN_PLACE, RECOVER, RESTART, UNFORCE_AND_RESTART
from tests.unit.decide_support import (
    NOW,
    POLICY,
    after,
    answer,
    asked,
    evacuating,
    incident,
    lines,
    on,
    sent,
    server,
    told,
)

replace = msgspec.structs.replace


def tick(subject: Incident) -> Decision:
    return on(Tick(), replace(subject, wake_at=NOW))


def landed(name: str = "s1", **fields: object) -> ServerProgress:
    return server(ServerStage.LANDED, name, dest="h2").with_(**fields)


def verifying(*servers: ServerProgress, **changes: object) -> Incident:
    return replace(evacuating(*servers), position=RECOVER.index(Step.VERIFY), **{"poll_at": 0.0, **changes})


def rows(**fields: object) -> Survey:
    return Survey(servers=(replace(Server(id="s1", name="s1", host="h2", status="ACTIVE"), **fields),))


def listing(*servers: ServerProgress, **changes: object) -> Incident:
    return asked(verifying(*servers, **changes), CommandKind.LIST_SERVERS, hosts=("h2",))


OTHER = landed("s2", dest="h3")  # on a host that is not listed: the step stays open


# --- verify ---


@pytest.mark.parametrize(
    ("power_state", "verified"), [(None, True), (0, True), (1, True), (3, True), (4, False), (6, False)]
)
def test_a_server_that_nova_calls_active_and_knows_to_have_no_power_does_not_run(
    power_state: int | None, verified: bool
) -> None:
    """Somebody has set its state by hand. Nova starts only what it calls SHUTOFF, so it is rebooted."""
    made = answer(listing(landed(prior="ACTIVE"), OTHER), survey=rows(power_state=power_state))
    (one, _) = after(made).servers
    assert (one.stage is ServerStage.VERIFIED) is verified
    assert sent(made) == ([] if verified else [CommandKind.REBOOT])
    assert ("without power" in one.reason) is not verified


def test_one_that_was_stopped_before_has_no_power_and_is_as_it_was() -> None:
    made = answer(listing(landed(prior="SHUTOFF"), OTHER), survey=rows(status="SHUTOFF", power_state=4))
    assert after(made).servers[0].stage is ServerStage.VERIFIED


@pytest.mark.parametrize("stage", [ServerStage.LANDED, ServerStage.STARTING])
def test_each_destination_is_listed_once(stage: ServerStage) -> None:
    servers = (landed(stage=stage), landed("s2"), landed("s3", dest="h3"), landed("s4", dest=""))
    decision = tick(verifying(*servers))
    assert [(c.kind, c.hosts) for c in decision.commands] == [(CommandKind.LIST_SERVERS, ("h1", "h2", "h3"))]
    assert sent(tick(listing(*servers))) == []


@pytest.mark.parametrize("stage", [ServerStage.VERIFIED, ServerStage.NOT_MOVED, ServerStage.GIVEN_UP])
def test_what_is_decided_is_not_listed(stage: ServerStage) -> None:
    decision = tick(verifying(server(stage)))
    assert CommandKind.LIST_SERVERS not in sent(decision)
    assert after(decision).settled


def test_the_end_is_said_in_the_words_of_the_plan() -> None:
    moved = tick(verifying(server(ServerStage.VERIFIED), server(ServerStage.NOT_MOVED, "s2")))
    assert "verified: 1 moved, 1 not moved" in lines(moved)
    for plan in (IN_PLACE, UNFORCE_AND_RESTART):
        runs = (server(ServerStage.VERIFIED), server(ServerStage.VERIFIED, "s2"), server(ServerStage.GIVEN_UP, "s3"))
        assert "closed: 2 run again" in lines(tick(incident(Step.VERIFY, plan, servers=runs)))
    guest = guests_incident(Step.VERIFY)
    for one, outcome in (
        (server(ServerStage.VERIFIED), "closed: rebooted: it runs again"),
        (replace(server(ServerStage.NOT_MOVED), reason="no longer on h1"), "closed: not verified: no longer on h1"),
    ):
        assert outcome in lines(tick(replace(guest, servers=(one,))))


@pytest.mark.parametrize(
    ("poll_at", "kinds", "wake_at"),
    [(NOW, [CommandKind.LIST_SERVERS], None), (NOW + 1, [], NOW + 1)],
)
def test_the_next_listing_has_its_time(poll_at: float, kinds: list[CommandKind], wake_at: float | None) -> None:
    decision = tick(verifying(landed(), poll_at=poll_at))
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)


@pytest.mark.parametrize(
    ("settle_by", "released", "poll_at", "given_up"),
    [
        (NOW, "", NOW, True),
        (NOW + 0.1, "", NOW, False),
        (NOW + 0.1, "anna", NOW, True),
        (None, "anna", NOW, False),
        (NOW, "", 0.0, False),
    ],
)
def test_when_verifying_ends(settle_by: float | None, released: str, poll_at: float, given_up: bool) -> None:
    """Nobody is given up without one look."""
    subject = verifying(
        landed(), landed("s2", reason="it is ERROR"), settle_by=settle_by, released=released, poll_at=poll_at
    )
    decision = tick(subject)
    servers = after(decision).servers
    assert {s.stage for s in servers} == {ServerStage.GIVEN_UP if given_up else ServerStage.LANDED}
    if given_up:
        assert [s.reason for s in servers] == ["not verified in time", "it is ERROR"]
        assert "verified: 2 not moved" in lines(decision)


@pytest.mark.parametrize(
    ("status", "listed_as", "stage", "waited"),
    [
        (Status.OK, "ACTIVE", ServerStage.VERIFIED, 2),
        (Status.OK, "SHUTOFF", ServerStage.GIVEN_UP, 31),
        (Status.FAILED, "SHUTOFF", ServerStage.GIVEN_UP, 7),
        (Status.LOST, "SHUTOFF", ServerStage.GIVEN_UP, 61),
        (Status.LOST, "ACTIVE", ServerStage.VERIFIED, 2),
    ],
)
def test_what_the_last_look_sent_is_waited_for(
    status: Status, listed_as: str, stage: ServerStage, waited: float
) -> None:
    """Nova was away for as long as it was waited for: its servers are started all the same, and what came of it is told."""
    late = listing(landed(), landed("s2"), settle_by=NOW - 5, poll_at=NOW - 1)
    first = answer(late, survey=rows(status="SHUTOFF"))
    assert sent(first) == [CommandKind.START]
    assert after(first).position == late.position
    assert [s.stage for s in after(first).servers] == [ServerStage.STARTING, ServerStage.GIVEN_UP]
    started = answer(after(first), NOW + 1, command=first.commands[0].id, status=status, error="409")
    at = NOW + 1
    while after(started).position == late.position:  # it is looked at now and then, for a while
        assert at < NOW + 90, "it ends"
        assert CommandKind.START not in sent(started), "nothing is sent twice in the end"
        if sent(started) == [CommandKind.LIST_SERVERS]:
            listed = replace(rows().servers[0], status=listed_as)
            started = answer(after(started), at, command=started.commands[0].id, survey=Survey(servers=(listed,)))
        else:
            at = after(started).wake_at or at
            started = on(Tick(), after(started), at=at)
    assert after(started).servers[0].stage is stage
    assert at - NOW == pytest.approx(waited, abs=2.5)
    assert after(started).position > late.position


def test_the_last_look_sends_nothing_a_second_time() -> None:
    """A list that took so long that its server might be started once more."""
    one = landed(stage=ServerStage.STARTING, next_at=NOW - 1)
    decision = answer(listing(one, settle_by=NOW - 5, poll_at=NOW - 1), survey=rows(status="SHUTOFF"))
    assert CommandKind.START not in sent(decision)
    assert after(decision).servers[0].stage is ServerStage.GIVEN_UP


def test_in_the_end_an_answer_that_is_under_way_is_waited_for() -> None:
    one = landed(last_reboot=None)
    decision = answer(listing(one, settle_by=NOW - 5, poll_at=NOW - 1), survey=rows(status="ERROR"))
    assert sent(decision) == [CommandKind.LAST_REBOOT]
    assert after(decision).servers[0].stage is ServerStage.LANDED


@pytest.mark.parametrize(
    ("stage", "next_at", "given_up"),
    [
        (ServerStage.STARTING, NOW + 0.1, False),
        (ServerStage.STARTING, NOW, True),
        (ServerStage.LANDED, NOW + 30, True),
    ],
)
def test_in_the_end_only_what_was_sent_is_waited_for(stage: ServerStage, next_at: float, given_up: bool) -> None:
    late = verifying(landed(stage=stage, next_at=next_at), settle_by=NOW - 5, poll_at=NOW)
    assert (after(tick(late)).servers[0].stage is ServerStage.GIVEN_UP) is given_up


@pytest.mark.parametrize(("status", "survey"), [(Status.OK, None), (Status.LOST, rows()), (Status.FAILED, rows())])
def test_a_listing_that_failed_changes_no_server(status: Status, survey: Survey | None) -> None:
    decision = answer(listing(landed(), waiting="x"), status=status, survey=survey, error="500")
    assert after(decision).servers == (landed(),)
    assert after(decision).waiting == "the moved servers cannot be listed: 500"
    assert (after(decision).poll_at, after(decision).wake_at) == (NOW + 2, NOW + 2)


@pytest.mark.parametrize("stage", [ServerStage.VERIFIED, ServerStage.NOT_MOVED, ServerStage.GIVEN_UP])
def test_a_listing_only_judges_what_is_not_decided(stage: ServerStage) -> None:
    decision = answer(listing(landed(stage=stage), OTHER), survey=Survey())
    assert after(decision).servers[0] == landed(stage=stage)
    assert after(decision).waiting == ""


def test_a_server_that_is_being_started_is_judged_too() -> None:
    now = after(answer(listing(landed(stage=ServerStage.STARTING), OTHER), survey=rows())).servers[0]
    assert now.stage is ServerStage.VERIFIED


@pytest.mark.parametrize(("name", "said"), [("web", "web"), ("", "s1")])
def test_a_server_is_called_by_its_name_or_its_id(name: str, said: str) -> None:
    one = landed(name, id="s1")
    assert f"{said} is ACTIVE on h2" in lines(answer(listing(one, OTHER), survey=rows()))
    assert f"{said} is SHUTOFF, it was ACTIVE" in lines(answer(listing(one, OTHER), survey=rows(status="SHUTOFF")))
    late = tick(verifying(one, settle_by=NOW, poll_at=NOW))
    assert f"{said} is given up" in lines(late)


def test_a_server_without_a_destination_is_looked_for_on_its_own_host() -> None:
    subject = asked(verifying(landed(dest=""), OTHER), CommandKind.LIST_SERVERS, hosts=("h1",))
    assert after(answer(subject, survey=rows(host="h1"))).servers[0].stage is ServerStage.VERIFIED
    elsewhere = asked(verifying(landed(dest=""), OTHER), CommandKind.LIST_SERVERS, hosts=("h2",))
    assert after(answer(elsewhere, survey=rows())).servers[0].stage is ServerStage.LANDED


@pytest.mark.parametrize(
    ("looks", "stage", "reason"),
    [
        (0, ServerStage.LANDED, "not listed on h2 yet"),
        (1, ServerStage.LANDED, "not listed on h2 yet"),
        (2, ServerStage.NOT_MOVED, "no longer on h2: moved on or deleted by somebody else"),
    ],
)
def test_a_server_that_is_not_where_it_was_moved_to(looks: int, stage: ServerStage, reason: str) -> None:
    now = after(answer(listing(landed(looks=looks), OTHER), survey=Survey())).servers[0]
    assert (now.stage, now.reason) == (stage, reason)
    assert now.looks == (looks + 1 if stage is ServerStage.LANDED else looks)


@pytest.mark.parametrize(("looks", "reason"), [(0, "not listed on h1 yet"), (2, "no longer on h1: ")])
def test_one_that_was_moved_nowhere_is_missed_on_its_own_host(looks: int, reason: str) -> None:
    subject = asked(verifying(landed(dest="", looks=looks), OTHER), CommandKind.LIST_SERVERS, hosts=("h1",))
    now = after(answer(subject, survey=Survey())).servers[0]
    assert now.reason.startswith(reason)


@pytest.mark.parametrize(
    ("prior", "status", "kinds", "stage"),
    [
        ("ACTIVE", "ACTIVE", [], ServerStage.VERIFIED),
        ("SHUTOFF", "SHUTOFF", [], ServerStage.VERIFIED),
        ("PAUSED", "ACTIVE", [], ServerStage.VERIFIED),
        ("PAUSED", "SHUTOFF", [], ServerStage.VERIFIED),
        ("PAUSED", "PAUSED", [CommandKind.REBOOT], ServerStage.STARTING),
        ("PAUSED", "ERROR", [CommandKind.REBOOT], ServerStage.STARTING),
        ("ACTIVE", "PAUSED", [CommandKind.REBOOT], ServerStage.STARTING),
        ("ACTIVE", "SHUTOFF", [CommandKind.START], ServerStage.STARTING),
        ("SHUTOFF", "ACTIVE", [CommandKind.STOP], ServerStage.STARTING),
        ("SHUTOFF", "ERROR", [CommandKind.REBOOT], ServerStage.STARTING),
    ],
)
def test_what_a_moved_server_is_brought_to(
    prior: str, status: str, kinds: list[CommandKind], stage: ServerStage
) -> None:
    decision = answer(listing(landed(prior=prior), OTHER), survey=rows(status=status))
    now = after(decision).servers[0]
    assert (sent(decision), now.stage) == (kinds, stage)
    assert len(told(decision, "server.evacuate.end")) == (0 if kinds else 1)
    assert now.next_at == (NOW + 30 if kinds else 0.0)


def test_that_a_server_has_moved_is_told_only_where_it_has() -> None:
    in_place = replace(
        asked(
            incident(Step.VERIFY, IN_PLACE, servers=(landed(dest=""), OTHER)), CommandKind.LIST_SERVERS, hosts=("h1",)
        )
    )
    assert told(answer(in_place, survey=rows(host="h1")), "server.evacuate.end") == []
    guest = asked(replace(guests_incident(Step.VERIFY), servers=(landed(),)), CommandKind.LIST_SERVERS, hosts=("h2",))
    decision = answer(guest, survey=rows())
    assert told(decision, "server.evacuate.end") == []
    assert told(decision, "incident.closed")


def test_a_busy_server_is_waited_for() -> None:
    decision = answer(listing(landed(), OTHER), survey=rows(status="SHUTOFF", task_state="powering-on"))
    assert sent(decision) == []
    assert after(decision).servers[0].reason == "Nova is still powering-on"


@pytest.mark.parametrize(("next_at", "kinds"), [(NOW, [CommandKind.START]), (NOW + 1, [])])
def test_a_request_has_its_time(next_at: float, kinds: list[CommandKind]) -> None:
    decision = answer(listing(landed(next_at=next_at), OTHER), survey=rows(status="SHUTOFF"))
    assert sent(decision) == kinds
    assert after(decision).servers[0].reason == "it is SHUTOFF, it was ACTIVE"


def test_nothing_is_mended_in_maintenance() -> None:
    event = Finished(outcome=Outcome(command="asked", status=Status.OK, survey=rows(status="SHUTOFF")))
    decision = on(event, listing(landed(), OTHER), maintenance="new fans")
    assert sent(decision) == []
    assert "maintenance" in after(decision).blocked
    assert after(decision).wake_at == NOW + 1


@pytest.mark.parametrize("kind", [CommandKind.START, CommandKind.STOP, CommandKind.REBOOT])
@pytest.mark.parametrize(
    ("status", "subject", "noted"),
    [
        (Status.FAILED, "s1", True),
        (Status.LOST, "s1", True),
        (Status.OK, "s1", False),
        (Status.FAILED, "gone", False),
    ],
)
def test_a_request_that_failed_is_said_and_tried_later(
    kind: CommandKind, status: Status, subject: str, noted: bool
) -> None:
    if kind is CommandKind.REBOOT and status is Status.LOST:
        return  # looked up: see test_decide_reboots
    one = server(ServerStage.STARTING, dest="h2", next_at=NOW + 30)
    waiting = asked(verifying(one, poll_at=NOW + 99), kind, subject=subject)
    decision = answer(waiting, status=status, error="409")
    now = after(decision).servers[0]
    assert now.stage is ServerStage.STARTING
    assert (now.next_at, now.reason) == (
        (NOW + 5, "it could not be brought to ACTIVE: 409") if noted else (NOW + 30, "")
    )
    assert after(decision).wake_at == (NOW + 5 if noted else NOW + 99)


def test_a_server_that_could_not_be_started_in_place_is_not_believed_to_run() -> None:
    """What Nova lists as ACTIVE is older than the failure."""
    one = server(ServerStage.STARTING, next_at=NOW + 30)
    restarting = incident(Step.RESTART, RESTART, servers=(one,), surveyed=True, poll_at=NOW + 9, settle_by=NOW + 99)
    decision = answer(asked(restarting, CommandKind.START, subject="s1"), status=Status.FAILED, error="409")
    assert after(decision).servers[0].stage is ServerStage.WAITING


# --- settle ---


def test_what_was_not_moved_is_told_server_by_server_and_the_end_in_numbers() -> None:
    servers = (
        server(ServerStage.VERIFIED, "a"),
        server(ServerStage.NOT_MOVED, "b", reason="no tag"),
        server(ServerStage.GIVEN_UP, "c", reason="late"),
    )
    subject = replace(verifying(*servers), position=RECOVER.index(Step.SETTLE))
    decision = tick(subject)
    assert [(d["server"], d["why"]) for d in told(decision, "server.not_moved")] == [("b", "no tag"), ("c", "late")]
    (end,) = told(decision, "host.evacuation.end")
    assert (end["total"], end["moved"], end["in_flight"], end["waiting"], end["not_moved"]) == (3, 1, 0, 0, 2)
    assert (after(decision).settled, after(decision).stage_at["settled"]) == (True, NOW)


# --- one guest ---


def guests_incident(step: Step = Step.REBOOT, **changes: object) -> Incident:
    base = incident(step, GUEST_RECOVER, kind=Kind.GUEST, subject="s1", verdict=Verdict.ALIVE)
    return replace(base, servers=(ServerProgress(id="s1", prior="ACTIVE", last_reboot=""),), **changes)


def fault(name: str = "s9", host: str = "h2") -> GuestFault:
    return GuestFault(host=host, server=name, fault="watchdog", new_id="i9")


@pytest.mark.parametrize(
    ("mode", "plan", "kinds"),
    [("auto", GUEST_RECOVER, [CommandKind.LAST_REBOOT]), ("notify", GUEST_TELL, [])],
)
def test_what_is_done_about_a_guest(mode: str, plan: tuple[Step, ...], kinds: list[CommandKind]) -> None:
    decision = on(fault(), rules=replace(POLICY, guest_mode=mode))
    opened = decision.state.incidents["i9"]
    assert (opened.plan, opened.kind, opened.subject, opened.verdict) == (plan, Kind.GUEST, "s9", Verdict.ALIVE)
    assert (opened.mode is Mode.AUTO) is (mode == "auto")
    assert opened.announced
    assert sent(decision) == kinds
    assert len(told(decision, "guest.event")) == 1
    assert "opened: guest of h2: watchdog" in lines(decision)


@pytest.mark.parametrize(
    ("subject", "phase", "host", "opens"),
    [
        ("s9", Phase.OPEN, "h2", False),
        ("s8", Phase.OPEN, "h2", True),
        ("s9", Phase.CLOSED, "h2", True),
        ("s9", Phase.OPEN, "h3", True),
    ],
)
def test_a_guest_has_one_open_incident_at_a_time(subject: str, phase: Phase, host: str, opens: bool) -> None:
    before = guests_incident(host=host, phase=phase, next_at=NOW + 9)
    before = replace(before, subject=subject)
    decision = on(fault(), before, rules=replace(POLICY, guest_mode="auto"))
    assert ("i9" in decision.state.incidents) is opens
    assert any("guest s9: watchdog" in e.text for e in after(decision).history) is not opens


@pytest.mark.parametrize(("next_at", "kinds", "wake_at"), [(NOW, [CommandKind.REBOOT], None), (NOW + 1, [], NOW + 1)])
def test_the_reboot_of_a_guest_has_its_time(next_at: float, kinds: list[CommandKind], wake_at: float | None) -> None:
    decision = tick(guests_incident(next_at=next_at))
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)
    assert [c.subject for c in decision.commands] == ["s1" for _ in kinds]
    assert sent(tick(asked(guests_incident(), CommandKind.REBOOT))) == []


def test_a_guest_is_not_rebooted_in_maintenance_and_the_block_ends_with_it() -> None:
    held = on(Tick(), guests_incident(wake_at=NOW), maintenance="new fans")
    assert (sent(held), after(held).wake_at) == ([], NOW + 1)
    assert "maintenance" in after(held).blocked
    freed = tick(after(held))
    assert (sent(freed), after(freed).blocked) == ([CommandKind.REBOOT], "")


@pytest.mark.parametrize(("rounds", "pause"), [(0, 5.0), (1, 10.0)])
def test_a_reboot_that_failed_is_told_and_tried_later(rounds: int, pause: float) -> None:
    decision = answer(
        asked(guests_incident(rounds=rounds), CommandKind.REBOOT, subject="s1"), status=Status.FAILED, error="409"
    )
    assert [d["error"] for d in told(decision, "guest.recovery.error")] == ["409"]
    assert told(decision, "guest.recovery.end") == []
    assert (after(decision).next_at, after(decision).wake_at, sent(decision)) == (NOW + pause, NOW + pause, [])


def test_a_guest_whose_reboot_was_taken_is_looked_at() -> None:
    decision = answer(asked(guests_incident(), CommandKind.REBOOT, subject="s1"))
    now = after(decision)
    assert (now.step, now.servers[0].stage, now.settle_by) == (Step.VERIFY, ServerStage.LANDED, NOW + 3600)
    assert [(c.kind, c.hosts) for c in decision.commands] == [(CommandKind.LIST_SERVERS, ("h1",))]
    assert told(decision, "guest.recovery.end")
    assert told(decision, "guest.recovery.error") == []


def listed(subject: Incident, **fields: Any) -> Decision:
    """The listing that it waits for is answered."""
    return answer(subject, command=subject.pending[0].id, **fields)


def test_before_a_guest_is_rebooted_again_its_host_is_asked_whether_it_still_has_it() -> None:
    waiting = guests_incident(rounds=1, next_at=NOW)
    decision = tick(waiting)
    assert [(c.kind, c.hosts) for c in decision.commands] == [(CommandKind.LIST_SERVERS, ("h1",))]
    assert sent(tick(after(decision))) == []
    there = listed(after(decision), survey=rows(host="h1"))
    assert sent(there) == [CommandKind.REBOOT]
    unknown = listed(after(decision), status=Status.FAILED, error="503")
    assert (sent(unknown), after(unknown).servers[0].looks) == ([], 0)
    assert "cannot be listed: 503" in after(unknown).waiting


def test_a_guest_that_is_gone_from_its_host_is_not_rebooted_for_ever() -> None:
    """Deleted, or moved by somebody else; one listing that lacks it is not enough (S9)."""
    now = guests_incident(rounds=1, next_at=NOW)
    for look in range(3):
        assert now.phase is Phase.OPEN, look
        waiting = replace(now, next_at=NOW, poll_at=0.0)
        now = after(listed(after(tick(waiting)), survey=Survey()))
    assert (now.phase, now.servers[0].stage) == (Phase.CLOSED, ServerStage.NOT_MOVED)
    assert "deleted, or moved" in now.servers[0].reason


@pytest.mark.parametrize(
    ("status", "survey"), [(Status.LOST, rows(host="h1")), (Status.FAILED, rows(host="h1")), (Status.OK, None)]
)
def test_a_listing_that_failed_does_not_say_that_a_guest_is_still_there(status: Status, survey: Survey | None) -> None:
    waiting = after(tick(guests_incident(rounds=1, next_at=NOW)))
    decision = listed(waiting, status=status, survey=survey, error="503")
    assert (sent(decision), after(decision).next_at) == ([], NOW + 2)
