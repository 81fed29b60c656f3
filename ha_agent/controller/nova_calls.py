"""What a command asks of Nova, and what became of it. Blocking: the executor calls in a thread that it bounds, the simulator in virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ha_agent.errors import DriverError, HaAgentError
from ha_agent.model import Command, CommandKind, ComputeService, Outcome, Server, Status, Survey
from ha_agent.ports import Cloud, NovaSeen


def ask(cloud: Cloud, command: Command) -> Outcome:
    """One command. Raises what the cloud raises, and DriverError where this is none for it; see `failed`."""
    host, server = command.host, command.subject
    found: Survey | None = None
    newest = ""
    match command.kind:
        case CommandKind.FORCE_DOWN:
            cloud.force_down(host, True)
        case CommandKind.CLEAR_FORCE_DOWN:
            cloud.force_down(host, False)
        case CommandKind.SURVEY:
            found = survey(cloud, host)
        case CommandKind.FOLLOW:
            found = Survey(migrations=tuple(cloud.evacuations(host)))
        case CommandKind.LIST_SERVERS:
            found = Survey(servers=tuple(s for each in command.hosts for s in cloud.servers(each)))
        case CommandKind.EVACUATE:
            cloud.evacuate(server, host, command.judged)
        case CommandKind.START:
            cloud.start(server)
        case CommandKind.STOP:
            cloud.stop(server)
        case CommandKind.REBOOT:
            cloud.reboot(server)
        case CommandKind.LAST_REBOOT:
            newest = cloud.last_reboot(server)
        case _:
            raise DriverError(f"Nova knows no {command.kind}")
    return Outcome(command=command.id, status=Status.OK, survey=found, last_reboot=newest)


def failed(command: Command, error: Exception) -> Outcome:
    """Of a command that ended in an error. Only a DriverError says that it did not happen: all else, a driver's bug included, leaves
    unknown what became of it (S9)."""
    match error:
        case DriverError():
            return Outcome(command=command.id, status=Status.FAILED, error=str(error))
        case HaAgentError() | TimeoutError():
            return Outcome(command=command.id, status=Status.LOST, error=str(error) or "no answer in time")
        case _:
            return Outcome(command=command.id, status=Status.LOST, error=f"{type(error).__name__}: {error}")


def survey(cloud: Cloud, host: str) -> Survey:
    """Everything that Nova says of a host. One failed look-up fails the whole: half a picture is none (S9). Servers come before migrations:
    a server that has left by then has a record in the later list, unless it was deleted."""
    servers: Sequence[Server] = cloud.servers(host)
    migrations = {m.id: m for m in cloud.migrations(host)}
    ids = {s.id for s in servers}
    # an evacuation to another host that never ended may yet start one of these servers there (S2)
    migrations.update({m.id: m for m in cloud.unfinished_evacuations() if m.server in ids})
    service = next((s for s in cloud.services() if s.host == host), None)
    if service is not None and service.state is None:  # its lists may lack rows without a word (S9)
        raise DriverError(f"Nova cannot say how the service of {host} is: its cell may be down")
    newest_first = tuple(migrations[i] for i in sorted(migrations, reverse=True))
    return Survey(servers=tuple(servers), migrations=newest_first, service=service)


def row_seen(host: str, at: float, services: Mapping[str, ComputeService] | None) -> NovaSeen:
    """The host's row in a listing, by host, that was asked for at `at`; None: Nova could not be read."""
    row = None if services is None else services.get(host)
    return NovaSeen(host=host, at=at, service=row, no_such_row=row is None and services is not None)
