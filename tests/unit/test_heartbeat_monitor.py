"""The monitor against real remotes, impostors and dead ports over loopback TLS."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
from pathlib import Path

import msgspec
import pytest

from ha_agent.errors import UsageError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.signing import Signer
from ha_agent.heartbeat.sources import FileGuests
from ha_agent.model import Answer
from ha_agent.ports import Disconnected, ForeignClaim, Heartbeat, ProbeAnswered
from ha_agent.ports import Monitor as MonitorPort
from ha_agent.system import SystemClock, SystemRandom

from .heartbeat_support import (
    DEADLINE_S,
    NONCE,
    QUICK,
    Seen,
    certificates,
    closed_port,
    impostor,
    listening,
    monitor,
    raw,
    remote,
    until,
    welcomed,
)


def test_tls_buffers_are_small() -> None:
    assert asyncio.sslproto.SSLProtocol.max_size == 16 * 1024


async def test_heartbeats_of_several_hosts(tmp_path: Path) -> None:
    async with (
        remote(tmp_path, "compute-1", boot_id="boot-a") as one,
        remote(tmp_path, "compute-2", boot_id="boot-b") as two,
        monitor({"compute-1": one.port, "compute-2": two.port}) as (watch, seen),
    ):
        port: MonitorPort = watch
        assert port
        beat = await seen.next(Heartbeat, lambda beat: beat.host == "compute-2" and beat.seq > 1)
        assert (beat.boot_id, beat.seq) == ("boot-b", 2)
        await seen.next(Heartbeat, lambda beat: beat.host == "compute-1" and beat.boot_id == "boot-a")
        assert watch.connected() == {"compute-1", "compute-2"}


async def test_a_host_that_went_is_noticed_and_found_again(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as first:
        served = await first.enter_async_context(remote(tmp_path))
        async with monitor({"compute-1": served.port}) as (_, seen):
            await seen.next(Heartbeat)
            await first.aclose()
            gone = await seen.next(Disconnected)
            assert gone.answered
            refused = await seen.next(Disconnected)
            assert (refused.answered, refused.spoke) == (True, False)  # its kernel refuses: it is not silent
            async with remote(tmp_path, boot_id="boot-2", port=served.port):
                beat = await seen.next(Heartbeat)
                assert beat.boot_id == "boot-2"


async def test_silence_after_the_welcome_is_not_an_answer(tmp_path: Path) -> None:
    async def mute(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        await asyncio.Event().wait()

    options = msgspec.structs.replace(QUICK, silence_s=0.2, interval_s=0.02)
    async with (
        impostor(certificates("host", "compute-1"), mute) as port,
        monitor({"compute-1": port}, options=options) as (watch, seen),
    ):
        gone = await seen.next(Disconnected)
        assert not gone.answered
        assert watch.counters.idle_closed == 1


async def test_a_kernel_that_accepts_while_the_remote_is_silent_has_answered(tmp_path: Path) -> None:
    with listening() as frozen:
        hosts = {"compute-1": int(frozen.getsockname()[1])}
        async with monitor(hosts, options=msgspec.structs.replace(QUICK, dial_s=0.1)) as (_, seen):
            gone = await seen.next(Disconnected)
            assert (gone.answered, gone.spoke) == (True, False)
            assert "TLS" in gone.error


@pytest.mark.parametrize(
    ("role", "name"), [("host", "compute-2"), ("controller", "compute-1")], ids=["another host", "a controller"]
)
async def test_a_peer_of_another_identity_is_no_heartbeat(role: str, name: str) -> None:
    async def beats(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        channel.send(wire.Beat(seq=1, boot_id="boot-1", started_s=1.0))
        await asyncio.Event().wait()

    async with impostor(certificates(role, name), beats) as port, monitor({"compute-1": port}) as (watch, seen):
        gone = await seen.next(Disconnected)
        assert (gone.answered, gone.spoke) == (True, True), "a program is there"
        assert name in gone.error
        await seen.next(Disconnected)
        assert watch.counters.refused_identities >= 2
        assert not any(isinstance(one, Heartbeat) for one in seen.all)


async def test_a_remote_of_a_foreign_authority_is_no_heartbeat() -> None:
    async def unreachable(_: Channel) -> None:
        raise AssertionError

    async with (
        impostor(certificates("host", "compute-1", "theirs"), unreachable) as port,
        monitor({"compute-1": port}) as (watch, seen),
    ):
        gone = await seen.next(Disconnected)
        assert gone.answered
        assert watch.counters.handshake_failures == 1


@pytest.mark.parametrize(
    "hostile",
    [
        raw(b"garbage"),
        (2**31).to_bytes(4, "big"),
        raw({"type": "Novelty"}),
        raw({"type": "OpenGate", "request": 1, "boot_id": "b"}),
        raw({"type": "Foreign", "controller": "c", "store_id": "s", "epoch": 1}) * 2000,
    ],
    ids=["garbage", "oversized", "unknown type", "wrong direction", "flood"],
)
async def test_a_remote_that_breaks_the_protocol_is_cut_off_and_counted(hostile: bytes) -> None:
    async def breaks(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        channel._writer.write(hostile)
        await asyncio.Event().wait()

    async with (
        impostor(certificates("host", "compute-1"), breaks) as port,
        monitor({"compute-1": port}) as (watch, seen),
    ):
        gone = await seen.next(Disconnected)
        assert "protocol" in gone.error
        assert watch.counters.malformed_frames == 1


async def test_a_version_that_we_do_not_speak_is_an_error() -> None:
    async def newer(channel: Channel) -> None:
        await channel.receive(DEADLINE_S)
        channel.send(wire.Welcome(version=(9, 0), name="compute-1", boot_id="b"))
        await asyncio.Event().wait()

    async with impostor(certificates("host", "compute-1"), newer) as port, monitor({"compute-1": port}) as (_, seen):
        assert "version" in (await seen.next(Disconnected)).error


async def test_hosts_come_and_go_with_a_reload(tmp_path: Path) -> None:
    async with (
        remote(tmp_path, "compute-1") as one,
        remote(tmp_path, "compute-2") as two,
        monitor({"compute-1": one.port}) as (watch, seen),
    ):
        await seen.next(Heartbeat)
        kept = one.counters.connections
        one_at, two_at = (Endpoint(address="127.0.0.1", port=served.port) for served in (one, two))
        watch.set_hosts({"compute-1": one_at, "compute-2": two_at})
        await seen.next(Heartbeat, lambda beat: beat.host == "compute-2")
        assert one.counters.connections == kept  # it did not have to dial again
        watch.set_hosts({"compute-2": two_at})
        await until(lambda: not one._door)
        assert watch.connected() == {"compute-2"}


async def test_a_monitor_needs_a_controllers_certificate() -> None:
    with pytest.raises(UsageError, match="host"):
        Monitor(certificates("host", "compute-1"), {}, Seen(), SystemClock(), SystemRandom())


async def test_two_controllers_with_two_stores_hear_of_each_other(tmp_path: Path) -> None:
    async with (
        remote(tmp_path) as served,
        monitor({"compute-1": served.port}) as (first, first_seen),
        monitor({"compute-1": served.port}, name="controller-2") as (second, second_seen),
    ):
        await until(lambda: bool(first.connected() and second.connected()))
        first.set_claim("store-1", 3)
        second.set_claim("store-2", 1)
        claim = await first_seen.next(ForeignClaim)
        assert (claim.host, claim.controller, claim.store_id, claim.epoch) == (
            "compute-1",
            "controller-2",
            "store-2",
            1,
        )
        claim = await second_seen.next(ForeignClaim)
        assert (claim.controller, claim.store_id, claim.epoch) == ("controller-1", "store-1", 3)
        second.set_claim("store-1", 4)  # now the same store, and newer: only the older one is told
        claim = await first_seen.next(ForeignClaim, lambda claim: claim.store_id == "store-1")
        assert claim.epoch == 4


async def test_the_claim_is_in_the_hello_of_a_later_connection(tmp_path: Path) -> None:
    async with remote(tmp_path) as served, monitor({"compute-1": served.port}) as (first, first_seen):
        first.set_claim("store-1", 3)
        await first_seen.next(Heartbeat)
        async with monitor({}, name="controller-2") as (second, second_seen):
            second.set_claim("store-2", 0)
            second.set_hosts({"compute-1": Endpoint(address="127.0.0.1", port=served.port)})
            assert (await second_seen.next(ForeignClaim)).store_id == "store-1"


async def test_domains(tmp_path: Path) -> None:
    (tmp_path / "guests").write_text('{"server-1": {}}')
    guests = FileGuests(tmp_path / "guests")
    async with (
        remote(tmp_path, guests=guests) as one,
        remote(tmp_path, "compute-2") as two,
        monitor({"compute-1": one.port, "compute-2": two.port}) as (watch, _),
    ):
        await until(lambda: len(watch.connected()) == 2)
        assert (await watch.domain("compute-1", "server-1", DEADLINE_S)).present is True
        assert (await watch.domain("compute-1", "server-2", DEADLINE_S)).present is False
        assert (await watch.domain("compute-2", "server-1", DEADLINE_S)).present is None


# --- probes -------------------------------------------------------------------------------------------------------------


async def probed(watch: Monitor, seen: Seen, witness: str, deadline_s: float = 2.0) -> ProbeAnswered:
    await until(lambda: witness == watch.name or witness in watch.connected())
    watch.probe(witness, "target", NONCE, deadline_s)
    answer = await seen.next(ProbeAnswered)
    assert (answer.host, answer.witness, answer.nonce) == ("target", witness, NONCE)
    return answer


@pytest.mark.parametrize("witness", ["compute-1", "controller-1"])
async def test_a_target_that_lives_signs(tmp_path: Path, witness: str) -> None:
    async with (
        remote(tmp_path) as one,
        remote(tmp_path, "target", boot_id="boot-t") as target,
        monitor({"compute-1": one.port, "target": target.port}) as (watch, seen),
    ):
        answer = await probed(watch, seen, witness)
        assert (answer.answer, answer.boot_id) == (Answer.SIGNED, "boot-t")
        # The probe of the controller itself is a fresh dial; it does not take the place of its session.
        await seen.next(Heartbeat, lambda beat: beat.host == "target")
        assert one.counters.probes == (witness == "compute-1")


@pytest.mark.parametrize("witness", ["compute-1", "controller-1"])
@pytest.mark.parametrize("state", ["refuses", "accepts and is silent"])
async def test_a_kernel_without_a_remote_is_a_tcp_answer(tmp_path: Path, witness: str, state: str) -> None:
    with listening() as frozen:
        port = closed_port() if state == "refuses" else int(frozen.getsockname()[1])
        async with remote(tmp_path) as one, monitor({"compute-1": one.port, "target": port}) as (watch, seen):
            assert (await probed(watch, seen, witness, 0.3)).answer is Answer.TCP


async def test_no_packet_back_is_silence(tmp_path: Path) -> None:
    """A listener whose queue is full drops what comes, as a dead machine would."""
    with listening() as full:
        full.listen(0)
        address = full.getsockname()
        filling = [asyncio.ensure_future(asyncio.open_connection(*address)) for _ in range(3)]
        try:
            async with remote(tmp_path) as one, monitor({"compute-1": one.port}) as (watch, seen):
                await until(filling[0].done)
                watch._hosts["target"] = Endpoint(address="127.0.0.1", port=int(address[1]))
                assert (await probed(watch, seen, "compute-1", 0.3)).answer is Answer.SILENT
                assert (await probed(watch, seen, "controller-1", 0.3)).answer is Answer.SILENT
        finally:
            for task in filling:
                task.cancel()
            for made in await asyncio.gather(*filling, return_exceptions=True):
                if isinstance(made, tuple):
                    made[1].close()


async def test_a_machine_that_is_not_the_target_did_not_sign(tmp_path: Path) -> None:
    async with (
        remote(tmp_path) as one,
        remote(tmp_path, "compute-2") as other,
        monitor({"compute-1": one.port, "target": other.port}) as (watch, seen),
    ):
        assert (await probed(watch, seen, "compute-1")).answer is Answer.TCP


@pytest.mark.parametrize("witness", ["compute-9", "controller-9"])
async def test_a_witness_that_cannot_be_asked_has_failed(witness: str) -> None:
    async with monitor({"target": closed_port(), "compute-9": closed_port()}) as (watch, seen):
        watch.probe(witness, "target", NONCE, 1.0)
        assert not any(isinstance(one, ProbeAnswered) for one in seen.all)  # never before probe returns
        answer = await seen.next(ProbeAnswered)
        assert (answer.witness, answer.answer) == (witness, Answer.FAILED)
        watch.probe(witness, "nobody", NONCE, 1.0)
        assert (await seen.next(ProbeAnswered)).answer is Answer.FAILED


async def test_a_witness_that_dies_or_stays_silent_has_failed() -> None:
    async def witness(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        await channel.receive(DEADLINE_S)  # the first probe: no answer; the second ends the connection
        await channel.receive(DEADLINE_S)

    hosts = {"target": closed_port()}
    async with (
        impostor(certificates("host", "compute-1"), witness) as port,
        monitor({"compute-1": port, **hosts}) as (watch, seen),
    ):
        assert (await probed(watch, seen, "compute-1", 0.05)).answer is Answer.FAILED
        assert (await probed(watch, seen, "compute-1", DEADLINE_S * 2)).answer is Answer.FAILED


def forgeries() -> dict[str, wire.ProbeResult]:
    """What a stolen witness might claim of a dead target, whose certificate everybody has seen."""
    witness, target = Signer(certificates("host", "compute-1")), Signer(certificates("host", "target"))
    own = witness.sign(NONCE, "boot-t")
    old = target.sign("f" * 32, "boot-t")
    named = wire.Signed(nonce=NONCE, name="target", boot_id="boot-t", signature=own.signature, chain=own.chain)
    pasted = wire.Signed(nonce=NONCE, name="target", boot_id="boot-t", signature=own.signature, chain=old.chain)
    replayed = wire.Signed(nonce=NONCE, name="target", boot_id="boot-t", signature=old.signature, chain=old.chain)
    signed = {"none": None, "own": own, "named": named, "pasted": pasted, "old": old, "replayed": replayed}
    return {
        kind: wire.ProbeResult(nonce=NONCE, target="target", answer=Answer.SIGNED, signed=one)
        for kind, one in signed.items()
    }


@pytest.mark.parametrize("kind", ["none", "own", "named", "pasted", "old", "replayed"])
async def test_a_witness_cannot_forge(kind: str) -> None:
    async def forges(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        await channel.receive(DEADLINE_S)
        channel.send(forgeries()[kind])
        await asyncio.Event().wait()

    async with (
        impostor(certificates("host", "compute-1"), forges) as port,
        monitor({"compute-1": port, "target": closed_port()}) as (watch, seen),
    ):
        assert (await probed(watch, seen, "compute-1")).answer is Answer.FAILED
        assert watch.counters.forged_probes == 1


async def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    good = wire.ProbeResult(nonce="a" * 32, target="target", answer=Answer.SILENT)

    async def volunteers(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        channel.send(good)
        channel.send(wire.GateAck(request=99))
        channel.send(wire.Beat(seq=1, boot_id="b", started_s=0))
        await asyncio.Event().wait()

    async with (
        impostor(certificates("host", "compute-1"), volunteers) as port,
        monitor({"compute-1": port}) as (_, seen),
    ):
        await until(lambda: any(isinstance(one, Heartbeat) for one in seen.all))
        assert not any(isinstance(one, ProbeAnswered) for one in seen.all)
