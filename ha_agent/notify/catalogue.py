"""The catalogue of notifications: which event carries which object, and what each object holds. Pure data.

A minor version of an object only adds fields that have a default; whoever changes a field otherwise raises the major
version. Times named `wall` are seconds since the Unix epoch, durations end in `_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ha_agent.model import EvidenceKind, Kind, Mode, Power, ServerStage, Verdict

INFO, ERROR = "info", "error"

_REQUIRED: Any = object()


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of an object. `type`: str, int, float, bool, an enum, or the name of another object. `many`: a list.
    A `nullable` field may be None, which says "not known" or "does not apply"."""

    name: str
    type: Any
    meaning: str
    default: Any = _REQUIRED
    nullable: bool = False
    many: bool = False

    @property
    def required(self) -> bool:
        """Whether the caller must give it."""
        return self.default is _REQUIRED


@dataclass(frozen=True, kw_only=True)
class Object:
    """A versioned payload object."""

    name: str
    version: str
    fields: tuple[Field, ...]

    @cached_property
    def required(self) -> frozenset[str]:
        """Of its fields that the caller must give."""
        return frozenset(f.name for f in self.fields if f.required)

    @cached_property
    def names(self) -> frozenset[str]:
        """Of its fields."""
        return frozenset(f.name for f in self.fields)


@dataclass(frozen=True, kw_only=True)
class EventType:
    """An event, its object, and the priority that it is published with."""

    name: str
    object: str
    priority: str
    meaning: str


def _need(name: str, kind: Any, meaning: str) -> Field:
    return Field(name=name, type=kind, meaning=meaning)


def _text(name: str, meaning: str) -> Field:
    return Field(name=name, type=str, meaning=meaning, default="")


def _maybe(name: str, kind: Any, meaning: str) -> Field:
    return Field(name=name, type=kind, meaning=meaning, default=None, nullable=True)


def _list(name: str, kind: Any, meaning: str) -> Field:
    return Field(name=name, type=kind, meaning=meaning, default=(), many=True)


def _number(name: str, meaning: str) -> Field:
    return Field(name=name, type=int, meaning=meaning, default=0)


_HOST = _need("host", str, "the `host` of its nova-compute service")
_INCIDENT = _need("incident", str, "the incident's id")
_JUDGED = (
    _need("mode", Mode, "auto: we recover; notify: somebody else does"),
    _need("verdict", Verdict, "what is believed of the host"),
    _need("reason", str, "why, in a sentence"),
)
_BASE = (_INCIDENT, _HOST, *_JUDGED)
_EVIDENCE = _maybe("evidence", "EvidencePayload", "why we believe that the host is off; null: there is no evidence")
_SERVERS = (
    _list("servers", "ServerPayload", "the host's servers that are known so far"),
    _number("servers_left_out", "how many servers the bound on the size of a notification left out"),
)
_COUNTS = (
    _number("total", "servers of the host"),
    _number("moved", "evacuated"),
    _number("in_flight", "Nova is at work on them"),
    _number("waiting", "to be evacuated later"),
    _number("not_moved", "stay where they are; each has its reason"),
)
_SERVER = (
    _need("server", str, "the server's uuid"),
    _text("name", "its name"),
    _text("project_id", "its owner"),
    _list("tags", str, "its server tags"),
    _text("prior", "its status before the failure"),
    _maybe("stage", ServerStage, "where its recovery stands"),
)
_ERROR = _text("error", "what went wrong, in a sentence")

