"""`ha-agent demo`: the main job, once, on loopback and without root, all through the real code.

The remotes are real (TLS, certificates, gate), so are the controller, its store, its fencing workers and its outbox. The BMCs speak IPMI over
UDP, Nova and Keystone speak HTTP. Only the hypervisors and what runs on them are simulated.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openstack

from ha_agent.controller.daemon import Controller
from ha_agent.errors import UsageError
from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Device, Topology
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.model import Incident, Operator, Order, Phase, Verdict
from ha_agent.notify.bus import KombuBus
from ha_agent.notify.outbox import Outbox
from ha_agent.plans import GATE
from ha_agent.policy import HostPolicy, Policy
from ha_agent.recovery.nova import NovaCloud
from ha_agent.sim.demo_failures import FAILURES, Failure
from ha_agent.sim.demo_judge import judge, not_moved
from ha_agent.sim.demo_view import HumanView, JsonView, View
from ha_agent.sim.demo_world import World
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemClock, SystemRandom

READY_S = 30.0  # until every host is known to the others
OVER_S = 100.0  # until the incident is closed; what takes longer is stuck
POLL_S = 0.05
CHECK_S = 3.0  # every BMC is looked at this often
CALM_S = 1.0  # a moment without trouble, so that the failure does not meet a host that has just been seen first
NETWORK_S = 3.0  # how long the network stays cut after the alarm
AGENT_S = 20.0  # how long a crashed remote stays away
REBOOT_S = 1.0
RETURN_S = 2.0  # how long a dead BMC takes to be replaced once the servers run again
ACTOR = "the demo"


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
        raise UsageError(f"{options.hosts} hosts are not shown", "use --hosts from 3 to 50")
    if not options.hosts <= options.instances <= 2000:
        raise UsageError(
            f"{options.instances} instances are not shown", f"use --instances from {options.hosts} to 2000"
        )
    view: View = JsonView() if options.json else HumanView()
    try:
        with tempfile.TemporaryDirectory(prefix="ha-agent-demo-") as directory:
            return asyncio.run(Demo(options, failure, view, Path(directory)).show())
    except KeyboardInterrupt:
        return 130
    finally:
        view.close()


class Demo:
    """One run."""

    def __init__(self, options: DemoOptions, failure: Failure, view: View, directory: Path) -> None:
        self._options = options
        self._failure = failure
        self._view = view
        self._clock = SystemClock()
        self._directory = directory
        self._world = World(directory, failure, options.hosts, options.instances, options.seed, self._clock)
        self._books = self._world.books
        self._moved = -1
        self._ending = False

    async def show(self) -> int:
        """From the first heartbeat to the verdict of the judge."""
        world, books = self._world, self._books
        self._view.intro(
            (
                f"{self._options.hosts} hosts with {self._options.instances} instances, their remotes (TLS), BMCs (IPMI over UDP), Nova "
                "(HTTP) and a message bus, all on loopback.",
                f"One host, {books.host}, fails: {self._failure.tells}.",
            )
        )
        tasks: list[asyncio.Task[None]] = []
        controller: Controller | None = None
        try:
            await world.start()
            controller = self._controller()
            tasks.append(asyncio.create_task(controller.run()))
            tasks.append(asyncio.create_task(controller.check_devices(CHECK_S, 5.0)))
            await self._until(lambda: self._ready(controller), READY_S, "the hosts know each other", tasks)
            self._say(f"all is well: {len(world.hosts)} hosts are alive and know each other, their BMCs answer")
            await self._order(controller, Operator(order=Order.ARM, actor=ACTOR, reason="demo"))
            await asyncio.sleep(CALM_S)
            await STORIES[self._failure.name](self, controller, tasks)
            await self._until(lambda: self._over(controller), OVER_S, "the incident is closed", tasks)
            await asyncio.sleep(2 * POLL_S)
        except TimeoutError as error:
            books.errors.append(str(error))
        finally:
            self._ending = True
            incident = self._incident(controller) if controller is not None else None
            if controller is not None:
                controller.stop()
                await asyncio.gather(tasks[0], return_exceptions=True)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks[1:], return_exceptions=True)
            world.finish()
            await world.stop()
        return self._tell(incident)

    # --- composition ---------------------------------------------------------------------------------------------------

    def _controller(self) -> Controller:
        world, clock, random = self._world, self._clock, SystemRandom()
        failure = self._failure
        hosts = {
            name: HostPolicy(
                name=name,
                domain=f"rack-{number % 3 + 1}",
                detection=failure.detection,
                fencing=failure.fencing,
            )
            for number, name in enumerate(world.hosts)
        }
        policy = Policy(hosts=hosts, detection=failure.detection)
        devices: dict[str, tuple[tuple[Device, ...], ...]] = {
            name: (
                (
                    Device(
                        name="bmc",
                        address="127.0.0.1",
                        port=port,
                        username=world.farm.username,
                        password_file=str(world.bmc_password),
                    ),
                ),
            )
            for name, port in world.ports.items()
        }
        near = {name: Endpoint(address="127.0.0.1", port=h.management.port) for name, h in world.hosts.items()}
        far = {name: Endpoint(address="127.0.0.1", port=h.neighbours.port) for name, h in world.hosts.items()}
        store = SqliteStore(self._directory / "store.db")
        bus = KombuBus(
            "memory://", exchange=world.topic, topic=world.topic, publisher_id=f"ha-agent:{policy.controller}"
        )
        connection = openstack.connect(
            **world.api.cloud(), load_yaml_config=False, load_envvars=False, app_name="ha-agent-demo"
        )
        return Controller(
            name=policy.controller,
            policy=policy,
            store=store,
            clock=clock,
            random=random,
            cloud=NovaCloud(connection=connection),
            monitor=lambda observe: TwoCables(world.controller_pki, near, far, observe, clock, random),
            fencer=lambda expect: WorkerFencer(
                Topology(levels=devices), clock, expect, send_within_s=policy.lease_s / 3
            ),
            outbox=Outbox(store, bus, random),
            drivers=dict.fromkeys(((name, "bmc") for name in hosts), "ipmi"),
            on_line=self._line,
        )

    # --- what happens --------------------------------------------------------------------------------------------------

    def _since(self, at: float | None) -> float | None:
        died = self._books.died_at
        return None if at is None or died is None else at - died

    def _line(self, text: str) -> None:
        """What the controller logs."""
        if self._ending:
            return
        self._view.line(self._since(self._clock.now()), text)

    def _say(self, text: str) -> None:
        self._view.line(self._since(self._clock.now()), text, world=True)

    def _die(self, text: str) -> None:
        self._world.died()
        self._say(text)

    async def _order(self, controller: Controller, order: Operator) -> None:
        """By the path that the CLI's orders take."""
        await controller.order(order)

    async def _until(
        self, true: Callable[[], bool], within_s: float, what: str, tasks: list[asyncio.Task[None]]
    ) -> None:
        """Waits, and moves the bar. Raises TimeoutError, or what ended the controller."""
        give_up = time.monotonic() + within_s
        while not true():
            for task in tasks:
                if task.done():
                    await task
                    raise RuntimeError("the controller ended by itself")
            if time.monotonic() > give_up:
                raise TimeoutError(f"after {within_s:.0f} s it was not so that {what}")
            if self._failure.fenced and self._books.evacuated and self._world.landed() != self._moved:
                self._moved = self._world.landed()
                self._view.progress(self._moved, len(self._world.protected))
            await asyncio.sleep(POLL_S)

    def _ready(self, controller: Controller | None) -> bool:
        """Every host is alive, enough others may speak of it, and its BMC is known."""
        assert controller is not None
        least = min(2, self._options.hosts - 1)
        return (
            controller.engine.leading
            and all(
                view.verdict is Verdict.ALIVE and view.connected and view.witnesses >= least
                for view in controller.views().values()
            )
            and all(device.ok for device in controller.devices())
        )

    def _incident(self, controller: Controller | None) -> Incident | None:
        """The one of the failed host; a host that passes its gate in passing has a small one of its own."""
        if controller is None:
            return None
        mine = [i for i in controller.state().incidents.values() if i.host == self._books.host and i.plan != GATE]
        return max(mine, key=lambda i: i.opened_at, default=None)

    def _over(self, controller: Controller | None) -> bool:
        incident = self._incident(controller)
        return incident is not None and incident.phase is Phase.CLOSED

    # --- the end -------------------------------------------------------------------------------------------------------

    def _tell(self, incident: Incident | None) -> int:
        books, failure = self._books, self._failure
        stages = incident.stage_at if incident is not None else {}
        silence_at = incident.last_seen_at if incident is not None else None
        evidence_at = stages.get("evidence")
        violations = judge(books, failure, silence_at, evidence_at)
        if incident is not None and incident.verdict not in failure.verdicts | {Verdict.ALIVE}:
            violations.append(f"{books.host} was believed {incident.verdict}")
        off_at = books.first(books.switched, "off")
        first = min((each.at for each in books.evacuated), default=None)
        stayed = not_moved(books)
        summary: dict[str, Any] = {
            "event": "summary",
            "failure": failure.name,
            "seed": self._options.seed,
            "host": books.host,
            "verdict": str(incident.verdict) if incident is not None else None,
            "detected_s": _rounded(self._since(incident.opened_at if incident is not None else None)),
            "off_sent_s": _rounded(off_at - silence_at if off_at is not None and silence_at is not None else None),
            "fenced_s": _rounded(self._since(evidence_at)),
            "forced_down_s": _rounded(self._since(books.first(books.forced, True))),
            "first_evacuate_s": _rounded(self._since(first)),
            "evidence_to_first_evacuate_s": _rounded(
                first - evidence_at if first is not None and evidence_at is not None else None
            ),
            "recovered_s": _rounded(self._since(books.recovered_at)),
            "returned_s": _rounded(self._since(stages.get("unfenced"))),
            "evacuated": len({each.server for each in books.evacuated}),
            "not_moved": [{"name": name, "reason": reason} for name, reason in sorted(stayed.items())],
            "violations": violations,
        }
        self._view.servers(self._rows(stayed))
        self._view.end(summary)
        return 1 if violations else 0

    def _rows(self, stayed: dict[str, str]) -> list[tuple[str, str, str, str, str]]:
        """What became of the servers of the failed host."""
        rows = []
        for guest in self._books.guests.values():
            if guest.host == self._books.host:
                status, host, runs = self._books.ends.get(guest.id, ("?", "?", ()))
                kind = ("tagged" if guest.tagged else "untagged") + (", image-backed" if guest.image_backed else "")
                now = f"{status} on {host}" + ("" if runs or status != "ACTIVE" else ", not running")
                rows.append((guest.name, kind, "ACTIVE" if guest.runs else "SHUTOFF", now, stayed.get(guest.name, "")))
        return sorted(rows, key=lambda row: (bool(row[4]), row[0]))


