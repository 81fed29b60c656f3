"""The daemon tells its lookout how well it is itself: how late its loop runs, its carriers, its gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ha_agent import selfdoubt
from ha_agent.controller.daemon import Controller
from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.policy import HostPolicy, Policy
from ha_agent.store.memory import MemoryStore
from tests.unit.test_executor import Cloud
from tests.unit.test_ownhost import machine

GATEWAY = "10.0.0.1         0x1         {}         02:00:00:00:00:01     *        eth0\n"


class Time:
    """A clock that a test moves, and a source of nothing in particular."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at

    def boot_id(self) -> str:
        return "boot"

    def uuid(self) -> str:
        return "id"

    nonce = uuid

    def uniform(self, low: float, high: float) -> float:
        return high


class Deaf:
    """A monitor that hears nobody."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Idle:
    """A fencer that has nothing to do."""

    async def close(self) -> None: ...


def controller(clock: Time, network: OwnNetwork) -> Controller:
    return Controller(
        name="c",
        policy=Policy(controller="c", hosts={"h": HostPolicy(name="h")}),
        store=MemoryStore(),
        clock=clock,
        random=clock,
        cloud=Cloud(),
        monitor=lambda observe: Deaf(),  # type: ignore[arg-type, return-value]
        fencer=lambda expected: Idle(),  # type: ignore[arg-type, return-value]
        outboxes=None,
        own_network=network,
    )


@asynccontextmanager
async def running(made: Controller) -> AsyncIterator[Controller]:
    run = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        made.stop()
        await run


async def turned(made: Controller) -> selfdoubt.Own:
    """What it felt in its next turn."""
    turns = made.turns
    made._wake.set()
    for _ in range(1000):
        if made.turns > turns:
            break
        await asyncio.sleep(0)
    assert made.turns > turns
    return made.engine.lookout.own


async def test_a_loop_that_was_blocked_is_felt_in_its_next_turn_and_remembered(tmp_path: Path) -> None:
    clock = Time()
    async with running(controller(clock, OwnNetwork(tmp_path))) as made:
        assert (await turned(made)).lag_s == 0.0
        clock.at += 2.5  # nothing of it ran meanwhile
        felt = await turned(made)
        assert felt.lag_s == pytest.approx(2.0), "the next turn was due within half a second"
        assert made.engine.lookout.sickness > 0
        assert (await turned(made)).lag_s == pytest.approx(2.0), "no time has passed"
        clock.at += 0.5
        assert (await turned(made)).lag_s == pytest.approx(selfdoubt.remembered(0.0, 2.0, 0.5))


async def test_a_controller_that_stands_still_again_and_again_is_not_ready_and_says_so(tmp_path: Path) -> None:
    clock = Time()
    async with running(controller(clock, OwnNetwork(tmp_path))) as made:
        for _ in range(2):
            clock.at += 4.0
            await turned(made)
        assert not any("stood still" in each for each in made.ready())
        assert made.readiness().notes == ("this controller stood still twice in the last 10 minutes",)
        assert "this controller stood still twice in the last 10 minutes" in made.notes()
        clock.at += 3.0  # pause_s and a second: late, and no pause
        await turned(made)
        assert made.counters()["pauses"] == 2.0
        clock.at += 3.1
        await turned(made)
        [told] = [each for each in made.ready() if "stood still 3 times" in each]
        assert told in made.readiness().controller
        assert not made.readiness().ready
        assert made.counters()["pauses"] == 3.0
        assert not any("stood still" in each for each in made.notes()), "once is enough"


def test_a_lag_between_two_turns_is_not_lost(tmp_path: Path) -> None:
    """It is measured more often than it is felt."""
    clock = Time()
    made = controller(clock, OwnNetwork(tmp_path))
    assert [made._late(100.0 - late_s) for late_s in (0.25, 3.0, 0.0, -1.0)] == [0.25, 3.0, 0.0, 0.0]
    made.engine.start()
    made._turn()
    assert made.engine.lookout.own.lag_s == 3.0
    clock.at += selfdoubt.LAG_HALVES_S
    made._turn()
    assert made.engine.lookout.own.lag_s == 1.5, "it counts once, then it fades"


async def test_a_lost_carrier_and_a_lost_gateway_are_felt(tmp_path: Path) -> None:
    clock, network = Time(), OwnNetwork(tmp_path)
    machine(tmp_path, {"eth0": "1", "eth1": "1"}, "10.0.0.1", GATEWAY.format("0x2"))
    network.look(90.0)
    machine(tmp_path, {"eth0": "1", "eth1": "0"}, "10.0.0.1", GATEWAY.format("0x0"))
    async with running(controller(clock, network)) as made:
        for _ in range(5000):  # a thread looks
            if network.gateway_lost_at is not None:
                break
            await asyncio.sleep(0.001)
        felt = await turned(made)
        assert (felt.no_carrier, felt.gateway_lost_at) == ((("eth1", 100.0),), 100.0)
