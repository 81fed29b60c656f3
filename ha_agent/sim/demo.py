"""`ha-agent demo`: the main job, once, on loopback and without root, all through the real code.

The remotes are real (TLS, certificates, gate), so are the controller, its store, its fencing workers and its outbox. The BMCs speak IPMI
over UDP, Nova and Keystone speak HTTP. Only the hypervisors and what runs on them are simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from ha_agent.api import http
from ha_agent.controller.daemon import Controller
from ha_agent.errors import UsageError
from ha_agent.model import Incident, Order, Phase, Verdict
from ha_agent.plans import GATE
from ha_agent.sim.demo_compose import compose, load
from ha_agent.sim.demo_failures import FAILURES, Failure
from ha_agent.sim.demo_stories import STORIES
from ha_agent.sim.demo_summary import rows, summary
from ha_agent.sim.demo_view import HumanView, JsonView, View
from ha_agent.sim.demo_world import World
from ha_agent.system import SystemClock

STUCK_S = 100.0  # what is awaited for longer will not come
PER_SERVER_S = 3.0  # and so much longer for each server of a host
POLL_S = 0.05
FIRST_CHECK_S = 2.0  # over this much the first look at all BMCs is spread
NOVA_S = 60.0  # how often Nova is looked at in quiet times
LASTING = 3  # tasks of the controller that are the same from its start to its end
CALM_S = 1.0  # a moment without trouble before it begins
LAST_NEWS_S = 3.0  # how long the last notification may take
INTERRUPTED = 130  # the exit code of a shell after Ctrl-C


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What is shown. `failure`: a name of FAILURES."""

    hosts: int = 6
    instances: int = 30
    failure: str = "power"
    seed: int = 1
    json: bool = False


def run(options: DemoOptions) -> int:
    """Shows it. 0: every rule held; 1: one did not; 130: interrupted. Raises UsageError for options that cannot be."""
    failure = FAILURES.get(options.failure)
    if failure is None:
        raise UsageError(f"there is no failure {options.failure!r}", f"use one of {', '.join(FAILURES)}")
    if not 3 <= options.hosts <= 50:  # one dies, one is a witness, one more shows that it was left alone
        raise UsageError(f"{options.hosts} hosts cannot be shown", "use --hosts from 3 to 50")
    if not options.hosts <= options.instances <= 2000:
        raise UsageError(
            f"{options.instances} instances cannot be shown", f"use --instances from {options.hosts} to 2000"
        )
    view: View = JsonView() if options.json else HumanView()
    try:
        with tempfile.TemporaryDirectory(prefix="ha-agent-demo-") as directory:
            return asyncio.run(Demo(options, failure, view, Path(directory)).show())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    finally:
        view.close()


