"""Telling Nova and everyone, and moving servers a few at a time: when, how many, and what each answer means."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import Decision, evacuate
from ha_agent.decide.turn import Turn
from ha_agent.model import (
    CommandKind,
    EvidenceKind,
    Finished,
    Fleet,
    Incident,
    Kind,
    Migration,
    Mode,
    Now,
    Outcome,
    Phase,
    Presence,
    Server,
    ServerProgress,
    ServerStage,
    State,
    Status,
    Step,
    Survey,
    Tick,
)
from ha_agent.plans import FENCE_AND_TELL, RECOVER, TELL
from ha_agent.policy import Recovery
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
    lines,
    on,
    proof,
    sent,
    server,
    told,
    with_recovery,
)

replace = msgspec.structs.replace
LOST = Status.LOST
CONFIRMED = replace(proof(), kind=EvidenceKind.CONFIRMATION)  # it does not age: no device is read again


def tick(subject: Incident, *others: Incident) -> Decision:
    return on(Tick(), replace(subject, wake_at=NOW), *others)


def proven(host: str = "h2", age_s: float = 1.0) -> Incident:
    """Another host that is proven off."""
    return incident(Step.FORCE_DOWN, id="i2", host=host, subject=host, evidence=proof(NOW - age_s), next_at=NOW + 9)


def row(id: str = "s1", **fields: object) -> Server:
    return replace(Server(id=id, name=id, host="h1", status="ACTIVE"), **fields)


@pytest.mark.parametrize(
    ("attempts", "pause"), [(0, 5.0), (1, 5.0), (2, 10.0), (3, 20.0), (11, 5120.0), (12, 5120.0), (99, 5120.0)]
)
def test_pauses_double_within_bounds(attempts: int, pause: float) -> None:
    assert evacuate.retry_pause(Recovery(retry_max_s=1e6), attempts) == pause
    assert evacuate.retry_pause(Recovery(), attempts) == min(pause, 60.0)


# --- telling Nova ---


def telling(**changes: object) -> Incident:
    return replace(incident(Step.FORCE_DOWN, evidence=proof()), **changes)


@pytest.mark.parametrize(
    ("pending", "kinds"),
    [
        (CommandKind.FORCE_DOWN, []),
        (CommandKind.CLEAR_FORCE_DOWN, []),
        (CommandKind.SURVEY, [CommandKind.FORCE_DOWN]),
    ],
)
def test_nova_is_told_once_at_a_time(pending: CommandKind, kinds: list[CommandKind]) -> None:
    assert sent(tick(asked(telling(), pending))) == kinds


@pytest.mark.parametrize(
    ("next_at", "kinds", "wake_at"), [(NOW, [CommandKind.FORCE_DOWN], None), (NOW + 1, [], NOW + 1)]
)
def test_telling_nova_again_has_its_time(next_at: float, kinds: list[CommandKind], wake_at: float | None) -> None:
    decision = tick(telling(next_at=next_at))
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)
    assert [c.not_after for c in decision.commands] == [NOW + 29 for _ in kinds]
    assert after(decision).forced is bool(kinds)


def test_the_devices_are_read_again_while_nova_cannot_be_told() -> None:
    assert sent(tick(telling(next_at=NOW + 1, evidence=proof(NOW - 10)))) == [CommandKind.READ_POWER]
    held = on(Tick(), telling(evidence=proof(NOW - 10), wake_at=NOW), maintenance="new fans")
    assert sent(held) == [CommandKind.READ_POWER]
    assert "maintenance" in after(held).blocked
    assert after(held).wake_at == NOW + 1
    freed = tick(replace(after(held), evidence=proof(), pending=()))
    assert (sent(freed), after(freed).blocked) == ([CommandKind.FORCE_DOWN], "")


def test_nova_is_not_told_on_old_evidence() -> None:
    decision = tick(telling(evidence=proof(NOW - 30)))
    assert (after(decision).step, after(decision).revoked) == (Step.FENCE, "it aged before Nova was told")
    assert CommandKind.FORCE_DOWN not in sent(decision)


@pytest.mark.parametrize(
    ("mode", "before", "committed"),
    [(Mode.AUTO, None, None), (Mode.NOTIFY, None, NOW), (Mode.NOTIFY, NOW - 5, NOW - 5)],
)
def test_in_notify_mode_telling_nova_is_the_point_of_no_return(
    mode: Mode, before: float | None, committed: float | None
) -> None:
    plan = RECOVER if mode is Mode.AUTO else FENCE_AND_TELL
    subject = replace(incident(Step.FORCE_DOWN, plan, evidence=proof(), mode=mode), committed_at=before)
    assert after(tick(subject)).committed_at == committed


def test_nova_s_answer_is_told_and_a_failure_is_repeated() -> None:
    waiting = asked(telling(rounds=1, evidence=CONFIRMED), CommandKind.FORCE_DOWN)
    done = answer(waiting)
    assert after(done).stage_at["force_down"] == NOW
    assert after(done).step is Step.EVACUATE
    assert len(told(done, "host.forced_down")) == 1
    for status in (LOST, Status.FAILED):
        failed = answer(waiting, status=status, error="503")
        now = after(failed)
        assert (now.step, now.rounds, now.next_at, now.wake_at) == (Step.FORCE_DOWN, 2, NOW + 10, NOW + 10)
        assert now.waiting == "Nova could not be told: 503"
        assert told(failed, "host.forced_down") == []
    late = answer(asked(incident(Step.FENCE, next_at=NOW + 9), CommandKind.FORCE_DOWN))
    assert (after(late).step, told(late, "host.forced_down")) == (Step.FENCE, [])


@pytest.mark.parametrize(("rounds", "pause"), [(0, 5.0), (1, 10.0), (2, 10.0), (9, 10.0)])
def test_nova_is_told_again_after_ten_seconds_at_the_latest(rounds: int, pause: float) -> None:
    now = after(answer(asked(telling(rounds=rounds), CommandKind.FORCE_DOWN), status=LOST))
    assert now.next_at == NOW + pause


# --- telling everyone ---


@pytest.mark.parametrize(
    ("plan", "evidence", "says"),
    [
        (RECOVER, proof(), "announced"),
        (RECOVER, None, "announced (without evidence)"),
        (TELL, None, "announced"),
        (FENCE_AND_TELL, None, "announced (without evidence)"),
    ],
)
def test_it_is_announced_once_and_said_how_sure_we_are(plan: tuple[Step, ...], evidence: object, says: str) -> None:
    subject = incident(Step.ANNOUNCE, plan, evidence=evidence, forced=True, rounds=3)
    decision = tick(subject)
    assert len(told(decision, "host.down")) == 1
    assert told(decision, "host.down")[0]["forced_down"] is True
    assert f"] {says}" in lines(decision).splitlines()[0]
    assert lines(decision).splitlines()[0].endswith(says)
    assert (after(decision).announced, after(decision).rounds) == (True, 0)
    assert told(tick(replace(subject, announced=True)), "host.down") == []


# --- looking ---


def test_an_evacuation_begins_with_a_look() -> None:
    decision = tick(incident(Step.EVACUATE, evidence=proof()))
    now = after(decision)
    assert sent(decision) == [CommandKind.SURVEY]
    assert (now.settle_by, now.window) == (NOW + 3600, 2.0)
    assert len(told(decision, "host.evacuation.start")) == 1
    again = tick(replace(now, pending=(), settle_by=NOW + 7, window=8.0))
    assert (after(again).settle_by, after(again).window, told(again, "host.evacuation.start")) == (NOW + 7, 8.0, [])


@pytest.mark.parametrize(
    ("changes", "pending", "kinds"),
    [
        ({"poll_at": NOW}, None, [CommandKind.SURVEY]),
        ({"poll_at": NOW + 1}, None, []),
        ({"poll_at": 0.0}, CommandKind.SURVEY, []),
        ({"poll_at": 0.0}, CommandKind.FOLLOW, [CommandKind.SURVEY]),
        ({"poll_at": 0.0, "evidence": proof(NOW - 30)}, None, []),
    ],
)
def test_when_the_host_is_looked_at(
    changes: dict[str, object], pending: CommandKind | None, kinds: list[CommandKind]
) -> None:
    subject = replace(evacuating(server(ServerStage.WAITING), surveyed=False), **changes)
    decision = tick(asked(subject, pending) if pending else subject)
    assert [k for k in sent(decision) if k is CommandKind.SURVEY] == kinds
    if changes["poll_at"] == NOW + 1:
        assert after(decision).wake_at == NOW + 1


def test_what_is_settled_moves_nothing_any_more() -> None:
    decision = tick(evacuating(server(ServerStage.WAITING), settled=True))
    assert CommandKind.EVACUATE not in sent(decision)
    assert "settled before: nothing is moved any more" in lines(decision)


def looking(*servers: ServerProgress, **changes: object) -> Incident:
    fields: dict[str, object] = {"surveyed": False, "committed_at": None, "poll_at": NOW + 2, **changes}
    return asked(replace(evacuating(*servers), **fields), CommandKind.SURVEY)


@pytest.mark.parametrize(("rounds", "pause"), [(0, 5.0), (1, 10.0)])
@pytest.mark.parametrize(("status", "survey"), [(LOST, Survey()), (Status.FAILED, Survey()), (Status.OK, None)])
def test_a_look_that_failed_changes_nothing(status: Status, survey: Survey | None, rounds: int, pause: float) -> None:
    known = server(ServerStage.WAITING)
    decision = answer(looking(known, rounds=rounds, evidence=CONFIRMED), status=status, survey=survey, error="500")
    now = after(decision)
    assert (now.servers, now.surveyed, now.poll_at, now.wake_at) == ((known,), False, NOW + pause, NOW + pause)
    assert now.waiting == "the host's servers cannot be listed: 500"


def test_the_first_look_chooses_and_says_what_stays() -> None:
    survey = Survey(servers=(row("s1"), row("s2", status="PAUSED"), row("s3", name="", status="PAUSED")))
    known = (server(ServerStage.RETRY, prior="SHUTOFF", attempts=2), server(ServerStage.GIVEN_UP, "s2", prior=""))
    decision = answer(looking(*known, rounds=2, waiting="x"), survey=survey)
    now = after(decision)
    assert [(s.id, s.prior, s.attempts) for s in now.servers] == [
        ("s1", "SHUTOFF", 1),
        ("s3", "PAUSED", 0),
        ("s2", "PAUSED", 0),
    ]
    assert (now.surveyed, now.rounds, now.waiting) == (True, 0, "")
    assert "3 servers: 1 waiting, 2 not moved" in lines(decision)
    assert "s2 stays: Nova does not evacuate a server that is PAUSED" in lines(decision)
    assert "s3 stays:" in lines(decision)
    assert "s1 stays" not in lines(decision)
    again = answer(looking(*now.servers, committed_at=NOW - 5), survey=survey)
    assert "stays:" not in lines(again), "said once"


@pytest.mark.parametrize(("number", "named", "more"), [(20, 20, False), (21, 20, True), (25, 20, True)])
def test_of_very_many_that_stay_twenty_are_named(number: int, named: int, more: bool) -> None:
    survey = Survey(servers=tuple(row(f"s{n:02}", status="PAUSED") for n in range(number)))
    text = lines(answer(looking(), survey=survey))
    assert text.count(" stays: ") == named
    assert (f"{number - 20} more stay" in text) is more


@pytest.mark.parametrize(
    ("was", "seen", "migrations", "expected"),
    [
        # it may be moved now
        ({"stage": ServerStage.NOT_MOVED, "prior": "SHUTOFF"}, {}, (), (ServerStage.SENT, "SHUTOFF")),
        ({"stage": ServerStage.NOT_MOVED, "prior": ""}, {}, (), (ServerStage.SENT, "ACTIVE")),
        ({"stage": ServerStage.NOT_MOVED, "prior": "X"}, {"status": "PAUSED"}, (), (ServerStage.NOT_MOVED, "X")),
        # it may not any more
        ({"stage": ServerStage.WAITING}, {"status": "PAUSED"}, (), (ServerStage.NOT_MOVED, "ACTIVE")),
        ({"stage": ServerStage.RETRY, "next_at": NOW + 9}, {"status": "PAUSED"}, (), (ServerStage.NOT_MOVED, "ACTIVE")),
        ({"stage": ServerStage.WAITING, "attempts": 1}, {"status": "PAUSED"}, (), (ServerStage.SENT, "ACTIVE")),
        # somebody else began to move it
        ({"stage": ServerStage.WAITING}, {}, ("running",), (ServerStage.HELD, "ACTIVE")),
        ({"stage": ServerStage.RETRY, "attempts": 1}, {}, ("running",), (ServerStage.HELD, "ACTIVE")),
        # what is under way is judged by its record alone
        ({"stage": ServerStage.MOVING, "attempts": 1}, {"status": "PAUSED"}, (), (ServerStage.MOVING, "ACTIVE")),
        ({"stage": ServerStage.MOVING, "attempts": 1}, {}, ("running",), (ServerStage.MOVING, "ACTIVE")),
        ({"stage": ServerStage.GIVEN_UP}, {}, (), (ServerStage.GIVEN_UP, "ACTIVE")),
        ({"stage": ServerStage.HELD, "wait_for": ("h9",), "next_at": NOW + 9}, {}, (), (ServerStage.HELD, "ACTIVE")),
    ],
)
def test_a_later_look_at_a_server_that_is_still_there(
    was: dict[str, object], seen: dict[str, object], migrations: tuple[str, ...], expected: tuple[ServerStage, str]
) -> None:
    records = tuple(
        Migration(id=9, server="s1", kind="live-migration", status=m, source="h1", dest="h3") for m in migrations
    )
    known = server(ServerStage.WAITING).with_(**was)
    keeps_open = server(ServerStage.MOVING, "s2")
    decision = answer(
        looking(known, keeps_open, committed_at=NOW - 5, window=9.0),
        survey=Survey(servers=(replace(row(), **seen), row("s2")), migrations=records),
    )
    now = next(s for s in after(decision).servers if s.id == "s1")
    assert (now.stage, now.prior) == expected
    if now.stage is ServerStage.HELD and migrations:
        assert (now.wait_for, now.attempts) == (("h3",), was.get("attempts", 0))


def test_who_reported_a_server_absent_is_remembered_over_a_later_look() -> None:
    known = server(ServerStage.WAITING, absent_at={"h2": 1.0})
    decision = answer(looking(known, committed_at=NOW - 5, window=9.0), survey=Survey(servers=(row(),)))
    assert after(decision).servers[0].absent_at == {"h2": 1.0}


def test_a_server_that_has_to_wait_from_now_on_is_named_once_with_what_ends_it() -> None:
    records = tuple(
        Migration(id=n, server=f"s{n}", kind="live-migration", status="running", source="h1", dest="h3")
        for n in (1, 2, 3)
    )
    known = (
        server(ServerStage.WAITING, "s1"),
        server(ServerStage.HELD, "s2", wait_for=("h3",), next_at=NOW + 99),
        server(ServerStage.WAITING, "s4"),
    )
    servers = tuple(row(f"s{n}") for n in (1, 2, 3, 4))
    text = lines(answer(looking(*known, committed_at=NOW - 5), survey=Survey(servers=servers, migrations=records)))
    why = "an unfinished migration names h3 (to give it up: ha-agent release h1)"
    assert f"s1 is held: {why}" in text
    assert f"s3 is held: {why}" in text
    assert text.count(" is held: ") == 2


@pytest.mark.parametrize(("old", "new", "judged"), [(3, 7, 7), (9, 7, 9)])
def test_an_intent_names_the_newest_record_that_was_looked_at(old: int, new: int, judged: int) -> None:
    known = server(ServerStage.RETRY, attempts=1, baseline=old)
    decision = answer(
        looking(known, committed_at=NOW - 5), survey=Survey(servers=(row(),), migrations=(evacuation("failed", new),))
    )
    assert [c.judged for c in decision.commands if c.kind is CommandKind.EVACUATE] == [judged]


@pytest.mark.parametrize(
    ("stage", "status", "expected"),
    [
        (ServerStage.WAITING, "done", ServerStage.LANDED),
        (ServerStage.RETRY, "completed", ServerStage.LANDED),
        (ServerStage.HELD, "done", ServerStage.LANDED),
        (ServerStage.WAITING, "failed", ServerStage.NOT_MOVED),
        (ServerStage.WAITING, "", ServerStage.NOT_MOVED),
        (ServerStage.MOVING, "done", ServerStage.MOVING),
        (ServerStage.MOVING, "accepted", ServerStage.MOVING),
        (ServerStage.MOVING, "", ServerStage.NOT_MOVED),  # Nova hides the records of a deleted server
        (ServerStage.SENT, "", ServerStage.SENT),
        (ServerStage.LOST, "", ServerStage.LOST),
        (ServerStage.GIVEN_UP, "done", ServerStage.GIVEN_UP),
    ],
)
def test_a_later_look_at_a_server_that_is_gone(stage: ServerStage, status: str, expected: ServerStage) -> None:
    gone = server(stage, wait_for=("h9",), reason="x")
    records = (evacuation(status),) if status else ()
    decision = answer(
        looking(gone, server(ServerStage.MOVING, "s2"), committed_at=NOW - 5),
        survey=Survey(servers=(row("s2"),), migrations=records),
    )
    now = next(s for s in after(decision).servers if s.id == "s1")
    assert now.stage is expected
    if expected is ServerStage.LANDED:
        assert (now.dest, now.wait_for, now.reason) == ("h2", (), "")


# --- servers that may run elsewhere ---


def held(*hosts: str, **fields: object) -> ServerProgress:
    return server(ServerStage.HELD, reason="x").with_(**{"wait_for": hosts, **fields})


def test_a_server_is_free_when_nobody_else_may_run_it() -> None:
    decision = tick(evacuating(held("h2"), server(ServerStage.MOVING, "s2"), window=9.0), proven())
    assert "s1 is free to be moved" in lines(decision)
    now = after(decision).servers[0]
    assert (now.stage, now.wait_for, now.reason) == (ServerStage.SENT, (), "")


@pytest.mark.parametrize(
    ("fields", "asks", "next_at"),
    [
        ({"next_at": NOW}, ["h2", "h3"], NOW + 15),
        ({"next_at": NOW + 1}, [], NOW + 1),
        ({"wait_for": ("?", "h2")}, ["h2"], NOW + 15),
    ],
)
def test_who_is_asked_whether_it_has_the_server(fields: dict[str, object], asks: list[str], next_at: float) -> None:
    decision = tick(evacuating(held("h2", "h3", **fields), server(ServerStage.WAITING, "s2", wait_for=("h9",))))
    absent = [c for c in decision.commands if c.kind is CommandKind.CHECK_ABSENT]
    assert [(c.subject, c.host) for c in absent] == [("s1", h) for h in asks]
    assert after(decision).servers[0].next_at == next_at
    if not asks:
        assert after(decision).wake_at == NOW + 1


def test_each_is_asked_once_at_a_time_and_again_after_a_quarter_of_the_longest_request() -> None:
    subject = asked(evacuating(held("h2", "h3"), poll_at=NOW + 99), CommandKind.CHECK_ABSENT, subject="s1", host="h2")
    decision = tick(subject)
    assert [c.host for c in decision.commands] == ["h3"]
    assert after(decision).wake_at == NOW + 9, "the devices are read again before that"
    assert after(tick(replace(subject, evidence=CONFIRMED))).wake_at == NOW + 15
    slow = on(Tick(), replace(subject, evidence=CONFIRMED, wake_at=NOW), rules=with_recovery(poll_s=20.0))
    assert (after(slow).servers[0].next_at, after(slow).wake_at) == (NOW + 20, NOW + 20)


def test_what_is_proven_of_one_host_is_kept() -> None:
    decision = tick(evacuating(held("h2", "h3", next_at=NOW + 9)), proven())
    assert after(decision).servers[0].wait_for == ("h3",)
    same = tick(evacuating(held("h3", next_at=NOW + 9)), proven())
    assert after(same).servers[0] == held("h3", next_at=NOW + 9)


@pytest.mark.parametrize(("subject", "host", "noted"), [("s1", "h2", True), ("gone", "h2", False), ("s1", "h9", False)])
def test_an_absence_counts_for_the_server_and_host_that_was_asked_about(subject: str, host: str, noted: bool) -> None:
    waiting = evacuating(held("h2", next_at=NOW + 99), server(ServerStage.MOVING, "s2"))
    question = asked(waiting, CommandKind.CHECK_ABSENT, subject=subject, host=host)
    now = after(answer(question, presence=Presence(present=False)))
    assert now.servers[0].absent_at == ({"h2": NOW} if noted else {})
    assert now.servers[1].absent_at == {}


@pytest.mark.parametrize(
    ("status", "presence", "reason"),
    [
        (Status.OK, Presence(present=True), "h2 has it"),
        (Status.OK, Presence(present=None), "h2 cannot say whether it has it"),
        (Status.OK, None, "h2 cannot say whether it has it"),
        (LOST, Presence(present=False), "h2 cannot say whether it has it"),
    ],
)
def test_anything_but_an_absence_begins_the_proof_anew(status: Status, presence: Presence | None, reason: str) -> None:
    waiting = evacuating(held("h2", "h3", next_at=NOW + 99, absent_at={"h2": 1.0, "h3": 2.0}))
    question = asked(waiting, CommandKind.CHECK_ABSENT, subject="s1", host="h2")
    now = after(answer(question, status=status, presence=presence)).servers[0]
    assert (now.absent_at, now.reason) == ({"h3": 2.0}, reason)


def test_the_second_absence_frees_of_one_host_and_the_first_is_dated_once() -> None:
    def look(first: float) -> ServerProgress:
        waiting = evacuating(held("h2", "h3", next_at=NOW + 99, absent_at={"h2": first}))
        question = asked(waiting, CommandKind.CHECK_ABSENT, subject="s1", host="h2")
        return after(answer(question, presence=Presence(present=False))).servers[0]

    assert look(NOW - API_S).wait_for == ("h3",)
    early = look(NOW - API_S + 0.1)
    assert (early.wait_for, early.absent_at) == (("h2", "h3"), {"h2": NOW - API_S + 0.1})


# --- launching ---


@pytest.mark.parametrize(
    ("window", "flying", "launched"), [(2.0, 0, 2), (2.9, 0, 2), (3.0, 0, 3), (3.0, 1, 2), (2.0, 2, 0), (2.0, 3, 0)]
)
def test_as_many_as_the_window_has_room_for(window: float, flying: int, launched: int) -> None:
    stages = (ServerStage.SENT, ServerStage.LOST, ServerStage.MOVING)
    busy = [server(stages[n], f"f{n}", next_at=NOW + 99) for n in range(flying)]
    waiting = [server(ServerStage.WAITING, f"w{n}") for n in range(3)]
    decision = tick(evacuating(*busy, *waiting, window=window))
    assert [c.subject for c in decision.commands if c.kind is CommandKind.EVACUATE] == [
        f"w{n}" for n in range(launched)
    ]


@pytest.mark.parametrize(("next_at", "goes"), [(NOW, True), (NOW + 1, False)])
def test_a_server_is_tried_again_at_its_time(next_at: float, goes: bool) -> None:
    decision = tick(evacuating(server(ServerStage.RETRY, attempts=1, next_at=next_at), evidence=CONFIRMED))
    assert (CommandKind.EVACUATE in sent(decision)) is goes
    if goes:
        assert "s1 is evacuated (attempt 2)" in lines(decision)
    else:
        assert after(decision).wake_at == NOW + 1


def test_an_intent_is_noted_before_it_is_sent() -> None:
    decision = tick(evacuating(server(ServerStage.WAITING, reason="x", baseline=5), committed_at=None))
    now = after(decision)
    (one,) = now.servers
    assert (one.stage, one.attempts, one.reason) == (ServerStage.SENT, 1, "")
    assert (now.committed_at, now.stage_at["first_evacuate"]) == (NOW, NOW)
    assert "s1 is evacuated" in lines(decision)
    assert "(attempt" not in lines(decision)
    assert [(d["server"], d["attempt"]) for d in told(decision, "server.evacuate.start")] == [("s1", 1)]
    later = tick(evacuating(server(ServerStage.WAITING), committed_at=NOW - 5))
    assert after(later).committed_at == NOW - 5


def test_nothing_is_moved_in_maintenance_and_the_block_ends_with_it() -> None:
    subject = evacuating(server(ServerStage.WAITING), wake_at=NOW)
    stopped = on(Tick(), subject, maintenance="new fans")
    assert (sent(stopped), after(stopped).wake_at) == ([], NOW + 1)
    assert "maintenance" in after(stopped).blocked
    freed = tick(after(stopped))
    assert after(freed).blocked == ""
    quiet = on(Tick(), evacuating(server(ServerStage.MOVING), wake_at=NOW), maintenance="new fans")
    assert after(quiet).blocked == "", "nothing is to be sent"


def test_no_intent_is_written_once_the_evidence_is_too_old() -> None:
    """Whoever asks for it."""
    old = evacuating(server(ServerStage.WAITING), evidence=proof(NOW - 30))
    turn = Turn(State(fleet=Fleet(armed=True), incidents={"i1": old}), POLICY, Now(at=NOW))
    assert evacuate.launch(turn, old).servers == old.servers
    assert turn.commands == []


# --- answers ---


@pytest.mark.parametrize(
    ("stage", "subject"), [(ServerStage.MOVING, "s1"), (ServerStage.LANDED, "s1"), (ServerStage.SENT, "gone")]
)
def test_an_answer_counts_only_for_what_was_sent(stage: ServerStage, subject: str) -> None:
    waiting = asked(evacuating(server(stage), server(ServerStage.MOVING, "s2")), CommandKind.EVACUATE, subject=subject)
    assert after(answer(waiting, status=Status.FAILED, error="x")).servers[0].stage is stage


def test_why_a_server_is_looked_at_again() -> None:
    waiting = asked(evacuating(server(ServerStage.SENT, attempts=1)), CommandKind.EVACUATE, subject="s1")
    decision = answer(waiting, status=LOST, error="reset")
    assert after(decision).servers[0].reason == "the answer was lost: reset"
    assert "s1: the answer was lost; looking again after 60 s" in lines(decision)
    assert after(decision).surveyed, "its record will tell"


@pytest.mark.parametrize(
    ("window", "poll_at", "expected"),
    [(8.0, NOW, (4.0, NOW + 2)), (3.0, NOW, (2.0, NOW + 2)), (2.0, NOW + 7, (2.0, NOW + 7))],
)
def test_a_failure_shrinks_the_window_and_the_host_is_looked_at_anew(
    window: float, poll_at: float, expected: tuple[float, float]
) -> None:
    one = server(ServerStage.SENT, attempts=2, dest="h2")
    waiting = asked(evacuating(one, window=window, poll_at=poll_at), CommandKind.EVACUATE, subject="s1")
    decision = answer(waiting, status=Status.FAILED, error="409")
    now = after(decision)
    assert (now.window, now.poll_at, now.surveyed) == (*expected, False)
    (again,) = now.servers
    assert (again.stage, again.reason, again.dest, again.next_at) == (ServerStage.RETRY, "409", "", NOW + 10)
    assert [(d["error"], d["retry_s"], d["attempt"]) for d in told(decision, "server.evacuate.error")] == [
        ("409", 10.0, 2)
    ]
    assert now.wake_at is not None
    assert now.wake_at <= NOW + 10


def test_a_short_pause_is_a_short_look() -> None:
    waiting = asked(evacuating(server(ServerStage.SENT), poll_at=NOW), CommandKind.EVACUATE, subject="s1")
    event = Finished(outcome=Outcome(command="asked", status=Status.FAILED, error="x"))
    now = after(on(event, waiting, rules=with_recovery(retry_min_s=1.0)))
    assert now.poll_at == NOW + 1


# --- following ---


@pytest.mark.parametrize(
    ("stage", "poll_at", "pending", "follows"),
    [
        (ServerStage.SENT, NOW, None, True),
        (ServerStage.LOST, NOW, None, True),
        (ServerStage.MOVING, NOW, None, True),
        (ServerStage.HELD, NOW, None, True),
        (ServerStage.RETRY, NOW, None, False),
        (ServerStage.MOVING, NOW + 1, None, False),
        (ServerStage.MOVING, NOW, CommandKind.FOLLOW, False),
        (ServerStage.MOVING, NOW, CommandKind.EVACUATE, True),
    ],
)
def test_when_the_evacuations_are_followed(
    stage: ServerStage, poll_at: float, pending: CommandKind | None, follows: bool
) -> None:
    subject = evacuating(server(stage, next_at=NOW + 99, wait_for=("h9",)), poll_at=poll_at)
    decision = tick(asked(subject, pending) if pending else subject)
    assert (CommandKind.FOLLOW in sent(decision)) is follows
    if poll_at > NOW:
        assert after(decision).wake_at == NOW + 1


def following(*servers: ServerProgress, **changes: object) -> Incident:
    return asked(replace(evacuating(*servers), **changes), CommandKind.FOLLOW)


@pytest.mark.parametrize(("status", "survey"), [(LOST, Survey()), (Status.FAILED, Survey()), (Status.OK, None)])
def test_a_query_that_failed_judges_nobody(status: Status, survey: Survey | None) -> None:
    gone = server(ServerStage.LOST, next_at=NOW)
    decision = answer(following(gone), status=status, survey=survey, error="500")
    assert after(decision).servers == (gone,)
    assert after(decision).waiting == "the evacuations cannot be followed: 500"
    assert (after(decision).poll_at, after(decision).wake_at) == (NOW + 2, NOW + 2)
    assert after(answer(following(gone, waiting="x"), survey=Survey())).waiting == ""


@pytest.mark.parametrize(
    ("was", "records", "looks", "looks_anew"),
    [
        ({}, (), 1, False),  # asked for before Nova took the request, perhaps
        ({"looks": 1}, (), 0, True),
        ({"record": 7}, (), 0, True),
        ({"record": 7, "baseline": 7}, (), 1, False),
        ({"record": 7, "baseline": 3}, (evacuation("failed", 3),), 0, True),
        ({"looks": 1}, (evacuation("done"),), 0, False),
        ({"looks": 1, "stage": ServerStage.SENT}, (), 1, False),
    ],
)
def test_a_server_whose_record_is_not_shown_is_looked_at_anew(
    was: dict[str, object], records: tuple[Migration, ...], looks: int, looks_anew: bool
) -> None:
    one = server(ServerStage.MOVING, attempts=1).with_(**was)
    now = after(answer(following(one, surveyed=True), survey=Survey(migrations=records)))
    assert (now.servers[0].looks, not now.surveyed) == (looks, looks_anew)


@pytest.mark.parametrize(("baseline", "expected"), [(6, ServerStage.MOVING), (7, ServerStage.NOT_MOVED)])
def test_an_older_record_is_not_that_of_its_move(baseline: int, expected: ServerStage) -> None:
    gone = server(ServerStage.MOVING, baseline=baseline)
    decision = answer(looking(gone, committed_at=NOW - 5), survey=Survey(migrations=(evacuation("failed", 7),)))
    assert after(decision).servers[0].stage is expected


@pytest.mark.parametrize(
    ("was", "status", "expected"),
    [
        # in flight, by its newest record
        ({}, "done", (ServerStage.LANDED, "", "h2")),
        ({}, "failed", (ServerStage.RETRY, "Nova ended its evacuation as failed", "")),
        ({}, "migrating", (ServerStage.MOVING, "Nova says migrating", "h2")),
        ({}, "", (ServerStage.MOVING, "", "")),
        ({"stage": ServerStage.SENT}, "done", (ServerStage.LANDED, "", "h2")),
        ({"stage": ServerStage.SENT}, "migrating", (ServerStage.SENT, "", "")),
        ({"stage": ServerStage.SENT}, "", (ServerStage.SENT, "", "")),
        # after a lost answer nothing is sent again before the longest request is over
        ({"stage": ServerStage.LOST, "next_at": NOW + 1}, "done", (ServerStage.LANDED, "", "h2")),
        ({"stage": ServerStage.LOST, "next_at": NOW + 1}, "failed", (ServerStage.LOST, "", "h2")),
        ({"stage": ServerStage.LOST, "next_at": NOW + 1}, "migrating", (ServerStage.LOST, "", "h2")),
        ({"stage": ServerStage.LOST, "next_at": NOW + 1}, "", (ServerStage.LOST, "", "")),
        ({"stage": ServerStage.LOST, "next_at": NOW}, "migrating", (ServerStage.MOVING, "Nova says migrating", "h2")),
        (
            {"stage": ServerStage.LOST, "next_at": NOW},
            "failed",
            (ServerStage.RETRY, "Nova ended its evacuation as failed", ""),
        ),
        ({"stage": ServerStage.LOST, "next_at": NOW}, "", (ServerStage.RETRY, "its request left no record", "")),
        # not in flight
        ({"stage": ServerStage.RETRY, "next_at": NOW + 9}, "done", (ServerStage.RETRY, "", "")),
        ({"stage": ServerStage.GIVEN_UP}, "done", (ServerStage.GIVEN_UP, "", "")),
    ],
)
def test_what_a_record_says_of_a_server(
    was: dict[str, object], status: str, expected: tuple[ServerStage, str, str]
) -> None:
    one = server(ServerStage.MOVING, attempts=1).with_(**was)
    busy = server(ServerStage.SENT, "s2")
    records = (evacuation(status),) if status else ()
    decision = answer(following(one, busy), survey=Survey(migrations=records))
    now = after(decision).servers[0]
    assert (now.stage, now.reason, now.dest) == expected
    if now.stage is ServerStage.RETRY and status == "failed":
        assert now.baseline == 7
    if now.stage is ServerStage.LANDED:
        assert "s1 is on h2" in lines(decision)
    if now.stage is ServerStage.LOST:
        assert after(decision).wake_at == (NOW + 1 if status else NOW + 2)


def test_what_has_not_changed_is_not_written_again() -> None:
    moving = Survey(migrations=(evacuation("migrating"),))
    same = after(answer(following(server(ServerStage.MOVING)), survey=moving)).servers[0]
    assert after(answer(following(same), survey=moving)).servers[0] is same
    known = server(ServerStage.LOST, next_at=NOW + 1, dest="h2")
    decision = answer(following(known), survey=Survey(migrations=(evacuation("migrating"),)))
    assert after(decision).servers[0] is known
    nowhere = answer(following(known), survey=Survey(migrations=(evacuation("accepted", dest=""),)))
    assert after(nowhere).servers[0].dest == "h2"


@pytest.mark.parametrize(
    ("age_s", "dest", "before", "void"),
    [
        (1.0, "", (), (7,)),
        (1.0, "h2", (3,), (3, 7)),
        (1.0, "h2", (7,), (7,)),
        (30.0, "", (), ()),
    ],
)
def test_a_lost_request_remembers_that_its_destination_was_off(
    age_s: float, dest: str, before: tuple[int, ...], void: tuple[int, ...]
) -> None:
    """That host may be back before the server may be tried again, and nothing would say then that the move had ended."""
    lost = server(ServerStage.LOST, next_at=NOW + 1, dest=dest, void=before)
    found = Survey(migrations=(evacuation("migrating"),))
    now = after(answer(following(lost), others=(proven(age_s=age_s),), survey=found)).servers[0]
    assert (now.stage, now.dest, now.void) == (ServerStage.LOST, "h2", void)


@pytest.mark.parametrize(
    ("stage", "dest", "age_s", "again"),
    [
        (ServerStage.MOVING, "h2", 1.0, True),
        (ServerStage.LOST, "h2", 1.0, True),
        (ServerStage.SENT, "h2", 1.0, False),
        (ServerStage.MOVING, "h2", 30.0, False),
        (ServerStage.MOVING, "h3", 1.0, False),
        (ServerStage.MOVING, "", 1.0, False),
    ],
)
def test_a_destination_that_is_off_ends_the_attempt(stage: ServerStage, dest: str, age_s: float, again: bool) -> None:
    one = server(stage, attempts=1)
    decision = answer(
        following(one), others=(proven(age_s=age_s),), survey=Survey(migrations=(evacuation("migrating", dest=dest),))
    )
    now = after(decision).servers[0]
    assert (now.stage is ServerStage.RETRY) is again
    if again:
        assert now.reason.startswith("its destination h2 ")
        assert now.baseline == 7


@pytest.mark.parametrize(("landed", "window", "grown"), [(1, 2.0, 3.0), (3, 2.0, 5.0), (3, 31.0, 32.0), (0, 2.0, 2.0)])
def test_what_lands_makes_the_window_wider_and_gives_the_others_time(landed: int, window: float, grown: float) -> None:
    servers = [server(ServerStage.MOVING, f"s{n}") for n in range(3)]
    records = tuple(replace(evacuation("done", n + 1), server=f"s{n}") for n in range(landed))
    decision = answer(following(*servers, window=window, settle_by=NOW + 5), survey=Survey(migrations=records))
    assert (after(decision).window, after(decision).settle_by) == (grown, NOW + (3600 if landed else 5))
    progress = told(decision, "host.evacuation.progress")
    assert [(d["moved"], d["in_flight"]) for d in progress] == ([(landed, 3 - landed)] if landed else [])


@pytest.mark.parametrize(
    ("status", "number", "expected"),
    [
        ("done", 7, (ServerStage.LANDED, "h2")),
        ("completed", 9, (ServerStage.LANDED, "h2")),
        ("done", 6, (ServerStage.HELD, "")),
        ("failed", 7, (ServerStage.WAITING, "")),
        ("failed", 8, (ServerStage.HELD, "")),
        ("failed", 6, (ServerStage.HELD, "")),
        ("migrating", 7, (ServerStage.HELD, "")),
        ("", 0, (ServerStage.HELD, "")),
    ],
)
def test_what_the_record_that_holds_a_server_says(status: str, number: int, expected: tuple[ServerStage, str]) -> None:
    one = held("h9", baseline=7, next_at=NOW + 99)
    full = server(ServerStage.SENT, "s2")
    records = (evacuation(status, number),) if status else ()
    decision = answer(following(one, full, window=1.0), survey=Survey(migrations=records))
    now = after(decision).servers[0]
    assert (now.stage, now.dest) == expected
    if now.stage is not ServerStage.HELD:
        assert (now.wait_for, now.reason) == ((), "")


# --- giving up ---


@pytest.mark.parametrize(
    ("settle_by", "released", "why"),
    [
        (NOW, "", "settle_after_s has passed; last: x"),
        (NOW + 0.1, "", None),
        (NOW + 0.1, "anna", "released by anna; last: x"),
        (NOW, "anna", "released by anna; last: x"),
    ],
)
def test_when_and_why_the_rest_is_given_up(settle_by: float, released: str, why: str | None) -> None:
    one = server(ServerStage.RETRY, reason="x", next_at=NOW + 99, wait_for=("h9",))
    subject = evacuating(one, server(ServerStage.SENT, "s2"), settle_by=settle_by, released=released)
    decision = tick(subject)
    now = after(decision).servers[0]
    assert (now.stage is ServerStage.GIVEN_UP) is (why is not None)
    if why:
        assert (now.reason, now.wait_for, now.dest) == (why, ("h9",), "")
        assert f"s1 is given up: {why}" in lines(decision)
    else:
        assert after(decision).wake_at == settle_by


@pytest.mark.parametrize(
    ("stage", "given_up"),
    [
        (ServerStage.WAITING, True),
        (ServerStage.HELD, True),
        (ServerStage.RETRY, True),
        (ServerStage.MOVING, False),
        (ServerStage.SENT, False),
        (ServerStage.LANDED, False),
        (ServerStage.STARTING, False),
        (ServerStage.VERIFIED, False),
        (ServerStage.NOT_MOVED, False),
    ],
)
def test_what_is_under_way_or_done_is_not_given_up(stage: ServerStage, given_up: bool) -> None:
    one = server(stage, dest="h2")
    decision = tick(evacuating(one, server(ServerStage.SENT, "s2"), settle_by=NOW))
    now = after(decision).servers[0]
    assert (now.stage is ServerStage.GIVEN_UP) is given_up
    if given_up:
        assert now.reason == f"settle_after_s has passed; last: {stage}"
    else:
        assert now == one


@pytest.mark.parametrize(("dest", "wait_for"), [("h2", ("h2",)), ("", ("h9",))])
def test_what_moves_is_given_up_by_a_person_alone(dest: str, wait_for: tuple[str, ...]) -> None:
    """It may yet start on its destination: slow is not failed."""
    one = server(ServerStage.MOVING, dest=dest, wait_for=("h9",))
    subject = evacuating(one, server(ServerStage.WAITING, "s2"), settle_by=NOW)
    late = after(tick(subject))
    assert [s.stage for s in late.servers] == [ServerStage.MOVING, ServerStage.GIVEN_UP]
    where = dest or "a host that Nova has not chosen yet"
    assert late.blocked == f"settle_after_s has passed, and Nova still moves s1 to {where}"
    assert late.release == "ha-agent release h1"
    released = after(tick(replace(subject, released="anna")))
    assert [s.stage for s in released.servers] == [ServerStage.GIVEN_UP, ServerStage.GIVEN_UP]
    assert (released.servers[0].wait_for, released.servers[0].dest) == (wait_for, "")
    assert "still moves" not in released.blocked


def test_a_lost_request_that_has_a_destination_may_yet_start_there() -> None:
    lost = server(ServerStage.LOST, dest="h2", next_at=NOW)
    now = after(tick(evacuating(lost, server(ServerStage.SENT, "s2"), settle_by=NOW))).servers[0]
    assert (now.stage, now.wait_for, now.dest) == (ServerStage.GIVEN_UP, ("h2",), "")


@pytest.mark.parametrize(("number", "more"), [(3, False), (4, True)])
def test_of_many_that_still_move_a_few_are_named(number: int, more: bool) -> None:
    moving = [server(ServerStage.MOVING, f"s{n}").with_(name="" if n else "web") for n in range(number)]
    blocked = after(tick(evacuating(*moving, settle_by=NOW))).blocked
    assert "moves web to" in blocked
    assert "s2 to" in blocked
    assert "s3 to" not in blocked
    assert blocked.endswith(" …") is more


@pytest.mark.parametrize(("next_at", "given_up"), [(NOW, True), (NOW + 0.1, False)])
def test_a_lost_request_is_given_up_when_it_can_have_no_effect_any_more(next_at: float, given_up: bool) -> None:
    decision = tick(evacuating(server(ServerStage.LOST, next_at=next_at), settle_by=NOW))
    assert (after(decision).servers[0].stage is ServerStage.GIVEN_UP) is given_up


@pytest.mark.parametrize(
    ("stage", "goes_on"),
    [
        (ServerStage.VERIFIED, True),
        (ServerStage.NOT_MOVED, True),
        (ServerStage.GIVEN_UP, True),
        (ServerStage.LANDED, True),
        (ServerStage.STARTING, True),
        (ServerStage.MOVING, False),
        (ServerStage.HELD, False),
        (ServerStage.RETRY, False),
    ],
)
def test_the_evacuation_ends_when_nothing_is_left_to_be_moved(stage: ServerStage, goes_on: bool) -> None:
    decision = tick(evacuating(server(stage, next_at=NOW + 99, wait_for=("h9",)), server(ServerStage.VERIFIED, "s2")))
    assert (after(decision).step is not Step.EVACUATE) is goes_on
    assert ("no server is left to be moved" in lines(decision)) is goes_on


def test_no_evacuation_is_launched_while_the_host_is_fenced_again() -> None:
    decision = tick(evacuating(server(ServerStage.WAITING), held("h2", next_at=0.0), evidence=proof(NOW - 30)))
    assert after(decision).step is Step.FENCE
    assert {CommandKind.EVACUATE, CommandKind.CHECK_ABSENT} & set(sent(decision)) == set()


# --- numbers ---


def test_the_numbers_add_up() -> None:
    subject = evacuating(*(server(s, s) for s in ServerStage))
    assert evacuate.counts(subject) == {"total": 11, "moved": 3, "in_flight": 3, "waiting": 3, "not_moved": 2}
    assert evacuate.count(subject) == "3 moved, 3 in flight, 3 waiting, 2 not moved"
    assert evacuate.count(evacuating()) == "none"
    for stage, number in (("landed", "moved"), ("lost", "in_flight"), ("held", "waiting"), ("given_up", "not_moved")):
        assert evacuate.counts(evacuating(server(ServerStage(stage))))[number] == 1


@pytest.mark.parametrize(("name", "said"), [("web", "web"), ("", "s1")])
def test_a_server_is_called_by_its_name_or_its_id(name: str, said: str) -> None:
    def text(stage: ServerStage, **changes: object) -> str:
        one = server(stage, next_at=0.0, attempts=1, wait_for=()).with_(name=name)
        return lines(tick(replace(evacuating(one, server(ServerStage.SENT, "s2"), window=9.0), **changes)))

    assert f"{said} is evacuated" in text(ServerStage.WAITING)
    assert f"{said} is free to be moved" in text(ServerStage.HELD)
    assert f"{said} is given up" in text(ServerStage.WAITING, settle_by=NOW)
    flying = server(ServerStage.SENT, attempts=1).with_(name=name)
    waiting = asked(evacuating(flying), CommandKind.EVACUATE, subject="s1")
    assert f"{said}: the answer was lost" in lines(answer(waiting, status=LOST))
    assert f"{said} was not moved" in lines(answer(waiting, status=Status.FAILED))
    landed = answer(following(flying), survey=Survey(migrations=(evacuation("done"),)))
    assert f"{said} is on h2" in lines(landed)
    stays = answer(looking(), survey=Survey(servers=(row(name=name, status="PAUSED"),)))
    assert f"{said} stays: " in lines(stays)


@pytest.mark.parametrize(
    ("stage", "prior", "taken"),
    [
        (ServerStage.LANDED, "ACTIVE", True),
        (ServerStage.STARTING, "ACTIVE", True),
        (ServerStage.MOVING, "ACTIVE", True),
        (ServerStage.LANDED, "", False),
        (ServerStage.VERIFIED, "ACTIVE", False),
        (ServerStage.GIVEN_UP, "ACTIVE", False),
    ],
)
def test_what_was_just_moved_here_is_to_be_what_it_was_before_that(stage: ServerStage, prior: str, taken: bool) -> None:
    """It landed stopped, and this host died before it was started: the recovery that moved it knows what it was."""
    mine = replace(evacuating(), servers=(), surveyed=False, committed_at=None)
    first = replace(evacuating(), id="i2", host="h3", subject="h3", servers=(server(stage, dest="h1", prior=prior),))
    listed = Survey(servers=(Server(id="s1", host="h1", status="SHUTOFF", tags=("automatic-recovery",)),))
    for other, counts in (
        (first, taken),
        (replace(first, phase=Phase.CLOSED), False),
        (replace(first, kind=Kind.GUEST), False),
        (replace(first, servers=(server(stage, "s9", dest="h1", prior="ERROR"), *first.servers)), taken),
    ):
        decision = answer(asked(mine, CommandKind.SURVEY), others=(other,), survey=listed)
        assert after(decision).servers[0].prior == ("ACTIVE" if counts else "SHUTOFF")
