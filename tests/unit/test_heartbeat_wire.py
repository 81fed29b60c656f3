"""Frames: what is frozen stays readable, and nothing malformed gets through."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from ha_agent.errors import ProtocolError
from ha_agent.heartbeat import control, wire
from ha_agent.model import Answer, Health

FIXTURES = Path(__file__).parent.parent / "fixtures" / "frames"
NONCE = "0123456789abcdef0123456789abcdef"
BOOT = "5f0c1a52-3c0e-4b8e-9a53-1f6f4f0a7d11"
STORE = "0d3fbb1e-7a8f-4f0b-8f6d-2b8b6a0f3c55"
SIGNED = wire.Signed(
    nonce=NONCE, name="compute-2", boot_id=BOOT, signature=b"\x30\x01\x02", chain=(b"\x30\x82", b"\x30")
)

FRAMES: tuple[wire.AnyFrame, ...] = (
    wire.Hello(versions=((2, 1), (1, 0)), name="controller-1", store_id=STORE, epoch=7, interval_s=1.0),
    wire.Welcome(version=(1, 0), name="compute-1", boot_id=BOOT),
    wire.Refused(reason="no common version"),
    wire.Claim(store_id=STORE, epoch=8),
    wire.Foreign(controller="controller-9", store_id=STORE, epoch=9),
    wire.Beat(
        seq=12,
        boot_id=BOOT,
        started_s=34.5,
        nova_compute=Health.UP,
        libvirt=Health.DOWN,
        waiting_gate=True,
        rtt_s=0.002,
        machine="4c4c4544-0042-3510-8052-b4c04f4d3232",
    ),
    wire.BeatAck(seq=12),
    wire.Probe(target="compute-2", address="192.0.2.12", port=7420, nonce=NONCE, deadline_s=1.5),
    wire.Challenge(nonce=NONCE),
    SIGNED,
    wire.ProbeResult(nonce=NONCE, target="compute-2", answer=Answer.SIGNED, signed=SIGNED, error=""),
    wire.OpenGate(request=3, boot_id=BOOT),
    wire.GateAck(request=3, error="this host is in another boot"),
    wire.DomainQuery(request=4, server="c3f7c6d2-55a7-4a52-9d29-3f3e5d1c9a10"),
    wire.DomainAnswer(request=4, present=None),
)
LINES: tuple[control.Ask | control.Reply, ...] = (
    control.AskStatus(),
    control.AskGate(),
    control.AskOverride(reason="the controller is gone"),
    control.GateState(open=False, boot_id=BOOT),
    control.RemoteStatus(
        name="compute-1",
        boot_id=BOOT,
        port=7420,
        controllers=("controller-1",),
        gate_open=True,
        waiting_gate=False,
        nova_compute="up",
        libvirt="unknown",
        machine="",
        counters={"connections": 1},
    ),
    control.Failure(error="uid 1000 may not open the gate", hint="run it as root"),
)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frozen_frame_is_read_and_written_as_ever(frame: wire.AnyFrame) -> None:
    frozen = (FIXTURES / f"{type(frame).__name__}.json").read_bytes().rstrip(b"\n")
    assert wire.decode(frozen) == frame
    assert wire.encode(frame) == len(frozen).to_bytes(4, "big") + frozen


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_frozen_control_line_is_read_and_written_as_ever(line: control.Ask | control.Reply) -> None:
    frozen = (FIXTURES / f"control-{type(line).__name__}.json").read_bytes().rstrip(b"\n")
    assert msgspec.json.decode(frozen, type=type(line)) == line
    assert msgspec.json.encode(line) == frozen


def test_every_frame_type_has_a_fixture() -> None:
    kinds = {kind.__name__ for kind in typing.get_args(wire.AnyFrame)}
    kinds |= {f"control-{kind.__name__}" for kind in typing.get_args(control.Ask | control.Reply)}
    assert kinds == {path.stem.removesuffix("-planes") for path in FIXTURES.glob("*.json")}
    subclasses = {kind.__name__ for kind in wire.Frame.__subclasses__()}
    assert subclasses == {kind.__name__ for kind in typing.get_args(wire.AnyFrame)}, "a frame outside the union"


def test_fields_of_a_newer_minor_version_are_ignored() -> None:
    assert wire.decode(b'{"type":"BeatAck","seq":1,"mood":{"deep":[1]}}') == wire.BeatAck(seq=1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"type":"Novelty"}',
        b'{"type":"BeatAck"}',
        b'{"type":"BeatAck","seq":-1}',
        b'{"type":"BeatAck","seq":1.5}',
        b'{"type":"BeatAck","seq":"1"}',
        b'{"type":"BeatAck","seq":true}',
        b'{"type":"BeatAck","seq":99999999999999999999}',
        b'{"type":"BeatAck","seq":1} {"type":"BeatAck","seq":2}',
        b'{"type":"Beat","seq":1,"boot_id":"b","started_s":NaN}',
        b'{"type":"Beat","seq":1,"boot_id":"b","started_s":1e999}',
        b'{"type":"Beat","seq":1,"boot_id":"b","started_s":1,"libvirt":"splendid"}',
        b'{"type":"Beat","seq":1,"boot_id":"\xff","started_s":1}',
        b'{"type":"Challenge","nonce":"0123"}',
        b'{"type":"Challenge","nonce":"0123456789ABCDEF0123456789ABCDEF"}',
        b'{"type":"Hello","versions":[],"name":"x"}',
        b'{"type":"Hello","versions":[[1]],"name":"x"}',
        b'{"type":"Hello","versions":[[1,0]],"name":""}',
        b'{"type":"Hello","versions":[[1,0]],"name":"x","interval_s":0}',
        b'{"type":"Probe","target":"t","address":"a","port":0,"nonce":"0123456789abcdef0123456789abcdef","deadline_s":1}',
        b'{"type":"Signed","nonce":"0123456789abcdef0123456789abcdef","name":"n","boot_id":"","signature":"","chain":[]}',
        b"[" * 60_000,
    ],
)
def test_malformed_frames_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(body)


@pytest.mark.parametrize("size", [0, wire.MAX_FRAME + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_it_is_read(size: int) -> None:
    with pytest.raises(ProtocolError):
        wire.length(size.to_bytes(4, "big"))
    assert wire.length(wire.MAX_FRAME.to_bytes(4, "big")) == wire.MAX_FRAME


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    chain = tuple(b"x" * 20_000 for _ in range(4))
    with pytest.raises(ProtocolError):
        wire.encode(wire.Signed(nonce=NONCE, name="n", boot_id="b", signature=b"", chain=chain))


def test_the_largest_valid_answer_fits_into_a_frame() -> None:
    signed = wire.Signed(nonce=NONCE, name="é" * 255, boot_id="b" * 64, signature=b"s" * 1024, chain=(b"x" * 8192,) * 4)
    result = wire.ProbeResult(nonce=NONCE, target="é" * 255, answer=Answer.SIGNED, signed=signed, error="e" * 1024)
    assert wire.decode(wire.encode(result)[4:]) == result


@pytest.mark.parametrize(
    ("theirs", "agreed"),
    [([(1, 0)], (1, 0)), ([(1, 9)], (1, 0)), ([(3, 1), (1, 4)], (1, 0)), ([(0, 9), (1, 0)], (1, 0))],
)
def test_the_newer_side_speaks_down(theirs: list[tuple[int, int]], agreed: tuple[int, int]) -> None:
    assert wire.negotiate(theirs) == agreed


def test_no_common_version_is_an_error_that_names_both() -> None:
    with pytest.raises(ProtocolError, match=r"\(2, 0\).*\(1, 0\)"):
        wire.negotiate([(2, 0)])
