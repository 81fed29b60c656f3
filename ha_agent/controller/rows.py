"""What Nova said of each host when it was last read, and which of them it was seen to hear last: kept in that order, so that a thousand
silent hosts that ask whether Nova hears anybody at all do not each look at a thousand rows."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from ha_agent.model import Value


class Row(Value, frozen=True, kw_only=True):
    """Nova's `updated_at` of a host, when it was last read, and when that was first seen to have changed."""

    text: str
    read_at: float
    moved_at: float | None = None


class Rows:
    """Times are boottime seconds, and come in order but for a little."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._moved: OrderedDict[str, float] = OrderedDict()  # `moved_at` of those that have one, the newest last

    def note(self, host: str, text: str, at: float, lasts_s: float) -> None:
        """Its row, read at `at`. `lasts_s`: a change since a reading that is older may be as old as that, and says nothing."""
        known = self._rows.get(host)
        if known is None or known.read_at < at - lasts_s:
            known = Row(text=text, read_at=at)
        moved_at = known.moved_at if text == known.text else at
        self._rows[host] = Row(text=text, read_at=at, moved_at=moved_at)
        if moved_at is None:
            self._moved.pop(host, None)
        elif moved_at != self._moved.get(host):
            self._moved[host] = moved_at
            self._moved.move_to_end(host)

    def hears(self, since: float, but: str) -> bool:
        """Whether the row of any other host than this one has changed since then."""
        return any(self._moved[host] >= since for host in islice(reversed(self._moved), 2) if host != but)

    def forget(self, host: str) -> None:
        """It left the inventory."""
        self._rows.pop(host, None)
        self._moved.pop(host, None)
