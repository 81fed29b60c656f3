"""How a host is taken back: power, gate, flag, and the servers that are started where they are."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import Decision
from ha_agent.model import (
    Beat,
    Command,
    CommandKind,
    EvidenceKind,
    Finished,
    Health,
    Incident,
    Migration,
    Mode,
    Outcome,
    Power,
    Reading,
    Server,
    ServerProgress,
    ServerStage,
    Status,
    Step,
    Survey,
    Tick,
    Verdict,
)
from ha_agent.plans import FENCE_AND_TELL, GATE, IN_PLACE, RECOVER, RESTART, TELL, UNFORCE
from ha_agent.policy import Policy
from tests.unit.decide_support import (
    API_S,
    NOW,
    POLICY,
    after,
    answer,
    asked,
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


def tick(subject: Incident, *others: Incident, rules: Policy = POLICY) -> Decision:
    return on(Tick(), replace(subject, wake_at=NOW), *others, rules=rules)


def reading(power: Power, device: str = "bmc", error: str = "") -> Reading:
    return Reading(device=device, power=power, at=NOW, error=error)


def settled(**changes: object) -> Incident:
    """Everything was moved; the host is off."""
    fields: dict[str, object] = {"evidence": proof(), "settled": True, "forced": True, "committed_at": NOW - 50}
    return incident(Step.AWAIT_RETURN, RECOVER, **{**fields, **changes})


def back(**changes: object) -> Incident:
    """It is heard with a new boot."""
    fields: dict[str, object] = {"powered_on": True, "new_boot_id": "new", "nova_compute": Health.UP}
    return settled(**{**fields, **changes})


def looking(**changes: object) -> Incident:
    return asked(back(**changes), CommandKind.SURVEY)


def rows(*migrations: Migration, servers: tuple[str, ...] = ("s1",)) -> Survey:
    return Survey(servers=tuple(Server(id=s, name=s, host="h1") for s in servers), migrations=migrations)


# --- switching it on ---


def test_a_host_whose_servers_somebody_else_moves_stays_off_until_it_is_released() -> None:
    waiting = incident(Step.AWAIT_RETURN, FENCE_AND_TELL, evidence=proof(), committed_at=NOW - 50, mode=Mode.NOTIFY)
    held = tick(waiting)
    assert (sent(held), after(held).release) == ([], "ha-agent release h1")
    released = tick(replace(after(held), released="anna"))
    assert sent(released) == [CommandKind.POWER_ON]
    assert (after(released).settled, after(released).blocked) == (True, "")


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, [CommandKind.POWER_ON]),
        ({"powered_on": True}, []),
        ({"new_boot_id": "new", "clean": True}, []),
        ({"evidence": None}, []),
        ({"evidence": replace(proof(), kind=EvidenceKind.CONFIRMATION)}, []),
        ({"next_at": NOW}, [CommandKind.POWER_ON]),
        ({"next_at": NOW + 1}, []),
    ],
)
def test_when_a_host_is_switched_on(changes: dict[str, object], kinds: list[CommandKind]) -> None:
    decision = tick(settled(**changes))
    assert sent(decision) == kinds
    assert all(c.level == 0 for c in decision.commands)
    assert after(decision).wake_at == (NOW + 1 if changes.get("next_at") == NOW + 1 else None)


def test_the_level_that_switched_it_off_switches_it_on() -> None:
    decision = tick(settled(evidence=proof(level=1, device="pdu")))
    assert [(c.kind, c.level) for c in decision.commands] == [(CommandKind.POWER_ON, 1)]


def test_a_host_may_be_left_off() -> None:
    hosts = {n: replace(h, fencing=replace(h.fencing, power_on_after=False)) for n, h in POLICY.hosts.items()}
    assert sent(tick(settled(), rules=replace(POLICY, hosts=hosts))) == []


@pytest.mark.parametrize(
    ("pending", "kinds"),
    [
        (CommandKind.POWER_ON, []),
        (CommandKind.FENCE, []),
        (CommandKind.CANCEL_FENCE, []),
        (CommandKind.READ_POWER, [CommandKind.POWER_ON]),
    ],
)
def test_nothing_else_is_done_to_its_power_meanwhile(pending: CommandKind, kinds: list[CommandKind]) -> None:
    assert sent(tick(asked(settled(), pending))) == kinds


@pytest.mark.parametrize(
    ("status", "readings", "is_on"),
    [
        (Status.OK, (reading(Power.ON),), True),
        (Status.OK, (reading(Power.ON), reading(Power.OFF, "b")), False),
        (Status.OK, (), False),
        (Status.LOST, (reading(Power.ON),), False),
    ],
)
def test_a_host_is_on_when_all_its_devices_say_so(status: Status, readings: tuple[Reading, ...], is_on: bool) -> None:
    decision = answer(asked(settled(rounds=1), CommandKind.POWER_ON), status=status, readings=readings)
    now = after(decision)
    assert now.powered_on is is_on
    assert (now.rounds, now.next_at) == ((0, 0.0) if is_on else (2, NOW + 10))
    assert sent(decision) == []
    assert now.wake_at == (None if is_on else NOW + 10)


def test_why_it_could_not_be_switched_on_is_said() -> None:
    waiting = asked(settled(), CommandKind.POWER_ON)
    read = answer(waiting, readings=(reading(Power.UNKNOWN, error="no answer"),))
    assert "power on failed: bmc reads unknown no answer" in lines(read)
    failed = answer(waiting, status=Status.FAILED, error="401", readings=(reading(Power.UNKNOWN),))
    assert "power on failed: 401;" in lines(failed)


# --- looking at its migrations ---


@pytest.mark.parametrize(
    ("changes", "kinds", "wake_at"),
    [
        ({}, [CommandKind.SURVEY], None),
        ({"poll_at": NOW}, [CommandKind.SURVEY], None),
        ({"poll_at": NOW + 2}, [], NOW + 2),
        ({"new_boot_id": ""}, [], None),
        ({"clean": True}, [], None),
        ({"gate_ok": True, "poll_at": NOW + 2}, [CommandKind.OPEN_GATE], NOW + 2),
        ({"gate_ok": True, "clean": True}, [CommandKind.OPEN_GATE], None),
        ({"gate_ok": True, "cleared_boot_id": "new", "poll_at": NOW + 2}, [], NOW + 2),
        ({"clean": True, "cleared_boot_id": "new"}, [CommandKind.CLEAR_FORCE_DOWN], None),
    ],
)
def test_one_thing_after_the_other(changes: dict[str, object], kinds: list[CommandKind], wake_at: float | None) -> None:
    decision = tick(back(**changes))
    assert sent(decision) == kinds
    assert after(decision).wake_at == wake_at


def test_one_look_at_a_time() -> None:
    assert sent(tick(looking())) == []
    assert sent(tick(asked(back(), CommandKind.FOLLOW))) == [CommandKind.SURVEY]


@pytest.mark.parametrize(
    ("fields", "asks", "next_at"),
    [
        ({"wait_for": ("h2", "h3"), "next_at": NOW}, ["h2", "h3"], NOW + 15),
        ({"wait_for": ("h2",), "next_at": NOW + 1}, [], NOW + 1),
        ({"next_at": NOW}, [], NOW),
    ],
)
def test_the_destination_of_an_unfinished_record_is_asked(
    fields: dict[str, object], asks: list[str], next_at: float
) -> None:
    held = server(ServerStage.NOT_MOVED).with_(**fields)
    decision = tick(back(servers=(held,), poll_at=NOW + 9))
    assert [(c.subject, c.host) for c in decision.commands] == [("s1", h) for h in asks]
    assert after(decision).servers[0].next_at == next_at


def test_a_destination_is_asked_once_at_a_time() -> None:
    held = server(ServerStage.NOT_MOVED, wait_for=("h2", "h3"))
    waiting = asked(back(servers=(held,), poll_at=NOW + 9), CommandKind.CHECK_ABSENT, subject="s1", host="h2")
    assert [c.host for c in tick(waiting).commands] == ["h3"]


@pytest.mark.parametrize(
    ("record", "opens"),
    [
        ({}, False),
        ({"status": "error"}, True),
        ({"kind": "live-migration"}, True),
        ({"source": "h2", "dest": "h3"}, True),
        ({"server": "gone"}, True),
    ],
)
def test_which_record_keeps_the_gate_shut(record: dict[str, object], opens: bool) -> None:
    unfinished = replace(evacuation("pre-migrating"), **record)
    now = after(answer(looking(), survey=rows(unfinished)))
    assert now.gate_ok is opens


@pytest.mark.parametrize(
    ("status", "survey"),
    [(Status.OK, None), (Status.LOST, rows()), (Status.FAILED, None)],
)
def test_a_look_that_failed_says_nothing(status: Status, survey: Survey | None) -> None:
    decision = answer(looking(), status=status, survey=survey, error="500")
    assert not after(decision).gate_ok
    assert after(decision).waiting == "its migrations cannot be listed: 500"
    assert (after(decision).poll_at, after(decision).wake_at) == (NOW + 2, NOW + 2)


def test_a_destination_that_is_proven_off_holds_nothing() -> None:
    off = incident(Step.FORCE_DOWN, id="i2", host="h2", subject="h2", evidence=proof(), next_at=NOW + 9)
    now = after(answer(looking(), others=(off,), survey=rows(evacuation("pre-migrating"))))
    assert now.gate_ok


@pytest.mark.parametrize(
    ("fields", "opens"),
    [
        ({"baseline": 7, "absent_at": {"h2": 1.0}}, True),
        ({"baseline": 6, "absent_at": {"h2": 1.0}}, False),
        ({"baseline": 7, "absent_at": {"h2": 1.0}, "wait_for": ("h2",)}, False),
        ({"baseline": 7, "absent_at": {"h3": 1.0}}, False),
    ],
)
def test_a_destination_that_reported_the_domain_absent_twice_holds_nothing(
    fields: dict[str, object], opens: bool
) -> None:
    moved = (server(ServerStage.MOVING, "s0", baseline=7), server(ServerStage.GIVEN_UP).with_(**fields))
    now = after(answer(looking(servers=moved), survey=rows(evacuation("pre-migrating"))))
    assert now.gate_ok is opens


def test_what_is_asked_of_the_destination_begins_with_its_record() -> None:
    old = server(ServerStage.GIVEN_UP, baseline=3, wait_for=("h3",), absent_at={"h3": 1.0}, next_at=NOW + 99)
    decision = answer(looking(servers=(old,)), survey=rows(evacuation("pre-migrating")))
    (one,) = after(decision).servers
    assert (one.baseline, one.wait_for, one.absent_at, one.stage) == (7, ("h2",), {}, ServerStage.GIVEN_UP)
    assert [(c.kind, c.host) for c in decision.commands] == [(CommandKind.CHECK_ABSENT, "h2")]
    waiting = one.with_(absent_at={"h2": NOW - 9}, next_at=NOW + 5)
    (same,) = after(answer(looking(servers=(waiting,)), survey=rows(evacuation("pre-migrating")))).servers
    assert same == waiting, "not begun anew at each look"


def test_an_evacuation_by_somebody_else_is_named_in_the_incident() -> None:
    other = server(ServerStage.VERIFIED, "s0")
    now = after(answer(looking(servers=(other,)), survey=rows(evacuation("pre-migrating"))))
    assert [(s.id, s.stage) for s in now.servers] == [("s0", ServerStage.VERIFIED), ("s1", ServerStage.NOT_MOVED)]
    assert now.servers[1].wait_for == ("h2",)


@pytest.mark.parametrize("released", ["", "anna"])
@pytest.mark.parametrize("dests", [("h2",), ("",), ("", "h2"), ("h2", "")])
def test_nobody_releases_what_a_destination_may_still_start(dests: tuple[str, ...], released: str) -> None:
    """S3: a release ends our waiting, not Nova's work. Only the override of the gate, by hand and audited, does without the proof."""
    records = tuple(replace(evacuation("accepted", n, d), server=f"s{n}") for n, d in enumerate(dests))
    subject = looking(released=released, stage_at={"settled": NOW - 2 * API_S}, gate_ok=True, clean=True)
    now = after(answer(subject, survey=rows(*records, servers=("s0", "s1"))))
    assert (now.gate_ok, now.clean) == (False, False)
    assert "remote gate --override --reason" in now.release
    assert [s.wait_for for s in now.servers if not dests[int(s.id[1])]] == [() for d in dests if not d]


