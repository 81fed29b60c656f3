"""The engine: who leads, what leaves it, and what does not when the store fails or the process was paused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ha_agent.controller.effects import AskWitness, Do, ReadBmc, ReadNova
from ha_agent.controller.engine import STALE_MAX, Engine
from ha_agent.decide import Changed, next_wake
from ha_agent.errors import LeaseLost, StoreError, StoreFull, UsageError
from ha_agent.model import (
    Answer,
    Command,
    CommandKind,
    ComputeService,
    Finished,
    Health,
    Operator,
    Order,
    Outcome,
    Phase,
    Power,
    Reading,
    Server,
    Status,
    Step,
    Survey,
    Verdict,
)
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Heartbeat, NovaSeen, ProbeAnswered, Reported
from ha_agent.sim.stage import Stage
from ha_agent.store.memory import MemoryStore

HOSTS = [f"c{n}" for n in range(1, 7)]
POLICY = Policy(hosts={h: HostPolicy(name=h, domain=f"r{n % 3}") for n, h in enumerate(HOSTS)})


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 1e9 + self.at

    def boot_id(self) -> str:
        return "controller-boot"


class Numbers:
    def __init__(self) -> None:
        self.n = 0

    def uuid(self) -> str:
        self.n += 1
        return f"id-{self.n}"

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def nonce(self) -> str:
        return self.uuid()


class Bench:
    """A controller whose hosts answer as told; commands are collected, not carried out."""

    def __init__(self, store: MemoryStore | None = None, name: str = "one", clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.store = store or MemoryStore()
        self.lines: list[str] = []
        self.engine = Engine(
            name=name, policy=POLICY, store=self.store, clock=self.clock, random=Numbers(), log=self.lines.append
        )
        self.commands: list[Command] = []
        self.looks: list[object] = []
        self.boots = {h: f"boot-{h}" for h in HOSTS}
        self.dead: set[str] = set()
        self.witness = Answer.SILENT
        self.engine.start()
        self.engine.tick()

    def run(self, seconds: float, step: float = 0.25) -> None:
        end = self.clock.at + seconds
        while self.clock.at < end - 1e-9:
            self.clock.at += step
            if abs(self.clock.at - round(self.clock.at)) < 1e-9:
                for h in HOSTS:
                    if h not in self.dead:
                        self.beat(h)
            self.engine.tick()
            self.take()

    def beat(self, host: str) -> None:
        beat = Heartbeat(host=host, at=self.clock.at, boot_id=self.boots[host], nova_compute=Health.UP)
        self.engine.observe(beat)
        self.take()

    def take(self) -> None:
        for effect in self.engine.effects():
            match effect:
                case Do(command=command):
                    self.commands.append(command)
                case AskWitness(witness=w, target=t, nonce=n):
                    answer = self.witness if t in self.dead else Answer.SIGNED
                    self.engine.observe(ProbeAnswered(host=t, at=self.clock.at, witness=w, nonce=n, answer=answer))
                case ReadBmc() | ReadNova():
                    self.looks.append(effect)

    def order(self, order: Order, host: str = "", **fields: Any) -> None:
        self.engine.order(Operator(order=order, actor="tester", host=host, **fields))
        self.take()

    def finish(self, command: Command, status: Status = Status.OK, **fields: object) -> None:
        self.engine.feed(Finished(outcome=Outcome(command=command.id, status=status, **fields)))  # type: ignore[arg-type]
        self.take()

    def kinds(self) -> list[CommandKind]:
        return [c.kind for c in self.commands]


def armed() -> Bench:
    bench = Bench()
    bench.run(5)
    bench.order(Order.ARM)
    return bench


def dying() -> Bench:
    """c1 fell silent 10 s ago: its off command waits to be carried out."""
    bench = armed()
    bench.dead.add("c1")
    bench.run(10.5)
    assert bench.kinds() == [CommandKind.FENCE]
    return bench


def off_twice(bench: Bench) -> tuple[Reading, ...]:
    return tuple(Reading(device="bmc", power=Power.OFF, at=bench.clock.at + n / 10) for n in range(2))


def test_a_silent_host_is_suspected_then_fenced_within_a_second_of_the_full_time() -> None:
    bench = armed()
    silent_at = bench.clock.at
    bench.dead.add("c1")
    bench.run(4.5)
    assert bench.engine.views["c1"].verdict is Verdict.SUSPECT
    assert {type(x).__name__ for x in bench.looks} == {"ReadBmc", "ReadNova"}
    while not bench.commands:
        bench.run(0.25)
        assert bench.clock.at - silent_at < 11.0
    assert bench.clock.at - silent_at >= 10.0
    assert bench.engine.permit(bench.commands[0]) == ""


def test_a_host_that_a_witness_reaches_is_not_fenced() -> None:
    bench = armed()
    bench.witness = Answer.SIGNED
    bench.dead.add("c1")
    bench.run(60)
    assert bench.kinds() == []
    (incident,) = bench.engine.state.incidents.values()
    assert (incident.verdict, incident.phase) == (Verdict.PARTITIONED, Phase.OPEN)
    bench.dead.clear()
    bench.run(2)
    assert bench.engine.state.incidents[incident.id].phase is Phase.CLOSED


def test_the_first_start_is_disarmed_and_says_so() -> None:
    bench = Bench()
    bench.run(5)
    bench.dead.add("c1")
    bench.run(15)
    (incident,) = bench.engine.state.incidents.values()
    assert (incident.blocked, incident.release) == ("the controller is disarmed", "ha-agent arm")
    assert bench.kinds() == []
    bench.order(Order.ARM)
    bench.run(3)
    assert bench.kinds() == [CommandKind.FENCE]


def test_a_heartbeat_cancels_the_fence_and_closes_the_incident() -> None:
    bench = dying()
    bench.dead.clear()
    bench.run(1)
    assert bench.kinds()[-1] is CommandKind.CANCEL_FENCE
    assert bench.engine.permit(bench.commands[0]) == "it is being cancelled", "whichever of the two comes first"
    bench.finish(bench.commands[-1])
    assert bench.engine.permit(bench.commands[0]) == "the incident no longer waits for it"
    bench.run(1)
    (incident,) = bench.engine.state.incidents.values()
    assert incident.phase is Phase.CLOSED


def test_a_heartbeat_that_could_not_be_journalled_counts_at_the_last_look() -> None:
    """S5: the store is full when the host is heard again; the fence that was decided before is not sent all the same."""
    bench = dying()
    fence = bench.commands[0]
    bench.store.fail_next(StoreFull("the disk is full"), 50)
    bench.dead.clear()
    bench.run(1)
    assert bench.engine.permit(fence) == "c1 was heard since the verdict"
    incident = bench.engine.state.incidents[fence.incident]
    heard_at = bench.engine.lookout.views["c1"].heard_at
    assert heard_at is not None
    same = msgspec.structs.replace(incident, verdict_at=heard_at)
    bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents={incident.id: same})
    assert bench.engine.permit(fence) == "c1 was heard since the verdict", "in the same moment"
    bench.engine.store_error = ""  # or nothing is permitted at all
    for changes in ({"committed_at": 1.0}, {"ordered_by": "me"}, {"verdict_at": heard_at + 0.001}):
        changed = msgspec.structs.replace(
            incident, **changes
        )  # servers move already; a person wants it; confirmed since
        bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents={incident.id: changed})
        assert bench.engine.permit(fence) == "", changes
    bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents={incident.id: incident})
    views = bench.engine.lookout.views
    views["c1"] = msgspec.structs.replace(views["c1"], heard_at=None)
    assert bench.engine.permit(fence) == "", "not heard since this controller started"
    del views["c1"]
    assert bench.engine.permit(fence) == "", "it left the inventory meanwhile"


@pytest.mark.parametrize("kind", [CommandKind.FORCE_DOWN, CommandKind.EVACUATE])
def test_nothing_goes_out_on_evidence_that_an_unjournalled_heartbeat_revoked(kind: CommandKind) -> None:
    """S2: the store is full when a host that was proven off is heard again."""
    bench = dying()
    bench.finish(bench.commands[0], readings=off_twice(bench))
    bench.store.fail_next(StoreFull("the disk is full"), 50)
    command = msgspec.structs.replace(bench.commands[1], kind=kind)
    assert bench.engine.permit(command) == ""
    incident = bench.engine.state.incidents[command.incident]
    assert incident.evidence is not None
    proven_at = max(r.at for r in incident.evidence.readings)
    view = bench.engine.lookout.views["c1"]
    for heard_at, refusal in ((proven_at, ""), (proven_at + 0.001, "c1 was heard since it was proven off")):
        bench.engine.lookout.views["c1"] = msgspec.structs.replace(view, heard_at=heard_at)
        assert bench.engine.permit(command) == refusal
    word = msgspec.structs.replace(incident.evidence, readings=(), at=proven_at + 0.002)
    incidents = {incident.id: msgspec.structs.replace(incident, evidence=word)}
    bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents=incidents)
    assert bench.engine.permit(command) == "", "a person has said since that it is off"
    bench.engine._may_send = lambda *_: ""
    incidents = {incident.id: msgspec.structs.replace(incident, evidence=None)}
    bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents=incidents)
    assert bench.engine.permit(command) == "", "whether there is evidence is the guards' question"


def test_no_permission_without_the_newest_epoch() -> None:
    bench = dying()
    command = bench.commands[0]
    assert bench.engine.permit(command) == ""
    lease = bench.store.read_lease()
    bench.store.take_lease("two", 15.0, lease)
    assert bench.engine.permit(command) == "another epoch has begun"
    assert not bench.engine.leading
    with pytest.raises(LeaseLost):
        bench.order(Order.ARM)


def test_no_permission_at_the_end_of_the_lease() -> None:
    bench = dying()
    bench.clock.at = bench.engine.lease_until - 4.9
    assert "about to be" in bench.engine.permit(bench.commands[0])


def test_a_taker_waits_one_full_lease_and_repeats_what_was_not_answered() -> None:
    bench = dying()
    other = Bench(bench.store, "two", bench.clock)
    started = bench.clock.at
    while not other.engine.leading:
        other.run(0.25)
        assert bench.clock.at - started < 20
    assert bench.clock.at - started >= POLICY.lease_s
    assert other.engine.epoch == 2
    assert other.kinds() == [], "the verdict of the last leader is confirmed first"
    other.dead.add("c1")
    other.run(12)
    assert other.kinds() == [CommandKind.FENCE]
    assert other.commands[0].epoch == 2


def test_what_comes_after_the_lease_was_given_away_changes_nothing() -> None:
    """An answer to a command of the last leadership is the next leader's to ask for; and what is not ours is not released again."""
    bench = dying()
    bench.engine.release()
    other = Bench(bench.store, "two", bench.clock)
    state, said, kept = bench.engine.state, list(bench.lines), bench.store.commits
    bench.finish(bench.commands[0], readings=off_twice(bench))
    bench.engine.release()
    bench.store.fail_next(StoreFull("the disk is full"))
    bench.finish(bench.commands[0], readings=off_twice(bench))
    assert not bench.engine.store_error, "it is not kept for a later leadership either"
    assert bench.engine.state is state
    assert (bench.lines, bench.store.commits) == (said, kept)
    assert bench.kinds() == [CommandKind.FENCE]
    assert other.engine.leading
    lease = bench.store.read_lease()
    assert lease is not None
    assert (lease.owner, lease.released) == ("two", False)


