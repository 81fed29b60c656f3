"""The demo, as a user starts it; and the cables of its world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_agent.sim.wire_cut import Wire

FULL = pytest.mark.full


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """A shell starts what runs in its background deaf to Ctrl-C, and that is inherited; a handler is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Run:
    """One demo in a process of its own, with a directory of its own for temporary files."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        with _listening():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ha_agent", "demo", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TMPDIR": str(directory)},
            )

    def end(self, within_s: float = 100.0) -> tuple[int, str]:
        """(exit code, output). Nothing may be left of it, and nothing be said on stderr."""
        try:
            out, err = self.process.communicate(timeout=within_s)
        except BaseException:
            self.process.kill()
            raise
        assert err == ""
        assert list(self.directory.iterdir()) == []
        assert workers_of(self.process.pid) == []
        return self.process.returncode, out


def workers_of(pid: int) -> list[str]:
    """Fencing workers that a process has started, and what forked them; their command line names it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "ha_agent.fencing.nursery" in words and str(pid) in words:
                found.append(entry.name)
    return found


def summary_of(directory: Path, failure: str) -> dict[str, Any]:
    code, out = Run(directory, "--failure", failure, "--json").end()
    lines = [json.loads(line) for line in out.splitlines()]
    assert all("event" in line for line in lines)
    summary: dict[str, Any] = lines[-1]
    assert summary["event"] == "summary"
    assert summary["violations"] == []
    assert code == 0
    assert summary["failure"] == failure
    return summary


def test_a_host_without_power_is_fenced_and_its_servers_live_on(tmp_path: Path) -> None:
    began = time.monotonic()
    summary = summary_of(tmp_path, "power")
    assert time.monotonic() - began < 60
    order = ("detected_s", "fenced_s", "forced_down_s", "first_evacuate_s", "recovered_s", "returned_s")
    times = [summary[key] for key in order]
    assert times == sorted(times)
    assert summary["off_sent_s"] <= 11.0
    assert summary["evidence_to_first_evacuate_s"] <= 1.0
    assert summary["evacuated"] >= 1
    assert summary["not_moved"]
    assert all(each["name"] and each["reason"] for each in summary["not_moved"])


@pytest.mark.parametrize("failure", ["network", "reboot", pytest.param("agent-crash", marks=FULL)])
def test_a_host_that_lives_is_not_touched(tmp_path: Path, failure: str) -> None:
    summary = summary_of(tmp_path, failure)
    assert summary["detected_s"] is not None
    assert (summary["fenced_s"], summary["forced_down_s"], summary["evacuated"]) == (None, None, 0)
    assert (summary["recovered_s"] is not None) == (failure == "reboot")


@FULL
@pytest.mark.parametrize("failure", ["hang", "bmc-dead"])
def test_a_host_that_is_hard_to_kill_is_fenced_all_the_same(tmp_path: Path, failure: str) -> None:
    summary = summary_of(tmp_path, failure)
    assert summary["detected_s"] < summary["fenced_s"] < summary["first_evacuate_s"] < summary["recovered_s"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path, "--json")
    assert run.process.stdout is not None
    for line in run.process.stdout:
        if "armed by" in line:
            break
    run.process.send_signal(number)
    code, _ = run.end(30.0)
    assert code == 130


def test_without_a_terminal_it_is_plain_lines(tmp_path: Path) -> None:
    code, out = Run(tmp_path, "--failure", "reboot").end()
    assert code == 0
    assert "\x1b" not in out
    assert "every rule held" in out
    assert "[restart]" in out  # what looks like markup is shown as it is


# --- the cables ----------------------------------------------------------------------------------------------------------


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    wire = Wire()
    await wire.plug(server.sockets[0].getsockname()[1])
    yield wire
    await wire.close()
    server.close()


async def _said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello")
    return await asyncio.wait_for(reader.read(100), 0.5)


async def test_an_open_cable_carries(wire: Wire) -> None:
    connection = await asyncio.open_connection("127.0.0.1", wire.port)
    assert await _said(*connection) == b"hello"
    connection[1].close()


async def test_a_cut_cable_is_silent_to_old_and_new_connections(wire: Wire) -> None:
    old = await asyncio.open_connection("127.0.0.1", wire.port)
    assert await _said(*old) == b"hello"
    wire.cut()
    with pytest.raises(TimeoutError):
        await _said(*old)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection("127.0.0.1", wire.port), 0.5)
    await wire.mend()
    new = await asyncio.open_connection("127.0.0.1", wire.port)
    assert await _said(*new) == b"hello"
    for connection in (old, new):
        connection[1].close()


async def test_behind_a_mute_cable_only_the_kernel_answers(wire: Wire) -> None:
    old = await asyncio.open_connection("127.0.0.1", wire.port)
    wire.mute()
    new = await asyncio.open_connection("127.0.0.1", wire.port)
    for connection in (old, new):
        with pytest.raises(TimeoutError):
            await _said(*connection)
        connection[1].close()


async def test_a_port_without_its_daemon_refuses(wire: Wire) -> None:
    old = await asyncio.open_connection("127.0.0.1", wire.port)
    assert await _said(*old) == b"hello"
    await wire.refuse()
    assert await old[0].read(100) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", wire.port)
    old[1].close()
