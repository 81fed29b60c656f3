"""A controller with nothing behind it, served by the real API on a real unix socket, and the CLI as a process runs it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ha_agent.api.facade import DeviceHealth, EventLine, HostViewSummary, LeaderInfo
from ha_agent.api.http import serve
from ha_agent.api.measured import Measured
from ha_agent.cli import run
from ha_agent.config import HttpSettings
from ha_agent.errors import UsageError
from ha_agent.model import (
    Entry,
    Fleet,
    Health,
    HostRecord,
    Incident,
    Kind,
    Mode,
    Operator,
    Power,
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

ROOT = Path(__file__).parents[2]
OPENED = 1_750_000_000.0
INCIDENT = "0b5c1a52-7a43-4a52-8a5f-0d7a8c3f0e11"


def incident(**changes: object) -> Incident:
    """An incident of compute-2 that is blocked at its fence."""
    fields: dict[str, object] = {
        "id": INCIDENT,
        "kind": Kind.HOST,
        "host": "compute-2",
        "subject": "compute-2",
        "mode": Mode.AUTO,
        "plan": RECOVER,
        "opened_at": 500.0,
        "opened_wall": OPENED,
        "verdict": Verdict.DOWN,
        "verdict_at": 500.0,
        "reason": "silent for 10.0 s, and 2 of 2 witnesses do not reach it",
        "last_seen_at": 490.0,
        "boot_id": "boot-1",
        "blocked": "fencing failed: bmc does not answer",
        "release": "ha-agent confirm-fenced compute-2",
        "waiting": "again in 5 s",
        "servers": (
            ServerProgress(id="s-1", name="db", stage=ServerStage.WAITING, prior="ACTIVE"),
            ServerProgress(
                id="s-2", name="evil\x1b[2J", stage=ServerStage.NOT_MOVED, reason="it has no tag automatic-recovery"
            ),
        ),
        "history": (
            Entry(at=500.0, wall=OPENED, text="believed down", step=Step.FENCE),
            Entry(at=503.5, wall=OPENED + 3.5, text="fencing failed", step=Step.FENCE),
        ),
    }
    return Incident(**{**fields, **changes})  # type: ignore[arg-type]


class Controller(SaysOfFencing, SaysOfReadiness):
    """A Facade with a fixed state, which keeps the orders that it gets."""

    def __init__(self, *incidents: Incident, hosts: int = 3) -> None:
        self.orders: list[Operator] = []
        self.told: list[Delivery] = []
        self.hosts = [f"compute-{number}" for number in range(1, hosts + 1)]
        self.incidents = {each.id: each for each in incidents}

    def state(self) -> State:
        records = {host: HostRecord(host=host) for host in self.hosts}
        return State(fleet=Fleet(epoch=3, armed=True, armed_by="ann"), hosts=records, incidents=dict(self.incidents))

    def views(self) -> Mapping[str, HostViewSummary]:
        down = {each.host for each in self.incidents.values()}
        return {
            host: HostViewSummary(
                host=host,
                verdict=Verdict.DOWN if host in down else Verdict.ALIVE,
                reason="silent" if host in down else "heartbeats arrive",
                last_seen_age_s=12.0 if host in down else 0.4,
                nova_compute=Health.UP,
                witnesses=2,
            )
            for host in self.hosts
        }

    def deliveries(self) -> Sequence[Delivery]:
        return list(self.told)

    def view(self, host: str) -> HostViewSummary | None:
        return self.views().get(host)

    def devices(self) -> Sequence[DeviceHealth]:
        return [
            DeviceHealth(host=h, device="bmc", level=1, driver="ipmi", ok=True, power=Power.ON, checked_age_s=3.0)
            for h in self.hosts
        ]

    def leader(self) -> LeaderInfo:
        return LeaderInfo(name="controller-1", epoch=3, leading=True, until_s=9.0)

    def now(self) -> float:
        return 510.0

    def notes(self) -> Sequence[str]:
        return ()

    def ready(self) -> Sequence[str]:
        return ()

    def alive(self) -> bool:
        return True

    def counters(self) -> Mapping[str, float]:
        return {}

    def measures(self) -> Sequence[Measured]:
        return ()

    def events(self, after: int, limit: int) -> Sequence[EventLine]:
        return ()

    async def order(self, order: Operator) -> str:
        if order.host and order.host not in self.hosts:
            raise UsageError(f"{order.host} is not in the inventory", "see: ha-agent status")
        self.orders.append(order)
        return f"{order.order} is done"

    async def dry_run(self, host: str) -> Sequence[ServerProgress]:
        if host not in self.hosts:
            raise UsageError(f"{host} is not in the inventory", "see: ha-agent status")
        return [
            ServerProgress(id="s-1", name="db", prior="ACTIVE", priority=10),
            ServerProgress(id="s-2", name="cache", prior="ACTIVE", stage=ServerStage.NOT_MOVED, reason="no tag"),
        ]


@contextlib.contextmanager
def served(controller: Controller, directory: Path) -> Iterator[Path]:
    """Its socket. The API runs on a loop of its own, as in the daemon."""
    path = directory / "controller.sock"
    up, down = threading.Event(), asyncio.Event()
    failed: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serving() -> None:
        loops.append(asyncio.get_running_loop())
        async with contextlib.AsyncExitStack() as stack:
            await serve(stack, controller, HttpSettings(listen="127.0.0.1", port=0, socket=str(path)))
            up.set()
            await down.wait()

    def thread() -> None:
        try:
            asyncio.run(serving())
        except BaseException as error:  # to be told by the test that waits
            failed.append(error)
            up.set()

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    assert up.wait(10), "the API does not start"
    if failed:
        raise failed[0]
    try:
        yield path
    finally:
        loops[0].call_soon_threadsafe(down.set)
        worker.join(10)


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def cli(*arguments: str | Path, socket: Path | None = None) -> Done:
    """`ha-agent ARGUMENTS`, in this process (a start of Python costs more than most commands) and with no terminal."""
    out, err = io.StringIO(), io.StringIO()
    given = [*map(str, arguments)]
    if socket is not None:
        at = 2 if given[0] in ("maintenance", "fencing") else 1
        given[at:at] = ["--socket", str(socket)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(given)
    return Done(code, out.getvalue(), err.getvalue())


def process(*arguments: str | Path, socket: Path | None = None) -> Done:
    """The same as a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HA_AGENT")}
    if socket is not None:
        environment["HA_AGENT_SOCKET"] = str(socket)
    done = subprocess.run(
        [sys.executable, "-m", "ha_agent", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)
