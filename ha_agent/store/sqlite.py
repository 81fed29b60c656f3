"""The store in one SQLite file: for a single controller, or for several on one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ha_agent.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked
from ha_agent.ports import Delete, Document, Lease, Put
from ha_agent.store import rules
from ha_agent.store.filesystem import fs_type, is_network

APPLICATION_ID = 0x68614147  # "haAG": tells our files from other SQLite databases
SCHEMA = 1

# Revisions come from one counter, so that a document which was deleted and made again does not repeat one.
_TABLES = (
    "CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), store_id TEXT NOT NULL, revision INTEGER NOT NULL)",
    "CREATE TABLE documents (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, revision INTEGER NOT NULL,"
    " PRIMARY KEY (kind, key))",
    "CREATE TABLE lease (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " changes INTEGER NOT NULL, lease_s REAL NOT NULL, released INTEGER NOT NULL)",
)

_PERMISSION = {sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
# A quota and a limit on the size of files end in a failed write, not in SQLITE_FULL.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}


class SqliteStore:
    """Implements ports.Store. Any thread may call it; calls take turns. `busy_s`: how long to wait for another process.

    Raises StoreError and its kinds; `hint` says what to do. A file that is not ours, or is damaged, is left as it is.
    """

    def __init__(
        self, path: str | os.PathLike[str], busy_s: float = 5.0, new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    ) -> None:
        self._path = Path(path)
        self._busy_s = busy_s
        self._lock = threading.Lock()
        self._prepare_file()
        with self._translated():
            self._db = sqlite3.connect(self._path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            with self._translated():
                self._open(new_id)
                self._store_id = str(self._db.execute("SELECT store_id FROM store").fetchone()[0])
        except BaseException:
            self._db.close()
            raise
        self._file = self._identity()

    # --- the port ---

    @property
    def store_id(self) -> str:
        """A UUIDv4 made with the file; tells this store from any other."""
        return self._store_id

    def get(self, kind: str, key: str) -> Document | None:
        """One document, or None."""
        with self._reading() as db:
            row = db.execute("SELECT body, revision FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else Document(kind=kind, key=key, body=row[0], revision=row[1])

    def list(self, kind: str, limit: int = 10_000) -> Sequence[Document]:
        """The first `limit` documents of a kind, ordered by key."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT key, body, revision FROM documents WHERE kind = ? ORDER BY key LIMIT ?", (kind, limit)
            ).fetchall()
        return [Document(kind=kind, key=key, body=body, revision=revision) for key, body, revision in rows]

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        """All writes or none, on the disk on return."""
        rules.check_writes(writes)
        with self._writing() as db:
            rules.check_epoch(self._lease(db), epoch)
            db.execute("UPDATE store SET revision = revision + 1")
            revision = int(db.execute("SELECT revision FROM store").fetchone()[0])
            for write in writes:
                name = (write.kind, write.key)
                if isinstance(write, Delete):
                    db.execute("DELETE FROM documents WHERE kind = ? AND key = ?", name)
                    continue
                if write.expect is not None:
                    row = db.execute("SELECT revision FROM documents WHERE kind = ? AND key = ?", name).fetchone()
                    rules.check_expected(write, row[0] if row else 0)
                db.execute(
                    "INSERT INTO documents (kind, key, body, revision) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET body = excluded.body, revision = excluded.revision",
                    (*name, write.body, revision),
                )

    def read_lease(self) -> Lease | None:
        """The lease as it is stored."""
        with self._reading() as db:
            return self._lease(db)

    def take_lease(self, owner: str, lease_s: float, seen: Lease | None) -> Lease:
        """A new epoch for `owner`. Raises Conflict."""
        with self._writing() as db:
            return self._put_lease(db, rules.taken(self._lease(db), owner, lease_s, seen))

    def renew_lease(self, owner: str, epoch: int) -> Lease:
        """Raises LeaseLost."""
        with self._writing() as db:
            return self._put_lease(db, rules.renewed(self._lease(db), owner, epoch))

    def release_lease(self, owner: str, epoch: int) -> None:
        """Lets a taker take over at once. Nothing happens where the lease is not ours."""
        with self._writing() as db:
            lease = rules.released(self._lease(db), owner, epoch)
            if lease is not None:
                self._put_lease(db, lease)

    def close(self) -> None:
        """The file is closed; every later call raises StoreError."""
        with self._lock:
            self._db.close()

    # --- opening ---

    def _prepare_file(self) -> None:
        """Refuses places where SQLite is not safe, and makes the file readable by nobody else."""
        parent = self._path.parent
        if not parent.is_dir():
            raise StoreError(
                f"{parent}: no such directory, so there is no place for the store",
                f"make it: install -d -m 0750 {parent}",
            )
        kind = fs_type(parent)
        if is_network(kind):
            raise StoreError(
                f"{self._path} is on a network or FUSE file system ({kind}), where two controllers could both lead",
                "set store.url to a path on a local disk; for several controllers use etcd",
            )
        try:
            if self._path.exists():
                return  # not opened here: closing it again would drop the locks that this process may hold on it
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)  # or a power cut could take the new file, and with it the lease
            finally:
                os.close(directory)
        except OSError as error:
            hint = "let the user that runs ha-agent read and write it, and its directory"
            raise StoreError(f"{self._path} cannot be opened: {error.strerror}", hint) from error

    def _open(self, new_id: Callable[[], str]) -> None:
        """Checks the file, makes the tables in a new one, and sets how it is written."""
        db = self._db
        if self._is_new():
            # Before WAL: so the file itself says whose it is, whatever happens next.
            db.execute("BEGIN IMMEDIATE")
            if self._is_new():
                for table in _TABLES:
                    db.execute(table)
                db.execute("INSERT INTO store (one, store_id, revision) VALUES (1, ?, 0)", (new_id(),))
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute("COMMIT")
        if self._pragma("application_id") != APPLICATION_ID:
            raise StoreCorrupt(f"{self._path} is an SQLite database of something else", "set store.url to another path")
        if self._pragma("user_version") != SCHEMA:
            raise StoreError(
                f"{self._path} has schema {self._pragma('user_version')}, this release knows {SCHEMA}",
                "run the release that wrote it, or a newer one",
            )
        fault = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if fault != "ok":
            raise StoreCorrupt(
                f"{self._path} is damaged: {fault}", "restore a copy, or move it away to start disarmed and empty"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 16777216")

    def _is_new(self) -> bool:
        return self._pragma("application_id") == 0 and self._pragma("schema_version") == 0

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    # --- each call ---

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._turn(), self._translated():
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. It holds the write lock from its start, so what it reads is still true when it ends."""
        with self._turn(), self._translated():
            if self._identity() != self._file:
                raise StoreError(
                    f"{self._path} was removed or replaced while in use",
                    "restart ha-agent; it starts with what is there now",
                )
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=2 * self._busy_s):
            raise StoreLocked(f"{self._path} is held by another thread of this process")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> StoreError:
        extended = getattr(error, "sqlite_errorcode", 0) or 0
        code = extended & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            hint = f"see who holds it: fuser {self._path}"
            return StoreLocked(f"{self._path} was locked by another process for more than {self._busy_s:g} s", hint)
        if code in _FULL or extended in _FULL:
            hint = f"make room on the file system of {self._path.parent} (or raise its quota or limit)"
            return StoreFull(f"{self._path} cannot be written: no room is left ({error})", hint)
        if code in _CORRUPT:
            hint = "restore a copy, or move it away to start disarmed and empty"
            return StoreCorrupt(f"{self._path} is damaged, or is no SQLite database: {error}", hint)
        if code in _PERMISSION:
            hint = "let the user that runs ha-agent read and write it, and its directory"
            return StoreError(f"{self._path} cannot be opened or written: {error}", hint)
        return StoreError(f"{self._path}: {error}")

    def _identity(self) -> tuple[int, int] | None:
        """Which file the path names now. Writing to a removed one would be a journal that nobody reads."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    @staticmethod
    def _lease(db: sqlite3.Connection) -> Lease | None:
        row = db.execute("SELECT owner, epoch, changes, lease_s, released FROM lease").fetchone()
        if row is None:
            return None
        return Lease(owner=row[0], epoch=row[1], changes=row[2], lease_s=row[3], released=bool(row[4]))

    @staticmethod
    def _put_lease(db: sqlite3.Connection, lease: Lease) -> Lease:
        db.execute(
            "INSERT OR REPLACE INTO lease (one, owner, epoch, changes, lease_s, released) VALUES (1, ?, ?, ?, ?, ?)",
            (lease.owner, lease.epoch, lease.changes, lease.lease_s, lease.released),
        )
        return lease
