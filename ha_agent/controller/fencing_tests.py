"""Fencing tests: a host in maintenance is switched off and on again by its fencing levels, because somebody asked. One at a time for a host;
it runs in the controller, and ends there whether or not anybody still watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from ha_agent.api.fencing_tests import Asked, FencingTest, LevelTest, LevelVerdict
from ha_agent.controller.engine import Engine
from ha_agent.controller.fencing_cycle import POLL_S, Cycle
from ha_agent.controller.fencing_permit import Permit
from ha_agent.controller.fencing_view import FencingView, known
from ha_agent.errors import HaAgentError, LeaseLost, UsageError
from ha_agent.model import MIGRATION_ENDED, Survey
from ha_agent.policy import HostPolicy
from ha_agent.ports import Clock, Fencer

GATE_S = 60.0  # until the incident that lets a rebooted host's nova-compute start has ended

log = logging.getLogger("ha_agent")

Look = Callable[[str], Awaitable[Survey]]
replace = msgspec.structs.replace


class FencingTests:
    """See the module. `look`: what Nova says of a host. `drivers`: (host, device) -> driver. `line` takes one sentence for the log. `sleep` takes
    seconds."""

    def __init__(
        self,
        engine: Engine,
        *,
        fencer: Fencer,
        view: FencingView,
        clock: Clock,
        look: Look,
        drivers: Callable[[], dict[tuple[str, str], str]],
        line: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._fencer = fencer
        self._view = view
        self._clock = clock
        self._look = look
        self._drivers = drivers
        self._line = line
        self._sleep = sleep
        self._tests: dict[str, FencingTest] = {}  # by host: the last one
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def running(self, host: str) -> str:
        """Who asked for the test that runs; empty: none does."""
        found = self._tests.get(host)
        return found.actor if found is not None and not found.ended else ""

    def last(self, host: str) -> FencingTest:
        """The test that runs, or the last one since the controller's start. Raises UsageError where there is none."""
        known(self._engine.policy, host)
        found = self._tests.get(host)
        if found is None:
            raise UsageError(
                f"no fencing of {host} was tested since this controller started",
                "if one ran when it stopped, the host may be off: look",
            )
        return found

    async def begin(self, host: str, asked: Asked, actor: str) -> FencingTest:
        """Returns when it runs. Raises UsageError where it must not be (nothing was sent), LeaseLost where this controller does not lead."""
        policy = known(self._engine.policy, host)
        if not self._engine.leading:
            raise LeaseLost(f"{self._engine.name} does not lead", "ask the controller that does")
        levels = self._levels(policy, asked)
        permit = Permit(self._engine, host)
        self._refuse(permit, host)
        servers = "" if asked.with_servers else await self._servers(host)
        if servers:
            raise UsageError(servers, f"if they may die with it: ha-agent fencing test {host} --with-servers")
        self._refuse(permit, host)  # again: it was asked of Nova meanwhile
        test = FencingTest(
            id=self._engine.random.uuid(),
            host=host,
            actor=actor,
            began_wall=self._clock.wall(),
            levels=tuple(LevelTest(level=level + 1) for level in levels),
        )
        self._tests[host] = test
        some = ", ".join(str(level + 1) for level in levels)
        self._line(f"{host}: {actor} tests its fencing: it is switched off and on again by level {some}")
        self._tasks[host] = asyncio.create_task(self._run(policy, permit, levels, asked))
        return test

    async def stop(self) -> None:
        """No test runs when it returns. A host that was switched off stays off."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # --- what stands before it ---

    def _levels(self, policy: HostPolicy, asked: Asked) -> list[int]:
        """Those to be tested, counted from 0."""
        host, count = policy.name, len(policy.fencing.levels)
        if not count:
            raise UsageError(f"{host} has no fencing device", f"see: ha-agent fencing plan {host}")
        if asked.level is not None and asked.level > count:
            raise UsageError(f"level: {host} has {count}, not {asked.level}", f"see: ha-agent fencing plan {host}")
        levels = list(range(count)) if asked.level is None else [asked.level - 1]
        if all(self._by_hand(policy, level) for level in levels):
            raise UsageError(f"level: a person is part of it, nothing of {host} can be tested", "name another one")
        return levels

    def _by_hand(self, policy: HostPolicy, level: int) -> bool:
        drivers = self._drivers()
        return any(drivers.get((policy.name, name)) == "manual" for name in policy.fencing.levels[level])

    def _refuse(self, permit: Permit, host: str) -> None:
        actor = self.running(host)
        if actor:
            raise UsageError(
                f"{actor} tests the fencing of {host} already", f"watch it: ha-agent fencing test {host} --follow"
            )
        refusal = permit.off()
        if refusal is not None:
            raise UsageError(f"{refusal.reason}; nothing was sent", refusal.release)

    async def _servers(self, host: str) -> str:
        """Why the host is not known to be empty. What Nova does not say is not "none" (S9)."""
        try:
            found = await self._look(host)
        except (HaAgentError, TimeoutError) as error:
            return f"Nova cannot say which servers are on {host}: {str(error) or 'no answer in time'}; nothing was sent"
        except Exception as error:
            log.exception("a driver failed in an unexpected way")
            return f"Nova cannot say which servers are on {host}: {type(error).__name__}; nothing was sent"
        if found.service is None:
            return (
                f"Nova has no nova-compute service {host}, so it cannot say which servers are there; nothing was sent"
            )
        coming = {m.server for m in found.migrations if m.dest == host and m.status not in MIGRATION_ENDED}
        count = len({server.id for server in found.servers} | coming)
        if count:
            return f"Nova has {count} server{'s' if count > 1 else ''} on {host}: move them first; nothing was sent"
        return ""

    # --- the test itself ---

    async def _run(self, policy: HostPolicy, permit: Permit, levels: list[int], asked: Asked) -> None:
        host, cycle, done = policy.name, None, 0
        try:
            for done, level in enumerate(levels):
                if self._by_hand(policy, level):
                    self._note(host, done, LevelTest(level=level + 1, verdict=LevelVerdict.BY_HAND))
                    continue
                why = await self._next(host, asked) if cycle is not None else ""
                if why:
                    self._stop_at(host, done, why)
                    break
                cycle = Cycle(
                    policy,
                    level,
                    fencer=self._fencer,
                    view=self._view,
                    clock=self._clock,
                    permit=permit,
                    seen=lambda: self._engine.views.get(host),
                    say=lambda text: self._say(host, text),
                    sleep=self._sleep,
                )
                result = await cycle.run(asked.return_s)
                self._note(host, done, result)
                if not result.back:
                    self._stop_at(host, done + 1, f"{host} is not back")
                    break
        except asyncio.CancelledError:
            if cycle is not None and cycle.away:
                self._say(host, "cut off: this controller stops. The host may be off: look, and switch it on by hand")
            raise
        except Exception as error:  # a bug must not leave a test that never ends
            log.exception("the fencing test of %s failed in an unexpected way", host)
            self._stop_at(host, done, f"it failed in an unexpected way: {type(error).__name__}; the host may be off")
        finally:
            self._end(host)

    async def _next(self, host: str, asked: Asked) -> str:
        """Why the next level must not be tested; empty: it may. What held for the first one may have changed."""
        deadline = self._clock.now() + GATE_S
        while self._engine.open_of(host) and self._clock.now() < deadline:
            await self._sleep(POLL_S)
        return "" if asked.with_servers else await self._servers(host)

    # --- what is told of it ---

    def _say(self, host: str, text: str) -> None:
        test = self._tests[host]
        self._tests[host] = replace(test, lines=(*test.lines, text))
        self._line(f"{host}: fencing test: {text}")

    def _note(self, host: str, number: int, result: LevelTest) -> None:
        test = self._tests[host]
        levels = (*test.levels[:number], result, *test.levels[number + 1 :])
        self._tests[host] = replace(test, levels=levels)
        self._say(host, f"level {result.level}: {result.verdict}" + (f": {result.why}" if result.why else ""))

    def _stop_at(self, host: str, number: int, why: str) -> None:
        """This level and those after it are not tested."""
        for at, level in list(enumerate(self._tests[host].levels))[number:]:
            self._note(host, at, replace(level, why=why))

    def _end(self, host: str) -> None:
        test = self._tests[host]
        tried = [level for level in test.levels if level.verdict is not LevelVerdict.BY_HAND]
        passed = all(level.verdict is LevelVerdict.WORKS for level in tried)
        self._tests[host] = replace(test, ended=True, passed=passed)
        self._line(f"{host}: the fencing test that {test.actor} asked for {'passed' if passed else 'failed'}")
