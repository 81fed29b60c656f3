"""What the process that talks to libvirt says (see `__main__`). It listens, and asks nothing but how things are.

libvirt's calls block for as long as libvirtd likes, its asyncio integration included: opening, listing and asking are calls on the loop.
So none is made in the remote, whose heartbeats must go out: they are made here, by one thread that is also libvirt's event loop, and the
remote kills this process when it says nothing for too long. It dies with its parent. It has one connection: when that ends it says why and
ends, and the remote starts another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ha_agent.guests.lines import Ask, Domain, Happened, Line
from ha_agent.model import Value
from ha_agent.ports import Clock


class Away(Exception):
    """libvirt cannot be asked. `str()` says why, in one line."""


class Connection(Protocol):
    """A read-only connection to libvirt. All raise Away."""

    def domains(self) -> Sequence[Domain]:
        """All that exist, running or not."""

    def look(self, server: str) -> Domain | None:
        """One of them; None: libvirt says that there is none."""


class Row(Value, frozen=True, kw_only=True):
    """A domain as it was last listed. `since`: when it was last listed otherwise. `said`: the remote knows."""

    domain: Domain
    since: float
    said: bool = False


class Watcher:
    """What is said about one connection. `say` writes a line."""

    def __init__(self, connection: Connection, say: Callable[[Line], None], clock: Clock) -> None:
        self._connection = connection
        self._say = say
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._listed_at = 0.0

    def begin(self) -> None:
        """How everything is. The callbacks are registered already: what happens meanwhile is told after it. Raises Away."""
        at = self._clock.now()
        domains = self._connection.domains()
        for domain in domains:
            self._say(Line(kind="domain", domain=domain))
        self._say(Line(kind="listed", at=at))
        self._rows = {domain.server: Row(domain=domain, since=at, said=True) for domain in domains}
        self._listed_at = at

    def heard(self, event: Happened) -> None:
        """libvirt tells of an event."""
        self._say(Line(kind="event", event=event))

    def again(self) -> None:
        """Shows that libvirt answers, and how things are now. Not every change has an event: a libvirtd that has just started shows what it
        last knew, and corrects itself without a word. A domain is told of once it was the same twice: whatever event there is of it was
        heard in between. Raises Away."""
        at = self._clock.now()
        rows: dict[str, Row] = {}
        for domain in self._connection.domains():
            row = self._rows.get(domain.server)
            if row is None or row.domain != domain:
                row = Row(domain=domain, since=self._listed_at)
            elif not row.said:
                self._say(Line(kind="settled", domain=domain, at=row.since))
                row = Row(domain=domain, since=row.since, said=True)
            rows[domain.server] = row
        self._rows, self._listed_at = rows, at
        self._say(Line(kind="alive", at=at))

    def asked(self, body: bytes) -> None:
        """A line of the remote's. Raises BrokenPipeError for anything else: it is not the remote that is there."""
        try:
            ask = msgspec.json.decode(body, type=Ask)
        except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
            raise BrokenPipeError from None
        try:
            domain = self._connection.look(ask.server)
        except Away:
            self._say(Line(kind="answer", number=ask.number, unsure=True))
            return
        self._say(Line(kind="answer", number=ask.number, domain=domain))
