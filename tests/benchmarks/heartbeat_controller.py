"""The controller of the heartbeat benchmark: the daemon's own parts, with a cloud and fencing devices that only count.

`python -m tests.benchmarks.heartbeat_controller DIRECTORY`. It arms itself, and says as JSON lines what happens: all hosts heard, all
with their witnesses, every verdict, every off command. `tell` on standard input asks for counts, `profile` begins or ends (and prints) a
profile. SIGTERM ends it as it ends the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import io
import logging
import pstats
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ha_agent.controller.compose import CLOUD_S
from ha_agent.controller.daemon import Controller
from ha_agent.controller.service import STATUS_S, summary
from ha_agent.decide import Decision
from ha_agent.heartbeat.link import Endpoint, MonitorOptions
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.model import (
    AnyEvent,
    ComputeService,
    Migration,
    Notification,
    Now,
    Operator,
    Order,
    Power,
    Reading,
    Server,
    State,
    Verdict,
    VerdictGiven,
)
from ha_agent.notify.deliveries import BUS, Deliveries
from ha_agent.notify.outbox import Threaded
from ha_agent.policy import Policy
from ha_agent.ports import AnyObservation, Heartbeat
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemClock, SystemRandom
from tests.benchmarks import heartbeat_plan as plan

LOOK_S = 0.5
PROFILED = 30


def say(**line: object) -> None:
    """One JSON line to who started us."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


