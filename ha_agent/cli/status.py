"""The tables: hosts, incidents, and what an evacuation would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ha_agent.api.views import HostRow, IncidentRow, Status
from ha_agent.cli.show import duration, heading, line, table, when
from ha_agent.model import Phase, ServerProgress, ServerStage, Verdict

FEW = 30  # so many hosts are listed in any case; of more only those with trouble


def print_status(status: Status, hosts: Sequence[HostRow], *, every: bool) -> None:
    """One page: who leads, whether it may act, then the hosts, then what is open."""
    leader = status.controller
    who = f"{leader.name or 'nobody'} leads (epoch {leader.epoch})" + (", this controller" if leader.leading else "")
    line(who + ("" if leader.leading else "; this controller stands by"))
    line(_acting(status))
    counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(status.verdicts.items()))
    failed = len(status.devices_failed)
    devices = f"{status.devices} fencing devices" + (f", {failed} failed" if failed else "")
    line(f"{status.hosts} hosts: {counts or 'none'}; {devices}")
    _part("Not ready:", [f"  {reason}" for reason in status.ready])
    listed = list(hosts) if every or len(hosts) <= FEW else [row for row in hosts if _troubled(row)]
    if listed:
        line()
        table(
            ("HOST", "VERDICT", "SEEN", "NOVA", "LIBVIRT", "WITNESSES", "GATE", "FENCING", "WHAT IS DONE"),
            [_host(row) for row in listed],
        )
    if len(listed) < len(hosts):
        line(f"{len(hosts) - len(listed)} hosts without trouble are not listed: ha-agent status --all")
    for row in hosts:
        if row.blocked:
            _part(f"{row.view.host} is blocked: {row.blocked}", _exit(row))


def print_incidents(incidents: Sequence[IncidentRow]) -> None:
    """One line each."""
    if not incidents:
        line("no incidents")
        return
    table(
        ("OPENED", "HOST", "PHASE", "STEP", "VERDICT", "SERVERS", "BLOCKED OR WAITING FOR", "ID"),
        [
            (
                when(each.opened_wall),
                each.subject if each.subject != each.host else each.host,
                each.phase.value,
                each.step.value if each.phase is Phase.OPEN else "",
                each.verdict.value,
                counted(each.servers),
                (f"blocked: {each.blocked}" if each.blocked else each.waiting) if each.phase is Phase.OPEN else "",
                each.id,
            )
            for each in incidents
        ],
    )


def print_plan(host: str, servers: Sequence[ServerProgress]) -> None:
    """What would move in which order, and what would stay and why."""
    if not servers:
        line(f"{host} has no servers")
        return
    stays = [each for each in servers if each.stage is ServerStage.NOT_MOVED]
    moves = [each for each in servers if each.stage is not ServerStage.NOT_MOVED]
    line(
        f"{host}: {len(moves)} of {len(servers)} servers would be moved, {len(stays)} would stay. Nothing was changed."
    )
    line()
    table(
        ("SERVER", "ID", "STATUS", "PRIORITY", "WOULD BE"),
        [
            (each.name or "-", each.id, each.prior, str(each.priority), _fate(each))
            for each in [*sorted(moves, key=lambda each: (-each.priority, each.name)), *stays]
        ],
    )


def counted(stages: dict[str, int] | Counter[str]) -> str:
    """How many are in which stage."""
    return ", ".join(f"{number} {stage}" for stage, number in stages.items() if number)


def _acting(status: Status) -> str:
    if status.foreign:
        return f"DISARMED: another controller claims these hosts: {status.foreign}; stop it, then: ha-agent arm"
    if not status.armed:
        return "DISARMED: it watches and alarms only; let it act: ha-agent arm"
    armed = f"armed by {status.armed_by}" if status.armed_by else "armed"
    return f"{armed}, but paused: {status.paused}; go on: ha-agent unpause" if status.paused else armed


def _troubled(row: HostRow) -> bool:
    failed = any(not each.ok and each.checked_age_s is not None for each in row.devices)
    return bool(row.incident or row.maintenance or failed) or row.view.verdict is not Verdict.ALIVE


def _host(row: HostRow) -> tuple[str, ...]:
    view = row.view
    seen = duration(view.last_seen_age_s)
    return (
        view.host,
        view.verdict.value,
        seen if view.last_seen_age_s is None else f"{seen} ago",
        view.nova_compute.value,
        view.libvirt.value,
        str(view.witnesses),
        view.gate or "-",
        _fencing(row),
        _done(row),
    )


def _fencing(row: HostRow) -> str:
    """The devices of a host in a word."""
    if not row.devices:
        return "by hand"
    if failed := [each.device for each in row.devices if not each.ok and each.checked_age_s is not None]:
        return f"failed: {', '.join(failed)}"
    return "not checked yet" if any(each.checked_age_s is None for each in row.devices) else "ok"


def _done(row: HostRow) -> str:
    parts = [f"maintenance: {row.maintenance}"] if row.maintenance else []
    if row.incident:
        what = "blocked" if row.blocked else row.waiting
        parts.append((str(row.step.value) if row.step else "") + (f": {what}" if what else ""))
    elif row.view.verdict is not Verdict.ALIVE and row.view.reason:
        parts.append(row.view.reason)
    return "; ".join(parts)


def _exit(row: HostRow) -> list[str]:
    """What to do about a blocked host."""
    host = row.view.host
    return [f"  to release it: {row.release}"] * bool(row.release) + [f"  the story: ha-agent explain {host}"]


def _fate(server: ServerProgress) -> str:
    if server.stage is ServerStage.NOT_MOVED:
        return f"left: {server.reason}"
    waits = f", after {', '.join(server.wait_for)} is proven not to run it" if server.wait_for else ""
    return "moved" + waits + (f" ({server.reason})" if server.reason else "")


def _part(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    line()
    heading(title)
    for text in lines:
        line(text)
