"""Very many servers on one host, very many hosts at once: twice as many cost about twice as much, not four times. Work is counted in calls of
functions, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import msgspec
import pytest

from ha_agent.controller import journal
from ha_agent.decide import Decision, decide
from ha_agent.model import (
    CommandKind,
    Finished,
    Fleet,
    HostRecord,
    Incident,
    Migration,
    Now,
    Outcome,
    Server,
    ServerProgress,
    ServerStage,
    State,
    Status,
    Step,
    Survey,
    Tick,
)
from ha_agent.plans import RECOVER
from ha_agent.policy import HostPolicy, Policy
from tests.unit.decide_support import NOW, POLICY, after, answer, asked, evacuating, incident, server

FEW, MANY = 100, 400


def work(do: Callable[[], object]) -> int:
    """How many functions it calls."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        do()
    finally:
        sys.setprofile(None)
    return calls


def servers(number: int, stage: ServerStage, **fields: object) -> tuple[ServerProgress, ...]:
    return tuple(server(stage, f"s{n:04d}", **fields) for n in range(number))


def rows(number: int, host: str) -> tuple[Server, ...]:
    return tuple(
        Server(id=f"s{n:04d}", name=f"s{n:04d}", host=host, status="ACTIVE", local_disk=False) for n in range(number)
    )


def moves(number: int, status: str) -> tuple[Migration, ...]:
    return tuple(
        Migration(id=n + 1, server=f"s{n:04d}", kind="evacuation", status=status, source="h1", dest="h2")
        for n in range(number)
    )


def followed(number: int) -> Decision:
    """All of them have landed."""
    moving = asked(evacuating(*servers(number, ServerStage.MOVING)), CommandKind.FOLLOW)
    return answer(moving, survey=Survey(migrations=moves(number, "done")))


def surveyed_again(number: int) -> Decision:
    """Half of them has left the host, the others are still there with an evacuation that is under way."""
    waiting = asked(evacuating(*servers(number, ServerStage.RETRY), surveyed=False), CommandKind.SURVEY)
    survey = Survey(servers=rows(number // 2, "h1"), migrations=moves(number, "running"))
    return answer(waiting, survey=survey)


def verified(number: int) -> Decision:
    """All of them run again."""
    landed = incident(
        Step.VERIFY,
        RECOVER,
        servers=servers(number, ServerStage.LANDED, dest="h2"),
        settle_by=NOW + 100,
        committed_at=NOW - 9,
    )
    landed = asked(landed, CommandKind.LIST_SERVERS)
    pending = (msgspec.structs.replace(landed.pending[0], hosts=("h2",)),)
    return answer(msgspec.structs.replace(landed, pending=pending), survey=Survey(servers=rows(number, "h2")))


@pytest.mark.parametrize("event", [followed, surveyed_again, verified])
def test_an_answer_about_all_servers_of_a_host(event: Callable[[int], Decision]) -> None:
    few, many = work(lambda: event(FEW)), work(lambda: event(MANY))
    assert many < 1.5 * few * MANY / FEW


def test_they_do_what_they_are_meant_to_do() -> None:
    assert {s.stage for s in after(followed(FEW)).servers} == {ServerStage.LANDED}
    assert {s.stage for s in after(surveyed_again(FEW)).servers} >= {ServerStage.HELD, ServerStage.NOT_MOVED}
    assert {s.stage for s in after(verified(FEW)).servers} == {ServerStage.VERIFIED}
    assert "storm guard" in failing(FEW).incidents["i0000"].blocked


def failing(number: int) -> State:
    """Hosts that are down together, over the storm limit; what comes of a Tick."""
    hosts = [f"c{n:04d}" for n in range(number)]
    policy = Policy(hosts={h: HostPolicy(name=h) for h in hosts})
    down: dict[str, Incident] = {}
    for n, host in enumerate(hosts):
        key = f"i{n:04d}"
        down[key] = msgspec.structs.replace(
            incident(Step.FENCE), id=key, host=host, subject=host, silent=number, wake_at=NOW, opened_at=NOW - 1
        )
    records = {h: HostRecord(host=h, first_seen_wall=1.0, boot_id="old") for h in hosts}
    state = State(fleet=Fleet(armed=True, epoch=1), hosts=records, incidents=down)
    return decide(state, Tick(), policy, Now(at=NOW)).state


def test_hosts_that_fail_together_are_not_counted_for_each_of_them() -> None:
    few, many = work(lambda: failing(FEW)), work(lambda: failing(MANY))
    assert many < 1.5 * few * MANY / FEW


def test_of_very_many_servers_only_the_changed_one_is_written() -> None:
    moving = asked(evacuating(*servers(MANY, ServerStage.SENT)), CommandKind.EVACUATE)
    pending = (msgspec.structs.replace(moving.pending[0], subject="s0123"),)
    moving = msgspec.structs.replace(moving, pending=pending)
    state = State(fleet=Fleet(armed=True, epoch=1), incidents={moving.id: moving})
    outcome = Outcome(command="asked", status=Status.OK)
    decision = decide(state, Finished(outcome=outcome), POLICY, Now(at=NOW))
    written = [w.key for w in journal.changes(state, decision.state, decision.changed) if w.kind == "server"]
    assert written == ["i1/s0123"]
    few = work(lambda: journal.changes(state, decision.state, decision.changed))
    assert few < MANY / 4
