"""The outbox: nothing is lost, in order, at least once, bounded; a broker that is down delays nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from ha_agent.errors import DriverError, StoreLocked, Unanswered
from ha_agent.model import Notification
from ha_agent.notify.outbox import BACKOFF_MAX_S, Limits, Outbox, Threaded
from ha_agent.notify.writer import KIND, OutboxWriter
from ha_agent.ports import Put
from ha_agent.store.memory import MemoryStore
from tests.unit import notify_support


class Chance:
    """Implements ports.Random without any."""

    def uuid(self) -> str:
        return "00000000-0000-4000-8000-000000000000"

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def nonce(self) -> str:
        return "0" * 32


class FakeBus:
    """Takes notifications; `down` makes it fail; `lose_next` takes one and loses the answer."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.down: Exception | None = None
        self.lose_next = False
        self.closed = 0

    def publish(self, notification: Notification) -> None:
        if self.down:
            raise self.down
        self.got.append(notification.id)
        if self.lose_next:
            self.lose_next = False
            raise Unanswered("no confirmation")

    def close(self) -> None:
        self.closed += 1


class Pauses:
    """Instead of sleeping: notes how long, lets others run, and calls back."""

    def __init__(self, then: Callable[[int], None] = lambda n: None) -> None:
        self.slept: list[float] = []
        self.then = then

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.then(len(self.slept))


def note(number: int) -> Notification:
    return Notification(id=f"n{number}", event_type="host.down", priority="info", wall=1.0, payload={"n": number})


def fill(store: MemoryStore, count: int, epoch: int = 1, first: int = 0) -> None:
    writer = OutboxWriter(epoch)
    for number in range(first, first + count):
        store.commit(None, [writer.put_for(note(number))])


def ids(count: int, first: int = 0) -> list[str]:
    return [f"n{number}" for number in range(first, first + count)]


def running(
    store: MemoryStore, bus: FakeBus, bound: int = 10_000, sleep: Callable[[float], Awaitable[None]] | None = None
) -> AbstractAsyncContextManager[Outbox]:
    return notify_support.running(Outbox(store, Threaded(bus), Chance(), limits=Limits(bound, 60, sleep or Pauses())))


def test_keys_sort_by_epoch_and_order_and_never_collide() -> None:
    first, second, again = OutboxWriter(9), OutboxWriter(10), OutboxWriter(9)
    puts = [first.put_for(note(1)), first.put_for(note(2)), *(first.put_for(note(n)) for n in range(3, 12))]
    puts.append(second.put_for(note(50)))
    assert [p.key for p in puts] == sorted(p.key for p in puts)
    assert again.put_for(note(60)).key not in {p.key for p in puts}
    assert {p.kind for p in puts} == {KIND}


async def test_what_waits_is_published_in_order_and_deleted() -> None:
    store, bus = MemoryStore(), FakeBus()
    fill(store, 30, epoch=2, first=30)
    fill(store, 30, epoch=1)
    async with running(store, bus) as outbox:
        assert await outbox.drained(20)
        assert bus.got == ids(60)
        assert list(store.list(KIND)) == []
        assert (outbox.backlog, outbox.published, outbox.failures) == (0, 60, 0)


async def test_what_is_added_later_wakes_it() -> None:
    store, bus = MemoryStore(), FakeBus()
    async with running(store, bus) as outbox:
        assert await outbox.drained(20)
        fill(store, 3)
        outbox.wake(3)
        assert outbox.backlog == 3
        assert await outbox.drained(20)
        assert bus.got == ids(3)


