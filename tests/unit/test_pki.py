"""The PKI: what it writes, what it refuses, and that an outside one works."""

from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import certs, pki
from ha_agent.heartbeat.signing import Signer, Verifier, message
from ha_agent.heartbeat.wire import Signed

NONCE = "0" * 32


@pytest.fixture
def authority(tmp_path: Path) -> pki.Pki:
    authority = pki.Pki(tmp_path / "pki")
    authority.init()
    return authority


def test_keys_are_private_and_nothing_is_left_over(authority: pki.Pki) -> None:
    out = authority.issue("host", "compute-1")
    for key in (authority.directory / "ca-key.pem", out / "key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in out.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_nothing_is_overwritten(authority: pki.Pki) -> None:
    before = (authority.directory / "ca-key.pem").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        authority.init()
    assert (authority.directory / "ca-key.pem").read_bytes() == before
    authority.issue("host", "compute-1")
    with pytest.raises(UsageError, match="exists already"):
        authority.issue("host", "compute-1")


@pytest.mark.parametrize("name", ["compute-1", "nfv_7.example.org", "böse/ho%st@x:1", "a" * 255, "%2F"])
def test_a_name_survives_byte_for_byte(authority: pki.Pki, name: str, tmp_path: Path) -> None:
    out = authority.issue("host", name, tmp_path / "out")
    info = certs.show(out)
    assert (info.role, info.name) == ("host", name)
    assert len(info.fingerprint) == 64


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "\x00", ".", "..", "a" * 256, "\ud800"])
def test_impossible_names_are_refused(authority: pki.Pki, name: str) -> None:
    with pytest.raises(UsageError):
        authority.issue("host", name)


def test_an_unknown_role_is_refused(authority: pki.Pki) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        authority.issue("king", "x")


def test_issue_without_an_authority_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pki.Pki(tmp_path).issue("host", "x")
    assert "pki init" in caught.value.hint


def test_contexts_are_mutual_tls_1_3_only(authority: pki.Pki) -> None:
    out = authority.issue("host", "compute-1")
    for context in (certs.server_context(out), certs.client_context(out)):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_key_open_to_everybody_and_a_foreign_key_are_refused(authority: pki.Pki) -> None:
    out = authority.issue("host", "compute-1")
    other = authority.issue("host", "compute-2")
    (out / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(UsageError, match="do not fit"):
        certs.server_context(out)
    (out / "key.pem").chmod(0o644)
    with pytest.raises(UsageError, match="everybody"):
        certs.server_context(out)


def test_missing_and_broken_files_are_named(authority: pki.Pki) -> None:
    out = authority.issue("host", "compute-1")
    (out / "cert.pem").write_text("nonsense")
    with pytest.raises(UsageError, match=r"cert\.pem"):
        certs.client_context(out)
    (out / "cert.pem").unlink()
    with pytest.raises(UsageError, match=r"cert\.pem"):
        certs.client_context(out)


def outside(directory: Path, uris: list[str], days: int = 30) -> Path:
    """What another PKI may hand out: RSA, an intermediate authority, other extensions than ours."""
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: str, key: rsa.RSAPrivateKey, by: rsa.RSAPrivateKey, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            sans: list[x509.GeneralName] = [x509.DNSName("x.example.org")]
            sans += [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return builder.sign(by, hashes.SHA256())

    root_key, middle_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(3))
    root = make("root", "root", root_key, root_key, ca=True)
    middle = make("middle", "root", middle_key, root_key, ca=True)
    leaf = make("leaf", "middle", key, middle_key, ca=False)
    pem = serialization.Encoding.PEM
    directory.mkdir()
    (directory / "ca.pem").write_bytes(root.public_bytes(pem))
    (directory / "cert.pem").write_bytes(leaf.public_bytes(pem) + middle.public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(plain)
    (directory / "key.pem").chmod(0o640)
    return directory


def test_an_outside_pki_works_with_an_intermediate(tmp_path: Path) -> None:
    directory = outside(tmp_path / "outside", ["https://example.org/x", "ha-agent://host/compute-1"])
    certs.server_context(directory)
    wall = datetime.datetime.now(datetime.UTC).timestamp()
    signed = Signer(directory).sign(NONCE, "boot-1")
    assert Verifier(directory).check(signed, NONCE, "compute-1", wall) == "boot-1"
    with pytest.raises(ProtocolError, match="expired"):
        Verifier(directory).check(signed, NONCE, "compute-1", wall + 31 * 86400)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["ha-agent://host/a", "ha-agent://host/b"],
        ["ha-agent://king/a"],
        ["ha-agent://host/"],
        ["ha-agent://host"],
        ["ha-agent://host/%FF"],
        ["ha-agent://host/a%20b"],
        ["spiffe://host/a"],
    ],
)
def test_certificates_without_exactly_one_identity_are_refused(tmp_path: Path, uris: list[str]) -> None:
    directory = outside(tmp_path / "outside", uris)
    with pytest.raises(UsageError):
        certs.identity(certs.load_certificates(directory / "cert.pem")[0])


