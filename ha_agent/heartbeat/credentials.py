"""A daemon's certificate, key, trust and revocations, read again when their files change.

New connections use what was read last. Connections that stand stay, unless their peer is revoked or its authority is trusted no more:
an ordinary renewal disturbs nobody. Files that do not fit together, half copied perhaps, change nothing until they do.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from ha_agent.errors import UsageError
from ha_agent.heartbeat import certs, revocation
from ha_agent.heartbeat.channel import Channel, DialError, dial
from ha_agent.heartbeat.peer import Peer, own_key
from ha_agent.heartbeat.signing import Signer, Verifier

log = logging.getLogger(__name__)

FILES = ("ca.pem", "cert.pem", "key.pem", revocation.FILE)
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the files said when they were read last."""

    signer: Signer
    verifier: Verifier
    server: ssl.SSLContext
    client: ssl.SSLContext
    own: x509.Certificate
    authorities: tuple[x509.Certificate, ...]
    revoked: revocation.Revoked


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is different: `revoked`, the list of certificates that count no more; `distrusted`, an authority is trusted no more."""

    revoked: bool
    distrusted: bool


def load(directory: Path) -> Loaded:
    """All files of a daemon. Raises UsageError where they cannot be used."""
    authorities = tuple(certs.load_certificates(directory / "ca.pem"))
    return Loaded(
        signer=Signer(directory),
        verifier=Verifier(directory),
        server=certs.server_context(directory),
        client=certs.client_context(directory),
        own=certs.load_certificates(directory / "cert.pem")[0],
        authorities=authorities,
        revoked=revocation.revoked(revocation.load(directory / revocation.FILE, authorities)),
    )


class Credentials:
    """See the module. `now`: what holds; `error`: why newer files are not used, empty where they are."""

    def __init__(self, directory: Path) -> None:
        """Raises UsageError where the files cannot be used."""
        self.directory = directory
        self._stamp = _stamp(directory)
        self.now = load(directory)
        self.error = ""
        self.role, self.name = self.now.signer.role, self.now.signer.name
        # One thread: a disk that hangs holds up the next look at these files, and nothing else.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pki")

    async def dial(self, address: str, port: int, deadline_s: float) -> Channel:
        """Connects to a peer that is not revoked. Raises DialError."""
        channel = await dial(address, port, self.now.client, deadline_s)
        why = self.revoked(channel.peer)
        if why:
            channel.abort()
            raise DialError(f"{address}:{port}: {why}", answered=True, why="revoked")
        return channel

    def revoked(self, peer: Peer) -> str:
        """Why a peer whose certificate TLS accepted must be refused all the same; empty where it must not."""
        if self.now.revoked.names(peer.issuer, peer.serial):
            return f"the certificate {peer.serial:x} of {peer.role} {peer.name} is revoked"
        return ""

    def outlived(self, peer: Peer, change: Change) -> str:
        """Why a connection to this peer must end after a change; empty where it may go on. Behind an intermediate authority nobody sees
        any more which one vouched: such a connection ends as well when one is distrusted, and is judged anew when it comes back."""
        why = self.revoked(peer) if change.revoked else ""
        if not why and change.distrusted and not self._vouched(peer):
            why = f"the authority of {peer.role} {peer.name} is trusted no more"
        return why

    async def refresh(self) -> Change | None:
        """Looks at the files. Returns what changed; None where nothing did, or where they cannot be used (`error` says why)."""
        loop = asyncio.get_running_loop()
        stamp = await loop.run_in_executor(self._reader, _stamp, self.directory)
        if stamp == self._stamp:
            self._failed("")
            return None
        try:
            made = await loop.run_in_executor(self._reader, load, self.directory)
            self._same_identity(made)
            if stamp[-1] is None and len(self.now.revoked):
                raise UsageError(f"{self.directory / revocation.FILE} is gone", "copy it anew from the authority")
        except UsageError as error:
            self._failed(f"{error}{f' ({error.hint})' if error.hint else ''}")
            return None
        before, self.now, self._stamp = self.now, made, stamp
        self._failed("")
        _tell(before, made)
        return Change(
            revoked=not before.revoked.same(made.revoked),
            distrusted=any(each not in made.authorities for each in before.authorities),
        )

    async def watch(self, poll_s: float, changed: Callable[[Change], None]) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                change = await self.refresh()
            except OSError as error:
                self._failed(f"{self.directory} cannot be looked at: {error.strerror or error}")
                continue
            if change is not None:
                changed(change)

    def close(self) -> None:
        """Ends the thread; one that hangs is left behind."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _vouched(self, peer: Peer) -> bool:
        """Whether an authority of now has the name and the key that the peer's certificate was verified with."""
        for authority in self.now.authorities:
            key = own_key(authority)
            if authority.subject.public_bytes() == peer.issuer and (
                not key or not peer.issuer_key or key == peer.issuer_key
            ):
                return True
        return False

    def _same_identity(self, made: Loaded) -> None:
        if (made.signer.role, made.signer.name) != (self.role, self.name):
            raise UsageError(
                f"{self.directory / 'cert.pem'} is of {made.signer.role} {made.signer.name} now, not of {self.role} {self.name}",
                "a daemon takes another name by a restart only",
            )

    def _failed(self, text: str) -> None:
        if text and text != self.error:
            log.warning("the files of %s are not used, those of before are: %s", self.directory, text)
        self.error = text


def _tell(before: Loaded, made: Loaded) -> None:
    if before.own != made.own:
        info = certs.describe(made.own)
        log.info("new connections use the certificate %s, valid until %s", info.serial, info.not_after)
    for each in made.authorities:
        if each not in before.authorities:
            log.info("trusted from now on: %s", each.subject.rfc4514_string())
    for each in before.authorities:
        if each not in made.authorities:
            log.warning("trusted no more: %s", each.subject.rfc4514_string())
    if not before.revoked.same(made.revoked):
        log.warning("revoked certificates: %d (%d before)", len(made.revoked), len(before.revoked))


def _stamp(directory: Path) -> Stamp:
    """What tells a file from its successor. Raises OSError for anything but absence."""
    found: list[tuple[int, int, int] | None] = []
    for name in FILES:
        try:
            stat = (directory / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)
