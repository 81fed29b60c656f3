"""What a remote costs its hypervisor: memory, CPU and descriptors of a real `ha-agent remote`, beside the least that Python can do.

    python -m tests.benchmarks.remote [--seconds 60] [--keep FILE]

The controllers are in this process, the remote, its target as a witness, and the yardstick in processes of their own. Nothing fails here
because a machine is slow. It fails where a heartbeat or an answer did not come.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ha_agent.heartbeat import certs
from ha_agent.heartbeat.link import Endpoint, MonitorOptions
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.pki import Pki
from ha_agent.model import Answer
from ha_agent.ports import AnyObservation, Heartbeat, ProbeAnswered
from ha_agent.system import SystemClock, SystemRandom
from tests.benchmarks.process import Cost, cost
from tests.benchmarks.report import head, report, tell
from tests.unit.heartbeat_support import closed_port, until

ROOT = Path(__file__).resolve().parents[2]
CONTROLLERS = 3
READY_S = 30.0
PROBE_S = 2.0
SETTLE_S = 3.0  # of a phase, before it is measured

NOTES = """\
A window is as long as is said above; 100 % is one core. RSS: all that is in memory, pages shared with other processes included; PSS: those
divided; USS: what would be free without this process. The remote looks every 2 s at the state of nova-compute and libvirt by running
systemctl, whose CPU is a line of its own (here systemctl finds no systemd, so it ends a little sooner than it does elsewhere). As a
witness it has one nonce signed each second for another host, and each second dials another host for a controller and has it sign one: in
a cloud at rest, both happen some times a minute.
The yardstick accepts mutual TLS and writes a line a second, with Python's standard library alone: no identities, limits, health, probes or
gate. What it needs is what Python and TLS need."""


@dataclass(frozen=True)
class Phase:
    """What goes on in one window."""

    name: str
    controllers: int
    witness: bool = False


PHASES = (
    Phase("nobody connected", 0),
    Phase("1 controller, 1 s", 1),
    Phase("3 controllers, 1 s", 3),
    Phase("… and a witness", 3, witness=True),
)


@dataclass
class Heard:
    """What one controller observed."""

    beats: int = 0
    signed: int = 0
    unsigned: list[str] = field(default_factory=list)

    def __call__(self, observation: AnyObservation) -> None:
        match observation:
            case Heartbeat(host="compute-1"):
                self.beats += 1
            case ProbeAnswered(answer=Answer.SIGNED):
                self.signed += 1
            case ProbeAnswered():
                self.unsigned.append(f"{observation.witness} of {observation.host}: {observation.answer}")
            case _:
                pass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One window. `cpu`, `children`: per cent of one core."""

    phase: Phase
    remote: Cost
    yardstick: Cost
    cpu: float
    children: float
    yardstick_cpu: float
    beats: int
    signed: int


