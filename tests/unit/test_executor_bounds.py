"""The executor's bounds: how much at once, for how long, and what is left when it stops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ha_agent.controller.effects import ReadBmc, ReadNova
from ha_agent.controller.executor import Executor
from ha_agent.errors import HaAgentError, Unanswered
from ha_agent.model import CommandKind, ComputeService, Presence, Reading, Server, Status
from ha_agent.policy import Fencing, HostPolicy, Policy, Recovery
from ha_agent.ports import NovaSeen
from tests.unit.test_executor import Bench, Cloud, Fencer, Monitor, command


class SetClock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "b"


class StuckCloud(Cloud):
    """Every call waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.ended = 0

    def _note(self, *call: Any) -> None:
        super()._note(*call)
        self.go.wait(5)
        self.ended += 1


class TimedFencer(Fencer):
    """Notes the deadlines; `fails` is raised by an off."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Exception | None = None
        self.deadlines: list[tuple[str, float]] = []

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.deadlines.append(("off", deadline_s))
        if self.fails is not None:
            raise self.fails
        return await super().off(host, level, deadline_s)

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.deadlines.append(("read", deadline_s))
        return await super().read(host, level, deadline_s)


class TimedMonitor(Monitor):
    """Notes the deadlines."""

    async def open_gate(self, host: str, boot_id: str, deadline_s: float) -> None:
        self.called.append(("open_gate", str(deadline_s)))

    async def domain(self, host: str, server: str, deadline_s: float) -> Presence:
        self.called.append(("domain", str(deadline_s)))
        return Presence(present=True)


class TunedBench(Bench):
    def __init__(self, cloud: Cloud | None = None, api_max_s: float = 5.0) -> None:
        super().__init__()
        self.cloud = cloud or Cloud()
        self.fencer: TimedFencer = TimedFencer()
        self.monitor: TimedMonitor = TimedMonitor()
        self.clock = SetClock()
        hosts = {
            "c1": HostPolicy(
                name="c1", recovery=Recovery(api_max_s=api_max_s), fencing=Fencing(attempt_s=7.0, read_s=2.0)
            ),
            "by-hand": HostPolicy(name="by-hand", fencing=Fencing(levels=())),
        }
        self.executor = Executor(
            permit=self.permit,
            feed=self.feed,
            observe=self.seen.append,
            policy=Policy(hosts=hosts),
            clock=self.clock,
            cloud=self.cloud,
            fencer=self.fencer,
            monitor=self.monitor,
        )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what makes it true is the thing under test
            await asyncio.sleep(0.001)


async def a_while() -> None:
    """What is about to happen has happened."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_nova_is_asked_sixteen_things_at_once_and_the_next_one_is_not_even_permitted() -> None:
    cloud = StuckCloud()
    bench = TunedBench(cloud)
    bench.send(*(command(CommandKind.START, f"s{n}", id=str(n)) for n in range(17)))
    await until(lambda: len(cloud.called) == 16)
    await a_while()
    assert (len(cloud.called), len(bench.asked)) == (16, 16)
    cloud.go.set()
    await bench.until(17)
    assert len(cloud.called) == 17


async def test_a_thread_is_free_when_its_call_has_ended_not_when_nobody_waits_for_it_any_more() -> None:
    cloud = StuckCloud()
    bench = TunedBench(cloud, api_max_s=0.4)
    bench.send(*(command(CommandKind.START, f"s{n}", id=str(n)) for n in range(17)))
    await bench.until(16)
    await a_while()
    assert {o.status for o in bench.outcomes} == {Status.LOST}
    assert "in time" in bench.outcomes[0].error
    assert len(bench.asked) == 16
    cloud.go.set()
    await bench.until(17)
    assert bench.outcomes[-1].status is Status.OK


async def test_a_refusal_leaves_its_thread_to_the_next() -> None:
    bench = TunedBench()
    bench.refusal = "no"
    await bench.run(*(command(CommandKind.START, f"s{n}", id=str(n)) for n in range(40)))
    assert {o.status for o in bench.outcomes} == {Status.FAILED}


async def test_two_looks_at_once_and_what_waits_is_dropped_at_the_end() -> None:
    cloud = StuckCloud()
    bench = TunedBench(cloud)
    looks = [asyncio.ensure_future(bench.executor.look(lambda n=n: cloud.start(f"s{n}"))) for n in range(3)]  # type: ignore[misc]
    await until(lambda: len(cloud.called) == 2)
    await a_while()
    assert len(cloud.called) == 2
    await bench.executor.stop()
    assert cloud.ended == 0, "it does not wait for them"
    cloud.go.set()
    await asyncio.gather(*looks[:2])
    with pytest.raises(asyncio.CancelledError):
        await looks[2]
    assert len(cloud.called) == 2


async def test_it_stops_although_nova_hangs() -> None:
    cloud = StuckCloud()
    bench = TunedBench(cloud)
    bench.send(command(CommandKind.START, "s1"))
    await until(lambda: bool(cloud.called))
    await bench.executor.stop()
    assert cloud.ended == 0
    assert bench.fencer.called == ["close"], "there was no attempt to be ended"
    cloud.go.set()


async def test_a_look_ends_after_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = StuckCloud()
    bench = TunedBench(cloud)
    loop = asyncio.get_running_loop()
    # the time-out is asyncio's own and runs by the loop's clock: it is set forward, so that nobody waits half a minute
    real, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    look = asyncio.ensure_future(bench.executor.look(lambda: cloud.start("s1")))
    await until(lambda: bool(cloud.called))
    for ahead, ended in ((29.0, False), (30.1, True)):  # noqa: B007 - the loop's clock reads it
        for _ in range(5):
            await asyncio.sleep(0)
        assert look.done() is ended
    with pytest.raises(TimeoutError):
        await look
    cloud.go.set()


