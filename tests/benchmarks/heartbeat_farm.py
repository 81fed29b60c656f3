"""The remotes of the heartbeat benchmark: thousands in one process. `python -m tests.benchmarks.heartbeat_farm DIRECTORY`

Each has a listener, a certificate and real TLS connections, speaks the wire protocol and answers as a remote would. What it leaves out:
a witness that is asked to reach another host does not dial it. All hosts live here, so it answers at once with the target's signature,
or, where the target is silent, says so after the time that a dial would have taken.

A host that is silenced is like one that lost its power: its connections stay and say nothing, its kernel answers no SYN. Commands come as
lines on standard input (`silence NAME`), answers are JSON lines.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import os
import select
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ha_agent.errors import ProtocolError
from ha_agent.heartbeat import signing, wire
from ha_agent.model import Answer, Health
from tests.benchmarks import heartbeat_plan as plan

BACKLOG = 64
FILLERS = 3  # fill the queue of a listener with backlog 0: Linux drops the SYNs that come then
READ = 16 * 1024
DIAL_SHARE = 0.95  # of a probe's deadline that a witness spends on dialling


def now() -> float:
    """CLOCK_BOOTTIME, as the controller reads it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Host:
    """One host."""

    def __init__(self, directory: Path, index: int, name: str, port: int) -> None:
        self.name = name
        self.boot_id = str(uuid.uuid4())
        self.context = plan.host_context(directory, name)
        self.chain = (plan.der(directory, name),)
        self.where = (plan.address(index), port)
        self.listener = socket.create_server(self.where, backlog=BACKLOG)
        self.listener.setblocking(False)
        self.silent = False
        self.beat_at: float | None = None  # when the last heartbeat was sent
        self.fillers: list[socket.socket] = []


class Connection:
    """A controller's connection to one host."""

    def __init__(self, farm: Farm, host: Host, sock: ssl.SSLSocket) -> None:
        self.farm = farm
        self.host = host
        self.sock = sock
        self.started_at = now()
        self.shaken = self.ended = False
        self.seq = 0
        self.interval_s = 0.0
        self.buffer = bytearray()

    def ready(self, events: int) -> None:
        """Something came. After the end of the host nothing is read any more."""
        try:
            if not self.shaken:
                self.sock.do_handshake()
                self.shaken = True
            while True:
                data = self.sock.recv(READ)
                if not data:
                    self.end()
                    return
                self.buffer += data
                if len(data) < READ and not self.sock.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.end()
            return
        try:
            self._frames()
        except ProtocolError as error:
            self.farm.say({"error": f"{self.host.name}: {error}"})
            self.end()

    def _frames(self) -> None:
        while len(self.buffer) >= wire.HEADER:
            size = wire.length(bytes(self.buffer[: wire.HEADER]))
            if len(self.buffer) < wire.HEADER + size:
                return
            body = bytes(self.buffer[wire.HEADER : wire.HEADER + size])
            del self.buffer[: wire.HEADER + size]
            self._take(wire.decode(body))

    def _take(self, frame: wire.AnyFrame) -> None:
        match frame:
            case wire.BeatAck() | wire.Claim():
                pass
            case wire.Probe():
                self.farm.probed(self, frame)
            case wire.Hello():
                version = wire.negotiate(frame.versions)
                self.send(wire.Welcome(version=version, name=self.host.name, boot_id=self.host.boot_id))
                self.interval_s = frame.interval_s or 0.0
                if self.interval_s:
                    self.beat()
            case wire.Challenge():
                self.send(self.farm.signed(self.host, frame.nonce))
            case wire.OpenGate():
                self.send(wire.GateAck(request=frame.request))
            case wire.DomainQuery():
                self.send(wire.DomainAnswer(request=frame.request, present=False))
            case _:
                raise ProtocolError(f"a controller does not send {type(frame).__name__}")

    def beat(self) -> None:
        """This heartbeat, and the time of the next one."""
        if self.ended or self.host.silent:
            return
        at = now()
        self.seq += 1
        self.send(
            wire.Beat(
                seq=self.seq,
                boot_id=self.host.boot_id,
                started_s=at - self.farm.started_at,
                nova_compute=Health.UP,
                libvirt=Health.UP,
                rtt_s=0.0005,
            )
        )
        self.host.beat_at = at
        self.farm.later(at + self.interval_s, self.beat)

    def send(self, frame: wire.Frame) -> None:
        """A peer that does not read loses its connection, as it would with a remote."""
        if self.ended or self.host.silent:
            return
        try:
            self.sock.send(wire.encode(frame))
        except OSError:
            self.end()

    def end(self) -> None:
        """Closed; a silent host's connection is told of nothing."""
        if not self.ended:
            self.ended = True
            self.farm.forget(self.sock)
            self.sock.close()


