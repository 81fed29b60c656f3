"""Between a client and an IPMI BMC: passes packets on, or does not."""

from __future__ import annotations

import select
import socket
import threading
from enum import StrEnum
from typing import Any

_PACKET_MAX = 2048
_RMCP_PLUS = 0x06  # authentication type of an IPMI 2.0 packet
_PROTECTED_IPMI = 0xC0  # payload type: encrypted, authenticated, an IPMI message


class Loss(StrEnum):
    """Which packets of the client get lost."""

    NONE = "none"
    ALL = "all"
    EVERY_SECOND = "every_second"
    AFTER_LOGIN = "after_login"  # every message of the session but the first, which asks for the privilege


class UdpProxy:
    """Listens on `address` (IPv4 or IPv6, loopback) at `port`, sends on to 127.0.0.1:`bmc`."""

    def __init__(self, bmc: int, loss: Loss, address: str = "127.0.0.1") -> None:
        self.loss = loss
        self.seen = 0
        self._bmc = ("127.0.0.1", bmc)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._front = socket.socket(self._family, socket.SOCK_DGRAM)
        self._front.bind((address, 0))
        self.port = int(self._front.getsockname()[1])
        self._backs: dict[tuple[Any, ...], socket.socket] = {}
        self._in_session = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="udp-proxy", daemon=True)

    def __enter__(self) -> UdpProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        for each in (self._front, *self._backs.values()):
            each.close()

    def forget(self) -> None:
        """From now on the client has another address, as the BMC sees it: its sessions are unknown there."""
        for each in list(self._backs):
            self._backs.pop(each).close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                ready, _, _ = select.select([self._front, *self._backs.values()], [], [], 0.05)
                for each in ready:
                    self._pass_on(each)
            except (OSError, ValueError, StopIteration):  # a port was closed meanwhile: the packet is lost
                continue

    def _pass_on(self, source: socket.socket) -> None:
        packet, client = source.recvfrom(_PACKET_MAX)
        if source is not self._front:
            self._front.sendto(packet, next(who for who, back in self._backs.items() if back is source))
            return
        self.seen += 1
        if self._is_lost(packet):
            return
        if client not in self._backs:
            self._backs[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._backs[client].connect(self._bmc)
        self._backs[client].send(packet)

    def _is_lost(self, packet: bytes) -> bool:
        if len(packet) > 5 and packet[4] == _RMCP_PLUS and packet[5] == _PROTECTED_IPMI:
            self._in_session += 1
        match self.loss:
            case Loss.ALL:
                return True
            case Loss.EVERY_SECOND:
                return self.seen % 2 == 0
            case Loss.AFTER_LOGIN:
                return self._in_session > 1
        return False