@pytest.mark.parametrize(("since", "blocked"), [(2 * API_S, True), (2 * API_S - 0.1, False)])
def test_what_holds_the_gate_is_called_a_block_when_it_outlasts_two_requests(since: float, blocked: bool) -> None:
    now = after(answer(looking(stage_at={"settled": NOW - since}), survey=rows(evacuation("accepted"))))
    assert bool(now.blocked) is blocked
    assert now.waiting == "unfinished evacuations: s1 to h2"


@pytest.mark.parametrize(("blocked", "kept"), [("unfinished evacuations: s1 to h2", ""), ("disarmed", "disarmed")])
def test_the_block_ends_with_its_reason(blocked: str, kept: str) -> None:
    now = after(answer(looking(blocked=blocked, cleared_boot_id="new", nova_compute=Health.DOWN), survey=rows()))
    assert now.blocked == kept


@pytest.mark.parametrize(
    ("record", "cleared", "health", "waiting"),
    [
        ("done", "new", Health.UP, "nova-compute to clean up 1 evacuated server"),
        ("completed", "old", Health.UP, "the gate to open"),
        ("completed", "new", Health.DOWN, "nova-compute, which is down"),
        ("completed", "new", Health.UNKNOWN, "nova-compute, which is unknown"),
    ],
)
def test_what_is_waited_for_after_the_gate(record: str, cleared: str, health: Health, waiting: str) -> None:
    subject = looking(cleared_boot_id=cleared, nova_compute=health)
    now = after(answer(subject, survey=rows(evacuation(record))))
    assert (now.gate_ok, now.clean, now.waiting) == (True, False, waiting)


