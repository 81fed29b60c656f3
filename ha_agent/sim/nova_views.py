"""The rows of the simulated Nova as JSON, at a microversion, and the filters of its listings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ha_agent.sim.nova_state import NovaState, SimAction, SimHost, SimMigration, SimServer, stamp

Version = tuple[int, int]


def _tags(value: str) -> set[str]:
    return set(value.split(","))


SERVER_FILTERS: dict[str, Callable[[SimServer, str], bool]] = {
    "host": lambda row, value: row.host == value,
    "name": lambda row, value: value in row.name,
    "status": lambda row, value: row.status == value.upper(),
    "tags": lambda row, value: _tags(value) <= set(row.tags),
    "tags-any": lambda row, value: bool(_tags(value) & set(row.tags)),
    "not-tags": lambda row, value: not _tags(value) <= set(row.tags),
    "not-tags-any": lambda row, value: not _tags(value) & set(row.tags),
}

MIGRATION_FILTERS: dict[str, Callable[[SimMigration, str], bool]] = {
    "host": lambda row, value: value in (row.source, row.dest),
    "source_compute": lambda row, value: row.source == value,
    "migration_type": lambda row, value: row.kind == value,
    "status": lambda row, value: row.status == value,
    "instance_uuid": lambda row, value: row.server == value,
}


def service(state: NovaState, row: SimHost, version: Version) -> dict[str, Any]:
    """A row of os-services."""
    return {
        "id": row.service_id if version >= (2, 53) else list(state.hosts).index(row.name) + 1,
        "binary": "nova-compute",
        "host": row.name,
        "zone": "nova",
        "status": "disabled" if row.disabled else "enabled",
        "state": "up" if state.is_up(row.name) else "down",
        # the database touches the time at any change of the row, not only at a report
        "updated_at": max(state.updated_at(row.name), stamp(row.changed_at)),
        "disabled_reason": None,
        **({"forced_down": row.forced_down} if version >= (2, 11) else {}),
    }


def server(state: NovaState, row: SimServer, version: Version) -> dict[str, Any]:
    """A row of servers/detail."""
    shown: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "tenant_id": row.project_id,
        "metadata": dict(row.metadata),
        "image": "" if row.volume else {"id": "70a599e0-31e7-49b7-b260-868f441e862b", "links": []},
        "flavor": {"original_name": "small", "extra_specs": dict(row.extra_specs)},
        "OS-EXT-SRV-ATTR:host": row.host,
        "OS-EXT-SRV-ATTR:hypervisor_hostname": row.host,
        "OS-EXT-STS:vm_state": row.vm_state,
        "OS-EXT-STS:task_state": row.task_state,
        "OS-EXT-STS:power_state": row.power_state,
        "addresses": {},
    }
    if version >= (2, 9):
        shown["locked"] = row.locked
    if version >= (2, 16):
        shown["host_status"] = "" if not row.host else "UP" if state.is_up(row.host) else "DOWN"
    if version >= (2, 26):
        shown["tags"] = list(row.tags)
    if row.fault:
        shown["fault"] = {"code": 500, "message": row.fault, "created": stamp(0)}
    return shown


def migration(row: SimMigration, version: Version) -> dict[str, Any]:
    """A row of os-migrations."""
    shown: dict[str, Any] = {
        "id": row.id,
        "instance_uuid": row.server,
        "source_compute": row.source,
        "source_node": row.source,
        "dest_compute": row.dest or None,
        "dest_node": row.dest or None,
        "dest_host": None,
        "status": row.status,
        "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at),
    }
    if version >= (2, 23):
        shown["migration_type"] = row.kind
    if version >= (2, 59):
        shown["uuid"] = row.uuid
    return shown


def action(row: SimAction, server_id: str, version: Version) -> dict[str, Any]:
    """A row of os-instance-actions."""
    shown: dict[str, Any] = {
        "action": row.action,
        "instance_uuid": server_id,
        "message": None,
        "project_id": "a0000000000000000000000000000001",
        "request_id": row.request_id,
        "start_time": stamp(row.start_at),
        "user_id": "admin",
    }
    if version >= (2, 58):
        shown["updated_at"] = stamp(row.start_at)
    return shown
