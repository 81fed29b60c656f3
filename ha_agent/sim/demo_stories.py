"""How each failure goes: what happens to the host, what a person does about it, and how the host comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ha_agent.model import Incident, Order
from ha_agent.sim.demo_world import World

NETWORK_S = 3.0  # how long the network stays cut after the alarm
AGENT_S = 20.0  # how long a crashed remote stays away
REBOOT_S = 1.0  # faster than anybody gets suspicious
REPAIR_S = 2.0  # how long a dead BMC takes to be replaced once the servers run again


class Stage(Protocol):
    """Where a story is played."""

    world: World

    def dies(self, text: str) -> None:
        """This is the moment of death."""

    def say(self, text: str) -> None:
        """Something happens in the world."""

    def incident(self) -> Incident | None:
        """The incident of the failed host."""

    async def order(self, order: Order, host: str = "", reason: str = "") -> None:
        """As the CLI would, over the controller's socket."""

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Waits. Raises TimeoutError, which names `what`."""


async def power(stage: Stage) -> None:
    """Everything gone at once; the BMC lives, for it has its own supply."""
    stage.dies(f"{stage.world.books.host} loses its power")
    stage.world.cut_power()


async def hang(stage: Stage) -> None:
    """Only the fence ends it."""
    stage.dies(f"the kernel of {stage.world.books.host} hangs")
    stage.world.failed.hang()


async def network(stage: Stage) -> None:
    """The host is well all the time."""
    stage.dies(f"the network between this controller and {stage.world.books.host} is cut")
    stage.world.failed.management.cut()
    await stage.until(lambda: stage.incident() is not None, "there is an alarm")
    await asyncio.sleep(NETWORK_S)
    stage.say("the network is mended")
    await stage.world.failed.management.mend()


async def reboot(stage: Stage) -> None:
    """Its guests die with the boot."""
    stage.dies(f"{stage.world.books.host} reboots by itself")
    stage.world.failed.power_off()
    stage.world.failed.power_on(REBOOT_S)


async def bmc_dead(stage: Stage) -> None:
    """Nothing proves that it is off, until somebody went to look."""
    host = stage.world.books.host
    stage.dies(f"{host} loses its power, and its BMC dies with it")
    stage.world.cut_power(bmc_dead=True)
    command = f"ha-agent confirm-fenced {host}"
    await stage.until(lambda: _is(stage, lambda incident: incident.release == command), f"{command} is asked for")
    stage.say(f"somebody goes and looks: {host} is off. {command}")
    await stage.order(Order.CONFIRM_FENCED, host, "went and looked")
    await stage.until(lambda: _is(stage, lambda incident: incident.settled), "the servers are settled")
    await asyncio.sleep(REPAIR_S)
    stage.say(f"the BMC of {host} is replaced, its power button pressed")
    stage.world.repair()


async def agent_crash(stage: Stage) -> None:
    """The host is well, and so is its nova-compute."""
    stage.dies(f"the remote of {stage.world.books.host} crashes")
    await stage.world.failed.agent_crash()
    await asyncio.sleep(AGENT_S)
    stage.say("the remote is started again")
    await stage.world.failed.agent_start()


def _is(stage: Stage, true: Callable[[Incident], bool]) -> bool:
    incident = stage.incident()
    return incident is not None and true(incident)


STORIES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "power": power,
    "hang": hang,
    "network": network,
    "reboot": reboot,
    "bmc-dead": bmc_dead,
    "agent-crash": agent_crash,
}