def test_only_evacuated_servers_are_cleaned_up() -> None:
    moved_away = replace(evacuation("done"), kind="migration")
    back_and_open = looking(cleared_boot_id="new")
    assert sent(answer(back_and_open, survey=rows(moved_away))) == [CommandKind.CLEAR_FORCE_DOWN]


# --- the gate ---


@pytest.mark.parametrize(
    ("next_at", "kinds", "wake_at"),
    [(NOW, [CommandKind.OPEN_GATE], None), (NOW + 1, [], NOW + 1)],
)
def test_the_word_for_the_gate_is_repeated_at_its_time(
    next_at: float, kinds: list[CommandKind], wake_at: float | None
) -> None:
    decision = tick(back(gate_ok=True, clean=True, next_at=next_at))
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)
    assert [c.boot_id for c in decision.commands] == ["new" for _ in kinds]


def test_the_gate_gets_one_word_at_a_time() -> None:
    assert sent(tick(asked(back(gate_ok=True, clean=True), CommandKind.OPEN_GATE))) == []


def test_a_gate_is_open_when_its_remote_said_so() -> None:
    opening = asked(back(gate_ok=True, poll_at=NOW + 9), CommandKind.OPEN_GATE, boot_id="new")
    opened = answer(opening)
    assert (after(opened).cleared_boot_id, opened.state.hosts["h1"].cleared_boot_id) == ("new", "new")
    assert after(opened).stage_at["gate"] == NOW
    for status in (Status.LOST, Status.FAILED):
        failed = answer(opening, status=status, error="no route")
        assert (after(failed).cleared_boot_id, after(failed).next_at, after(failed).wake_at) == ("", NOW + 1, NOW + 1)
        assert after(failed).waiting == "the gate could not be opened: no route"
        assert sent(failed) == []


