"""Whatever hangs on a hypervisor, its remote goes on to say that it lives.

Real processes: the remote, a nova-compute that is stopped, targets that accept and say nothing, a state directory whose disk never answers
(a FIFO in the place of the file: whoever opens it waits), a disk that takes no more, a journal that does not read. The gaps between
heartbeats are measured and printed; the test fails when a heartbeat is lost, or when a controller would have suspected the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ha_agent.errors import DriverError, Unanswered
from ha_agent.heartbeat import gate
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.model import Answer
from tests.integration.honest import INTERVAL_S, ROOT, Heard, World, monitored, unharmed
from tests.unit.heartbeat_support import until

WATCH_S = 2.0  # how long each trouble is looked at

# A service that says how it is to whoever connects, as systemd would of a nova-compute; and the systemctl that asks it.
NOVA_COMPUTE = """
import socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen(64)
    while True:
        client, _ = server.accept()
        client.sendall(b"active\\n" * 6)
        client.close()
"""
SYSTEMCTL = """#!{python}
import os, socket
open({asked!r}, "ab").write(b"x")
with socket.socket(socket.AF_UNIX) as client:
    client.connect({socket!r})
    while data := client.recv(4096):
        os.write(1, data)
"""


class Gaps:
    """Measures, one trouble after the other, over one connection."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.lines: list[str] = []

    async def during(self, what: str) -> None:
        """The heartbeats of the next while: none is lost, and the host is not suspected."""
        since = len(self.heard.beats["compute-1"]) - 1
        await asyncio.sleep(WATCH_S)
        beats = unharmed(self.heard, since)
        gaps = sorted(1000 * (b.at - a.at) for a, b in itertools.pairwise(beats))
        assert len(gaps) > 0.5 * WATCH_S / INTERVAL_S
        self.lines.append(f"  {what:<60} gaps p50 {gaps[len(gaps) // 2]:4.0f} ms, longest {gaps[-1]:4.0f} ms")


@contextlib.contextmanager
def nova_compute(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process called so, and a systemctl in `directory`/bin that asks it."""
    (directory / "bin").mkdir()
    place, asked = str(directory / "nova.sock"), str(directory / "asked")
    program = directory / "bin" / "systemctl"
    program.write_text(SYSTEMCTL.format(python=sys.executable, asked=asked, socket=place))
    program.chmod(0o755)
    process = subprocess.Popen(["nova-compute", "-c", NOVA_COMPUTE, place], executable=sys.executable, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def stuck(path: Path) -> None:
    """A file that never opens."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def children(pid: int) -> list[int]:
    """The programs that a process has started, and that are not gone yet."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found += [int(each.parent.name)] * (int(each.read_text().rsplit(")", 1)[1].split()[1]) == pid)
    return found


@contextlib.asynccontextmanager
async def watched(world: World) -> AsyncIterator[tuple[Monitor, Gaps]]:
    """A controller that has heard of the host."""
    await world.ready()
    async with monitored(world, world.ports) as (watch, heard):
        await until(lambda: bool(heard.beats.get("compute-1")))
        yield watch, Gaps(heard)


def show(capsys: pytest.CaptureFixture[str], title: str, gaps: Gaps) -> None:
    with capsys.disabled():
        print(f"\n{title}, heartbeats every {1000 * INTERVAL_S:.0f} ms:\n" + "\n".join(gaps.lines))


async def test_a_hypervisor_on_which_everything_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One trouble after the other; none of them ends before the last has come, and the remote still ends when it is told to."""
    world = World(tmp_path)
    guests = world.home / "guests.json"
    guests.write_text('{"server-1": {}}')
    with (
        nova_compute(tmp_path) as nova,
        socket.create_server(("127.0.0.1", 0), backlog=128) as mute,
        contextlib.ExitStack() as stack,
    ):
        world.ports["mute"] = mute.getsockname()[1]
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        remote = stack.enter_context(world.remote(health={}, guests={"file": str(guests)}))
        async with watched(world) as (watch, gaps):
            await until(lambda: str(gaps.heard.beats["compute-1"][-1].nova_compute) == "up")
            await gaps.during("all is well")

            nova.send_signal(signal.SIGSTOP)
            asked = (tmp_path / "asked").stat().st_size
            await until(lambda: (tmp_path / "asked").stat().st_size > asked)
            await gaps.during("nova-compute is stopped, systemctl hangs")

            stuck(guests)
            questions = [asyncio.create_task(watch.domain("compute-1", "server-1", 20.0)) for _ in range(20)]
            await gaps.during("the guests' source (libvirt) hangs, 20 questions wait")

            for number in range(20):
                watch.probe("compute-1", "mute", f"{number:032x}", 15.0)
            await gaps.during("20 probes of targets that accept and say nothing")

            stuck(world.home / "state" / f".{gate.STATE}.{remote.pid}.new")
            opening = asyncio.create_task(watch.open_gate("compute-1", boot_id(), 10.0))
            await gaps.during("the gate is opened on a disk that hangs")

            stuck(world.home / "pki" / "ca.pem")
            await asyncio.sleep(5.0)  # the remote looks at its files that often
            await gaps.during("the certificates are on a disk that hangs")

            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(50)]
            for client in clients:
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(str(world.home / "remote.sock"))
            await gaps.during("50 local clients that say nothing")

            answers = await asyncio.gather(*questions)
            assert [answer.present for answer in answers] == [None] * 20  # unknown, not absent
            with pytest.raises(Unanswered):
                await opening
            await until(lambda: len(gaps.heard.answers) == 20)
            assert {answer.answer for answer in gaps.heard.answers} == {Answer.TCP}
            assert str(gaps.heard.beats["compute-1"][-1].nova_compute) == "unknown"
            for client in clients:
                client.close()
            assert not (await world.status()).gate_open
            await gaps.during("all of it at once, after 20 s")
            assert len(children(remote.pid)) <= 1, "systemctls pile up"
            threads = len(os.listdir(f"/proc/{remote.pid}/task"))  # noqa: PTH208 -- names only
            assert threads <= 10, f"{threads} threads"
        remote.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(remote.wait, 8.0) == 0
    show(capsys, "what hangs on a hypervisor", gaps)