async def test_an_attempt_that_is_cancelled_is_ended_at_its_device_too() -> None:
    bench = TunedBench()
    bench.fencer.hangs = True
    bench.send(command(CommandKind.FENCE))
    await until(lambda: "off" in bench.fencer.called)
    await bench.executor.stop()
    assert bench.fencer.called == ["off", "cancel", "close"]


# --- deadlines ---


async def test_each_device_gets_the_time_that_policy_gives() -> None:
    bench = TunedBench()
    (outcome,) = await bench.run(command(CommandKind.FENCE))
    (read,) = [
        o
        for o in await bench.run(command(CommandKind.READ_POWER, id="r"), command(CommandKind.STOP, "s1", id="s"))
        if o.command == "r"
    ]
    assert bench.fencer.deadlines == [("off", 7.0), ("read", 2.0)]
    assert (outcome.status, read.status) == (Status.OK, Status.OK)
    assert [r.device for r in read.readings] == ["bmc"]


async def test_a_host_that_left_the_inventory_gets_the_default_times() -> None:
    bench = TunedBench()
    one = command(CommandKind.READ_POWER)
    gone = type(one)(**{**{f: getattr(one, f) for f in one.__struct_fields__}, "host": "gone"})
    await bench.run(gone)
    assert bench.fencer.deadlines == [("read", Fencing().read_s)]


async def test_a_remote_has_three_seconds() -> None:
    bench = TunedBench()
    await bench.run(command(CommandKind.OPEN_GATE, id="gate"), command(CommandKind.CHECK_ABSENT, "s1", id="absent"))
    assert sorted(bench.monitor.called) == [("domain", "3.0"), ("open_gate", "3.0")]
    by_id = {o.command: o for o in bench.outcomes}
    assert by_id["gate"].status is Status.OK
    assert (by_id["absent"].status, by_id["absent"].presence) == (Status.OK, Presence(present=True))


# --- outcomes ---


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (TimeoutError(), "no answer in time"),
        (Unanswered("the connection broke"), "the connection broke"),
        (HaAgentError("half an answer"), "half an answer"),
        (ValueError("a bug"), "ValueError: a bug"),
    ],
)
async def test_why_an_answer_is_unknown_is_said(failure: Exception, error: str) -> None:
    bench = TunedBench()
    bench.fencer.fails = failure
    (outcome,) = await bench.run(command(CommandKind.FENCE))
    assert (outcome.status, outcome.error) == (Status.LOST, error)


async def test_a_cancelling_ends_well_where_there_was_nothing_to_cancel() -> None:
    bench = TunedBench()
    (outcome,) = await bench.run(command(CommandKind.CANCEL_FENCE))
    assert outcome.status is Status.OK
    assert bench.fencer.called == ["cancel"]


async def test_the_servers_of_several_hosts_are_one_listing() -> None:
    bench = TunedBench()
    (outcome,) = await bench.run(command(CommandKind.LIST_SERVERS, hosts=("c2", "c3")))
    assert outcome.survey is not None
    assert outcome.survey.servers == (Server(id="s1", host="c2"), Server(id="s1", host="c3"))


async def test_a_survey_of_a_host_without_a_service_is_one() -> None:
    bench = TunedBench()
    bench.cloud.services = lambda: []  # type: ignore[method-assign]
    (outcome,) = await bench.run(command(CommandKind.SURVEY))
    assert outcome.status is Status.OK
    assert outcome.survey is not None
    assert outcome.survey.service is None


# --- looks ---


async def test_a_host_that_is_fenced_by_hand_or_unknown_is_not_read() -> None:
    bench = TunedBench()
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    bench.executor.carry_out([ReadBmc(host="by-hand"), ReadBmc(host="gone"), ReadBmc(host="c1")])
    await until(lambda: bool(bench.seen))
    await a_while()
    assert [o.host for o in bench.seen] == ["c1"]
    assert bench.fencer.called == ["read"]
    gc.collect()
    assert failed == []


async def read_nova(bench: TunedBench, host: str = "c1") -> NovaSeen:
    before = len(bench.seen)
    bench.executor.carry_out([ReadNova(host=host)])
    await until(lambda: len(bench.seen) > before)
    seen = bench.seen[-1]
    assert isinstance(seen, NovaSeen)
    return seen


async def test_all_suspects_share_one_listing_of_services_for_half_a_second() -> None:
    bench = TunedBench()
    row = ComputeService(id="1", host="c1", state="up")
    assert await read_nova(bench) == NovaSeen(host="c1", at=100.0, service=row)
    bench.clock.at = 100.5
    assert await read_nova(bench) == NovaSeen(host="c1", at=100.0, service=row), "it is as old as its question"
    assert await read_nova(bench, "c9") == NovaSeen(host="c9", at=100.0, no_such_row=True)
    assert bench.cloud.called == [("services",)]
    bench.clock.at = 100.6
    assert (await read_nova(bench)).at == 100.6
    assert bench.cloud.called == [("services",)] * 2


async def test_a_listing_that_failed_is_shared_too() -> None:
    bench = TunedBench()
    bench.cloud.fails = Unanswered("500")
    assert await read_nova(bench) == NovaSeen(host="c1", at=100.0), "whether it has such a row is not known"
    bench.cloud.fails = None
    assert (await read_nova(bench)).service is None
    assert bench.cloud.called == [("services",)]


async def test_the_first_look_is_made_however_young_the_machine_is() -> None:
    bench = TunedBench()
    bench.clock.at = 0.5
    assert (await read_nova(bench)).service is not None