def test_a_released_lease_is_taken_at_once() -> None:
    bench = dying()
    bench.engine.release()
    other = Bench(bench.store, "two", bench.clock)
    assert other.engine.leading


def test_nothing_leaves_that_is_not_journalled() -> None:
    bench = armed()
    bench.dead.add("c1")
    bench.run(9)
    for _ in range(4):
        bench.store.fail_next(StoreFull("the disk is full"))
    bench.run(3)
    assert bench.kinds() == []
    assert bench.engine.store_error
    bench.run(40)
    assert CommandKind.FENCE in bench.kinds()


def test_an_order_that_cannot_be_journalled_is_refused() -> None:
    bench = dying()
    bench.store.fail_next(StoreFull("the disk is full"))
    with pytest.raises(StoreFull):
        bench.order(Order.PAUSE, reason="new switches")
    bench.store.fail_next(StoreFull("the disk is full"))
    bench.finish(bench.commands[0], readings=off_twice(bench))
    with pytest.raises(StoreError, match="the disk is full"):
        bench.order(Order.PAUSE, reason="new switches")  # an answer waits for the store, and is first
    assert bench.engine.state.fleet.paused == ""
    bench.run(2)
    bench.order(Order.PAUSE, reason="new switches")
    assert bench.engine.state.fleet.paused == "new switches (tester)"


