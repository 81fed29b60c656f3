"""The controller's own network, as its kernel sees it: interfaces that lost their carrier, and whether the gateway answers."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

ARP_COMPLETE = 0x2
LOOKS_EVERY_S = 2.0


@dataclass
class OwnNetwork:
    """`look` reads, in a thread of its own. `no_carrier`: interfaces with a route that had a carrier and lost it. `gateway`: whether the
    default gateway's address is resolved; None: there is none, or nobody asked for it lately. Nothing here is evidence of anything but
    our own trouble, so what cannot be read is no trouble."""

    root: Path = Path("/")
    no_carrier: tuple[str, ...] = ()
    gateway: bool | None = None
    _had: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Once. Raises nothing."""
        routes = [row.split() for row in _lines(self.root / "proc/net/route")[1:]]
        lost = set()
        for name in {row[0] for row in routes if row} | self._had:
            carrier = "".join(_lines(self.root / "sys/class/net" / name / "carrier")).strip()
            if carrier == "1":
                self._had.add(name)
            elif carrier == "0" and name in self._had:
                lost.add(name)
            elif not carrier and not (self.root / "sys/class/net" / name).exists():
                self._had.discard(name)  # it was removed, not cut
        self.no_carrier = tuple(sorted(lost))
        self.gateway = self._answers([row[2] for row in routes if len(row) > 2 and row[1] == "00000000"])

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
