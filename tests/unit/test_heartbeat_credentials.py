"""Certificates that change while daemons run: renewal, rotation, revocation, over loopback TLS with real monitors and remotes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ha_agent.errors import UsageError
from ha_agent.heartbeat import certs, wire
from ha_agent.heartbeat.channel import Channel, dial
from ha_agent.heartbeat.credentials import Credentials
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.pki import Pki
from ha_agent.heartbeat.remote import Remote
from ha_agent.ports import Disconnected, Heartbeat, ProbeAnswered

from .heartbeat_support import (
    DEADLINE_S,
    NONCE,
    QUICK,
    Seen,
    closed_port,
    impostor,
    monitor,
    remote,
    session,
    until,
    welcomed,
)

OPTIONS = msgspec.structs.replace(QUICK, pki_poll_s=0.01, look_s=0.2)


class Cloud:
    """An authority, a controller and hosts whose files are copies, as on machines of their own."""

    def __init__(self, directory: Path) -> None:
        self.pki = Pki(directory / "ca")
        self.pki.init()
        self.machines = directory / "machines"

    def install(self, role: str, name: str, made: Path | None = None) -> Path:
        """Copies an identity's files to its machine, as an operator does."""
        made = made if made is not None else self.pki.issue(role, name)
        home = self.machines / name
        home.mkdir(parents=True, exist_ok=True)
        for path in sorted(made.iterdir(), reverse=True):  # key.pem first: for a moment they do not fit
            shutil.copyfile(path, home / path.name)
            (home / path.name).chmod(0o600)
        return home

    def everywhere(self, file: str) -> None:
        """Copies one file of the authority to every machine."""
        for home in self.machines.iterdir():
            shutil.copyfile(self.pki.directory / file, home / file)


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@contextlib.asynccontextmanager
async def running(cloud: Cloud, directory: Path) -> AsyncIterator[tuple[Remote, Monitor, Seen]]:
    """One host, heard by one controller."""
    controller = cloud.install("controller", "c")
    home = cloud.install("host", "h")
    work = directory / "work"
    work.mkdir()
    async with (
        remote(work, "h", config=lambda c: replace(c, pki=home, pki_poll_s=0.01)) as served,
        monitor({"h": served.port}, certificate=controller, options=OPTIONS) as (watch, seen),
    ):
        await seen.next(Heartbeat)
        yield served, watch, seen


def serial(home: Path) -> int:
    return certs.load_certificates(home / "cert.pem")[0].serial_number


async def shown(port: int, directory: Path) -> int:
    """Which certificate a remote shows to a new connection."""
    channel = await dial("127.0.0.1", port, certs.client_context(directory), DEADLINE_S)
    channel.abort()
    return channel.peer.serial


async def test_a_renewal_is_taken_without_a_restart_and_disturbs_nobody(cloud: Cloud, tmp_path: Path) -> None:
    async with running(cloud, tmp_path) as (served, watch, seen):
        prober = cloud.install("host", "prober")
        for role, name in (("host", "h"), ("controller", "c")):
            cloud.install(role, name, cloud.pki.renew(role, name))
        home = cloud.machines / "h"
        await until(lambda: served._host.credentials.now.own.serial_number == serial(home))
        await until(lambda: watch.credentials.now.own.serial_number == serial(cloud.machines / "c"))
        assert await shown(served.port, prober) == serial(home)
        # The connection that stands goes on, and a witness's answer tells which certificate the host has today.
        watch.probe("c", "h", NONCE, 2.0)
        await seen.next(ProbeAnswered)
        assert watch._shared.peers["h"].serial == serial(home)
        assert 729 < watch.certificate_days()["h"] < 731
        beat = await seen.next(Heartbeat)
        assert beat.seq > 1
        assert not any(isinstance(one, Disconnected) for one in seen.ever)
        assert served.counters.connections == 2  # the monitor's first, and the probe's; `shown` said no Hello