_OBJECTS = (
    Object(
        name="ReadingPayload",
        version="1.0",
        fields=(
            _need("device", str, "the fencing device"),
            _need("power", Power, "what it read; unknown when it did not answer"),
            _need("wall", float, "when"),
            _text("machine", "which machine the device says that it is"),
            _text("error", "why the power is unknown"),
        ),
    ),
    Object(
        name="EvidencePayload",
        version="1.0",
        fields=(
            _need(
                "kind",
                EvidenceKind,
                "devices: every device of the level read off, twice; confirmation: an operator said so",
            ),
            _need("wall", float, "when; of the oldest reading that counts"),
            _number("level", "the fencing level, from 0"),
            _text("by", "who confirmed it"),
            _list("readings", "ReadingPayload", "what the devices read"),
        ),
    ),
    Object(
        name="ServerPayload",
        version="1.0",
        fields=(
            _need("id", str, "the server's uuid"),
            _text("name", "its name"),
            _text("project_id", "its owner"),
            _list("tags", str, "its server tags"),
            _text("prior", "its status before the failure"),
            _maybe("stage", ServerStage, "where its recovery stands"),
            _text("reason", "why it is not moved, or what it waits for"),
            _text("dest", "the host that it runs on now"),
        ),
    ),
    Object(
        name="IncidentPayload",
        version="1.0",
        fields=(
            *_BASE,
            Field(name="kind", type=Kind, meaning="what failed", default=Kind.HOST),
            _text("subject", "what failed: the host, or the guest's server uuid"),
            _list("plan", str, "the steps that follow"),
            _text("step", "the step that it is at"),
            _maybe("last_seen_s", float, "seconds since the last heartbeat"),
            _text("blocked", "what blocks it"),
            _text("release", "the command that releases it"),
            _text("outcome", "how it ended"),
            _EVIDENCE,
            *_SERVERS,
        ),
    ),
    Object(
        name="HostPayload",
        version="1.0",
        fields=(
            _maybe("incident", str, "the incident's id, where there is one"),
            _HOST,
            *_JUDGED,
            _text("boot_id", "of its kernel"),
            _maybe("last_seen_s", float, "seconds since the last heartbeat"),
        ),
    ),
    Object(
        name="HostDownPayload",
        version="1.0",
        fields=(
            *_BASE,
            _EVIDENCE,
            Field(name="forced_down", type=bool, meaning="whether Nova was told", default=False),
            _maybe("last_seen_s", float, "seconds since the last heartbeat"),
            *_SERVERS,
        ),
    ),
    Object(
        name="HostFencePayload",
        version="1.0",
        fields=(
            *_BASE,
            _need("level", int, "the fencing level, from 0"),
            _list("devices", str, "its devices"),
            _EVIDENCE,
            _ERROR,
        ),
    ),
    Object(name="HostForcedDownPayload", version="1.0", fields=(*_BASE, _EVIDENCE)),
    Object(
        name="HostEvacuationPayload",
        version="1.0",
        fields=(
            *_BASE,
            _EVIDENCE,
            *_COUNTS,
            *_SERVERS,
            _maybe("retry_s", float, "seconds to the next attempt"),
            _ERROR,
        ),
    ),
    Object(
        name="ServerEvacuatePayload",
        version="1.0",
        fields=(
            *_BASE,
            *_SERVER,
            _number("attempt", "which attempt, from 1"),
            _text("dest", "the host that it runs on now"),
            _maybe("retry_s", float, "seconds to the next attempt"),
            _ERROR,
        ),
    ),
    Object(
        name="ServerNotMovedPayload",
        version="1.0",
        fields=(
            *_BASE,
            *_SERVER,
            _number("attempt", "attempts made"),
            _need("why", str, "why this server is not moved"),
        ),
    ),
    Object(
        name="GuestEventPayload",
        version="1.0",
        fields=(
            _maybe("incident", str, "the incident's id, where there is one"),
            _HOST,
            *_SERVER,
            _need("fault", str, "watchdog, crashed, io_error …"),
            _maybe("mode", Mode, "auto: we recover; notify: somebody else does; null: nothing follows"),
            _maybe("verdict", Verdict, "what is believed of its host"),
            _text("reason", "more, in a sentence"),
        ),
    ),
    Object(
        name="GuestRecoveryPayload",
        version="1.0",
        fields=(
            *_BASE,
            *_SERVER,
            _text("fault", "what is recovered from"),
            _number("attempt", "which attempt, from 1"),
            _maybe("retry_s", float, "seconds to the next attempt"),
            _ERROR,
        ),
    ),
    Object(
        name="FencingDevicePayload",
        version="1.0",
        fields=(
            _HOST,
            _need("device", str, "the fencing device"),
            _number("level", "its fencing level, from 0"),
            _maybe("power", Power, "what it reads"),
            _text("machine", "which machine the device says that it is"),
            _ERROR,
        ),
    ),
    Object(
        name="ControllerPayload",
        version="1.0",
        fields=(
            _need("controller", str, "who acts"),
            _maybe("epoch", int, "the election since which it does"),
            _maybe("armed", bool, "whether destructive commands are allowed"),
            _text("actor", "who ordered it; empty: nobody did"),
            _text("reason", "why"),
        ),
    ),
)
OBJECTS: Mapping[str, Object] = {o.name: o for o in _OBJECTS}

