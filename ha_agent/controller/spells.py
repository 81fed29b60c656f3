"""When this controller was not well lately: it stood still, or it was sick. For people; what it decides by is how it is now."""

from __future__ import annotations

from collections import deque

LATELY_S = 600.0
OFTEN = 3  # within LATELY_S: once is a migration of its machine, or somebody's backup
SICK = 2  # points of `selfdoubt.sickness` that people are told of
SICK_LONG_S = 60.0
KEPT = 1000  # times of each kind


class Spells:
    """Times are boottime seconds. `pauses`: all since the start."""

    def __init__(self) -> None:
        self.pauses = 0
        self._paused_at: deque[float] = deque(maxlen=KEPT)
        self._sick_at: deque[float] = deque(maxlen=KEPT)
        self._sick_since: float | None = None

    def paused(self, now: float) -> None:
        """A pause of this process has ended."""
        self.pauses += 1
        self._paused_at.append(now)

    def felt(self, sickness: int, now: float) -> None:
        """How it is now."""
        if sickness < SICK:
            self._sick_since = None
        elif self._sick_since is None:
            self._sick_since = now
            self._sick_at.append(now)

    def trouble(self, now: float) -> str:
        """Why it may find a dead host late or not at all; empty: it stood still at most now and then."""
        count = _lately(self._paused_at, now)
        if count < OFTEN:
            return ""
        return (
            f"this controller stood still {count} times in the last {LATELY_S / 60:.0f} minutes and looks anew after each pause: "
            "a dead host is fenced late, or not at all; see what its machine waits for: vmstat 1"
        )

    def notes(self, now: float) -> list[str]:
        """What somebody should see to, where it is not as bad as that."""
        if self.trouble(now):
            return []
        notes, within = [], f"in the last {LATELY_S / 60:.0f} minutes"
        if count := _lately(self._paused_at, now):
            notes.append(f"this controller stood still {'once' if count == 1 else 'twice'} {within}")
        times = _lately(self._sick_at, now)
        longer = "it waits longer before it fences, at most twice as long (ha_agent_self_doubt)"
        if self._sick_since is not None and now - self._sick_since >= SICK_LONG_S:
            notes.append(f"this controller has not been well for {now - self._sick_since:.0f} s: {longer}")
        elif times >= OFTEN:
            notes.append(f"this controller was not well {times} times {within}: {longer}")
        return notes


def _lately(times: deque[float], now: float) -> int:
    return sum(now - at <= LATELY_S for at in times)
