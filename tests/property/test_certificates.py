"""Certificates, keys and lists of revoked ones, whatever is in them: an identity is read only where there is exactly one, and what
cannot be read is the documented error, on a connection, in a probe's answer, and in a file."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import example, given
from hypothesis import strategies as st

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import certs, credentials, revocation
from ha_agent.heartbeat.peer import own_key, peer_of
from ha_agent.heartbeat.signing import Signer, Verifier

# Some broken numbers are still read, with a warning of theirs.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
WALL = NOW.timestamp()
NONCE = "0" * 32
PEM = serialization.Encoding.PEM
# The same bytes in every run.
KEY = ec.derive_private_key(7, ec.SECP256R1())
ROOT_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"7" * 32)


def certificate(sans: list[x509.GeneralName] | None, authority: bool = False) -> x509.Certificate:
    """One that the authority has issued: its own, or a host's."""
    key = ROOT_KEY.public_key() if authority else KEY.public_key()

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name("root" if authority else "leaf"))
        .issuer_name(name("root"))
        .public_key(key)
        .serial_number(1 if authority else 2)
        .not_valid_before(NOW - datetime.timedelta(days=1))
        .not_valid_after(NOW + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT_KEY.public_key()), critical=False)
    )
    if sans is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(ROOT_KEY, None)


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.DER)


URI = x509.UniformResourceIdentifier
ROOT = certificate(None, authority=True)
LEAF = certificate([x509.DNSName("c1.example.org"), URI("ha-agent://host/c1")])
CRL = (
    x509.CertificateRevocationListBuilder()
    .issuer_name(ROOT.subject)
    .last_update(NOW)
    .next_update(NOW)
    .add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(3).revocation_date(NOW).build())
    .sign(ROOT_KEY, None)
)

# --- who it is ---

ASCII = st.text(st.characters(max_codepoint=126), max_size=20)
OURS = st.one_of(
    st.builds("ha-agent://{}/{}".format, st.sampled_from(["host", "controller", "king", ""]), ASCII),
    st.builds("ha-agent://{}".format, ASCII),
    st.sampled_from(["ha-agent://host/%FF", "ha-agent://host/a%00b", "ha-agent://host/%2e%2e", "ha-agent://host/%ZZ"]),
    st.text(min_size=1, max_size=300).map(
        lambda name: "ha-agent://host/" + "".join(f"%{b:02x}" for b in bytes_of(name))
    ),
)
OTHERS: st.SearchStrategy[x509.GeneralName] = st.sampled_from(
    [
        x509.DNSName("ha-agent://host/dns"),
        x509.RFC822Name("ha-agent://host/mail"),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x04text"),
        x509.DirectoryName(ROOT.subject),
        URI("spiffe://host/a"),
        URI(""),
    ]
)


def bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@given(st.lists(OURS.map(URI) | OTHERS, max_size=4))
def test_an_identity_is_the_only_uri_of_ours_and_what_it_says(sans: list[x509.GeneralName]) -> None:
    ours = [san.value for san in sans if isinstance(san, URI) and san.value.startswith(certs.SCHEME)]
    one = certificate(sans)
    try:
        role, name = certs.identity(der(one))
    except UsageError:
        assert certs.describe(one).role == ""
        return
    (uri,) = ours
    assert uri.startswith(f"ha-agent://{role}/")
    assert unquote_to_bytes(uri.split("/", 3)[3]) == name.encode()
    assert role in ("host", "controller")
    assert name.isprintable()
    assert (peer_of(der(one)).role, peer_of(der(one)).name) == (role, name)


@given(st.sampled_from(["host", "controller"]), st.text(min_size=1, max_size=60), st.lists(OTHERS, max_size=3))
def test_every_name_that_can_be_issued_is_read_again(role: str, name: str, others: list[x509.GeneralName]) -> None:
    try:
        uri = certs.uri(role, name)
    except UsageError:
        return
    assert certs.identity(der(certificate([*others, URI(uri)]))) == (role, name)


# --- what cannot be read ---

# Parts of a certificate that mean something else once they are changed: its version, and the names of what follows them.
PARTS = {
    "version": bytes.fromhex("a003020102"),
    "the signature's kind": bytes.fromhex("06032b6570"),
    "the key's kind": bytes.fromhex("06072a8648ce3d0201"),
    "the curve": bytes.fromhex("06082a8648ce3d030107"),
    "basic constraints": bytes.fromhex("0603551d13"),
    "key identifier": bytes.fromhex("0603551d0e"),
    "authority's key": bytes.fromhex("0603551d23"),
    "names": bytes.fromhex("0603551d11"),
    "common name": bytes.fromhex("0603550403"),
}


