"""A store in memory, for unit tests and the simulator: the same contract as the others, deterministic, and it can fail on order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import StrEnum

from ha_agent.ports import Delete, Document, Lease, Put
from ha_agent.store import rules


class Moment(StrEnum):
    """Where in a commit a callback is called. Raising there is a crash at that boundary of the journal (S7)."""

    BEFORE = "before"  # nothing is written yet; nothing will be, if the callback raises
    AFTER = "after"  # everything is written; the writer has not heard of it yet


# Called with the moment, the number of the commit (from 1, refused ones not counted), and its writes.
CommitCallback = Callable[[Moment, int, Sequence[Put | Delete]], None]


class MemoryStore:
    """Implements ports.Store. It outlives its users: `close` does nothing, and a restarted controller is given the same one."""

    def __init__(self, store_id: str = "00000000-0000-4000-8000-000000000000") -> None:
        self._store_id = store_id
        self._kinds: dict[str, dict[str, Document]] = {}
        self._revision = 0
        self._lease: Lease | None = None
        self._commits = 0
        self._failures: list[Exception] = []
        self._held: Callable[[], None] | None = None
        self._callbacks: list[CommitCallback] = []
        self._lock = threading.RLock()

    # --- the port ---

    @property
    def store_id(self) -> str:
        """A UUIDv4 that tells this store from any other."""
        return self._store_id

    def get(self, kind: str, key: str) -> Document | None:
        """One document, or None."""
        with self._lock:
            return self._kinds.get(kind, {}).get(key)

    def list(self, kind: str, limit: int = 10_000) -> Sequence[Document]:
        """The first `limit` documents of a kind, ordered by key."""
        with self._lock:
            documents = self._kinds.get(kind, {})
            return [documents[key] for key in sorted(documents)[:limit]]

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        """All writes or none. Raises LeaseLost, Conflict, StoreError, or what `fail_next` was given."""
        with self._lock:
            self._fail()
            rules.check_writes(writes)
            rules.check_epoch(self._lease, epoch)
            revision = self._revision + 1
            changed: dict[tuple[str, str], Document | None] = {}
            for write in writes:
                name = (write.kind, write.key)
                if isinstance(write, Delete):
                    changed[name] = None
                    continue
                if write.expect is not None:
                    current = changed[name] if name in changed else self.get(*name)
                    rules.check_expected(write, current.revision if current else 0)
                changed[name] = Document(kind=write.kind, key=write.key, body=bytes(write.body), revision=revision)
            number = self._commits + 1
            self._call(Moment.BEFORE, number, writes)
            for (kind, key), document in changed.items():
                if document is None:
                    self._kinds.get(kind, {}).pop(key, None)
                else:
                    self._kinds.setdefault(kind, {})[key] = document
            self._revision, self._commits = revision, number
            self._call(Moment.AFTER, number, writes)

    def read_lease(self) -> Lease | None:
        """The lease as it is stored."""
        return self._lease

    def take_lease(self, owner: str, lease_s: float, seen: Lease | None) -> Lease:
        """A new epoch for `owner`. Raises Conflict."""
        with self._lock:
            self._fail()
            self._lease = rules.taken(self._lease, owner, lease_s, seen)
            return self._lease

    def renew_lease(self, owner: str, epoch: int) -> Lease:
        """Raises LeaseLost."""
        with self._lock:
            self._fail()
            self._lease = rules.renewed(self._lease, owner, epoch)
            return self._lease

    def release_lease(self, owner: str, epoch: int) -> None:
        """Lets a taker take over at once. Nothing happens where the lease is not ours."""
        with self._lock:
            self._fail()
            self._lease = rules.released(self._lease, owner, epoch) or self._lease

    def close(self) -> None:
        """Nothing: the content stays."""

    # --- for tests ---

    @property
    def commits(self) -> int:
        """How many commits were made."""
        return self._commits

    def fail_next(self, error: Exception, times: int = 1) -> None:
        """The next `times` writes (commits and changes of the lease) raise `error` and change nothing."""
        self._failures.extend([error] * times)

    @property
    def failing(self) -> int:
        """How many writes are still to fail."""
        return len(self._failures)

    @property
    def held(self) -> bool:
        """Whether another process holds it."""
        return self._held is not None

    def hold(self, wait: Callable[[], None]) -> None:
        """Another process holds it. Each write calls `wait`, which raises where that takes too long; reads go on, as those of SQLite do."""
        self._held = wait

    def let_go(self) -> None:
        """Nobody else holds it any more."""
        self._held = None

    def mend(self) -> None:
        """Writes succeed again, at once."""
        self._failures.clear()
        self._held = None

    def on_commit(self, callback: CommitCallback) -> None:
        """Calls back before and after each commit that is not refused. To crash there, raise."""
        self._callbacks.append(callback)

    def copy(self) -> MemoryStore:
        """Another store with what is durable in this one: no callbacks, no failures."""
        with self._lock:
            other = MemoryStore(self._store_id)
            other._kinds = {kind: dict(documents) for kind, documents in self._kinds.items()}
            other._revision = self._revision
            other._lease, other._commits = self._lease, self._commits
            return other

    def _fail(self) -> None:
        if self._held is not None:
            self._held()
        if self._failures:
            raise self._failures.pop(0)

    def _call(self, moment: Moment, number: int, writes: Sequence[Put | Delete]) -> None:
        for callback in self._callbacks:
            callback(moment, number, writes)
