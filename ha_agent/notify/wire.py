"""The wire format of OpenStack's notifications: oslo.messaging's envelope 2.0 around the versioned payload. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from ha_agent.model import Notification

ENVELOPE = "2.0"
PREFIX = "ha_agent."


def encode(notification: Notification, publisher_id: str) -> dict[str, str]:
    """The body of one message. It is the same however often the notification is sent: `_unique_id` lets a listener of
    oslo.messaging drop a repeat, `message_id` lets everybody else."""
    message = {
        "message_id": notification.id,
        "publisher_id": publisher_id,
        "event_type": PREFIX + notification.event_type,
        "priority": notification.priority.upper(),
        "payload": notification.payload,
        "timestamp": datetime.fromtimestamp(notification.wall, tz=UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "_unique_id": notification.id.replace("-", ""),
    }
    return {"oslo.version": ENVELOPE, "oslo.message": msgspec.json.encode(message).decode()}


def decode(body: dict[str, Any]) -> Notification:
    """The notification in a message, as a consumer reads it. Raises ValueError where it is none of ours."""
    if body.get("oslo.version") != ENVELOPE:
        raise ValueError(f"envelope {body.get('oslo.version')!r} is not {ENVELOPE}")
    message = json.loads(body["oslo.message"])
    event_type = str(message["event_type"])
    if not event_type.startswith(PREFIX):
        raise ValueError(f"{event_type} is not an event of ha-agent")
    sent = datetime.strptime(message["timestamp"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    return Notification(
        id=message["message_id"],
        event_type=event_type.removeprefix(PREFIX),
        priority=message["priority"].lower(),
        wall=sent.timestamp(),
        payload=message["payload"],
    )
