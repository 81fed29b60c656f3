"""The frames between controllers and remotes, and between remotes that probe each other.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON with a `type`. The side that dials says `Hello` first with all
versions that it speaks; the other chooses and says `Welcome` (or `Refused`). Minor versions only add: fields that a side does not
know are ignored, and a side sends no frame type that is newer than the agreed minor version, so that an unknown type is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ha_agent.errors import ProtocolError
from ha_agent.model import Answer, Health, Value
from ha_agent.planes import MAX_PLANES

MAX_FRAME = 64 * 1024
HEADER = 4
VERSIONS: tuple[tuple[int, int], ...] = ((1, 0),)  # (major, newest minor) of each major that we speak, newest first

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Id = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=1024)]
Nonce = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Version = tuple[Annotated[int, Meta(ge=0, lt=2**31)], Annotated[int, Meta(ge=0, lt=2**31)]]


class OversizedFrame(ProtocolError):
    """The other side announces more than a frame may hold."""


class Frame(Value, frozen=True, kw_only=True, tag=True):
    """Anything that goes over the wire."""


class Hello(Frame, frozen=True, kw_only=True):
    """First frame of the side that dials. `name` must be the one in its certificate. The rest is a controller's: the claim
    (`store_id`, `epoch`; epoch 0 claims nothing) and how often it wants a Beat; None: it only comes to challenge."""

    versions: Annotated[tuple[Version, ...], Meta(min_length=1, max_length=16)]
    name: Name
    store_id: Id = ""
    epoch: Count = 0
    interval_s: Annotated[float, Meta(ge=0.01, le=3600)] | None = None


class Welcome(Frame, frozen=True, kw_only=True):
    """The answer to Hello: the agreed version, and who answers, in which boot."""

    version: Version
    name: Name
    boot_id: Id


class Refused(Frame, frozen=True, kw_only=True):
    """The last frame before the connection is closed: why."""

    reason: Text


class Claim(Frame, frozen=True, kw_only=True):
    """Controller to remote: the claim has changed since Hello."""

    store_id: Id
    epoch: Count


class Foreign(Frame, frozen=True, kw_only=True):
    """Remote to controller: another controller claims this host too, with another store or a newer epoch."""

    controller: Name
    store_id: Id
    epoch: Count


class Beat(Frame, frozen=True, kw_only=True):
    """Remote to controller, every interval. `started_s`: since the remote started. `rtt_s`: of the last acknowledged beat.
    `machine`: the DMI uuid, empty where it is not known."""

    seq: Count
    boot_id: Id
    started_s: Seconds
    nova_compute: Health = Health.UNKNOWN
    libvirt: Health = Health.UNKNOWN
    waiting_gate: bool = False
    rtt_s: Seconds = 0.0
    machine: Id = ""


class BeatAck(Frame, frozen=True, kw_only=True):
    """Controller to remote: this beat has arrived. It also tells the remote that the controller is alive."""

    seq: Count


class Probe(Frame, frozen=True, kw_only=True):
    """Controller to remote: reach `target` and have it sign `nonce`. `planes`: its addresses on planes beside that of management, by
    plane; absent: it has none. An older remote does not know the field: it tries the management plane alone."""

    target: Name
    address: Name
    port: Port
    nonce: Nonce
    deadline_s: Annotated[float, Meta(gt=0, le=60)]
    planes: Annotated[dict[Name, Name], Meta(max_length=MAX_PLANES - 1)] | UnsetType = UNSET


class Challenge(Frame, frozen=True, kw_only=True):
    """To a remote, by a host or a controller: sign this nonce."""

    nonce: Nonce


class Signed(Frame, frozen=True, kw_only=True):
    """The answer to Challenge: `signature` over (nonce, name, boot_id) by the private key of `chain[0]`; `chain`: DER certificates."""

    nonce: Nonce
    name: Name
    boot_id: Id
    signature: Annotated[bytes, Meta(max_length=1024)]
    chain: Annotated[tuple[Annotated[bytes, Meta(max_length=8192)], ...], Meta(min_length=1, max_length=4)]


class ProbeResult(Frame, frozen=True, kw_only=True):
    """Remote to controller: what came of a Probe. `signed` is the target's own word, relayed untouched. `planes`: what came over each
    plane that was tried; absent: the management plane alone was."""

    nonce: Nonce
    target: Name
    answer: Answer
    signed: Signed | None = None
    error: Text = ""
    planes: Annotated[dict[Name, Answer], Meta(max_length=MAX_PLANES)] | UnsetType = UNSET


class OpenGate(Frame, frozen=True, kw_only=True):
    """Controller to remote: nova-compute may start in this boot, and only in this one."""

    request: Count
    boot_id: Id


class GateAck(Frame, frozen=True, kw_only=True):
    """Remote to controller: it is stored durably; or `error` says why not."""

    request: Count
    error: Text = ""


class DomainQuery(Frame, frozen=True, kw_only=True):
    """Controller to remote: does this server's domain exist here?"""

    request: Count
    server: Name


class DomainAnswer(Frame, frozen=True, kw_only=True):
    """Remote to controller: True, False, or None where it cannot be said."""

    request: Count
    present: bool | None


AnyFrame = (
    Hello
    | Welcome
    | Refused
    | Claim
    | Foreign
    | Beat
    | BeatAck
    | Probe
    | Challenge
    | Signed
    | ProbeResult
    | OpenGate
    | GateAck
    | DomainQuery
    | DomainAnswer
)
_decoder: msgspec.json.Decoder[AnyFrame] = msgspec.json.Decoder(AnyFrame)
_encoder = msgspec.json.Encoder()


def encode(frame: Frame) -> bytes:
    """The frame as it goes over the wire, length included. Raises ProtocolError where it is too long."""
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes is longer than the limit of {MAX_FRAME}")
    return len(body).to_bytes(HEADER, "big") + body


def length(header: bytes) -> int:
    """How many bytes follow the header. Raises ProtocolError before anything that long is read."""
    size = int.from_bytes(header, "big")
    if not 0 < size <= MAX_FRAME:
        raise OversizedFrame(f"a frame of {size} bytes is announced, allowed are 1 to {MAX_FRAME}")
    return size


def decode(body: bytes) -> AnyFrame:
    """The frame in `body` (without its length). Raises ProtocolError for anything that is not exactly one known frame."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a frame cannot be read: {error}") from None


def negotiate(theirs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The newest version that both sides speak: the highest common major, and the lower of its two minors. Raises ProtocolError."""
    newest = dict(sorted(theirs))
    for major, minor in VERSIONS:
        if major in newest:
            return (major, min(minor, newest[major]))
    raise ProtocolError(f"no common version: they speak {sorted(newest.items())}, we speak {list(VERSIONS)}")
