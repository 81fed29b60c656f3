"""A notification as a CloudEvent 1.0 in JSON (structured mode): what hooks read on stdin and webhooks are posted. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from ha_agent.model import Notification
from ha_agent.notify.wire import PREFIX

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


def encode(notification: Notification, source: str) -> bytes:
    """The same bytes however often it is sent: by `source` and `id` a consumer knows a repeat. `subject`: the host, where there is one."""
    when = datetime.fromtimestamp(notification.wall, tz=UTC).isoformat(timespec="milliseconds")
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": notification.id,
        "source": source,
        "type": PREFIX + notification.event_type,
        "time": when.replace("+00:00", "Z"),
        "datacontenttype": "application/json",
    }
    data = notification.payload.get("ha_agent_object.data")
    host = data.get("host") if isinstance(data, dict) else None
    if isinstance(host, str) and host:
        event["subject"] = host
    return msgspec.json.encode({**event, "data": notification.payload})
