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
from ha_agent.ports import Clock


class Away(Exception):
    """libvirt cannot be asked. `str()` says why, in one line."""


class Connection(Protocol):
    """A read-only connection to libvirt. All raise Away."""

    def domains(self) -> Sequence[Domain]:
        """All that exist, running or not."""

    def look(self, server: str) -> Domain | None:
        """One of them; None: libvirt says that there is none."""

    def ping(self) -> None:
        """Returns when libvirt has answered something."""


class Watcher:
    """What is said about one connection. `say` writes a line."""

    def __init__(self, connection: Connection, say: Callable[[Line], None], clock: Clock) -> None:
        self._connection = connection
        self._say = say
        self._clock = clock

    def begin(self) -> None:
        """How everything is. The callbacks are registered already: what happens meanwhile is told after it. Raises Away."""
        at = self._clock.now()
        for domain in self._connection.domains():
            self._say(Line(kind="domain", domain=domain))
        self._say(Line(kind="listed", at=at))

    def heard(self, event: Happened) -> None:
        """libvirt tells of an event."""
        self._say(Line(kind="event", event=event))

    def ping(self) -> None:
        """Shows that libvirt answers. Raises Away."""
        at = self._clock.now()
        self._connection.ping()
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
