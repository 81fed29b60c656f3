"""Certificates that count no more: lists signed by the authorities that issued them, in one PEM file, crl.pem.

We look peers up in it ourselves. OpenSSL could, but it refuses everybody once a list is older than it promised to be renewed: a list
that somebody forgot would silence a healthy cloud. Ours never goes stale; what it names is refused, nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ha_agent.errors import UsageError
from ha_agent.heartbeat.certs import UNREADABLE

FILE = "crl.pem"
BEGIN = b"-----BEGIN X509 CRL-----"
NEXT_UPDATE = datetime.timedelta(days=3650)  # the format wants a date; we do not look at it
MAX_BYTES = 8 * 1024 * 1024


class Revoked:
    """Serial numbers by issuer."""

    def __init__(self, serials: Mapping[bytes, frozenset[int]] | None = None) -> None:
        self._serials = dict(serials or {})

    def names(self, issuer: bytes, serial: int) -> bool:
        """Whether the certificate of this issuer (its name in DER) with this number is revoked."""
        return serial in self._serials.get(issuer, frozenset())

    def same(self, other: Revoked) -> bool:
        """Whether both name the same certificates."""
        return self._serials == other._serials

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return self.names(certificate.issuer.public_bytes(), certificate.serial_number)

    def __len__(self) -> int:
        return sum(len(each) for each in self._serials.values())


def load(path: Path, authorities: Sequence[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """The lists in a file, none where it is absent. Raises UsageError where one cannot be read, or bears the name of an authority but
    not its signature. A list of an authority that is not in `authorities` (an intermediate's) is taken as it is: who can write the
    file can write ca.pem as well."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "chmod 0640, group ha-agent") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is longer than {MAX_BYTES} bytes", "rotate the authority and begin a new list")
    try:
        lists = [x509.load_pem_x509_crl(BEGIN + part) for part in data.split(BEGIN)[1:]]
        issuers = [each.issuer.rfc4514_string() for each in lists]  # a name is read only when it is asked for
    except UNREADABLE:
        lists = []
    if not lists:
        raise UsageError(f"{path} holds no revocation list in PEM", "copy it anew from the authority")
    for each, issuer in zip(lists, issuers, strict=True):
        named = [one for one in authorities if one.subject == each.issuer]
        if named and not any(_signed(each, one) for one in named):
            raise UsageError(f"{path}: the list of {issuer} bears another's signature")
    return lists


def revoked(lists: Iterable[x509.CertificateRevocationList]) -> Revoked:
    """What the lists name."""
    serials: dict[bytes, frozenset[int]] = {}
    for each in lists:
        issuer = each.issuer.public_bytes()
        serials[issuer] = serials.get(issuer, frozenset()) | {entry.serial_number for entry in each}
    return Revoked(serials)


def extended(
    earlier: x509.CertificateRevocationList | None,
    certificates: Iterable[x509.Certificate],
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.CertificateRevocationList:
    """The list of an authority with these certificates of it added."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now)
        .next_update(now + NEXT_UPDATE)
        .add_extension(x509.CRLNumber(_number(earlier) + 1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    entries = {entry.serial_number: entry.revocation_date_utc for entry in earlier or ()}
    for certificate in certificates:
        entries.setdefault(certificate.serial_number, now)
    for serial, since in entries.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256())


def pem(lists: Iterable[x509.CertificateRevocationList]) -> bytes:
    """The file's content."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)


def _number(earlier: x509.CertificateRevocationList | None) -> int:
    if earlier is None:
        return 0
    try:
        return earlier.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _signed(each: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        key = authority.public_key()
        known = isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey)
        return known and each.is_signature_valid(key)  # type: ignore[arg-type]
    except UNREADABLE:
        return False