def test_an_answer_waits_until_the_store_works_again() -> None:
    bench = dying()
    bench.store.fail_next(StoreFull("the disk is full"))
    bench.finish(bench.commands[0], readings=off_twice(bench))
    (incident,) = bench.engine.state.incidents.values()
    assert incident.evidence is None
    bench.run(2)
    (incident,) = bench.engine.state.incidents.values()
    assert incident.evidence is not None
    assert incident.step is Step.FORCE_DOWN


def test_after_a_pause_it_looks_before_it_acts() -> None:
    bench = armed()
    bench.clock.at += 40
    bench.engine.tick()
    bench.take()
    assert all(v.suspect_at is None for v in bench.engine.views.values())
    bench.dead.add("c1")
    bench.run(9)
    assert bench.kinds() == []
    bench.run(3)
    assert bench.kinds() == [CommandKind.FENCE]


def test_all_silent_at_once_is_our_own_trouble() -> None:
    bench = armed()
    bench.dead.update(HOSTS)
    bench.run(30)
    assert bench.kinds() == []
    assert {i.verdict for i in bench.engine.state.incidents.values()} == {Verdict.UNKNOWN}


def test_over_the_storm_limit_nothing_is_fenced() -> None:
    bench = armed()
    bench.dead.update({"c1", "c2"})  # the limit for six hosts is one
    bench.run(30)
    assert bench.kinds() == []
    assert all("storm guard" in i.blocked for i in bench.engine.state.incidents.values())


