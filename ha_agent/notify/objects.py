"""Notifications as versioned objects, in OpenStack's style. Pure: no I/O, no clock.

A payload is `{"ha_agent_object.name", "ha_agent_object.version", "ha_agent_object.namespace", "ha_agent_object.data"}`;
objects inside objects are wrapped the same way. `catalogue` says what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ha_agent.model import Notification
from ha_agent.notify.catalogue import EVENTS, OBJECTS, Field, Object

NAMESPACE = "ha_agent"

# Bounds, so that no notification outgrows the store or the broker, whatever Nova or a device answers.
MAX_TEXT = 1024
MAX_ITEMS = 500
MAX_BYTES = 512 * 1024


def build(event_type: str, id: str, wall: float, data: Mapping[str, Any]) -> Notification:
    """The notification of an event. `data` has the fields of the event's object; those with a default may be left out,
    objects inside are plain dicts. Texts and lists are cut to their bounds.

    Raises TypeError, naming the field, where `data` does not fit: that is a mistake of the caller, never of the world.
    """
    event = EVENTS.get(event_type)
    if event is None:
        raise TypeError(f"{event_type!r} is no notification; known are: {', '.join(EVENTS)}")
    payload = _wrap(event_type, OBJECTS[event.object], data)
    return Notification(id=id, event_type=event_type, priority=event.priority, wall=wall, payload=_bounded(payload))


def check(event_type: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a payload of this or an earlier minor version, as a consumer reads it.

    Raises TypeError where it is not a payload of this event, or has another major version.
    """
    event = EVENTS.get(event_type)
    if event is None:
        raise TypeError(f"{event_type!r} is no notification; known are: {', '.join(EVENTS)}")
    return _unwrap(event_type, OBJECTS[event.object], payload)


def _wrap(where: str, kind: Object, data: Any) -> dict[str, Any]:
    """`data` as a wrapped object: checked, completed with defaults, in the order of the table."""
    given = _mapping(where, data)
    unknown = given.keys() - kind.names
    if unknown:
        raise TypeError(f"{where}: {kind.name} has no field {', '.join(sorted(unknown))}")
    if not kind.required <= given.keys():
        missing = [f.name for f in kind.fields if f.required and f.name not in given]
        raise TypeError(f"{where}: {kind.name} needs {', '.join(missing)}")
    values = {f.name: _field(where, f, given.get(f.name, f.default), _wrap) for f in kind.fields}
    return {
        "ha_agent_object.name": kind.name,
        "ha_agent_object.version": kind.version,
        "ha_agent_object.namespace": NAMESPACE,
        "ha_agent_object.data": values,
    }


def _unwrap(where: str, kind: Object, payload: Any) -> dict[str, Any]:
    """The inverse of `_wrap`. Fields of a newer minor version are dropped, those of an older one completed."""
    given = _mapping(where, payload)
    name, version = given.get("ha_agent_object.name"), str(given.get("ha_agent_object.version"))
    if name != kind.name or given.get("ha_agent_object.namespace") != NAMESPACE:
        raise TypeError(f"{where}: expected {NAMESPACE}/{kind.name}, got {name!r}")
    if version.partition(".")[0] != kind.version.partition(".")[0]:
        raise TypeError(f"{where}: {kind.name} {version} cannot be read, this is {kind.version}")
    data = _mapping(where, given.get("ha_agent_object.data"))
    missing = [f.name for f in kind.fields if f.required and f.name not in data]
    if missing:
        raise TypeError(f"{where}: {kind.name} needs {', '.join(missing)}")
    return {f.name: _field(where, f, data.get(f.name, f.default), _unwrap) for f in kind.fields}


def _field(where: str, field: Field, value: Any, nested: Callable[[str, Object, Any], dict[str, Any]]) -> Any:
    """One field's value, checked. `nested` is applied to the objects inside."""
    if type(value) is field.type and not field.many and (type(value) is not str or len(value) <= MAX_TEXT):
        return value
    if value is None:
        if field.nullable:
            return None
        raise TypeError(f"{where}.{field.name}: null is not allowed")
    if isinstance(field.type, str):
        return _nested(f"{where}.{field.name}", field, value, nested)
    if not field.many:
        return _value(where, field, field.type, value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{where}.{field.name}: expected a list, got {type(value).__name__}")
    return [_value(where, field, field.type, v) for v in value[:MAX_ITEMS]]


def _nested(where: str, field: Field, value: Any, nested: Callable[[str, Object, Any], dict[str, Any]]) -> Any:
    """The object or objects inside a field."""
    kind = OBJECTS[str(field.type)]
    if not field.many:
        return nested(where, kind, value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{where}: expected a list, got {type(value).__name__}")
    # The servers are cut by _bounded, which says how many are left out.
    kept = value if field.type == "ServerPayload" else value[:MAX_ITEMS]
    return [nested(f"{where}[{i}]", kind, v) for i, v in enumerate(kept)]


def _value(where: str, field: Field, kind: type, value: Any) -> Any:
    """A value of one type, as plain JSON."""
    if kind is str and isinstance(value, str):
        return str(value) if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, StrEnum):
        try:
            return str(kind(value).value)
        except ValueError as error:
            raise TypeError(f"{where}.{field.name}: {value!r} is none of {', '.join(kind)}") from error
    raise TypeError(f"{where}.{field.name}: expected {kind.__name__}, got {type(value).__name__}")


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def _bounded(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with so many servers as fit; `servers_left_out` counts the others."""
    data = payload["ha_agent_object.data"]
    servers = data.get("servers")
    if not servers:
        return payload
    keep = min(len(servers), MAX_ITEMS)
    while True:
        cut = {**data, "servers": servers[:keep], "servers_left_out": data["servers_left_out"] + len(servers) - keep}
        bounded = {**payload, "ha_agent_object.data": cut}
        if keep == 0 or len(msgspec.json.encode(bounded)) <= MAX_BYTES:
            return bounded
        keep //= 2
