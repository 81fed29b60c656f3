"""An honest remote in a process of its own, and a controller that hears it: what attacks and hangs must not harm."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import os
import pwd
import shutil
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ha_agent.heartbeat import control
from ha_agent.heartbeat.link import Endpoint, MonitorOptions
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.pki import Pki
from ha_agent.ports import AnyObservation, Disconnected, Heartbeat, ProbeAnswered
from ha_agent.system import SystemClock, SystemRandom
from tests.unit.heartbeat_support import closed_port

ROOT = Path(__file__).resolve().parents[2]
INTERVAL_S = 0.05
READY_S = 60.0  # for three of them on a very busy machine
SUSPECT_AFTER_S = 4.0  # the default of detection.suspect_after_s


@dataclass
class Heard:
    """What the monitor observed."""

    beats: dict[str, list[Heartbeat]] = field(default_factory=dict)
    ended: list[Disconnected] = field(default_factory=list)
    answers: list[ProbeAnswered] = field(default_factory=list)

    def __call__(self, observation: AnyObservation) -> None:
        match observation:
            case Heartbeat():
                self.beats.setdefault(observation.host, []).append(observation)
            case Disconnected():
                self.ended.append(observation)
            case ProbeAnswered():
                self.answers.append(observation)
            case _:
                pass


@dataclass(frozen=True)
class Late:
    """Milliseconds. `gap`: between two heartbeats, beyond the interval; `rtt`: a heartbeat and its acknowledgement."""

    gap_p50: float
    gap_p99: float
    rtt_p50: float
    rtt_p99: float

    @staticmethod
    def of(beats: list[Heartbeat]) -> Late:
        gaps = sorted(1000 * abs(b.at - a.at - INTERVAL_S) for a, b in itertools.pairwise(beats))
        rtts = sorted(1000 * beat.rtt_s for beat in beats)
        return Late(*(cut[at] for cut in map(percentiles, (gaps, rtts)) for at in (49, 98)))


def percentiles(values: list[float]) -> list[float]:
    """The 99 cuts between a hundred equal parts."""
    return statistics.quantiles(values, n=100, method="inclusive")


class World:
    """An authority, honest hosts with a remote each in a process of its own, and what a thief has of it in `loot`. `port` and `home`: of
    the first host."""

    def __init__(self, directory: Path, hosts: Sequence[str] = ("compute-1",)) -> None:
        self.directory = directory
        self.loot = directory / "loot"
        self.controller = directory / "controller"
        self.ports = {host: closed_port() for host in hosts}
        self.home, self.port = directory / hosts[0], self.ports[hosts[0]]
        self.pki = Pki(directory / "ca", past)
        self.pki.init()
        self.pki.issue("host", "was-here", self.loot / "expired")
        self.pki = Pki(directory / "ca")
        self.pki.issue("host", "stolen", self.loot / "stolen")
        self.pki.issue("host", "robbed", self.loot / "revoked")
        self.pki.revoke("host", "robbed")
        self.pki.issue("controller", "controller-1", self.controller)
        self.pki.issue("controller", "controller-2", directory / "controller-2")
        for host in hosts:
            self.pki.issue("host", host, directory / host / "pki")
        foreign = Pki(directory / "foreign-ca")
        foreign.init()
        foreign.issue("controller", "controller-1", self.loot / "wrong-authority")
        # It trusts ours: it is the honest side that must refuse.
        shutil.copyfile(self.home / "pki" / "ca.pem", self.loot / "wrong-authority" / "ca.pem")

    def configure(self, host: str = "compute-1", **more: object) -> Path:
        """The host's remote.yaml; its files are beside it."""
        home = self.directory / host
        (home / "health.json").write_text('{"nova_compute": "up", "libvirt": "up"}')
        path = home / "remote.yaml"
        settings = {
            "version": 1,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "listen": f"127.0.0.1:{self.ports[host]}",
            "pki": {"directory": "pki"},
            "socket": "remote.sock",
            "state_directory": "state",
            "machine_file": None,
            "health": {"file": "health.json"},
            **more,
        }
        path.write_text(yaml.safe_dump(settings))
        return path

    @contextlib.contextmanager
    def remote(
        self, host: str = "compute-1", log: Path | None = None, **more: object
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running `ha-agent remote`; what it says is in remote.log beside its configuration, or in `log`."""
        log = log or self.directory / host / "remote.log"
        with process("ha_agent", "remote", "--config", self.configure(host, **more), log=log) as made:
            yield made

    async def ready(self, host: str = "compute-1") -> None:
        """Returns when it listens."""
        home = self.directory / host
        async with asyncio.timeout(READY_S):
            while not (home / "remote.sock").exists():  # noqa: ASYNC110 -- another process makes it
                await asyncio.sleep(0.05)

    async def status(self, host: str = "compute-1") -> control.RemoteStatus:
        """Of a remote, over its own socket."""
        status = await control.ask(self.directory / host / "remote.sock", control.AskStatus())
        assert isinstance(status, control.RemoteStatus)
        return status

    async def counters(self) -> dict[str, int]:
        """Of the first host's remote."""
        return (await self.status()).counters


def past() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1000)


@contextlib.contextmanager
def process(*arguments: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as errors:
        made = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield made
    finally:
        made.kill()
        made.wait()
        for pipe in (made.stdin, made.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.asynccontextmanager
async def monitored(
    world: World, hosts: dict[str, int], interval_s: float = INTERVAL_S
) -> AsyncIterator[tuple[Monitor, Heard]]:
    """A controller that watches hosts at these ports."""
    heard = Heard()
    options = MonitorOptions(interval_s=interval_s, dial_s=1.0, retry_min_s=0.05, retry_max_s=0.2)
    endpoints = {host: Endpoint(address="127.0.0.1", port=port) for host, port in hosts.items()}
    watch = Monitor(world.controller, endpoints, heard, SystemClock(), SystemRandom(), options)
    await watch.start()
    try:
        yield watch, heard
    finally:
        await watch.stop()


def unharmed(heard: Heard, since: int) -> list[Heartbeat]:
    """The honest host's heartbeats from this one on: all of them came, in time, over one connection."""
    beats = heard.beats["compute-1"][since:]
    assert len(beats) > 1, "no heartbeats came"
    numbers = [beat.seq for beat in beats]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert max(b.at - a.at for a, b in itertools.pairwise(beats)) < SUSPECT_AFTER_S
    assert not [one for one in heard.ended if one.host == "compute-1"]
    return beats