async def test_files_that_do_not_fit_change_nothing_until_they_do(cloud: Cloud) -> None:
    home = cloud.install("host", "h")
    credentials = Credentials(home)
    first = credentials.now.own
    renewed = cloud.pki.renew("host", "h")
    shutil.copyfile(renewed / "key.pem", home / "key.pem")  # half of a copy
    assert await credentials.refresh() is None
    assert "do not fit" in credentials.error
    assert credentials.now.own == first
    shutil.copyfile(renewed / "cert.pem", home / "cert.pem")
    change = await credentials.refresh()
    assert change is not None
    assert not change.revoked
    assert not change.distrusted
    assert credentials.error == ""
    assert credentials.now.own != first
    assert await credentials.refresh() is None
    credentials.close()


async def test_a_daemon_does_not_become_somebody_else(cloud: Cloud) -> None:
    home = cloud.install("host", "h")
    credentials = Credentials(home)
    cloud.install("host", "h", cloud.pki.issue("host", "other"))
    assert await credentials.refresh() is None
    assert "host other" in credentials.error
    assert credentials.name == credentials.now.signer.name == "h"
    credentials.close()


async def test_a_revocation_is_not_forgotten_while_it_runs(cloud: Cloud) -> None:
    home = cloud.install("host", "h")
    other = certs.load_certificates(cloud.install("host", "stolen") / "cert.pem")[0]
    credentials = Credentials(home)
    cloud.pki.revoke("host", "stolen")
    cloud.everywhere("crl.pem")
    change = await credentials.refresh()
    assert change is not None
    assert change.revoked
    assert other in credentials.now.revoked
    for spoil in ((home / "crl.pem").unlink, lambda: (home / "crl.pem").write_text("nonsense")):
        spoil()
        assert await credentials.refresh() is None
        assert "crl.pem" in credentials.error
        assert other in credentials.now.revoked
    with pytest.raises(UsageError, match=r"crl\.pem"):  # at a start nobody knows what it said
        Credentials(home)
    credentials.close()


async def test_a_stolen_host_is_refused_at_once_by_controllers_and_hosts(cloud: Cloud, tmp_path: Path) -> None:
    """The thief answers as h2 and dials h. Both its connections stand when the list comes."""
    controller, home = cloud.install("controller", "c"), cloud.install("host", "h")
    stolen = tmp_path / "stolen"
    shutil.copytree(cloud.install("host", "h2"), stolen)
    (tmp_path / "work").mkdir()

    async def lies(channel: Channel) -> None:
        await welcomed(channel, "h2")
        for seq in range(1, 10_000):
            channel.send(wire.Beat(seq=seq, boot_id="boot-1", started_s=1.0))
            await asyncio.sleep(0.02)

    async with (
        remote(tmp_path / "work", "h", config=lambda c: replace(c, pki=home, pki_poll_s=0.01)) as served,
        impostor(stolen, lies) as port,
        monitor({"h": served.port, "h2": port}, certificate=controller, options=OPTIONS) as (watch, seen),
    ):
        await until(lambda: watch.connected() == {"h", "h2"})
        inside = await session(served.port, stolen)
        assert isinstance(await inside.receive(DEADLINE_S), wire.Welcome)

        cloud.pki.revoke("host", "h2")
        cloud.everywhere("crl.pem")
        gone = await seen.next(Disconnected, lambda one: one.host == "h2")
        assert "revoked" in gone.error
        with pytest.raises(ConnectionError):
            await inside.receive(DEADLINE_S)
        again = await seen.next(Disconnected, lambda one: one.host == "h2")
        assert "revoked" in again.error
        assert again.spoke, "it stands not still: it shows a certificate"
        outside = await session(served.port, stolen)
        refused = await outside.receive(DEADLINE_S)
        assert isinstance(refused, wire.Refused)
        assert "revoked" in refused.reason
        await until(lambda: watch.counters.refused_revoked >= 1 and served.counters.refused_revoked >= 1)
        assert (watch.counters.closed_revoked, served.counters.closed_revoked) == (1, 1)
        # Everybody else is untouched.
        await seen.next(Heartbeat, lambda beat: beat.host == "h")
        assert watch.connected() == {"h"}
        assert not any(isinstance(one, Disconnected) and one.host == "h" for one in seen.ever)


