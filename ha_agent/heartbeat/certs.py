"""Certificates and keys as daemons read them: identities, files, TLS. Any PKI's, or our own small one's (`pki`).

A daemon's directory holds ca.pem (whom it trusts: one authority, or several while one succeeds the other), cert.pem (its
certificate, then intermediates if any), key.pem, and crl.pem where something was revoked. A certificate's identity is its one
subjectAltName URI `ha-agent://host/NAME` or `ha-agent://controller/NAME`, NAME percent-encoded.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from ha_agent.errors import UsageError
from ha_agent.model import Value

Role = Literal["host", "controller"]
SCHEME = "ha-agent://"
CA_NAME = "ha-agent CA"  # how the authorities of `pki` begin to be called
# What `cryptography` raises of a certificate that is not as the standard says: some of it at once, some when a part is first looked at.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class CertificateInfo(Value, frozen=True, kw_only=True):
    """What `pki show` shows. `not_after`: ISO 8601, UTC. `fingerprint`: SHA-256, hexadecimal, and so is `serial`. `issuer`: the
    subject of the authority."""

    subject: str
    role: str
    name: str
    not_after: str
    fingerprint: str
    serial: str = ""
    issuer: str = ""


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
    except UNREADABLE:
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
        serial=f"{certificate.serial_number:x}",
        issuer=certificate.issuer.rfc4514_string(),
    )


def load_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file, in order; the names in them can be read. Raises UsageError."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
        for one in found:
            str(one.subject), str(one.issuer)  # most parts are read only when they are asked for
        return found
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "issue it with `ha-agent pki issue`") from None
    except UNREADABLE:
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


def made_by_us(authority: x509.Certificate) -> bool:
    """Whether it is called like one of `ha-agent pki`."""
    return authority.subject.rfc4514_string().startswith(f"CN={CA_NAME}")


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed the certificate, whatever their dates."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


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
