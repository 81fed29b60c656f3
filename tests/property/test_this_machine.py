"""What comes from this machine: files that a disk has spoilt or somebody has edited, the environment, pipes between our own processes.
A broken one is the documented error or the documented "unknown", never another exception and never without a bound."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ha_agent import sdnotify
from ha_agent.api.access import TOKEN_MIN, TOKENS_MAX_BYTES, load_tokens
from ha_agent.config.places import split_listen
from ha_agent.errors import ConfigError, UsageError
from ha_agent.fenceagents import agent, ipmi
from ha_agent.fenceagents.options import STDIN_MAX, told
from ha_agent.fencing import worker
from ha_agent.fencing.fencer import KEPT, WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.fencing.workers import LINE_MAX, Nursery, Worker
from ha_agent.guests.lines import Ask
from ha_agent.heartbeat import daemon, gate, remote, sources, wire
from ha_agent.model import Health, Notification, Power, Reading
from ha_agent.notify import wire as bus
from ha_agent.notify.writer import KIND
from ha_agent.ports import Put
from ha_agent.store.memory import MemoryStore
from ha_agent.system import SystemClock
from tests.property.mutations import broken
from tests.unit.test_guests_watcher import Bench
from tests.unit.test_notify_outbox import FakeBus, Pauses, note, running

T = TypeVar("T")
DEEP = b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}"
NO_UTF8 = b'{"boot_id": "\xff", "nova_compute": "\xff", "\xff": 1}'


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "file"


def plain(body: bytes) -> Any:
    """What is skipped need not be text."""
    return json.loads(body.decode(errors="replace"))


def refused(read: Callable[[], T]) -> tuple[str, T | None]:
    """What the documented error says, or what was read; any other error is a failure."""
    try:
        return "", read()
    except ConfigError as error:
        return str(error), None


# --- files ---

CLEARED = gate.Cleared(boot_id="b", by="controller c", wall=1.0)


@given(broken((msgspec.json.encode(CLEARED),)))
@example(msgspec.json.encode(CLEARED))
@example(DEEP)
@example(NO_UTF8)
def test_the_gate_s_file(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """It opens the gate only where it names this boot; whatever else is in it, the remote starts."""
    directory = tmp_path_factory.getbasetemp()
    (directory / gate.STATE).write_bytes(body)

    async def recalled() -> gate.Gate:
        here = gate.Gate(directory, "b", SystemClock())
        await here.recall()
        return here

    here = asyncio.run(recalled())
    assert here.recalled
    if here.is_open:
        assert plain(body)["boot_id"] == "b"
    assert here.is_open or body != msgspec.json.encode(CLEARED)


def test_a_gate_s_file_without_an_end(tmp_path: Path) -> None:
    (tmp_path / gate.STATE).symlink_to("/dev/zero")
    here = gate.Gate(tmp_path, "b", SystemClock())
    asyncio.run(asyncio.wait_for(here.recall(), 30))
    assert not here.is_open


HEALTH = b'{"nova_compute": "up", "libvirt": "down"}'


def test_health_and_guests(path: Path) -> None:
    health, guests = sources.FileHealth(path), sources.FileGuests(path)

    @given(broken((HEALTH, b'{"s1": {}, "s2": [1]}')))
    @example(DEEP)
    @example(NO_UTF8)
    @example(b'{"\xff": 1}')
    def look(body: bytes) -> None:
        path.write_bytes(body)
        report = asyncio.run(health.read())
        for name in ("nova_compute", "libvirt"):
            said = getattr(report, name)
            assert said is Health.UNKNOWN or plain(body)[name] == said
        present = asyncio.run(guests.look("s1")).present
        assert (guests.health() is Health.UNKNOWN) == (present is None)
        if present is not None:
            assert present == ("s1" in plain(body))

    look()
    path.write_bytes(HEALTH)
    assert asyncio.run(health.read()) == sources.HealthReport(nova_compute=Health.UP, libvirt=Health.DOWN)
    assert asyncio.run(guests.look("libvirt")).present is True


def test_the_machine_s_id_fits_into_a_beat(path: Path) -> None:
    @given(st.binary(max_size=200))
    @example(b"4C4C4544-0042\n")
    @example(b"x" * 200)
    def read(body: bytes) -> None:
        path.write_bytes(body)
        beat = wire.Beat(seq=1, boot_id="b", started_s=1.0, machine=remote._machine(path))
        assert wire.decode(wire.encode(beat)[wire.HEADER :]) == beat

    read()
    assert remote._machine(path.with_name("absent")) == ""


SETTINGS = daemon.Settings(
    name="c1",
    listen="::1",
    port=7,
    listen_also=(("10.0.0.1", 8),),
    pki_directory="/a",
    warn_days=30.0,
    urgent_days=7.0,
    socket="/b",
    state_directory="/c",
    machine_file="",
    nova_compute_units=("n",),
    libvirt_units=(),
    health_file="",
    guests_file="",
    guests_libvirt="",
)


@given(broken((msgspec.json.encode(SETTINGS),)))
@example(msgspec.json.encode(SETTINGS))
@example(DEEP)
def test_what_a_remote_is_started_with(body: bytes) -> None:
    descriptor = os.memfd_create("settings")
    os.write(descriptor, body)
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = daemon.settings([str(descriptor)])
    except UsageError:
        assert body != msgspec.json.encode(SETTINGS)
    else:
        assert msgspec.json.decode(msgspec.json.encode(found), type=daemon.Settings) == found
    with pytest.raises(OSError, match="Bad file"):  # nothing is left open
        os.close(descriptor)


TOKEN = "x" * TOKEN_MIN
WORDS = st.sampled_from(
    ["ann", "read", "admin", "king", TOKEN, "short", "#", "\n", "\r", "\u2028", "\x00", " ", "\ufeff", "é"]
)


def test_tokens(path: Path) -> None:
    @given(st.lists(WORDS, max_size=15).map(lambda words: " ".join(words).encode()) | st.binary(max_size=60))
    @example(f"# ours\nann admin {TOKEN}\n".encode())
    @example(b"#" * TOKENS_MAX_BYTES + f"\nann admin {TOKEN}\n".encode())
    def load(body: bytes) -> None:
        path.write_bytes(body)
        problem, tokens = refused(lambda: load_tokens(path))
        assert TOKEN not in problem
        if tokens is not None:
            assert len(body) <= TOKENS_MAX_BYTES
            assert tokens.find(f"Bearer {TOKEN}") is None or TOKEN in body.decode().split()

    load()
    path.write_text(f"ann admin {TOKEN}\n")
    caller = load_tokens(path).find(f"bearer {TOKEN}")
    assert caller is not None
    assert caller.actor == "token:ann"


# --- the environment and the command line ---

NUMBERS = st.text("0123456789²٣ -+.e_", max_size=8) | st.sampled_from(["9" * 400, "9" * 5000, "inf"])


@given(NUMBERS)
@example("²")
@example("9" * 5000)
@example("30000000")
def test_systemd_s_limit(text: str) -> None:
    every = sdnotify.watchdog_interval_s({"WATCHDOG_USEC": text})
    assert every is None or 0 < every == int(text) / 2e6


@given(NUMBERS)
@example("²")
@example("9" * 5000)
@example("7421")
def test_a_port_to_listen_on(text: str) -> None:
    found = split_listen(f"127.0.0.1:{text}")
    assert found in (None, ("127.0.0.1", int(text) if text.isdecimal() and len(text) < 9 else None))


NAMES = sorted({name for table in (ipmi.OPTIONS, agent.OPTIONS) for o in table for name in (o.name, *o.aliases)})
VALUES = NUMBERS | st.sampled_from(["off", "1", "no", "20", "17", "bmc", "\udcff", "\x1b[2J", "\u202e", "é"])
LINES = st.builds("{}{}{}".format, st.sampled_from([*NAMES, "#", ""]), st.sampled_from(["=", "==", " = ", ""]), VALUES)


@given(st.lists(LINES, max_size=8).map("\n".join).map(lambda t: t.encode("utf-8", "surrogateescape")) | st.binary())
@example(b"ip=" + b"x" * STDIN_MAX)
@example("ipport=²".encode())
@example("login_timeout=²".encode())
@example("power_timeout=1.²".encode())
def test_what_a_fence_agent_is_told_on_stdin(body: bytes) -> None:
    for table, problems in ((ipmi.OPTIONS, ipmi.problems), (agent.OPTIONS, agent.problems)):
        problem, options = refused(partial(told, table, [], io.BytesIO(body)))
        if options is None:
            assert problem.replace("\n", "").isprintable()
            continue
        for action in ("off", "status", "validate-all"):
            assert all(len(problem) == 3 for problem in problems(action, options))
        for option in table:
            value = options.text(option.name)
            if option.kind == "second":
                assert 0 < options.seconds(option.name) <= 86_400
            elif option.kind == "integer" and value:
                assert 0 <= options.number(option.name) < 10**9
            elif option.kind == "select":
                assert value in (*option.choices, "")
            elif option.secret:
                assert options.secret(option.name) in body


# --- pipes ---

DEVICE = Device(name="bmc", address="bmc.example.org", options={"cipher": "17"})
REQUEST = msgspec.json.encode(worker.Request(op="read", device=DEVICE, act_by=1.0, until=2.0))


@given(st.lists(broken((REQUEST,)), max_size=3))
@example([b"x" * 3 * worker.REQUEST_MAX])
@example([DEEP])
def test_requests_to_a_fencing_worker(lines: list[bytes]) -> None:
    """What is no request ends the worker; never is a part of a line taken for one."""
    pipe = io.BytesIO(b"".join(line + b"\n" for line in [REQUEST, *lines]))
    assert worker.asked(pipe) == worker.Request(op="read", device=DEVICE, act_by=1.0, until=2.0)
    for line in lines:
        request = worker.asked(pipe)
        if request is None:
            return
        assert line[: line.find(b"\n")] if b"\n" in line else line
        assert request.op in ("read", "off", "on")
    assert worker.asked(pipe) is None


class Babbler(Worker):
    """A worker that says what it is told to say, whatever it is asked."""

    def __init__(self, said: bytes) -> None:
        pipe = asyncio.StreamReader(LINE_MAX)
        pipe.feed_data(said)
        pipe.feed_eof()
        self._ours, self._theirs = os.pipe()
        super().__init__(0, self._ours, pipe, cast(asyncio.StreamWriter, None))

    async def send(self, request: worker.Request) -> None:
        self.served += 1

    async def kill(self) -> None:
        if self.alive:
            os.close(self._theirs)
            await self._ended.wait()


class Babble(Nursery):
    def __init__(self, said: bytes) -> None:
        super().__init__()
        self._said = said

    async def fork(self, drivers: Iterable[str]) -> Worker:
        return Babbler(self._said)


def line(kind: Any, text: str = "", power: Power | None = None) -> bytes:
    reading = None if power is None else Reading(device="bmc", power=power, at=1.0)
    return msgspec.json.encode(worker.Line(kind=kind, text=text, reading=reading))


BEGIN = (line("ready"), line("taken"))
SAID = (line("doing", "x"), line("trouble", "y"), line("reading", power=Power.ON), line("end"), line("end", "no"))
OFF = line("reading", power=Power.OFF)


def read_through(said: bytes) -> Sequence[Reading]:
    async def read() -> Sequence[Reading]:
        fencer = WorkerFencer(
            Topology(levels={"h": ((DEVICE,),)}), SystemClock(), pool=WorkerPool(idle=1, nursery=Babble(said))
        )
        try:
            return await fencer.read("h", 0, 30.0)
        finally:
            await fencer.close()

    return asyncio.run(read())


@given(st.lists(st.sampled_from([*BEGIN, *SAID]) | broken((*BEGIN, *SAID)), max_size=5), st.booleans())
@example([line("doing"), b"x" * 3_000_000, OFF], True)
@example([b"x" * 3_000_000], False)
def test_a_fencing_worker_that_babbles(lines: list[bytes], begun: bool) -> None:
    """Its device's power is unknown, with a reason, and never off: it said that nowhere."""
    readings = read_through(b"\n".join([*(BEGIN if begun else ()), *lines]))
    assert 0 < len(readings) <= KEPT + 1
    for reading in readings:
        assert reading.power is not Power.OFF
        assert reading.power is not Power.UNKNOWN or reading.error or reading.device != "bmc"


