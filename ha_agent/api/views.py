"""What the API shows, as plain values: the shapes that the CLI and others may rely on. Fields are only ever added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ha_agent.api.facade import DeviceHealth, Facade, HostViewSummary, LeaderInfo
from ha_agent.errors import UsageError
from ha_agent.model import HostRecord, Incident, Kind, Phase, ServerStage, State, Step, Value, Verdict


class HostRow(Value, frozen=True, kw_only=True):
    """A host with what is done about it. `incident`: of the open one; `step`, `blocked`, `waiting`, `release` are its."""

    view: HostViewSummary
    maintenance: str = ""
    incident: str = ""
    step: Step | None = None
    blocked: str = ""
    waiting: str = ""
    release: str = ""
    devices: tuple[DeviceHealth, ...] = ()


class HostDetail(Value, frozen=True, kw_only=True):
    """A host with its story: `incidents` newest first. `now`: the time in which their `at` fields are."""

    row: HostRow
    record: HostRecord | None
    incidents: tuple[Incident, ...]
    now: float


class IncidentRow(Value, frozen=True, kw_only=True):
    """An incident in one line. `servers`: how many are in which stage."""

    id: str
    kind: Kind
    host: str
    subject: str
    phase: Phase
    step: Step
    verdict: Verdict
    reason: str
    opened_wall: float
    closed_wall: float | None
    blocked: str
    waiting: str
    release: str
    servers: dict[str, int] = {}


class Status(Value, frozen=True, kw_only=True):
    """The whole in one page. `verdicts`: how many hosts are what; `troubled`: hosts that are not alive or have an incident; `notes`: what somebody should see to soon."""

    controller: LeaderInfo
    armed: bool
    armed_by: str
    paused: str
    foreign: str
    ready: tuple[str, ...]
    hosts: int
    verdicts: dict[str, int]
    troubled: tuple[HostRow, ...]
    open_incidents: tuple[IncidentRow, ...]
    maintenance: tuple[str, ...]
    devices: int
    devices_failed: tuple[DeviceHealth, ...]
    notes: tuple[str, ...] = ()


def status(facade: Facade) -> Status:
    """See Status."""
    state, seen, devices, open_by_host = facade.state(), facade.views(), facade.devices(), _open_by_host(facade)
    of_host = by_host(devices)
    troubled = (
        _row(view, state.hosts.get(name), open_by_host.get(name), tuple(of_host.get(name, ())))
        for name, view in sorted(seen.items())
        if name in open_by_host or view.verdict is not Verdict.ALIVE
    )
    return Status(
        controller=facade.leader(),
        armed=state.fleet.armed,
        armed_by=state.fleet.armed_by,
        paused=state.fleet.paused,
        foreign=state.fleet.foreign,
        ready=tuple(facade.ready()),
        hosts=len(seen),
        verdicts={str(verdict): count for verdict, count in Counter(view.verdict for view in seen.values()).items()},
        troubled=tuple(troubled),
        open_incidents=tuple(incidents(facade, "", Phase.OPEN)),
        maintenance=tuple(h for h, record in sorted(state.hosts.items()) if record.maintenance and h in seen),
        devices=len(devices),
        devices_failed=tuple(each for each in devices if not each.ok and each.checked_age_s is not None),
        notes=tuple(facade.notes()),
    )


def hosts(facade: Facade) -> list[HostRow]:
    """Every host, by name."""
    open_by_host, devices, records = _open_by_host(facade), by_host(facade.devices()), facade.state().hosts
    return [
        _row(view, records.get(name), open_by_host.get(name), tuple(devices.get(name, ())))
        for name, view in sorted(facade.views().items())
    ]


def _open_by_host(facade: Facade) -> dict[str, Incident]:
    """Of each host that has one, the open incident that says most."""
    found: dict[str, Incident] = {}
    for each in facade.state().incidents.values():
        if each.phase is Phase.OPEN and (each.kind is Kind.HOST or each.host not in found):
            found[each.host] = each
    return found


def by_host(devices: Iterable[DeviceHealth]) -> dict[str, list[DeviceHealth]]:
    """Of each host that has any."""
    found: dict[str, list[DeviceHealth]] = {}
    for device in devices:
        found.setdefault(device.host, []).append(device)
    return found


def host(facade: Facade, name: str) -> HostDetail:
    """One host. Raises UsageError where it is not known."""
    view = facade.view(name)
    if view is None:
        raise UsageError(f"{name[:255]!r} is not in the inventory", "see: ha-agent status --all")
    devices = tuple(each for each in facade.devices() if each.host == name)
    return detail(view, facade.state(), devices, facade.now())


def detail(view: HostViewSummary, state: State, devices: tuple[DeviceHealth, ...], now: float) -> HostDetail:
    """One host, from its parts."""
    mine = sorted(
        (each for each in state.incidents.values() if each.host == view.host), key=lambda each: -each.opened_wall
    )
    current = next((each for each in mine if each.phase is Phase.OPEN), None)
    record = state.hosts.get(view.host)
    return HostDetail(row=_row(view, record, current, devices), record=record, incidents=tuple(mine), now=now)


def incidents(facade: Facade, host_name: str, phase: str) -> list[IncidentRow]:
    """Incidents, newest first; of one host or all, of one phase or both (empty)."""
    chosen = [
        each
        for each in facade.state().incidents.values()
        if (not host_name or each.host == host_name) and (not phase or each.phase == phase)
    ]
    return [_incident_row(each) for each in sorted(chosen, key=lambda each: -each.opened_wall)]


def incident(facade: Facade, incident_id: str) -> Incident:
    """One incident, whole. Raises UsageError where it is not known."""
    found = facade.state().incidents.get(incident_id)
    if found is None:
        raise UsageError("there is no such incident", "see: ha-agent incidents")
    return found


def _row(
    view: HostViewSummary, record: HostRecord | None, current: Incident | None, devices: tuple[DeviceHealth, ...]
) -> HostRow:
    return HostRow(
        view=view,
        maintenance=record.maintenance if record else "",
        incident=current.id if current else "",
        step=current.step if current else None,
        blocked=current.blocked if current else "",
        waiting=current.waiting if current else "",
        release=current.release if current else "",
        devices=devices,
    )


def _incident_row(each: Incident) -> IncidentRow:
    stages = Counter(str(server.stage) for server in each.servers)
    return IncidentRow(
        id=each.id,
        kind=each.kind,
        host=each.host,
        subject=each.subject,
        phase=each.phase,
        step=each.step,
        verdict=each.verdict,
        reason=each.reason,
        opened_wall=each.opened_wall,
        closed_wall=each.closed_wall,
        blocked=each.blocked,
        waiting=each.waiting,
        release=each.release,
        servers={str(stage): stages[stage] for stage in ServerStage if stages[stage]},
    )
