"""One connection that a remote serves: a controller's, with beats and requests, or one that only comes to challenge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from ha_agent.errors import DriverError, ProtocolError, Unanswered
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.aside import Aside
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.claims import Claims
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.gate import Gate
from ha_agent.heartbeat.reach import reach
from ha_agent.heartbeat.sources import CachedHealth
from ha_agent.model import Answer
from ha_agent.ports import Clock, GuestSource

MAX_REQUESTS = 64  # of one session at a time
GUEST_S = 5.0
MAX_CHALLENGES = 16


@dataclass
class Host:
    """What all sessions of one remote share."""

    boot_id: str
    started_at: float
    machine: str
    clock: Clock
    gate: Gate
    health: CachedHealth
    guests: GuestSource
    guest_threads: Aside
    credentials: Credentials
    claims: Claims
    counters: Counters
    challenger_idle_s: float
    sessions: dict[str, Session] = field(default_factory=dict)  # controllers that want beats, by name


async def challenges(channel: Channel, host: Host) -> None:
    """Serves a peer that only comes to have nonces signed. Raises ProtocolError, TimeoutError, ConnectionError."""
    for _ in range(MAX_CHALLENGES):
        frame = await channel.receive(host.challenger_idle_s)
        if not isinstance(frame, wire.Challenge):
            raise ProtocolError(f"{channel.role} {channel.name} may only send challenges, not {type(frame).__name__}")
        channel.send(host.credentials.now.signer.sign(frame.nonce, host.boot_id))
    raise ProtocolError("too many challenges in one connection")


class Session:
    """A controller's session. `interval_s`: how often it wants a beat."""

    def __init__(self, channel: Channel, host: Host, hello: wire.Hello, interval_s: float) -> None:
        self._channel = channel
        self._host = host
        self._interval_s = interval_s
        self._store_id = hello.store_id
        self._epoch = hello.epoch
        self._told: set[wire.Foreign] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self._seq = 0
        self._timed: tuple[int, float] | None = None  # (seq, loop time) of the beat whose round trip is being taken
        self._rtt_s = 0.0

    async def run(self) -> None:
        """Serves until the connection ends. Raises ProtocolError, TimeoutError, ConnectionError."""
        self._claim(self._store_id, self._epoch)
        beats = asyncio.get_running_loop().create_task(self._beat())
        try:
            while True:
                # A controller acknowledges every beat, so a silent one is gone.
                self._take(await self._channel.receive(max(10.0, 5 * self._interval_s)))
        finally:
            self._host.claims.left(self._channel.name, self._store_id)
            tasks = [beats, *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self) -> None:
        """The same controller has come back on another connection."""
        self._channel.abort("the same controller has come back on another connection")

    def tell_claims(self) -> None:
        """Reports claimants that this controller has not heard of."""
        for foreign in self._host.claims.against(self._store_id, self._epoch):
            if foreign not in self._told and len(self._told) < 1000:
                self._told.add(foreign)
                self._channel.send(foreign)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                self._send_beat()
                # Of beats that could not be sent in time only the next one is: they tell the present, not the past.
                due = max(due + self._interval_s, loop.time())
                await asyncio.sleep(due - loop.time())
        except ProtocolError:
            self._channel.abort()  # it does not read: the receiving side notices and counts

    def _send_beat(self) -> None:
        host = self._host
        report = host.health.get()
        self._seq += 1
        if self._timed is None:
            self._timed = (self._seq, asyncio.get_running_loop().time())
        self._channel.send(
            wire.Beat(
                seq=self._seq,
                boot_id=host.boot_id,
                started_s=max(0.0, host.clock.now() - host.started_at),
                nova_compute=report.nova_compute,
                libvirt=report.libvirt,
                waiting_gate=host.gate.waiting > 0,
                rtt_s=self._rtt_s,
                machine=host.machine,
            )
        )

    def _take(self, frame: wire.AnyFrame) -> None:
        match frame:
            case wire.BeatAck(seq=seq):
                if self._timed is not None and seq == self._timed[0]:
                    self._rtt_s = asyncio.get_running_loop().time() - self._timed[1]
                    self._timed = None
            case wire.Claim(store_id=store_id, epoch=epoch):
                self._claim(store_id, epoch)
            case wire.Challenge(nonce=nonce):
                self._channel.send(self._host.credentials.now.signer.sign(nonce, self._host.boot_id))
            case wire.Probe():
                busy = wire.ProbeResult(nonce=frame.nonce, target=frame.target, answer=Answer.FAILED, error="too busy")
                self._spawn(lambda: self._probe(frame), busy)
            case wire.OpenGate():
                self._spawn(lambda: self._open(frame), wire.GateAck(request=frame.request, error="too busy"))
            case wire.DomainQuery():
                self._spawn(lambda: self._domain(frame), wire.DomainAnswer(request=frame.request, present=None))
            case _:
                raise ProtocolError(f"a controller does not send {type(frame).__name__}")

    def _claim(self, store_id: str, epoch: int) -> None:
        if store_id != self._store_id:
            self._host.claims.left(self._channel.name, self._store_id)
        self._store_id, self._epoch = store_id, epoch
        self._host.claims.made(self._channel.name, store_id, epoch)
        for session in list(self._host.sessions.values()):
            try:
                session.tell_claims()
            except ProtocolError:
                session.end()  # that one does not read; it is no fault of this one

    def _spawn(self, request: Callable[[], Coroutine[None, None, None]], busy: wire.Frame) -> None:
        if len(self._requests) >= MAX_REQUESTS:
            self._host.counters.refused_requests += 1
            self._channel.send(busy)
            return
        task = asyncio.get_running_loop().create_task(self._guarded(request))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _guarded(self, request: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await request()
        except ProtocolError:
            self._channel.abort()

    async def _probe(self, probe: wire.Probe) -> None:
        host = self._host
        host.counters.probes += 1
        result = await reach(probe, host.credentials, host.clock)
        self._channel.send(result)

    async def _open(self, frame: wire.OpenGate) -> None:
        error = ""
        try:
            await self._host.gate.open(frame.boot_id, f"controller {self._channel.name}")
        except DriverError as problem:
            error = str(problem)
        except Unanswered:
            return  # so it is for the controller
        self._channel.send(wire.GateAck(request=frame.request, error=error))

    async def _domain(self, query: wire.DomainQuery) -> None:
        """libvirt can hang: it is asked in one of few threads, and what it does not say in time is unknown."""
        guests, present = self._host.guests, None
        try:
            present = await self._host.guest_threads.run(lambda: guests.present(query.server), GUEST_S)
        except Exception:  # noqa: S110 -- whatever a guest source raises, it means: unknown (S9)
            pass
        self._channel.send(wire.DomainAnswer(request=query.request, present=present))