class World:
    """Two hosts, three controllers, and their certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {name: closed_port() for name in ("compute-1", "compute-2")}
        self.yardstick_port = closed_port()
        pki = Pki(directory / "ca")
        pki.init()
        for name in self.ports:
            pki.issue("host", name, directory / name / "pki")
        for number in range(CONTROLLERS):
            pki.issue("controller", f"controller-{number}", directory / f"controller-{number}")

    def configure(self, name: str) -> Path:
        settings = {
            "version": 1,
            "user": "root" if os.geteuid() == 0 else None,
            "listen": f"127.0.0.1:{self.ports[name]}",
            "pki": {"directory": "pki"},
            "socket": "remote.sock",
            "state_directory": "state",
            "machine_file": None,
        }
        path = self.directory / name / "remote.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    @contextlib.contextmanager
    def process(self, *arguments: object) -> Iterator[int]:
        """Runs one of our modules; its pid."""
        with (self.directory / "log").open("ab") as log:
            made = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log
            )
        try:
            yield made.pid
        finally:
            made.terminate()
            made.wait(READY_S)

    @contextlib.asynccontextmanager
    async def controllers(self, number: int) -> AsyncIterator[list[tuple[Monitor, Heard]]]:
        """That many, each with both hosts in its inventory."""
        hosts = {name: Endpoint(address="127.0.0.1", port=port) for name, port in self.ports.items()}
        async with contextlib.AsyncExitStack() as stack:
            made = []
            for each in range(number):
                heard = Heard()
                home = self.directory / f"controller-{each}"
                watch = Monitor(home, hosts, heard, SystemClock(), SystemRandom(), MonitorOptions(interval_s=1.0))
                await watch.start()
                stack.push_async_callback(watch.stop)
                made.append((watch, heard))
            yield made

    @contextlib.asynccontextmanager
    async def listeners(self, number: int) -> AsyncIterator[None]:
        """That many who listen to the yardstick and acknowledge each line."""
        context = certs.client_context(self.directory / "controller-0")

        async def listen() -> None:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.yardstick_port, ssl=context, server_hostname=""
            )
            try:
                while line := await reader.readline():
                    writer.write(line[:20] + b"\n")
            finally:
                writer.transport.abort()

        tasks = [asyncio.create_task(listen()) for _ in range(number)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def measure(seconds: float, note: Callable[[str], None] = lambda text: None) -> list[Measured]:
    """All phases, one after the other, with one remote and one yardstick."""
    with tempfile.TemporaryDirectory(prefix="ha-agent-bench-") as temporary:
        world = World(Path(temporary))
        with (
            world.process("ha_agent", "remote", "--config", world.configure("compute-1")) as remote,
            world.process("ha_agent", "remote", "--config", world.configure("compute-2")),
            world.process(
                "tests.benchmarks.remote_yardstick", world.directory / "compute-1" / "pki", world.yardstick_port
            ) as yardstick,
        ):
            for name in world.ports:
                await _ready(world.directory / name / "remote.sock")
            results = []
            for phase in PHASES:
                results.append(await _phase(world, phase, remote, yardstick, seconds))
                note(f"{phase.name}: {results[-1].cpu:.2f} % CPU, {results[-1].remote.rss:.1f} MiB")
            return results


async def _phase(world: World, phase: Phase, remote: int, yardstick: int, seconds: float) -> Measured:
    async with world.controllers(phase.controllers) as controllers, world.listeners(phase.controllers):
        await until(lambda: all(heard.beats for _, heard in controllers))
        await asyncio.sleep(SETTLE_S)
        before, beside, begun = cost(remote), cost(yardstick), time.monotonic()
        beats = [heard.beats for _, heard in controllers]
        probing = asyncio.create_task(_probe(controllers[0][0])) if phase.witness else None
        await asyncio.sleep(seconds)
        passed, after, beside_after = time.monotonic() - begun, cost(remote), cost(yardstick)
        came = [heard.beats - had for (_, heard), had in zip(controllers, beats, strict=True)]
        if probing is not None:
            probing.cancel()
            await asyncio.sleep(PROBE_S + 1.0)  # for the last answers
        signed = sum(heard.signed for _, heard in controllers)
        assert all(number >= int(seconds) - 1 for number in came), f"{came} heartbeats in {seconds:g} s"
        assert not any(heard.unsigned for _, heard in controllers), controllers[0][1].unsigned
        assert not phase.witness or signed >= 2 * (int(seconds) - 1), f"{signed} signatures in {seconds:g} s"
        return Measured(
            phase=phase,
            remote=after,
            yardstick=beside_after,
            cpu=100 * (after.cpu_s - before.cpu_s) / passed,
            children=100 * (after.children_s - before.children_s) / passed,
            yardstick_cpu=100 * (beside_after.cpu_s - beside.cpu_s) / passed,
            beats=sum(came),
            signed=signed,
        )


async def _probe(watch: Monitor) -> None:
    """Each second the remote is asked about the other host, and the other host about the remote."""
    random = SystemRandom()
    while True:
        watch.probe("compute-1", "compute-2", random.nonce(), PROBE_S)
        watch.probe("compute-2", "compute-1", random.nonce(), PROBE_S)
        await asyncio.sleep(1.0)


async def _ready(path: Path) -> None:
    async with asyncio.timeout(READY_S):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 -- another process makes it
            await asyncio.sleep(0.05)


def table(results: Sequence[Measured]) -> str:
    """All figures, a column for each phase."""
    rows = [
        ("", [r.phase.name for r in results]),
        ("remote: RSS", [f"{r.remote.rss:.1f} MiB" for r in results]),
        ("remote: PSS", [f"{r.remote.pss:.1f} MiB" for r in results]),
        ("remote: USS", [f"{r.remote.uss:.1f} MiB" for r in results]),
        ("remote: CPU", [f"{r.cpu:.2f} %" for r in results]),
        ("… systemctl, beside it", [f"{r.children:.2f} %" for r in results]),
        ("remote: threads", [str(r.remote.threads) for r in results]),
        ("remote: descriptors", [str(r.remote.descriptors) for r in results]),
        ("yardstick: RSS", [f"{r.yardstick.rss:.1f} MiB" for r in results]),
        ("yardstick: PSS", [f"{r.yardstick.pss:.1f} MiB" for r in results]),
        ("yardstick: USS", [f"{r.yardstick.uss:.1f} MiB" for r in results]),
        ("yardstick: CPU", [f"{r.yardstick_cpu:.2f} %" for r in results]),
        ("yardstick: descriptors", [str(r.yardstick.descriptors) for r in results]),
        ("ratio of RSS", [f"× {r.remote.rss / r.yardstick.rss:.1f}" for r in results]),
        ("heartbeats heard", [str(r.beats) for r in results]),
        ("nonces signed, for it and by it", [str(r.signed) for r in results]),
    ]
    first = max(len(name) for name, _ in rows)
    wide = max(len(cell) for _, cells in rows for cell in cells)
    return "\n".join(
        (f"{name:<{first}}  " + "  ".join(f"{cell:>{wide}}" for cell in cells)).rstrip() for name, cells in rows
    )


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each window")
    parser.add_argument("--keep", type=Path, help="where the result is written")
    given = parser.parse_args()
    first = f"{head('bench-remote')}, windows of {given.seconds:g} s"
    results = asyncio.run(measure(given.seconds, tell))
    report(first, table(results), NOTES, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
