"""The executor: permission before each sending, and exactly one outcome for each command, whatever its driver does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ha_agent.controller.effects import Do, ReadBmc, ReadNova
from ha_agent.controller.executor import Executor
from ha_agent.controller.nova_calls import survey
from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import (
    Command,
    CommandKind,
    ComputeService,
    Finished,
    Migration,
    Outcome,
    Power,
    Presence,
    Reading,
    Server,
    Status,
    Step,
)
from ha_agent.policy import HostPolicy, Policy, Recovery
from ha_agent.ports import AnyObservation, NovaSeen, PowerSeen

POLICY = Policy(hosts={"c1": HostPolicy(name="c1", recovery=Recovery(api_max_s=0.5))})
OFF = Reading(device="bmc", power=Power.OFF, at=1.0)


class Clock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "b"


class Cloud:
    """Says what it was called with; `fails` is raised by everything."""

    def __init__(self) -> None:
        self.called: list[tuple[Any, ...]] = []
        self.fails: Exception | None = None
        self.state: str | None = "up"

    def _note(self, *call: Any) -> None:
        self.called.append(call)
        if self.fails is not None:
            raise self.fails

    def services(self) -> Sequence[ComputeService]:
        self._note("services")
        return [ComputeService(id="1", host="c1", state=self.state)]

    def force_down(self, host: str, value: bool) -> None:
        self._note("force_down", host, value)

    def servers(self, host: str) -> Sequence[Server]:
        self._note("servers", host)
        return [Server(id="s1", host=host)]

    def migrations(self, host: str) -> Sequence[Migration]:
        self._note("migrations", host)
        return [Migration(id=3, server="s1", kind="evacuation", status="done", source="c0", dest=host)]

    def evacuations(self, source: str) -> Sequence[Migration]:
        self._note("evacuations", source)
        return []

    def unfinished_evacuations(self) -> Sequence[Migration]:
        self._note("unfinished")
        return [
            Migration(id=5, server="s1", kind="evacuation", status="accepted", source="c0", dest="c9"),
            Migration(id=6, server="other", kind="evacuation", status="accepted", source="c0", dest="c9"),
        ]

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        self._note("evacuate", server, host, judged)

    def start(self, server: str) -> None:
        self._note("start", server)

    def stop(self, server: str) -> None:
        self._note("stop", server)

    def reboot(self, server: str) -> None:
        self._note("reboot", server)

    def last_reboot(self, server: str) -> str:
        self._note("last_reboot", server)
        return "req-1"

    def api_max_s(self) -> float:
        return 0.5


class Fencer:
    """`hangs`: an off that never ends by itself."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.hangs = False
        self.ended: list[str] = []

    def levels(self, host: str) -> int:
        return 1

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.called.append("off")
        try:
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.ended.append("off")
        return [OFF]

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.called.append("read")
        return [OFF]

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self.called.append("on")
        return [OFF]

    async def cancel(self, host: str) -> None:
        self.called.append("cancel")

    async def close(self) -> None:
        self.called.append("close")


class Monitor:
    def __init__(self) -> None:
        self.called: list[tuple[str, ...]] = []

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None: ...

    def acknowledge(self, host: str, report: str) -> None:
        self.called.append(("acknowledge", host, report))

    async def open_gate(self, host: str, boot_id: str, deadline_s: float) -> None:
        self.called.append(("open_gate", host, boot_id))

    async def domain(self, host: str, server: str, deadline_s: float) -> Presence:
        self.called.append(("domain", host, server))
        return Presence(present=False)


class Bench:
    def __init__(self) -> None:
        self.cloud, self.fencer, self.monitor = Cloud(), Fencer(), Monitor()
        self.outcomes: list[Outcome] = []
        self.seen: list[AnyObservation] = []
        self.refusal = ""
        self.asked: list[CommandKind] = []
        self.executor = Executor(
            permit=self.permit,
            feed=self.feed,
            observe=self.seen.append,
            policy=POLICY,
            clock=Clock(),
            cloud=self.cloud,
            fencer=self.fencer,
            monitor=self.monitor,
        )

    def permit(self, command: Command) -> str:
        self.asked.append(command.kind)
        return self.refusal

    def feed(self, finished: Finished) -> None:
        self.outcomes.append(finished.outcome)

    def send(self, *commands: Command) -> None:
        self.executor.carry_out([Do(command=c) for c in commands])

    async def run(self, *commands: Command) -> list[Outcome]:
        self.send(*commands)
        await self.until(len(commands))
        return self.outcomes

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.outcomes) < count:  # noqa: ASYNC110 - what feeds the outcomes is the thing under test
                await asyncio.sleep(0)


def command(kind: CommandKind, subject: str = "c1", id: str = "x", **fields: Any) -> Command:
    return Command(
        id=id, incident="i", step=Step.EVACUATE, kind=kind, subject=subject, host="c1", epoch=1, attempt=1, **fields
    )


