"""The controller's own network, as its kernel sees it: interfaces that lost their carrier, and whether the gateway answers. The kernel tells
of gateways that are IPv4 addresses only; what became of one of IPv6 no file says."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

ARP_COMPLETE = 0x2
ON_THE_LINK = ("fe8", "ff")  # destinations of IPv6, as the kernel writes them
LOOKS_EVERY_S = 2.0


@dataclass
class OwnNetwork:
    """`look` reads, in a thread of its own. `no_carrier`: interfaces with a route that had a carrier and lost it, and when.
    `gateway_lost_at`: since when the default gateway's address, which was resolved before, is not; None: it is, or there is none, or nobody
    asked for it lately. Nothing here is evidence of anything but our own trouble, so what cannot be read is no trouble."""

    root: Path = Path("/")
    no_carrier: tuple[tuple[str, float], ...] = ()
    gateway_lost_at: float | None = None
    _had: set[str] = field(default_factory=set)
    _had_gateway: bool = False

    def look(self, now: float) -> None:
        """Once, at `now` of the clock of durations. Raises nothing."""
        before = dict(self.no_carrier)
        routes = [row.split() for row in _lines(self.root / "proc/net/route")[1:]]
        lost = set()
        for name in {row[0] for row in routes if row} | self._of_ipv6() | self._had:
            carrier = "".join(_lines(self.root / "sys/class/net" / name / "carrier")).strip()
            if carrier == "1":
                self._had.add(name)
            elif carrier == "0" and name in self._had:
                lost.add(name)
            elif not carrier and not (self.root / "sys/class/net" / name).exists():
                self._had.discard(name)  # it was removed, not cut
        self.no_carrier = tuple((name, before.get(name, now)) for name in sorted(lost))
        answers = self._answers([row[2] for row in routes if len(row) > 2 and row[1] == "00000000"])
        if answers is not False:
            self._had_gateway = self._had_gateway or answers is True
            self.gateway_lost_at = None
        elif self._had_gateway and self.gateway_lost_at is None:
            self.gateway_lost_at = now

    def _of_ipv6(self) -> set[str]:
        """Interfaces with a route of IPv6 beyond their own link: one on the link has every interface that is up, used or not."""
        rows = (row.split() for row in _lines(self.root / "proc/net/ipv6_route"))
        return {row[9] for row in rows if len(row) > 9 and not row[0].startswith(ON_THE_LINK) and row[9] != "lo"}

    def _answers(self, gateways: list[str]) -> bool | None:
        """Of several gateways one is enough."""
        known: dict[str, bool] = {}
        for row in _lines(self.root / "proc/net/arp")[1:]:
            words = row.split()
            if len(words) > 2:
                known[words[0]] = bool(_number(words[2]) & ARP_COMPLETE)
        states = [known[a] for a in map(_address, gateways) if a in known]
        return any(states) if states else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[:4096]
    except (OSError, ValueError):  # an interface that is down refuses to tell
        return []


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _address(text: str) -> str:
    """As the kernel writes it: a hexadecimal number in the machine's byte order."""
    return socket.inet_ntoa(struct.pack("=I", _number(text) & 0xFFFFFFFF))