def test_a_confirmation_is_bound_to_its_incident() -> None:
    bench = dying()
    bench.finish(bench.commands[0], Status.FAILED, error="no answer")
    (incident,) = bench.engine.state.incidents.values()
    assert incident.release == "ha-agent confirm-fenced c1"
    with pytest.raises(UsageError, match="not-this-one"):
        bench.order(Order.CONFIRM_FENCED, "c1", incident="not-this-one")
    with pytest.raises(UsageError, match="no open incident"):
        bench.order(Order.CONFIRM_FENCED, "c2")
    bench.order(Order.CONFIRM_FENCED, "c1", incident=incident.id)
    assert bench.kinds()[-1] is CommandKind.FORCE_DOWN


def test_a_report_alone_fences_nobody() -> None:
    bench = armed()
    bench.engine.observe(Reported(host="c1", at=bench.clock.at, source="nagios", text="no ping"))
    bench.run(30)
    assert bench.kinds() == []


def verdict_of(bench: Bench) -> Verdict:
    return bench.engine.views["c1"].verdict


def test_an_ordered_report_makes_a_suspect_and_fences_nobody_that_lives() -> None:
    bench = armed()
    bench.run(0.5)  # in the middle between two heartbeats
    bench.order(Order.REPORT, "c1", reason="no ping")
    assert verdict_of(bench) is Verdict.SUSPECT
    assert ReadBmc(host="c1") in bench.looks, "its devices are read"
    assert bench.engine.state.hosts["c1"].suspect_since is not None
    bench.run(30)
    assert verdict_of(bench) is Verdict.ALIVE
    assert bench.kinds() == []
    with pytest.raises(UsageError, match="not in the inventory"):
        bench.order(Order.REPORT, "stranger")


def test_an_ordered_report_of_a_dead_host_is_a_head_start() -> None:
    def dead_until_fenced(report: bool) -> float:
        bench = armed()
        bench.dead.add("c1")
        begun = bench.clock.at
        if report:
            bench.order(Order.REPORT, "c1", reason="no ping")
        while not bench.kinds():
            bench.run(0.25)
        assert bench.kinds() == [CommandKind.FENCE]
        return bench.clock.at - begun

    assert dead_until_fenced(report=True) <= dead_until_fenced(report=False) - 3


def test_an_order_for_a_living_host_is_carried_out() -> None:
    bench = armed()
    bench.order(Order.FENCE, "c2", reason="smoke")
    bench.run(3)
    assert bench.kinds() == [CommandKind.FENCE], "its heartbeats do not cancel what a person ordered"


def test_an_unknown_host_or_answer_changes_nothing() -> None:
    bench = dying()
    before = bench.engine.state
    bench.engine.feed(Finished(outcome=Outcome(command="f" * 32, status=Status.OK, readings=off_twice(bench))))
    bench.engine.observe(Heartbeat(host="stranger", at=bench.clock.at, boot_id="x"))
    assert bench.engine.state == before
    with pytest.raises(UsageError, match="not in the inventory"):
        bench.order(Order.FENCE, "stranger")


def test_a_controller_that_is_killed_soon_after_its_start_still_knows_who_may_deny_a_host() -> None:
    first = Bench()
    while not first.engine.witnesses("c1"):
        first.run(0.25)
    first.run(0.25)  # some milliseconds later it is noted
    first.order(Order.ARM)
    second = Bench(first.store, clock=first.clock)  # the same machine, after a kill -9
    second.dead.add("c1")
    second.run(30)
    assert [c.host for c in second.commands if c.kind is CommandKind.FENCE] == ["c1"]
    assert not [line for line in second.lines if "unknown" in line], "its first round asked nobody"


