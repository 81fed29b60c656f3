"""Nova as the controller's driver shows it: NovaState's rows as the model's values, refusals as DriverError, lost answers as Unanswered."""

from __future__ import annotations

from collections.abc import Sequence

from ha_agent.errors import DriverError, Unanswered
from ha_agent.model import Command, CommandKind, ComputeService, Migration, Outcome, Server, Status, Survey
from ha_agent.sim.nova_state import EVACUATION, UNFINISHED, NovaError, SimMigration, SimServer
from ha_agent.sim.world import World

CHANGES = frozenset(
    {
        CommandKind.FORCE_DOWN,
        CommandKind.CLEAR_FORCE_DOWN,
        CommandKind.EVACUATE,
        CommandKind.START,
        CommandKind.STOP,
        CommandKind.REBOOT,
    }
)


class Requests:
    """What one controller asks of Nova. Each method is one moment; the caller gives it its place in time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._nova = world.nova

    def carry_out(self, command: Command) -> Outcome:
        """Raises DriverError (it did not happen) or Unanswered (nobody knows)."""
        change = command.kind in CHANGES
        lost = self._world.weather.before(change=change)
        if self._world.broker and change and command.kind not in (CommandKind.FORCE_DOWN, CommandKind.CLEAR_FORCE_DOWN):
            raise Unanswered("Nova answered 500: its message broker does not answer")
        try:
            outcome = self._run(command)
        except NovaError as error:
            raise DriverError(f"Nova refused ({error.code}): {error.message}") from None
        if lost is not None:
            raise Unanswered(f"Nova's answer was lost ({lost})")
        return outcome

    def look(self, host: str) -> ComputeService | None:
        """The host's row, during suspicion; None where Nova cannot be read."""
        try:
            self._world.weather.before(change=False)
        except DriverError:
            return None
        return self.service(host)

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

    def _run(self, command: Command) -> Outcome:
        nova, host, server = self._nova, command.host, command.subject
        survey: Survey | None = None
        last_reboot = ""
        match command.kind:
            case CommandKind.FORCE_DOWN | CommandKind.CLEAR_FORCE_DOWN:
                value = command.kind is CommandKind.FORCE_DOWN
                if nova.hosts[host].forced_down != value:
                    nova.force_down(nova.hosts[host].service_id, value)
            case CommandKind.SURVEY:
                survey = self._survey(host)
            case CommandKind.FOLLOW:
                rows = [m for m in self._listed() if m.source == host and m.kind == EVACUATION]
                survey = Survey(migrations=_migrations(rows))
            case CommandKind.LIST_SERVERS:
                survey = Survey(servers=self._servers(command.hosts))
            case CommandKind.EVACUATE:
                self._look_first(server, host, command.judged)
                nova.evacuate(server, self._world.microversion)
            case CommandKind.START:
                nova.start(server)
            case CommandKind.STOP:
                nova.stop(server)
            case CommandKind.REBOOT:
                nova.reboot(server)
            case CommandKind.LAST_REBOOT:
                last_reboot = next((a.request_id for a in nova.actions(server) if a.action == "reboot"), "")
            case _:
                raise DriverError(f"Nova knows no {command.kind}")
        return Outcome(command=command.id, status=Status.OK, survey=survey, last_reboot=last_reboot)

    def _look_first(self, server: str, host: str, judged: int) -> None:
        """As the Cloud port promises: a server that left, or that is on its way by a record the caller has not judged, is left alone."""
        if self._nova.server(server).host != host:
            raise DriverError(f"it is on {self._nova.server(server).host}")
        mine = [m for m in self._listed() if m.server == server and m.kind == EVACUATION]
        if any(m.status in UNFINISHED and m.id > judged for m in mine):
            raise DriverError("an evacuation of it is not finished")

    def _listed(self) -> list[SimMigration]:
        """Records are kept in the cell of their hosts."""
        lack = self._world.weather.lists_lack
        return [m for m in self._nova.listed() if m.source not in lack]

    def _servers(self, hosts: Sequence[str]) -> tuple[Server, ...]:
        lack = self._world.weather.lists_lack
        return tuple(_server(s) for s in self._nova.servers.values() if s.host in hosts and s.host not in lack)

    def _survey(self, host: str) -> Survey:
        if self.service(host).state is None:  # as the executor does: half a picture is none (S9)
            raise DriverError(f"Nova cannot say how the service of {host} is: its cell may be down")
        servers = self._servers((host,))
        ids = {s.id for s in servers}
        rows = [
            m
            for m in self._listed()
            if host in (m.source, m.dest) or (m.server in ids and m.kind == EVACUATION and m.status in UNFINISHED)
        ]
        return Survey(servers=servers, migrations=_migrations(rows), service=self.service(host))


def _migrations(rows: Sequence[SimMigration]) -> tuple[Migration, ...]:
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
