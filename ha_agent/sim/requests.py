"""Nova as the controller's driver shows it: NovaState's rows as the model's values, refusals as DriverError, lost answers as Unanswered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import ComputeService, Migration, Server
from ha_agent.sim.nova_state import EVACUATION, UNFINISHED, NovaError, SimMigration, SimServer
from ha_agent.sim.world import World

T = TypeVar("T")


class SimCloud:
    """ports.Cloud for one controller. Each call is one moment, and one request; the caller gives it its place in time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._nova = world.nova

    def services(self) -> Sequence[ComputeService]:
        """See ports.Cloud."""
        self._reads()
        return tuple(self.service(host) for host in self._nova.hosts)

    def servers(self, host: str) -> Sequence[Server]:
        """See ports.Cloud."""
        self._reads()
        lack = self._world.weather.lists_lack
        return tuple(_server(s) for s in self._nova.servers.values() if s.host == host and s.host not in lack)

    def migrations(self, host: str) -> Sequence[Migration]:
        """See ports.Cloud."""
        self._reads()
        return _migrations(m for m in self._listed() if host in (m.source, m.dest))

    def evacuations(self, source: str) -> Sequence[Migration]:
        """See ports.Cloud."""
        self._reads()
        return _migrations(m for m in self._listed() if m.source == source and m.kind == EVACUATION)

    def unfinished_evacuations(self) -> Sequence[Migration]:
        """See ports.Cloud."""
        self._reads()
        return _migrations(m for m in self._listed() if m.kind == EVACUATION and m.status in UNFINISHED)

    def last_reboot(self, server: str) -> str:
        """See ports.Cloud."""
        self._reads()
        return next((a.request_id for a in self._asked(lambda: self._nova.actions(server)) if a.action == "reboot"), "")

    def force_down(self, host: str, value: bool) -> None:
        """See ports.Cloud."""

        def change() -> None:
            if self._nova.hosts[host].forced_down != value:
                self._nova.force_down(self._nova.hosts[host].service_id, value)

        self._change(change, of_guests=False)

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        """See ports.Cloud: a server that left, or that is on its way by a record the caller has not judged, is left alone."""

        def change() -> None:
            if self._nova.server(server).host != host:
                raise DriverError(f"it is on {self._nova.server(server).host}")
            mine = [m for m in self._listed() if m.server == server and m.kind == EVACUATION]
            if any(m.status in UNFINISHED and m.id > judged for m in mine):
                raise DriverError("an evacuation of it is not finished")
            self._nova.evacuate(server, self._world.microversion)

        self._change(change)

    def start(self, server: str) -> None:
        """See ports.Cloud."""
        self._change(lambda: self._nova.start(server))

    def stop(self, server: str) -> None:
        """See ports.Cloud."""
        self._change(lambda: self._nova.stop(server))

    def reboot(self, server: str) -> None:
        """See ports.Cloud."""
        self._change(lambda: self._nova.reboot(server))

    def api_max_s(self) -> float:
        """See ports.Cloud. Here each command has its own bound, from policy."""
        return 0.0

    # --- how requests fare ---

    def _reads(self) -> None:
        """Raises DriverError where no answer comes."""
        self._world.weather.before(change=False)

    def _change(self, change: Callable[[], object], *, of_guests: bool = True) -> None:
        """Raises DriverError (it did not happen) or Unanswered (nobody knows)."""
        lost = self._world.weather.before(change=True)
        if self._world.broker and of_guests:
            raise Unanswered("Nova answered 500: its message broker does not answer")
        self._asked(change)
        if lost is not None:
            raise Unanswered(f"Nova's answer was lost ({lost})")

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except NovaError as error:
            raise DriverError(f"Nova refused ({error.code}): {error.message}") from None

    # --- what Nova has ---

    def service(self, host: str) -> ComputeService:
        """The host's row of os-services."""
        row = self._nova.hosts[host]
        if host in self._world.weather.rows_unknown:
            return ComputeService(id=row.service_id, host=host)
        return ComputeService(
            id=row.service_id,
            host=host,
            state="up" if self._nova.is_up(host) else "down",
            status="disabled" if row.disabled else "enabled",
            forced_down=row.forced_down,
            updated_at=self._nova.updated_at(host),
        )

    def _listed(self) -> list[SimMigration]:
        """Records are kept in the cell of their hosts."""
        lack = self._world.weather.lists_lack
        return [m for m in self._nova.listed() if m.source not in lack]


def _migrations(rows: Iterable[SimMigration]) -> tuple[Migration, ...]:
    newest_first = sorted(rows, key=lambda m: -m.id)
    return tuple(
        Migration(id=m.id, server=m.server, kind=m.kind, status=m.status, source=m.source, dest=m.dest)
        for m in newest_first
    )


def _server(row: SimServer) -> Server:
    return Server(
        id=row.id,
        name=row.name,
        host=row.host,
        status=row.status,
        task_state=row.task_state,
        power_state=row.power_state,
        locked=row.locked,
        project_id=row.project_id,
        tags=row.tags,
        metadata=dict(row.metadata),
        local_disk=not row.volume,
    )
