"""The events of one turn share a commit: how many there are, what leaves before it, and what is left where it fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ha_agent.controller import batch
from ha_agent.controller.batch import Batch
from ha_agent.controller.effects import AckGuest, Do, ReadBmc, ReadNova
from ha_agent.controller.engine import Engine
from ha_agent.errors import StoreFull
from ha_agent.model import Finished, MachineSeen, Operator, Order, Outcome, State, Status, Tick, Verdict
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Delete, GuestSeen, Heartbeat, Put
from ha_agent.store.memory import MemoryStore, Moment
from tests.unit.test_engine import Clock, Numbers, dying, off_twice

FULL = StoreFull("the disk is full")
MANY = 300


class Cloud:
    """A leader of many hosts, and each of its commits."""

    def __init__(self, hosts: int = MANY) -> None:
        self.hosts = [f"c{n}" for n in range(hosts)]
        self.clock = Clock()
        self.store = MemoryStore()
        self.lines: list[str] = []
        self.commits: list[Sequence[Put | Delete]] = []
        self.engine = Engine(
            name="one",
            policy=Policy(hosts={h: HostPolicy(name=h) for h in self.hosts}),
            store=self.store,
            clock=self.clock,
            random=Numbers(),
            log=self.lines.append,
        )
        self.engine.start()
        self.engine.tick()
        self.store.on_commit(self._note)

    def _note(self, moment: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        if moment is Moment.AFTER:
            self.commits.append(writes)

    def beat(self) -> None:
        for host in self.hosts:
            self.engine.observe(Heartbeat(host=host, at=self.clock.at, boot_id=f"boot-{host}"))

    def tick(self, seconds: float) -> None:
        self.clock.at += seconds
        self.engine.tick()

    def written(self) -> set[str]:
        """Hosts whose machine is journalled."""
        return {d.key for d in self.store.list("host") if b"machine-" in d.body}


def machine(host: str, text: str = "machine-1") -> MachineSeen:
    return MachineSeen(host=host, device="bmc", machine=text)


def answer(number: int) -> Finished:
    return Finished(outcome=Outcome(command=f"x{number}", status=Status.OK))


# --- how many commits ---


def test_hosts_that_are_heard_suspected_and_heard_again_together_cost_a_commit_each_time() -> None:
    cloud = Cloud()
    cloud.beat()
    cloud.tick(0.1)
    assert len(cloud.commits) == 1
    cloud.tick(2.0)
    cloud.tick(2.0)
    assert {v.verdict for v in cloud.engine.views.values()} == {Verdict.SUSPECT}
    assert len(cloud.commits) == 2
    assert sum("is suspect" in line for line in cloud.lines) == MANY
    cloud.beat()
    cloud.tick(0.1)
    assert len(cloud.commits) == 3
    assert all(record.suspect_since is None for record in cloud.engine.state.hosts.values())


def test_a_batch_is_bounded() -> None:
    cloud = Cloud(batch.MAX_WRITES + 1)
    for host in cloud.hosts[:-1]:
        cloud.engine.feed(machine(host))
    assert cloud.commits == []
    cloud.engine.feed(machine(cloud.hosts[-1]))
    assert [len(writes) for writes in cloud.commits] == [batch.MAX_WRITES], (
        "the one that has no room waits for the next"
    )
    cloud.engine.flush()
    assert [len(writes) for writes in cloud.commits] == [batch.MAX_WRITES, 1]


@pytest.mark.parametrize(("documents", "size", "room"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_the_bounds_are_in_documents_and_bytes(documents: int, size: int, room: bool) -> None:
    waiting = Batch(before=State())
    deletes = [Delete(kind="k", key=f"{n}") for n in range(batch.MAX_WRITES - 2)]
    waiting.add(Tick(), [*deletes, Put(kind="k", key="a", body=b"x" * (batch.MAX_BYTES - 1))])
    bodies = [b"x" * size, *([b""] * (documents - 1))]
    assert waiting.has_room([Put(kind="k", key=f"p{n}", body=b) for n, b in enumerate(bodies)]) is room


def test_what_no_store_takes_spoils_no_other() -> None:
    cloud = Cloud(3)
    for host, text in (("c0", "machine-0"), ("c1", "machine-" + "x" * batch.MAX_BYTES), ("c2", "machine-2")):
        cloud.engine.feed(machine(host, text))
    cloud.engine.flush()
    assert cloud.written() == {"c0", "c2"}
    assert "bound" in cloud.engine.store_error


def test_a_document_that_changes_again_and_again_is_written_once_as_it_was_last() -> None:
    cloud = Cloud(1)
    for n in range(5):
        cloud.engine.feed(MachineSeen(host="c0", device=f"bmc{n}", machine="machine-1"))
    cloud.engine.flush()
    (writes,) = cloud.commits
    assert [(w.kind, w.key) for w in writes] == [("host", "c0")]
    waiting = Batch(before=State())
    for body in (b"x" * batch.MAX_BYTES, b"x"):
        waiting.add(Tick(), [Put(kind="k", key="a", body=body)])
    waiting.add(Tick(), [Delete(kind="k", key="a")])
    assert (waiting.writes, waiting.size) == ([Delete(kind="k", key="a")], 0)


# --- what leaves, and when ---


def test_nothing_leaves_before_it_is_journalled() -> None:
    """Whoever takes effects causes the commit."""
    bench = dying()
    fence = bench.commands[0]
    kept = bench.store.commits
    bench.engine.feed(Finished(outcome=Outcome(command=fence.id, status=Status.OK, readings=off_twice(bench))))
    assert bench.store.commits == kept
    assert not any(isinstance(e, Do) for e in bench.engine._effects)
    sent = [e.command for e in bench.engine.effects() if isinstance(e, Do)]
    assert sent
    assert bench.store.commits == kept + 1
    incident = next(iter(bench.store.list("incident")))
    assert all(command.id.encode() in incident.body for command in sent)


def test_the_last_look_sees_what_is_journalled() -> None:
    bench = dying()
    fence, kept = bench.commands[0], bench.store.commits
    bench.engine.observe(Heartbeat(host="c1", at=bench.clock.at, boot_id="boot-c1"))
    assert bench.engine.permit(fence) == "it is being cancelled"
    assert bench.store.commits == kept + 1


def test_an_order_is_answered_after_its_own_commit_and_that_of_what_came_before() -> None:
    cloud = Cloud(2)
    cloud.engine.feed(machine("c0"))
    cloud.engine.order(Operator(order=Order.ARM, actor="anna"))
    assert [{w.kind for w in writes} >= {kind} for writes, kind in zip(cloud.commits, ("host", "fleet"), strict=True)]
    cloud.engine.feed(machine("c1"))
    cloud.store.fail_next(FULL, 2)
    with pytest.raises(StoreFull):
        cloud.engine.order(Operator(order=Order.DISARM, actor="anna"))
    assert cloud.engine.state.fleet.armed
    cloud.engine.flush()
    assert cloud.written() == {"c0"}


def test_what_was_decided_is_journalled_before_the_lease_is_given_away() -> None:
    cloud = Cloud(1)
    cloud.engine.feed(machine("c0"))
    cloud.engine.release()
    assert cloud.written() == {"c0"}


def test_a_notification_of_its_own_comes_after_those_before_it() -> None:
    cloud = Cloud(1)
    cloud.beat()
    cloud.tick(2.0)
    cloud.tick(2.0)
    cloud.commits.clear()
    cloud.beat()
    data = {"controller": "one", "epoch": 1, "armed": False, "actor": "", "reason": ""}
    cloud.engine.tell("controller.leader", data)
    keys = [w.key for writes in cloud.commits for w in writes if w.kind == "outbox"]
    assert len(keys) == len(cloud.commits) == 2
    assert keys == sorted(keys)


# --- a commit that fails ---


def test_a_failed_commit_leaves_the_state_as_it_was_and_only_looks_leave() -> None:
    cloud = Cloud()
    cloud.beat()
    cloud.tick(0.1)
    cloud.tick(2.0)
    cloud.engine.effects()
    before, told, lines = cloud.engine.state, cloud.engine.told, len(cloud.lines)
    cloud.store.fail_next(FULL)
    cloud.tick(2.0)
    assert cloud.engine.state is before
    assert cloud.engine.told == told
    assert cloud.lines[lines:] == ["the store failed, nothing destructive is done: the disk is full"]
    assert {type(e) for e in cloud.engine.effects()} == {ReadBmc, ReadNova}
    assert cloud.engine.open_of("c0") == ""


def test_no_command_of_a_failed_commit_leaves_later() -> None:
    bench = dying()
    kept = len(bench.commands)
    bench.store.fail_next(FULL)
    proven = Outcome(command=bench.commands[0].id, status=Status.OK, readings=off_twice(bench))
    bench.engine.feed(Finished(outcome=proven))
    bench.take()
    bench.take()
    assert len(bench.commands) == kept
    assert bench.engine.open_of("c1"), "it is still open, as the journal says"


def test_no_guest_is_acknowledged_by_a_failed_commit() -> None:
    cloud = Cloud(1)
    cloud.store.fail_next(FULL)
    for report in ("r1", "r2"):
        seen = GuestSeen(
            host="c0", at=100.0, server="s1", report=report, fault="watchdog", action="none", start="1.1", age_s=0.1
        )
        cloud.engine.observe(seen)
    assert not any(isinstance(e, AckGuest) for e in cloud.engine.effects())


def test_outcomes_of_a_failed_commit_wait_in_their_order_before_what_comes_later() -> None:
    cloud = Cloud(2)
    cloud.store.fail_next(FULL)
    for event in (answer(1), machine("c0"), answer(2)):
        cloud.engine.feed(event)
    cloud.engine.flush()
    cloud.engine.feed(answer(3))
    assert list(cloud.engine._unwritten) == [answer(n) for n in (1, 2, 3)]


def test_a_lease_that_is_lost_drops_what_was_not_written() -> None:
    bench = dying()
    before = bench.engine.state
    bench.engine.feed(machine("c2"))
    bench.store.take_lease("two", 15.0, bench.store.read_lease())
    bench.engine.flush()
    assert not bench.engine.leading
    assert bench.engine.state is before
    assert bench.engine._batch is None


def test_who_finds_its_lease_lost_in_a_turn_keeps_nothing_that_it_decided_in_it() -> None:
    cloud = Cloud(1)
    before = cloud.engine.state
    cloud.engine.feed(machine("c0"))
    cloud.store.take_lease("two", 15.0, cloud.store.read_lease())
    cloud.tick(6.0)
    assert not cloud.engine.leading
    assert cloud.engine.state is before
    assert cloud.written() == set()


def test_an_incident_that_was_not_written_is_not_open() -> None:
    cloud = Cloud(1)
    cloud.beat()
    cloud.tick(0.1)
    cloud.store.fail_next(FULL)
    cloud.engine.observe(Heartbeat(host="c0", at=cloud.clock.at, boot_id="another"))
    assert cloud.engine.open_of("c0"), "decided"
    cloud.engine.flush()
    assert cloud.engine.open_of("c0") == ""
    cloud.engine.observe(Heartbeat(host="c0", at=cloud.clock.at, boot_id="another"))
    assert cloud.engine.open_of("c0"), "and again"


class Crash(Exception):
    """The process dies."""


@pytest.mark.parametrize("moment", list(Moment))
def test_a_crash_in_the_commit_has_all_or_nothing(moment: Moment) -> None:
    cloud = Cloud(3)

    def die(at: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        if at is moment:
            raise Crash

    cloud.store.on_commit(die)
    for host in cloud.hosts:
        cloud.engine.feed(machine(host))
    with pytest.raises(Crash):
        cloud.engine.effects()
    assert cloud.written() == (set(cloud.hosts) if moment is Moment.AFTER else set())
