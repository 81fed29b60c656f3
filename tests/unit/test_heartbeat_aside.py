"""Blocking calls beside the loop: what hangs keeps its thread, and nobody waits for longer than he said."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ha_agent.heartbeat.aside import Aside

from .heartbeat_support import DEADLINE_S, until


async def test_results_and_errors_come_back() -> None:
    aside = Aside("test")
    assert await aside.run(lambda: threading.current_thread().name, DEADLINE_S) == "test"

    def fails() -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError, match="no"):
        await aside.run(fails, DEADLINE_S)
    assert not aside.busy


async def test_others_wait_for_their_turn() -> None:
    aside = Aside("test", 2)
    going, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(2)

    def call() -> None:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        together.wait(DEADLINE_S)
        with lock:
            going -= 1

    await asyncio.gather(*(aside.run(call, DEADLINE_S) for _ in range(20)))
    assert most == 2


async def test_a_call_that_hangs_holds_its_thread_and_nobody_else() -> None:
    aside, released = Aside("hangs"), threading.Event()
    with pytest.raises(TimeoutError):
        await aside.run(released.wait, 0.02)
    assert aside.busy
    for _ in range(50):
        with pytest.raises(TimeoutError):  # they wait, without a thread
            await aside.run(lambda: None, 0.001)
    assert sum(thread.name == "hangs" for thread in threading.enumerate()) == 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "hangs")
    released.set()
    await until(lambda: not aside.busy)
    assert await aside.run(lambda: 7, DEADLINE_S) == 7


async def test_an_error_after_the_deadline_is_nobodys() -> None:
    aside, released = Aside("late"), threading.Event()

    def late() -> None:
        released.wait(DEADLINE_S)
        raise OSError("too late")

    with pytest.raises(TimeoutError):
        await aside.run(late, 0.02)
    released.set()
    await until(lambda: not aside.busy)


async def test_without_further_threads_it_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside("none")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="thread"):
        await aside.run(lambda: 1, DEADLINE_S)
    assert not aside.busy
