"""Virtual time and seeded randomness: the clock of a simulated world, its queue of things to come, and its independent streams of chance."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

UUID_FIXED, UUID_V4 = (0xF000 << 64) | (0xC000 << 48), (0x4000 << 64) | (0x8000 << 48)  # version and variant
WALL_AT_START = 1_700_000_000.0  # any fixed moment: wall time is for display only


class Timeline:
    """What happens when. Things due at the same moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Plan `action` for a moment; one that is past is now."""
        self._number += 1
        heapq.heappush(self._queue, (when if when > self.now else self.now, self._number, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Plan `action` for `delay_s` from now."""
        self.at(self.now + delay_s, action)

    def next_at(self) -> float | None:
        """When the next thing happens."""
        return self._queue[0][0] if self._queue else None

    @property
    def planned(self) -> int:
        """How many things are to come."""
        return len(self._queue)

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, action = heapq.heappop(self._queue)
        self.now = max(self.now, when)
        action()


class VirtualClock:
    """The Clock port of one simulated machine. `boot_id` differs on another machine and after a reboot; so does where `now` counts
    from. `offset_s`: what its `now` is ahead. `wall_step_s`: how far somebody has set the wall clock off."""

    def __init__(self, timeline: Timeline, machine: str, offset_s: float = 0.0) -> None:
        self._timeline = timeline
        self._boot = f"{machine}-boot-1"
        self.offset_s = offset_s
        self.wall_step_s = 0.0

    def now(self) -> float:
        """Virtual seconds since this machine booted."""
        return self._timeline.now + self.offset_s

    def wall(self) -> float:
        """Unix seconds of a fixed virtual day."""
        return WALL_AT_START + self._timeline.now + self.wall_step_s

    def boot_id(self) -> str:
        """Of the controller's machine."""
        return self._boot


class SeededRandom:
    """The Random port, from one stream."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uuid(self) -> str:
        """A UUIDv4, the same in every run of the seed."""
        bits = self._rng.getrandbits(128) & ~UUID_FIXED | UUID_V4
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def uniform(self, low: float, high: float) -> float:
        """For jitter."""
        return self._rng.uniform(low, high)

    def nonce(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._rng.getrandbits(128):032x}"


def stream(seed: int | str, name: str) -> random.Random:
    """An independent stream of chance. Named streams keep a new fault from shifting every other one; a text seed is hashed by
    SHA-512, so the stream does not depend on PYTHONHASHSEED."""
    return random.Random(f"{seed}/{name}")
