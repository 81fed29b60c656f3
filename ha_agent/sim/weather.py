"""The weather of a simulated Nova API: what happens to a request on its way, whatever Nova would have said."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import StrEnum
from math import inf

from ha_agent.errors import DriverError, Unanswered


class Trouble(StrEnum):
    """What may happen to a request. A change that a server began to work on and did not answer is of unknown outcome."""

    DOWN = "down"  # connections are refused
    E500 = "500"  # carried out or not, by chance
    E503 = "503"  # a proxy without a backend: nothing is done, but we cannot know that
    E429 = "429"  # too many requests
    E409 = "409"  # another change of the same thing is under way
    LOST_DONE = "lost_done"  # changes are carried out, and their answers lost; some reads are not answered either
    LOST_NOT_DONE = "lost_not_done"  # changes never arrive; some reads are not answered either
    SLOW = "slow"  # answers take SLOW_S: some come in time


SLOW_S = (2.0, 18.0)  # we wait for 10
READS_LOST = 0.1  # of the share of changes whose answers are lost: a read is answered sooner


class Weather:
    """Troubles by the share of requests that they meet. Independent of each other; the first that strikes counts."""

    def __init__(self, chance: random.Random, now: Callable[[], float]) -> None:
        self.shares: dict[Trouble, float] = {}
        self.rows_unknown: set[str] = set()  # hosts whose cell is down: their rows lack what only the cell knows
        self.lists_lack: set[str] = set()  # hosts whose servers and migrations are missing from lists
        self.keystone = True
        self.tokens_end_at = inf  # while Keystone is down
        self.without_token: set[str] = set()  # controllers that were started meanwhile
        self._chance = chance
        self._now = now

    def set(self, trouble: Trouble, share: float) -> None:
        """From now on; 0: no more."""
        if share:
            self.shares[trouble] = share
        else:
            self.shares.pop(trouble, None)

    def keystone_down(self, token_s: float) -> None:
        """Nobody gets a token any more. Requests go on with the one that each controller has, which lasts so long yet."""
        self.keystone, self.tokens_end_at = False, self._now() + token_s

    def keystone_up(self) -> None:
        """It gives tokens again."""
        self.keystone, self.tokens_end_at = True, inf
        self.without_token.clear()

    def ended(self, controller: str) -> None:
        """A controller's process is no more, and with it the token that it had."""
        if not self.keystone:
            self.without_token.add(controller)

    def mend(self) -> None:
        """The sun shines."""
        self.keystone_up()
        self.shares.clear()
        self.rows_unknown.clear()
        self.lists_lack.clear()

    @property
    def stops_all(self) -> bool:
        """Whether no request reaches Nova."""
        return self.shares.get(Trouble.DOWN, 0.0) >= 1.0 or self._now() >= self.tokens_end_at

    def late_s(self) -> float:
        """How much later an answer comes."""
        share = self.shares.get(Trouble.SLOW, 0.0)
        return self._chance.uniform(*SLOW_S) if share and self._chance.random() < share else 0.0

    def before(self, who: str, *, change: bool) -> Trouble | None:
        """A request of a controller leaves. Raises DriverError or Unanswered where Nova never does anything about it, or only shows what
        it was asked; answers what will become of the answer to a change."""
        if who in self.without_token or self._now() >= self.tokens_end_at:
            raise DriverError("no token from Keystone: cannot connect to http://keystone:5000/v3")
        for trouble in self._strikes(change=change):
            match trouble:
                case Trouble.DOWN:
                    raise DriverError("Nova's API refuses connections")
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
                case Trouble.LOST_DONE | Trouble.LOST_NOT_DONE if not change:
                    raise DriverError("Nova did not answer in time")
                case Trouble.E500 | Trouble.LOST_DONE if change:
                    return trouble
                case _:
                    pass
        return None

    def _strikes(self, *, change: bool) -> Iterator[Trouble]:
        for trouble, share in sorted(self.shares.items()):
            if trouble in (Trouble.LOST_DONE, Trouble.LOST_NOT_DONE) and not change:
                share *= READS_LOST
            if trouble is not Trouble.SLOW and (share >= 1.0 or self._chance.random() < share):
                yield trouble
