"""Which frames pass between two nodes of a simulated world, and how much later they arrive than they would.

A node is a host, a controller, NOVA, or BMCS (the network of the fencing devices). Nodes are joined by the management plane; hosts, and perhaps
controllers, by others as well. A cut path is cut on every plane; a node may also lose one plane.

Where frames are lost in one direction only, no new connection can be made. One that stands goes on for a while: whoever is still heard sends what
it has within FRAME_RTO_S of its first frame that nobody acknowledges, and from then on repeats only that one (as Linux was seen to do).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Set

from ha_agent.planes import MANAGEMENT

NOVA = "nova"
BMCS = "bmcs"
EVERYWHERE = "*"
CONNECT_RTO_S = 1.0  # a lost SYN is repeated after this, and after twice as long each time
FRAME_RTO_S = 0.3  # the same for a frame of a connection that stands
LONGEST_RTO_S = 8.0


class Network:
    """See the module. Paths are cut in both directions or in one; frames are lost by chance, and delayed, at a node or everywhere."""

    def __init__(self, chance: random.Random) -> None:
        self.cuts: set[frozenset[str]] = set()
        self.one_way: set[tuple[str, str]] = set()
        self.stands: dict[frozenset[str], float] = {}  # connections with such a direction -> until when they stand
        self.unacked: dict[tuple[str, str], float] = {}  # on them: when the first frame left that was not acknowledged
        self.dark: set[tuple[str, str]] = set()  # (node, plane): it sends and gets nothing there
        self.loss: dict[str, float] = {}  # node -> share of frames
        self.delay: dict[str, float] = {}  # node -> seconds, in each direction
        self._chance = chance

    def passes(self, a: str, b: str, plane: str = MANAGEMENT) -> bool:
        """Whether frames from `a` arrive at `b`."""
        if self.dark and ((a, plane) in self.dark or (b, plane) in self.dark):
            return False
        return frozenset((a, b)) not in self.cuts and (a, b) not in self.one_way

    def reach(self, a: str, b: str, plane: str = MANAGEMENT) -> bool:
        """Whether a question and its answer pass."""
        if self.whole:
            return True
        return self.passes(a, b, plane) and self.passes(b, a, plane)

    def arrives(self, a: str, b: str, now_s: float) -> bool:
        """`a` sends something to `b` over the connection that they have, or could make: whether it arrives."""
        if self.whole:
            return True
        if not self.passes(a, b):
            return False
        if self.passes(b, a):
            return True
        if now_s >= self.stands.get(frozenset((a, b)), 0.0):
            return False
        return now_s - self.unacked.setdefault((a, b), now_s) <= FRAME_RTO_S

    def lose(self, a: str, b: str, stands_until: float) -> None:
        """Frames from `a` to `b` are lost from now on. `stands_until`: how long a connection that they have goes on; 0: they have none."""
        if stands_until and self.reach(a, b):
            self.stands[frozenset((a, b))] = stands_until
        self.one_way.add((a, b))

    def lose_no_more(self, a: str, b: str) -> None:
        """They arrive again, and what waited with them."""
        self.one_way.discard((a, b))
        self._over(lambda pair: pair == {a, b})

    def ended(self, node: str) -> None:
        """Whoever has the connections of a node is no more: none of them stands, and none can be made over a path that is lost one way."""
        self._over(lambda pair: node in pair)

    def _over(self, which: Callable[[Set[str]], bool]) -> None:
        if self.stands:
            self.stands = {pair: until for pair, until in self.stands.items() if not which(pair)}
            self.unacked = {way: at for way, at in self.unacked.items() if not which(frozenset(way))}

    @property
    def whole(self) -> bool:
        """Whether every path works."""
        return not self.cuts and not self.one_way and not self.dark

    @property
    def poor(self) -> bool:
        """Whether frames are lost or delayed anywhere: a probe may be in vain."""
        return bool(self.loss or self.delay)

    def extra_s(self, a: str, b: str, round_trips: int = 1, *, connect: bool = False) -> float:
        """Seconds that loss and delay add to so many round trips, the first of which may be the making of a connection."""
        if not self.loss and not self.delay:
            return 0.0
        delay_s = max((self.delay.get(n, 0.0) for n in (a, b, EVERYWHERE)), default=0.0)
        loss = max((self.loss.get(n, 0.0) for n in (a, b, EVERYWHERE)), default=0.0)
        total = 2 * delay_s * round_trips
        if loss:
            either_way = 1 - (1 - loss) ** 2
            for trip in range(round_trips):
                rto_s = CONNECT_RTO_S if connect and trip == 0 else FRAME_RTO_S
                while self._chance.random() < either_way:
                    total += rto_s
                    rto_s = min(2 * rto_s, LONGEST_RTO_S)
        return total

    def mend(self) -> None:
        """Everything passes again."""
        self.cuts.clear()
        self.one_way.clear()
        self.stands.clear()
        self.unacked.clear()
        self.dark.clear()
        self.loss.clear()
        self.delay.clear()
