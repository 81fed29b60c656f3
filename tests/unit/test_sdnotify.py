"""sd_notify: one datagram, and never an error."""

from __future__ import annotations

import socket
from pathlib import Path

from ha_agent.sdnotify import notify, watchdog_interval_s


def test_a_datagram(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        assert notify("READY=1", "STATUS=a\nWATCHDOG=1", environ={"NOTIFY_SOCKET": str(path)})
        assert systemd.recv(1000) == b"READY=1\nSTATUS=a WATCHDOG=1"


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0ha-agent-test-notify")
        assert notify("READY=1", environ={"NOTIFY_SOCKET": "@ha-agent-test-notify"})
        assert systemd.recv(1000) == b"READY=1"


def test_nobody_listens(tmp_path: Path) -> None:
    assert not notify("READY=1", environ={})
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": "relative"})


def test_watchdog() -> None:
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000"}) == 1.5
    assert watchdog_interval_s({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, pid=7) == 1.5
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, pid=7) is None
