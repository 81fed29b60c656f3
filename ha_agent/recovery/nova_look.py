"""The look before each evacuate, shared by all servers of a host.

Nova accepts a second evacuation during the first and ruins the server, so each evacuate is preceded by a look: is the server still on
its host, and is no evacuation of it under way? A look per server would double the calls of a recovery. Two listings answer for
all servers of the host:

- the evacuations off the host, not older than LOOK_AGE_S and begun after our own last evacuate of that server; the poll that follows
  the recovery reads the same list anyway, so this rarely costs a call;
- the servers of the host, once: a server that was there then is still there while no evacuation of it has landed since (a dead
  host's server leaves it in no other way). It is read again after BASE_AGE_S, and whenever the two lists disagree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ha_agent.errors import DriverError
from ha_agent.model import EVACUATION_LANDED, MIGRATION_ENDED, Migration, Server

LOOK_AGE_S = 3.0
BASE_AGE_S = 60.0


class Look:
    """What is known of one host. `now`: monotonic seconds. The two callables read Nova (and raise DriverError)."""

    def __init__(
        self,
        now: Callable[[], float],
        read_servers: Callable[[], Sequence[Server]],
        read_evacuations: Callable[[], Sequence[Migration]],
    ) -> None:
        self._now = now
        self._read_servers = read_servers
        self._read_evacuations = read_evacuations
        self._lock = threading.Lock()  # held while reading: those who come meanwhile share the answer
        self._evacuations: Sequence[Migration] = ()
        self._evacuations_at: float | None = None
        self._landed: frozenset[int] = frozenset()
        self._landed_at = float("inf")  # when the last answer about evacuations was there
        self._servers: frozenset[str] = frozenset()
        self._servers_at: float | None = None
        self._landed_before: frozenset[int] = frozenset()  # records that had landed before the servers were read
        self._sent: dict[str, float] = {}  # when the last evacuate of each ended
        self._closed_until: dict[str, float] = {}

    def saw_servers(self, at: float, rows: Sequence[Server]) -> None:
        """Somebody read the host's servers; `at`: before the request."""
        with self._lock:
            self._keep_servers(at, rows)

    def saw_evacuations(self, at: float, rows: Sequence[Migration]) -> None:
        """Somebody read the evacuations off the host; `at`: before the request."""
        with self._lock:
            self._keep_evacuations(at, rows)

    def claim(self, server: str, judged: int, wait_s: float) -> None:
        """Raises DriverError where the server must not be evacuated now; else nobody else may until `sent`. Unfinished records up to
        the id `judged` do not count: the caller has proof that their destination does not run the server."""
        if not self._lock.acquire(timeout=wait_s):
            raise DriverError("not sent: Nova is too slow to look whether the server may be evacuated")
        try:
            if self._closed_until.get(server, float("-inf")) > self._now():
                raise DriverError("not sent: an evacuate of the server is under way, or its answer was lost just now")
            self._refresh(server)
            if self._disagree(server):
                self._read_both()
            if server not in self._servers:
                raise DriverError("not sent: the server is not on this host any more")
            record = next((m for m in self._evacuations if m.server == server and self._under_way(m, judged)), None)
            if record is not None:
                raise DriverError(f"not sent: evacuation {record.id} of the server is {record.status}")
            self._closed_until[server] = float("inf")
        finally:
            self._lock.release()

    def sent(self, server: str, closed_s: float = 0.0) -> None:
        """The claimed evacuate has ended: what was read before no longer speaks for the server. `closed_s`: how long nobody may try
        again, for Nova may still be working on a request whose answer was lost."""
        with self._lock:
            self._sent[server] = self._now()
            self._closed_until[server] = self._now() + closed_s
            for kept in (self._sent, self._closed_until):
                if len(kept) > 10_000:
                    kept.pop(next(iter(kept)))

    def _under_way(self, record: Migration, judged: int) -> bool:
        return record.status not in MIGRATION_ENDED and record.id > judged

    def _refresh(self, server: str) -> None:
        oldest = max(self._now() - LOOK_AGE_S, self._sent.get(server, float("-inf")))
        if self._servers_at is None or self._servers_at < self._now() - BASE_AGE_S:
            self._read_both()
        elif self._evacuations_at is None or self._evacuations_at <= oldest:
            at = self._now()
            self._keep_evacuations(at, self._read_evacuations())

    def _disagree(self, server: str) -> bool:
        """The server is listed on the host although an evacuation of it has landed, or is not listed: read both anew to know."""
        landed = any(
            m.server == server and m.status in EVACUATION_LANDED and m.id not in self._landed_before
            for m in self._evacuations
        )
        fresh = self._servers_at is not None and self._servers_at >= self._now() - 1.0
        return not fresh and (landed or server not in self._servers)

    def _read_both(self) -> None:
        """First the evacuations, then the servers: what had landed before is then seen in both."""
        at = self._now()
        self._keep_evacuations(at, self._read_evacuations())
        at = self._now()
        self._keep_servers(at, self._read_servers())

    def _keep_servers(self, at: float, rows: Sequence[Server]) -> None:
        if self._servers_at is None or at >= self._servers_at:
            self._servers, self._servers_at = frozenset(s.id for s in rows), at
            self._landed_before = self._landed if self._landed_at <= at else frozenset()

    def _keep_evacuations(self, at: float, rows: Sequence[Migration]) -> None:
        if self._evacuations_at is None or at >= self._evacuations_at:
            self._evacuations, self._evacuations_at = rows, at
            self._landed, self._landed_at = frozenset(m.id for m in rows if m.status in EVACUATION_LANDED), self._now()
