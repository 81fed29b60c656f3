"""The weather of a simulated Nova API: what happens to a request on its way, whatever Nova would have said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum

from ha_agent.errors import DriverError, Unanswered


class Trouble(StrEnum):
    """What may happen to a request. A change that a server began to work on and did not answer is of unknown outcome."""

    DOWN = "down"  # connections are refused
    KEYSTONE = "keystone"  # no token, so nothing is sent
    E500 = "500"  # carried out or not, by chance
    E503 = "503"  # a proxy without a backend: nothing is done, but we cannot know that
    E429 = "429"  # too many requests
    E409 = "409"  # another change of the same thing is under way
    LOST_DONE = "lost_done"  # changes are carried out, and their answers lost
    LOST_NOT_DONE = "lost_not_done"  # changes never arrive
    SLOW = "slow"  # answers take SLOW_S: some come in time


SLOW_S = (2.0, 18.0)  # we wait for 10


class Weather:
    """Troubles by the share of requests that they meet. Independent of each other; the first that strikes counts."""

    def __init__(self, chance: random.Random) -> None:
        self.shares: dict[Trouble, float] = {}
        self.rows_unknown: set[str] = set()  # hosts whose cell is down: their rows lack what only the cell knows
        self.lists_lack: set[str] = set()  # hosts whose servers and migrations are missing from lists
        self._chance = chance

    def set(self, trouble: Trouble, share: float) -> None:
        """From now on; 0: no more."""
        if share:
            self.shares[trouble] = share
        else:
            self.shares.pop(trouble, None)

    def mend(self) -> None:
        """The sun shines."""
        self.shares.clear()
        self.rows_unknown.clear()
        self.lists_lack.clear()

    @property
    def stops_all(self) -> bool:
        """Whether no request reaches Nova."""
        return any(self.shares.get(t, 0.0) >= 1.0 for t in (Trouble.DOWN, Trouble.KEYSTONE))

    def late_s(self) -> float:
        """How much later an answer comes."""
        share = self.shares.get(Trouble.SLOW, 0.0)
        return self._chance.uniform(*SLOW_S) if share and self._chance.random() < share else 0.0

    def before(self, *, change: bool) -> Trouble | None:
        """A request leaves. Raises DriverError or Unanswered where Nova never does anything about it; answers what will become of
        its answer."""
        for trouble in self._strikes():
            match trouble:
                case Trouble.DOWN:
                    raise DriverError("Nova's API refuses connections")
                case Trouble.KEYSTONE:
                    raise DriverError("Keystone gives no token")
                case Trouble.E429:
                    raise DriverError("Nova answered 429")
                case Trouble.E409 if change:
                    raise DriverError("Nova refused (409): another request is in progress")
                case Trouble.E503 | Trouble.LOST_NOT_DONE if change:
                    raise Unanswered(f"Nova's answer was {trouble}")
                case Trouble.E500 if change and self._chance.random() < 0.5:
                    raise Unanswered("Nova answered 500")
                case Trouble.E500 | Trouble.E503 if not change:
                    raise DriverError(f"Nova answered {trouble}")
                case Trouble.E500 | Trouble.LOST_DONE if change:
                    return trouble
                case _:
                    pass
        return None

    def _strikes(self) -> Iterator[Trouble]:
        for trouble, share in sorted(self.shares.items()):
            if trouble is not Trouble.SLOW and (share >= 1.0 or self._chance.random() < share):
                yield trouble
