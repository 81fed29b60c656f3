"""The yardstick of the heartbeat benchmark: about the least that an authenticated heartbeat can cost in this language.

`python -m tests.benchmarks.heartbeat_yardstick HOSTS`: one process that reads datagrams in a plain loop: a host's number, a
sequence number and an HMAC-SHA256 over both by the host's key; what holds and is newer is written into a dict of when each was heard.
No encryption, no connection, no journal, no answer. It prints its port, and at the end (an empty datagram) what it took and what CPU it
used.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import socket
import struct
import sys
import time

BODY = struct.Struct("!IQ")
TICK_S = 0.01
END_S = 0.5
BUFFER = 4 * 1024 * 1024


def key(host: int) -> bytes:
    """A key of its own for each host."""
    return host.to_bytes(32, "big")


def listen(hosts: int) -> None:
    """See the module."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.bind(("127.0.0.1", 0))
    keys = {host: key(host) for host in range(hosts)}
    newest = dict.fromkeys(range(hosts), -1)
    heard: dict[int, float] = {}
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    taken = 0
    begun = time.process_time()
    while data := sock.recv(256):
        body, mac = data[: BODY.size], data[BODY.size :]
        host, seq = BODY.unpack(body)
        if hmac.compare_digest(hmac.digest(keys[host], body, "sha256"), mac) and seq > newest[host]:
            newest[host] = seq
            heard[host] = time.monotonic()
            taken += 1
    print(json.dumps({"taken": taken, "cpu_s": time.process_time() - begun}), flush=True)


async def measure(hosts: int, seconds: float) -> float:
    """CPU seconds of the listener per heartbeat, fed with one a second of each host from here."""
    listener = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.heartbeat_yardstick", str(hosts)), stdout=asyncio.subprocess.PIPE
    )
    assert listener.stdout is not None
    try:
        where = ("127.0.0.1", json.loads(await listener.stdout.readline())["port"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            begun, sent = time.monotonic(), 0
            while (passed := time.monotonic() - begun) < seconds:
                while sent < passed * hosts:
                    seq, host = divmod(sent, hosts)
                    body = BODY.pack(host, seq)
                    sock.sendto(body + hmac.digest(key(host), body, "sha256"), where)
                    sent += 1
                await asyncio.sleep(TICK_S)
            await asyncio.sleep(END_S)  # it has read everything by then
            sock.sendto(b"", where)
        result = json.loads(await asyncio.wait_for(listener.stdout.readline(), 10.0))
        assert result["taken"] > sent / 2, f"the listener took only {result['taken']} of {sent}"
        return float(result["cpu_s"]) / int(result["taken"])
    finally:
        if listener.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                listener.kill()
        await listener.wait()


if __name__ == "__main__":
    listen(int(sys.argv[1]))
