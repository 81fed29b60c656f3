"""An authority: a certificate that may issue others, and its key; and how its files are written."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ha_agent.errors import UsageError
from ha_agent.heartbeat.certs import CA_NAME, load_certificates, load_key, uri
from ha_agent.heartbeat.files import write_durably

CA_DAYS = 3650
CERTIFICATE_DAYS = 730
SKEW = datetime.timedelta(hours=1)  # a machine whose clock is a little behind must not refuse a fresh certificate
PEM = serialization.Encoding.PEM


class Authority:
    """A certificate that may issue, and its key. Both in one directory."""

    def __init__(self, directory: Path) -> None:
        self.certificate = load_certificates(directory / "ca.pem")[0]
        key = load_key(directory / "ca-key.pem")
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{directory / 'ca-key.pem'} is not a key that `ha-agent pki init` made")
        if key.public_key() != self.certificate.public_key():
            raise UsageError(
                f"the key and the first certificate of ca.pem in {directory} do not fit together",
                "if a rotation was interrupted, run its last step again",
            )
        self.key = key

    def certify(self, role: str, name: str, key: ec.EllipticCurvePublicKey, now: datetime.datetime) -> x509.Certificate:
        """A certificate of an identity. Raises UsageError for a role or a name that cannot be."""
        ca = self.certificate
        san = x509.UniformResourceIdentifier(uri(role, name))
        # Hosts listen and also dial each other.
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            # A common name holds 64 characters at most, and is for humans only: the URI is the identity.
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
            .issuer_name(ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + datetime.timedelta(days=CERTIFICATE_DAYS), ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([san]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def create(directory: Path, now: datetime.datetime) -> x509.Certificate:
    """Makes a new authority there. Raises UsageError."""
    make(directory)
    key, serial = ec.generate_private_key(ec.SECP256R1()), x509.random_serial_number()
    # Each has a name of its own: revocation lists and people tell two of them apart by it.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{CA_NAME} {serial:040x}"[:20])])
    ca = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_key(directory / "ca-key.pem", key)  # first: a certificate without its key would block the next try
    write(directory / "ca.pem", pem([ca]), 0o644)
    return ca


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """The certificates as one file."""
    return b"".join(each.public_bytes(PEM) for each in certificates)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make(directory: Path) -> None:
    """A directory for us alone. Raises UsageError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made: {error.strerror}", "choose another directory") from None


def refuse_existing(*paths: Path) -> None:
    """Raises UsageError where one of them is there."""
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} exists already and is not overwritten", "move it away first, or choose another directory"
            )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """For the owner's eyes only. Raises UsageError."""
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(path, plain, 0o600)


def write(path: Path, data: bytes, mode: int) -> None:
    """The whole file or the old one. Raises UsageError."""
    try:
        write_durably(path, data, mode)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another directory") from None


def remove(directory: Path) -> None:
    """An authority that is not needed any more; its certificate first, which says that it is there."""
    for name in ("ca.pem", "ca-key.pem"):
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()
