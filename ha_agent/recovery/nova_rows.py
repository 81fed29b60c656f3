"""Nova's answers, decoded strictly into values. A row that lacks what we need is an error, never an empty answer (S9)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from ha_agent.errors import DriverError
from ha_agent.model import ComputeService, Migration, Server

T = TypeVar("T")
UNKNOWN = "UNKNOWN"  # what Nova shows of a cell that it cannot reach, from microversion 2.69 on


class ServiceRow(msgspec.Struct):
    """A row of os-services. A cell that is down gives rows without id, state and times."""

    host: str
    status: str
    id: str = ""
    state: str | None = None
    forced_down: bool = False
    updated_at: str | None = None

    def value(self) -> ComputeService:
        known = self.status != UNKNOWN and self.state in ("up", "down")
        return ComputeService(
            id=self.id,
            host=self.host,
            state=self.state if known else None,
            status=self.status,
            forced_down=self.forced_down,
            updated_at=self.updated_at or "",
        )


class ServerRow(msgspec.Struct):
    """A row of servers/detail."""

    id: str
    status: str
    image: str | dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    host: str | msgspec.UnsetType | None = msgspec.field(name="OS-EXT-SRV-ATTR:host", default=msgspec.UNSET)
    task_state: str | None = msgspec.field(name="OS-EXT-STS:task_state", default=None)
    power_state: int | None = msgspec.field(name="OS-EXT-STS:power_state", default=None)
    name: str = ""
    locked: bool = False
    tenant_id: str = ""
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, str] = {}

    def value(self) -> Server:
        """Raises DriverError where Nova hides what we cannot do without."""
        if self.status == UNKNOWN:
            raise DriverError(
                f"Nova cannot reach the cell of server {self.id}: its list of servers is not complete",
                "bring the cell's database and message queue back",
            )
        if isinstance(self.host, msgspec.UnsetType):
            raise DriverError(
                f"Nova does not show the host of server {self.id}", "the credentials in clouds.yaml need the admin role"
            )
        if isinstance(self.tags, msgspec.UnsetType):
            raise DriverError(f"Nova does not show the tags of server {self.id}", "Nova 2.26 or later is needed")
        return Server(
            id=self.id,
            name=self.name,
            host=self.host or "",
            status=self.status,
            task_state=self.task_state,
            power_state=self.power_state,
            locked=self.locked,
            project_id=self.tenant_id,
            tags=tuple(self.tags),
            metadata=self.metadata,
            local_disk=self._local_disk(),
        )

    def _local_disk(self) -> bool | None:
        """A server that boots from a volume has the image ''."""
        if isinstance(self.image, dict):
            return True
        return False if self.image == "" else None


class Link(msgspec.Struct):
    """Where the next page is."""

    rel: str = ""


class ServicesAnswer(msgspec.Struct):
    services: list[ServiceRow]


class ServersAnswer(msgspec.Struct):
    servers: list[ServerRow]
    servers_links: list[Link] = []


class MigrationRow(msgspec.Struct):
    """A row of os-migrations. `migration_type` is null for records of very old releases."""

    id: int
    instance_uuid: str
    status: str
    source_compute: str | None
    uuid: str = ""
    dest_compute: str | None = None
    migration_type: str | None = None

    def value(self) -> Migration:
        return Migration(
            id=self.id,
            server=self.instance_uuid,
            kind=self.migration_type or "",
            status=self.status,
            source=self.source_compute or "",
            dest=self.dest_compute or "",
        )


class MigrationsAnswer(msgspec.Struct):
    migrations: list[MigrationRow]
    migrations_links: list[Link] = []


class ActionRow(msgspec.Struct):
    """A row of os-instance-actions. An id that is missing or empty could be told from no other."""

    action: str
    request_id: Annotated[str, msgspec.Meta(min_length=1)]


class ActionsAnswer(msgspec.Struct):
    instanceActions: list[ActionRow]
    links: list[Link] = []


class _Fault(msgspec.Struct):
    message: str


def decode(body: bytes, kind: type[T], what: str) -> T:
    """The body as `kind`. Raises DriverError: what cannot be understood is unknown."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DriverError(f"Nova's answer to {what} cannot be understood: {error}") from None


def fault(body: bytes, limit: int = 300) -> str:
    """The message of Nova's error body, such as {"badRequest": {"message": …}}; empty where there is none."""
    try:
        for value in msgspec.json.decode(body, type=dict[str, _Fault]).values():
            return " ".join(value.message.split())[:limit]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return ""
