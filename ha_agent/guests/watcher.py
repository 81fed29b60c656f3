"""The process that talks to libvirt: `python -m ha_agent.guests.watcher URI RUN_DIRECTORY PARENT_PID`. It listens, and asks nothing but how things are.

libvirt's calls block for as long as libvirtd likes, its asyncio integration included: opening, listing and asking are calls on the loop.
So none is made in the remote, whose heartbeats must go out: they are made here, by one thread that is also libvirt's event loop, and the
remote kills this process when it says nothing for too long. It dies with its parent. It has one connection: when that ends it says why and
ends, and the remote starts another.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from ha_agent.guests.lines import Ask, Domain, Happened, Line
from ha_agent.ports import Clock
from ha_agent.system import SystemClock

PR_SET_PDEATHSIG = 1


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
        """A line of the remote's. Raises msgspec.DecodeError for anything else."""
        ask = msgspec.json.decode(body, type=Ask)
        try:
            domain = self._connection.look(ask.server)
        except Away:
            self._say(Line(kind="answer", number=ask.number, unsure=True))
            return
        self._say(Line(kind="answer", number=ask.number, domain=domain))


def writer(stream: BinaryIO) -> Callable[[Line], None]:
    """Writes lines; the parent always reads."""

    def say(line: Line) -> None:
        stream.write(msgspec.json.encode(line) + b"\n")
        stream.flush()

    return say


def main() -> int:
    """Serves the remote that started it. Returns the exit code."""
    # safety: no watcher outlives its remote, whatever it hangs in
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    uri, run_directory, parent = sys.argv[1:]
    if os.getppid() != int(parent):
        return 1
    say = writer(sys.stdout.buffer)
    try:
        from ha_agent.guests import binding

        binding.serve(uri, Path(run_directory), lambda connection: Watcher(connection, say, SystemClock()))
    except ImportError as error:
        say(Line(kind="end", text=f"libvirt-python cannot be loaded: {error}"[:255]))
    except Away as error:
        say(Line(kind="end", text=str(error)[:255]))
    except (BrokenPipeError, msgspec.DecodeError):
        pass  # nobody is there any more, or nobody we know
    return 0


if __name__ == "__main__":
    sys.exit(main())
