"""The remote's door: from a TCP connection to a greeted peer, or to a refusal that is counted, said and forgotten."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.admission import Admission, Bucket, Limits
from ha_agent.heartbeat.channel import Channel, accept, why_tls
from ha_agent.heartbeat.complaints import Complaints
from ha_agent.heartbeat.counters import Counters
from ha_agent.heartbeat.credentials import Change, Credentials
from ha_agent.heartbeat.peer import Peer

log = logging.getLogger(__name__)

# Even a refusal costs the loop something. What floods us waits in the kernel, or is dropped there.
ACCEPTS_S = 1000.0
ACCEPTS_BURST = 100
PAUSE_S = 0.02
IP_FREEBIND, IPV6_FREEBIND = (socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78)  # ip(7); Python does not name them
MAX_PER_PEER = 8  # connections of one identity: a stolen key must not fill the house

Serve = Callable[[Channel, wire.Hello], Awaitable[None]]


@dataclass
class Guest:
    """A connection on its way in or inside. `taken`: its socket belongs to a transport."""

    number: int
    sock: socket.socket
    address: str
    taken: bool = False
    evicted: bool = False
    channel: Channel | None = None


class Door:
    """Listens. `boot_id`: what a Welcome says; `serve`: what is done with a greeted channel; its exceptions end that channel alone."""

    def __init__(
        self,
        credentials: Credentials,
        counters: Counters,
        boot_id: str,
        limits: Limits,
        handshake_s: float,
        serve: Serve,
    ) -> None:
        self._credentials = credentials
        self._counters = counters
        self._boot_id = boot_id
        self._handshake_s = handshake_s
        self._serve = serve
        now = asyncio.get_running_loop().time
        self._now = now
        self._admission = Admission(limits, now())
        self._accepts = Bucket(ACCEPTS_S, ACCEPTS_BURST, now())
        self._complaints = Complaints(log, now)
        self._numbers = itertools.count()
        self._guests: dict[int, tuple[Guest, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def peers(self) -> list[Peer]:
        """Who is inside."""
        return [guest.channel.peer for guest, _ in self._guests.values() if guest.channel is not None]

    def reconsider(self, change: Change) -> None:
        """After a change of the credentials: who must not be inside any more leaves at once."""
        for guest, _ in list(self._guests.values()):
            if guest.channel is not None:
                why = self._credentials.outlived(guest.channel.peer, change)
                if why:
                    self._counters.closed_revoked += 1
                    log.warning("%s: connection closed: %s", guest.address, why)
                    guest.channel.abort(why)

    async def stand(self, listener: socket.socket) -> None:
        """Takes connections, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._accepts.take(self._now()):
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                sock, where = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the peer is gone already
                self._complaints.say("accept", "accept", str(error))
                await asyncio.sleep(0.1)
                continue
            self._arrive(sock, str(where[0]))

    async def close(self) -> None:
        """Ends every connection."""
        tasks = [task for _, task in self._guests.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _arrive(self, sock: socket.socket, address: str) -> None:
        number = next(self._numbers)
        decision = self._admission.arrive(number, address, self._now())
        if decision.refuse:
            name = f"refused_{decision.refuse}"
            setattr(self._counters, name, getattr(self._counters, name) + 1)
            sock.close()
            self._complaints.say(address, decision.refuse, f"turned away before TLS ({decision.refuse})")
            return
        if decision.evict is not None:
            guest, task = self._guests[decision.evict]
            guest.evicted = task.cancel()
        guest = Guest(number, sock, address)
        task = asyncio.get_running_loop().create_task(self._host(guest))
        self._guests[number] = (guest, task)
        task.add_done_callback(lambda _: self._gone(guest))

    def _gone(self, guest: Guest) -> None:
        if not guest.taken:  # evicted before its task had begun
            guest.sock.close()
        if guest.evicted:
            self._counters.failed_handshake("evicted")
            self._complaints.say(guest.address, "evicted", "handshake ended: too many are unfinished")
        self._admission.left(guest.number)
        del self._guests[guest.number]

    async def _host(self, guest: Guest) -> None:
        """One connection, from handshake to end: whatever goes wrong with it ends it, is counted, and harms no other."""
        counters = self._counters
        try:
            hello = await self._greet(guest)
            if hello is not None and guest.channel is not None:
                try:
                    await self._serve(guest.channel, hello)
                finally:
                    guest.channel.abort()
        except ProtocolError as error:
            counters.malformed_frames += 1
            counters.oversized_frames += isinstance(error, wire.OversizedFrame)
            self._complaints.say(guest.address, "protocol", f"connection closed: {error}")
        except TimeoutError:
            counters.idle_closed += 1
            self._complaints.say(guest.address, "idle", "connection closed: nothing came for too long")
        except OSError as error:
            log.debug("%s: connection ended: %s", guest.address, error)

    async def _greet(self, guest: Guest) -> wire.Hello | None:
        """TLS and Hello within one deadline. None where they did not come about (counted). Raises ProtocolError."""
        channel: Channel | None = None
        try:
            async with asyncio.timeout(self._handshake_s):
                guest.taken = True
                # Ours ends first: asyncio's own deadline would only say that the connection was aborted.
                channel = await accept(guest.sock, self._credentials.now.server, 2 * self._handshake_s)
                hello = await channel.receive(self._handshake_s)
            if not isinstance(hello, wire.Hello):
                raise ProtocolError(f"the first frame is {type(hello).__name__}, not Hello")
            version = wire.negotiate(hello.versions)
            counter, why = self._objection(channel, hello)
            if why:
                setattr(self._counters, counter, getattr(self._counters, counter) + 1)
                self._complaints.say(guest.address, counter, f"{channel.role} {channel.name} refused: {why}")
                await _refuse(channel, why)
                return None
            channel.send(wire.Welcome(version=version, name=self._credentials.name, boot_id=self._boot_id))
            self._counters.connections += 1
            self._admission.greeted(guest.number)
            guest.channel = channel
            return hello
        except ProtocolError as error:
            if channel is not None:
                await _refuse(channel, str(error))
            raise
        except UsageError as error:
            self._counters.refused_identities += 1
            self._complaints.say(guest.address, "identity", f"refused: {error}")
        except (OSError, TimeoutError) as error:
            why = why_tls(error)
            self._counters.failed_handshake(why)
            self._complaints.say(guest.address, f"handshake {why}", f"handshake failed ({why}): {error or 'too slow'}")
        finally:
            if channel is not None and guest.channel is None:
                channel.abort()
        return None

    def _objection(self, channel: Channel, hello: wire.Hello) -> tuple[str, str]:
        """(counter, reason) against a peer that TLS accepted; empty where there is none."""
        revoked = self._credentials.revoked(channel.peer)
        if revoked:
            return "refused_revoked", revoked
        if hello.name != channel.name:
            return "refused_identities", f"your certificate names {channel.role} {channel.name}, your Hello another"
        if hello.interval_s is not None and channel.role != "controller":
            return "refused_identities", "beats are for controllers; your certificate is a host's"
        same = sum((peer.role, peer.name) == (channel.role, channel.name) for peer in self.peers())
        if same >= MAX_PER_PEER:
            return "refused_peers", f"you have {same} connections already"
        return "", ""


async def _refuse(channel: Channel, reason: str) -> None:
    """Says why, and ends it."""
    channel.send(wire.Refused(reason=reason[:1000]))
    await channel.close()


def listen(address: str, port: int, *, absent_too: bool = False) -> socket.socket:
    """A listening socket. `absent_too`: an address that this machine does not have yet is waited for. Raises UsageError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if absent_too:
            listener.setsockopt(*(IPV6_FREEBIND if family == socket.AF_INET6 else IP_FREEBIND), 1)
        listener.bind((address, port))
        listener.listen(512)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {address}:{port}: {error.strerror or error}",
            "set `listen` to a free address of this host",
        ) from None
    return listener
