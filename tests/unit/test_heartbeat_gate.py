"""The gate: closed in every new boot, opened by a word for this boot that is on disk, and by nothing else."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ha_agent.errors import DriverError, Unanswered, UsageError
from ha_agent.heartbeat import gate
from ha_agent.heartbeat.claims import REMEMBER_S, Claims
from ha_agent.heartbeat.wire import Foreign
from ha_agent.ports import Heartbeat
from ha_agent.system import SystemClock

from .heartbeat_support import DEADLINE_S, monitor, remote, until
from .test_heartbeat_remote import Time


async def made(directory: Path, boot_id: str = "boot-1") -> gate.Gate:
    recalled = gate.Gate(directory, boot_id, SystemClock())
    await recalled.recall()
    return recalled


async def test_a_fresh_host_waits(tmp_path: Path) -> None:
    assert not (await made(tmp_path)).is_open


async def test_open_holds_in_this_boot_and_ends_with_it(tmp_path: Path) -> None:
    await (await made(tmp_path)).open("boot-1", "controller c")
    assert (await made(tmp_path)).is_open  # the remote has restarted
    assert not (await made(tmp_path, "boot-2")).is_open  # the host has


async def test_a_word_for_another_boot_opens_nothing(tmp_path: Path) -> None:
    here = await made(tmp_path)
    with pytest.raises(DriverError, match="boot-1"):
        await here.open("boot-0", "controller c")
    assert not here.is_open
    assert not (tmp_path / gate.STATE).exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot_id": 1}', b"\xff" * 10, b'["boot-1"]'])
async def test_a_state_that_cannot_be_read_opens_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / gate.STATE).write_bytes(content)
    assert not (await made(tmp_path)).is_open


async def test_what_cannot_be_stored_is_not_open(tmp_path: Path) -> None:
    here = gate.Gate(tmp_path / "absent", "boot-1", SystemClock())
    with pytest.raises(DriverError, match="stored"):
        await here.open("boot-1", "controller c")
    assert not here.is_open
    with pytest.raises(DriverError, match="audited"):
        await here.override(0, 1, "because")
    assert not here.is_open


async def test_a_disk_that_hangs_keeps_the_gate_closed_until_it_answers(tmp_path: Path) -> None:
    """A FIFO: whoever opens it waits for the other end."""
    os.mkfifo(tmp_path / gate.STATE)
    here = gate.Gate(tmp_path, "boot-1", SystemClock())
    recalling = asyncio.ensure_future(here.recall())
    await asyncio.wait({recalling}, timeout=0.05)
    assert (recalling.done(), here.recalled, here.is_open) == (False, False, False)
    stored = b'{"boot_id": "boot-1", "by": "controller c", "wall": 1.0}'
    await asyncio.to_thread((tmp_path / gate.STATE).write_bytes, stored)
    await asyncio.wait_for(recalling, DEADLINE_S)
    assert (here.recalled, here.is_open) == (True, True)


async def test_a_write_that_hangs_is_unanswered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = await made(tmp_path)
    os.mkfifo(tmp_path / f".{gate.STATE}.{os.getpid()}.new")
    os.mkfifo(tmp_path / gate.AUDIT)
    monkeypatch.setattr(gate, "STORE_S", 0.05)
    with pytest.raises(Unanswered, match="hangs"):
        await here.open("boot-1", "controller c")
    with pytest.raises(Unanswered, match="hangs"):
        await here.override(0, 1, "because")
    assert not here.is_open
    for path in (tmp_path / f".{gate.STATE}.{os.getpid()}.new", tmp_path / gate.AUDIT):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # lets a thread go


async def test_nova_compute_waits_for_the_controllers_word(tmp_path: Path) -> None:
    said: list[str] = []
    async with remote(tmp_path) as served, monitor({"compute-1": served.port}) as (watch, seen):
        waiting = asyncio.ensure_future(gate.wait(tmp_path / "compute-1" / "control", said.append, 0.01))
        await until(lambda: bool(said))
        assert "boot-1" in said[0]
        await seen.next(Heartbeat, lambda beat: beat.waiting_gate)
        with pytest.raises(DriverError, match="boot-1"):
            await watch.open_gate("compute-1", "boot-0", DEADLINE_S)
        assert not waiting.done()
        await watch.open_gate("compute-1", "boot-1", DEADLINE_S)
        # Acknowledged means stored: a second remote would find it now.
        assert (await made(tmp_path / "compute-1")).is_open
        await asyncio.wait_for(waiting, DEADLINE_S)
        await seen.next(Heartbeat, lambda beat: not beat.waiting_gate)
        await watch.open_gate("compute-1", "boot-1", DEADLINE_S)  # again, without harm
    async with remote(tmp_path) as again:
        assert again.gate.is_open
        await asyncio.wait_for(gate.wait(tmp_path / "compute-1" / "control", said.append, 0.01), DEADLINE_S)
    async with remote(tmp_path, boot_id="boot-2") as rebooted:
        assert not rebooted.gate.is_open


async def test_without_its_remote_the_gate_waits_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    waiting = asyncio.ensure_future(gate.wait(tmp_path / "compute-1" / "control", said.append, 0.01))
    await until(lambda: bool(said))
    assert "remote" in said[0]
    async with remote(tmp_path):
        await until(lambda: len(said) == 2)
    await until(lambda: len(said) == 3)  # the remote has gone again: no reason to open
    assert not waiting.done()
    async with remote(tmp_path) as served:
        await served.gate.open("boot-1", "controller c")
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_one_who_stops_waiting_is_not_counted(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        waiting = asyncio.ensure_future(gate.wait(tmp_path / "compute-1" / "control", lambda _: None, 0.01))
        await until(lambda: served.gate.waiting == 1)
        waiting.cancel()
        await until(lambda: served.gate.waiting == 0)


async def test_an_override_opens_and_is_audited_with_the_uid(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        await gate.override(tmp_path / "compute-1" / "control", "the controller burnt down")
        assert served.gate.is_open
    line = json.loads((tmp_path / "compute-1" / gate.AUDIT).read_text())
    assert (line["uid"], line["pid"]) == (os.getuid(), os.getpid())
    assert line["reason"] == "the controller burnt down"
    assert (await made(tmp_path / "compute-1")).is_open
    with pytest.raises(UsageError) as caught:
        await gate.override(tmp_path / "nowhere", "x")
    assert "start" in caught.value.hint


async def test_an_override_by_somebody_else_is_refused(tmp_path: Path) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, override_uids=frozenset({12345}))) as served:
        with pytest.raises(UsageError, match=f"uid {os.getuid()} "):
            await gate.override(tmp_path / "compute-1" / "control", "x")
        assert not served.gate.is_open


async def test_open_gate_without_a_connection_certainly_did_nothing(tmp_path: Path) -> None:
    async with monitor({"compute-1": 1}) as (watch, _):
        for host in ("compute-1", "compute-unknown"):
            with pytest.raises(DriverError):
                await watch.open_gate(host, "boot-1", DEADLINE_S)


async def test_open_gate_whose_answer_is_lost_is_unanswered(tmp_path: Path) -> None:
    async with remote(tmp_path) as served, monitor({"compute-1": served.port}) as (watch, _):
        await until(lambda: bool(watch.connected()))
        await served.gate._writing.acquire()  # a disk that hangs
        asked = asyncio.ensure_future(watch.open_gate("compute-1", "boot-1", DEADLINE_S))
        await asyncio.sleep(0)
        with pytest.raises(Unanswered):
            await watch.open_gate("compute-1", "boot-1", 0.05)
        await served.stop()  # and a remote that dies
        with pytest.raises(Unanswered):
            await asked


# --- claims -------------------------------------------------------------------------------------------------------------


def test_claims_are_told_to_those_whom_they_concern() -> None:
    clock = Time()
    claims = Claims(clock)
    claims.made("a", "store-1", 5)
    claims.made("standby", "store-1", 0)
    assert claims.against("store-1", 5) == []
    assert claims.against("store-1", 6) == []  # a has been succeeded
    assert claims.against("store-1", 4) == [Foreign(controller="a", store_id="store-1", epoch=5)]
    assert claims.against("store-1", 0) == []  # a standby of the same store
    assert claims.against("store-2", 0) == [Foreign(controller="a", store_id="store-1", epoch=5)]
    claims.left("a", "store-1")
    clock.at += REMEMBER_S - 1
    assert claims.against("store-2", 1)
    clock.at += 2
    assert claims.against("store-2", 1) == []
