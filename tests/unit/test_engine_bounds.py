"""The engine's times and refusals at their very bounds: the lease, pauses, a store that fails, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ha_agent.controller.effects import AnyEffect, Do, ReadBmc
from ha_agent.controller.engine import MAX_UNWRITTEN, Engine
from ha_agent.decide import Decision, decide
from ha_agent.errors import LeaseLost, StoreError, StoreFull
from ha_agent.model import (
    AnyEvent,
    Command,
    CommandKind,
    Finished,
    MachineSeen,
    Now,
    Operator,
    Order,
    Outcome,
    Paused,
    State,
    Status,
    Step,
    Tick,
)
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import ForeignClaim, Heartbeat, Lease
from ha_agent.store.memory import MemoryStore
from tests.unit.test_engine import Clock, Numbers

FULL = StoreFull("the disk is full")
REFUSED = "this controller does not lead in the epoch of the command"


class Bench:
    """A controller of one host; what `decide` is told is noted, and `wake_at` is when it wants a Tick."""

    def __init__(self, at: float = 100.0, store: MemoryStore | None = None, name: str = "one", hosts: int = 1) -> None:
        self.clock = Clock()
        self.clock.at = at
        self.store = store or MemoryStore()
        self.events: list[AnyEvent] = []
        self.lines: list[str] = []
        self.bug: Exception | None = None
        self.plan: Callable[[State], State] = lambda state: state
        policy = Policy(hosts={f"c{n}": HostPolicy(name=f"c{n}") for n in range(1, hosts + 1)})
        self.options: dict[str, Any] = {
            "name": name,
            "policy": policy,
            "store": self.store,
            "clock": self.clock,
            "random": Numbers(),
            "log": self.lines.append,
            "decide": self.decide,
        }
        self.engine = Engine(**self.options)
        self.engine.start()

    def decide(self, state: State, event: AnyEvent, policy: Policy, now: Now) -> Decision:
        self.events.append(event)
        if self.bug is not None:
            raise self.bug
        return decide(state, event, policy, now)

    def tick(self, at: float) -> None:
        self.clock.at = at
        self.engine.tick()

    def count(self, kind: type[AnyEvent]) -> int:
        return sum(isinstance(e, kind) for e in self.events)


def leader(**options: Any) -> Bench:
    """It leads since 100 s."""
    bench = Bench(**options)
    bench.tick(bench.clock.at)
    assert bench.engine.leading
    bench.events.clear()
    return bench


def answer(number: int = 1) -> Finished:
    return Finished(outcome=Outcome(command=f"x{number}", status=Status.OK))


def command(kind: CommandKind = CommandKind.FENCE, epoch: int = 1) -> Command:
    return Command(id="x", incident="i", step=Step.FENCE, kind=kind, subject="c1", host="c1", epoch=epoch, attempt=1)


# --- at the start ---


def test_before_it_leads_it_has_no_epoch_no_lease_and_told_nothing() -> None:
    engine = Bench().engine
    assert (engine.leading, engine.epoch, engine.lease_until, engine.told, engine.store_error) == (False, 0, 0.0, 0, "")


def test_it_leads_at_its_first_tick_however_young_the_machine_is() -> None:
    assert leader(at=0.5).engine.lease_until == 15.5


# --- when it wants to be ticked ---


def test_it_wants_to_be_ticked_once_a_second() -> None:
    bench = leader(hosts=0)
    assert bench.engine.next_at() == 101.0
    bench.clock.at = 100.5
    assert bench.engine.next_at() == 101.0
    fresh = Bench(hosts=0)
    fresh.engine._lease_at = 200.0
    assert fresh.engine.next_at() == 101.0
    bench.engine._lease_at = 100.7
    assert bench.engine.next_at() == 100.7


def waking(at: float) -> Bench:
    """`decide` wants a Tick at a time."""
    bench = leader(hosts=0)
    bench.engine._wake_at = at
    return bench


def test_what_decide_waits_for_is_a_reason_to_be_ticked() -> None:
    assert waking(100.3).engine.next_at() == 100.3
    failing = waking(100.3)
    failing.engine.store_error = "full"
    failing.engine._retry_at = 100.6
    assert failing.engine.next_at() == 100.6, "not before the store is tried again"
    follower = waking(100.3)
    follower.engine.leading = False
    assert follower.engine.next_at() == 101.0
    waiting = leader(hosts=0)
    waiting.engine._unwritten.append(answer())
    waiting.engine._retry_at = 100.4
    assert waiting.engine.next_at() == 100.4


@pytest.mark.parametrize(
    ("wake_at", "error", "retry_at", "ticks"),
    [
        (101.0, "", 0.0, 1),
        (101.1, "", 0.0, 0),
        (101.0, "", 999.0, 1),
        (101.0, "full", 101.0, 1),
        (101.0, "full", 101.1, 0),
    ],
)
def test_decide_gets_its_tick_at_its_time(wake_at: float, error: str, retry_at: float, ticks: int) -> None:
    bench = waking(wake_at)
    bench.engine.store_error, bench.engine._retry_at = error, retry_at
    bench.tick(101.0)
    assert bench.count(Tick) == ticks
    follower = waking(wake_at)
    follower.engine.leading = False
    follower.engine._lease_at = 999.0
    follower.tick(101.0)
    assert follower.count(Tick) == 0


# --- pauses ---


@pytest.mark.parametrize(("gap_s", "pauses"), [(3.0, 0), (3.1, 1)])
def test_a_gap_longer_than_the_tick_and_the_allowed_pause_is_one(gap_s: float, pauses: int) -> None:
    bench = leader()
    bench.tick(100.0 + gap_s)
    assert bench.count(Paused) == pauses
    follower = Bench(store=bench.store, name="two", at=bench.clock.at)
    follower.tick(bench.clock.at)
    follower.tick(bench.clock.at + gap_s)
    assert follower.count(Paused) == 0
    assert follower.engine.views["c1"].window_at == bench.clock.at + (gap_s if pauses else 0.0)


@pytest.mark.parametrize(
    ("at", "until"),
    [
        (119.9, 120.0),  # it is not over yet: looked at in its turn
        (120.0, 135.0),
        (120.5, 135.5),
    ],
)
def test_a_lease_that_ended_in_a_pause_is_looked_at_first(at: float, until: float) -> None:
    bench = leader()
    for now in (103.0, 105.0, 107.0, 110.0):
        if now == 110.0:
            bench.store.fail_next(FULL, times=2)
        bench.tick(now)
    for now in (112.0, 114.0, 116.0):
        bench.tick(now)
    assert (bench.engine.lease_until, bench.engine._lease_at) == (120.0, 121.0)
    bench.tick(at)
    assert bench.engine.lease_until == until


def test_a_lease_that_is_young_is_not_renewed_because_of_a_pause() -> None:
    bench = leader()
    bench.tick(103.5)
    assert bench.engine.lease_until == 115.0


# --- the lease ---


def test_the_lease_is_renewed_after_a_third_of_it() -> None:
    bench = leader()
    for at, until in ((102.0, 115.0), (104.9, 115.0), (105.0, 120.0)):
        bench.tick(at)
        assert bench.engine.lease_until == until


def test_a_lease_that_cannot_be_renewed_is_kept_until_its_end() -> None:
    bench = leader()
    bench.store.fail_next(FULL, times=9)
    for at in (102.0, 105.0, 107.0, 110.0, 112.0, 114.9):
        bench.tick(at)
        assert bench.engine.leading
    bench.tick(115.0)
    assert not bench.engine.leading
    assert "no longer leading: the lease could not be renewed" in bench.lines
    assert bench.engine.lease_until == 0.0
    assert sum("nothing destructive is done" in line for line in bench.lines) == 1, "said once"
    bench.store.mend()
    bench.tick(117.0)
    assert "the store works again" not in bench.lines


def follower_of(bench: Bench) -> Bench:
    """Another controller, that saw the lease at 100 s."""
    other = Bench(store=bench.store, name="two")
    other.tick(100.0)
    assert not other.engine.leading
    return other


def test_a_lease_is_taken_when_it_was_seen_unchanged_for_its_whole_length() -> None:
    other = follower_of(leader())
    for at in range(102, 115):
        other.tick(float(at))
    other.tick(114.9)
    assert not other.engine.leading
    other.tick(115.0)
    assert other.engine.leading
    assert other.engine.epoch == 2


def test_a_store_that_fails_while_it_waits_does_not_begin_the_wait_anew() -> None:
    bench = leader()
    other = follower_of(bench)

    def broken() -> Lease:
        raise FULL

    real = bench.store.read_lease
    for at in range(102, 115):
        bench.store.read_lease = broken if at == 110 else real  # type: ignore[method-assign]
        other.tick(float(at))
    other.tick(115.0)
    assert other.engine.leading


def test_who_steps_down_drops_its_commands_and_keeps_its_looks() -> None:
    bench = leader()
    kept = ReadBmc(host="c1")
    effects: list[AnyEffect] = [Do(command=command()), kept]
    bench.engine._effects = effects
    bench.engine._unwritten.append(answer())
    bench.engine.release()
    assert bench.engine.effects() == [kept]
    assert not bench.engine._unwritten
    bench.engine.release()
    assert sum("no longer leading" in line for line in bench.lines) == 1


# --- the last look ---


@pytest.mark.parametrize(
    ("leads", "epoch", "kind", "refused"),
    [
        (False, 1, CommandKind.FENCE, True),
        (True, 2, CommandKind.FENCE, True),
        (True, 1, CommandKind.FENCE, False),
        (False, 1, CommandKind.SURVEY, False),
    ],
)
def test_only_the_leader_of_the_epoch_may_send(leads: bool, epoch: int, kind: CommandKind, refused: bool) -> None:
    bench = leader()
    bench.engine.leading = leads
    assert (bench.engine.permit(command(kind, epoch)) == REFUSED) is refused


@pytest.mark.parametrize(("left_s", "refused"), [(5.0, True), (5.1, False)])
def test_the_sending_must_end_before_the_lease_does(left_s: float, refused: bool) -> None:
    bench = leader()
    bench.clock.at = 115.0 - left_s
    assert (bench.engine.permit(command()) == "the lease is over, or about to be") is refused


@pytest.mark.parametrize(
    "lease",
    [
        None,
        {"epoch": 2},
        {"owner": "two"},
        {"released": True},
    ],
)
def test_a_lease_that_is_not_ours_any_more_ends_our_lead(lease: dict[str, object] | None) -> None:
    bench = leader()
    ours = bench.store.read_lease()
    assert ours is not None
    other = None if lease is None else msgspec.structs.replace(ours, **lease)
    bench.store.read_lease = lambda: other  # type: ignore[method-assign]
    assert bench.engine.permit(command()) == "another epoch has begun"
    assert not bench.engine.leading
    assert bench.engine.lease_until == 0.0


def test_a_lease_that_cannot_be_read_permits_nothing() -> None:
    bench = leader()

    def broken() -> Lease:
        raise FULL

    bench.store.read_lease = broken  # type: ignore[method-assign]
    assert "the lease cannot be read" in bench.engine.permit(command())
    assert bench.engine.leading


# --- orders, claims, notifications ---


def test_orders_are_for_the_leader_and_need_a_store_that_can_be_written() -> None:
    arm = Operator(order=Order.ARM, actor="anna")
    with pytest.raises(LeaseLost, match="one does not lead"):
        Bench().engine.order(arm)
    bench = leader()
    bench.engine._unwritten.append(answer())
    with pytest.raises(StoreError, match="cannot be written"):
        bench.engine.order(arm)


@pytest.mark.parametrize(("given", "used"), [("mine", "mine"), ("", "id-")])
def test_an_order_keeps_its_id_and_learns_when_the_host_was_heard(given: str, used: str) -> None:
    bench = leader()
    bench.engine.observe(Heartbeat(host="c1", at=100.0, boot_id="b"))
    bench.engine.order(Operator(order=Order.FENCE, actor="anna", host="c1", new_id=given))
    event = bench.events[-1]
    assert isinstance(event, Operator)
    assert event.new_id.startswith(used)
    assert event.heard_at == 100.0


def test_another_claimant_disarms_the_leader_alone() -> None:
    claim = ForeignClaim(host="c1", at=100.0, controller="nine", store_id="abcdefghij", epoch=7)
    bench = leader()
    bench.engine.order(Operator(order=Order.ARM, actor="anna"))
    bench.engine.observe(claim)
    assert (bench.engine.state.fleet.armed, bench.engine.state.fleet.foreign) == (False, "nine (store abcdefgh)")
    follower = Bench()
    follower.engine.observe(claim)
    assert follower.events == []


def test_only_the_leader_tells() -> None:
    bench = leader()
    told, commits = bench.engine.told, bench.store.commits
    bench.engine.tell("controller.leader", {"controller": "one", "epoch": 1, "armed": False, "actor": "", "reason": ""})
    assert (bench.engine.told, bench.store.commits) == (told + 1, commits + 1)
    bench.engine.leading = False
    bench.engine.tell("controller.leader", {"controller": "one", "epoch": 1, "armed": False, "actor": "", "reason": ""})
    assert bench.engine.told == told + 1


# --- a store that fails, and bugs ---


def test_only_answers_are_kept_until_the_store_works_again() -> None:
    bench = leader()
    bench.store.fail_next(FULL, times=1)
    bench.engine.feed(MachineSeen(host="c1", device="bmc", machine="m1"))
    bench.engine.flush()
    assert (list(bench.engine._unwritten), bench.engine.store_error) == ([], "the disk is full")
    bench.engine._unwritten.append(answer(1))
    bench.events.clear()
    bench.engine.feed(Tick())
    bench.engine.feed(answer(2))
    assert bench.events == [], "nothing overtakes what waits"
    assert list(bench.engine._unwritten) == [answer(1), answer(2)]


def test_what_waits_is_written_in_its_order_when_the_store_is_tried_again() -> None:
    bench = leader()
    bench.engine._unwritten.extend([answer(1), answer(2)])
    bench.engine._retry_at = 101.0
    bench.engine.store_error = "full"
    bench.tick(100.9)
    assert bench.events == []
    bench.tick(101.0)
    assert bench.events == [answer(1), answer(2)]
    assert bench.engine.store_error == ""
    idle = leader()
    idle.engine._retry_at = 999.0
    idle.tick(101.0)
    assert idle.engine._retry_at == 999.0, "nothing waits: nothing is tried"
    follower = leader()
    follower.engine._unwritten.append(answer())
    follower.engine.leading = False
    follower.engine._lease_at = 999.0
    follower.tick(101.0)
    assert follower.events == []


def test_ten_thousand_answers_wait_and_not_one_more() -> None:
    bench = leader()
    for n in range(10_001):
        bench.engine._keep(answer(n))
    assert len(bench.engine._unwritten) == MAX_UNWRITTEN == 10_000


def test_a_store_that_failed_is_tried_again_after_a_second() -> None:
    bench = leader()
    bench.engine._store_failed(FULL)
    assert bench.engine._retry_at == 101.0


def test_the_same_trouble_is_said_once() -> None:
    bench = leader()
    for error, count in ((FULL, 1), (FULL, 1), (StoreError("locked"), 2)):
        bench.engine._store_failed(error)
        assert sum("nothing destructive is done" in line for line in bench.lines) == count


def test_a_bug_changes_nothing_and_is_told_where_somebody_listens() -> None:
    bench = leader()
    bench.bug = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        bench.engine.feed(Tick())
    heard: list[Exception] = []
    listening = Bench()
    engine = Engine(**listening.options, on_bug=heard.append)
    engine.start()
    engine.tick()
    before = engine.state
    listening.bug = ZeroDivisionError("a bug")
    engine.feed(Tick())
    assert [str(e) for e in heard] == ["a bug"]
    assert engine.state is before