PERMITTED = [
    (CommandKind.FENCE, "c1"),
    (CommandKind.POWER_ON, "c1"),
    (CommandKind.OPEN_GATE, "c1"),
    (CommandKind.FORCE_DOWN, "c1"),
    (CommandKind.CLEAR_FORCE_DOWN, "c1"),
    (CommandKind.EVACUATE, "s1"),
    (CommandKind.START, "s1"),
    (CommandKind.STOP, "s1"),
    (CommandKind.REBOOT, "s1"),
]


@pytest.mark.parametrize(("kind", "subject"), PERMITTED)
async def test_nothing_is_sent_without_permission(kind: CommandKind, subject: str) -> None:
    bench = Bench()
    bench.refusal = "the lease is over"
    (outcome,) = await bench.run(command(kind, subject))
    assert bench.asked == [kind]
    assert (outcome.status, outcome.error) == (Status.FAILED, "not sent: the lease is over")
    assert bench.cloud.called == []
    assert bench.monitor.called == []
    assert set(bench.fencer.called) <= {"cancel"}


@pytest.mark.parametrize(
    ("kind", "subject", "called"),
    [
        (CommandKind.FORCE_DOWN, "c1", ("force_down", "c1", True)),
        (CommandKind.CLEAR_FORCE_DOWN, "c1", ("force_down", "c1", False)),
        (CommandKind.EVACUATE, "s1", ("evacuate", "s1", "c1", 7)),
        (CommandKind.START, "s1", ("start", "s1")),
        (CommandKind.STOP, "s1", ("stop", "s1")),
        (CommandKind.REBOOT, "s1", ("reboot", "s1")),
        (CommandKind.FOLLOW, "c1", ("evacuations", "c1")),
        (CommandKind.LAST_REBOOT, "s1", ("last_reboot", "s1")),
    ],
)
async def test_each_command_is_one_call(kind: CommandKind, subject: str, called: tuple[Any, ...]) -> None:
    bench = Bench()
    (outcome,) = await bench.run(command(kind, subject, judged=7))
    assert outcome.status is Status.OK
    assert bench.cloud.called == [called]
    assert outcome.last_reboot == ("req-1" if kind is CommandKind.LAST_REBOOT else "")


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (DriverError("409: it is locked"), Status.FAILED),
        (Unanswered("the connection broke"), Status.LOST),
        (TimeoutError(), Status.LOST),
        (ValueError("a bug of the driver"), Status.LOST),
    ],
)
async def test_what_is_not_certain_is_lost(failure: Exception, status: Status) -> None:
    bench = Bench()
    bench.cloud.fails = failure
    (outcome,) = await bench.run(command(CommandKind.EVACUATE, "s1"))
    assert outcome.status is status
    assert outcome.error


async def test_a_failed_look_up_fails_the_whole_survey() -> None:
    bench = Bench()
    bench.cloud.state = None
    (outcome,) = await bench.run(command(CommandKind.SURVEY))
    assert outcome.status is Status.FAILED, "a cell that is down may leave rows out without a word"
    assert outcome.survey is None


def test_a_survey_names_unfinished_evacuations_of_these_servers_only() -> None:
    found = survey(Cloud(), "c1")
    assert [m.id for m in found.migrations] == [5, 3]
    assert found.service is not None


async def test_an_off_is_dead_before_a_power_on_is_permitted() -> None:
    bench = Bench()
    bench.fencer.hangs = True
    bench.send(command(CommandKind.FENCE, id="off"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.fencer.called == ["off"]
    (outcome,) = await bench.run(command(CommandKind.POWER_ON, id="on"))
    assert outcome.command == "on"
    assert bench.fencer.ended == ["off"]
    assert bench.fencer.called[-2:] == ["cancel", "on"]


async def test_a_fence_that_is_cancelled_before_it_began_never_does_and_a_later_one_is_left_alone() -> None:
    bench = Bench()
    first, end, second = (
        command(CommandKind.FENCE, id="first"),
        command(CommandKind.CANCEL_FENCE, id="end"),
        command(CommandKind.FENCE, id="second"),
    )
    bench.send(first, end, second)
    await bench.until(2)
    assert sorted(o.command for o in bench.outcomes) == ["end", "second"]
    assert bench.asked == [CommandKind.FENCE]


async def test_looks_become_observations_and_a_drivers_bug_is_none() -> None:
    bench = Bench()
    bench.executor.carry_out([ReadBmc(host="c1"), ReadNova(host="c1")])
    async with asyncio.timeout(5):
        while len(bench.seen) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    assert {type(o) for o in bench.seen} == {PowerSeen, NovaSeen}
    bench = Bench()
    bench.cloud.fails = ValueError("a bug")
    bench.executor.carry_out([ReadNova(host="c1")])
    async with asyncio.timeout(5):
        while not bench.seen:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    (seen,) = bench.seen
    assert isinstance(seen, NovaSeen)
    assert seen.service is None


async def test_stopping_leaves_no_attempt_behind() -> None:
    bench = Bench()
    bench.fencer.hangs = True
    bench.send(command(CommandKind.FENCE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await bench.executor.stop()
    assert bench.fencer.ended == ["off"]
    assert bench.fencer.called[-1] == "close"
    assert bench.outcomes == [], "the intent stays journalled: it is resumed as unanswered"
