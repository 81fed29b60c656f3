"""Events that were decided in one turn of the loop, and share a commit: a disk that takes milliseconds for each would make a turn of seconds
of the moment in which a thousand hosts fall silent.

Why nothing is lost by it, and nothing done too early:

- Nothing leaves before its commit. Commands and acknowledgements wait here; `Engine.effects` writes before it gives anything away, and so do
  the last look before a sending, an operator's order, the hand-over of the lease, and a notification of its own.
- The state in memory is ahead of the journal only in between, within one turn, where nobody acts on it: the next event of the turn is decided
  on it, in the order in which they came, as if each had been written.
- All or nothing. Where the commit fails, the state is again what it was before the first event of the batch; its commands are dropped, its lines
  are not said. Then each event is treated as one whose own commit failed: outcomes wait and are decided anew, in their order; what was seen is
  seen again. A crash before the commit is a crash before all of its events, one after it is a crash after them all: boundaries that were there
  before.
- It is bounded. An event that is beyond the bounds by itself has a commit of its own, so that one which no store takes spoils no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ha_agent.controller.effects import AckGuest, AnyEffect, Do
from ha_agent.model import AnyEvent, State
from ha_agent.ports import Delete, Put

MAX_WRITES = 1000
MAX_BYTES = 1024 * 1024


@dataclass
class Batch:
    """See the module. `before`: the state as it is journalled. `effects`: what leaves when it is written, and looks that may leave anyway."""

    before: State
    events: list[AnyEvent] = field(default_factory=list)
    effects: list[AnyEffect] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    told: int = 0
    size: int = 0
    _writes: dict[tuple[str, str], Put | Delete] = field(default_factory=dict)

    @property
    def writes(self) -> list[Put | Delete]:
        """The last one of each document: what stood in between is of no use to anybody."""
        return list(self._writes.values())

    def has_room(self, writes: Sequence[Put | Delete]) -> bool:
        """Whether these may be added."""
        return len(self._writes) + len(writes) <= MAX_WRITES and self.size + sum(map(size, writes)) <= MAX_BYTES

    def is_full(self) -> bool:
        """Whether it is written before anything else is decided."""
        return len(self._writes) >= MAX_WRITES or self.size >= MAX_BYTES

    def add(self, event: AnyEvent, writes: Sequence[Put | Delete]) -> None:
        """One more event, and what its decision writes."""
        self.events.append(event)
        for write in writes:
            before = self._writes.pop((write.kind, write.key), None)
            self._writes[write.kind, write.key] = write
            self.size += size(write) - (size(before) if before is not None else 0)

    def harmless(self) -> list[AnyEffect]:
        """What leaves although nothing was written: looks."""
        return [effect for effect in self.effects if not isinstance(effect, Do | AckGuest)]


def size(write: Put | Delete) -> int:
    """Bytes."""
    return len(write.body) if isinstance(write, Put) else 0
