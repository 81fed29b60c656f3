"""Guests that hang for real, under a real libvirtd that is stopped and killed, told to a controller through a real remote."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pwd
import signal
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from ha_agent.controller.effects import AckGuest
from ha_agent.controller.engine import Engine
from ha_agent.guests.source import LibvirtGuests, Timing
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.model import Incident, Kind, Mode
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import AnyObservation, GuestSeen, Heartbeat
from ha_agent.store.memory import MemoryStore
from ha_agent.system import SystemClock, SystemRandom
from tests.integration.libvirt_rig import Libvirt
from tests.unit.heartbeat_support import Seen, certificates, closed_port, monitor, remote, until

pytestmark = pytest.mark.root
HOST = "compute-1"
QUICK = Timing(silent_s=2.5, retry_min_s=0.1, retry_max_s=0.3)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    with Libvirt(tmp_path_factory.mktemp("v") / "l") as made:
        made.start()
        yield made


@pytest.fixture
def libvirt(daemon: Libvirt) -> Iterator[Libvirt]:
    """Without guests."""
    yield daemon
    daemon.clear()


class Leader:
    """As much of a controller as guests need: an engine with a journal, which takes what the monitor brings, and acknowledges."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.monitor: Monitor | None = None
        self.engine = Engine(
            name="controller-1",
            policy=Policy(hosts={HOST: HostPolicy(name=HOST)}),
            store=MemoryStore("store-1"),
            clock=self.clock,
            random=SystemRandom(),
        )
        self.journalled: dict[
            str, tuple[GuestSeen, float]
        ] = {}  # by report: as it first came, and when it was in the journal
        self.beats: list[float] = []
        self.engine.start()
        self.engine.tick()
        assert self.engine.leading

    def observe(self, seen: AnyObservation) -> None:
        self.engine.observe(seen)
        now = self.clock.now()
        if isinstance(seen, Heartbeat):
            self.beats.append(now)
        if isinstance(seen, GuestSeen):
            self.journalled.setdefault(seen.report, (seen, now))
        for effect in self.engine.effects():
            if isinstance(effect, AckGuest) and self.monitor is not None:
                self.monitor.acknowledge(effect.host, effect.report)

    def incidents(self) -> dict[str, Incident]:
        """Of guests, by server: the newest."""
        return {i.subject: i for i in self.engine.state.incidents.values() if i.kind is Kind.GUEST}

    def seen(self, server: str) -> list[GuestSeen]:
        return [seen for seen, _ in self.journalled.values() if seen.server == server]

    def has(self, count: int) -> bool:
        """Whether so many events are in the journal."""
        return len(self.journalled) >= count

    async def told(self, server: str) -> GuestSeen:
        """The first event of a server."""
        await until(lambda: bool(self.seen(server)))
        return self.seen(server)[0]


@contextlib.asynccontextmanager
async def watched(libvirt: Libvirt, directory: Path) -> AsyncIterator[tuple[LibvirtGuests, Leader]]:
    """A remote that watches, and a leader that is told."""
    kept = directory / "guests.json"
    guests = LibvirtGuests(
        libvirt.read_only_uri,
        read=kept.read_bytes,
        write=lambda data: write_durably(kept, data),
        clock=SystemClock(),
        random=SystemRandom(),
        timing=QUICK,
        run_directory=libvirt.run_directory,
    )
    leader = Leader()
    async with (
        remote(directory, HOST, guests=guests, watch=guests) as served,
        monitor({HOST: served.port}) as (watch, seen),
    ):
        leader.monitor = watch
        watch._shared.observe = leader.observe
        watch.set_claim("store-1", leader.engine.epoch)
        await until(lambda: bool(leader.beats) and guests.health() == "up")
        del seen
        yield guests, leader


