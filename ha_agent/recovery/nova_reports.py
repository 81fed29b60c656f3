"""When a nova-compute last reported. Nova's `updated_at` nearly says it, but every change of the row moves it too: our own forced_down,
and an operator's disable. Taken for a report, our own change would look like a sign of life of the host that we just declared dead."""

from __future__ import annotations

import threading
from typing import NamedTuple

import msgspec

from ha_agent.model import ComputeService


class _Row(NamedTuple):
    flags: tuple[bool, str]
    updated_at: str
    shown: str


class Reports:
    """Rows as read go in; out they come with an `updated_at` that does not move when the flags moved with it. A report that falls
    between the same two looks is missed; the next one is seen."""

    def __init__(self) -> None:
        self._last: dict[str, _Row] = {}
        self._lock = threading.Lock()

    def corrected(self, row: ComputeService) -> ComputeService:
        """The row, its `updated_at` changed only by reports."""
        if row.state is None:
            return row  # Nova cannot say anything of it
        flags = (row.forced_down, row.status)
        with self._lock:
            last = self._last.get(row.id)
            shown = row.updated_at
            if last is not None and (row.updated_at == last.updated_at or flags != last.flags):
                shown = last.shown
            self._last[row.id] = _Row(flags, row.updated_at, shown)
        return msgspec.structs.replace(row, updated_at=shown)
