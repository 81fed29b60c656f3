"""How many hosts fell silent at about the same time: counted from a list that is made once and asked by every one of them, so that a
thousand hosts that are cut off together do not cost a thousand times a thousand looks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Together:
    """The silences of one moment. `silences`: host, failure domain, and since when it is suspected (boottime seconds)."""

    def __init__(self, silences: Iterable[tuple[str, str, float]]) -> None:
        everywhere: list[float] = []
        self._hosts: dict[str, float] = {}
        self._domains: dict[str, list[float]] = {}
        for host, domain, since in silences:
            self._hosts[host] = since
            everywhere.append(since)
            self._domains.setdefault(domain, []).append(since)
        self._everywhere = sorted(everywhere)
        for times in self._domains.values():
            times.sort()

    def with_host(self, host: str, domain: str, since: float, span_s: float) -> tuple[int, int]:
        """How many began to be silent within `span_s` of this one, itself included: everywhere, and in its domain."""
        itself = 0 if host in self._hosts else 1
        counts = [_within(times, since, span_s) for times in (self._everywhere, self._domains.get(domain, []))]
        return counts[0] + itself, counts[1] + itself


def _within(times: list[float], since: float, span_s: float) -> int:
    return bisect_right(times, since + span_s) - bisect_left(times, since - span_s)
