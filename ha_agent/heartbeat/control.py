"""The remote's unix socket: one JSON object a line. The gate waits here, and `ha-agent remote status` asks here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from ha_agent.errors import DriverError, ProtocolError, Unanswered, UsageError
from ha_agent.model import Value

if TYPE_CHECKING:
    from ha_agent.heartbeat.gate import Gate

MAX_LINE = 64 * 1024
MAX_CLIENTS = 32
ASK_S = 10.0
CONNECT_S = 2.0


class Line(Value, frozen=True, kw_only=True, tag=True):
    """Anything that goes over this socket."""


class AskStatus(Line, frozen=True, kw_only=True):
    """How is the remote?"""


class AskGate(Line, frozen=True, kw_only=True):
    """May nova-compute start? A GateState follows at once, and another when it opens."""


class AskOverride(Line, frozen=True, kw_only=True):
    """Open the gate by hand."""

    reason: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class GateState(Line, frozen=True, kw_only=True):
    """Whether the gate is open in this boot."""

    open: bool
    boot_id: str


class RemoteStatus(Line, frozen=True, kw_only=True, omit_defaults=True):
    """The remote, for a human. `counters`: see counters.py. `certificate_days`, `authority_days`: until its own certificate and the last
    authority that it trusts expire. `notes`: what somebody should see to."""

    name: str
    boot_id: str
    port: int
    controllers: tuple[str, ...]
    gate_open: bool
    waiting_gate: bool
    nova_compute: str
    libvirt: str
    machine: str
    counters: dict[str, int]
    certificate_days: float | None = None
    authority_days: float | None = None
    notes: tuple[str, ...] = ()


class Failure(Line, frozen=True, kw_only=True):
    """It was not done, and what to do next."""

    error: str
    hint: str = ""


Ask = AskStatus | AskGate | AskOverride
Reply = GateState | RemoteStatus | Failure
_asks: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


class ControlServer:
    """Serves the socket at `path`, for its owner and its group. Overrides are for the uids in `overriders`."""

    def __init__(self, path: Path, gate: Gate, status: Callable[[], RemoteStatus], overriders: frozenset[int]) -> None:
        self._path = path
        self._gate = gate
        self._status = status
        self._overriders = overriders
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises UsageError where the path cannot be used, or another remote serves it."""
        self._server = await asyncio.start_unix_server(self._accept, sock=_bind(self._path), limit=MAX_LINE)

    async def stop(self) -> None:
        """Ends all connections and removes the socket."""
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                line = await reader.readline()
            await self._answer(_asks.decode(line), reader, writer)
            async with asyncio.timeout(ASK_S):
                await writer.drain()
        except (OSError, ValueError, TimeoutError, RecursionError, msgspec.DecodeError):
            pass  # a client of this machine that talks nonsense or goes away: its connection ends
        finally:
            writer.close()

    async def _answer(self, ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(ask, AskStatus):
            _write(writer, self._status())
        elif isinstance(ask, AskOverride):
            _write(writer, await self._override(ask, writer))
        else:
            _write(writer, GateState(open=self._gate.is_open, boot_id=self._gate.boot_id))
            if not self._gate.is_open:
                await self._until_open(reader)
                _write(writer, GateState(open=self._gate.is_open, boot_id=self._gate.boot_id))

    async def _until_open(self, reader: asyncio.StreamReader) -> None:
        """Waits for the gate, or for the client to leave: one that left does not wait at the gate any more."""
        opened = asyncio.ensure_future(self._gate.wait())
        left = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            left.cancel()
            await asyncio.gather(opened, left, return_exceptions=True)

    async def _override(self, ask: AskOverride, writer: asyncio.StreamWriter) -> Reply:
        pid, uid, _ = _peer(writer)
        if uid not in self._overriders:
            return Failure(error=f"uid {uid} may not open the gate", hint="run it as root")
        try:
            await self._gate.override(uid, pid, ask.reason)
        except (DriverError, Unanswered) as error:
            return Failure(error=str(error), hint="look at the remote's state directory")
        return GateState(open=True, boot_id=self._gate.boot_id)


async def ask(path: Path, question: Ask, deadline_s: float = ASK_S) -> Reply:
    """One question, one answer. Raises OSError where the remote is not there, ProtocolError where it talks nonsense."""
    async with asyncio.timeout(deadline_s), _connected(path) as (reader, writer):
        _write(writer, question)
        return await _read(reader)


async def gate_states(path: Path) -> AsyncIterator[GateState]:
    """The gate's states, as they change, until the remote ends the connection. Raises OSError, ProtocolError."""
    async with _connected(path) as (reader, writer):
        _write(writer, AskGate())
        while True:
            reply = await _read(reader)
            if not isinstance(reply, GateState):
                raise ProtocolError("the remote answers something else than the gate's state")
            yield reply


@contextlib.asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _write(writer: asyncio.StreamWriter, line: Line) -> None:
    writer.write(msgspec.json.encode(line) + b"\n")


async def _read(reader: asyncio.StreamReader) -> Reply:
    try:
        line = await reader.readline()
    except ValueError:
        raise ProtocolError("the remote sends a line that is too long") from None
    if not line:
        raise ConnectionResetError("the remote has closed the connection")
    try:
        return _replies.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the remote's answer cannot be read: {error}") from None


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int, int]:
    """(pid, uid, gid) of the client, as the kernel knows them."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack(
        "3i", writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return pid, uid, gid


def _bind(path: Path) -> socket.socket:
    """A socket at `path`, 0660 before anybody can connect. A dead one of an earlier run is replaced, a live one is not."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(CONNECT_S)  # another remote may be there and hang
    try:
        if path.is_socket():
            try:
                sock.connect(str(path))
                raise UsageError(f"another remote serves {path}", "stop it first, or set another control socket")
            except ConnectionRefusedError:
                path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise UsageError(f"{path} cannot be made: {error.strerror or error}", "set another control socket") from None
    except UsageError:
        sock.close()
        raise
    return sock
