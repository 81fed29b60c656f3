"""Models of how others detect a dead host, on the same traces. They are small: what is modelled is when they would fence, no more.

The poker is pacemaker_remote's way: one machine asks one host over one connection every `interval_s`; no answer within `timeout_s` is a
failure, and a failed host is fenced. There is no second question and no second witness.

The poller is instanceha's way: every `poll_s` it reads Nova's list of services, and a host whose nova-compute was not heard for `delta_s` is
fenced, unless none was heard (its own gate for a Nova that stands still). Its optional UDP veto is not modelled.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from tests.benchmarks.detection_tcp import Stream
from tests.benchmarks.detection_trace import CONTROLLER, NEVER, NOVA, Trace

REPORT_S = 10.0  # Nova's report_interval
RPC_S = 60.0  # without a reply for so long, nova-compute gives a report up and makes a new connection


@dataclass(frozen=True)
class Poker:
    """As its operator would write it: interval and timeout, seconds."""

    interval_s: float
    timeout_s: float

    def fences(self, trace: Trace) -> dict[int, float]:
        """By host: when it is believed dead."""
        found = {host: self._fences(trace, host) for host in trace.names}
        return {host: at for host, at in found.items() if at is not None}

    def _fences(self, trace: Trace, host: int) -> float | None:
        to, back = Stream(trace, CONTROLLER, host), Stream(trace, host, CONTROLLER)
        at = trace.chance(CONTROLLER, host, 0.0, 3) * self.interval_s
        while at < trace.ends:
            at = trace.agent_at(CONTROLLER, at)
            asked = trace.agent_at(host, to.send(at))
            answered = back.send(asked) if asked < NEVER else NEVER
            # what came while it stood still itself is read when it goes on; whether its timer is looked at first is chance
            read_at = trace.agent_at(CONTROLLER, answered)
            late_at = trace.agent_at(CONTROLLER, at + self.timeout_s)
            if late_at < read_at or (late_at == read_at and trace.chance(CONTROLLER, host, at, 4) < 0.5):
                return late_at if late_at < trace.ends else None
            at = max(at + self.interval_s, read_at)
        return None


def reports(trace: Trace, host: int) -> list[float]:
    """When Nova notes each report of the host's nova-compute: every REPORT_S, each a call that waits for its answer."""
    to, back = Stream(trace, host, NOVA), Stream(trace, NOVA, host)
    noted, due = [0.0], trace.chance(host, NOVA, 0.0, 5) * REPORT_S
    while due < trace.ends:
        sent = trace.kernel_at(host, due)
        if sent == NEVER:
            break
        arrived = to.send(sent)
        answered = back.send(arrived) if arrived < NEVER else NEVER
        if arrived <= sent + RPC_S:
            noted.append(arrived)
        if answered > sent + RPC_S:
            answered = sent + RPC_S
            to, back = Stream(trace, host, NOVA), Stream(trace, NOVA, host)
        while due <= answered:
            due += REPORT_S
    return noted


def heard_at(noted: list[float], at: float) -> float:
    """The newest report at a moment."""
    return noted[max(0, bisect_right(noted, at) - 1)]


@dataclass(frozen=True)
class Poller:
    """Seconds; named POLL and DELTA there."""

    poll_s: float = 45.0
    delta_s: float = 30.0

    def fences(self, trace: Trace) -> dict[int, float]:
        """By host: when it is believed dead."""
        noted = {host: reports(trace, host) for host in trace.names}
        found: dict[int, float] = {}
        at = trace.chance(CONTROLLER, NOVA, 0.0, 6) * self.poll_s
        while at < trace.ends:
            now = trace.agent_at(CONTROLLER, at)
            watched = [host for host in noted if host not in found]
            stale = [host for host in watched if now - heard_at(noted[host], now) > self.delta_s]
            if len(stale) < len(watched) and now < trace.ends:
                found.update(dict.fromkeys(stale, now))
            at = now + self.poll_s
        return found
