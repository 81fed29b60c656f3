"""Tells systemd how we are (sd_notify(3)): one datagram to $NOTIFY_SOCKET. Without that variable nothing happens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends e.g. "READY=1", "STATUS=…", "WATCHDOG=1". False where systemd does not listen; never raises: it is a courtesy, and
    a controller must not die of it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":  # an abstract socket
        address = "\0" + address[1:]
    text = "\n".join(line.replace("\n", " ") for line in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a full queue is systemd's trouble, not ours
            sock.sendto(text.encode(), address)
    except OSError:
        return False
    return True


def monotonic_usec() -> int:
    """What goes with RELOADING=1: systemd tells by it which of several reloads is meant."""
    return time.monotonic_ns() // 1000


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """How often to send WATCHDOG=1: half of systemd's limit; None where it does not watch this process."""
    if environ.get("WATCHDOG_PID", str(pid or os.getpid())) != str(pid or os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    number = int(text) if text.isdecimal() and len(text) < 20 else 0  # systemd's own number has 64 bits
    return number / 2e6 if number > 0 else None
