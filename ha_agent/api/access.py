"""Who may do what: tokens on TCP, the kernel's word (SO_PEERCRED) on the Unix socket."""

from __future__ import annotations

import asyncio
import grp
import hashlib
import hmac
import pwd
import socket
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from ha_agent.errors import ConfigError
from ha_agent.model import Order, Value

SO_PEERGROUPS = 59  # Linux 4.13; Python has no name for it
NAME_S = 1.0  # how long looking up a user's name may take (it may ask a directory service that is down)
TOKEN_MIN = 24
TOKENS_MAX_BYTES = 64 * 1024


class Role(IntEnum):
    """What a caller may do; a higher role includes the lower ones."""

    NONE = 0
    READ = 1
    OPERATE = 2  # orders that make us do less, look closer, or tidy up
    ADMIN = 3  # orders that lead to destruction: arm, unpause, fence, confirm


NEEDED: Mapping[Order, Role] = {
    Order.ARM: Role.ADMIN,
    Order.DISARM: Role.OPERATE,
    Order.PAUSE: Role.OPERATE,
    Order.UNPAUSE: Role.ADMIN,
    Order.MAINTENANCE_ON: Role.OPERATE,
    Order.MAINTENANCE_OFF: Role.OPERATE,
    Order.FENCE: Role.ADMIN,
    Order.CONFIRM_FENCED: Role.ADMIN,
    Order.RELEASE: Role.OPERATE,
    Order.ACK: Role.OPERATE,
    Order.REPORT: Role.OPERATE,
}
"""The role that an order needs. An order that is not here cannot be given from outside."""


class Caller(Value, frozen=True, kw_only=True):
    """Who asks. `actor` goes into the journal."""

    actor: str
    role: Role


class Tokens:
    """The callers known by a token. Only hashes are kept in memory, and compared in constant time."""

    def __init__(self, callers: Sequence[tuple[bytes, Caller]] = ()) -> None:
        self._callers = tuple(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def find(self, header: str) -> Caller | None:
        """The caller of an Authorization header; None where there is no such token."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def load_tokens(path: Path) -> Tokens:
    """Reads a tokens file: lines `NAME read|operate|admin TOKEN`; `#` begins a comment. Raises ConfigError, never with a token."""
    try:
        with path.open("rb") as file:
            body = file.read(TOKENS_MAX_BYTES + 1)
        lines = body.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([("http.tokens_file", f"{path} cannot be read: {reason}", "make it readable")]) from None
    if len(body) > TOKENS_MAX_BYTES:  # its last token would be a part of one
        fix = "a caller needs one line"
        raise ConfigError([("http.tokens_file", f"{path} is longer than {TOKENS_MAX_BYTES} bytes", fix)])
    problems: list[tuple[str, str, str]] = []
    callers: list[tuple[bytes, Caller]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"http.tokens_file (line {number})"
        if len(words) != 3:
            problems.append((where, "is not NAME ROLE TOKEN", "write three words"))
        elif words[1] not in ("read", "operate", "admin"):
            problems.append((where, "has an unknown role", "use read, operate or admin"))
        elif len(words[2]) < TOKEN_MIN:
            problems.append((where, "has a token that can be guessed", f"use {TOKEN_MIN} characters or more"))
        else:
            caller = Caller(actor=f"token:{words[0]}", role=Role[words[1].upper()])
            callers.append((hashlib.sha256(words[2].encode()).digest(), caller))
    if problems:
        raise ConfigError(problems)
    return Tokens(callers)


class Peers:
    """Callers on the Unix socket. `roles`: role -> groups; they are looked up once, for a directory service may be down later.
    root and `own_uid` (the daemon itself: hooks) are admin; whoever else may open the socket reads."""

    def __init__(self, roles: Mapping[str, Sequence[str]], own_uid: int) -> None:
        self._own_uid = own_uid
        self._groups = {
            gid: Role[role.upper()]
            for role in ("read", "operate", "admin")
            for gid in (_gid(group) for group in roles.get(role, ()))
            if gid is not None
        }

    def role(self, uid: int, gids: Sequence[int]) -> Role:
        """The highest role that the caller has."""
        if uid in (0, self._own_uid):
            return Role.ADMIN
        return max((self._groups.get(gid, Role.READ) for gid in gids), default=Role.READ)

    async def caller(self, sock: socket.socket) -> Caller:
        """Who is at the other end of a connected Unix socket."""
        uid, gids = credentials(sock)
        return Caller(actor=await _name(uid), role=self.role(uid, gids))


def credentials(sock: socket.socket) -> tuple[int, tuple[int, ...]]:
    """The uid and all gids of the process that connected."""
    _pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4096)
    except OSError:  # an older kernel, or more than 1,024 groups: the primary group still counts
        raw = b""
    return uid, (gid, *struct.unpack(f"{len(raw) // 4}I", raw))


async def _name(uid: int) -> str:
    try:
        async with asyncio.timeout(NAME_S):
            entry = await asyncio.get_running_loop().run_in_executor(None, pwd.getpwuid, uid)
    except (KeyError, TimeoutError):
        return f"uid:{uid}"
    return entry.pw_name


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
