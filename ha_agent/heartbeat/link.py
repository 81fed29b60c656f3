"""A controller's connection to one host's remote: dialled again and again, with its requests and their answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import UNSET

from ha_agent.errors import DriverError, ProtocolError, Unanswered
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.admission import Bucket
from ha_agent.heartbeat.channel import Channel, DialError
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.heartbeat.pace import Pace
from ha_agent.heartbeat.peer import Peer, peer_of
from ha_agent.model import Answer, Presence, Value
from ha_agent.ports import Clock, Disconnected, ForeignClaim, GuestSeen, Heartbeat, Observer, ProbeAnswered, Random

PAUSE_S = 1.0  # a timer this late means that it was us who stood still
MAX_REQUESTS = 256  # open at a time on one link
GUEST_EVENTS_S = 100.0  # each may cost a write of the journal; a remote of ours sends fewer
# What a stolen key can cost us: a beat with another boot id is a write of the journal, and so is another claim of our hosts.
BEATS_PER_INTERVAL = 3.0
BEATS_AT_ONCE = 30  # that waited while we stood still
CLAIMS_S, CLAIMS_AT_ONCE = 0.1, 10
T = TypeVar("T", bound=wire.Frame)


class Endpoint(Value, frozen=True, kw_only=True):
    """Where a host's remote listens. `address`: better an IP address than a name, which must be looked up while things fail. `planes`: its
    addresses on planes beside that of management: heartbeats do not use them, whoever is asked to reach the host does."""

    address: str
    port: int = 7420
    planes: dict[str, str] = {}

    def probe(self, target: str, nonce: str, deadline_s: float) -> wire.Probe:
        """The question whether it can be reached there."""
        return wire.Probe(
            target=target,
            address=self.address,
            port=self.port,
            nonce=nonce,
            deadline_s=min(deadline_s, 60.0),
            planes=self.planes or UNSET,
        )


class MonitorOptions(Value, frozen=True, kw_only=True):
    """Times in seconds. `silence_s`: a connection without a beat for this long (and at least five intervals) is dialled anew, for
    a machine that lost its power never closes one. `retry_max_s`: bounds how late a host that is back is noticed. `pki_poll_s`: how
    often our PKI files are looked at; `look_s`: how often a few hosts whose certificates end soon are asked for another one."""

    interval_s: float = 1.0
    dial_s: float = 3.0
    silence_s: float = 5.0
    retry_min_s: float = 0.2
    retry_max_s: float = 1.0
    pki_poll_s: float = 5.0
    look_s: float = 10.0
    expiry: Thresholds = Thresholds()


@dataclass
class Shared:
    """What all links of one controller share. `store_id` and `epoch`: the claim; epoch 0: none."""

    name: str
    observe: Observer
    clock: Clock
    random: Random
    options: MonitorOptions
    credentials: Credentials
    counters: Counters
    store_id: str = ""
    epoch: int = 0
    requests: int = 0
    pace: Pace = field(default_factory=Pace)
    peers: dict[str, Peer] = field(default_factory=dict)  # the newest certificate that each host has shown

    def shown(self, host: str, signed: wire.Signed) -> None:
        """A host has proven, through a witness, that it has this certificate: a connection may stand longer than the one it began with."""
        known = self.peers.get(host)
        if known is None or known.digest != hashlib.sha256(signed.chain[0]).digest():
            self.peers[host] = peer_of(signed.chain[0])


class Link:
    """The connection to one host. `connected`: it has welcomed us. `channel`: the connection, also before the welcome."""

    def __init__(self, host: str, endpoint: Endpoint, shared: Shared) -> None:
        self.host = host
        self.endpoint = endpoint
        self._shared = shared
        self._channel: Channel | None = None
        self.channel: Channel | None = None
        self._beats = 0  # of this connection
        self._waiting: dict[int, asyncio.Future[wire.AnyFrame]] = {}
        self._probes: dict[tuple[str, str], asyncio.TimerHandle] = {}  # by (nonce, target); a late answer finds none
        self._guest_events = Bucket(GUEST_EVENTS_S, int(GUEST_EVENTS_S), shared.clock.now())
        beats_s = BEATS_PER_INTERVAL / shared.options.interval_s
        self._beats_taken = Bucket(beats_s, BEATS_AT_ONCE, shared.clock.now())
        self._claims = Bucket(CLAIMS_S, CLAIMS_AT_ONCE, shared.clock.now())
        self._acks: list[str] = []  # that go out together

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._channel is not None

    async def run(self, first_wait_s: float) -> None:
        """Dials for ever, until cancelled. Each failure is observed; the waits between grow, with jitter, up to `retry_max_s`."""
        options = self._shared.options
        wait_s = options.retry_min_s
        await asyncio.sleep(first_wait_s)
        while True:
            beats = await self._connection()
            wait_s = options.retry_min_s if beats else min(options.retry_max_s, wait_s * 2)
            await asyncio.sleep(self._shared.random.uniform(wait_s / 2, wait_s))

    async def _connection(self) -> int:
        """One connection, from dial to end. Returns how many beats came."""
        shared, counters = self._shared, self._shared.counters
        answered, spoke, error, self._beats = True, False, "", 0
        channel: Channel | None = None
        try:
            where, dial_s = self.endpoint, shared.options.dial_s
            async with shared.pace.turn():
                channel = await shared.credentials.dial(where.address, where.port, dial_s)
            self.channel = channel
            if (channel.role, channel.name) != ("host", self.host):
                counters.refused_identities += 1
                raise ConnectionAbortedError(f"the certificate is of {channel.role} {channel.name!r}, not of this host")
            shared.peers[self.host] = channel.peer
            await self._greet(channel)
            counters.connections += 1
            await self._read(channel)
        except DialError as problem:
            answered, spoke, error = problem.answered, problem.spoke, str(problem)
            if problem.why == "revoked":
                counters.refused_revoked += 1
            elif problem.why:
                counters.failed_handshake(problem.why)
        except ProtocolError as problem:
            counters.malformed_frames += 1
            counters.oversized_frames += isinstance(problem, wire.OversizedFrame)
            spoke, error = channel is not None, f"broke the protocol: {problem}"
        except TimeoutError:
            counters.idle_closed += 1
            answered, error = False, "the connection fell silent"
        except OSError as problem:
            # A time-out of the kernel's own, or a route that broke, is no answer of the host; an end or a reset is.
            answered, error = isinstance(problem, ConnectionError), str(problem)
        finally:
            self._channel = self.channel = None
            if channel is not None:
                channel.abort()
            self._drop_requests()
        spoke = spoke or (channel is not None and not self._beats)  # it has just shown its certificate
        shared.observe(Disconnected(host=self.host, at=shared.clock.now(), answered=answered, spoke=spoke, error=error))
        return self._beats

    async def _greet(self, channel: Channel) -> None:
        shared = self._shared
        hello = wire.Hello(
            versions=wire.VERSIONS,
            name=shared.name,
            store_id=shared.store_id,
            epoch=shared.epoch,
            interval_s=shared.options.interval_s,
        )
        channel.send(hello)
        claimed = (shared.store_id, shared.epoch)
        welcome = await channel.receive(shared.options.dial_s)
        if isinstance(welcome, wire.Refused):
            raise ConnectionAbortedError(f"refused us: {welcome.reason}")
        if not isinstance(welcome, wire.Welcome) or welcome.name != self.host:
            raise ProtocolError("the answer to Hello is no Welcome of this host")
        if wire.negotiate([welcome.version]) != welcome.version:
            raise ProtocolError(f"it chose version {welcome.version}, which we do not speak")
        self._channel = channel
        if claimed != (shared.store_id, shared.epoch):
            self.claim()  # it changed while we waited for the Welcome

    async def _read(self, channel: Channel) -> None:
        options = self._shared.options
        silence_s = max(options.silence_s, 5 * options.interval_s)
        loop = asyncio.get_running_loop()
        beat_by = loop.time() + silence_s
        while True:
            # Only beats count: other frames say nothing about the host's health.
            try:
                frame = await channel.receive(max(0.0, beat_by - loop.time()))
            except TimeoutError:
                if loop.time() - beat_by < PAUSE_S:
                    raise
                beat_by = loop.time() + silence_s  # what came while we stood still is waiting to be read
                continue
            if isinstance(frame, wire.Beat):
                beat_by = loop.time() + silence_s
            self._take(channel, frame)

    def _take(self, channel: Channel, frame: wire.AnyFrame) -> None:
        shared = self._shared
        match frame:
            case wire.Beat():
                self._beats += 1
                channel.send(wire.BeatAck(seq=frame.seq))
                at = shared.clock.now()
                if self._beats_taken.take(at):
                    shared.observe(_heartbeat(self.host, at, frame))
                else:
                    shared.counters.refused_beats += 1
            case wire.ProbeResult():
                self._probed(frame)
            case wire.GateAck(request=request) | wire.DomainAnswer(request=request):
                waiting = self._waiting.pop(request, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
            case wire.GuestEvents():
                self._guests(frame)
            case wire.Foreign(controller=controller, store_id=store_id, epoch=epoch):
                at = shared.clock.now()
                if not self._claims.take(at):
                    shared.counters.refused_claims += 1
                    return
                shared.observe(
                    ForeignClaim(host=self.host, at=at, controller=controller, store_id=store_id, epoch=epoch)
                )
            case _:
                raise ProtocolError(f"a remote does not send {type(frame).__name__}")

    def _guests(self, frame: wire.GuestEvents) -> None:
        """What is too much now is not acknowledged, and comes again."""
        shared = self._shared
        at = shared.clock.now()
        for news in frame.events:
            if not self._guest_events.take(at):
                shared.counters.refused_guest_events += 1
                continue
            shared.counters.guest_events += 1
            shared.observe(
                GuestSeen(
                    host=self.host,
                    at=at,
                    server=news.server,
                    report=news.id,
                    fault=news.kind,
                    action=news.action,
                    start=news.start,
                    age_s=news.age_s,
                    device=news.device,
                    found=news.found,
                    lost=frame.lost,
                )
            )

    # --- what is asked of the remote --------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Tells the remote the claim of now."""
        self._try_send(wire.Claim(store_id=self._shared.store_id, epoch=self._shared.epoch))

    def probe(self, target: str, endpoint: Endpoint, nonce: str, deadline_s: float) -> None:
        """Asks this host to reach `target`. A ProbeAnswered follows in any case, never before this returns."""
        key = (nonce, target)
        loop = asyncio.get_running_loop()
        if key in self._probes:
            return  # its answer is on the way already
        asked = len(self._probes) < MAX_REQUESTS and self._try_send(endpoint.probe(target, nonce, deadline_s))
        # The witness uses all of the deadline; its answer needs a moment to come back.
        wait_s = deadline_s + 0.5 if asked else 0.0
        self._probes[key] = loop.call_later(wait_s, self._unanswered, key)

    async def open_gate(self, boot_id: str, deadline_s: float) -> None:
        """Raises DriverError, or Unanswered where the acknowledgement did not come; it may be asked again."""
        number = self._number()
        answer = await self._ask(number, wire.OpenGate(request=number, boot_id=boot_id), wire.GateAck, deadline_s)
        if answer.error:
            raise DriverError(f"{self.host} did not open its gate: {answer.error}")

    async def domain(self, server: str, deadline_s: float) -> Presence:
        """Raises DriverError where the remote is not connected, Unanswered where it does not answer."""
        number = self._number()
        answer = await self._ask(number, wire.DomainQuery(request=number, server=server), wire.DomainAnswer, deadline_s)
        return Presence(present=answer.present, start=answer.start, state=answer.state, fault=answer.fault)

    def acknowledge(self, report: str) -> None:
        """The remote need not tell of this event again. Lost where it is not connected: then it does."""
        if not self._acks:
            asyncio.get_running_loop().call_soon(self._send_acks)
        self._acks.append(report)

    def _send_acks(self) -> None:
        acks, self._acks = self._acks, []
        for first in range(0, len(acks), wire.MAX_EVENTS):
            self._try_send(wire.GuestAcks(ids=tuple(acks[first : first + wire.MAX_EVENTS])))

    def _number(self) -> int:
        self._shared.requests += 1
        return self._shared.requests

    async def _ask(self, number: int, frame: wire.Frame, kind: type[T], deadline_s: float) -> T:
        if len(self._waiting) >= MAX_REQUESTS:
            raise DriverError(f"too many requests to {self.host} are open")
        future: asyncio.Future[wire.AnyFrame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if not self._try_send(frame):
                raise DriverError(f"the remote of {self.host} is not connected")
            async with asyncio.timeout(deadline_s):
                answer = await future
        except TimeoutError:
            raise Unanswered(f"the remote of {self.host} did not answer in {deadline_s:g} s") from None
        finally:
            self._waiting.pop(number, None)
        if not isinstance(answer, kind):
            raise Unanswered(f"the remote of {self.host} answered with {type(answer).__name__}")
        return answer

    def _try_send(self, frame: wire.Frame) -> bool:
        if self._channel is None:
            return False
        try:
            self._channel.send(frame)
        except ProtocolError:
            self._channel.abort()  # the reading side notices
            return False
        return True

    def _probed(self, result: wire.ProbeResult) -> None:
        timer = self._probes.pop((result.nonce, result.target), None)
        if timer is None:
            return
        timer.cancel()
        shared = self._shared
        word = judged(result, shared)
        self._answer(result.target, result.nonce, word.answer, word.boot_id, word.over)

    def _unanswered(self, key: tuple[str, str]) -> None:
        del self._probes[key]
        self._answer(key[1], key[0], Answer.FAILED)

    def _drop_requests(self) -> None:
        """The connection is gone: no answer will come."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unanswered(f"the connection to {self.host} ended before it answered"))
        for key, timer in list(self._probes.items()):
            timer.cancel()
            self._unanswered(key)

    def _answer(
        self, target: str, nonce: str, answer: Answer, boot_id: str = "", over: Mapping[str, Answer] | None = None
    ) -> None:
        at, word = self._shared.clock.now(), dict(over or {})
        self._shared.observe(
            ProbeAnswered(host=target, at=at, witness=self.host, nonce=nonce, answer=answer, boot_id=boot_id, over=word)
        )


class Word(Value, frozen=True, kw_only=True):
    """What a probe came to. `over`: by plane; empty where the management plane alone was tried, or nothing was said."""

    answer: Answer
    boot_id: str = ""
    over: dict[str, Answer] = {}


def judged(result: wire.ProbeResult, shared: Shared) -> Word:
    """The answer to a probe, a signature verified by ourselves. A witness that claims a signature which does not hold has
    said nothing: neither that the target lives, nor that it is silent, over any plane."""
    over = result.planes if isinstance(result.planes, dict) else {}
    if result.answer is not Answer.SIGNED and Answer.SIGNED not in over.values():
        return Word(answer=result.answer, over=over)
    try:
        if result.signed is None:
            raise ProtocolError("there is no signature")
        verifier = shared.credentials.now.verifier
        boot_id = verifier.check(result.signed, result.nonce, result.target, shared.clock.wall())
    except ProtocolError:
        shared.counters.forged_probes += 1
        return Word(answer=Answer.FAILED)
    shared.shown(result.target, result.signed)
    return Word(answer=Answer.SIGNED, boot_id=boot_id, over=over if Answer.SIGNED in over.values() else {})


def _heartbeat(host: str, at: float, beat: wire.Beat) -> Heartbeat:
    return Heartbeat(
        host=host,
        at=at,
        boot_id=beat.boot_id,
        seq=beat.seq,
        started_s=beat.started_s,
        nova_compute=beat.nova_compute,
        libvirt=beat.libvirt,
        waiting_gate=beat.waiting_gate,
        rtt_s=beat.rtt_s,
        machine=beat.machine,
    )
