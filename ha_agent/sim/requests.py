"""Nova as the controller's driver shows it: NovaState's rows as the model's values, refusals as DriverError, lost answers as Unanswered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import ComputeService, Migration, Server
from ha_agent.sim.nova_state import EVACUATION, UNFINISHED, NovaError, SimMigration, SimServer
from ha_agent.sim.world import World

T = TypeVar("T")
LOOK_AGE_S = 3.0  # a list of evacuations that is older, or from before our own last evacuate of a server, is read again


class SimCloud:
    """ports.Cloud for one controller. Each call is one moment, and as many requests as it is of the driver, each of which may fail; the caller
    gives it its place in time."""

    def __init__(self, world: World, who: str = "") -> None:
        self._world = world
        self._nova = world.nova
        self._who = who
        self._looked_at: dict[str, float] = {}  # by host: when its evacuations were listed last
        self._sent_at: dict[str, float] = {}  # by server: when it was last to be evacuated

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
        self._looked_at[source] = self._world.now
        return _migrations(m for m in self._listed() if m.source == source and m.kind == EVACUATION)

    def unfinished_evacuations(self) -> Sequence[Migration]:
        """See ports.Cloud. One list for each status."""
        self._reads()
        self._reads()
        return _migrations(m for m in self._listed() if m.kind == EVACUATION and m.status in UNFINISHED)

    def last_reboot(self, server: str) -> str:
        """See ports.Cloud."""
        self._reads()
        return next((a.request_id for a in self._asked(lambda: self._nova.actions(server)) if a.action == "reboot"), "")

    def force_down(self, host: str, value: bool) -> None:
        """See ports.Cloud. The flag is read before it is set, and after."""
        row = self._nova.hosts[host]
        self._reads()
        if self.service(host).state is None:
            raise DriverError(f"Nova cannot say anything of the service of {host}: its cell is down")
        if row.forced_down == value:
            return
        self._change(lambda: self._nova.force_down(row.service_id, value), of_guests=False)
        try:
            self._reads()
        except DriverError as error:
            raise Unanswered(f"forced_down of {host} was set, but cannot be read back: {error}") from None

    def evacuate(self, server: str, host: str, judged: int = 0) -> None:
        """See ports.Cloud: a server that left, or that is on its way by a record the caller has not judged, is left alone."""

        def change() -> None:
            if self._nova.server(server).host != host:
                raise DriverError(f"it is on {self._nova.server(server).host}")
            mine = [m for m in self._listed() if m.server == server and m.kind == EVACUATION]
            if any(m.status in UNFINISHED and m.id > judged for m in mine):
                raise DriverError("an evacuation of it is not finished")
            self._nova.evacuate(server, self._world.microversion)

        oldest = max(self._world.now - LOOK_AGE_S, self._sent_at.get(server, -1.0))
        if self._looked_at.get(host, -1.0) <= oldest:
            self.evacuations(host)
        self._sent_at[server] = self._world.now
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
        self._world.weather.before(self._who, change=False)

    def _change(self, change: Callable[[], object], *, of_guests: bool = True) -> None:
        """Raises DriverError (it did not happen) or Unanswered (nobody knows)."""
        lost = self._world.weather.before(self._who, change=True)
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