class TwoCables(Monitor):
    """The monitor, in a world where the other hosts reach a host by another cable than this controller."""

    def __init__(
        self,
        directory: Path,
        near: dict[str, Endpoint],
        far: dict[str, Endpoint],
        observe: Any,
        clock: SystemClock,
        random: SystemRandom,
    ) -> None:
        super().__init__(directory, near, observe, clock, random)
        self._far = far

    def probe(self, witness: str, target: str, nonce: str, deadline_s: float) -> None:
        """See ports.Monitor."""
        self._links[witness].probe(target, self._far[target], nonce, deadline_s)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- the stories -------------------------------------------------------------------------------------------------------------


async def _power(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    demo._die(f"{demo._books.host} loses its power")
    demo._world.cut_power()


async def _hang(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    demo._die(f"the kernel of {demo._books.host} hangs")
    demo._world.failed.hang()


async def _network(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    demo._die(f"the network between this controller and {demo._books.host} is cut")
    demo._world.failed.management.cut()
    await demo._until(lambda: demo._incident(controller) is not None, OVER_S, "there is an alarm", tasks)
    await asyncio.sleep(NETWORK_S)
    demo._say("the network is mended")
    await demo._world.failed.management.mend()


async def _reboot(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    demo._die(f"{demo._books.host} reboots by itself")
    demo._world.failed.power_off()
    demo._world.failed.power_on(REBOOT_S)


async def _bmc_dead(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    host = demo._books.host
    demo._die(f"{host} loses its power, and its BMC dies with it")
    demo._world.cut_power(bmc_dead=True)

    def blocked() -> bool:
        incident = demo._incident(controller)
        return incident is not None and incident.release == f"ha-agent confirm-fenced {host}"

    await demo._until(blocked, OVER_S, f"the incident asks for confirm-fenced {host}", tasks)
    demo._say(f"somebody goes to look: {host} is off. ha-agent confirm-fenced {host}")
    await demo._order(controller, Operator(order=Order.CONFIRM_FENCED, actor=ACTOR, host=host, reason="looked at it"))

    def settled() -> bool:
        incident = demo._incident(controller)
        return incident is not None and incident.settled

    await demo._until(settled, OVER_S, "the servers are settled", tasks)
    await asyncio.sleep(RETURN_S)
    demo._say(f"the BMC of {host} is replaced, its power button pressed")
    demo._world.repair()


async def _agent_crash(demo: Demo, controller: Controller, tasks: list[asyncio.Task[None]]) -> None:
    demo._die(f"the remote of {demo._books.host} crashes")
    await demo._world.failed.agent_crash()
    await asyncio.sleep(AGENT_S)
    demo._say("systemd starts the remote again")
    await demo._world.failed.agent_start()


Story = Callable[[Demo, Controller, list[asyncio.Task[None]]], Awaitable[None]]
STORIES: dict[str, Story] = {
    "power": _power,
    "hang": _hang,
    "network": _network,
    "reboot": _reboot,
    "bmc-dead": _bmc_dead,
    "agent-crash": _agent_crash,
}
