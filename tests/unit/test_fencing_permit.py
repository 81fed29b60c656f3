"""A fencing test really switches a host off and on: what stands between it and each sending."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.controller.fencing_permit import Permit
from ha_agent.errors import StoreFull
from ha_agent.guards import Refusal
from ha_agent.model import Incident, Kind, Mode, Order, Phase, State, Verdict
from ha_agent.plans import FENCE_AND_TELL, IN_PLACE, RECOVER, TELL
from tests.unit.test_engine import POLICY, Bench, armed, dying


def maintained(host: str = "c2") -> tuple[Bench, Permit]:
    bench = armed()
    bench.order(Order.MAINTENANCE_ON, host, reason="new bmc firmware")
    return bench, Permit(bench.engine, host)


def reason(refusal: Refusal | None) -> str:
    return refusal.reason if refusal is not None else ""


def put(bench: Bench, incident: Incident) -> None:
    """As if it had been opened."""
    state: State = bench.engine.state
    bench.engine.state = msgspec.structs.replace(state, incidents={**state.incidents, incident.id: incident})
    bench.engine._after_state()


def incident(**fields: object) -> Incident:
    made = Incident(
        id="i-1",
        kind=Kind.HOST,
        host="c2",
        subject="c2",
        mode=Mode.AUTO,
        plan=RECOVER,
        opened_at=0.0,
        opened_wall=0.0,
        verdict=Verdict.DOWN,
        verdict_at=0.0,
        reason="no heartbeat",
    )
    return msgspec.structs.replace(made, **fields)


def test_a_host_in_maintenance_may_be_switched() -> None:
    _, permit = maintained()
    assert (permit.test(), permit.off(), permit.on()) == (None, None, None)


def test_nothing_but_its_maintenance_keeps_us_from_acting() -> None:
    bench, permit = maintained()
    bench.order(Order.PAUSE, reason="a storm outside")
    assert reason(permit.off()).startswith("paused: a storm outside")
    assert permit.on() is None, "it must not be left off"
    bench.order(Order.UNPAUSE)
    bench.order(Order.DISARM)
    assert reason(permit.off()) == "the controller is disarmed"
    assert permit.on() is None
    bench.order(Order.ARM)
    bench.order(Order.MAINTENANCE_OFF, "c2")
    assert (reason(permit.off()), permit.on()) == ("c2 is not in maintenance", None)
    bench.engine.set_policy(msgspec.structs.replace(POLICY, hosts={"c1": POLICY.hosts["c1"]}))
    assert reason(permit.off()) == "c2 is not in the inventory"


def test_the_maintenance_of_another_host_is_none_of_its_own() -> None:
    bench, _ = maintained("c3")
    assert reason(Permit(bench.engine, "c2").off()) == "c2 is not in maintenance"


def test_a_host_of_which_nothing_is_known_yet_is_not_in_maintenance() -> None:
    bench = armed()
    bench.engine.state = msgspec.structs.replace(bench.engine.state, hosts={})
    assert reason(Permit(bench.engine, "c2").off()) == "c2 is not in maintenance"


def test_a_foreign_claimant_stops_both() -> None:
    bench, permit = maintained()
    bench.order(Order.FOREIGN, reason="store-9")
    assert "another controller claims" in reason(permit.off())
    assert "another controller claims" in reason(permit.on())


def test_neither_is_sent_by_who_no_longer_leads() -> None:
    bench, permit = maintained()
    bench.engine.release()
    assert reason(permit.off()) == reason(permit.test()) == "this controller no longer leads"
    assert "does not lead" in reason(permit.on())


def test_neither_is_sent_in_another_epoch_than_that_in_which_it_began() -> None:
    bench, permit = maintained()
    bench.engine.epoch += 1
    assert reason(permit.off()) == reason(permit.test()) == "this controller no longer leads"
    assert "does not lead in the epoch" in reason(permit.on())


def test_neither_is_sent_at_the_end_of_the_lease_or_after_another_epoch_began() -> None:
    bench, permit = maintained()
    bench.clock.at = bench.engine.lease_until - POLICY.lease_s / 4
    for refusal in (permit.off(), permit.on()):
        assert reason(refusal) not in ("", "this controller no longer leads")
    assert permit.test() is None, "it goes on, and looks again before it sends"
    for send in ("off", "on"):
        bench, permit = maintained()
        bench.store.take_lease("two", 15.0, bench.store.read_lease())
        assert reason(getattr(permit, send)()) == "another epoch has begun"


def test_no_off_is_sent_while_the_store_cannot_be_written() -> None:
    bench, permit = maintained()
    bench.engine.store_error = "the disk is full"
    assert (reason(permit.off()), permit.on()) == ("the disk is full", None)


def test_what_was_decided_in_this_turn_is_written_before_it_is_looked_at() -> None:
    bench = dying()
    permit = Permit(bench.engine, "c1")
    bench.store.fail_next(StoreFull("full"), 50)
    bench.beat("c1")
    assert permit.off() is not None


@pytest.mark.parametrize(
    ("fields", "off", "on"),
    [
        ({}, "c2 has an open incident", "incident i-1 fences c2"),
        ({"plan": FENCE_AND_TELL}, "c2 has an open incident", "incident i-1 fences c2"),
        ({"plan": IN_PLACE}, "c2 has an open incident", ""),
        ({"plan": TELL}, "c2 has an open incident", ""),  # nobody moves anything
        ({"kind": Kind.GUEST, "subject": "vm"}, "c2 has an open incident", ""),
        ({"phase": Phase.CLOSED}, "", ""),
        ({"host": "c3"}, "", ""),
    ],
)
def test_an_incident_of_the_host_goes_before(fields: dict[str, object], off: str, on: str) -> None:
    """S1: where it is fenced its servers may be moving, and it is the incident's to switch on."""
    bench, permit = maintained()
    put(bench, incident(**fields))
    assert reason(permit.off()).startswith(off)
    assert bool(permit.off()) is bool(off)
    assert reason(permit.on()) == on


def test_a_refusal_says_where_to_look() -> None:
    bench, permit = maintained()
    put(bench, incident())
    for refusal in (permit.off(), permit.on()):
        assert refusal is not None
        assert refusal.release == "see: ha-agent explain c2"
