"""A target's own word that it runs: our nonce, its name and its boot id, signed by its private key.

A witness relays the signature with the target's certificates, and the controller verifies all of it itself: a witness can keep
silent, but it cannot make a dead host answer, and it cannot replay an old answer, since the nonce is new.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import certs, revocation
from ha_agent.heartbeat.wire import Signed

PURPOSE = "ha-agent probe 1"  # nothing else that this key may ever sign begins like this
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)


def message(nonce: str, name: str, boot_id: str) -> bytes:
    """What is signed. A JSON list: no choice of fields can be read in two ways."""
    return msgspec.json.encode([PURPOSE, nonce, name, boot_id])


class Signer:
    """Signs as the host whose files are in `directory`. Raises UsageError where they cannot be used."""

    def __init__(self, directory: Path) -> None:
        self._key = certs.load_key(directory / "key.pem")
        certificates = certs.load_certificates(directory / "cert.pem")
        self.role, self.name = certs.identity(certificates[0])
        self._chain = tuple(one.public_bytes(serialization.Encoding.DER) for one in certificates)
        if not isinstance(self._key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            raise UsageError(f"{directory / 'key.pem'} is of a kind that cannot sign probes", "use EC, RSA or Ed25519")

    def sign(self, nonce: str, boot_id: str) -> Signed:
        """Our word that we run in this boot."""
        data = message(nonce, self.name, boot_id)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            signature = self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(self._key, rsa.RSAPrivateKey):
            signature = self._key.sign(data, PSS, hashes.SHA256())
        else:
            assert isinstance(self._key, ed25519.Ed25519PrivateKey)
            signature = self._key.sign(data)
        return Signed(nonce=nonce, name=self.name, boot_id=boot_id, signature=signature, chain=self._chain)


@dataclass(frozen=True, kw_only=True)
class Vouched:
    """A chain that was found good: the SHA-256 of each certificate, the signer's key, and while all that was looked at is valid."""

    chain: tuple[bytes, ...]
    key: object
    since: datetime.datetime
    until: datetime.datetime


class Verifier:
    """Judges signatures by the authorities in `directory`/ca.pem and the revocations beside it. Raises UsageError where they cannot be
    read. A host shows the same certificates at every probe: what was found of the last ones is remembered, one chain for each host, and
    holds as long as this verifier, whose authorities and revocations do not change."""

    def __init__(self, directory: Path) -> None:
        self._anchors = certs.load_certificates(directory / "ca.pem")
        self._revoked = revocation.revoked(revocation.load(directory / revocation.FILE, self._anchors))
        self._vouched: dict[str, Vouched] = {}

    def check(self, signed: Signed, nonce: str, target: str, wall: float) -> str:
        """The boot id that `target` has signed with our nonce. `wall`: Unix seconds, for the certificates' validity.

        Raises ProtocolError saying what does not hold."""
        if signed.nonce != nonce or signed.name != target:
            raise ProtocolError("the signature is of another probe")
        now = datetime.datetime.fromtimestamp(wall, datetime.UTC)
        chain = tuple(hashlib.sha256(one).digest() for one in signed.chain)
        vouched = self._vouched.get(target)
        if vouched is None or vouched.chain != chain or not vouched.since <= now <= vouched.until:
            vouched = self._vouched[target] = self._vouch(signed, chain, target, now)
        try:
            _verify(vouched.key, signed.signature, message(nonce, target, signed.boot_id))
        except (InvalidSignature, ValueError):  # a key that cannot even carry such a signature proves nothing either
            raise ProtocolError("the signature does not hold") from None
        return signed.boot_id

    def _vouch(self, signed: Signed, digests: tuple[bytes, ...], target: str, now: datetime.datetime) -> Vouched:
        """What is found of a chain that was not seen before. Raises ProtocolError."""
        try:
            chain = [x509.load_der_x509_certificate(one) for one in signed.chain]
            role, name = certs.identity(chain[0])
            if (role, name) != ("host", target):
                raise ProtocolError(f"the signer is {role} {name!r}, not host {target!r}")
            path = self._path(chain, now)
            if not path:
                raise ProtocolError("no authority of ours issued the signer's certificate, or it has expired")
            if any(each in self._revoked for each in chain):
                raise ProtocolError("the signer's certificate is revoked")
            return Vouched(
                chain=digests,
                key=chain[0].public_key(),
                since=max(each.not_valid_before_utc for each in path),
                until=min(each.not_valid_after_utc for each in path),
            )
        except (*certs.UNREADABLE, UsageError) as error:
            raise ProtocolError(f"the signer's certificate cannot be read: {error}") from None

    def _path(self, chain: Sequence[x509.Certificate], now: datetime.datetime) -> list[x509.Certificate]:
        """From the signer's certificate to an authority of ours, each issued by the next, all valid now; empty where there is none."""
        for position, certificate in enumerate(chain):
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                return []
            if position > 0 and not _is_authority(certificate):
                return []
            for anchor in self._anchors:
                valid = anchor.not_valid_before_utc <= now <= anchor.not_valid_after_utc
                if valid and _is_authority(anchor) and certs.issued_by(certificate, anchor):
                    return [*chain[: position + 1], anchor]
            if position + 1 >= len(chain) or not certs.issued_by(certificate, chain[position + 1]):
                return []
        return []


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except certs.UNREADABLE:
        return False


def _verify(key: object, signature: bytes, data: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, PSS, hashes.SHA256())
    elif isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
    else:
        raise ProtocolError("the signer's key is of a kind that we do not know")
