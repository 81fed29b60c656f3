"""The remote against peers of every kind: whom it serves, whom it turns away, and what it counts."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ha_agent.errors import UsageError
from ha_agent.heartbeat import certs, control, wire
from ha_agent.heartbeat.admission import Limits
from ha_agent.heartbeat.channel import Channel, DialError, dial
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.sources import CachedHealth, FileGuests, FileHealth, HealthReport, ProcessHealth
from ha_agent.model import Health
from ha_agent.system import SystemClock

from .heartbeat_support import DEADLINE_S, NONCE, Well, certificates, listening, raw, remote, session, until

CONTROLLER = ("controller", "controller-1")


async def gone(channel: Channel) -> None:
    """The other side has ended the connection."""
    with pytest.raises(ConnectionError):  # noqa: PT012 -- some frames may come first
        while True:
            await channel.receive(DEADLINE_S)


async def test_beats_tell_how_the_host_is(tmp_path: Path) -> None:
    (tmp_path / "dmi").write_text("4C4C4544-0042\n")
    async with remote(tmp_path, config=lambda c: replace(c, machine_file=tmp_path / "dmi")) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 0.02)
        welcome = await channel.receive(DEADLINE_S)
        assert welcome == wire.Welcome(version=(1, 0), name="compute-1", boot_id="boot-1")
        beats: list[wire.Beat] = []
        while len(beats) < 3 or beats[-1].rtt_s == 0:
            beat = await channel.receive(DEADLINE_S)
            assert isinstance(beat, wire.Beat)
            channel.send(wire.BeatAck(seq=beat.seq))
            beats.append(beat)
        assert [beat.seq for beat in beats[:3]] == [1, 2, 3]
        assert {beat.boot_id for beat in beats} == {"boot-1"}
        assert beats[-1].machine == "4c4c4544-0042"
        assert beats[-1].nova_compute is Health.UP
        assert beats[-1].started_s > beats[0].started_s
        assert 0 < beats[-1].rtt_s < DEADLINE_S
        channel.abort()


async def test_a_foreign_authority_gets_nothing(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        theirs = certificates("controller", "controller-1", "theirs")
        with pytest.raises(DialError) as caught:  # it does not trust us either
            await dial("127.0.0.1", served.port, certs.client_context(theirs), DEADLINE_S)
        assert caught.value.answered
        await until(lambda: served.counters.handshake_failures == 1)
        context = certs.client_context(theirs)
        context.load_verify_locations(certificates(*CONTROLLER) / "ca.pem")  # now it does
        channel = await dial("127.0.0.1", served.port, context, DEADLINE_S)
        await gone(channel)
        await until(lambda: served.counters.handshake_failures == 2)
        assert served.counters.connections == 0


async def test_a_host_cannot_act_as_a_controller(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        beats = await session(served.port, certificates("host", "compute-2"), 1.0)
        refused = await beats.receive(DEADLINE_S)
        assert isinstance(refused, wire.Refused)
        assert served.counters.refused_identities == 1
        for frame in (
            wire.OpenGate(request=1, boot_id="boot-1"),
            wire.Probe(target="x", address="127.0.0.1", port=1, nonce=NONCE, deadline_s=1),
            wire.Claim(store_id="s", epoch=9),
        ):
            channel = await session(served.port, certificates("host", "compute-2"))
            assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
            channel.send(frame)
            await gone(channel)
        assert served.counters.malformed_frames == 3
        assert served.counters.probes == 0
        assert not served.gate.is_open


async def test_a_hello_in_another_name_is_refused(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 1.0, name="controller-2")
        assert isinstance(await channel.receive(DEADLINE_S), wire.Refused)
        await gone(channel)
        assert served.counters.refused_identities == 1


async def test_a_remote_needs_a_hosts_certificate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="controller"):
        async with remote(tmp_path, config=lambda c: replace(c, pki=certificates(*CONTROLLER))):
            pass


@pytest.mark.parametrize(
    "hostile",
    [
        raw(b"garbage"),
        (2**32 - 1).to_bytes(4, "big"),
        (0).to_bytes(4, "big"),
        raw({"type": "Novelty"}),
        raw({"type": "Beat", "seq": 1, "boot_id": "b", "started_s": 1}),  # a frame, but not a controller's
        raw({"type": "BeatAck", "seq": 1}) * 2000,  # a flood
    ],
    ids=["garbage", "oversized", "empty", "unknown type", "wrong direction", "flood"],
)
async def test_malformed_input_ends_the_connection_and_counts(tmp_path: Path, hostile: bytes) -> None:
    async with remote(tmp_path) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 60.0)
        channel._writer.write(hostile)
        await gone(channel)
        await until(lambda: served.counters.malformed_frames == 1)
        good = await session(served.port, certificates(*CONTROLLER), 60.0)
        assert isinstance(await good.receive(DEADLINE_S), wire.Welcome)
        good.abort()


async def test_a_cut_frame_counts(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 60.0)
        channel._writer.write(raw({"type": "BeatAck", "seq": 1})[:-3])
        await channel.close()
        await until(lambda: served.counters.malformed_frames == 1)


async def test_no_common_version_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 1.0, versions=[[7, 3]])
        refused = await channel.receive(DEADLINE_S)
        assert isinstance(refused, wire.Refused)
        assert "version" in refused.reason


async def test_a_newer_peer_is_spoken_down_to(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        channel = await session(served.port, certificates(*CONTROLLER), 1.0, versions=[[2, 0], [1, 7]], mood="new")
        welcome = await channel.receive(DEADLINE_S)
        assert isinstance(welcome, wire.Welcome)
        assert welcome.version == (1, 0)
        channel.abort()


async def test_those_who_dawdle_are_ended(tmp_path: Path) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, handshake_s=0.2)) as served:
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", served.port)
        slow_reader, slow = await asyncio.open_connection("127.0.0.1", served.port)
        slow.write(b"\x16\x03\x01\x02")  # a ClientHello that never goes on
        mute = await dial("127.0.0.1", served.port, certs.client_context(certificates(*CONTROLLER)), DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            assert await silent_reader.read() == b""
            assert await slow_reader.read() == b""
            await gone(mute)
        assert served.counters.handshake_failures == 3
        silent.close()
        slow.close()


async def test_slow_handshakes_make_room_for_quick_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(handshakes=4, handshakes_per_address=3)
    async with remote(tmp_path, config=lambda c: replace(c, limits=limits)) as served:
        slow = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(10)]
        await until(lambda: served.counters.handshakes_evicted == 7)
        async with asyncio.timeout(DEADLINE_S):
            assert await slow[0][0].read() == b""
        channel = await session(served.port, certificates(*CONTROLLER), 60.0)
        assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
        assert served.counters.handshakes_evicted == 8
        assert served.counters.handshake_failures == 8
        channel.abort()
        for _, writer in slow:
            writer.close()
    assert [record.getMessage() for record in caplog.records if "unfinished" in record.getMessage()] == [
        "127.0.0.1: handshake ended: too many are unfinished"
    ]


async def test_who_is_evicted_before_it_was_looked_at_is_closed(tmp_path: Path) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, limits=Limits(handshakes=1))) as served:
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, _ in pairs:
            ours.setblocking(False)
            served._door._arrive(ours, "192.0.2.1")  # two in one turn of the loop: no task has begun
        await until(lambda: served.counters.handshakes_evicted == 1)
        assert pairs[0][0].fileno() == -1
        assert pairs[0][1].recv(1) == b""
        for _, theirs in pairs:
            theirs.close()


async def test_a_host_on_ipv6_is_dialled_by_its_address(tmp_path: Path) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, listen="::1")) as served:
        context = certs.client_context(certificates(*CONTROLLER))
        channel = await dial("::1", served.port, context, DEADLINE_S)
        assert channel.name == "compute-1"
        channel.abort()


async def test_one_identity_does_not_fill_the_house(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        held = [await session(served.port, certificates("host", "compute-2")) for _ in range(8)]
        for channel in held:
            assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
        ninth = await session(served.port, certificates("host", "compute-2"))
        assert isinstance(await ninth.receive(DEADLINE_S), wire.Refused)
        assert served.counters.refused_peers == 1
        other = await session(served.port, certificates(*CONTROLLER), 60.0)
        assert isinstance(await other.receive(DEADLINE_S), wire.Welcome)
        for channel in [*held, other]:
            channel.abort()


async def test_an_idle_challenger_is_ended(tmp_path: Path) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, challenger_idle_s=0.1)) as served:
        channel = await session(served.port, certificates("host", "compute-2"))
        await gone(channel)
        assert served.counters.idle_closed == 1


@pytest.mark.parametrize(
    ("limits", "counter"),
    [(Limits(connections=2), "refused_full"), (Limits(per_address=2), "refused_address")],
    ids=["in all", "of one address"],
)
async def test_connections_over_a_cap_are_turned_away_before_a_handshake(
    tmp_path: Path, limits: Limits, counter: str
) -> None:
    async with remote(tmp_path, config=lambda c: replace(c, limits=limits)) as served:
        held = [await session(served.port, certificates("host", name)) for name in ("compute-2", "compute-3")]
        for channel in held:
            assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        assert getattr(served.counters, counter) == 1
        assert served.counters.handshake_failures == 0
        writer.close()
        for channel in held:
            channel.abort()
        await until(lambda: not served._door)
        channel = await session(served.port, certificates(*CONTROLLER), 1.0)
        assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
        channel.abort()


async def test_the_same_controller_once_more_replaces_its_old_connection(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        first = await session(served.port, certificates(*CONTROLLER), 60.0)
        assert isinstance(await first.receive(DEADLINE_S), wire.Welcome)
        second = await session(served.port, certificates(*CONTROLLER), 60.0)
        assert isinstance(await second.receive(DEADLINE_S), wire.Welcome)
        await gone(first)
        assert served.status().controllers == ("controller-1",)
        second.abort()


async def test_the_control_socket_answers_status_and_is_not_for_everybody(tmp_path: Path) -> None:
    async with remote(tmp_path) as served:
        path = tmp_path / "compute-1" / "control"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        status = await control.ask(path, control.AskStatus())
        assert isinstance(status, control.RemoteStatus)
        assert (status.name, status.port, status.gate_open) == ("compute-1", served.port, False)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"nonsense\n")
        assert await reader.read() == b""
        writer.close()
        second = replace(served._config, port=0)
        with pytest.raises(UsageError, match="another remote"):
            await Remote(second, SystemClock(), Well()).start()
    assert not path.exists()


async def test_a_socket_that_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "compute-1").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "compute-1" / "control"))
    async with remote(tmp_path):
        assert await control.ask(tmp_path / "compute-1" / "control", control.AskStatus())


# --- sources ------------------------------------------------------------------------------------------------------------


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at

    def boot_id(self) -> str:
        return "boot-1"


async def test_health_that_grows_old_is_unknown_and_a_hanging_source_delays_nobody() -> None:
    class Hangs:
        def __init__(self) -> None:
            self.asked = asyncio.Event()

        async def read(self) -> HealthReport:
            if not self.asked.is_set():
                self.asked.set()
                return HealthReport(nova_compute=Health.UP, libvirt=Health.UP)
            await asyncio.Event().wait()
            raise AssertionError

    clock, source = Time(), Hangs()
    health = CachedHealth(source, clock, poll_s=0.0, stale_s=10.0)
    assert health.get().nova_compute is Health.UNKNOWN
    task = asyncio.ensure_future(health.run())
    await source.asked.wait()
    await until(lambda: health.get().nova_compute is Health.UP)
    clock.at += 10.1
    assert health.get() == HealthReport()
    task.cancel()


async def test_file_sources(tmp_path: Path) -> None:
    health, guests = FileHealth(tmp_path / "health"), FileGuests(tmp_path / "guests")
    assert await health.read() == HealthReport()
    assert guests.present("a") is None
    (tmp_path / "health").write_text('{"nova_compute": "up", "libvirt": "down"}')
    (tmp_path / "guests").write_text('{"a": {"state": 1}}')
    assert await health.read() == HealthReport(nova_compute=Health.UP, libvirt=Health.DOWN)
    assert (guests.present("a"), guests.present("b"), guests.health()) == (True, False, Health.UP)
    (tmp_path / "health").write_text("{")
    (tmp_path / "guests").write_text('["a"]')
    assert await health.read() == HealthReport()
    assert guests.present("a") is None


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("echo inactive; echo active", Health.UP),
        ("echo activating; echo inactive", Health.DOWN),
        ("echo inactive; echo failed", Health.DOWN),
        ("echo active", Health.UNKNOWN),  # of whom?
        ("exit 1", Health.UNKNOWN),
    ],
)
async def test_process_health(tmp_path: Path, says: str, expected: Health) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\n{says}\necho failed; echo inactive; echo active; echo inactive\nexit 3\n")
    systemctl.chmod(0o755)
    report = await ProcessHealth(systemctl=str(systemctl)).read()
    assert report.nova_compute is expected
    assert report.libvirt is (Health.UNKNOWN if expected is Health.UNKNOWN else Health.UP)
    assert (await ProcessHealth(systemctl=str(tmp_path / "absent")).read()).libvirt is Health.UNKNOWN


async def test_process_health_kills_a_systemctl_that_hangs(tmp_path: Path) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    systemctl.chmod(0o755)
    task = asyncio.ensure_future(ProcessHealth(systemctl=str(systemctl)).read())
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_systemctl_that_cannot_be_killed_has_no_successor(tmp_path: Path) -> None:
    """Nobody here can make a process unkillable; one that has not been waited for yet looks the same."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\nexec sleep 60\n")
    systemctl.chmod(0o755)
    source = ProcessHealth(systemctl=str(systemctl))
    stuck = asyncio.ensure_future(source.read())
    await until(lambda: source._process is not None)
    first = source._process
    assert await source.read() == HealthReport()
    assert source._process is first
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    await until(lambda: first is not None and first.returncode is not None)
    await until(lambda: not source._aside.busy)
    systemctl.write_text("#!/bin/sh\nshift 2\nfor unit; do echo active; done\n")
    assert (await source.read()).libvirt is Health.UP