async def test_a_broker_that_is_down_loses_nothing_and_is_asked_at_a_bounded_pace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = DriverError("the bus cannot be reached")
    fill(store, 5)

    def later(sleeps: int) -> None:
        if sleeps == 12:
            bus.down = None

    pauses = Pauses(later)
    with caplog.at_level(logging.WARNING):
        async with running(store, bus, sleep=pauses) as outbox:
            assert await outbox.drained(20)
            assert outbox.failures == 12
    assert bus.got == ids(5)
    assert pauses.slept[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(pauses.slept) == BACKOFF_MAX_S
    assert len([r for r in caplog.records if "wait for the bus: the bus cannot be reached" in r.message]) == 1


async def test_a_lost_confirmation_repeats_with_the_same_id_and_in_order() -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.lose_next = True
    fill(store, 3)
    async with running(store, bus) as outbox:
        assert await outbox.drained(20)
    assert bus.got == ["n0", "n0", "n1", "n2"]


async def test_a_failure_in_the_middle_keeps_what_follows_waiting() -> None:
    store, bus = MemoryStore(), FakeBus()
    fill(store, 6)
    real = bus.publish

    def publish(notification: Notification) -> None:
        if len(bus.got) == 4 and not pauses.slept:
            raise DriverError("gone")
        real(notification)

    bus.publish = publish  # type: ignore[method-assign]
    left: list[str] = []
    pauses = Pauses(lambda n: left.extend(d.key.rpartition(".")[2] for d in store.list(KIND)))
    async with running(store, bus, sleep=pauses) as outbox:
        assert await outbox.drained(20)
    assert bus.got == ids(6)
    assert left == ["n4", "n5"]  # those before the failure were deleted at once


@pytest.mark.parametrize("error", [StoreLocked("held"), RuntimeError("a defect")])
async def test_a_store_that_fails_is_tried_again(error: Exception) -> None:
    store, bus = MemoryStore(), FakeBus()
    fill(store, 2)
    store.fail_next(error)  # the deletion
    async with running(store, bus) as outbox:
        assert await outbox.drained(20)
        assert outbox.failures == 1
    assert bus.got == ["n0", "n1", "n0", "n1"]


async def test_a_defect_of_the_bus_does_not_end_it() -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = RuntimeError("a defect")
    fill(store, 1)

    def repair(sleeps: int) -> None:
        bus.down = None

    async with running(store, bus, sleep=Pauses(repair)) as outbox:
        assert await outbox.drained(20)
        assert outbox.last_error == ""
    assert bus.got == ["n0"]


async def test_above_the_bound_the_oldest_go_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = DriverError("down")
    fill(store, 130)

    def repair(sleeps: int) -> None:
        if sleeps == 3:
            bus.down = None

    with caplog.at_level(logging.ERROR):
        async with running(store, bus, bound=100, sleep=Pauses(repair)) as outbox:
            assert await outbox.drained(20)
            assert outbox.dropped == 35  # 30 above the bound, and a twentieth so as not to do it for each
    assert bus.got == ids(95, first=35)
    assert "35 notifications were dropped" in caplog.text


async def test_the_bound_also_holds_for_what_is_added_while_the_broker_is_down() -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = DriverError("down")
    writer = OutboxWriter(1)
    outbox: Outbox

    def more(sleeps: int) -> None:
        if sleeps <= 10:
            store.commit(None, [writer.put_for(note(sleeps * 100 + n)) for n in range(30)])
            outbox.wake(30)
        if sleeps == 12:
            assert len(store.list(KIND)) <= 100
            bus.down = None

    async with running(store, bus, bound=100, sleep=Pauses(more)) as outbox:
        fill(store, 1)
        outbox.wake()
        assert await outbox.drained(20)
        assert outbox.dropped + len(bus.got) == 301
    assert bus.got[-1] == "n1029"


async def test_a_document_that_cannot_be_decoded_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    store, bus = MemoryStore(), FakeBus()
    store.commit(None, [Put(kind=KIND, key="0", body=b"garbage")])
    fill(store, 1)
    with caplog.at_level(logging.ERROR):
        async with running(store, bus) as outbox:
            assert await outbox.drained(20)
            assert outbox.dropped == 1
    assert bus.got == ["n0"]
    assert "cannot be decoded" in caplog.text


async def test_to_wait_for_it_is_bounded() -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = DriverError("down")
    fill(store, 1)
    async with running(store, bus) as outbox:
        assert not await outbox.drained(0.01)


async def test_after_a_restart_the_rest_follows() -> None:
    store, bus = MemoryStore(), FakeBus()
    bus.down = DriverError("down")
    fill(store, 3)
    async with running(store, bus) as outbox:
        assert not await outbox.drained(0.01)
    bus.down = None
    async with running(store, bus) as outbox:
        assert await outbox.drained(20)
    assert bus.got == ids(3)


async def test_it_can_run_again_and_counts_anew() -> None:
    store, bus = MemoryStore(), FakeBus()
    outbox = Outbox(store, Threaded(bus), Chance(), limits=Limits(poll_s=60))
    for turn in range(2):
        fill(store, 3, epoch=turn, first=3 * turn)
        task = asyncio.create_task(outbox.run())
        if turn:
            outbox.wake(3)
        assert await outbox.drained(20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert bus.got == ids(6)
    assert outbox.backlog == 0


async def test_an_idle_connection_is_closed() -> None:
    store, bus = MemoryStore(), FakeBus()
    outbox = Outbox(store, Threaded(bus), Chance(), limits=Limits(poll_s=0.005))
    task = asyncio.create_task(outbox.run())
    for _ in range(500):
        if bus.closed:
            break
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bus.closed
