"""Where fencing workers come from: a process that forks them, and that may be frozen or killed like any other."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ha_agent.errors import DriverError
from ha_agent.fencing.workers import Nursery, Worker
from ha_agent.programs import below
from tests.integration.rig_controller import alive, children
from tests.unit.heartbeat_support import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    """Nothing below us is alive afterwards, but for what other tests run meanwhile."""
    others = set(children(os.getpid()))
    made = Nursery()
    yield made
    await made.close()
    assert [p for child in set(children(os.getpid())) - others for p in (child, *below.living(child))] == []


async def ready(nursery: Nursery, *drivers: str) -> Worker:
    worker = await nursery.fork(drivers)
    line = await worker.line()
    assert line is not None
    assert line.kind == "ready"
    return worker


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def of_process(pid: int, file: str) -> bytes:
    return Path(f"/proc/{pid}/{file}").read_bytes()


async def test_a_worker_has_a_session_of_its_own_and_nothing_of_ours(nursery: Nursery) -> None:
    os.environ["HA_AGENT_TEST_SECRET"] = "not for workers"
    try:
        worker = await ready(nursery, "ipmi")
    finally:
        del os.environ["HA_AGENT_TEST_SECRET"]
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
    assert b"SECRET" not in of_process(worker.pid, "environ")
    open_files = [os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in os.listdir(f"/proc/{worker.pid}/fd")]  # noqa: PTH115, PTH208 -- names only
    assert sum(file.startswith("socket:") for file in open_files) <= 3, (
        "its own connection alone, as 0 and as its output"
    )
    await worker.kill()
    assert not alive(worker.pid)


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


async def test_a_frozen_one_is_replaced_too() -> None:
    nursery = Nursery(answer_s=0.3)
    first = await ready(nursery)
    mother = parent_of(first.pid)
    os.kill(mother, signal.SIGSTOP)
    with pytest.raises(DriverError, match="the process that forks them does not answer"):
        await nursery.fork(())
    assert not alive(mother)
    second = await ready(nursery)
    assert parent_of(second.pid) != mother
    await nursery.close()


async def test_one_that_cannot_fork_says_so_and_keeps_the_workers_that_there_are(nursery: Nursery) -> None:
    first = await ready(nursery)
    mother = parent_of(first.pid)
    files = resource.prlimit(mother, resource.RLIMIT_NOFILE)
    resource.prlimit(mother, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{mother}/fd")) + 1, files[1]))  # noqa: PTH208 -- names only
    with pytest.raises(DriverError, match=r"cannot be started: .*Too many open files"):
        await nursery.fork(())
    assert below.living(mother) == [first.pid]
    resource.prlimit(mother, resource.RLIMIT_NOFILE, files)
    assert parent_of((await ready(nursery)).pid) == mother


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
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names only
    for _ in range(20):
        await (await ready(nursery)).kill()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 -- names only


async def test_where_python_cannot_start_it_is_said() -> None:
    broken = Nursery(python="/nowhere/python")
    with pytest.raises(DriverError, match="cannot be started: No such file or directory"):
        await broken.fork(())
    await broken.close()