async def test_a_libvirt_and_a_nova_compute_that_hang_delay_no_heartbeat(tmp_path: Path) -> None:
    """Every thread that asks for guests is stuck, the health source never answers, and the target of a probe says nothing."""
    released = threading.Event()

    class Stuck:
        asked = 0

        def present(self, server: str) -> bool | None:
            del server
            self.asked += 1
            released.wait(DEADLINE_S)
            return True

        def health(self) -> Health:
            return Health.UNKNOWN

        async def read(self) -> HealthReport:
            await asyncio.Event().wait()
            raise AssertionError

    stuck = Stuck()
    home = tmp_path / "compute-1"
    home.mkdir()
    config = RemoteConfig(
        pki=certificates("host", "compute-1"),
        state_directory=home,
        control_socket=home / "control",
        listen="127.0.0.1",
        port=0,
    )
    served, mute = Remote(config, SystemClock(), stuck, stuck), listening()
    await served.start()
    try:
        channel = await session(served.port, certificates(*CONTROLLER), 0.02)
        assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
        for number in range(20):
            channel.send(wire.DomainQuery(request=number, server=f"server-{number}"))
        port = int(mute.getsockname()[1])
        channel.send(wire.Probe(target="t", address="127.0.0.1", port=port, nonce=NONCE, deadline_s=30))
        await until(lambda: stuck.asked == 2)  # as many as there are threads
        beats = [await channel.receive(DEADLINE_S) for _ in range(20)]
        assert all(isinstance(beat, wire.Beat) and beat.nova_compute is Health.UNKNOWN for beat in beats)
        assert served._host.gate.is_open is False
        await served._host.gate.open(served._host.boot_id, "a test")  # a gate is opened all the same
        channel.abort()
    finally:
        released.set()
        mute.close()
        await served.stop()