def test_a_fencing_worker_that_speaks_is_heard() -> None:
    assert [r.power for r in read_through(b"\n".join([*BEGIN, OFF, line("end")]) + b"\n")] == [Power.OFF]


ASK = msgspec.json.encode(Ask(number=7, server="a"))


@given(broken((ASK,)))
@example(ASK)
@example(DEEP)
@example(b'{"number": 7, "server": "\xff"}')
def test_questions_to_the_guests_watcher(body: bytes) -> None:
    """What is none means that somebody else is at the other end: the watcher ends."""
    bench = Bench()
    try:
        bench.watcher.asked(body)
    except BrokenPipeError:
        assert not bench.said
        return
    (said,) = bench.said
    assert said.number == plain(body)["number"]
    assert (said.domain is not None) == (plain(body)["server"] in ("a", "b"))


# --- notifications that wait in the store ---


def unneeded(pauses: int) -> None:
    raise AssertionError("a failure is tried again")


class EncodingBus(FakeBus):
    def publish(self, notification: Notification) -> None:
        bus.encode(notification, "ha-agent")
        super().publish(notification)


NOTE = msgspec.json.encode(note(1))
FAR = msgspec.json.encode(msgspec.structs.replace(note(1), wall=1e300))


@given(st.lists(broken((NOTE,)), min_size=1, max_size=4))
@example([DEEP])
@example([NOTE.replace(b"n1", b"\xff")])
@example([NOTE[:-2] + b'"x":' + DEEP + b"}}"])
@example([FAR])
def test_documents_that_are_no_notification_stop_nobody(bodies: list[bytes]) -> None:
    """They are dropped and counted, and the next one is published."""

    async def drain() -> tuple[list[str], int]:
        store, taken = MemoryStore(), EncodingBus()
        for number, body in enumerate([*bodies, msgspec.json.encode(note(9))]):
            store.commit(None, [Put(kind=KIND, key=str(number), body=body)])
        async with running(store, taken, sleep=Pauses(unneeded)) as outbox:
            assert await outbox.drained(5)
            return taken.got, outbox.dropped

    got, dropped = asyncio.run(drain())
    assert got[-1] == "n9"
    assert len(got) + dropped == len(bodies) + 1