# --- a plan that fences nothing ---


def alarmed(**changes: object) -> Incident:
    return replace(incident(Step.AWAIT_RETURN, TELL, verdict=Verdict.PARTITIONED), **changes)


@pytest.mark.parametrize(
    ("verdict", "release"),
    [(Verdict.UNKNOWN, "ha-agent fence h1"), (Verdict.PARTITIONED, ""), (Verdict.NEVER_SEEN, "")],
)
def test_where_too_little_is_known_a_person_may_know_better(verdict: Verdict, release: str) -> None:
    now = after(tick(replace(alarmed(), verdict=verdict, blocked="too little is known: before", release="x")))
    assert now.release == release
    assert now.waiting.startswith("the host to be heard ")
    assert ("for the first time" in now.waiting) is (verdict is Verdict.NEVER_SEEN)


@pytest.mark.parametrize(
    ("new", "cleared", "kinds"),
    [
        ("new", "old", [CommandKind.OPEN_GATE]),
        ("new", "new", []),
        ("", "old", []),
    ],
)
def test_an_alarm_ends_when_the_host_is_heard_and_a_new_boot_first_gets_its_gate_opened(
    new: str, cleared: str, kinds: list[CommandKind]
) -> None:
    decision = tick(alarmed(beat_at=NOW, new_boot_id=new, cleared_boot_id=cleared))
    assert sent(decision) == kinds
    assert bool(told(decision, "incident.closed")) is not bool(kinds)


def test_the_end_is_named_after_what_was_waited_for() -> None:
    assert "closed: the host is heard again" in lines(tick(alarmed(beat_at=NOW)))
    gate = incident(Step.AWAIT_RETURN, GATE, verdict=Verdict.ALIVE, beat_at=NOW)
    assert "closed: the gate is open" in lines(tick(gate))


# --- clearing the flag ---


def unfencing(**changes: object) -> Incident:
    fields: dict[str, object] = {"settled": True, "forced": True, "new_boot_id": "new"}
    return replace(incident(Step.UNFENCE), **{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "pending", "kinds", "wake_at"),
    [
        ({}, None, [CommandKind.CLEAR_FORCE_DOWN], None),
        ({}, CommandKind.CLEAR_FORCE_DOWN, [], None),
        ({}, CommandKind.FORCE_DOWN, [], None),
        ({}, CommandKind.SURVEY, [CommandKind.CLEAR_FORCE_DOWN], None),
        ({"next_at": NOW}, None, [CommandKind.CLEAR_FORCE_DOWN], None),
        ({"next_at": NOW + 1}, None, [], NOW + 1),
    ],
)
def test_when_the_flag_is_cleared(
    changes: dict[str, object], pending: CommandKind | None, kinds: list[CommandKind], wake_at: float | None
) -> None:
    subject = unfencing(**changes)
    decision = tick(asked(subject, pending) if pending else subject)
    assert (sent(decision), after(decision).wake_at) == (kinds, wake_at)
    assert told(decision, "incident.closed") == []


