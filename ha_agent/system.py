"""The real clock and the real randomness, behind the ports."""

from __future__ import annotations

import random
import secrets
import time
import uuid
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """ports.Clock of this machine. CLOCK_BOOTTIME also counts the time that the machine was suspended, unlike CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._boot_id = BOOT_ID.read_text(encoding="ascii").strip()

    def now(self) -> float:
        """Seconds of CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Unix seconds, for display."""
        return time.time()

    def boot_id(self) -> str:
        """The id of this boot of the kernel."""
        return self._boot_id


class SystemRandom:
    """ports.Random of the operating system: nonces must not be guessed, so nothing here is seeded."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uuid(self) -> str:
        """A UUIDv4."""
        return str(uuid.uuid4())

    def uniform(self, low: float, high: float) -> float:
        """Evenly between `low` and `high`."""
        return self._random.uniform(low, high)

    def nonce(self) -> str:
        """32 hexadecimal digits that nobody can foresee."""
        return secrets.token_hex(16)
