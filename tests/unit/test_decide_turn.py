"""The one place where an incident changes: what is logged, what is told, and what a new plan forgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ha_agent.decide.turn import Turn
from ha_agent.guards import Refusal
from ha_agent.model import (
    CommandKind,
    Fleet,
    HostRecord,
    Incident,
    Mode,
    Now,
    Phase,
    ServerProgress,
    ServerStage,
    State,
    Step,
    Tick,
    Verdict,
)
from ha_agent.plans import GATE, RECOVER, RESTART, TELL
from tests.unit.decide_support import NOW, POLICY, incident, off, proof, server

replace = msgspec.structs.replace


def a_turn(*incidents: Incident, **rules: Any) -> Turn:
    state = State(fleet=Fleet(armed=True, epoch=3), incidents={i.id: i for i in incidents})
    return Turn(state, replace(POLICY, **rules), Now(at=NOW, wall=7.0))


def types(turn: Turn) -> list[str]:
    return [t.event_type for t in turn.told]


def test_a_change_without_a_line_leaves_no_entry() -> None:
    turn = a_turn()
    assert turn.put(incident(Step.FENCE), rounds=1).history == ()
    changed = turn.put(incident(Step.FENCE), "a reason", actor="anna")
    assert [(e.text, e.actor, e.at, e.wall, e.step) for e in changed.history] == [
        ("a reason", "anna", NOW, 7.0, Step.FENCE)
    ]
    assert turn.lines == ["h1 [fence] a reason"]


def test_of_a_long_history_the_oldest_entries_go_and_are_counted() -> None:
    turn = a_turn(history_max=3)
    one = incident(Step.FENCE)
    for n in range(5):
        one = turn.put(one, str(n))
    assert ([e.text for e in one.history], one.dropped_history) == (["2", "3", "4"], 2)


def test_a_notification_on_an_incident_says_which_and_a_gate_is_quiet() -> None:
    turn = a_turn()
    turn.tell("host.down", incident(Step.FENCE))
    assert turn.told[0].data["incident"] == "i1"
    turn.tell("host.down", incident(Step.AWAIT_RETURN, GATE))
    assert types(turn) == ["host.down"]


def test_a_stage_is_noted_when_it_is_first_reached() -> None:
    turn = a_turn()
    assert turn.mark(incident(Step.FENCE), "fence").stage_at == {"fence": NOW}
    before = incident(Step.FENCE, stage_at={"fence": 1.0})
    assert turn.mark(before, "fence").stage_at == {"fence": 1.0}


def test_a_command_is_of_its_host_unless_said_otherwise() -> None:
    turn = a_turn()
    after, command = turn.send(incident(Step.FENCE), CommandKind.FENCE)
    assert (command.subject, command.host, command.epoch, command.attempt) == ("h1", "h1", 3, 1)
    again, other = turn.send(after, CommandKind.CHECK_ABSENT, "s1", host="h2")
    assert (other.subject, other.host, other.attempt) == ("s1", "h2", 2)
    assert again.pending == (command, other)
    assert command.id != other.id


def test_waiting_is_said_when_it_changes() -> None:
    turn = a_turn()
    one = turn.wait(incident(Step.FENCE), "the host")
    assert turn.wait(one, "the host") is one
    assert turn.lines == ["h1 [fence] waits: the host"]
    assert turn.wait(one, "").waiting == ""
    assert len(turn.lines) == 1, "the end of it is no news"


@pytest.mark.parametrize(
    ("blocked", "release", "refusal", "says", "tells"),
    [
        ("", "", Refusal(reason="a", release="x"), True, True),
        ("a", "x", Refusal(reason="a", release="x"), False, False),
        ("a", "x", Refusal(reason="b", release="x"), True, False),
        ("a", "x", Refusal(reason="a", release="y"), True, True),
        ("a", "x", Refusal(reason="b", release="y"), True, True),
        ("", "x", Refusal(reason="a", release="x"), True, True),
        ("", "", Refusal(reason="a"), True, False),
        ("b", "x", Refusal(reason="a"), True, False),
        ("a", "", Refusal(reason="a"), False, False),
    ],
)
def test_a_block_is_told_once_for_each_way_out(
    blocked: str, release: str, refusal: Refusal, says: bool, tells: bool
) -> None:
    turn = a_turn()
    now = turn.block(incident(Step.FENCE, blocked=blocked, release=release), refusal)
    assert (now.blocked, now.release) == (refusal.reason, refusal.release)
    assert (bool(turn.lines), bool(turn.told)) == (says, tells)


def test_the_end_of_a_block_is_said_where_there_was_one() -> None:
    turn = a_turn()
    free = incident(Step.FENCE)
    assert turn.unblock(free) is free
    now = turn.unblock(incident(Step.FENCE, blocked="a", release="x"))
    assert (now.blocked, now.release, turn.lines) == ("", "", ["h1 [fence] no longer blocked"])


def test_the_next_step_begins_anew_and_the_last_one_closes() -> None:
    turn = a_turn()
    tried = incident(Step.FENCE, next_at=NOW + 9, poll_at=NOW + 9, waiting="x", level=1, blocked="a")
    now = turn.next_step(tried, "done")
    assert (now.step, now.next_at, now.poll_at, now.waiting, now.level) == (Step.FORCE_DOWN, 0.0, 0.0, "", 0)
    assert (now.blocked, now.phase) == ("", Phase.OPEN)
    closed = turn.next_step(incident(Step.UNFENCE), "the host is back")
    assert (closed.phase, closed.closed_wall, turn.closed) == (Phase.CLOSED, 7.0, ["i1"])
    assert types(turn) == ["incident.closed"]


def test_going_back_begins_the_step_anew() -> None:
    tried = incident(Step.EVACUATE, next_at=NOW + 9, waiting="x", level=1, blocked="a")
    now = a_turn().go_to(tried, Step.FENCE, "again")
    assert (now.step, now.next_at, now.waiting, now.level, now.blocked) == (Step.FENCE, 0.0, "", 0, "")


USED: dict[str, object] = {
    "evidence": proof(),
    "evidence_since": 0.0,
    "crosschecked": (0,),
    "announced": True,
    "surveyed": True,
    "settle_by": NOW,
    "poll_at": NOW + 9,
    "next_at": NOW + 9,
    "window": 4.0,
    "rounds": 3,
    "level": 1,
    "waiting": "x",
    "blocked": "a",
    "gate_ok": True,
    "clean": True,
    "cleared_boot_id": "new",
    "new_boot_id": "new",
    "beat_at": NOW - 1,
}


def test_a_new_plan_knows_nothing_of_the_old_one_s_progress() -> None:
    now = a_turn().replan(incident(Step.EVACUATE, **USED), RESTART, Verdict.REBOOTED, "it is back")  # type: ignore[arg-type]
    assert (now.plan, now.position, now.verdict, now.reason) == (RESTART, 0, Verdict.REBOOTED, "it is back")
    fresh = incident(Step.FENCE)
    for name in USED.keys() - {"evidence_since", "new_boot_id", "beat_at"}:
        assert getattr(now, name) == getattr(fresh, name), name
    assert (now.evidence_since, now.boot_id, now.new_boot_id, now.beat_at) == (NOW, "old", "new", NOW - 1)


def test_where_another_life_has_ended_its_return_is_awaited_anew() -> None:
    now = a_turn().replan(incident(Step.EVACUATE, **USED), RECOVER, Verdict.DOWN, "x", boot_id="b7")  # type: ignore[arg-type]
    assert (now.boot_id, now.new_boot_id, now.beat_at) == ("b7", "", None)


def test_of_the_servers_a_new_plan_knows_what_they_were_and_in_the_same_life_which_run() -> None:
    runs = server(ServerStage.VERIFIED, reason="x", dest="h2", project_id="p", tags=("t",))
    begun = server(ServerStage.STARTING, "s2", looks=2)
    subject = incident(Step.EVACUATE, servers=(runs, begun))
    bare = ServerProgress(id="s2", name="s2", prior="ACTIVE")
    same = a_turn().replan(subject, TELL, Verdict.PARTITIONED, "x", same_life=True)
    assert same.servers == (runs, bare)
    other = a_turn().replan(subject, TELL, Verdict.PARTITIONED, "x")
    assert other.servers == (ServerProgress(id="s1", name="s1", project_id="p", tags=("t",), prior="ACTIVE"), bare)


def test_an_incident_is_not_opened_without_an_id() -> None:
    fields = {"host": "h1", "plan": TELL, "verdict": Verdict.DOWN, "reason": "x"}
    with pytest.raises(ValueError, match="Tick opened an incident but carries no id"):
        a_turn().open(new_id="", event=Tick(), **fields)  # type: ignore[arg-type]
    turn = a_turn()
    opened = turn.open(new_id="i7", event=Tick(), last_seen_at=NOW - 3, **fields)  # type: ignore[arg-type]
    assert (opened.mode, opened.subject, opened.opened_wall, opened.evidence_since) == (Mode.AUTO, "h1", 7.0, NOW)
    assert turn.told[0].data["last_seen_s"] == 3.0
    assert turn.lines == ["h1 [announce] opened: down: x"]
    turn.open(new_id="i8", event=Tick(), **fields)  # type: ignore[arg-type]
    assert turn.told[1].data["last_seen_s"] is None


def test_an_incident_wakes_at_the_earliest_of_its_times_or_never() -> None:
    turn = a_turn(incident(Step.FENCE), incident(Step.FENCE, id="i2", wake_at=NOW))
    for at in (NOW + 3, NOW + 2, NOW + 4):
        turn.wake(turn.incidents["i1"], at)
    turn.wakes["i2"] = float("inf")
    decided = turn.decision().state.incidents
    assert (decided["i1"].wake_at, decided["i2"].wake_at) == (NOW + 2, None)


def test_only_an_open_incident_of_the_host_itself_is_its_open_one() -> None:
    closed = incident(Step.FENCE, phase=Phase.CLOSED)
    turn = a_turn(closed, incident(Step.FENCE, id="i2", host="h2"))
    assert turn.open_for("h1") is None
    found = turn.open_for("h2")
    assert found is not None
    assert found.id == "i2"


def test_a_host_of_which_nothing_is_kept_has_an_empty_record() -> None:
    assert a_turn().record("h1") == HostRecord(host="h1")
    assert off(1.0).device == "bmc"
