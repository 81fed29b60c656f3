"""What was seen while the store could not be written, or met a bug: nothing is sent that it forbids, and nothing stands still for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

import tests.unit.test_engine as engine_test
from ha_agent.controller.effects import AnyEffect, AskWitness
from ha_agent.errors import StoreFull
from ha_agent.model import (
    DESTRUCTIVE,
    Answer,
    Command,
    CommandKind,
    EvidenceKind,
    Finished,
    Order,
    Outcome,
    Power,
    Reading,
    Server,
    Status,
    Survey,
)
from ha_agent.policy import Fencing, Policy
from ha_agent.ports import Heartbeat, PowerSeen
from tests.unit.test_engine import HOSTS, POLICY, Bench, armed, dying, off_twice

FULL = StoreFull("the disk is full")
SERVER = Server(id="s", host="c1", status="ACTIVE", tags=("automatic-recovery",), local_disk=False)


def newest(bench: Bench, kind: CommandKind) -> Command:
    return [c for c in bench.commands if c.kind is kind][-1]


def evacuating(*, by_hand: bool = False) -> Bench:
    """An evacuate was journalled, and was not sent yet."""
    bench = dying()
    if by_hand:
        bench.finish(bench.commands[0], status=Status.FAILED, error="its bmc is dead")
        bench.order(Order.CONFIRM_FENCED, "c1", reason="I hold its plug")
        bench.run(0.25)
    else:
        bench.finish(bench.commands[0], readings=off_twice(bench))
    bench.finish(newest(bench, CommandKind.FORCE_DOWN))
    bench.run(0.5)
    bench.finish(newest(bench, CommandKind.SURVEY), survey=Survey(servers=(SERVER,)))
    assert bench.engine.permit(newest(bench, CommandKind.EVACUATE)) == ""
    bench.clock.at += 1
    return bench


def test_no_server_is_moved_off_a_host_that_was_read_on_and_nobody_could_write_it() -> None:
    bench = evacuating()
    bench.store.fail_next(FULL)
    on = Reading(device="bmc", power=Power.ON, at=bench.clock.at)
    bench.engine.observe(PowerSeen(host="c1", at=bench.clock.at, readings=(on,)))
    assert "cannot be written" in bench.engine.permit(newest(bench, CommandKind.EVACUATE))
    bench.run(2)
    assert bench.engine.store_error == ""
    (incident,) = bench.engine.state.incidents.values()
    assert incident.evidence is None, "the reading was kept until it could be written"


def test_no_server_is_moved_while_a_witness_reaches_the_host_and_nobody_can_write_it() -> None:
    bench = evacuating()
    bench.witness = Answer.SIGNED
    bench.store.fail_next(FULL, 50)
    bench.run(6)
    assert "cannot be written" in bench.engine.permit(newest(bench, CommandKind.EVACUATE))


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_heartbeat_that_was_never_written_revokes_the_evidence_with_the_next_verdict(by_hand: bool) -> None:
    """And a fence follows, or a person's word: the host stays silent from then on."""
    bench = evacuating(by_hand=by_hand)
    bench.store.fail_next(FULL)
    bench.engine.observe(Heartbeat(host="c1", at=bench.clock.at, boot_id=bench.boots["c1"]))
    bench.engine.effects()
    bench.run(15)
    (incident,) = bench.engine.state.incidents.values()
    assert incident.evidence is None or incident.evidence.kind is EvidenceKind.DEVICES
    assert "heard after its evidence" in incident.revoked or any("revoked" in e.text for e in incident.history)


def test_a_pause_that_could_not_be_written_is_looked_at_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk stands still, and with it the process: what waited to be written would have gone on as if nothing had been."""
    two = {h: msgspec.structs.replace(p, fencing=Fencing(levels=(("bmc",), ("pdu",)))) for h, p in POLICY.hosts.items()}
    monkeypatch.setattr(engine_test, "POLICY", Policy(hosts=two))
    bench = dying()
    first = bench.commands[0]
    bench.engine.tick()
    bench.take()
    bench.store.fail_next(FULL)
    bench.engine.feed(Finished(outcome=Outcome(command=first.id, status=Status.FAILED, error="no answer from the bmc")))
    bench.take()
    bench.clock.at += 3.6
    bench.engine.tick()
    bench.take()
    sent = [c for c in bench.commands[1:] if c.kind in DESTRUCTIVE and not bench.engine.permit(c)]
    assert sent == []


def test_a_store_that_fails_in_an_unexpected_way_costs_no_answer() -> None:
    bench = dying()
    bugs: list[Exception] = []
    bench.engine._on_bug = bugs.append
    bench.store.fail_next(MemoryError("none is left"))
    bench.engine.feed(
        Finished(outcome=Outcome(command=bench.commands[0].id, status=Status.OK, readings=off_twice(bench)))
    )
    bench.take()
    assert len(bugs) == 1
    bench.run(3)
    assert newest(bench, CommandKind.FORCE_DOWN)


def test_a_bug_that_an_answer_meets_when_it_is_written_at_last_costs_that_answer_alone() -> None:
    bench = dying()
    bugs: list[Exception] = []
    bench.engine._on_bug = bugs.append
    bench.store.fail_next(FULL)
    bench.engine.feed(
        Finished(outcome=Outcome(command=bench.commands[0].id, status=Status.OK, readings=off_twice(bench)))
    )
    bench.take()
    decide = bench.engine._decide

    def broken(state, event, policy, now):  # type: ignore[no-untyped-def]  # as decide
        if isinstance(event, Finished):
            raise KeyError("planted")
        return decide(state, event, policy, now)

    bench.engine._decide = broken
    bench.run(5)
    assert len(bugs) == 1
    assert bench.engine.store_error == ""


def test_a_witness_that_leaves_the_inventory_before_it_answers_is_asked_no_more() -> None:
    bench = armed()
    bench.dead.add("c1")
    asked: list[str] = []

    def turn() -> Sequence[AnyEffect]:
        bench.clock.at += 0.25
        for host in HOSTS[1:]:
            bench.engine.observe(Heartbeat(host=host, at=bench.clock.at, boot_id=bench.boots[host]))
        bench.engine.tick()
        effects = bench.engine.effects()
        asked.extend(e.witness for e in effects if isinstance(e, AskWitness) and e.target == "c1")
        return effects

    for _ in range(20):
        turn()
    gone = asked[0]
    left = {name: policy for name, policy in POLICY.hosts.items() if name != gone}
    bench.engine.set_policy(msgspec.structs.replace(POLICY, hosts=left))
    asked.clear()
    for _ in range(40):
        turn()
    assert asked
    assert gone not in asked
