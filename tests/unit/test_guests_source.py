"""The remote's side of the watcher, with a program of our own in its place: one that hangs, dies, floods or talks nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from ha_agent.guests.ledger import Saved
from ha_agent.guests.source import LibvirtGuests, Timing
from ha_agent.model import Health, Presence
from ha_agent.ports import GuestEvent
from ha_agent.system import SystemClock, SystemRandom
from tests.unit.heartbeat_support import DEADLINE_S, until

QUICK = Timing(silent_s=5.0, retry_min_s=0.01, retry_max_s=0.02, answer_s=0.2, unkept_s=0.05)
LISTED = """say(kind="domain", domain=dict(server="a", start="1.1", state=1, reason=1)); say(kind="listed", at=now())"""
FIRES = """say(kind="event", event=dict(server="a", at=now(), what="watchdog", first=0, start="1.1"))"""
WAIT = "sys.stdin.readline()"
PROGRAM = """
import json, sys, time
def say(**line): print(json.dumps(line), flush=True)
def now(): return time.clock_gettime(time.CLOCK_BOOTTIME)
"""


class Bench:
    """`disk`: what is kept. `free`: writes go through while it is set."""

    def __init__(self) -> None:
        self.disk: bytes | None = None
        self.free = threading.Event()
        self.free.set()
        self.writes = 0
        self.broken = False

    def read(self) -> bytes:
        if self.disk is None:
            raise FileNotFoundError
        return self.disk

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.free.wait(DEADLINE_S)
        if self.broken:
            raise OSError(28, "No space left on device")
        self.disk = data

    def kept(self) -> Saved:
        assert self.disk is not None
        return msgspec.json.decode(self.disk, type=Saved)

    @contextlib.asynccontextmanager
    async def running(
        self, *program: str, timing: Timing = QUICK, kind: type[LibvirtGuests] = LibvirtGuests
    ) -> AsyncIterator[LibvirtGuests]:
        """Over a watcher that does what the lines of `program` do."""
        guests = kind(
            "qemu:///system",
            read=self.read,
            write=self.write,
            clock=SystemClock(),
            random=SystemRandom(),
            timing=timing,
            watcher=(sys.executable, "-c", PROGRAM + "\n".join(program)),
        )
        task = asyncio.create_task(guests.run("boot-1"))
        try:
            yield guests
        finally:
            self.free.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: guests.pid is None)  # no watcher outlives it


async def ready(guests: LibvirtGuests) -> GuestEvent:
    await until(lambda: bool(guests.ready()))
    return guests.ready()[0]


async def test_an_event_is_kept_told_and_forgotten_when_it_is_acknowledged() -> None:
    bench, more = Bench(), asyncio.Event()
    async with bench.running(LISTED, FIRES, WAIT) as guests:
        unwatch = guests.watch(more.set)
        event = await ready(guests)
        assert more.is_set()
        assert (event.server, event.kind, event.action, event.start) == ("a", "watchdog", "none", "1.1")
        assert bench.kept().events == (event,)
        assert guests.health() is Health.UP
        guests.acknowledge([event.id])
        assert guests.ready() == ()
        await until(lambda: bench.kept().events == ())
        unwatch()
        unwatched = guests._watchers
        assert unwatched == []


async def test_what_was_kept_is_told_by_the_next_life_with_the_same_id() -> None:
    bench = Bench()
    async with bench.running(LISTED, FIRES, WAIT) as guests:
        event = await ready(guests)
        await until(lambda: bench.disk is not None)
    async with bench.running(WAIT) as guests:  # before libvirt has said a word
        assert await ready(guests) == event


@pytest.mark.parametrize("disk", [b"", b"{", b'{"boot_id": 7}', b"\xff" * 9])
async def test_a_broken_file_is_said_and_forgotten(disk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.disk = disk
    async with bench.running(LISTED, FIRES, WAIT) as guests:
        await ready(guests)
    assert "cannot be read and are lost" in caplog.text


async def test_a_disk_that_hangs_holds_no_event_back_and_takes_one_thread() -> None:
    bench = Bench()
    bench.free.clear()
    storm = "for n in range(40): " + FIRES.replace('"a"', "str(n)") + "; time.sleep(0.002)"
    async with bench.running(LISTED, storm, WAIT) as guests:
        await until(lambda: len(guests.ready()) == 40)
        assert bench.disk is None
        assert bench.writes == 1
        bench.free.set()
        await until(lambda: bench.disk is not None and len(bench.kept().events) == 40)
        assert bench.writes <= 3, "what has changed meanwhile is one write"


async def test_an_event_waits_for_the_disk_a_moment() -> None:
    """Otherwise a remote that is killed then would tell the same event with another id."""
    bench = Bench()
    bench.free.clear()
    async with bench.running(LISTED, FIRES, WAIT, timing=msgspec.structs.replace(QUICK, unkept_s=60.0)) as guests:
        await until(lambda: bool(guests._ledger.events))
        assert guests.ready() == ()
        bench.free.set()
        assert (await ready(guests)).server == "a"


async def test_a_full_disk_is_said_once_and_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.broken = True
    async with bench.running(LISTED, FIRES, WAIT) as guests:
        assert (await ready(guests)).server == "a"
    assert caplog.text.count("No space left on device") == 1


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (("time.sleep(60)",), "has not answered for 0.3 s"),
        ((LISTED, "time.sleep(60)"), "has not answered for 0.3 s"),
        (("print('nonsense', flush=True)", WAIT), "speaks no sense"),
        (("print('x' * 100_000, flush=True)", WAIT), "speaks no sense"),
        (("""say(kind="event", event=dict(server="a" * 65, at=1, what="reboot"))""", WAIT), "speaks no sense"),
        (("sys.exit(3)",), "ended without a word"),
        (("""say(kind="end", text="no libvirtd here")""",), "no libvirtd here"),
    ],
)
async def test_a_watcher_that_is_no_good_is_ended_and_has_a_successor(
    program: tuple[str, ...], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Bench().running(*program, timing=msgspec.structs.replace(QUICK, silent_s=0.3)) as guests:
        await until(lambda: says in caplog.text)
        first = guests.pid
        await until(lambda: guests.pid not in (None, first))
        assert (await guests.look("a")).present is not False


async def test_a_program_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    guests = LibvirtGuests(
        "qemu:///system",
        read=Bench().read,
        write=Bench().write,
        clock=SystemClock(),
        random=SystemRandom(),
        timing=QUICK,
        watcher=("/nowhere/python",),
    )
    task = asyncio.create_task(guests.run("boot-1"))
    await until(lambda: "cannot be started: No such file" in caplog.text)
    assert guests.health() is Health.DOWN
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_program_on_a_disk_that_hangs_holds_up_nothing_and_has_no_successor() -> None:
    """It is killed when the disk answers after all."""
    bench, disk, made = Bench(), threading.Event(), list[subprocess.Popen[bytes]]()

    class Slow(LibvirtGuests):
        starts = 0

        def _start(self) -> subprocess.Popen[bytes]:
            self.starts += 1
            if self.starts == 1:
                disk.wait(DEADLINE_S)
            made.append(super()._start())
            return made[-1]

    async with bench.running(LISTED, WAIT, timing=msgspec.structs.replace(QUICK, silent_s=0.2), kind=Slow) as guests:
        assert isinstance(guests, Slow)
        await until(lambda: guests.health() is Health.DOWN)
        await asyncio.sleep(0.1)
        assert (guests.starts, guests.pid, made) == (1, None, [])
        disk.set()
        await until(lambda: guests.pid is not None)
        assert made[0].returncode == -signal.SIGKILL
        assert guests.pid == made[-1].pid
    assert {process.returncode for process in made} == {-signal.SIGKILL}


async def test_a_disk_that_hangs_keeps_no_process_from_ending() -> None:
    """Its threads are daemons: what is asked of the disk may take for ever."""
    bench = Bench()
    bench.free.clear()
    async with bench.running(LISTED, FIRES, WAIT) as guests:
        await ready(guests)
        assert [each.daemon for each in threading.enumerate() if each.name in {"keeper", "watcher"}] == [True, True]


ANSWERS: list[tuple[str, Callable[[Presence], bool]]] = [
    ("""say(kind="answer", number=1)""", lambda p: p.present is False),
    ("""say(kind="answer", number=1, unsure=True)""", lambda p: p.present is None),
    ("""say(kind="answer", number=2)""", lambda p: p.present is None),
    ("""sys.exit()""", lambda p: p.present is None),
    (
        """say(kind="answer", number=1, domain=dict(server="a", start="1.1", state=3, reason=6))""",
        lambda p: p == Presence(present=True, start="1.1", state="paused", fault="watchdog"),
    ),
]


@pytest.mark.parametrize(("answer", "right"), ANSWERS, ids=[answer for answer, _ in ANSWERS])
async def test_only_a_clear_no_is_an_absence(answer: str, right: Callable[[Presence], bool]) -> None:
    async with Bench().running(LISTED, WAIT, answer, WAIT) as guests:
        assert (await guests.look("a")).present is None, "libvirt has not been heard yet"
        await until(lambda: guests.health() is Health.UP)
        assert right(await guests.look("a"))


async def test_questions_are_bounded(tmp_path: Path) -> None:
    del tmp_path
    async with Bench().running(LISTED, "time.sleep(60)") as guests:
        await until(lambda: guests.health() is Health.UP)
        answers = await asyncio.gather(*(guests.look("a" * 5000) for _ in range(1000)))
        assert {answer.present for answer in answers} == {None}
        assert guests._questions == {}
