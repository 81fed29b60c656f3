"""What a verifier remembers of the certificates that it has judged."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ha_agent.errors import ProtocolError
from ha_agent.heartbeat import pki
from ha_agent.heartbeat.signing import Signer, Verifier

NONCE = "0123456789abcdef0123456789abcdef"


def test_a_chain_that_was_found_good_is_judged_again_when_it_or_the_time_changes(tmp_path: Path) -> None:
    authority = pki.Pki(tmp_path / "ca")
    authority.init()
    wall = datetime.datetime.now(datetime.UTC).timestamp()
    target = authority.issue("host", "target")
    verifier = Verifier(target)
    old = Signer(target).sign(NONCE, "boot-1")
    for _ in range(2):
        assert verifier.check(old, NONCE, "target", wall) == "boot-1"
    for when in (wall - 86400, wall + 3 * 365 * 86400):
        with pytest.raises(ProtocolError, match="expired"):
            verifier.check(old, NONCE, "target", when)
    assert verifier.check(old, NONCE, "target", wall) == "boot-1"
    new = Signer(authority.renew("host", "target", tmp_path / "again")).sign(NONCE, "boot-2")
    assert new.chain != old.chain
    assert verifier.check(new, NONCE, "target", wall) == "boot-2"
    assert verifier.check(old, NONCE, "target", wall) == "boot-1"
    mixed = type(new)(nonce=NONCE, name="target", boot_id="boot-1", signature=old.signature, chain=new.chain)
    with pytest.raises(ProtocolError, match="signature"):
        verifier.check(mixed, NONCE, "target", wall)


@ec.EllipticCurvePublicKey.register
class Odd:
    """Some keys refuse with another error than a wrong signature."""

    def verify(self, *arguments: object) -> None:
        raise ValueError("digest too large for key size")


def test_whatever_a_key_says_of_a_signature_the_probe_hears_that_it_does_not_hold(tmp_path: Path) -> None:
    authority = pki.Pki(tmp_path / "ca")
    authority.init()
    wall = datetime.datetime.now(datetime.UTC).timestamp()
    target = authority.issue("host", "target")
    verifier, signed = Verifier(target), Signer(target).sign(NONCE, "boot-1")
    verifier.check(signed, NONCE, "target", wall)
    verifier._vouched["target"] = replace(verifier._vouched["target"], key=Odd())
    with pytest.raises(ProtocolError, match="does not hold"):
        verifier.check(signed, NONCE, "target", wall)
