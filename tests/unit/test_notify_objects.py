"""Notifications are built strictly, from one catalogue, and stay within bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ha_agent.notify import objects
from ha_agent.notify.catalogue import EVENTS, OBJECTS, Object
from ha_agent.notify.objects import build, check
from tests.fixtures.notifications.samples import BASE, EVIDENCE, ID, MOVED, SAMPLES, WALL

# The names that consumers rely on.
NAMES = [
    "incident.opened",
    "incident.blocked",
    "incident.closed",
    "host.suspected",
    "host.cleared",
    "host.down",
    "host.returned",
    "host.fence.start",
    "host.fence.end",
    "host.fence.error",
    "host.forced_down",
    "host.evacuation.start",
    "host.evacuation.progress",
    "host.evacuation.end",
    "host.evacuation.error",
    "server.evacuate.start",
    "server.evacuate.end",
    "server.evacuate.error",
    "server.not_moved",
    "guest.event",
    "guest.recovery.start",
    "guest.recovery.end",
    "guest.recovery.error",
    "fencing_device.failed",
    "fencing_device.restored",
    "controller.leader",
    "controller.armed",
    "controller.disarmed",
]


def data_of(payload: Any) -> Any:
    return payload["ha_agent_object.data"]


def test_the_catalogue_has_exactly_the_agreed_events() -> None:
    assert sorted(EVENTS) == sorted(NAMES)


def test_every_object_in_the_catalogue_is_used_and_exists() -> None:
    used = {event.object for event in EVENTS.values()}
    used |= {field.type for kind in OBJECTS.values() for field in kind.fields if isinstance(field.type, str)}
    assert used == set(OBJECTS)


@pytest.mark.parametrize("kind", OBJECTS.values(), ids=lambda kind: kind.name)
def test_an_object_says_what_its_fields_mean_and_names_none_twice(kind: Object) -> None:
    names = [field.name for field in kind.fields]
    assert len(names) == len(set(names))
    assert all(field.meaning for field in kind.fields)


@pytest.mark.parametrize("event_type", NAMES)
def test_what_is_built_can_be_read_again(event_type: str) -> None:
    notification = build(event_type, ID, WALL, SAMPLES[event_type])
    assert (notification.id, notification.event_type, notification.wall) == (ID, event_type, WALL)
    assert notification.priority == EVENTS[event_type].priority
    data = check(event_type, notification.payload)
    for name, value in SAMPLES[event_type].items():
        if not isinstance(value, dict | list):
            assert data[name] == value
    assert msgspec.json.decode(msgspec.json.encode(notification.payload)) == notification.payload


def test_objects_are_wrapped_all_the_way_down() -> None:
    payload = build("host.down", ID, WALL, SAMPLES["host.down"]).payload
    for wrapped, name in (
        (payload, "HostDownPayload"),
        (data_of(payload)["evidence"], "EvidencePayload"),
        (data_of(data_of(payload)["evidence"])["readings"][0], "ReadingPayload"),
        (data_of(payload)["servers"][1], "ServerPayload"),
    ):
        assert wrapped["ha_agent_object.name"] == name
        assert wrapped["ha_agent_object.version"] == "1.0"
        assert wrapped["ha_agent_object.namespace"] == "ha_agent"


@pytest.mark.parametrize(
    ("event_type", "data", "complaint"),
    [
        ("host.exploded", {}, "'host.exploded' is no notification"),
        ("host.forced_down", {**BASE, "colour": "red"}, "host.forced_down: HostForcedDownPayload has no field colour"),
        ("host.forced_down", {"host": "c1", "mode": "auto"}, "HostForcedDownPayload needs incident, verdict, reason"),
        ("host.forced_down", {**BASE, "host": None}, r"host.forced_down.host: null is not allowed"),
        ("host.forced_down", {**BASE, "host": 7}, r"host.forced_down.host: expected str, got int"),
        ("host.forced_down", {**BASE, "verdict": "dead"}, r"verdict: 'dead' is none of never_seen, alive"),
        ("host.forced_down", {**BASE, "evidence": "sure"}, r"evidence: expected an object, got str"),
        ("host.forced_down", {**BASE, "evidence": {"kind": "devices"}}, r"evidence: EvidencePayload needs wall"),
        ("host.fence.start", {**BASE, "level": True}, r"level: expected int, got bool"),
        ("host.fence.start", {**BASE, "level": 0.0}, r"level: expected int, got float"),
        ("host.fence.start", {**BASE, "level": 0, "devices": "bmc"}, r"devices: expected a list, got str"),
        ("host.down", {**BASE, "forced_down": 1}, r"forced_down: expected bool, got int"),
        ("host.down", {**BASE, "last_seen_s": "4"}, r"last_seen_s: expected float, got str"),
        ("host.down", {**BASE, "servers": [MOVED, {"name": "x"}]}, r"host.down.servers\[1\]: ServerPayload needs id"),
    ],
)
def test_a_mistake_of_the_caller_is_named_at_once(event_type: str, data: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        build(event_type, ID, WALL, data)


def test_what_is_left_out_gets_its_default() -> None:
    data = data_of(build("host.down", ID, WALL, BASE).payload)
    assert data["evidence"] is None
    assert data["forced_down"] is False
    assert data["servers"] == []
    assert data["servers_left_out"] == 0


def test_long_texts_and_lists_are_cut() -> None:
    data = data_of(build("host.fence.error", ID, WALL, {**BASE, "level": 0, "error": "x" * 5000}).payload)
    assert len(data["error"]) == objects.MAX_TEXT
    assert data["error"].endswith("…")
    readings = [{"device": "bmc", "power": "off", "wall": 1.0}] * 2000
    data = data_of(
        build("host.forced_down", ID, WALL, {**BASE, "evidence": {**EVIDENCE, "readings": readings}}).payload
    )
    assert len(data_of(data["evidence"])["readings"]) == objects.MAX_ITEMS


@pytest.mark.parametrize(("count", "tags"), [(3, 1), (500, 0), (501, 0), (800, 50), (5000, 50)])
def test_servers_that_do_not_fit_are_counted(count: int, tags: int) -> None:
    servers = [{**MOVED, "tags": ["t" * 60] * tags} for _ in range(count)]
    payload = build("host.down", ID, WALL, {**BASE, "servers": servers}).payload
    kept = len(data_of(payload)["servers"])
    assert kept + data_of(payload)["servers_left_out"] == count
    assert len(msgspec.json.encode(payload)) <= objects.MAX_BYTES
    assert kept == count if count <= objects.MAX_ITEMS and tags < 50 else 0 < kept < count


def test_a_newer_minor_version_is_read_and_a_newer_major_one_refused() -> None:
    payload = dict(build("host.forced_down", ID, WALL, BASE).payload)
    newer = {**payload, "ha_agent_object.version": "1.9", "ha_agent_object.data": {**data_of(payload), "colour": "red"}}
    assert check("host.forced_down", newer) == check("host.forced_down", payload)
    older = {**payload, "ha_agent_object.data": {k: v for k, v in data_of(payload).items() if k != "evidence"}}
    assert check("host.forced_down", older) == check("host.forced_down", payload)
    with pytest.raises(TypeError, match=r"2\.0 cannot be read"):
        check("host.forced_down", {**payload, "ha_agent_object.version": "2.0"})
    with pytest.raises(TypeError, match="expected ha_agent/HostDownPayload"):
        check("host.down", payload)