def test_a_signature_holds_for_one_nonce_one_host_one_boot_and_one_authority(
    authority: pki.Pki, tmp_path: Path
) -> None:
    wall = datetime.datetime.now(datetime.UTC).timestamp()
    target, witness = authority.issue("host", "target"), authority.issue("host", "witness")
    controller = authority.issue("controller", "target")
    verifier = Verifier(target)
    good = Signer(target).sign(NONCE, "boot-1")
    assert verifier.check(good, NONCE, "target", wall) == "boot-1"

    by_witness = Signer(witness).sign(NONCE, "boot-1")
    other = pki.Pki(tmp_path / "other")
    other.init()
    fields = {"nonce": NONCE, "name": "target", "boot_id": "boot-1"}
    forgeries = [
        type(good)(**fields, signature=by_witness.signature, chain=by_witness.chain),  # own certificate, other name
        type(good)(**fields, signature=by_witness.signature, chain=good.chain),  # own key, the target's certificate
        type(good)(**{**fields, "boot_id": "boot-2"}, signature=good.signature, chain=good.chain),
        type(good)(**fields, signature=good.signature, chain=(b"nonsense",)),
        Signer(controller).sign(NONCE, "boot-1"),  # a controller of that name is not that host
        Signer(other.issue("host", "target")).sign(NONCE, "boot-1"),  # an authority that is not ours
        # A host's certificate is no authority: it cannot issue one for the target.
        type(good)(**fields, signature=b"", chain=(by_witness.chain[0], by_witness.chain[0])),
    ]
    for forged in forgeries:
        with pytest.raises(ProtocolError):
            verifier.check(forged, NONCE, "target", wall)
    with pytest.raises(ProtocolError):
        verifier.check(good, "1" * 32, "target", wall)  # an old answer


def test_a_stolen_host_key_issues_nothing(authority: pki.Pki) -> None:
    """A host's certificate is valid and chains to our authority, but it is no authority itself."""
    stolen = authority.issue("host", "witness")
    thief = certs.load_certificates(stolen / "cert.pem")[0]
    thief_key = certs.load_key(stolen / "key.pem")
    assert isinstance(thief_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier("ha-agent://host/target")
    forged = (
        x509.CertificateBuilder()
        .subject_name(thief.subject)
        .issuer_name(thief.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(thief.not_valid_before_utc)
        .not_valid_after(thief.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(thief_key, hashes.SHA256())
    )
    der = serialization.Encoding.DER
    signed = Signed(
        nonce=NONCE,
        name="target",
        boot_id="boot-1",
        signature=key.sign(message(NONCE, "target", "boot-1"), ec.ECDSA(hashes.SHA256())),
        chain=(forged.public_bytes(der), thief.public_bytes(der)),
    )
    with pytest.raises(ProtocolError, match="authority"):
        Verifier(stolen).check(signed, NONCE, "target", datetime.datetime.now(datetime.UTC).timestamp())
