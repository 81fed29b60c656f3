"""Hostile connections of every kind against a real remote and a real monitor: refused, counted, and nobody else hears of it.

The remote is a process, so is the attacker; the monitor runs here. How late heartbeats are is measured and reported, not judged: the test
fails when one is lost, when a connection of an honest peer ends, or when a newcomer with a valid certificate is not served.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from ha_agent.heartbeat import wire
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.pki import Pki
from ha_agent.heartbeat.signing import Signer
from ha_agent.model import Answer
from tests.integration.attacker import ATTACKS, MAY_ENTER
from tests.integration.honest import INTERVAL_S, Late, World, monitored, past, process, unharmed
from tests.unit.heartbeat_support import impostor, listening, session, until, welcomed

QUIET_S = 2.0
ATTACK_S = 1.5
DEADLINE_S = 15.0
NONCE = "0123456789abcdef0123456789abcdef"


def report(name: str, quiet: Late, attacked: Late, more: str) -> str:
    ratio = "  ".join(
        f"{what} p50 ×{now50 / max(was50, 0.001):.1f} p99 ×{now99 / max(was99, 0.001):.1f} ({now99:.1f} ms)"
        for what, was50, was99, now50, now99 in (
            ("gap", quiet.gap_p50, quiet.gap_p99, attacked.gap_p50, attacked.gap_p99),
            ("rtt", quiet.rtt_p50, quiet.rtt_p99, attacked.rtt_p50, attacked.rtt_p99),
        )
    )
    return f"  {name:<16} {ratio}  {more}"


async def newcomer(world: World) -> None:
    """Another controller is served while it goes on."""
    channel = await session(world.port, world.directory / "controller-2", 60.0)
    assert isinstance(await channel.receive(DEADLINE_S), wire.Welcome)
    channel.abort()


async def test_a_remote_under_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    lines = []
    with (
        world.remote(),
        process("tests.integration.attacker", str(world.port), world.loot, log=tmp_path / "attacker.log") as attacker,
    ):
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        await world.ready()
        async with monitored(world, {"compute-1": world.port}) as (_, heard):
            # A stolen host's half of a frame, sent at leisure, through all that follows.
            dawdler = await session(world.port, world.loot / "stolen")
            assert isinstance(await dawdler.receive(DEADLINE_S), wire.Welcome)
            dawdling = asyncio.create_task(dribble(dawdler))
            await until(lambda: bool(heard.beats.get("compute-1")))
            since = len(heard.beats["compute-1"])
            await asyncio.sleep(QUIET_S)
            quiet = Late.of(unharmed(heard, since))
            lines.append(
                f"heartbeats every {1000 * INTERVAL_S:.0f} ms, in peace: gap p50 {quiet.gap_p50:.2f} p99 {quiet.gap_p99:.2f} ms, "
                f"rtt p50 {quiet.rtt_p50:.2f} p99 {quiet.rtt_p99:.2f} ms; under attack:"
            )
            for name, expected in ATTACKS.items():
                before, since = await world.counters(), len(heard.beats["compute-1"])
                attacker.stdin.write(f"{name} {ATTACK_S}\n".encode())
                attacker.stdin.flush()
                answer = asyncio.create_task(asyncio.to_thread(attacker.stdout.readline))
                await asyncio.sleep(ATTACK_S / 2)
                await newcomer(world)
                said = await asyncio.wait_for(answer, DEADLINE_S)
                assert said, (tmp_path / "attacker.log").read_text()
                tally = json.loads(said)
                attacked = Late.of(unharmed(heard, since))
                after = await world.counters()
                grown = {key: after[key] - before[key] for key in after if after[key] > before[key]}
                assert tally["tried"] > 10, name
                assert name in MAY_ENTER or tally["welcomed"] == 0, (name, tally)
                assert expected & grown.keys(), (name, tally, grown)
                grown.pop("connections", None)
                counted = ", ".join(f"{key} {value}" for key, value in sorted(grown.items()))
                lines.append(report(name, quiet, attacked, f"[{tally['tried']} tried; {counted}]"))
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(dawdling, DEADLINE_S)
            assert (await world.counters())["idle_closed"] == 1
            unharmed(heard, 0)
        log = (world.home / "remote.log").read_text()
        assert "127.0.0." in log
        assert len(log.splitlines()) < 200, "a flood of connections became a flood of lines"
    with capsys.disabled():
        print("\n" + "\n".join(lines))


async def dribble(channel: Channel) -> None:
    """A byte a second, of a frame that never ends."""
    channel._writer.write((60_000).to_bytes(4, "big"))

    async def bytes_on() -> None:
        while True:
            channel._writer.write(b"x")
            await asyncio.sleep(1.0)

    writing = asyncio.create_task(bytes_on())
    try:
        await channel.receive(60.0)
    finally:
        writing.cancel()


async def test_a_controller_that_dials_impostors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight hosts of the inventory are hostile; the ninth is heard as if they were not."""
    world = World(tmp_path)
    everything = Pki(tmp_path / "ca")
    impostors = tmp_path / "impostors"
    foreign = Pki(tmp_path / "foreign-ca")
    forger = everything.issue("host", "forger", impostors / "forger")
    chains = {
        "wrong-authority": foreign.issue("host", "wrong-authority", impostors / "wrong-authority"),
        "expired": Pki(tmp_path / "ca", past).issue("host", "expired", impostors / "expired"),
        "another-host": everything.issue("host", "somebody", impostors / "another-host"),
        "revoked": everything.issue("host", "revoked", impostors / "revoked"),
        "oversized": everything.issue("host", "oversized", impostors / "oversized"),
        "garbage": everything.issue("host", "garbage", impostors / "garbage"),
        "forger": forger,
    }
    everything.revoke("host", "revoked")
    shutil.copyfile(tmp_path / "ca" / "crl.pem", world.controller / "crl.pem")
    shutil.copyfile(world.controller / "ca.pem", chains["wrong-authority"] / "ca.pem")

    async def beats(channel: Channel) -> None:
        """Polite, and heard by nobody who looks at certificates."""
        await welcomed(channel, "x")
        await asyncio.Event().wait()

    async def oversized(channel: Channel) -> None:
        await welcomed(channel, "oversized")
        channel._writer.write((2**31 - 1).to_bytes(4, "big"))
        await asyncio.Event().wait()

    async def garbage(channel: Channel) -> None:
        await welcomed(channel, "garbage")
        channel._writer.write(b"\x00\x00\x00\x10" + b"\xff" * 16)
        await asyncio.Event().wait()

    replayed = Signer(world.home / "pki").sign("f" * 32, "boot-of-yesterday")  # recorded at an earlier probe

    async def forge(channel: Channel) -> None:
        """A witness that claims what it cannot prove: an old answer, another's name, a signature of its own."""
        await welcomed(channel, "forger")
        own = Signer(forger)
        for seq in range(1, 1_000_000):
            channel.send(wire.Beat(seq=seq, boot_id="b", started_s=1.0))
            frame = await channel.receive(DEADLINE_S)
            if isinstance(frame, wire.Probe):
                lies = [
                    replayed,
                    msgspec.structs.replace(replayed, nonce=frame.nonce),
                    msgspec.structs.replace(own.sign(frame.nonce, "b"), name=frame.target),
                ]
                lie = lies[int(frame.nonce[0]) % 3]
                channel.send(wire.ProbeResult(nonce=frame.nonce, target=frame.target, answer=Answer.SIGNED, signed=lie))
            await asyncio.sleep(0.02)

    with world.remote(), listening() as mute:
        async with contextlib.AsyncExitStack() as stack:
            hosts = {"compute-1": world.port, "slow-loris": int(mute.getsockname()[1])}
            answers = {"oversized": oversized, "garbage": garbage, "forger": forge}
            await world.ready()
            async with monitored(world, hosts) as (watch, heard):
                await until(lambda: bool(heard.beats.get("compute-1")))
                since = len(heard.beats["compute-1"])
                await asyncio.sleep(QUIET_S)
                quiet = Late.of(unharmed(heard, since))
                for name, home in chains.items():
                    hosts[name] = await stack.enter_async_context(impostor(home, answers.get(name, beats)))
                since = len(heard.beats["compute-1"])
                watch.set_hosts({host: Endpoint(address="127.0.0.1", port=port) for host, port in hosts.items()})
                await until(lambda: bool(heard.beats.get("forger")))
                for number in range(3):
                    watch.probe("forger", "compute-1", f"{number}" * 32, 2.0)
                await asyncio.sleep(ATTACK_S)
                await until(lambda: len(heard.answers) == 3)
                attacked = Late.of(unharmed(heard, since))
                assert {answer.answer for answer in heard.answers} == {Answer.FAILED}
                assert heard.beats.keys() == {"compute-1", "forger"}  # the forger is a host of ours, in its own name
                counters = watch.counters
                assert counters.forged_probes == 3
                for name in (
                    "handshakes_untrusted",
                    "handshakes_expired",
                    "handshakes_slow",
                    "refused_identities",
                    "refused_revoked",
                    "oversized_frames",
                    "malformed_frames",
                ):
                    assert getattr(counters, name) >= 1, name
                ended = {one.host for one in heard.ended}
                assert ended == hosts.keys() - {"compute-1", "forger"}
    with capsys.disabled():
        print("\n" + report("impostors", quiet, attacked, f"[{len(hosts) - 1} hostile hosts]"))
