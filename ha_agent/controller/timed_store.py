"""The journal's store, and how long each call to it takes: nothing is done before it is written, so a slow disk makes everything late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ha_agent.api.measured import Measure
from ha_agent.controller.measures import Measures
from ha_agent.ports import Delete, Document, Lease, Put, Store


class TimedStore:
    """Implements ports.Store by another one. Calls that fail are measured as well. `now`: seconds that only grow."""

    def __init__(self, store: Store, measures: Measures, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._read = measures.store_read
        self._write = measures.store_write

    @property
    def store_id(self) -> str:
        """See ports.Store."""
        return self._store.store_id

    def get(self, kind: str, key: str) -> Document | None:
        """See ports.Store."""
        with self._timed(self._read):
            return self._store.get(kind, key)

    def list(self, kind: str, limit: int = 10_000) -> Sequence[Document]:
        """See ports.Store."""
        with self._timed(self._read):
            return self._store.list(kind, limit)

    def commit(self, epoch: int | None, writes: Sequence[Put | Delete]) -> None:
        """See ports.Store."""
        with self._timed(self._write):
            self._store.commit(epoch, writes)

    def read_lease(self) -> Lease | None:
        """See ports.Store."""
        with self._timed(self._read):
            return self._store.read_lease()

    def take_lease(self, owner: str, lease_s: float, seen: Lease | None) -> Lease:
        """See ports.Store."""
        with self._timed(self._write):
            return self._store.take_lease(owner, lease_s, seen)

    def renew_lease(self, owner: str, epoch: int) -> Lease:
        """See ports.Store."""
        with self._timed(self._write):
            return self._store.renew_lease(owner, epoch)

    def release_lease(self, owner: str, epoch: int) -> None:
        """See ports.Store."""
        with self._timed(self._write):
            self._store.release_lease(owner, epoch)

    def close(self) -> None:
        """See ports.Store."""
        self._store.close()

    @contextmanager
    def _timed(self, measure: Measure) -> Iterator[None]:
        began = self._now()
        try:
            yield
        finally:
            measure.add(self._now() - began)
