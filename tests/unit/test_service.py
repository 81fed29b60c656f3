"""What systemd is told of the controller: in words, when, and above all when not."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.controller.service import Service, reloads, report, summary
from ha_agent.errors import ConfigError, HaAgentError
from tests.unit.test_daemon_feels import Time, controller

GOOD = "all is well"


class Loop:
    """One that a test turns."""

    def __init__(self) -> None:
        self.turns = 0
        self.late = False

    def alive(self) -> bool:
        return not self.late


class Systemd:
    """Hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, *assignments: str) -> None:
        self.heard += assignments

    def taken(self) -> list[str]:
        """What was heard since the last time."""
        heard, self.heard = self.heard, []
        return heard


def service(loop: Loop, text: str = GOOD) -> tuple[Service, Systemd]:
    systemd = Systemd()
    return Service(loop, lambda: text, systemd), systemd


def test_the_watchdog_is_petted_only_where_the_loop_has_turned() -> None:
    loop = Loop()
    told, systemd = service(loop)
    told.ready()
    assert systemd.taken() == ["READY=1", f"STATUS={GOOD}"]
    loop.turns = 1
    told.beat(watched=True)
    assert systemd.taken() == ["WATCHDOG=1"]
    told.beat(watched=True)
    assert systemd.taken() == [], "it stood still"
    loop.turns, loop.late = 2, True
    told.beat(watched=True)
    assert systemd.taken() == [], "its last turn is long ago"
    loop.turns, loop.late = 3, False
    told.beat(watched=True)
    assert systemd.taken() == ["WATCHDOG=1"]
    loop.turns = 4
    told.beat(watched=False)
    assert systemd.taken() == [], "systemd does not wait for one"


async def test_a_configuration_that_is_refused_is_seen_until_one_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    told, systemd = service(Loop())

    async def refused() -> None:
        raise ConfigError([("hosts.h1.address", "is missing", "add it"), ("cloud", "is missing", "add it")])

    async def taken() -> None:
        assert systemd.heard[0] == "RELOADING=1", "it is said before"
        assert "READY=1" not in systemd.heard

    await told.reload(refused)
    reloading, monotonic, ready, status = systemd.taken()
    assert (reloading, ready) == ("RELOADING=1", "READY=1")
    assert int(monotonic.removeprefix("MONOTONIC_USEC=")) > 0
    assert status == f"STATUS={GOOD}; NOT reloaded: hosts.h1.address: is missing, and 1 more"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "not reloaded: hosts.h1.address: is missing; add it",
        "not reloaded: cloud: is missing; add it",
    ]
    told.beat(watched=False)
    assert systemd.taken() == []
    await told.reload(taken)
    assert systemd.taken()[-2:] == ["READY=1", f"STATUS={GOOD}"]


@pytest.mark.parametrize("error", [HaAgentError("no such cloud"), OSError("no such file"), RuntimeError("a bug")])
async def test_whatever_fails_it_is_ready_again(error: Exception) -> None:
    told, systemd = service(Loop())

    async def failing() -> None:
        raise error

    await told.reload(failing)
    assert systemd.taken()[-2] == "READY=1"
    assert "NOT reloaded" in told.status()


async def test_ready_is_told_when_the_loop_turns_and_not_before() -> None:
    made = controller(Time(), OwnNetwork())
    systemd = Systemd()
    told = Service(made, lambda: summary(made), systemd)
    asked, loaded = asyncio.Event(), asyncio.Event()

    async def load() -> None:
        loaded.set()

    asked.set()
    beside = [asyncio.create_task(each) for each in (report(made, told), reloads(made, told, asked, load))]
    for _ in range(10):
        await asyncio.sleep(0)
    assert systemd.taken() == []
    assert not loaded.is_set()
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(10.0):
        await loaded.wait()
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    assert systemd.taken()[:2] == [
        "READY=1",
        "STATUS=leading (epoch 1), DISARMED: 0 of 1 hosts heard, no open incident",
    ]
    made.stop()
    await running