class Farm:
    """All hosts and one loop."""

    def __init__(self, directory: Path) -> None:
        planned = plan.read(directory)
        plan.allow_descriptors(2 * planned.hosts)
        key = serialization.load_pem_private_key((directory / "hosts.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._poll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._input = b""
        self.started_at = now()
        self.hosts = {name: Host(directory, index, name, planned.port) for index, name in enumerate(planned.names())}
        for host in self.hosts.values():
            self._watch(host.listener.fileno(), functools.partial(self._accept, host))
        self._watch(0, self._commands)

    def run(self) -> None:
        """Until standard input ends."""
        self.say({"listening": len(self.hosts)})
        while 0 in self._ready:
            wait_s = max(0.0, self._timers[0][0] - now()) if self._timers else 1.0
            for number, events in self._poll.poll(wait_s):
                ready = self._ready.get(number)
                if ready is not None:
                    ready(events)
            at = now()
            while self._timers and self._timers[0][0] <= at:
                heapq.heappop(self._timers)[2]()

    def later(self, at: float, call: Callable[[], None]) -> None:
        """Calls it then."""
        heapq.heappush(self._timers, (at, next(self._numbers), call))

    def forget(self, sock: socket.socket) -> None:
        """Nothing of this socket is of interest any more."""
        if self._ready.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())

    def say(self, line: object) -> None:
        """One JSON line to who started us."""
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    def signed(self, host: Host, nonce: str) -> wire.Signed:
        """The host's own word that it runs."""
        signature = self._key.sign(signing.message(nonce, host.name, host.boot_id), ec.ECDSA(hashes.SHA256()))
        return wire.Signed(nonce=nonce, name=host.name, boot_id=host.boot_id, signature=signature, chain=host.chain)

    def probed(self, witness: Connection, probe: wire.Probe) -> None:
        """See the module."""
        target = self.hosts[probe.target]
        if target.silent:
            result = wire.ProbeResult(nonce=probe.nonce, target=probe.target, answer=Answer.SILENT)
            self.later(now() + DIAL_SHARE * probe.deadline_s, lambda: witness.send(result))
            return
        signed = self.signed(target, probe.nonce)
        witness.send(wire.ProbeResult(nonce=probe.nonce, target=probe.target, answer=Answer.SIGNED, signed=signed))

    def silence(self, host: Host) -> None:
        """Its power is gone."""
        host.silent = True
        self.forget(host.listener)
        host.listener.listen(0)
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(host.where)
            host.fillers.append(filler)
        self.say({"silenced": host.name, "beat_at": host.beat_at})

    def _watch(self, number: int, ready: Callable[[int], None]) -> None:
        self._poll.register(number, select.EPOLLIN)
        self._ready[number] = ready

    def _accept(self, host: Host, events: int) -> None:
        try:
            plain, _ = host.listener.accept()
        except OSError:
            return
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = host.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        connection = Connection(self, host, sock)
        self._watch(sock.fileno(), connection.ready)

    def _commands(self, events: int) -> None:
        data = os.read(0, READ)
        if not data:
            del self._ready[0]
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            word, name = line.decode().split()
            assert word == "silence"
            self.silence(self.hosts[name])


if __name__ == "__main__":
    Farm(Path(sys.argv[1])).run()