def boot_id() -> str:
    """Of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def test_a_state_directory_that_hangs_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remote starts, its gate is closed, and it says why; when the disk is back, so is what it knew."""
    world = World(tmp_path)
    state = world.home / "state" / gate.STATE
    state.parent.mkdir()
    stuck(state)
    with world.remote():
        async with watched(world) as (_, gaps):
            await gaps.during("the gate's state cannot be read")
            status = await world.status()
            assert not status.gate_open
            assert any("state" in note for note in status.notes)
            stored = f'{{"boot_id": "{boot_id()}", "by": "controller c", "wall": 1.0}}'
            await asyncio.to_thread(state.write_text, stored)  # the disk answers after all
            async with asyncio.timeout(10.0):
                while not (await world.status()).gate_open:  # noqa: ASYNC110 -- another process opens it
                    await asyncio.sleep(0.05)
            assert not (await world.status()).notes
    show(capsys, "a state directory that hangs from the start", gaps)


async def test_a_disk_that_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its log is on it as well."""
    world = World(tmp_path)
    with world.remote() as remote:
        async with watched(world) as (watch, gaps):
            resource.prlimit(remote.pid, resource.RLIMIT_FSIZE, (0, 0))  # every write to a file fails
            with pytest.raises(DriverError, match="stored"):
                await watch.open_gate("compute-1", boot_id(), 10.0)
            noise(world)
            await gaps.during("a disk that takes no more, and lines to be logged")
            assert not (await world.status()).gate_open
    show(capsys, "a full disk", gaps)


async def test_a_journal_that_does_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As journald's socket is when its disk hangs: it is full, and whoever writes to it waits."""
    world = World(tmp_path)
    journal = tmp_path / "journal"
    os.mkfifo(journal)
    reading = os.open(journal, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writing = os.open(journal, os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while os.write(writing, b"x" * 512):
                pass
        os.close(writing)
        with world.remote(log=journal) as remote:
            async with watched(world) as (_, gaps):
                noise(world)
                await gaps.during("stderr is full, and 20 lines wait")
            remote.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(remote.wait, 8.0) == 0
    finally:
        os.close(reading)
    show(capsys, "a journal that does not read", gaps)


def noise(world: World) -> None:
    """Strangers at the door, each worth a line in the log until there were enough in a minute."""
    for number in range(1, 41):
        with socket.create_connection(("127.0.0.1", world.port), source_address=(f"127.1.0.{number}", 0)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
