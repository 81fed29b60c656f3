"""Everybody who is told has an outbox: one that is away keeps nobody waiting, nothing is lost or told twice by a crash, who is gone is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ha_agent.errors import DriverError, Rejected, StoreLocked
from ha_agent.model import Notification
from ha_agent.notify.deliveries import Deliveries, kind_of, waits
from ha_agent.notify.outbox import Limits
from ha_agent.notify.writer import KIND
from ha_agent.ports import Delete, Put
from ha_agent.store.memory import MemoryStore
from tests.unit.heartbeat_support import until
from tests.unit.notify_support import running
from tests.unit.test_notify_outbox import Chance, Pauses, fill, ids


class Listener:
    """Implements ports.Sink: keeps what it is told. `fails`: raised instead; `stuck`: it does not answer before it is told to `go_on`."""

    def __init__(self, fails: Exception | None = None, *, stuck: bool = False) -> None:
        self.got: list[str] = []
        self.fails = fails
        self.begun = 0
        self.go_on = asyncio.Event()
        if not stuck:
            self.go_on.set()
        self.closed = 0

    async def publish(self, notification: Notification) -> None:
        self.begun += 1
        await self.go_on.wait()
        if self.fails is not None:
            raise self.fails
        self.got.append(notification.id)

    async def close(self) -> None:
        self.closed += 1


def deliveries(store: MemoryStore, **sinks: Listener) -> Deliveries:
    return Deliveries(store, Chance(), sinks, Limits(poll_s=60, sleep=Pauses()))


async def test_everybody_is_told_everything_in_order() -> None:
    store, bus, hook = MemoryStore(), Listener(), Listener()
    fill(store, 45)
    async with running(deliveries(store, bus=bus, hook=hook)) as subject:
        assert await subject.drained(20)
        assert (bus.got, hook.got) == (ids(45), ids(45))
        fill(store, 2, first=45)
        subject.wake(2)
        await until(lambda: hook.got == ids(47) and bus.got == ids(47))
    assert [list(store.list(kind)) for kind in (KIND, kind_of("bus"), kind_of("hook"))] == [[], [], []]


@pytest.mark.parametrize("bad", [Listener(DriverError("away")), Listener(stuck=True)], ids=["fails", "hangs"])
async def test_one_that_is_away_keeps_nobody_waiting(bad: Listener) -> None:
    store, good = MemoryStore(), Listener()
    fill(store, 30)
    async with running(deliveries(store, bad=bad, good=good)) as subject:
        await until(lambda: good.got == ids(30))
        assert not await subject.drained(0.01)
        assert {d.name: d.backlog for d in subject.figures()} == {"bad": 30, "good": 0}
        said = [waits(d) for d in subject.figures()]
        assert said == ["30 notifications wait for bad: away" if bad.fails else "", ""]
    again = Listener()
    async with running(deliveries(store, bad=again, good=good)) as subject:
        assert await subject.drained(20)
    assert again.got == ids(30), "what waited was kept over a restart"
    assert good.got == ids(30), "and nobody was told twice"


async def test_what_is_refused_for_good_is_counted_and_nothing_waits_behind_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, strict = MemoryStore(), Listener(Rejected("it answered 400"))
    fill(store, 3)
    async with running(deliveries(store, strict=strict)) as subject:
        assert await subject.drained(20)
        assert [(d.rejected, d.published, d.backlog) for d in subject.figures()] == [(3, 0, 0)]
    assert sum("host.down is not tried again: it answered 400" in r.message for r in caplog.records) == 3


async def test_what_is_kept_for_one_who_is_gone_is_dropped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    store, bus = MemoryStore(), Listener()
    fill(store, 5)
    async with running(deliveries(store, bus=bus, old=Listener(DriverError("away")))):
        await until(lambda: bus.got == ids(5))
    assert len(store.list(kind_of("old"))) == 5
    async with running(deliveries(store, bus=bus)) as subject:
        assert await subject.drained(20)
    assert list(store.list(kind_of("old"))) == []
    assert any("5 notifications for old were dropped" in r.message for r in caplog.records)


async def test_others_are_told_after_a_reload_and_who_stays_keeps_what_waits() -> None:
    store, away, old = MemoryStore(), Listener(DriverError("away")), Listener()
    fill(store, 3)
    async with running(deliveries(store, away=away, old=old)) as subject:
        await until(lambda: old.got == ids(3))
        back, new = Listener(), Listener()
        subject.set_sinks({"away": back, "new": new})
        fill(store, 1, first=3)
        subject.wake(1)
        await until(lambda: back.got == ids(4) and new.got == ids(1, first=3))
        assert [d.name for d in subject.figures()] == ["away", "new"]
        await until(lambda: (away.closed, old.closed) == (1, 1))
    assert old.got == ids(3)


async def test_a_reload_does_not_interrupt_who_stays() -> None:
    """A hook that runs is not killed because others come or go, and is not run twice."""
    store, busy = MemoryStore(), Listener(stuck=True)
    fill(store, 1)
    async with running(deliveries(store, busy=busy, old=Listener())) as subject:
        await until(lambda: busy.begun == 1)
        other, new = Listener(), Listener()
        subject.set_sinks({"busy": other, "new": new})
        fill(store, 1, first=1)
        subject.wake(1)
        await until(lambda: new.got == ids(1, first=1))
        assert busy.got == []
        busy.go_on.set()
        await until(lambda: other.got == ids(1, first=1))
        assert busy.got == ids(1)
    assert (other.closed, new.closed) == (1, 1), "at the end nothing stays open"


class Locked(MemoryStore):
    """Every third commit fails, once `number` is one."""

    number: int | None = None

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        if self.number is not None:
            self.number += 1
            if self.number % 3 == 0:
                raise StoreLocked("locked")
        super().commit(epoch, writes)


async def test_a_store_that_fails_now_and_then_loses_nothing() -> None:
    store, first, second = Locked(), Listener(), Listener()
    fill(store, 40)
    store.number = 0
    async with running(deliveries(store, first=first, second=second)) as subject:
        await until(lambda: set(first.got) == set(ids(40)) == set(second.got))
        assert await subject.drained(20)
    unrepeated = list(dict.fromkeys(first.got))
    assert unrepeated == ids(40), "at least once, in order"


async def test_a_list_of_who_is_told_that_cannot_be_read_is_written_anew() -> None:
    store, bus = MemoryStore(), Listener()
    store.commit(None, [Put(kind="destinations", key="destinations", body=b"\xff")])
    fill(store, 1)
    async with running(deliveries(store, bus=bus)) as subject:
        assert await subject.drained(20)
    document = store.get("destinations", "destinations")
    assert document is not None
    assert document.body == b'["bus"]'