async def test_each_way_to_hang_reaches_the_journal(libvirt: Libvirt, tmp_path: Path) -> None:
    async with watched(libvirt, tmp_path) as (guests, leader):
        words = ("none", "pause", "reset", "poweroff")
        starts = [asyncio.to_thread(libvirt.guest, "i6300esb", action=word) for word in words]
        starts += [asyncio.to_thread(libvirt.guest, model) for model in ("panic", "well")]
        *hung, panics, killed = await asyncio.gather(*starts)
        actions = {server: ("watchdog", word) for server, word in zip(hung, words, strict=True)}
        actions |= {panics: ("crashed", "panicked"), killed: ("failed", "")}
        before = await guests.look(killed)
        os.kill(await asyncio.to_thread(libvirt.qemu, killed), signal.SIGKILL)
        for server, expected in actions.items():
            first = await leader.told(server)
            assert (first.fault, first.action) == expected
            assert first.age_s is not None
            assert first.age_s < 2
            assert not first.found
            incident = leader.incidents()[server]
            assert (incident.mode, incident.report, incident.host) == (Mode.NOTIFY, first.report, HOST)
        assert (before.present, before.state, before.fault) == (True, "running", "")
        assert leader.seen(killed)[0].start == before.start != ""
        paused = next(server for server, action in actions.items() if action[1] == "pause")
        now = await guests.look(paused)
        assert (now.state, now.fault, now.start) == ("paused", "watchdog", leader.seen(paused)[0].start)
        gone = await guests.look(killed)
        assert (gone.present, gone.state, gone.start) == (True, "shutoff", "")
        assert (await guests.look("0" * 8 + killed[8:])).present is False
        # each was told once, whatever libvirt says of it in how many ways, and nothing waits any more
        await until(lambda: not guests.ready())
        assert {s: [(e.fault, e.action) for e in leader.seen(s) if e.fault != "reboot"] for s in actions} == {
            s: [expected] for s, expected in actions.items()
        }


async def test_how_soon_it_is_in_the_journal(libvirt: Libvirt, tmp_path: Path) -> None:
    """From the callback, a moment after QEMU's own event, to the journal."""
    async with watched(libvirt, tmp_path) as (guests, leader):
        server = await asyncio.to_thread(libvirt.guest, "well")
        await until(lambda: server in guests._ledger._domains)
        for count in range(1, 6):
            await asyncio.sleep(1.1)  # QEMU lets one watchdog event a second through
            guests._ledger._last.clear()
            await asyncio.to_thread(libvirt.fire, server)
            await until(functools.partial(leader.has, count))
        delays = [now - (seen.at - (seen.age_s or 0.0)) for seen, now in leader.journalled.values()]
        print(f"from event to journal: median {1000 * statistics.median(delays):.1f} ms of {len(delays)}")
        assert statistics.median(delays) < 0.05


async def test_a_libvirtd_that_freezes_or_dies_delays_no_beat_and_hides_nothing(
    libvirt: Libvirt, tmp_path: Path
) -> None:
    async with watched(libvirt, tmp_path) as (guests, leader):
        fires = await asyncio.to_thread(libvirt.guest, "i6300esb", action="pause", pets=2)
        first_watcher = guests.pid
        leader.beats.clear()
        libvirt.signal(signal.SIGSTOP)
        assert (await guests.look(fires)).present is None, "a frozen libvirtd says nothing, least of all no"
        await until(lambda: guests.pid != first_watcher)  # it hung, and was killed
        assert guests.health() == "down"
        await asyncio.sleep(1.0)
        libvirt.signal(signal.SIGCONT)
        seen = await leader.told(fires)
        assert (seen.fault, seen.action) == ("watchdog", "pause")

        # libvirtd dies; meanwhile one guest's watchdog fires, and the QEMU of another dies
        dies, lives = [await asyncio.to_thread(libvirt.guest, "well") for _ in range(2)]
        fires = await asyncio.to_thread(libvirt.guest, "i6300esb", action="pause", pets=1)
        qemu = await asyncio.to_thread(libvirt.qemu, dies)
        await until(lambda: all(server in guests._ledger._domains for server in (fires, dies, lives)))
        starts = [(await guests.look(server)).start for server in (dies, lives)]
        assert all("." in start and not start.endswith(".0") for start in starts)
        libvirt.kill()
        os.kill(qemu, signal.SIGKILL)
        await asyncio.sleep(6.0)  # a real watchdog fires
        assert not leader.seen(fires)
        assert (await guests.look(lives)).present is None
        await asyncio.to_thread(libvirt.start)
        paused, dead = await leader.told(fires), await leader.told(dies)
        assert (paused.fault, paused.action, paused.found) == ("watchdog", "pause", True)
        assert dead.fault in ("crashed", "failed")
        assert dead.found
        assert paused.age_s is not None
        assert 4.0 < paused.age_s < 20.0, "as old as it may be: since libvirt was last heard"
        assert not leader.seen(lives)
        now = await guests.look(lives)
        assert (now.state, now.start) == ("running", starts[1]), "the same start under another libvirtd"
        await asyncio.to_thread(libvirt.domain, dies, "create")
        assert (await guests.look(dies)).start not in ("", starts[0])
        gaps = [b - a for a, b in zip(leader.beats, leader.beats[1:], strict=False)]
        print(f"longest gap between beats {1000 * max(gaps):.0f} ms of {len(gaps)}")
        assert max(gaps) < 0.5, "beats are due every 0.05 s"


