"""What can happen to a file: killed writers, full disks, damage, other processes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_agent.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked
from ha_agent.ports import Put
from ha_agent.store.sqlite import SqliteStore

# Three documents per commit, for ever; one line is printed after each.
WRITER = """
import sys
from ha_agent.ports import Put
from ha_agent.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
lease = store.take_lease("writer", 15, store.read_lease())
for n in range(100_000):
    store.commit(lease.epoch, [Put(kind="doc", key=f"{n:06d}.{part}", body=b"x" * 3000) for part in "abc"])
    print(n, flush=True)
"""

# With files limited to 400 kB: as a full disk, without one.
LIMITED = """
import resource, sys
from ha_agent.errors import StoreFull
from ha_agent.ports import Put
from ha_agent.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.commit(None, [Put(kind="doc", key="first", body=b"1")])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    for n in range(100):
        store.commit(None, [Put(kind="doc", key=f"{n:06d}.{part}", body=b"x" * 20_000) for part in "ab"])
        print(n, flush=True)
except StoreFull as error:
    print("full:", error, "|", error.hint)
print(len(store.list("doc")))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit(None, [Put(kind="doc", key="room again", body=b"1")])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, busy_s=0.2)
    yield store
    store.close()


def put(key: str, body: bytes = b"x") -> Put:
    return Put(kind="doc", key=key, body=body)


def test_nobody_else_can_read_it(store: SqliteStore, path: Path) -> None:
    store.commit(None, [put("a")])
    assert {p.name for p in path.parent.iterdir()} == {"store.db", "store.db-wal", "store.db-shm"}
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_it_syncs_fully_and_in_wal_mode(store: SqliteStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_two_stores_differ(tmp_path: Path) -> None:
    one, two = SqliteStore(tmp_path / "1"), SqliteStore(tmp_path / "2")
    assert one.store_id != two.store_id
    one.close()
    two.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing: no such directory") as caught:
        SqliteStore(tmp_path / "missing" / "store.db")
    assert "install -d" in caught.value.hint


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore(tmp_path)


@pytest.mark.parametrize(
    "content", [b"version: 1\nhosts: {}\n" * 100, b"\x00" * 8192, b"SQLite format 3\x00" + b"\xff" * 8000]
)
def test_what_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["store.db"]


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    content = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="of something else"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_damage_inside_is_found_at_start_and_left_alone(path: Path) -> None:
    store = SqliteStore(path)
    store.commit(None, [put(f"{n:03d}", b"y" * 2000) for n in range(100)])
    store.close()
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="damaged"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="schema 99, this release knows 1"):
        SqliteStore(path)


def test_another_process_that_holds_it_is_not_waited_for_for_ever(store: SqliteStore, path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked, match=r"more than 0.2 s"):
        store.commit(None, [put("a")])
    with pytest.raises(StoreLocked):
        store.renew_lease("c1", 1)
    assert list(store.list("doc")) == []  # reading goes on
    holder.execute("COMMIT")
    holder.close()
    store.commit(None, [put("a")])


def test_another_thread_that_holds_it_is_not_waited_for_for_ever(store: SqliteStore) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store._turn():
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    with pytest.raises(StoreLocked, match="another thread"):
        store.get("doc", "a")
    done.set()
    thread.join(30)


def test_two_processes_see_each_other(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path)
    lease = store.take_lease("c1", 15, None)
    assert other.read_lease() == lease
    other.take_lease("c2", 15, lease)
    assert store.read_lease() != lease
    other.close()


def test_a_file_that_was_removed_is_no_journal(store: SqliteStore, path: Path) -> None:
    store.commit(None, [put("a")])
    path.unlink()
    with pytest.raises(StoreError, match="removed or replaced"):
        store.commit(None, [put("b")])


def test_after_close_every_call_is_an_error(store: SqliteStore) -> None:
    store.close()
    with pytest.raises(StoreError):
        store.get("doc", "a")
    with pytest.raises(StoreError):
        store.commit(None, [put("a")])


def test_a_killed_writer_leaves_whole_transactions_only(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(30):
        assert writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    said = 29 + len(writer.stdout.read().split())
    assert writer.wait(30) == -signal.SIGKILL
    store = SqliteStore(path)
    keys = [d.key for d in store.list("doc")]
    commits, left = divmod(len(keys), 3)
    assert left == 0
    assert commits >= said + 1  # what was reported durable is there, and perhaps one more
    assert keys == [f"{n:06d}.{part}" for n in range(commits) for part in "abc"]
    store.close()


def test_a_full_disk_is_a_clear_error_and_loses_nothing(path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2].startswith("full: "), result.stdout
    assert "no room is left" in lines[-2]
    assert "make room on the file system of" in lines[-2]
    committed = len(lines) - 2
    assert 2 <= committed < 100
    assert int(lines[-1]) == 1 + 2 * committed
    store = SqliteStore(path)
    assert len(store.list("doc")) == 2 + 2 * committed
    store.close()


def test_full_is_the_kind_of_a_bound_on_pages_too(store: SqliteStore) -> None:
    store._db.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreFull):
        store.commit(None, [put(f"{n}", b"x" * 4000) for n in range(40)])
    assert list(store.list("doc")) == []
