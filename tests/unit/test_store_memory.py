"""What only the store in memory does: fail and crash on order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ha_agent.errors import Conflict, LeaseLost, StoreFull
from ha_agent.ports import Delete, Put
from ha_agent.store.memory import MemoryStore, Moment


class Crash(Exception):
    pass


PUT = Put(kind="k", key="a", body=b"1")


def test_a_failure_on_order_changes_nothing_and_is_over() -> None:
    store = MemoryStore()
    store.fail_next(StoreFull("no room"), times=2)
    with pytest.raises(StoreFull):
        store.commit(None, [PUT])
    with pytest.raises(StoreFull):
        store.take_lease("c1", 15, None)
    assert store.get("k", "a") is None
    assert store.read_lease() is None
    store.commit(None, [PUT])
    assert store.commits == 1


@pytest.mark.parametrize(("moment", "kept"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
def test_a_crash_before_or_after_any_commit(moment: Moment, kept: bool) -> None:
    store = MemoryStore()
    seen: list[tuple[Moment, int]] = []

    def callback(now: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        seen.append((now, number))
        assert len(writes) == 1
        if (now, number) == (moment, 2):
            raise Crash

    store.on_commit(callback)
    store.commit(None, [PUT])
    with pytest.raises(Crash):
        store.commit(None, [Put(kind="k", key="b", body=b"2")])
    assert (store.get("k", "b") is not None) is kept
    assert seen == [(Moment.BEFORE, 1), (Moment.AFTER, 1), (Moment.BEFORE, 2), (Moment.AFTER, 2)][: 4 if kept else 3]


def test_a_refused_commit_calls_nobody() -> None:
    store = MemoryStore()
    store.on_commit(lambda moment, number, writes: pytest.fail("called"))
    with pytest.raises(LeaseLost):
        store.commit(1, [PUT])
    with pytest.raises(Conflict):
        store.commit(None, [Put(kind="k", key="a", body=b"", expect=3)])
    assert store.commits == 0


def test_a_copy_has_what_is_durable_and_nothing_else() -> None:
    store = MemoryStore()
    lease = store.take_lease("c1", 15, None)
    store.commit(lease.epoch, [PUT])
    store.on_commit(lambda moment, number, writes: pytest.fail("called"))
    store.fail_next(StoreFull("no room"))
    other = store.copy()
    assert other.store_id == store.store_id
    assert other.read_lease() == lease
    other.commit(lease.epoch, [Put(kind="k", key="b", body=b"")])
    assert [d.key for d in other.list("k")] == ["a", "b"]
    assert [d.key for d in store.list("k")] == ["a"]
