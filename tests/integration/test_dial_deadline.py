"""A dial whose TLS handshake ends in the very moment of its deadline, because our own loop stalled over both."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ha_agent.heartbeat import certs, pki
from ha_agent.heartbeat.channel import DialError, dial

HANDSHAKE_S = 0.2
DEADLINE_S = 0.4


async def test_no_socket_is_closed_under_a_living_transport(tmp_path: Path) -> None:
    authority = pki.Pki(tmp_path / "ca")
    authority.init()
    server_context = certs.server_context(authority.issue("host", "h1"))
    client_context = certs.client_context(authority.issue("controller", "c1"))
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        one, _ = listener.accept()
        time.sleep(HANDSHAKE_S)
        tls = server_context.wrap_socket(one, server_side=True)
        over.wait(10)
        tls.close()

    thread = threading.Thread(target=serve)
    thread.start()
    loop: Any = asyncio.get_running_loop()
    # When the loop runs again, the server's answer has come and the deadline is over: both are served in one turn.
    loop.call_later(HANDSHAKE_S / 2, time.sleep, DEADLINE_S)
    try:
        with pytest.raises(DialError):
            await dial("127.0.0.1", listener.getsockname()[1], client_context, DEADLINE_S)
        living = [transport for transport in loop._transports.values() if not transport.is_closing()]
        assert [transport for transport in living if transport._sock.fileno() < 0] == []
    finally:
        over.set()
        thread.join()
        listener.close()