def test_without_the_flag_the_incident_is_over() -> None:
    decision = tick(unfencing(forced=False))
    assert sent(decision) == []
    assert [d["outcome"] for d in told(decision, "incident.closed")] == ["the host is back"]


def test_nova_that_does_not_take_the_host_back_is_asked_again() -> None:
    decision = answer(
        asked(unfencing(clean=True, rounds=1), CommandKind.CLEAR_FORCE_DOWN), status=Status.LOST, error="x"
    )
    now = after(decision)
    assert (now.forced, now.rounds, now.next_at, now.wake_at, now.clean) == (True, 2, NOW + 10, NOW + 10, False)
    assert now.waiting == "forced_down could not be cleared: x"
    assert told(decision, "host.returned") == []


def test_a_host_without_a_new_boot_returns_with_the_one_it_had() -> None:
    subject = incident(Step.UNFENCE, UNFORCE, forced=True, verdict=Verdict.ALIVE)
    decision = answer(asked(subject, CommandKind.CLEAR_FORCE_DOWN))
    assert [d["boot_id"] for d in told(decision, "host.returned")] == ["old"]
    assert (after(decision).forced, after(decision).stage_at["unfenced"]) == (False, NOW)


@pytest.mark.parametrize(
    ("forced", "status", "still"),
    [(True, Status.OK, False), (True, Status.FAILED, True), (True, Status.LOST, True), (False, Status.LOST, False)],
)
def test_an_answer_that_comes_after_the_next_failure_only_says_what_nova_knows(
    forced: bool, status: Status, still: bool
) -> None:
    again = asked(incident(Step.FENCE, forced=forced, next_at=NOW + 9), CommandKind.CLEAR_FORCE_DOWN)
    decision = answer(again, status=status)
    assert (after(decision).step, after(decision).forced) == (Step.FENCE, still)
    assert told(decision, "host.returned") == []


@pytest.mark.parametrize(
    ("fields", "is_settled", "stage"),
    [
        ({}, True, ServerStage.WAITING),
        ({"wait_for": ("h2",)}, True, ServerStage.HELD),
        ({"dest": "h2"}, True, None),
        ({"prior": "SHUTOFF"}, True, None),
        ({"stage": ServerStage.NOT_MOVED}, True, None),
        ({}, False, None),
    ],
)
def test_which_servers_are_started_in_place_when_the_host_is_back(
    fields: dict[str, object], is_settled: bool, stage: ServerStage | None
) -> None:
    left = server(ServerStage.GIVEN_UP, looks=2, next_at=NOW + 99).with_(**fields)
    moved = server(ServerStage.VERIFIED, "s2", dest="h2")
    subject = unfencing(forced=False, servers=(left, moved), settled=is_settled, released="anna", cleared_boot_id="new")
    decision = tick(subject)
    now = after(decision)
    if stage is None:
        assert told(decision, "incident.closed")
        return
    assert (now.plan, now.step, now.released, now.surveyed) == (IN_PLACE, Step.RESTART, "", True)
    assert now.settle_by == NOW + 3600.0
    assert [(s.id, s.stage) for s in now.servers] == [("s2", ServerStage.VERIFIED), ("s1", stage)]
    assert (now.servers[1].looks, now.servers[1].next_at) == (0, 0.0)


# --- starting in place ---


def restarting(*servers: ServerProgress, **changes: object) -> Incident:
    fields: dict[str, object] = {
        "surveyed": True,
        "new_boot_id": "new",
        "cleared_boot_id": "new",
        "nova_compute": Health.UP,
        "settle_by": NOW + 100,
        "servers": servers,
    }
    return incident(Step.RESTART, RESTART, verdict=Verdict.REBOOTED, **{**fields, **changes})


def listed(**fields: object) -> Survey:
    return Survey(servers=(replace(Server(id="s1", name="s1", host="h1", status="ACTIVE"), **fields),))