async def test_a_fault_that_libvirt_tells_nobody_of_is_found(libvirt: Libvirt, tmp_path: Path) -> None:
    """A libvirtd that starts says of each guest what it last knew, until QEMU has answered it. What it learns then has no event."""
    async with watched(libvirt, tmp_path) as (guests, leader):
        fires = await asyncio.to_thread(libvirt.guest, "i6300esb", action="pause", pets=1)
        qemu = await asyncio.to_thread(libvirt.qemu, fires)
        await until(lambda: fires in guests._ledger._domains)
        libvirt.kill()
        await asyncio.sleep(5.0)  # a real watchdog fires
        os.kill(qemu, signal.SIGSTOP)
        await asyncio.to_thread(libvirt.start)
        await until(lambda: guests.health() == "up")
        assert (await guests.look(fires)).state == "running", "as libvirtd knew it when it died"
        os.kill(qemu, signal.SIGCONT)
        seen = await leader.told(fires)
        assert (seen.fault, seen.action, seen.found) == ("watchdog", "pause", True)
        assert seen.start == (await guests.look(fires)).start


async def test_a_remote_that_is_killed_tells_the_same_event_again(libvirt: Libvirt, tmp_path: Path) -> None:
    port = closed_port()
    (tmp_path / "remote.yaml").write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "user": pwd.getpwuid(os.geteuid()).pw_name,
                "listen": f"127.0.0.1:{port}",
                "pki": {"directory": str(certificates("host", HOST))},
                "socket": str(tmp_path / "control"),
                "state_directory": str(tmp_path / "state"),
                "guests": {"libvirt": libvirt.read_only_uri},
            }
        )
    )
    command = [sys.executable, "-m", "ha_agent", "remote", "--config", str(tmp_path / "remote.yaml")]
    async with monitor({HOST: port}) as (watch, seen):
        watch.set_claim("store-1", 1)
        process = await _started(command)
        try:
            await seen.next(Heartbeat)
            fires = await asyncio.to_thread(libvirt.guest, "ib700", action="none", pets=1)
            first = await _news(seen, fires)
            (watcher,) = _children(process.pid)
            process.kill()
            process.wait()
            await until(lambda: not _lives(watcher))
            process = await _started(command)
            again = await _news(seen, fires)
            assert (again.report, again.start, again.fault) == (first.report, first.start, "watchdog")
            assert again.age_s is not None
            assert first.age_s is not None
            assert again.age_s > first.age_s
            watch.acknowledge(HOST, again.report)
            kept = tmp_path / "state" / "guests.json"
            await until(lambda: again.report.encode() not in kept.read_bytes())
            process.kill()
            process.wait()
            seen.all.clear()
            seen.ever.clear()
            process = await _started(command)
            await seen.next(Heartbeat, lambda beat: beat.started_s < 0.5)
            await asyncio.sleep(1.5)
            assert not [each for each in seen.ever if isinstance(each, GuestSeen) and each.server == fires]
        finally:
            process.kill()
            process.wait()


def _children(pid: int) -> list[int]:
    """Of all its threads."""
    return [int(child) for each in Path(f"/proc/{pid}/task").glob("*/children") for child in each.read_text().split()]


def _lives(pid: int) -> bool:
    """A zombie does not: nobody here waits for orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return await asyncio.to_thread(subprocess.Popen, command)


async def _news(seen: Seen, server: str) -> GuestSeen:
    return await seen.next(GuestSeen, lambda news: news.server == server)
