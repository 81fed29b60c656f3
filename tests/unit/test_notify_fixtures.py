"""What was once published can be read for ever; what is published today is what was agreed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ha_agent.notify import wire
from ha_agent.notify.catalogue import EVENTS
from ha_agent.notify.objects import check
from tests.fixtures.notifications import samples

FIXTURES = sorted(samples.FOLDER.glob("*.json"))


@pytest.mark.parametrize("event_type", EVENTS)
def test_every_event_has_a_fixture_and_is_published_as_it_was_frozen(event_type: str) -> None:
    path = samples.path(event_type)
    assert path.exists(), f"no fixture {path.name}: see samples.py"
    assert json.loads(path.read_bytes()) == json.loads(samples.published(event_type)), (
        f"{event_type} is published differently than its version says: raise the version of its object"
    )
    assert path.read_bytes() == samples.published(event_type)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_every_fixture_can_still_be_read(path: Path) -> None:
    body = json.loads(path.read_bytes())
    assert set(body) == {"oslo.version", "oslo.message"}
    notification = wire.decode(body)
    assert notification.event_type == path.name.rpartition("-")[0]
    assert notification.priority == EVENTS[notification.event_type].priority
    assert (notification.id, notification.wall) == (samples.ID, samples.WALL)
    data = check(notification.event_type, notification.payload)
    assert data["host" if "host" in data else "controller"] in ("compute-1", "controller-1")


def test_the_envelope_is_what_oslo_messaging_expects() -> None:
    body = wire.encode(samples.sample("host.fence.error"), samples.PUBLISHER)
    assert body["oslo.version"] == "2.0"
    message = json.loads(body["oslo.message"])
    payload = message.pop("payload")
    assert payload["ha_agent_object.name"] == "HostFencePayload"
    assert message == {
        "message_id": samples.ID,
        "publisher_id": "ha-agent:controller-1",
        "event_type": "ha_agent.host.fence.error",
        "priority": "ERROR",
        "timestamp": "2026-09-21 14:13:20.250000",
        "_unique_id": samples.ID.replace("-", ""),
    }


@pytest.mark.parametrize(
    "body",
    [
        {"oslo.version": "3.0", "oslo.message": "{}"},
        {},
        {"oslo.version": "2.0", "oslo.message": '{"event_type": "instance.create.end"}'},
    ],
)
def test_what_is_none_of_ours_is_refused(body: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"envelope|not an event"):
        wire.decode(body)