def test_what_was_started_dies_with_one_more_reboot_and_is_started_again() -> None:
    """What was moved to another host, or was never to be started, stays as it is."""
    done = server(ServerStage.VERIFIED)
    busy = server(ServerStage.STARTING, "s2", looks=2, next_at=NOW + 9)
    moved = server(ServerStage.VERIFIED, "s3", dest="h3")
    left = server(ServerStage.NOT_MOVED, "s4")
    for step in (Step.RESTART, Step.VERIFY):
        subject = replace(restarting(done, busy, moved, left), position=RESTART.index(step), verdict=Verdict.REBOOTED)
        now = after(on(Beat(host="h1", boot_id="newer"), subject))
        assert [s.stage for s in now.servers] == [
            ServerStage.WAITING,
            ServerStage.WAITING,
            ServerStage.VERIFIED,
            ServerStage.NOT_MOVED,
        ]
        assert (now.step, now.new_boot_id, now.settle_by) == (Step.RESTART, "newer", NOW + 3600.0)
        assert (now.servers[1].looks, now.servers[1].next_at) == (0, 0.0)
        same = after(on(Beat(host="h1", boot_id="new"), subject))
        assert same.servers[0].stage is ServerStage.VERIFIED


def test_a_gate_that_could_not_be_opened_for_a_restart_is_tried_again_in_a_second() -> None:
    opening = asked(restarting(server(ServerStage.WAITING), cleared_boot_id=""), CommandKind.OPEN_GATE, boot_id="new")
    now = after(answer(opening, status=Status.LOST, error="no route"))
    assert (now.next_at, now.waiting) == (NOW + 1, "the gate could not be opened: no route")


def test_first_it_is_remembered_what_ran() -> None:
    decision = tick(restarting(surveyed=False, cleared_boot_id="", settle_by=None))
    assert sent(decision) == [CommandKind.SURVEY]
    assert after(decision).settle_by == NOW + 3600.0
    assert after(tick(restarting(surveyed=False))).settle_by == NOW + 100


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"cleared_boot_id": ""}, [CommandKind.OPEN_GATE]),
        ({}, [CommandKind.SURVEY]),
        ({"new_boot_id": "", "cleared_boot_id": ""}, [CommandKind.SURVEY]),
        ({"new_boot_id": "", "cleared_boot_id": "old", "next_at": NOW + 9}, [CommandKind.SURVEY]),
        ({"nova_compute": Health.DOWN}, []),
        ({"nova_compute": Health.UNKNOWN}, []),
        ({"poll_at": NOW}, [CommandKind.SURVEY]),
        ({"poll_at": NOW + 1}, []),
    ],
)
def test_then_the_gate_opens_and_nova_is_looked_at(changes: dict[str, object], kinds: list[CommandKind]) -> None:
    assert sent(tick(restarting(server(ServerStage.WAITING), **changes))) == kinds


def test_nothing_is_left_to_be_started() -> None:
    done = [server(s, s) for s in (ServerStage.VERIFIED, ServerStage.NOT_MOVED, ServerStage.GIVEN_UP)]
    decision = tick(restarting(*done))
    assert "what ran before runs again" in lines(decision)
    assert told(decision, "incident.closed")


@pytest.mark.parametrize(
    ("settle_by", "released", "given_up"),
    [(NOW, "", True), (NOW + 0.1, "", False), (NOW + 0.1, "anna", True)],
)
def test_what_does_not_start_in_time_is_named(settle_by: float, released: str, given_up: bool) -> None:
    servers = (server(ServerStage.STARTING), server(ServerStage.HELD, "s2", reason="h2 may have it", wait_for=("h9",)))
    decision = tick(restarting(*servers, settle_by=settle_by, released=released))
    now = after(decision)
    assert all((s.stage is ServerStage.GIVEN_UP) is given_up for s in now.servers)
    if given_up:
        assert [s.reason for s in now.servers] == ["it did not start in time", "h2 may have it"]


@pytest.mark.parametrize(("number", "more"), [(1, False), (3, False), (4, True)])
def test_what_must_be_proven_first_is_named(number: int, more: bool) -> None:
    held = [
        server(ServerStage.HELD, f"s{n}", reason="h2 may have it", wait_for=("h2",), next_at=NOW + 9)
        for n in range(number)
    ]
    now = after(tick(restarting(*held, server(ServerStage.STARTING, "other"))))
    assert now.waiting.startswith("proof that these do not run elsewhere: s0 (h2 may have it)")
    assert ("…" in now.waiting) is more
    assert "other" not in now.waiting
    assert after(tick(restarting(server(ServerStage.STARTING), waiting="x"))).waiting == ""


@pytest.mark.parametrize("status", [Status.LOST, Status.FAILED])
def test_a_listing_that_failed_starts_nothing(status: Status) -> None:
    subject = asked(restarting(server(ServerStage.WAITING)), CommandKind.SURVEY)
    for survey in (listed(), None):
        decision = answer(subject, status=status, survey=survey, error="500")
        assert sent(decision) == []
        assert (after(decision).poll_at, after(decision).wake_at) == (NOW + 2, NOW + 2)
    assert sent(answer(subject, survey=None)) == []