class Demo:
    """One run. It is the Stage that the stories are played on."""

    def __init__(self, options: DemoOptions, failure: Failure, view: View, directory: Path) -> None:
        self.world = World(directory, failure, options.hosts, options.instances, options.seed, SystemClock())
        self._options = options
        self._failure = failure
        self._view = view
        self._directory = directory
        self._clock = SystemClock()
        self._controller: Controller | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = -1
        self._ending = False
        self._stack = contextlib.AsyncExitStack()
        self._socket = ""

    async def show(self) -> int:
        """From the first heartbeat to the verdict of the judge."""
        current = asyncio.current_task()
        assert current is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
        self._intro()
        try:
            await self.world.start()
            await self._start_controller()
            await self.until(self._ready, "the hosts know each other, and their BMCs answer")
            self.say(f"all is well: {len(self.world.hosts)} hosts are alive and know each other, their BMCs answer")
            self._check_devices(self._failure.fencing.check_interval_s)
            await self.order(Order.ARM)
            await asyncio.sleep(CALM_S)
            await STORIES[self._failure.name](self)
            await self.until(self._over, "the incident is closed")
            await self._last_news()
        except TimeoutError as error:
            self.world.books.errors.append(str(error))
        finally:
            self._ending = True
            incident = self.incident()
            await self._stop_controller()
            self.world.finish()
            await self.world.stop()
        self._view.servers(rows(self.world.books))
        told = summary(self.world.books, self._failure, self._options.seed, incident)
        self._view.end(told)
        return 1 if told["violations"] else 0

    def _intro(self) -> None:
        self._view.intro(
            (
                f"{self._options.hosts} hosts with {self._options.instances} instances, their remotes (TLS) and BMCs (IPMI over UDP), Nova "
                "(HTTP) and a message bus, all on loopback.",
                f"One host, {self.world.books.host}, fails: {self._failure.tells}.",
            )
        )

    async def _start_controller(self) -> None:
        loaded = load(self.world, self._failure, self._directory)
        self._socket = loaded.http.socket
        self._controller = compose(loaded, self.world, self._clock, self._line)
        api = await http.serve(self._stack, self._controller, loaded.http)
        self.say(
            f"the controller starts; look at http://127.0.0.1:{api.port}/metrics, or: ha-agent status --socket {self._socket}"
        )
        nova = self._controller.nova
        lasting = (self._controller.run(), nova.check_services(NOVA_S), nova.count_servers(NOVA_S))
        self._tasks = [asyncio.create_task(each) for each in lasting]
        self._check_devices(FIRST_CHECK_S)

    def _check_devices(self, interval_s: float) -> None:
        """From now on every BMC is looked at this often."""
        assert self._controller is not None
        for task in self._tasks[LASTING:]:
            task.cancel()
        read_s = self._failure.fencing.read_s
        self._tasks[LASTING:] = [asyncio.create_task(self._controller.check_devices(interval_s, read_s))]

    async def _stop_controller(self) -> None:
        """No worker of its fencing is alive when this returns."""
        await self._stack.aclose()
        if self._controller is None:
            return
        self._controller.stop()
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- the stage -----------------------------------------------------------------------------------------------------

    def dies(self, text: str) -> None:
        """See Stage."""
        self.world.books.died_at = self._clock.now()
        self.say(text)

    def say(self, text: str) -> None:
        """See Stage."""
        self._view.line(self._at(), text, world=True)

    def incident(self) -> Incident | None:
        """See Stage. A host that passes its gate may have a small one of its own, which is not meant."""
        if self._controller is None:
            return None
        incidents = self._controller.state().incidents.values()
        mine = [i for i in incidents if i.host == self.world.books.host and i.plan != GATE]
        return max(mine, key=lambda i: i.opened_at, default=None)

    async def order(self, order: Order, host: str = "", reason: str = "") -> None:
        """See Stage."""
        body = {"order": str(order), "host": host, "reason": reason}
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket)) as session,
            session.post("http://localhost/v1/orders", json=body) as answer,
        ):
            if answer.status != 200:
                raise RuntimeError(f"the order {order} was refused: {await answer.text()}")

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """See Stage. Meanwhile the bar moves. Raises also what ended the controller, should it end."""
        give_up_s = STUCK_S + PER_SERVER_S * self._options.instances / self._options.hosts
        give_up_at = time.monotonic() + give_up_s
        while not true():
            for task in self._tasks:
                if task.done():
                    await task
                    raise RuntimeError("a part of the controller ended by itself")
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"after {give_up_s:.0f} s it was not so that {what}{self._why_not()}")
            self._progress()
            await asyncio.sleep(POLL_S)

    def _why_not(self) -> str:
        """What the controller misses, if it misses something."""
        reasons = self._controller.ready() if self._controller is not None else ()
        return f"; the controller says: {'; '.join(reasons)}" if reasons else ""

    # --- inside --------------------------------------------------------------------------------------------------------

    def _at(self) -> float | None:
        died = self.world.books.died_at
        return None if died is None else self._clock.now() - died

    def _line(self, text: str) -> None:
        """What the controller logs, but for its good-bye."""
        if not self._ending:
            self._view.line(self._at(), text)

    def _progress(self) -> None:
        if not self._failure.fenced or not self.world.books.evacuated:
            return
        moved = self.world.landed()
        if moved != self._moved:
            self._moved = moved
            self._view.progress(moved, len(self.world.protected))

    def _ready(self) -> bool:
        """Every host is alive, enough others may speak of it, and its BMC is known."""
        assert self._controller is not None
        views = self._controller.views().values()
        known = all(v.verdict is Verdict.ALIVE and v.connected and v.witnesses >= 2 for v in views)
        return self._controller.engine.leading and known and all(device.ok for device in self._controller.devices())

    def _over(self) -> bool:
        incident = self.incident()
        return incident is not None and incident.phase is Phase.CLOSED

    async def _last_news(self) -> None:
        """The outbox empties by itself; whether it did in time is the judge's to say."""
        last, notes = self._failure.order[-1], self.world.books.notes
        for _ in range(int(LAST_NEWS_S / POLL_S)):
            if any(n.event_type == last for _, n in notes):
                return
            await asyncio.sleep(POLL_S)
