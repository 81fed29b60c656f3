"""Who has been silent for longest: hosts in the order in which they were last heard, so that a heartbeat costs one move in a list, and
a second in which everybody is heard costs nothing, however many hosts there are."""

from __future__ import annotations

import math
from collections import OrderedDict


class Silence:
    """Times are boottime seconds. Hosts of one patience are kept in the order in which they were heard; times that come out of order by
    a little (frames of one turn) delay a look by as much, and no more."""

    def __init__(self) -> None:
        self._heard: dict[float, OrderedDict[str, float]] = {}  # by patience
        self._patience: dict[str, float] = {}

    def began(self, host: str, at: float, patience_s: float) -> None:
        """The silence of a host begins, and means something after `patience_s`."""
        if self._patience.get(host) != patience_s:
            self.over(host)
            self._patience[host] = patience_s
        queue = self._heard.setdefault(patience_s, OrderedDict())
        queue[host] = at
        queue.move_to_end(host)

    def over(self, host: str) -> None:
        """Nobody waits for the host here any more."""
        patience_s = self._patience.pop(host, None)
        if patience_s is not None:
            del self._heard[patience_s][host]
            if not self._heard[patience_s]:
                del self._heard[patience_s]

    def next_at(self) -> float:
        """When the next silence means something; infinity: none does."""
        at = math.inf
        for patience_s, queue in self._heard.items():
            at = min(at, next(iter(queue.values())) + patience_s)
        return at

    def due(self, now: float) -> list[str]:
        """Hosts whose silence means something now; they are taken out."""
        found = [host for patience_s, queue in self._heard.items() for host in _older(queue, now - patience_s)]
        for host in found:
            self.over(host)
        return found


def _older(queue: OrderedDict[str, float], than: float) -> list[str]:
    found = []
    for host, at in queue.items():
        if at > than:
            break
        found.append(host)
    return found