def test_of_what_ran_only_what_is_protected_is_started() -> None:
    servers = (
        Server(id="s1", name="one", host="h1", status="ACTIVE"),
        Server(id="s2", name="two", host="h1", status="SHUTOFF"),
        Server(id="s3", name="three", host="h1", status="ACTIVE", tags=("no-recovery",)),
        Server(id="s4", name="four", host="h1", status="SHUTOFF"),
        Server(id="s5", name="five", host="h1", status="ACTIVE"),
        Server(id="s6", name="six", host="h1", status="ACTIVE"),
        Server(id="s7", name="seven", host="h1", status="ACTIVE"),
    )
    known = (
        server(ServerStage.WAITING, "s4"),  # it was ACTIVE before an earlier failure
        server(ServerStage.WAITING, "s5", prior="SHUTOFF"),
        server(ServerStage.VERIFIED, "s6", dest="kept"),
    )
    subject = asked(restarting(*known, surveyed=False, cleared_boot_id=""), CommandKind.SURVEY)
    decision = answer(subject, survey=Survey(servers=servers))
    now = after(decision)
    assert [(s.id, s.stage, s.prior) for s in now.servers] == [
        ("s1", ServerStage.WAITING, "ACTIVE"),
        ("s3", ServerStage.NOT_MOVED, "ACTIVE"),
        ("s4", ServerStage.WAITING, "ACTIVE"),
        ("s6", ServerStage.VERIFIED, "ACTIVE"),
        ("s7", ServerStage.WAITING, "ACTIVE"),
    ]
    assert now.servers[3].dest == "kept", "it was started in this very boot"
    assert now.servers[1].reason
    assert now.surveyed
    assert "3 protected servers ran here" in lines(decision)
    assert "three stays" in lines(decision)
    assert sent(decision) == [CommandKind.OPEN_GATE]


def test_nothing_is_started_before_the_gate_is_open() -> None:
    shut = asked(restarting(server(ServerStage.WAITING), cleared_boot_id="old"), CommandKind.SURVEY)
    assert CommandKind.REBOOT not in sent(answer(shut, survey=listed()))
    no_gate = asked(restarting(server(ServerStage.WAITING), cleared_boot_id="", new_boot_id=""), CommandKind.SURVEY)
    assert CommandKind.REBOOT in sent(answer(no_gate, survey=listed()))
    stale = restarting(server(ServerStage.WAITING), cleared_boot_id="old", new_boot_id="", next_at=NOW + 9)
    assert CommandKind.REBOOT in sent(answer(asked(stale, CommandKind.SURVEY), survey=listed()))


@pytest.mark.parametrize(
    ("fields", "dest", "stage"),
    [
        ({}, "h2", ServerStage.HELD),
        ({"absent_at": {"h2": 1.0}}, "h2", ServerStage.STARTING),
        ({"absent_at": {"h3": 1.0}}, "h2", ServerStage.HELD),
        ({"stage": ServerStage.STARTING}, "h2", ServerStage.VERIFIED),
        ({"stage": ServerStage.HELD, "wait_for": ("h3",)}, "h2", ServerStage.HELD),
        ({"stage": ServerStage.VERIFIED}, "h2", ServerStage.VERIFIED),
        ({"stage": ServerStage.NOT_MOVED}, "h2", ServerStage.NOT_MOVED),
    ],
)
def test_what_may_run_elsewhere_is_not_started(fields: dict[str, object], dest: str, stage: ServerStage) -> None:
    """S1: the other side of a move that never ended."""
    half_moved = Migration(id=3, server="s1", kind="live-migration", status="running", source="h1", dest=dest)
    one = server(ServerStage.WAITING).with_(**fields)
    subject = asked(restarting(one, server(ServerStage.STARTING, "s2", next_at=NOW + 9)), CommandKind.SURVEY)
    decision = answer(subject, survey=replace(listed(), migrations=(half_moved,)))
    (now, _) = after(decision).servers
    assert now.stage is stage
    if stage is ServerStage.HELD and not fields.get("wait_for"):
        assert (now.wait_for, now.reason) == (("h2",), "an unfinished migration names h2")
    assert (CommandKind.REBOOT in sent(decision)) is (stage is ServerStage.STARTING and "next_at" not in fields)


