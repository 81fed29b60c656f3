"""A small certificate authority of our own, for those who have none. An outside PKI works as well (see `certs`).

Its directory holds ca.pem (whom to trust; the first one issues), ca-key.pem, crl.pem (what was revoked), issued/ (every certificate,
without its key) and, while one authority succeeds another, next/ or old/. Keep it off the hosts: who has ca-key.pem can be anybody.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ha_agent.errors import UsageError
from ha_agent.heartbeat import revocation
from ha_agent.heartbeat.authority import Authority, create, make, pem, refuse_existing, remove, write, write_key
from ha_agent.heartbeat.certs import CertificateInfo, describe, identity, issued_by, load_certificates, uri
from ha_agent.model import Value

RENEW_SHARE = 1 / 3  # of a certificate's life: with less left, `renew_all` renews it


class Issued(Value, frozen=True, kw_only=True):
    """A certificate that we issued. `authority`: "current", "next", "old", or "" for one that is gone. `newest`: of its identity."""

    info: CertificateInfo
    authority: str
    revoked: bool
    newest: bool


class Pki:
    """Our own certificate authority in one directory. `now`: the time of day."""

    def __init__(
        self,
        directory: Path,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self.directory = Path(directory)
        self._now = now

    # --- issuing --------------------------------------------------------------------------------------------------------

    def init(self) -> CertificateInfo:
        """Makes the authority. Raises UsageError where there is one already, or the directory cannot be written."""
        refuse_existing(self.directory / "ca.pem", self.directory / "ca-key.pem")
        return describe(create(self.directory, self._now()))

    def issue(self, role: str, name: str, out: Path | None = None) -> Path:
        """Writes ca.pem, cert.pem and key.pem of an identity to `out` (default: ROLE/NAME, encoded, below the PKI's directory)
        and returns that directory. Raises UsageError: no authority here, an impossible name, `out` holds a certificate already, or
        the identity has a valid one elsewhere."""
        uri(role, name)
        self._authority()
        out = self._place(role, name, out)
        make(out)
        refuse_existing(out / "cert.pem", out / "key.pem")
        valid = self._valid(role, name)
        if valid:
            raise UsageError(
                f"{role} {name} has a certificate already, valid until {describe(valid[0]).not_after}",
                f"a new one beside it: ha-agent pki renew {role} NAME; instead of it (stolen, re-installed): ha-agent pki replace",
            )
        return self._write_identity(role, name, out)

    def renew(self, role: str, name: str, out: Path | None = None) -> Path:
        """A new key and certificate for an identity that has one; the old one stays valid until its end. Writes as `issue`, over
        what is there. Raises UsageError where it has none that counts: then somebody must decide (`issue`, `replace`)."""
        uri(role, name)
        self._authority()
        revoked = self._revoked()
        if all(each in revoked for each in self._of(role, name)):
            raise UsageError(
                f"{role} {name} has no certificate that could be renewed",
                "a first one: ha-agent pki issue; instead of a revoked one: ha-agent pki replace",
            )
        return self._write_identity(role, name, self._place(role, name, out))

    def renew_all(self) -> list[tuple[str, str, Path]]:
        """Renews each identity that has not expired yet and whose newest certificate is not of the issuing authority, or has little life left. Returns
        (role, name, directory) of each."""
        authority, now = self._authority().certificate, self._now()
        done: list[tuple[str, str, Path]] = []
        for certificate in self._newest():
            left = certificate.not_valid_after_utc - now
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            if left <= datetime.timedelta(0) or (issued_by(certificate, authority) and left > life * RENEW_SHARE):
                continue
            role, name = identity(certificate)
            done.append((role, name, self._write_identity(role, name, self._place(role, name, None))))
        return done

    def replace(self, role: str, name: str, out: Path | None = None) -> Path:
        """A new key and certificate, and every earlier certificate of the identity revoked: for one that was stolen, and for a host
        that was re-installed under its name. Raises UsageError."""
        uri(role, name)
        self._authority()
        earlier = self._of(role, name)
        if not earlier:
            raise UsageError(f"{role} {name} has no certificate yet", "a first one: ha-agent pki issue")
        self._revoke(earlier)
        return self._write_identity(role, name, self._place(role, name, out))

    # --- revoking -------------------------------------------------------------------------------------------------------

    def revoke(self, role: str, name: str) -> list[CertificateInfo]:
        """Revokes every certificate of an identity. Returns them. Raises UsageError where none is known."""
        uri(role, name)
        found = self._of(role, name)
        if not found:
            raise UsageError(
                f"no certificate of {role} {name} is known here",
                "give its certificate: ha-agent pki revoke --certificate FILE",
            )
        self._revoke(found)
        return [describe(each) for each in found]

    def revoke_certificate(self, path: Path) -> CertificateInfo:
        """Revokes the first certificate of a PEM file. Raises UsageError where no authority of ours issued it."""
        certificate = load_certificates(path)[0]
        self._revoke([certificate])
        return describe(certificate)

    # --- one authority after another ------------------------------------------------------------------------------------

    def rotation(self) -> str:
        """Where a rotation of the authority stands: "" (none), "started" (two are trusted, the old one issues), "switched" (the new
        one issues)."""
        if (self.directory / "next" / "ca.pem").exists():
            return "started"
        return "switched" if (self.directory / "old" / "ca.pem").exists() else ""

    def rotate_start(self) -> CertificateInfo:
        """Makes the next authority, which ca.pem trusts from now on and which does not issue yet. Again without harm."""
        current = self._authority()
        if self.rotation() == "switched":
            raise UsageError("the last rotation is not finished", "ha-agent pki rotate finish")
        following = self.directory / "next"
        if not (following / "ca.pem").exists():
            create(following, self._now())
        made = Authority(following).certificate
        self._write_trust([current.certificate, made])
        return describe(made)

    def rotate_switch(self) -> CertificateInfo:
        """The next authority issues from now on; the old one stays trusted. A step that was interrupted is run again."""
        following, old = self.directory / "next", self.directory / "old"
        if self.rotation() != "started":
            raise UsageError("no rotation has been started", "ha-agent pki rotate start")
        made = Authority(following)
        if not (old / "ca.pem").exists():
            current = self._authority()
            make(old)
            write_key(old / "ca-key.pem", current.key)
            write(old / "ca.pem", pem([current.certificate]), 0o644)
        write_key(self.directory / "ca-key.pem", made.key)
        self._write_trust([made.certificate, Authority(old).certificate])
        remove(following)
        return describe(made.certificate)

    def rotate_finish(self, *, force: bool = False) -> CertificateInfo:
        """The old authority is trusted no more, and its key is deleted. Raises UsageError while an identity has no certificate of the
        new one, which `force` overrides."""
        if self.rotation() != "switched":
            raise UsageError("no rotation has been switched", "ha-agent pki rotate switch")
        authority = self._authority().certificate
        behind = [
            "{} {}".format(*identity(each))
            for each in self._newest()
            if not issued_by(each, authority) and each.not_valid_after_utc > self._now()
        ]
        if behind and not force:
            raise UsageError(
                f"{', '.join(behind[:5])}{' …' if behind[5:] else ''} would be refused: no certificate of the new authority",
                "ha-agent pki renew --all, and copy what it makes to its machines",
            )
        self._write_trust([authority])
        remove(self.directory / "old")
        return describe(authority)

    # --- what is known --------------------------------------------------------------------------------------------------

    def issued(self) -> list[Issued]:
        """Every certificate that we issued, by identity, the newest first."""
        authorities = self._authorities()
        out = self._revoked()
        newest = {each.serial_number for each in self._newest(revoked_too=True)}
        found = []
        latest_first = self._known()[::-1]
        for certificate in sorted(latest_first, key=identity):
            names = [name for name, one in authorities.items() if issued_by(certificate, one.certificate)]
            found.append(
                Issued(
                    info=describe(certificate),
                    authority=names[0] if names else "",
                    revoked=certificate in out,
                    newest=certificate.serial_number in newest,
                )
            )
        return found

    def _known(self) -> list[x509.Certificate]:
        """What issued/ holds, and what an earlier version left in the directories of identities; the newest last."""
        paths = [
            *self.directory.glob("issued/*.pem"),
            *self.directory.glob("host/*/cert.pem"),
            *self.directory.glob("controller/*/cert.pem"),
        ]
        found: dict[int, tuple[float, int, x509.Certificate]] = {}
        for path in paths:
            certificate = load_certificates(path)[0]
            # Certificates tell the time in seconds: of two in one second the file tells which came last.
            age = (certificate.not_valid_before_utc.timestamp(), path.stat().st_mtime_ns, certificate)
            found.setdefault(certificate.serial_number, age)
        return [each for _, _, each in sorted(found.values(), key=lambda age: age[:2])]

    def _of(self, role: str, name: str) -> list[x509.Certificate]:
        return [each for each in self._known() if identity(each) == (role, name)]

    def _valid(self, role: str, name: str) -> list[x509.Certificate]:
        out, now = self._revoked(), self._now()
        return [each for each in self._of(role, name) if each not in out and each.not_valid_after_utc > now]

    def _newest(self, *, revoked_too: bool = False) -> list[x509.Certificate]:
        """The newest certificate of each identity."""
        out = self._revoked()
        newest: dict[tuple[str, str], x509.Certificate] = {}
        for each in self._known():
            if revoked_too or each not in out:
                newest[identity(each)] = each
        return [newest[who] for who in sorted(newest)]

    def _revoked(self) -> revocation.Revoked:
        return revocation.revoked(self._lists())

    def _lists(self) -> list[x509.CertificateRevocationList]:
        authorities = [each.certificate for each in self._authorities().values()]
        return revocation.load(self.directory / revocation.FILE, authorities)

    def _authority(self) -> Authority:
        if not (self.directory / "ca-key.pem").exists():
            raise UsageError(f"there is no authority in {self.directory}", "make it with `ha-agent pki init`")
        return Authority(self.directory)

    def _authorities(self) -> dict[str, Authority]:
        found = {"current": self._authority()}
        for name in ("next", "old"):
            if (self.directory / name / "ca.pem").exists():
                found[name] = Authority(self.directory / name)
        return found

    # --- making ---------------------------------------------------------------------------------------------------------

    def _revoke(self, certificates: Sequence[x509.Certificate]) -> None:
        authorities = list(self._authorities().values())
        lists = {each.issuer.public_bytes(): each for each in self._lists()}
        left = list(certificates)
        for authority in authorities:
            mine = [each for each in left if issued_by(each, authority.certificate)]
            if mine:
                left = [each for each in left if each not in mine]
                issuer = authority.certificate.subject.public_bytes()
                lists[issuer] = revocation.extended(
                    lists.get(issuer), mine, authority.certificate, authority.key, self._now()
                )
        if len(left) == len(certificates):  # a certificate of an authority that is gone is refused anyway
            raise UsageError(
                "no authority in this directory issued that certificate", "run it where the authority is: --directory"
            )
        write(self.directory / revocation.FILE, revocation.pem(lists.values()), 0o644)

    def _write_trust(self, authorities: Sequence[x509.Certificate]) -> None:
        write(self.directory / "ca.pem", pem(authorities), 0o644)

    def _place(self, role: str, name: str, out: Path | None) -> Path:
        return Path(out) if out is not None else self.directory / role / quote(name, safe="")

    def _write_identity(self, role: str, name: str, out: Path) -> Path:
        """A new key, its certificate, and whom to trust. Over what is there, unless that is somebody else's."""
        make(out)
        if (out / "cert.pem").exists():
            there = identity(load_certificates(out / "cert.pem")[0])
            if there != (role, name):
                raise UsageError(f"{out} holds the certificate of {there[0]} {there[1]}", "choose another directory")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._authority().certify(role, name, key.public_key(), self._now())
        make(self.directory / "issued")
        # First: what is not known here could not be revoked.
        write(self.directory / "issued" / f"{certificate.serial_number:x}.pem", pem([certificate]), 0o644)
        write_key(out / "key.pem", key)
        write(out / "cert.pem", pem([certificate]), 0o644)
        for name_of in ("ca.pem", revocation.FILE):
            if (self.directory / name_of).exists():
                write(out / name_of, (self.directory / name_of).read_bytes(), 0o644)
        return out
