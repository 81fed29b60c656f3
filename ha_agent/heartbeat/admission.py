"""Whom a remote lets in, before a connection costs anything. Pure: addresses and times in, decisions out.

A handshake costs a hypervisor about a millisecond, a connection some memory, and both are free for whoever floods us. So handshakes
are bounded in number and in rate, by address and in all. Where too many are unfinished, the oldest of the busiest address makes room:
an honest one is done in milliseconds, one that is slow on purpose is always the oldest.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass

MAX_ADDRESSES = 4096  # remembered at a time


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`connections`: that are greeted; `per_address`: of these, from one address. `handshakes`: unfinished ones in all and from one
    address. `rate_s`: begun in a second from one address, with bursts of `burst`; `strangers_s`, `strangers_burst`: the same from all
    addresses together from which nobody with a valid certificate came lately."""

    connections: int = 256
    per_address: int = 64
    handshakes: int = 32
    handshakes_per_address: int = 16
    rate_s: float = 10.0
    burst: int = 40
    strangers_s: float = 50.0
    strangers_burst: int = 100


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`refuse`: why not, or "" for come in. `evict`: the handshake that must end for it."""

    refuse: str = ""
    evict: int | None = None


class Bucket:
    """Lets `rate_s` in each second, and up to `burst` at once."""

    def __init__(self, rate_s: float, burst: int, now: float) -> None:
        self._rate_s = rate_s
        self._burst = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may come."""
        self._left = min(float(self._burst), self._left + (now - self._at) * self._rate_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Admission:
    """See the module. A connection has a number of the caller's choice; it is a handshake from `arrive` to `greeted` or `left`."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._handshakes: dict[int, str] = {}  # the oldest first
        self._greeted: dict[int, str] = {}
        self._addresses: Counter[str] = Counter()  # of those greeted
        self._buckets: dict[str, Bucket] = {}
        self._strangers = Bucket(limits.strangers_s, limits.strangers_burst, now)
        self._known: dict[str, None] = {}

    def arrive(self, number: int, where: str, now: float) -> Decision:
        """A connection from this IP address."""
        address, limits = network(where), self._limits
        if not self._bucket(address, now).take(now):
            return Decision(refuse="rate")
        if address not in self._known and not self._strangers.take(now):
            return Decision(refuse="rate")
        if len(self._greeted) >= limits.connections:
            return Decision(refuse="full")
        if self._addresses[address] >= limits.per_address:
            return Decision(refuse="address")
        evict = self._evict(address)
        if evict is not None:
            del self._handshakes[evict]
        self._handshakes[number] = address
        return Decision(evict=evict)

    def greeted(self, number: int) -> None:
        """It has shown a certificate that we accept."""
        address = self._handshakes.pop(number)
        self._greeted[number] = address
        self._addresses[address] += 1
        self._known.pop(address, None)
        self._known[address] = None
        if len(self._known) > MAX_ADDRESSES:
            del self._known[next(iter(self._known))]

    def left(self, number: int) -> None:
        """It is gone, whatever it was."""
        self._handshakes.pop(number, None)
        address = self._greeted.pop(number, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def _evict(self, address: str) -> int | None:
        counts = Counter(self._handshakes.values())
        if counts[address] >= self._limits.handshakes_per_address:
            busiest = address
        elif len(self._handshakes) >= self._limits.handshakes:
            busiest = counts.most_common(1)[0][0]
        else:
            return None
        return next(number for number, one in self._handshakes.items() if one == busiest)

    def _bucket(self, address: str, now: float) -> Bucket:
        """The last used is the last one; the one that was used least recently goes."""
        bucket = self._buckets.pop(address, None) or Bucket(self._limits.rate_s, self._limits.burst, now)
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return bucket


def network(where: str) -> str:
    """Whose limits an address shares: an IPv6 host has 2**64 addresses of its own, an IPv4 host one."""
    try:
        address = ipaddress.ip_address(where)
    except ValueError:
        return where
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return where
