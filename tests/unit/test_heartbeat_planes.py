"""Remotes with addresses on several planes: who is asked to reach one tries all of them; older versions try one, and say so."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from ha_agent.errors import ProtocolError
from ha_agent.heartbeat import wire
from ha_agent.heartbeat.channel import Channel
from ha_agent.heartbeat.link import Endpoint
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.signing import Signer
from ha_agent.model import Answer
from ha_agent.planes import MANAGEMENT
from ha_agent.ports import Heartbeat

from .heartbeat_support import (
    DEADLINE_S,
    NONCE,
    Seen,
    certificates,
    closed_port,
    impostor,
    monitor,
    remote,
    until,
    welcomed,
)
from .test_heartbeat_monitor import probed
from .test_heartbeat_wire import FIXTURES

SILENT, TCP, SIGNED, FAILED = Answer.SILENT, Answer.TCP, Answer.SIGNED, Answer.FAILED
PROBE_S = 1.0  # three planes that are silent, one after the other, would take 2.8 s
HERE, STORAGE, SILENT_AT, NO_ROUTE = "127.0.0.1", "127.0.0.2", "127.0.0.3", "224.0.0.1"


@contextlib.contextmanager
def silence(port: int) -> Iterator[None]:
    """At SILENT_AT a kernel drops what comes, as a dead machine would: its queue is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((SILENT_AT, port))
        full.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex((SILENT_AT, port))
        yield


def two_planes(config: RemoteConfig) -> RemoteConfig:
    return dataclasses.replace(config, listen_also=((STORAGE, config.port),))


@contextlib.asynccontextmanager
async def world(tmp_path: Path, address: str, planes: dict[str, str]) -> AsyncIterator[tuple[Monitor, Seen, Remote]]:
    """A witness, and a target whose remote listens on HERE and on STORAGE, and is said to be elsewhere."""
    port = closed_port()
    async with (
        remote(tmp_path) as one,
        remote(tmp_path, "target", config=two_planes, boot_id="boot-t", port=port) as target,
        monitor({"compute-1": one.port}) as (watch, seen),
    ):
        watch._hosts["target"] = Endpoint(address=address, port=port, planes=planes)
        with silence(port):
            yield watch, seen, target


@pytest.mark.parametrize("witness", ["compute-1", "controller-1"])
@pytest.mark.parametrize(
    ("address", "planes", "answer", "over"),
    [
        (HERE, {}, SIGNED, {}),
        (HERE, {"storage": STORAGE}, SIGNED, {MANAGEMENT: SIGNED, "storage": SIGNED}),
        (SILENT_AT, {"storage": STORAGE}, SIGNED, {MANAGEMENT: SILENT, "storage": SIGNED}),
        (HERE, {"storage": SILENT_AT}, SIGNED, {MANAGEMENT: SIGNED, "storage": SILENT}),
        (SILENT_AT, {"storage": "127.0.0.4"}, TCP, {MANAGEMENT: SILENT, "storage": TCP}),
        (SILENT_AT, {"storage": NO_ROUTE}, FAILED, {MANAGEMENT: SILENT, "storage": FAILED}),
        (SILENT_AT, {"a": SILENT_AT, "b": SILENT_AT}, SILENT, {MANAGEMENT: SILENT, "a": SILENT, "b": SILENT}),
    ],
)
async def test_every_plane_is_tried_within_the_deadline(
    tmp_path: Path, witness: str, address: str, planes: dict[str, str], answer: Answer, over: dict[str, Answer]
) -> None:
    async with world(tmp_path, address, planes) as (watch, seen, _):
        began = asyncio.get_running_loop().time()
        found = await probed(watch, seen, witness, PROBE_S)
        assert (found.answer, found.over) == (answer, over)
        assert found.boot_id == ("boot-t" if answer is SIGNED else "")
        assert asyncio.get_running_loop().time() - began < 2.4 * PROBE_S, "one after the other"


async def test_a_host_that_is_another_at_its_second_address_did_not_sign(tmp_path: Path) -> None:
    port = closed_port()
    async with (
        remote(tmp_path) as one,
        remote(tmp_path, "stranger", config=two_planes, port=port),
        monitor({"compute-1": one.port}) as (watch, seen),
    ):
        with silence(port):
            watch._hosts["target"] = Endpoint(address=SILENT_AT, port=port, planes={"storage": STORAGE})
            found = await probed(watch, seen, "compute-1", PROBE_S)
            assert (found.answer, found.over) == (TCP, {MANAGEMENT: SILENT, "storage": TCP})


# --- versions, and liars ---


