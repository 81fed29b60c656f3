"""Frames over one TLS connection: bounded in size, in rate and in what waits to be sent."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import errno
import ipaddress
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.peer import Peer, peer_of

# asyncio gives each TLS connection a read buffer of 256 KiB and zeroes it. One TLS record is 16 KiB: the smaller buffer takes a
# connection from 279 to 42 KiB, which matters with thousands of hosts. Must be set before the first connection is made.
asyncio.sslproto.SSLProtocol.max_size = 16 * 1024

# Names are looked up in threads of their own: a resolver that hangs keeps nothing waiting but other names.
_resolvers = ThreadPoolExecutor(2, thread_name_prefix="resolver")

MAX_UNSENT = 4 * wire.MAX_FRAME
MAX_FRAMES_PER_S = 1000
CLOSE_S = 1.0

# Errors of a connect that come from this machine: nothing was asked of the other one.
LOCAL_ERRORS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
    | {errno.ENETUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EAFNOSUPPORT}
)


class DialError(Exception):
    """No channel came about. `answered`: the other kernel answered TCP (a refusal counts); `asked`: at least we could try. `why`: one
    of the words of `why_tls`, or "revoked", or "" where it did not come to TLS."""

    def __init__(self, message: str, *, answered: bool, asked: bool = True, why: str = "") -> None:
        super().__init__(message)
        self.answered = answered
        self.asked = asked
        self.why = why

    @property
    def spoke(self) -> bool:
        """Whether a program said something: a machine that stands still shows no certificate."""
        return self.why in ("expired", "untrusted", "revoked", "garbage")


def why_tls(error: BaseException) -> str:
    """Why a handshake failed, in one word: "expired", "untrusted" (either side's word), "slow", "garbage" (no TLS, or a broken one) or
    "cut" (the connection ended)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
        return "expired" if error.verify_code in (9, 10) else "untrusted"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return "untrusted" if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason else "garbage"
    # asyncio says "SSL handshake is taking longer than …" with a ConnectionAbortedError.
    return "slow" if isinstance(error, TimeoutError) or "taking longer" in str(error) else "cut"


class Channel:
    """One connection with its peer's identity. `ended`: why we ended it, where we did."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._window_at = 0.0
        self._frames = 0
        self._size: int | None = None  # of the frame whose header has been read already
        self.ended = ""
        self.peer: Peer = peer_of(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        self.role, self.name = self.peer.role, self.peer.name

    def send(self, frame: wire.Frame) -> None:
        """Queues the frame. Raises ProtocolError where the peer does not take what it is sent: it must not fill our memory."""
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            raise ProtocolError("the peer does not read what it is sent")
        self._writer.write(wire.encode(frame))

    async def receive(self, deadline_s: float) -> wire.AnyFrame:
        """The next frame. Raises TimeoutError (it may be called again, nothing is lost), ProtocolError, or ConnectionError when the
        connection has ended."""
        async with asyncio.timeout(deadline_s):
            try:
                if self._size is None:
                    self._size = wire.length(await self._reader.readexactly(wire.HEADER))
                body = await self._reader.readexactly(self._size)
                self._size = None
            except asyncio.IncompleteReadError as error:
                if self.ended:
                    raise ConnectionAbortedError(self.ended) from None
                if error.partial or self._size is not None:
                    raise ProtocolError("the connection ended inside a frame") from None
                raise ConnectionResetError("the peer closed the connection") from None
            except ssl.SSLError as error:
                raise ConnectionAbortedError(f"TLS failed: {error.reason or error}") from None
        self._count()
        return wire.decode(body)

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._window_at >= 1.0:
            self._window_at, self._frames = now, 0
        self._frames += 1
        if self._frames > MAX_FRAMES_PER_S:
            raise ProtocolError(f"the peer sends more than {MAX_FRAMES_PER_S} frames a second")

    def abort(self, reason: str = "") -> None:
        """Ends it at once, without a farewell. Whoever receives from it is told the reason."""
        self.ended = self.ended or reason
        self._writer.transport.abort()

    async def close(self) -> None:
        """Sends what is queued, within a second, and ends it."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.abort()


async def dial(address: str, port: int, context: ssl.SSLContext, deadline_s: float) -> Channel:
    """Connects. Raises DialError, which tells a kernel that answered from silence. `address`: better an IP address than a name,
    which would have to be looked up while things fail."""
    loop = asyncio.get_running_loop()
    answered = False
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(deadline_s):
            try:
                family, where = await _where(address, port)
            except OSError as error:
                raise DialError(f"{address} is no address: {error}", answered=False, asked=False) from None
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
            answered = True
            # From here on the transport owns it, whatever happens: a handshake that ends in the moment of the deadline leaves a live
            # transport behind for a while, and closing its socket under it would give its number to somebody else's connection.
            owned, sock = sock, None
            reader, writer = await asyncio.open_connection(
                sock=owned,
                ssl=context,
                server_hostname="",
                limit=wire.MAX_FRAME,
                ssl_handshake_timeout=deadline_s,
                ssl_shutdown_timeout=CLOSE_S,
            )
            return _channel(reader, writer)
    except TimeoutError:
        what = "TLS" if answered else "TCP"
        why = "slow" if answered else ""
        raise DialError(
            f"no {what} answer from {address}:{port} in {deadline_s:g} s", answered=answered, why=why
        ) from None
    except ssl.SSLError as error:
        text = getattr(error, "verify_message", "") or error.reason or error
        raise DialError(f"TLS with {address}:{port} failed: {text}", answered=True, why=why_tls(error)) from None
    except UsageError as error:
        raise DialError(f"{address}:{port}: {error}", answered=True, why="untrusted") from None
    except OSError as error:
        why = why_tls(error) if answered else ""
        answered = answered or isinstance(error, ConnectionRefusedError | ConnectionResetError)
        asked = answered or error.errno not in LOCAL_ERRORS
        raise DialError(
            f"{address}:{port}: {error.strerror or error}", answered=answered, asked=asked, why=why
        ) from None
    finally:
        if sock is not None:
            sock.close()


async def _where(address: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """An IP address needs no thread: dials of thousands of hosts do not wait for each other. Raises OSError."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        pass
    else:
        return (socket.AF_INET6 if version == 6 else socket.AF_INET), (address, port)
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(_resolvers, lambda: socket.getaddrinfo(address, port, type=socket.SOCK_STREAM))
    family, _, _, _, where = found[0]
    return family, where


async def accept(sock: socket.socket, context: ssl.SSLContext, deadline_s: float) -> Channel:
    """TLS on an accepted socket. Raises OSError (ssl.SSLError is one), TimeoutError, UsageError (no identity)."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=wire.MAX_FRAME, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, sock, ssl=context, ssl_handshake_timeout=deadline_s
    )
    return _channel(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _channel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Channel:
    try:
        return Channel(reader, writer)
    except BaseException:
        writer.transport.abort()
        raise