class QuietCloud:
    """ports.Cloud without servers: what this benchmark fences has nothing to be moved."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._down: set[str] = set()
        self._rows = {host: ComputeService(id=host, host=host, state="up", updated_at="then") for host in hosts}

    def services(self) -> Sequence[ComputeService]:
        return list(self._rows.values())

    def force_down(self, host: str, value: bool) -> None:
        self._rows[host] = msgspec.structs.replace(self._rows[host], forced_down=value)

    def servers(self, host: str) -> Sequence[Server]:
        return ()

    def migrations(self, host: str) -> Sequence[Migration]:
        return ()

    def evacuations(self, source: str) -> Sequence[Migration]:
        return ()

    def unfinished_evacuations(self) -> Sequence[Migration]:
        return ()

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        raise AssertionError("there are no servers")

    def start(self, server: str) -> None:
        raise AssertionError("there are no servers")

    def stop(self, server: str) -> None:
        raise AssertionError("there are no servers")

    def reboot(self, server: str) -> None:
        raise AssertionError("there are no servers")

    def last_reboot(self, server: str) -> str:
        return ""

    def api_max_s(self) -> float:
        return 60.0


class CountingFencer:
    """ports.Fencer whose devices work, and tell of each off."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._off: set[str] = set()

    def levels(self, host: str) -> int:
        return 1

    async def off(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        self._off.add(host)
        say(fenced=host, at=self._clock.now())
        first = self._reading(host)
        await asyncio.sleep(0.5)
        return first, self._reading(host)

    async def read(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        return (self._reading(host),)

    async def on(self, host: str, level: int, deadline_s: float) -> Sequence[Reading]:
        return (self._reading(host),)  # its power stays off: nobody is there to boot

    async def cancel(self, host: str) -> None:
        pass

    async def close(self) -> None:
        pass

    def _reading(self, host: str) -> Reading:
        power = Power.OFF if host in self._off else Power.ON
        return Reading(device="bmc", power=power, at=self._clock.now(), wall=self._clock.wall())


class NoBus:
    """ports.Bus: taken, and gone."""

    def publish(self, notification: Notification) -> None:
        pass

    def close(self) -> None:
        pass


class Watched(Controller):
    """Says when the last host is heard for the first time, and every verdict that `decide` is given."""

    unheard: set[str]
    verdicts: Counter[str]

    def watch(self) -> None:
        """Before it runs."""
        self.unheard = set(self.policy.hosts)
        self.verdicts = Counter()
        decide = self.engine._decide

        def watching(state: State, event: AnyEvent, policy: Policy, now: Now) -> Decision:
            if isinstance(event, VerdictGiven):
                self._note(event, now.at)
            return decide(state, event, policy, now)

        self.engine._decide = watching

    def observe(self, obs: AnyObservation) -> None:
        super().observe(obs)
        if self.unheard and isinstance(obs, Heartbeat):
            self.unheard.discard(obs.host)
            if not self.unheard:
                say(heard=len(self.policy.hosts), at=self.clock.now())

    def _note(self, event: VerdictGiven, at: float) -> None:
        self.verdicts[event.verdict] += 1
        if event.verdict not in (Verdict.ALIVE, Verdict.SUSPECT):
            say(host=event.host, verdict=event.verdict, reason=event.reason, at=at, last_seen_at=event.last_seen_at)

    async def go_on(self) -> None:
        """Arms it once it leads, says when every host has its witnesses; then only what the daemon does beside `run`."""
        complete = False
        wanted = min(self.policy.detection.probes, len(self.policy.hosts) - 1)
        while True:
            if self.engine.leading and not self.engine.state.fleet.armed:
                await self.order(Operator(order=Order.ARM, actor="benchmark", reason="benchmark"))
            if not complete and not self.unheard and self.engine.state.fleet.armed:
                complete = all(self.engine.witnesses(host) >= wanted for host in self.policy.hosts)
                if complete:
                    say(complete=True, at=self.clock.now())
            summary(self)
            await asyncio.sleep(STATUS_S if complete else LOOK_S)

    def tell(self) -> None:
        """Counts; and how long the loop stands still for what a person or a scraper asks."""
        self._views.forget()
        begun = time.perf_counter()
        self.views()
        viewed = time.perf_counter()
        self.ready()
        ended = time.perf_counter()
        counters = self.counters()
        say(
            beats=counters["heartbeats"],
            probes=counters["probes_answered"],
            turns=self.turns,
            suspicions=self.engine.suspicions,
            bugs=counters["bugs"],
            forged=counters["wire_forged_probes"],
            verdicts=self.verdicts,
            views_ms=1000 * (viewed - begun),
            ready_ms=1000 * (ended - viewed),
        )


async def obey(controller: Watched) -> None:
    """Standard input, until it ends; then the controller ends too."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    profile: cProfile.Profile | None = None
    while line := await reader.readline():
        if line == b"tell\n":
            controller.tell()
        elif profile is None:
            profile = cProfile.Profile()
            profile.enable()
        else:
            profile.disable()
            for order in ("tottime", "cumulative"):
                text = io.StringIO()
                pstats.Stats(profile, stream=text).sort_stats(order).print_stats(PROFILED)
                say(**{order: text.getvalue()})
            profile = None
    controller.stop()


async def main(directory: Path) -> None:
    """Runs it until it is told to stop."""
    planned = plan.read(directory)
    plan.allow_descriptors(planned.hosts)
    clock, random = SystemClock(), SystemRandom()
    policy = planned.policy()
    places = {name: Endpoint(address=plan.address(i), port=planned.port) for i, name in enumerate(planned.names())}
    store = SqliteStore(directory / "store.db")
    options = MonitorOptions(interval_s=planned.detection.heartbeat_interval_s)
    controller = Watched(
        name=policy.controller,
        policy=policy,
        store=store,
        clock=clock,
        random=random,
        cloud=QuietCloud(planned.names()),
        monitor=lambda observe: Monitor(directory / "controller", places, observe, clock, random, options),
        fencer=lambda expect: CountingFencer(clock),
        outboxes=Deliveries(store, random, {BUS: Threaded(NoBus())}),
    )
    controller.watch()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, controller.stop)
    beside = [
        asyncio.create_task(work)
        for work in (controller.nova.check_services(CLOUD_S), controller.go_on(), obey(controller))
    ]
    try:
        await controller.run()
    finally:
        for task in beside:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*beside, return_exceptions=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1])))
