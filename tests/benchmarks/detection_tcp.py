"""TCP over a trace: what is lost is sent again, later each time, and what follows on the same connection waits for it.

All detectors here talk TCP, so loss reaches them as delay. Linux's timers: a segment is repeated after 0.2 s plus the round trip, a SYN after
1 s, each time after twice as long. After a repetition nothing new is sent before the acknowledgement: no quick repair by selective
acknowledgements is assumed, for heartbeats are too rare to cause them.
"""

from __future__ import annotations

from tests.benchmarks.detection_trace import NEVER, Trace

RTO_S = 0.2
CONNECT_RTO_S = 1.0
LONGEST_RTO_S = 120.0
GIVES_UP_S = 900.0


class Stream:
    """One direction of a connection that stands."""

    def __init__(self, trace: Trace, a: int, b: int) -> None:
        self._trace = trace
        self._a = a
        self._b = b
        self._arrived = 0.0
        self._stalls_at = NEVER  # from the first repetition of an unacknowledged segment on, nothing new is sent
        self._acked = 0.0

    def send(self, at: float) -> float:
        """When what is written now can be read at the other end; infinity: never."""
        trace, a, b = self._trace, self._a, self._b
        tried = self._acked if self._stalls_at <= at < self._acked else at
        rto_s = RTO_S + trace.delay_s(a, b, tried) + trace.delay_s(b, a, tried)
        first, arrived = tried, NEVER
        self._stalls_at = NEVER
        while tried < first + GIVES_UP_S:
            tried = trace.kernel_at(a, tried)
            there = trace.packet(a, b, tried) if tried < NEVER else None
            if there is not None:
                arrived = min(arrived, there)
                back = trace.packet(b, a, there)
                if back is not None:
                    self._acked = back
                    break
            if tried == first:
                self._stalls_at = first + rto_s
            tried += rto_s
            rto_s = min(2 * rto_s, LONGEST_RTO_S)
        else:
            self._acked = NEVER
        self._arrived = max(self._arrived, arrived)
        return self._arrived


def connect(trace: Trace, a: int, b: int, at: float, deadline_s: float) -> float | None:
    """When `a` knows that b's kernel has accepted the connection; None: not within the deadline."""
    tried, rto_s = at, CONNECT_RTO_S
    while tried < at + deadline_s:
        tried = trace.kernel_at(a, tried)
        there = trace.packet(a, b, tried) if tried < NEVER else None
        back = trace.packet(b, a, there) if there is not None else None
        if back is not None:
            return back if back <= at + deadline_s else None
        tried += rto_s
        rto_s *= 2
    return None


def converse(trace: Trace, a: int, b: int, at: float, round_trips: int) -> float:
    """When so many questions of `a` on a new connection were answered by the process at `b`."""
    there, back = Stream(trace, a, b), Stream(trace, b, a)
    for _ in range(round_trips):
        asked = trace.agent_at(b, there.send(at))
        if asked == NEVER:
            return NEVER
        at = trace.agent_at(a, back.send(asked))
        if at == NEVER:
            return NEVER
    return at