_EVENTS = (
    ("incident.opened", "IncidentPayload", INFO, "a failure is being dealt with"),
    ("incident.blocked", "IncidentPayload", ERROR, "a person is needed: `release` names the command"),
    ("incident.closed", "IncidentPayload", INFO, "nothing is left to be done"),
    ("host.suspected", "HostPayload", INFO, "silent; others are being asked"),
    ("host.cleared", "HostPayload", INFO, "the suspicion was wrong, or is over"),
    ("host.down", "HostDownPayload", INFO, "the host failed. In notify mode this is the moment to act: see `evidence`"),
    ("host.returned", "HostPayload", INFO, "the host takes servers again"),
    ("host.fence.start", "HostFencePayload", INFO, "off is being sent"),
    ("host.fence.end", "HostFencePayload", INFO, "the host is off: `evidence`"),
    ("host.fence.error", "HostFencePayload", ERROR, "this level gave no evidence"),
    ("host.forced_down", "HostForcedDownPayload", INFO, "Nova knows that the host is down"),
    ("host.evacuation.start", "HostEvacuationPayload", INFO, "its servers are being moved"),
    ("host.evacuation.progress", "HostEvacuationPayload", INFO, "the counts moved"),
    ("host.evacuation.end", "HostEvacuationPayload", INFO, "every server is moved, or named with its reason"),
    ("host.evacuation.error", "HostEvacuationPayload", ERROR, "the evacuation cannot go on for now"),
    ("server.evacuate.start", "ServerEvacuatePayload", INFO, "Nova is asked to move this server"),
    ("server.evacuate.end", "ServerEvacuatePayload", INFO, "it runs on `dest`, as before"),
    (
        "server.evacuate.error",
        "ServerEvacuatePayload",
        ERROR,
        "this attempt failed; `retry_s` says when the next follows",
    ),
    ("server.not_moved", "ServerNotMovedPayload", INFO, "this server stays where it is: `why`"),
    ("guest.event", "GuestEventPayload", INFO, "something happened to a guest"),
    ("guest.recovery.start", "GuestRecoveryPayload", INFO, "the guest is being recovered"),
    ("guest.recovery.end", "GuestRecoveryPayload", INFO, "the guest runs"),
    ("guest.recovery.error", "GuestRecoveryPayload", ERROR, "this attempt failed"),
    ("fencing_device.failed", "FencingDevicePayload", ERROR, "the device could not fence its host now"),
    ("fencing_device.restored", "FencingDevicePayload", INFO, "the device works again"),
    ("controller.leader", "ControllerPayload", INFO, "this controller acts from now on"),
    ("controller.armed", "ControllerPayload", INFO, "destructive commands are allowed"),
    ("controller.disarmed", "ControllerPayload", INFO, "nothing destructive is done any more"),
)
EVENTS: Mapping[str, EventType] = {n: EventType(name=n, object=o, priority=p, meaning=m) for n, o, p, m in _EVENTS}
