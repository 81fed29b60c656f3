"""A facade without a daemon, and its API on a real Unix socket and a real loopback port, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ha_agent.api.facade import DeviceHealth, EventLine, HostViewSummary, LeaderInfo
from ha_agent.api.http import serve
from ha_agent.api.measured import Measured
from ha_agent.config import HttpSettings
from ha_agent.errors import HaAgentError, UsageError
from ha_agent.model import (
    Entry,
    Evidence,
    EvidenceKind,
    Fleet,
    Health,
    HostRecord,
    Incident,
    Kind,
    Mode,
    Operator,
    Phase,
    Power,
    Reading,
    ServerProgress,
    ServerStage,
    State,
    Step,
    Verdict,
)
from ha_agent.plans import RECOVER
from ha_agent.ports import Delivery
from tests.unit.fencing_fakes import SaysOfFencing
from tests.unit.readiness_fakes import SaysOfReadiness

WALL = 1_700_000_000.0

DOWN = Incident(
    id="i-down",
    kind=Kind.HOST,
    host="h2",
    subject="h2",
    mode=Mode.AUTO,
    plan=RECOVER,
    position=3,
    opened_at=100.0,
    opened_wall=WALL,
    verdict=Verdict.DOWN,
    verdict_at=100.0,
    reason="silent for 10.2 s; h1 and h3 deny it",
    last_seen_at=89.8,
    evidence=Evidence(
        kind=EvidenceKind.DEVICES,
        at=101.5,
        wall=WALL + 1.5,
        readings=(Reading(device="bmc", power=Power.OFF, at=101.5, wall=WALL + 1.5, machine="guid-2"),),
    ),
    waiting="2 servers on their way",
    stage_at={"evidence": 101.5},
    servers=(
        ServerProgress(id="s-1", name="web", stage=ServerStage.VERIFIED, dest="h1"),
        ServerProgress(id="s-2", name="db", stage=ServerStage.HELD, reason="a live migration", wait_for=("h3",)),
        ServerProgress(id="s-3", name="evil\x1b[2J[red]", stage=ServerStage.NOT_MOVED, reason="no tag"),
    ),
    history=(
        Entry(at=100.0, wall=WALL, text="opened: silent", step=None),
        Entry(at=101.5, wall=WALL + 1.5, text="off is proven", step=Step.FENCE),
        Entry(at=103.0, wall=WALL + 3, text="acknowledged by ann", actor="ann"),
    ),
)
BLOCKED = Incident(
    id="i-blocked",
    kind=Kind.HOST,
    host="h3",
    subject="h3",
    mode=Mode.AUTO,
    plan=RECOVER,
    opened_at=150.0,
    opened_wall=WALL + 50,
    verdict=Verdict.HUNG,
    verdict_at=150.0,
    reason="frozen",
    blocked="the fence failed: bmc: wrong password",
    release="ha-agent confirm-fenced h3",
)
CLOSED = Incident(
    id="i-closed",
    kind=Kind.HOST,
    host="h1",
    subject="h1",
    mode=Mode.AUTO,
    plan=RECOVER,
    position=7,
    phase=Phase.CLOSED,
    closed_wall=WALL - 100,
    opened_at=10.0,
    opened_wall=WALL - 400,
    verdict=Verdict.DOWN,
    verdict_at=10.0,
    reason="silent",
    stage_at={"evidence": 14.0, "first_evacuate": 14.5},
)


class FakeFacade(SaysOfFencing, SaysOfReadiness):
    """What a daemon could say. Orders are kept in `orders`; `refuse` is raised instead."""

    def __init__(self) -> None:
        self.orders: list[Operator] = []
        self.told: list[Delivery] = []
        self.looked = 0  # at all hosts
        self.refuse: HaAgentError | None = None
        self.reasons: list[str] = []
        self.noted: list[str] = []
        self.is_alive = True
        self.fleet = Fleet(armed=True, armed_by="ann")
        self.numbers = {"certificate_days": 2.0, "heartbeats": 7.0, "wire_refused_rate": 3.0, "something_new": 5.0}
        self.measured: list[Measured] = []
        self.hosts = {
            "h1": HostViewSummary(
                host="h1",
                verdict=Verdict.ALIVE,
                last_seen_age_s=0.4,
                nova_compute=Health.UP,
                connected=True,
                rtt_s=0.01,
            ),
            "h2": HostViewSummary(host="h2", verdict=Verdict.DOWN, reason="silent for 60 s", last_seen_age_s=60.0),
            "h3": HostViewSummary(host="h3", verdict=Verdict.HUNG, reason="frozen", last_seen_age_s=70.0),
        }

    def state(self) -> State:
        return State(
            fleet=self.fleet,
            hosts={"h1": HostRecord(host="h1", maintenance="new disks (ann)")},
            incidents={each.id: each for each in (DOWN, BLOCKED, CLOSED)},
            closed=("i-closed",),
        )

    def views(self) -> Mapping[str, HostViewSummary]:
        self.looked += 1
        return self.hosts

    def deliveries(self) -> Sequence[Delivery]:
        return list(self.told)

    def view(self, host: str) -> HostViewSummary | None:
        return self.views().get(host)

    def devices(self) -> Sequence[DeviceHealth]:
        return [
            DeviceHealth(host="h1", device="bmc", level=1, driver="ipmi", ok=True, power=Power.ON, checked_age_s=3.0),
            DeviceHealth(host="h2", device="bmc", level=1, driver="ipmi", error="no answer", checked_age_s=4.0),
            DeviceHealth(host="h3", device="bmc", level=1, driver="ipmi"),
        ]

    def leader(self) -> LeaderInfo:
        return LeaderInfo(name="controller-1", epoch=3, leading=True, until_s=12.0)

    def now(self) -> float:
        return 160.0

    def ready(self) -> Sequence[str]:
        return self.reasons

    def notes(self) -> Sequence[str]:
        return self.noted

    def alive(self) -> bool:
        return self.is_alive

    def counters(self) -> Mapping[str, float]:
        return self.numbers

    def measures(self) -> Sequence[Measured]:
        return self.measured

    def events(self, after: int, limit: int) -> Sequence[EventLine]:
        lines = [EventLine(seq=n, wall=WALL + n, text=f"line {n}") for n in range(1, 6)]
        return [line for line in lines if line.seq > after][:limit]

    async def order(self, order: Operator) -> str:
        if self.refuse is not None:
            raise self.refuse
        self.orders.append(order)
        return f"{order.order} is noted"

    async def dry_run(self, host: str) -> Sequence[ServerProgress]:
        if host not in self.hosts:
            raise UsageError(f"{host} is not in the inventory", "see: ha-agent status")
        return DOWN.servers


class Running:
    """A served facade."""

    def __init__(self, facade: FakeFacade, socket: str, port: int) -> None:
        self.facade = facade
        self.socket = socket
        self.port = port


@contextlib.contextmanager
def running(
    tokens_file: str = "", roles: Mapping[str, tuple[str, ...]] | None = None, allowed_hosts: tuple[str, ...] = ()
) -> Iterator[Running]:
    """The API in a thread, so that blocking clients can be tried on it."""
    facade = FakeFacade()
    ready = threading.Event()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "run" / "c.sock")
        settings = HttpSettings(
            port=0, socket=path, tokens_file=tokens_file, socket_roles=dict(roles or {}), allowed_hosts=allowed_hosts
        )

        async def main() -> None:
            async with contextlib.AsyncExitStack() as stack:
                found["loop"] = asyncio.get_running_loop()
                found["stop"] = stop = asyncio.Event()
                try:
                    found["port"] = (await serve(stack, facade, settings)).port
                finally:
                    ready.set()
                await stop.wait()

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        assert ready.wait(10)
        port, loop, stop = found["port"], found["loop"], found["stop"]
        assert isinstance(port, int)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(stop, asyncio.Event)
        try:
            yield Running(facade, path, port)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
