"""Which frames pass between two nodes of a simulated world, and how much later they arrive than they would.

A node is a host, a controller, NOVA, or BMCS (the network of the fencing devices). Nodes are joined by the management plane; hosts, and perhaps
controllers, by others as well. A cut path is cut on every plane; a node may also lose one plane.
"""

from __future__ import annotations

import random

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
        self.dark.clear()
        self.loss.clear()
        self.delay.clear()
