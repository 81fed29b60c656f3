"""What every store must do, run on each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha_agent.errors import Conflict, LeaseLost, StoreError
from ha_agent.ports import Delete, Lease, Put, Store
from ha_agent.store.memory import MemoryStore
from ha_agent.store.rules import MAX_BODY
from ha_agent.store.sqlite import SqliteStore

Reopen = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the store again, as the next process would."""
    opened: list[Store] = []
    memory = MemoryStore()

    def open_() -> Store:
        while opened:
            opened.pop().close()
        store: Store = memory if request.param == "memory" else SqliteStore(tmp_path / "store.db")
        opened.append(store)
        return store

    yield open_
    while opened:
        opened.pop().close()


@pytest.fixture
def store(reopen: Reopen) -> Store:
    return reopen()


def put(key: str, body: bytes = b"x", expect: int | None = None, kind: str = "incident") -> Put:
    return Put(kind=kind, key=key, body=body, expect=expect)


def keys(store: Store, kind: str = "incident") -> list[str]:
    return [d.key for d in store.list(kind)]


def revision(store: Store, key: str) -> int:
    document = store.get("incident", key)
    return document.revision if document else 0


# --- documents ---


def test_a_document_is_read_as_it_was_written(store: Store) -> None:
    assert store.get("incident", "a") is None
    store.commit(None, [put("a", b"\x00\xff")])
    document = store.get("incident", "a")
    assert document is not None
    assert (document.kind, document.key, document.body) == ("incident", "a", b"\x00\xff")
    assert document.revision > 0


def test_kinds_do_not_mix(store: Store) -> None:
    store.commit(None, [put("a", kind="incident"), put("a", b"host", kind="host"), put("b", kind="host")])
    assert keys(store) == ["a"]
    assert [d.body for d in store.list("host")] == [b"host", b"x"]
    store.commit(None, [Delete(kind="host", key="a")])
    assert keys(store) == ["a"]


def test_a_list_is_ordered_by_key_and_limited(store: Store) -> None:
    store.commit(None, [put(f"{n:03d}") for n in (5, 1, 9, 3)])
    assert keys(store) == ["001", "003", "005", "009"]
    assert [d.key for d in store.list("incident", limit=2)] == ["001", "003"]


def test_a_revision_grows_with_every_write_even_over_a_delete(store: Store) -> None:
    seen = []
    for body in (b"1", b"1", b"2"):
        store.commit(None, [put("a", body)])
        seen.append(revision(store, "a"))
    store.commit(None, [Delete(kind="incident", key="a")])
    store.commit(None, [put("a", b"3")])
    seen.append(revision(store, "a"))
    assert seen == sorted(set(seen))


def test_compare_and_set(store: Store) -> None:
    store.commit(None, [put("a", b"1", expect=0)])
    with pytest.raises(Conflict, match="incident/a"):
        store.commit(None, [put("a", b"2", expect=0)])
    first = revision(store, "a")
    store.commit(None, [put("a", b"2", expect=first)])
    with pytest.raises(Conflict):
        store.commit(None, [put("a", b"3", expect=first)])
    with pytest.raises(Conflict):
        store.commit(None, [put("gone", expect=first)])
    document = store.get("incident", "a")
    assert document is not None
    assert document.body == b"2"


def test_all_writes_or_none(store: Store) -> None:
    store.commit(None, [put("a", b"1"), put("b", b"1")])
    with pytest.raises(Conflict):
        store.commit(None, [put("a", b"2"), Delete(kind="incident", key="b"), put("c"), put("d", expect=77)])
    assert [(d.key, d.body) for d in store.list("incident")] == [("a", b"1"), ("b", b"1")]


def test_to_delete_what_is_absent_is_fine(store: Store) -> None:
    store.commit(None, [Delete(kind="incident", key="never")])
    store.commit(None, [])


def test_a_body_is_bounded(store: Store) -> None:
    store.commit(None, [put("fits", b"x" * MAX_BODY)])
    with pytest.raises(StoreError, match=r"incident/big has 1048577 bytes: the bound is 1048576"):
        store.commit(None, [put("small"), put("big", b"x" * (MAX_BODY + 1))])
    assert keys(store) == ["fits"]


@pytest.mark.parametrize("key", ["", "k" * 513])
def test_a_name_is_bounded(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="1 to 512 characters"):
        store.commit(None, [put(key)])


def test_what_was_committed_is_there_for_the_next_process(reopen: Reopen) -> None:
    store = reopen()
    lease = store.take_lease("c1", 15, None)
    store.commit(lease.epoch, [put("a", b"1"), put("b")])
    identity, old = store.store_id, revision(store, "a")
    store = reopen()
    assert store.store_id == identity
    assert keys(store) == ["a", "b"]
    assert store.read_lease() == lease
    store.commit(lease.epoch, [put("a", b"2", expect=old)])
    assert revision(store, "a") > old