@pytest.mark.parametrize(
    ("was", "row", "stage", "kinds"),
    [
        ({}, {}, ServerStage.STARTING, [CommandKind.REBOOT]),
        ({}, {"status": "SHUTOFF"}, ServerStage.STARTING, [CommandKind.START]),
        ({}, {"status": "ERROR"}, ServerStage.STARTING, [CommandKind.REBOOT]),
        ({}, {"task_state": "rebooting"}, ServerStage.WAITING, []),
        ({"next_at": NOW + 1}, {}, ServerStage.WAITING, []),
        ({"next_at": NOW}, {}, ServerStage.STARTING, [CommandKind.REBOOT]),
        ({"stage": ServerStage.STARTING}, {}, ServerStage.VERIFIED, []),
        ({"stage": ServerStage.STARTING}, {"power_state": 1}, ServerStage.VERIFIED, []),
        ({"stage": ServerStage.STARTING}, {"power_state": 4}, ServerStage.STARTING, [CommandKind.REBOOT]),
        ({"stage": ServerStage.STARTING}, {"status": "SHUTOFF"}, ServerStage.STARTING, [CommandKind.START]),
        ({"stage": ServerStage.STARTING, "next_at": NOW + 1}, {"status": "SHUTOFF"}, ServerStage.STARTING, []),
    ],
)
def test_how_a_server_is_started(
    was: dict[str, object], row: dict[str, object], stage: ServerStage, kinds: list[CommandKind]
) -> None:
    """What Nova lists as ACTIVE right after a reboot is a memory."""
    one = server(ServerStage.WAITING).with_(**was)
    busy = server(ServerStage.STARTING, "s2", next_at=NOW + 99)
    decision = answer(asked(restarting(one, busy), CommandKind.SURVEY), survey=listed(**row))
    (now, _) = after(decision).servers
    assert now.stage is stage
    assert sent(decision) == kinds
    assert len(told(decision, "guest.recovery.start")) == len(kinds)
    assert len(told(decision, "guest.recovery.end")) == (stage is ServerStage.VERIFIED)
    if kinds:
        assert now.next_at == NOW + 30


@pytest.mark.parametrize(("name", "said"), [("web", "web"), ("", "s1")])
def test_a_server_is_called_by_its_name_or_its_id(name: str, said: str) -> None:
    one = server(ServerStage.WAITING).with_(name=name)
    decision = answer(asked(restarting(one), CommandKind.SURVEY), survey=listed())
    assert f"{said} is started in place" in lines(decision)


@pytest.mark.parametrize(("subject", "starts"), [("s1", False), ("s2", True)])
def test_a_request_that_is_not_answered_is_not_repeated(subject: str, starts: bool) -> None:
    looking = asked(restarting(server(ServerStage.WAITING)), CommandKind.SURVEY)
    command: Command = replace(looking.pending[0], id="other", kind=CommandKind.START, subject=subject)
    waiting = replace(looking, pending=(*looking.pending, command))
    assert (CommandKind.REBOOT in sent(answer(waiting, survey=listed()))) is starts


@pytest.mark.parametrize(
    ("looks", "stage"), [(0, ServerStage.WAITING), (1, ServerStage.WAITING), (2, ServerStage.NOT_MOVED)]
)
def test_a_server_is_gone_when_three_listings_lack_it(looks: int, stage: ServerStage) -> None:
    subject = asked(restarting(server(ServerStage.WAITING, looks=looks)), CommandKind.SURVEY)
    (now,) = after(answer(subject, survey=Survey())).servers
    assert now.stage is stage
    assert now.looks == (looks + 1 if stage is ServerStage.WAITING else looks)


def test_nothing_is_started_in_maintenance_and_the_block_ends_with_it() -> None:
    subject = asked(restarting(server(ServerStage.WAITING)), CommandKind.SURVEY)
    event = Finished(outcome=Outcome(command="asked", status=Status.OK, survey=listed()))
    held = on(event, subject, maintenance="new fans")
    assert sent(held) == []
    assert "maintenance" in after(held).blocked
    assert after(held).wake_at == NOW + 1
    freed = on(event, replace(subject, blocked=after(held).blocked, release="x"))
    assert (sent(freed), after(freed).blocked) == ([CommandKind.REBOOT], "")


def test_the_time_for_a_restart_is_policy_s_and_set_once() -> None:
    rules = with_recovery(settle_after_s=10.0)
    assert after(tick(restarting(surveyed=False, settle_by=None), rules=rules)).settle_by == NOW + 10


@pytest.mark.parametrize("kind", [CommandKind.POWER_ON, CommandKind.OPEN_GATE])
def test_what_was_to_take_the_host_back_does_not_delay_its_next_fence(kind: CommandKind) -> None:
    fencing = asked(incident(Step.FENCE, verdict_at=NOW), kind, boot_id="new")
    now = after(answer(fencing, status=Status.FAILED, error="not sent: the incident is at fence again"))
    assert (now.next_at, now.rounds, now.waiting) == (fencing.next_at, fencing.rounds, fencing.waiting)
