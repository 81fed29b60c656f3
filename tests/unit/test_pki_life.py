"""The life of a PKI: renewal, replacement, revocation, and one authority after another, judged by TLS as daemons use it."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from ha_agent.errors import ProtocolError, UsageError
from ha_agent.heartbeat import certs, pki, revocation
from ha_agent.heartbeat.authority import Authority
from ha_agent.heartbeat.signing import Signer, Verifier


@pytest.fixture
def authority(tmp_path: Path) -> pki.Pki:
    made = pki.Pki(tmp_path / "pki")
    made.init()
    return made


def shakes(server: Path, client: Path) -> str:
    """Why the two do not accept each other; empty where they do. TLS in memory."""
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    listens = certs.server_context(server).wrap_bio(a, b, server_side=True)
    dials = certs.client_context(client).wrap_bio(c, d, server_side=False)
    done = [False, False]
    for _ in range(6):
        for position, (side, out, into) in enumerate(((dials, d, a), (listens, b, c))):
            try:
                if not done[position]:
                    side.do_handshake()
                    done[position] = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return error.reason or "failed"
            into.write(out.read())
        if all(done):
            return ""
    return "unfinished"


def leaf(directory: Path) -> x509.Certificate:
    return certs.load_certificates(directory / "cert.pem")[0]


def named(authority: pki.Pki) -> revocation.Revoked:
    trusted = certs.load_certificates(authority.directory / "ca.pem")
    return revocation.revoked(revocation.load(authority.directory / "crl.pem", trusted))


def at(days: float) -> Callable[[], datetime.datetime]:
    return lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def test_renewal_makes_another_key_and_leaves_the_old_one_valid(authority: pki.Pki, tmp_path: Path) -> None:
    controller = authority.issue("controller", "c")
    old = tmp_path / "copy"
    made = authority.issue("host", "h")
    made.rename(old)
    new = authority.renew("host", "h")
    assert leaf(new).public_key() != leaf(old).public_key()
    assert stat.S_IMODE((new / "key.pem").stat().st_mode) == 0o600
    assert [shakes(each, controller) for each in (old, new)] == ["", ""]
    assert len(named(authority)) == 0
    assert [(each.info.name, each.newest) for each in authority.issued()] == [("c", True), ("h", True), ("h", False)]


def test_only_what_has_a_valid_certificate_is_renewed(authority: pki.Pki) -> None:
    with pytest.raises(UsageError, match="no certificate that could be renewed"):
        authority.renew("host", "h")
    authority.issue("host", "h")
    authority.revoke("host", "h")
    with pytest.raises(UsageError, match="no certificate that could be renewed"):
        authority.renew("host", "h")


def test_two_valid_certificates_of_one_name_need_a_decision(authority: pki.Pki, tmp_path: Path) -> None:
    authority.issue("host", "h")
    with pytest.raises(UsageError, match="has a certificate already"):
        authority.issue("host", "h", tmp_path / "elsewhere")


def test_renewal_does_not_write_over_another_identity(authority: pki.Pki) -> None:
    one = authority.issue("host", "h1")
    authority.issue("host", "h2")
    before = (one / "key.pem").read_bytes()
    with pytest.raises(UsageError, match="host h1"):
        authority.renew("host", "h2", one)
    assert (one / "key.pem").read_bytes() == before


def test_what_is_old_is_renewed_and_what_is_young_is_not(tmp_path: Path) -> None:
    past = pki.Pki(tmp_path / "pki", at(-600))
    past.init()
    past.issue("host", "old")
    past.issue("host", "revoked")
    past.revoke("host", "revoked")
    now = pki.Pki(tmp_path / "pki")
    now.issue("host", "young")
    assert [(role, name) for role, name, _ in now.renew_all()] == [("host", "old")]
    assert now.renew_all() == []


def test_a_replaced_host_has_one_certificate_that_counts(authority: pki.Pki) -> None:
    first = leaf(authority.issue("host", "h"))
    second = leaf(authority.renew("host", "h"))
    other = leaf(authority.issue("host", "other"))
    out = authority.replace("host", "h")
    third = leaf(out)
    revoked = named(authority)
    assert [each in revoked for each in (first, second, third, other)] == [True, True, False, False]
    assert (out / "crl.pem").read_bytes() == (authority.directory / "crl.pem").read_bytes()
    states = {each.info.serial: (each.revoked, each.newest) for each in authority.issued()}
    assert states[f"{third.serial_number:x}"] == (False, True)
    assert states[f"{first.serial_number:x}"] == (True, False)


def test_revoking_again_keeps_what_was_revoked(authority: pki.Pki) -> None:
    one, two = leaf(authority.issue("host", "h1")), leaf(authority.issue("host", "h2"))
    authority.revoke("host", "h1")
    assert authority.revoke_certificate(authority.directory / "host" / "h2" / "cert.pem").name == "h2"
    authority.revoke("host", "h1")
    assert one in named(authority)
    assert two in named(authority)
    assert len(named(authority)) == 2
    lists = revocation.load(authority.directory / "crl.pem", [])
    assert [each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for each in lists] == [3]


def test_a_revoked_hosts_signature_does_not_hold(authority: pki.Pki) -> None:
    host, judge = authority.issue("host", "h"), authority.issue("controller", "c")
    wall = datetime.datetime.now(datetime.UTC).timestamp()
    signed = Signer(host).sign("0" * 32, "boot-1")
    assert Verifier(judge).check(signed, "0" * 32, "h", wall) == "boot-1"
    authority.revoke("host", "h")
    (judge / "crl.pem").write_bytes((authority.directory / "crl.pem").read_bytes())
    with pytest.raises(ProtocolError, match="revoked"):
        Verifier(judge).check(signed, "0" * 32, "h", wall)


def test_what_is_unknown_is_not_revoked(authority: pki.Pki, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no certificate of host h"):
        authority.revoke("host", "h")
    other = pki.Pki(tmp_path / "other")
    other.init()
    with pytest.raises(UsageError, match="no authority in this directory"):
        authority.revoke_certificate(other.issue("host", "h") / "cert.pem")
    assert not (authority.directory / "crl.pem").exists()


def test_certificates_of_an_earlier_version_are_known(authority: pki.Pki) -> None:
    out = authority.issue("host", "h")
    for path in (authority.directory / "issued").iterdir():
        path.unlink()
    assert [each.name for each in authority.revoke("host", "h")] == ["h"]
    assert leaf(out) in named(authority)


def test_a_list_that_the_authority_did_not_sign_is_refused(authority: pki.Pki, tmp_path: Path) -> None:
    authority.issue("host", "h")
    authority.revoke("host", "h")
    path = authority.directory / "crl.pem"
    trusted = certs.load_certificates(authority.directory / "ca.pem")
    good = path.read_bytes()
    for bad in (b"", b"nonsense", good[: len(good) // 2]):
        path.write_bytes(bad)
        with pytest.raises(UsageError, match="holds no revocation list"):
            revocation.load(path, trusted)
    other = pki.Pki(tmp_path / "other")
    other.init()
    key = Authority(other.directory).key
    fake = revocation.extended(None, [], trusted[0], key, datetime.datetime.now(datetime.UTC))
    path.write_bytes(revocation.pem([fake]))
    with pytest.raises(UsageError, match="another's signature"):
        revocation.load(path, trusted)


def test_a_rotation_step_by_step(authority: pki.Pki, tmp_path: Path) -> None:
    """Old and new are accepted while both are trusted; in the end the old one's certificates are refused."""
    controller, host = authority.issue("controller", "c"), authority.issue("host", "h")
    assert authority.rotation() == ""
    with pytest.raises(UsageError):
        authority.rotate_switch()

    authority.rotate_start()
    authority.rotate_start()  # again without harm
    assert authority.rotation() == "started"
    for each in (controller, host):  # what an operator copies
        (each / "ca.pem").write_bytes((authority.directory / "ca.pem").read_bytes())
    assert shakes(host, controller) == ""
    still_old = authority.renew("host", "h", tmp_path / "h2")
    assert certs.issued_by(leaf(still_old), certs.load_certificates(authority.directory / "ca.pem")[0])

    authority.rotate_switch()
    assert authority.rotation() == "switched"
    old_host, old_controller = tmp_path / "old-host", tmp_path / "old-controller"
    host.rename(old_host)
    controller.rename(old_controller)
    with pytest.raises(UsageError, match="controller c, host h would be refused"):
        authority.rotate_finish()
    assert [name for _, name, _ in authority.renew_all()] == ["c", "h"]
    # In every mixture of old and new.
    assert {shakes(h, c) for h in (old_host, host) for c in (old_controller, controller)} == {""}

    stolen = leaf(old_host)
    authority.revoke_certificate(old_host / "cert.pem")  # one of the old authority, while the new one issues
    assert stolen in named(authority)
    assert leaf(host) not in named(authority)

    authority.rotate_finish()
    assert authority.rotation() == ""
    assert not (authority.directory / "old").exists()
    assert stat.S_IMODE((authority.directory / "ca-key.pem").stat().st_mode) == 0o600
    for each in (controller, host):
        (each / "ca.pem").write_bytes((authority.directory / "ca.pem").read_bytes())
    assert shakes(host, controller) == ""
    assert "VERIFY_FAILED" in shakes(host, old_controller)
    assert "VERIFY_FAILED" in shakes(old_host, controller)
    assert stolen in named(authority)  # the list of an authority that is gone does no harm
    authority.issue("host", "later")


def test_a_switch_that_was_interrupted_is_run_again(authority: pki.Pki) -> None:
    controller = authority.issue("controller", "c")
    authority.rotate_start()
    in_the_way = authority.directory / f".ca.pem.{os.getpid()}.new"  # what ca.pem is written as first
    in_the_way.mkdir()
    with pytest.raises(UsageError, match=r"ca\.pem cannot be written"):
        authority.rotate_switch()
    with pytest.raises(UsageError, match="do not fit together"):
        authority.issue("host", "h")
    in_the_way.rmdir()
    authority.rotate_switch()
    made = authority.issue("host", "h")
    (controller / "ca.pem").write_bytes((authority.directory / "ca.pem").read_bytes())
    assert shakes(made, controller) == ""


def test_an_expired_certificate_is_refused_and_renewed_by_name_only(tmp_path: Path) -> None:
    past = pki.Pki(tmp_path / "pki", at(-3 * 365))
    past.init()
    expired = past.issue("host", "h")
    now = pki.Pki(tmp_path / "pki")
    controller = now.issue("controller", "c")
    assert "VERIFY_FAILED" in shakes(expired, controller)
    assert now.renew_all() == []  # it may be a host that is gone for long
    assert shakes(now.renew("host", "h"), controller) == ""