def test_what_nova_heard_before_the_off_revokes_nothing_but_a_signed_answer_does() -> None:
    bench = armed()
    bench.dead.add("c1")
    bench.run(5)
    row = ComputeService(id="1", host="c1", updated_at="before")
    bench.engine.observe(NovaSeen(host="c1", at=bench.clock.at, service=row))
    bench.run(5.5)
    bench.finish(bench.commands[0], readings=off_twice(bench))
    assert bench.kinds() == [CommandKind.FENCE, CommandKind.FORCE_DOWN]
    # its nova-compute had reported once more before the off, and our own call changed the row
    later = ComputeService(id="1", host="c1", updated_at="after", forced_down=True)
    bench.engine.observe(NovaSeen(host="c1", at=bench.clock.at, service=later))
    bench.run(4)
    assert bench.engine.views["c1"].verdict is Verdict.PARTITIONED
    (incident,) = bench.engine.state.incidents.values()
    assert incident.evidence is not None
    assert incident.step is Step.FORCE_DOWN
    bench.finish(bench.commands[1])
    survey = Survey(
        servers=(Server(id="s", host="c1", status="ACTIVE", tags=("automatic-recovery",), local_disk=False),)
    )
    bench.finish(bench.commands[-1], survey=survey)
    assert CommandKind.EVACUATE in bench.kinds()
    bench.witness = Answer.SIGNED
    bench.run(4)
    assert bench.kinds()[-1] is CommandKind.FENCE, "stop, fence again, resume"


def test_an_ordered_fence_of_a_living_host_can_be_withdrawn_but_not_confirmed() -> None:
    bench = armed()
    bench.order(Order.FENCE, "c2", reason="smoke")
    bench.run(2)
    bench.finish(bench.commands[0], Status.OK, readings=(Reading(device="bmc", power=Power.ON, at=bench.clock.at),))
    bench.run(1)
    (incident,) = bench.engine.state.incidents.values()
    assert incident.release == "ha-agent release c2", "nobody is told to confirm a host that sends heartbeats"
    with pytest.raises(UsageError, match="sends heartbeats"):
        bench.order(Order.CONFIRM_FENCED, "c2", incident=incident.id)
    bench.order(Order.FENCE, "c3")
    with pytest.raises(UsageError, match="sends heartbeats"):
        bench.order(Order.CONFIRM_FENCED, "c3")
    bench.order(Order.RELEASE, "c2")
    assert bench.engine.state.incidents[incident.id].phase is Phase.CLOSED


class Watched(Engine):
    """After every change: what is kept of it is what a look at everything would show."""

    looks = 0

    def _after_state(self, changed: Changed | None = None) -> None:
        super()._after_state(changed)
        incidents = self.state.incidents.values()
        open_ones = [i for i in incidents if i.phase is Phase.OPEN]
        assert set(self._open_hosts) == {i.host for i in open_ones}
        assert {self.open_of(i.host) for i in open_ones} <= {i.id for i in open_ones}
        assert self.open_of("nobody") == ""
        assert self._wake_at == next_wake(self.state)
        assert len(self._wakes) <= STALE_MAX + 3 * len(self._open) + len(incidents)
        self.looks += 1


def test_what_is_open_and_when_it_is_due_is_kept_up_to_date() -> None:
    for seed in (1, 4, 5, 8):
        stage = Stage(seed, Watched)
        stage.begin()
        stage.finish()
        engine = stage.sim.processes[0].engine
        assert isinstance(engine, Watched)
        assert engine.looks > 20
        assert not engine._open


def test_an_incident_that_closed_among_too_many_is_no_trouble() -> None:
    """A turn may close more incidents than are kept."""
    bench = dying()
    (key,) = bench.engine.state.incidents
    assert bench.engine.open_of("c1") == key
    bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents={})
    bench.engine._after_state(Changed(incidents=frozenset({key})))
    assert bench.engine.open_of("c1") == ""


def test_times_that_nobody_wants_any_more_are_cleaned_away() -> None:
    bench = dying()
    (incident,) = bench.engine.state.incidents.values()
    most = 0
    for second in range(1000):
        later = msgspec.structs.replace(incident, wake_at=5000.0 - second)
        bench.engine.state = msgspec.structs.replace(bench.engine.state, incidents={incident.id: later})
        bench.engine._after_state(Changed(incidents=frozenset({incident.id})))
        assert bench.engine._wake_at == 5000.0 - second
        most = max(most, len(bench.engine._wakes))
    assert 2 < most <= STALE_MAX + 3