async def test_a_revoked_signature_is_no_sign_of_life(cloud: Cloud, tmp_path: Path) -> None:
    controller = cloud.install("controller", "c")
    stolen = tmp_path / "stolen"
    shutil.copytree(cloud.install("host", "h2"), stolen)
    cloud.pki.revoke("host", "h2")
    cloud.everywhere("crl.pem")
    (tmp_path / "work").mkdir()
    async with (
        remote(tmp_path / "work", "h2", config=lambda c: replace(c, pki=stolen)) as thief,
        monitor({"h2": thief.port}, certificate=controller, options=OPTIONS) as (watch, seen),
    ):
        watch.probe("c", "h2", NONCE, 2.0)
        answer = await seen.next(ProbeAnswered)
        assert answer.answer == "tcp"


async def test_a_reinstalled_host_comes_back_under_its_name(cloud: Cloud, tmp_path: Path) -> None:
    """`replace`: the new key is installed with the new system; then the list goes everywhere, and the old key counts no more."""
    controller = cloud.install("controller", "c")
    home = cloud.install("host", "h")
    old = tmp_path / "old"
    shutil.copytree(home, old)
    port = closed_port()
    (tmp_path / "work").mkdir()
    async with monitor({"h": port}, certificate=controller, options=OPTIONS) as (_, seen):
        async with remote(tmp_path / "work", "h", config=lambda c: replace(c, pki=home), port=port):
            await seen.next(Heartbeat)
        made = cloud.pki.replace("host", "h")
        async with remote(
            tmp_path / "work",
            "h",
            config=lambda c: replace(c, pki=cloud.install("host", "h", made)),
            boot_id="b2",
            port=port,
        ) as served:
            await seen.next(Heartbeat, lambda beat: beat.boot_id == "b2")
            assert not served.gate.is_open  # whatever ran there before, this boot waits for a controller's word
        cloud.everywhere("crl.pem")
        async with remote(tmp_path / "work", "h", config=lambda c: replace(c, pki=old), boot_id="b3", port=port):
            gone = await seen.next(Disconnected, lambda one: "revoked" in one.error)
            assert (gone.answered, gone.spoke) == (True, True)
        assert not any(isinstance(one, Heartbeat) and one.boot_id == "b3" for one in seen.ever)


async def test_a_rotation_of_the_authority_while_the_host_is_heard(cloud: Cloud, tmp_path: Path) -> None:
    async with running(cloud, tmp_path) as (served, watch, seen):
        old = tmp_path / "old"
        shutil.copytree(cloud.machines / "h", old)
        cloud.pki.rotate_start()
        cloud.everywhere("ca.pem")
        await until(lambda: len(watch.credentials.now.authorities) == 2)
        await until(lambda: len(served._host.credentials.now.authorities) == 2)
        cloud.pki.rotate_switch()
        cloud.everywhere("ca.pem")
        for role, name, made in cloud.pki.renew_all():
            cloud.install(role, name, made)
        await until(lambda: watch.credentials.now.own.serial_number == serial(cloud.machines / "c"))
        await until(lambda: served._host.credentials.now.own.serial_number == serial(cloud.machines / "h"))
        # What the controller last saw of the host is its old certificate: it says so, and looks until it has seen the new one.
        assert [note.text for note in watch.notes() if "host h" in note.text]
        await until(lambda: watch.notes() == [])
        await seen.next(Heartbeat)
        assert not any(isinstance(one, Disconnected) for one in seen.ever)

        cloud.pki.rotate_finish()
        cloud.everywhere("ca.pem")
        gone = await seen.next(Disconnected)  # the connection began with certificates of the old authority
        assert gone.answered
        await seen.next(Heartbeat)
        before = served.counters.handshakes_untrusted
        outsider = await dial("127.0.0.1", served.port, _trusting(old, cloud), DEADLINE_S)
        with pytest.raises(ConnectionError):
            await outsider.receive(DEADLINE_S)
        await until(lambda: served.counters.handshakes_untrusted == before + 1)


def _trusting(old: Path, cloud: Cloud) -> ssl.SSLContext:
    """The old certificate, and trust in the new authority."""
    context = certs.client_context(old)
    context.load_verify_locations(cloud.pki.directory / "ca.pem")
    return context