def test_several_threads_take_turns(store: Store) -> None:
    lost: list[Exception] = []

    def write(name: str) -> None:
        try:
            for n in range(5):
                store.commit(None, [put(f"{name}{n}")])
        except Exception as error:
            lost.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not lost
    assert len(keys(store)) == 20


# --- the lease and the epoch ---


def test_the_first_lease_is_epoch_one(store: Store) -> None:
    assert store.read_lease() is None
    lease = store.take_lease("c1", 15, None)
    assert lease == Lease(owner="c1", epoch=1, changes=1, lease_s=15)
    assert store.read_lease() == lease


def test_a_commit_under_the_newest_epoch_passes(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    store.commit(lease.epoch, [put("a")])
    assert keys(store) == ["a"]


@pytest.mark.parametrize("epoch", [0, 1, 99])
def test_a_commit_without_any_lease_is_refused(store: Store, epoch: int) -> None:
    with pytest.raises(LeaseLost):
        store.commit(epoch, [put("a")])
    assert keys(store) == []


def test_a_stale_leader_cannot_write(store: Store) -> None:
    old = store.take_lease("c1", 15, None)
    new = store.take_lease("c2", 15, old)
    assert new.epoch > old.epoch
    with pytest.raises(LeaseLost, match="epoch 1 is over: the newest is 2, of c2"):
        store.commit(old.epoch, [put("a")])
    with pytest.raises(LeaseLost):
        store.renew_lease("c1", old.epoch)
    store.commit(new.epoch, [put("b")])
    assert keys(store) == ["b"]
    assert store.read_lease() == new


def test_nobody_leads_an_epoch_of_the_future(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    with pytest.raises(LeaseLost):
        store.commit(lease.epoch + 1, [put("a")])


def test_a_renewal_shows_as_a_change(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    renewed = store.renew_lease("c1", lease.epoch)
    assert renewed.epoch == lease.epoch
    assert renewed.changes > lease.changes
    assert store.read_lease() == renewed
    store.commit(lease.epoch, [put("a")])


def test_a_lease_is_not_renewed_by_another_owner(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    with pytest.raises(LeaseLost, match="belongs to c1"):
        store.renew_lease("c2", lease.epoch)
    with pytest.raises(LeaseLost):
        store.renew_lease("c1", lease.epoch + 1)


def test_a_lease_that_moved_since_it_was_seen_is_not_taken(store: Store) -> None:
    seen = store.take_lease("c1", 15, None)
    now = store.renew_lease("c1", seen.epoch)
    for stale in (seen, None):
        with pytest.raises(Conflict, match="held by c1, epoch 1"):
            store.take_lease("c2", 15, stale)
    assert store.read_lease() == now
    store.commit(seen.epoch, [put("a")])


def test_of_two_takers_one_wins(store: Store) -> None:
    seen = store.take_lease("c1", 15, None)
    store.take_lease("c2", 15, seen)
    with pytest.raises(Conflict):
        store.take_lease("c3", 15, seen)
    with pytest.raises(Conflict):
        store.take_lease("c3", 15, None)


def test_a_released_lease_can_be_taken_at_once_and_guards_nothing(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    store.release_lease("c1", lease.epoch)
    seen = store.read_lease()
    assert seen is not None
    assert seen.released
    with pytest.raises(LeaseLost, match="released"):
        store.commit(lease.epoch, [put("a")])
    with pytest.raises(LeaseLost, match="released"):
        store.renew_lease("c1", lease.epoch)
    new = store.take_lease("c2", 10, seen)
    assert new.epoch == lease.epoch + 1
    assert not new.released
    assert new.lease_s == 10


def test_to_release_what_is_not_ours_changes_nothing(store: Store) -> None:
    store.release_lease("c1", 1)
    assert store.read_lease() is None
    old = store.take_lease("c1", 15, None)
    new = store.take_lease("c2", 15, old)
    store.release_lease("c1", old.epoch)
    store.release_lease("c1", new.epoch)
    assert store.read_lease() == new


@pytest.mark.parametrize(("owner", "lease_s"), [("", 15.0), ("c1", 0.0), ("c1", -1.0)])
def test_a_lease_without_owner_or_duration_is_refused(store: Store, owner: str, lease_s: float) -> None:
    with pytest.raises(StoreError, match="needs an owner"):
        store.take_lease(owner, lease_s, None)
    assert store.read_lease() is None


def test_writes_without_an_epoch_need_no_lease(store: Store) -> None:
    lease = store.take_lease("c1", 15, None)
    store.commit(None, [put("a")])
    store.release_lease("c1", lease.epoch)
    store.commit(None, [put("b")])
    assert keys(store) == ["a", "b"]
