"""What a controller measures: of its store, its loop, its heartbeats and its incidents."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import msgspec
import pytest

from ha_agent.api.measured import Measure, Measured
from ha_agent.controller.measures import STAGES, Measures, Stages
from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.controller.timed_store import TimedStore
from ha_agent.errors import StoreError
from ha_agent.model import Fleet, Incident, Kind, State
from ha_agent.ports import Heartbeat, Put
from ha_agent.store.memory import MemoryStore
from tests.unit.api_support import CLOSED, DOWN
from tests.unit.test_daemon_feels import Time, controller

PACKAGE = Path(__file__).parents[2] / "ha_agent"


def test_a_value_falls_into_the_first_bucket_that_holds_it() -> None:
    measure = Measure("loop_lag_s", (1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 9.0):
        measure.add(value)
    assert measure.measured() == Measured(name="loop_lag_s", bounds=(1.0, 2.0), counts=(2, 2, 1), total=13.5)


def state(*incidents: Incident, epoch: int = 1) -> State:
    return State(fleet=Fleet(epoch=epoch), incidents={each.id: each for each in incidents})


def counted(stages: Stages) -> dict[str, float]:
    """By stage (silence: empty), the sum of what was counted."""
    return {each.of: each.total for each in stages.all() if any(each.counts)}


def test_each_stage_of_an_incident_is_counted_once() -> None:
    stages = Stages()
    stages.follow(state())
    stages.follow(state(DOWN))
    assert counted(stages) == {"": pytest.approx(10.2), "evidence": 1.5}
    stages.follow(state(DOWN))
    later = msgspec.structs.replace(DOWN, stage_at={**DOWN.stage_at, "force_down": 104.0})
    stages.follow(state(later))
    stages.follow(state(later, CLOSED))
    assert counted(stages) == {"": pytest.approx(10.2), "evidence": 5.5, "first_evacuate": 4.5, "force_down": 4.0}
    stages.follow(state())  # forgotten, as old ones are
    assert counted(stages)["evidence"] == 5.5


def test_every_stage_that_the_core_notes_is_there_before_the_first_incident() -> None:
    sources = "".join(path.read_text("utf-8") for path in (PACKAGE / "decide").glob("*.py"))
    noted = re.findall(r"\bmark\((?:[^()]|\([^()]*\))*?, \"(\w+)\"\)", sources)
    assert len(noted) >= 7
    assert set(noted) == set(STAGES)


def test_what_happened_under_another_leader_is_not_counted_again() -> None:
    stages = Stages()
    stages.follow(state(DOWN))
    assert counted(stages) == {}, "it was in the journal when this process started"
    stages.follow(state(DOWN, CLOSED, epoch=2))
    assert counted(stages) == {}, "it was in the journal when this controller took over"


def test_a_guest_has_no_heartbeat() -> None:
    stages = Stages()
    stages.follow(state())
    stages.follow(state(msgspec.structs.replace(DOWN, kind=Kind.GUEST)))
    assert "" not in counted(stages)


def test_every_call_of_the_store_is_measured_also_one_that_fails() -> None:
    memory, measures, times = MemoryStore(), Measures(), itertools.count(step=0.25)
    store = TimedStore(memory, measures, lambda: next(times))
    lease = store.take_lease("c", 10.0, store.read_lease())
    store.commit(lease.epoch, [Put(kind="k", key="a", body=b"{}")])
    assert (store.get("k", "a"), store.list("k")) == (memory.get("k", "a"), memory.list("k"))
    memory.fail_next(StoreError("the disk is gone"))
    with pytest.raises(StoreError):
        store.commit(lease.epoch, [Put(kind="k", key="b", body=b"{}")])
    store.renew_lease("c", lease.epoch)
    store.release_lease("c", lease.epoch)
    assert store.store_id == memory.store_id
    written, read = measures.store_write.measured(), measures.store_read.measured()
    assert (sum(written.counts), written.total) == (5, 1.25)
    assert (sum(read.counts), read.total) == (3, 0.75)


def beat(at: float, boot_id: str = "b1", rtt_s: float = 0.002) -> Heartbeat:
    return Heartbeat(host="h", at=at, boot_id=boot_id, rtt_s=rtt_s)


def test_heartbeats_that_did_not_come_are_counted(tmp_path: Path) -> None:
    clock = Time()
    made = controller(clock, OwnNetwork(tmp_path))
    made.engine.start()
    for at in (100.0, 101.0, 102.3, 104.5, 104.6, 110.0):  # due every second
        clock.at = at
        made.observe(beat(at))
    assert made.counters()["heartbeats_missed"] == 1 + 4
    clock.at = 150.0
    made.observe(beat(150.0, "b2", rtt_s=0.0))  # it was off meanwhile
    assert (made.counters()["heartbeats_missed"], made.counters()["heartbeats"]) == (5, 7)
    trips = next(each for each in made.measures() if each.name == "round_trip_s")
    assert sum(trips.counts) == 6
    assert trips.total == pytest.approx(0.012)


def test_the_lag_of_the_loop_is_measured_when_it_turns(tmp_path: Path) -> None:
    made = controller(Time(), OwnNetwork(tmp_path))
    made._measures.loop_lag.add(made._late(99.0))
    lag = next(each for each in made.measures() if each.name == "loop_lag_s")
    assert (sum(lag.counts), lag.total) == (1, 1.0)
