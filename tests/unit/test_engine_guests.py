"""Guest events in the engine: the leader journals them, and only then says so to the host's remote."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.controller import guests
from ha_agent.controller.effects import AckGuest
from ha_agent.controller.engine import Engine
from ha_agent.errors import StoreFull
from ha_agent.model import Finished, Incident, Kind, Mode, Outcome, Status
from ha_agent.plans import GUEST_TELL
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import GuestSeen
from ha_agent.store.memory import MemoryStore
from tests.unit.test_engine import Clock, Numbers

POLICY = Policy(hosts={"c1": HostPolicy(name="c1")}, guest_mode="auto")
SEEN = GuestSeen(host="c1", at=100.0, server="s1", report="r1", fault="watchdog", action="none", start="1.1", age_s=0.1)


class Bench:
    def __init__(self, policy: Policy = POLICY) -> None:
        self.clock = Clock()
        self.store = MemoryStore("store-1")
        self.lines: list[str] = []
        self.bugs: list[Exception] = []
        self.engine = self.life(policy)

    def life(self, policy: Policy = POLICY, name: str = "controller-1") -> Engine:
        engine = Engine(
            name=name,
            policy=policy,
            store=self.store,
            clock=self.clock,
            random=Numbers(),
            log=self.lines.append,
            on_bug=self.bugs.append,
        )
        engine.start()
        engine.tick()
        return engine

    def tell(self, seen: GuestSeen = SEEN) -> list[str]:
        """The reports that are acknowledged."""
        self.engine.observe(seen)
        return [effect.report for effect in self.engine.effects() if isinstance(effect, AckGuest)]

    def incidents(self) -> list[Incident]:
        return [i for i in self.engine.state.incidents.values() if i.kind is Kind.GUEST]


def test_it_is_journalled_and_acknowledged() -> None:
    bench = Bench()
    assert bench.tell() == ["r1"]
    (incident,) = bench.incidents()
    assert (incident.host, incident.subject, incident.report) == ("c1", "s1", "r1")
    assert incident.reason == "watchdog (none)"
    assert [document.key for document in bench.store.list("incident")] == [incident.id]


def test_what_comes_again_is_acknowledged_again_and_changes_nothing() -> None:
    bench = Bench()
    bench.tell()
    before = bench.engine.state
    assert bench.tell() == ["r1"]
    assert bench.engine.state == before


def test_the_next_leader_knows_what_the_last_one_took() -> None:
    bench = Bench()
    bench.tell()
    bench.engine.release()
    bench.engine = bench.life(name="controller-2")
    assert bench.engine.leading
    assert bench.tell() == ["r1"]
    assert len(bench.incidents()) == 1


def test_who_does_not_lead_takes_nothing() -> None:
    bench = Bench()
    leader, bench.engine = bench.engine, bench.life(name="controller-2")
    assert not bench.engine.leading
    assert bench.tell(msgspec.structs.replace(SEEN, lost=3)) == []
    assert (bench.engine.guests_lost, leader.leading) == ({}, True)
    assert bench.store.list("incident") == []


def test_what_cannot_be_journalled_is_not_acknowledged() -> None:
    bench = Bench()
    for _ in range(2):
        bench.store.fail_next(StoreFull("the disk is full"))
        assert bench.tell() == []
        assert bench.incidents() == []
    assert bench.tell() == ["r1"]
    assert len(bench.incidents()) == 1


def test_nothing_is_acknowledged_while_answers_wait_for_the_store() -> None:
    bench = Bench()
    bench.engine._unwritten.append(Finished(outcome=Outcome(command="c", status=Status.OK)))
    assert bench.tell() == []
    assert bench.incidents() == []


def test_a_bug_acknowledges_nothing() -> None:
    bench = Bench()

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    bench.engine._decide = broken  # type: ignore[assignment]
    assert bench.tell() == []
    assert len(bench.bugs) == 1


def test_of_an_unknown_host_nothing_is_heard() -> None:
    bench = Bench()
    assert bench.tell(msgspec.structs.replace(SEEN, host="stranger")) == []
    assert bench.incidents() == []


@pytest.mark.parametrize("policy", [POLICY, msgspec.structs.replace(POLICY, guest_mode="notify")])
@pytest.mark.parametrize("action", ["none", "pause", "reset", "poweroff"])
def test_nothing_is_done_but_told_as_long_as_nova_is_not_asked(policy: Policy, action: str) -> None:
    bench = Bench(policy)
    bench.tell(msgspec.structs.replace(SEEN, action=action))
    (incident,) = bench.incidents()
    assert (incident.mode, incident.plan, incident.pending) == (Mode.NOTIFY, GUEST_TELL, ())
    said = [entry.text for entry in incident.history if entry.text.startswith("only announced: ")]
    assert len(said) == (policy.guest_mode == "auto")


def test_ignored_guests_and_reboots_of_their_own_are_acknowledged_and_forgotten() -> None:
    bench = Bench(msgspec.structs.replace(POLICY, guest_mode="ignore"))
    assert bench.tell() == ["r1"]
    assert bench.incidents() == []
    bench = Bench()
    assert bench.tell(msgspec.structs.replace(SEEN, fault="reboot", action="")) == ["r1"]
    assert bench.incidents() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"age_s": None}, "nobody knows when"),
        ({"age_s": 60.1}, "it may be 60 s old"),
        ({"age_s": 60.0}, "Nova has not been asked"),
        ({"action": "reset"}, "has acted already: reset"),
        ({"action": "poweroff"}, "has acted already: poweroff"),
        ({"action": "pause"}, "Nova has not been asked"),
    ],
)
def test_every_doubt_has_its_reason(change: dict[str, object], why: str) -> None:
    fault = guests.fault(msgspec.structs.replace(SEEN, **change), POLICY, "id")
    assert fault is not None
    assert why in fault.doubt


def test_events_that_a_remote_had_to_drop_are_said_once() -> None:
    bench = Bench()
    for lost in (0, 3, 3, 5):
        bench.tell(msgspec.structs.replace(SEEN, lost=lost))
    said = [line for line in bench.lines if "dropped" in line]
    assert said == [f"c1: its remote has dropped {n} guest events in all: too many waited" for n in (3, 5)]
    assert bench.engine.guests_lost == {"c1": 5}
