"""Where fencing workers come from: a process that forks them, and that may be frozen or killed like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ha_agent.errors import DriverError
from ha_agent.fencing import below, workers
from ha_agent.fencing.workers import Nursery, Worker

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    made = Nursery()
    yield made
    await made.close()
    assert below.living(os.getpid()) == []


async def ready(nursery: Nursery, *drivers: str) -> Worker:
    worker = await nursery.fork(drivers)
    line = await worker.line()
    assert line is not None
    assert line.kind == "ready"
    return worker


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def is_living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def of_process(pid: int, file: str) -> bytes:
    return Path(f"/proc/{pid}/{file}").read_bytes()


async def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_a_worker_has_a_session_of_its_own_and_nothing_of_ours(nursery: Nursery) -> None:
    os.environ["HA_AGENT_TEST_SECRET"] = "not for workers"
    try:
        worker = await ready(nursery, "ipmi")
    finally:
        del os.environ["HA_AGENT_TEST_SECRET"]
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
    assert b"SECRET" not in of_process(worker.pid, "environ")
    open_files = [os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in os.listdir(f"/proc/{worker.pid}/fd")]  # noqa: PTH115, PTH208
    assert sum(file.startswith("socket:") for file in open_files) <= 3, (
        "its own connection alone, as 0 and as its output"
    )
    await worker.kill()
    assert not is_living(worker.pid)


async def test_a_driver_is_loaded_once_however_many_need_it(nursery: Nursery) -> None:
    await (await ready(nursery, "ipmi")).kill()
    mother = parent_of((await ready(nursery)).pid)
    before = os.times().children_user
    for _ in range(5):
        worker = await ready(nursery, "ipmi", "redfish")
        assert parent_of(worker.pid) == mother
        await worker.kill()
    assert os.times().children_user == before, "no Python was started"


async def test_one_that_was_killed_takes_its_workers_along_and_is_replaced(nursery: Nursery) -> None:
    worker = await ready(nursery)
    os.kill(parent_of(worker.pid), signal.SIGKILL)
    await until(lambda: not worker.alive)
    assert await worker.line() is None
    await worker.kill()
    assert (await ready(nursery)).alive


async def test_a_frozen_one_is_replaced_too(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER_S", 0.3)
    first = await ready(nursery)
    mother = parent_of(first.pid)
    os.kill(mother, signal.SIGSTOP)
    with pytest.raises(DriverError, match="the process that forks them does not answer"):
        await nursery.fork(())
    assert not is_living(mother)
    second = await ready(nursery)
    assert parent_of(second.pid) != mother


async def test_a_caller_that_gives_up_leaves_no_worker_behind(nursery: Nursery) -> None:
    known = (await ready(nursery)).pid
    asked = asyncio.create_task(nursery.fork(()))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert below.living(parent_of(known)) == [known]


async def test_none_of_them_keeps_a_descriptor_of_ours(nursery: Nursery) -> None:
    await (await ready(nursery)).kill()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        await (await ready(nursery)).kill()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


async def test_where_python_cannot_start_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    broken = Nursery()
    with pytest.raises(DriverError, match="cannot be started: No such file or directory"):
        await broken.fork(())
    await broken.close()
