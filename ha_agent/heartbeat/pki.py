"""A small PKI of our own, and the identities in certificates. An outside PKI works as well.

A daemon's directory holds ca.pem (whom it trusts), cert.pem (its certificate, then intermediates if any) and key.pem. The
directory of the PKI itself holds ca.pem and ca-key.pem; keep it off the hosts. A certificate's identity is its one
subjectAltName URI `ha-agent://host/NAME` or `ha-agent://controller/NAME`, NAME percent-encoded.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ha_agent.errors import UsageError
from ha_agent.heartbeat.files import write_durably
from ha_agent.model import Value

Role = Literal["host", "controller"]
SCHEME = "ha-agent://"
CA_DAYS = 3650
CERTIFICATE_DAYS = 730
SKEW = datetime.timedelta(hours=1)  # a machine whose clock is a little behind must not refuse a fresh certificate


class CertificateInfo(Value, frozen=True, kw_only=True):
    """What `pki show` shows. `not_after`: ISO 8601, UTC. `fingerprint`: SHA-256, hexadecimal."""

    subject: str
    role: str
    name: str
    not_after: str
    fingerprint: str


def validate_name(name: str) -> str:
    """The name itself. Raises UsageError where no host or controller can be called so."""
    if not name:
        raise UsageError("the name is empty", "give the host as `openstack compute service list` names it")
    if len(name.encode("utf-8", "surrogatepass")) > 255:
        raise UsageError(
            "the name is longer than 255 bytes", "give the host as `openstack compute service list` names it"
        )
    if name in (".", ".."):
        raise UsageError(f"{name!r} is not a name", "give the host as `openstack compute service list` names it")
    if not name.isprintable() or any(letter.isspace() for letter in name):
        raise UsageError(
            f"the name {name!r} holds a blank or an unprintable character", "names are compared byte for byte"
        )
    return name


def uri(role: str, name: str) -> str:
    """The subjectAltName URI of an identity. Raises UsageError for a role or a name that cannot be."""
    if role not in ("host", "controller"):
        raise UsageError(f"the role {role!r} does not exist", "use host or controller")
    return f"{SCHEME}{role}/{quote(validate_name(name), safe='')}"


def identity(certificate: bytes | x509.Certificate) -> tuple[Role, str]:
    """(role, name) of a certificate (DER, or parsed). Raises UsageError where it has none, or more than one."""
    try:
        parsed = x509.load_der_x509_certificate(certificate) if isinstance(certificate, bytes) else certificate
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = [
            found for found in names.get_values_for_type(x509.UniformResourceIdentifier) if found.startswith(SCHEME)
        ]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        uris = []
    if len(uris) != 1:
        raise UsageError(
            f"the certificate has {len(uris)} subjectAltName URIs that begin with {SCHEME}, it needs exactly one",
            "issue it with `ha-agent pki issue`, or have your PKI add the URI",
        )
    role, slash, quoted = uris[0].removeprefix(SCHEME).partition("/")
    try:
        name = validate_name(unquote_to_bytes(quoted).decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError(f"the certificate's URI {uris[0]!r} does not hold UTF-8") from None
    if not slash or role not in ("host", "controller"):
        raise UsageError(f"the certificate's URI {uris[0]!r} is neither a host's nor a controller's")
    return ("host" if role == "host" else "controller"), name


class Pki:
    """Our own certificate authority in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    @property
    def _ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def _ca_key(self) -> Path:
        return self.directory / "ca-key.pem"

    def init(self) -> CertificateInfo:
        """Makes the authority. Raises UsageError where there is one already, or the directory cannot be written."""
        _make(self.directory)
        _refuse_existing(self._ca, self._ca_key)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ha-agent CA")])
        now = datetime.datetime.now(datetime.UTC)
        ca = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write_key(self._ca_key, key)  # first: a certificate without its key would block the next try
        _write(self._ca, ca.public_bytes(serialization.Encoding.PEM), 0o644)
        return describe(ca)

    def issue(self, role: str, name: str, out: Path | None = None) -> Path:
        """Writes ca.pem, cert.pem and key.pem of an identity to `out` (default: ROLE/NAME, encoded, below the PKI's directory)
        and returns that directory. Raises UsageError: no authority here, an impossible name, or `out` holds a certificate already."""
        san = uri(role, name)
        ca, ca_key = self._load()
        out = Path(out) if out is not None else self.directory / role / quote(name, safe="")
        _make(out)
        _refuse_existing(out / "cert.pem", out / "key.pem")
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        # A common name holds 64 characters at most, and is for humans only: the URI is the identity.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + datetime.timedelta(days=CERTIFICATE_DAYS), ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            # Hosts listen and also dial each other.
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(san)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write_key(out / "key.pem", key)
        _write(out / "cert.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(out / "ca.pem", ca.public_bytes(serialization.Encoding.PEM), 0o644)
        return out

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not self._ca_key.exists():
            raise UsageError(f"there is no authority in {self.directory}", "make it with `ha-agent pki init`")
        ca = load_certificates(self._ca)[0]
        key = load_key(self._ca_key)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{self._ca_key} is not a key that `ha-agent pki init` made")
        return ca, key


def show(path: Path) -> CertificateInfo:
    """What is in a certificate: `path` is a PEM file, or a directory that holds cert.pem. Raises UsageError."""
    path = Path(path)
    if path.is_dir():
        path = path / ("cert.pem" if (path / "cert.pem").exists() else "ca.pem")
    return describe(load_certificates(path)[0])


def describe(certificate: x509.Certificate) -> CertificateInfo:
    """The same of a certificate at hand; an authority has no role and no name."""
    try:
        role, name = identity(certificate)
    except UsageError:
        role, name = "", ""  # type: ignore[assignment]
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        role=role,
        name=name,
        not_after=certificate.not_valid_after_utc.isoformat(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def load_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file, in order. Raises UsageError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "issue it with `ha-agent pki issue`") from None
    except ValueError:
        raise UsageError(f"{path} holds no certificate in PEM", "issue it with `ha-agent pki issue`") from None


def load_key(path: Path) -> object:
    """The private key of a PEM file without a passphrase. Raises UsageError, also where everybody may read it."""
    try:
        if path.stat().st_mode & 0o007:
            raise UsageError(f"{path} is open to everybody on this machine", f"chmod o-rwx {path}, and issue it anew")
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "issue it with `ha-agent pki issue`") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"{path} holds no private key in PEM without a passphrase") from None


def server_context(directory: Path) -> ssl.SSLContext:
    """TLS for the side that listens. Raises UsageError where the directory's files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # no resumption: each connection proves its certificate anew, and idle ones cost less
    return _mutual(context, directory)


def client_context(directory: Path) -> ssl.SSLContext:
    """TLS for the side that dials. The peer's name is not compared with the address: our own URI says who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _mutual(context, directory)


def _mutual(context: ssl.SSLContext, directory: Path) -> ssl.SSLContext:
    load_key(directory / "key.pem")  # for its clear errors
    load_certificates(directory / "cert.pem")
    load_certificates(directory / "ca.pem")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        context.load_verify_locations(directory / "ca.pem")
    except ssl.SSLError as error:
        raise UsageError(
            f"the files in {directory} do not fit together: {error.reason}", "issue them again, together"
        ) from None
    return context


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


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made: {error.strerror}", "choose another directory") from None


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} exists already and is not overwritten", "move it away first, or choose another directory"
            )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, plain, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        write_durably(path, data, mode)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another directory") from None
