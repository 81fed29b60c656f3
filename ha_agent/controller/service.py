"""The controller as a service: what systemd is told of it, and SIGHUP.

READY after the first turn of the loop, STATUS when it changed, WATCHDOG only where the loop has turned since the last one, RELOADING while a
configuration is read. Without systemd nobody listens, and SIGHUP works all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from ha_agent import sdnotify
from ha_agent.controller.daemon import Controller
from ha_agent.errors import ConfigError, HaAgentError
from ha_agent.model import Phase

STATUS_S = 1.0
NAMED = 3  # open incidents that are named; more are counted

log = logging.getLogger("ha_agent")


class Loop(Protocol):
    """What a service shows of itself; a Controller does."""

    turns: int

    def alive(self) -> bool:
        """Whether its last turn is not long ago."""


class Service:
    """Tells systemd. `summary`: one line, what it is doing now; `notify` as in sdnotify."""

    def __init__(self, loop: Loop, summary: Callable[[], str], notify: Callable[..., object] = sdnotify.notify) -> None:
        self._loop = loop
        self._summary = summary
        self._notify = notify
        self._told = ""
        self._turns = -1
        self.refused = ""  # why the configuration that is on the disk is not the one that runs

    def status(self) -> str:
        """One line, what it is doing now."""
        return self._summary() + (f"; NOT reloaded: {self.refused}" if self.refused else "")

    def ready(self) -> None:
        """It works, or works again."""
        self._told = self.status()
        self._notify("READY=1", f"STATUS={self._told}")

    def stopping(self) -> None:
        """It ends: its fencing workers first, the lease last."""
        self._notify("STOPPING=1", "STATUS=stopping")

    def beat(self, *, watched: bool) -> None:
        """To be called now and then. `watched`: systemd waits for WATCHDOG. A loop that stood still since the last call gets none."""
        if (text := self.status()) != self._told:
            self._notify(f"STATUS={text}")
            self._told = text
        turns = self._loop.turns
        if watched and turns != self._turns and self._loop.alive():
            self._notify("WATCHDOG=1")
        self._turns = turns

    async def reload(self, load: Callable[[], Awaitable[None]]) -> None:
        """A configuration, whole or not at all: where `load` raises, nothing has changed, and the status says why until the next."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={sdnotify.monotonic_usec()}")
        try:
            await load()
            self.refused = ""
        except ConfigError as error:
            for field, problem, fix in error.problems:
                log.error("not reloaded: %s: %s; %s", field, problem, fix)
            field, problem, _ = error.problems[0]
            more = len(error.problems) - 1
            self.refused = f"{field}: {problem}" + (f", and {more} more" if more else "")
        except (HaAgentError, OSError) as error:
            log.error("not reloaded: %s", error)
            self.refused = str(error)
        except Exception as error:
            log.exception("not reloaded, a bug")
            self.refused = f"{type(error).__name__}; see the log"
        finally:
            self.ready()


def summary(controller: Controller) -> str:
    """One line: what it is doing now."""
    engine = controller.engine
    fleet = engine.state.fleet
    incidents = [i for i in engine.state.incidents.values() if i.phase is Phase.OPEN]
    alive = sum(v.suspect_at is None and v.heard_at is not None for v in engine.views.values())
    role = f"leading (epoch {engine.epoch})" if engine.leading else "standby"
    held = ("" if fleet.armed else ", DISARMED") + (", PAUSED" if fleet.paused else "")
    named = [f"{i.subject} [{i.step}]" + (f" BLOCKED: {i.blocked}" if i.blocked else "") for i in incidents[:NAMED]]
    more = len(incidents) - len(named)
    doing = "; ".join([*named, *([f"{more} more"] if more else [])]) or "no open incident"
    return f"{role}{held}: {alive} of {len(engine.views)} hosts heard, {doing}"


async def report(controller: Controller, service: Service) -> None:
    """READY when the loop turns, then beats. A task beside `Controller.run`."""
    await controller.turning.wait()
    service.ready()
    interval_s = sdnotify.watchdog_interval_s()
    while True:
        service.beat(watched=interval_s is not None)
        await asyncio.sleep(min(STATUS_S, interval_s or STATUS_S))


async def reloads(
    controller: Controller, service: Service, asked: asyncio.Event, load: Callable[[], Awaitable[None]]
) -> None:
    """A reload whenever it is asked for, one after the other. A task beside `Controller.run`."""
    await controller.turning.wait()  # it is not ready before
    while True:
        await asked.wait()
        asked.clear()
        await service.reload(load)
