"""What is kept of a peer's certificate while its connection stands."""

from __future__ import annotations

import hashlib

from cryptography import x509

from ha_agent.errors import UsageError
from ha_agent.heartbeat.certs import UNREADABLE, Role, identity
from ha_agent.model import Value


class Peer(Value, frozen=True, kw_only=True):
    """Who it is, and what is needed to judge it again later. `issuer`: the issuer's name in DER; `issuer_key`: what the certificate
    says of the issuer's key, empty where it does not. `not_after`: Unix seconds. `digest`: SHA-256 of the certificate."""

    role: Role
    name: str
    serial: int
    issuer: bytes
    issuer_key: bytes
    not_after: float
    digest: bytes


def peer_of(der: bytes) -> Peer:
    """The peer that presents this certificate. Raises UsageError where it has no identity of ours, or cannot be read."""
    role, name = identity(der)
    try:
        certificate = x509.load_der_x509_certificate(der)
        return Peer(
            role=role,
            name=name,
            serial=certificate.serial_number,
            issuer=certificate.issuer.public_bytes(),
            issuer_key=issuer_key(certificate),
            not_after=certificate.not_valid_after_utc.timestamp(),
            digest=hashlib.sha256(der).digest(),
        )
    except UNREADABLE as error:
        raise UsageError(f"the certificate of {role} {name} cannot be read: {error}") from None


def issuer_key(certificate: x509.Certificate) -> bytes:
    """The key identifier of the issuer, as the certificate names it."""
    try:
        named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except UNREADABLE:
        named = None
    return named or b""


def own_key(authority: x509.Certificate) -> bytes:
    """The key identifier of an authority, as it names it itself."""
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except UNREADABLE:
        return b""