@st.composite
def spoilt(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes of DER that are likely not good any more."""
    how = draw(st.sampled_from(["part", "part", "part", "byte", "byte", "cut", "twice", "noise"]))
    if how == "part":
        part = draw(st.sampled_from([part for part in PARTS.values() if part in good]))
        alike = [other for other in PARTS.values() if len(other) == len(part)]
        last = part[:-1] + draw(st.binary(min_size=1, max_size=1))
        return good.replace(part, draw(st.sampled_from([last, last, *alike])), draw(st.sampled_from([1, -1])))
    at = draw(st.integers(0, len(good) - 1))
    if how == "byte":
        return good[:at] + draw(st.binary(min_size=1, max_size=2)) + good[at + 1 :]
    return good[:at] if how == "cut" else good + good if how == "twice" else draw(st.binary(max_size=80))


OLD_VERSION = bytes.fromhex("a003020101")
OLD = der(LEAF).replace(PARTS["version"], OLD_VERSION)  # X.509 v2
NAME = b"\x0c\x04root"
ODD_NAMES = (b"\x00\x04root", b"\x03\x04root")  # they fail in two ways, and only when somebody looks at them


def test_the_good_ones_are_read() -> None:
    assert all(sum(part in der(one) for one in (LEAF, ROOT)) for part in PARTS.values())
    peer = peer_of(der(LEAF))
    assert (peer.role, peer.name, peer.serial) == ("host", "c1", 2)
    assert peer.issuer_key == own_key(ROOT) != b""
    with files() as directory:
        loaded = credentials.load(directory)
        signed = Signer(directory).sign(NONCE, "b")
        assert loaded.verifier.check(signed, NONCE, "c1", WALL) == "b"
        assert loaded.authorities == (ROOT,)


@given(spoilt(der(LEAF)))
@example(OLD)
@example(der(LEAF).replace(NAME, ODD_NAMES[0]))
def test_the_certificate_of_a_connection(body: bytes) -> None:
    try:
        peer = peer_of(body)
    except UsageError:
        return
    assert (peer.role, peer.name) == certs.identity(body)


@contextmanager
def files(**contents: bytes) -> Iterator[Path]:
    """A daemon's directory, with other contents where they are given."""
    plain = KEY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    good = {
        "ca": ROOT.public_bytes(PEM),
        "cert": LEAF.public_bytes(PEM),
        "key": plain,
        "crl": b"",
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for stem, content in {**good, **contents}.items():
            if content or stem != "crl":
                (directory / f"{stem}.pem").write_bytes(content)
                (directory / f"{stem}.pem").chmod(0o600)
        yield directory


@pytest.fixture(scope="module")
def verifier() -> Iterator[tuple[Verifier, Signer]]:
    with files() as directory:
        yield Verifier(directory), Signer(directory)


def test_the_certificates_of_a_probe_s_answer(verifier: tuple[Verifier, Signer]) -> None:
    """They come through a host that may be anybody's by now: a broken one says nothing, and breaks nothing."""
    judge, signer = verifier
    signed = signer.sign(NONCE, "b")

    @given(
        st.lists(
            spoilt(der(LEAF)) | spoilt(der(ROOT)) | st.sampled_from([der(LEAF), der(ROOT)]), min_size=1, max_size=4
        )
    )
    @example([OLD])
    @example([der(LEAF), OLD])
    @example([der(LEAF).replace(NAME, ODD_NAMES[1]), der(ROOT)])
    def check(chain: list[bytes]) -> None:
        try:
            boot_id = judge.check(msgspec.structs.replace(signed, chain=tuple(chain)), NONCE, "c1", WALL)
        except ProtocolError:
            assert chain[0] != der(LEAF) or len(chain) > 1
            return
        assert boot_id == "b"
        assert certs.identity(chain[0]) == ("host", "c1")

    check()


def again(kind: str, body: bytes) -> bytes:
    """DER as PEM."""
    return f"-----BEGIN {kind}-----\n".encode() + base64.encodebytes(body) + f"-----END {kind}-----\n".encode()


def inside(pem: bytes) -> tuple[str, bytes]:
    """The kind and the DER of the first part."""
    ((kind, body),) = re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----([^-]+)", pem)[:1]
    return kind.decode(), base64.b64decode(body)


@st.composite
def spoilt_pem(draw: st.DrawFn, good: bytes) -> bytes:
    """A file that was half copied, edited, or made by a program that does not know better."""
    kind, body = inside(good)
    how = draw(st.sampled_from(["inside", "inside", "inside", "outside", "both"]))
    broken = draw(spoilt(body)) if how != "outside" else b""
    if how == "inside":
        return again(kind, broken)
    if how == "both":
        return good + again(kind, broken)
    at = draw(st.integers(0, len(good) - 1))
    return good[:at] + draw(st.binary(max_size=3)) + good[at + draw(st.integers(0, 40)) :]


@pytest.mark.parametrize("name", ["ca", "cert", "key", "crl"])
def test_files(name: str) -> None:
    """What is loaded can be looked at, compared and told to its end: the daemon goes on with it for a year."""
    with files(crl=revocation.pem([CRL])) as directory:
        good = (directory / f"{name}.pem").read_bytes()

    kind, body = inside(good)

    @given(spoilt_pem(good))
    @example(again(kind, body.replace(PARTS["version"], OLD_VERSION)))
    @example(again(kind, body.replace(NAME, ODD_NAMES[0])))
    @example(again(kind, body.replace(NAME, ODD_NAMES[1])))
    def load(content: bytes) -> None:
        with files(**{name: content}) as directory:
            try:
                loaded = credentials.load(directory)
            except UsageError:
                return
            assert LEAF not in loaded.revoked or name == "crl"
            for one in (loaded.own, *loaded.authorities):
                info = certs.describe(one)
                assert info.not_after
                assert isinstance(own_key(one), bytes)
            assert loaded.signer.name == "c1" or name == "cert"

    load()