def results() -> dict[str, wire.ProbeResult]:
    target = Signer(certificates("host", "target"))
    good, old = target.sign(NONCE, "boot-t"), target.sign("f" * 32, "boot-t")
    both = {MANAGEMENT: SILENT, "storage": SIGNED}
    plain = wire.ProbeResult(nonce=NONCE, target="target", answer=SILENT)

    def said(**changes: object) -> wire.ProbeResult:
        return msgspec.structs.replace(plain, **changes)

    return {
        "an older version denies": plain,
        "an older version reaches it": said(answer=SIGNED, signed=good),
        "a replayed signature": said(answer=SIGNED, signed=old, planes=both),
        "no signature": said(answer=SIGNED, planes=both),
        "a plane signed, the whole not": said(planes=both),
        "the whole signed, no plane": said(answer=SIGNED, signed=good, planes={MANAGEMENT: SILENT}),
        "signed over storage": said(answer=SIGNED, signed=good, planes=both),
    }


@pytest.mark.parametrize(
    ("kind", "answer", "over"),
    [
        ("an older version denies", SILENT, {}),
        ("an older version reaches it", SIGNED, {}),
        ("a replayed signature", FAILED, {}),
        ("no signature", FAILED, {}),
        ("a plane signed, the whole not", FAILED, {}),
        ("the whole signed, no plane", SIGNED, {}),
        ("signed over storage", SIGNED, {MANAGEMENT: SILENT, "storage": SIGNED}),
    ],
)
async def test_what_a_witness_says_of_planes(kind: str, answer: Answer, over: dict[str, Answer]) -> None:
    async def says(channel: Channel) -> None:
        await welcomed(channel, "compute-1")
        await channel.receive(DEADLINE_S)
        channel.send(results()[kind])
        await asyncio.Event().wait()

    async with (
        impostor(certificates("host", "compute-1"), says) as port,
        monitor({"compute-1": port, "target": closed_port()}) as (watch, seen),
    ):
        found = await probed(watch, seen, "compute-1")
        assert (found.answer, found.over) == (answer, over)
        assert watch.counters.forged_probes == (answer is FAILED)


FRAMES: dict[str, wire.AnyFrame] = {
    "Probe-planes": wire.Probe(
        target="compute-2",
        address="192.0.2.12",
        port=7420,
        nonce=NONCE,
        deadline_s=1.5,
        planes={"storage": "198.51.100.12", "tenant": "203.0.113.12"},
    ),
    "ProbeResult-planes": wire.ProbeResult(
        nonce=NONCE,
        target="compute-2",
        answer=TCP,
        error="management: no TCP answer from 192.0.2.12:7420 in 1.42 s",
        planes={MANAGEMENT: SILENT, "storage": TCP},
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frozen_frame_is_read_and_written_as_ever(name: str) -> None:
    frozen = (FIXTURES / f"{name}.json").read_bytes().rstrip(b"\n")
    assert wire.decode(frozen) == FRAMES[name]
    assert wire.encode(FRAMES[name]) == len(frozen).to_bytes(4, "big") + frozen


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """As it was before there were planes."""

    target: str
    address: str
    port: int
    nonce: str
    deadline_s: float


def test_an_older_remote_reads_the_question_and_tries_one_plane() -> None:
    read = msgspec.json.decode(wire.encode(FRAMES["Probe-planes"])[wire.HEADER :], type=Probe)
    assert read == Probe(target="compute-2", address="192.0.2.12", port=7420, nonce=NONCE, deadline_s=1.5)


def test_a_probe_of_more_planes_than_a_host_may_have_is_refused() -> None:
    frozen = msgspec.json.decode((FIXTURES / "Probe-planes.json").read_bytes())
    frozen["planes"] = {f"p{n}": "192.0.2.1" for n in range(4)}
    with pytest.raises(ProtocolError, match="planes"):
        wire.decode(msgspec.json.encode(frozen))


# --- addresses ---


async def test_new_planes_of_a_host_do_not_end_its_connection(tmp_path: Path) -> None:
    async with remote(tmp_path) as one, monitor({"compute-1": one.port}) as (watch, seen):
        await seen.next(Heartbeat)
        watch.set_hosts({"compute-1": Endpoint(address=HERE, port=one.port, planes={"storage": STORAGE})})
        assert watch.connected() == {"compute-1"}
        assert one.counters.connections == 1


async def test_a_remote_starts_while_one_of_its_planes_is_not_there(tmp_path: Path) -> None:
    absent = "203.0.113.77"

    def config(same: RemoteConfig) -> RemoteConfig:
        return dataclasses.replace(same, listen_also=((absent, same.port),))

    async with (
        remote(tmp_path, config=config, port=closed_port()) as one,
        monitor({"compute-1": one.port}) as (_, seen),
    ):
        await seen.next(Heartbeat)
        await until(lambda: len(one._listeners) == 2)
