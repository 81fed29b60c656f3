"""Status and lists on a terminal. A cloud of thousands of hosts fits a screen: what is well is counted, what is not is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ha_agent.api.facade import DeviceLook
from ha_agent.api.fencing_tests import DeviceTest, LevelTest, LevelVerdict
from ha_agent.api.views import HostRow, IncidentRow, Status
from ha_agent.cli.common import clean, day, span
from ha_agent.model import ServerProgress, Verdict

NAMED_MAX = 20
REASONS_MAX = 10
STYLES = {
    Verdict.ALIVE: "green",
    Verdict.SUSPECT: "yellow",
    Verdict.DOWN: "red",
    Verdict.OFF: "red",
    Verdict.HUNG: "red",
}


def status(page: Status, *, everything: bool = False, rows: Sequence[HostRow] = ()) -> RenderableType:
    """The page. `everything`: name every host (`rows`), not only those in trouble."""
    parts: list[RenderableType] = list(_head(page))
    shown = list(rows) if everything else list(page.troubled)
    if shown:
        parts.append(hosts(shown if everything else shown[:NAMED_MAX]))
        if not everything and len(shown) > NAMED_MAX:
            parts.append(_line(f"and {len(shown) - NAMED_MAX} more hosts in trouble; all: ha-agent status --all"))
    if page.open_incidents:
        parts.append(incidents(page.open_incidents[:NAMED_MAX]))
        if len(page.open_incidents) > NAMED_MAX:
            parts.append(_line(f"and {len(page.open_incidents) - NAMED_MAX} more; all: ha-agent incidents --open"))
    for row in (row for row in page.open_incidents[:NAMED_MAX] if row.blocked):
        parts.append(_line(f"{row.host} is BLOCKED: {row.blocked}", "red"))
        if row.release:
            parts.append(_line(f"  it is released by: {row.release}"))
    return Group(*parts)


def _head(page: Status) -> Iterable[RenderableType]:
    leader = page.controller
    if leader.leading:
        yield _line(f"{leader.name} leads (epoch {leader.epoch}, lease {leader.until_s:.0f} s)")
    else:
        yield _line(f"this controller stands by; {leader.name or 'nobody'} leads (epoch {leader.epoch})", "yellow")
    if page.foreign:
        yield _line(f"DISARMED: another controller claims these hosts: {page.foreign}", "red")
    elif not page.armed:
        yield _line("DISARMED: nothing destructive is done. It is released by: ha-agent arm", "red")
    else:
        yield _line(f"armed by {page.armed_by}")
    if page.paused:
        yield _line(f"PAUSED: {page.paused}. It is released by: ha-agent unpause", "yellow")
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in sorted(page.verdicts.items(), key=lambda each: -each[1])
    )
    yield _line(
        f"{page.hosts} hosts: {counts or 'none'}"
        + (f"; {len(page.maintenance)} in maintenance" if page.maintenance else "")
    )
    yield _line(
        f"{page.devices} fencing devices: {len(page.devices_failed)} failed", "red" if page.devices_failed else ""
    )
    known = [reason for reason in page.ready if "disarmed" not in reason]
    if known:
        yield _line("not ready:", "yellow")
        for reason in known[:REASONS_MAX]:
            yield _line(f"  {reason}")
        if len(known) > REASONS_MAX:
            yield _line(f"  and {len(known) - REASONS_MAX} more reasons; all: ha-agent status --json")
    for note in page.notes[:REASONS_MAX]:
        yield _line(f"note: {note}", "yellow")


def hosts(rows: Iterable[HostRow]) -> Table:
    """Hosts, one a row."""
    table = Table(box=None, pad_edge=False)
    for title in ("HOST", "VERDICT", "HEARD", "WITNESSES", "NOVA-COMPUTE", "STEP", "WHY"):
        table.add_column(title, overflow="fold")
    for row in rows:
        view = row.view
        why = row.blocked or row.waiting or (f"maintenance: {row.maintenance}" if row.maintenance else view.reason)
        table.add_row(
            _text(view.host),
            _text(view.verdict, STYLES.get(view.verdict, "yellow")),
            _text("never" if view.last_seen_age_s is None else f"{span(view.last_seen_age_s)} ago"),
            _text(view.witnesses),
            _text(view.nova_compute),
            _text(f"{row.step}{' BLOCKED' if row.blocked else ''}" if row.step else ""),
            _text(why),
        )
    return table


def incidents(rows: Iterable[IncidentRow]) -> Table:
    """Incidents, one a row."""
    table = Table(box=None, pad_edge=False)
    for title in ("OPENED", "HOST", "VERDICT", "STATE", "SERVERS", "WHY", "INCIDENT"):
        table.add_column(title, overflow="fold")
    for row in rows:
        state = f"closed {day(row.closed_wall)}" if row.closed_wall else str(row.step)
        table.add_row(
            _text(day(row.opened_wall)),
            _text(row.host if row.kind == "host" else f"{row.host} / {row.subject}"),
            _text(row.verdict, STYLES.get(row.verdict, "yellow")),
            _text(f"{state} BLOCKED" if row.blocked else state, "red" if row.blocked else ""),
            _text(", ".join(f"{count} {stage}" for stage, count in row.servers.items())),
            _text(row.blocked or row.waiting or row.reason),
            _text(row.id),
        )
    return table


def servers(rows: Iterable[ServerProgress]) -> Table:
    """What would become of servers."""
    table = Table(box=None, pad_edge=False)
    for title in ("SERVER", "NAME", "NOW", "PRIORITY", "WOULD BE", "WHY"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            _text(row.id), _text(row.name), _text(row.prior), _text(row.priority), _text(_would(row)), _text(row.reason)
        )
    return table


def looks(rows: Iterable[DeviceLook]) -> Table:
    """How fencing devices answered."""
    table = Table(box=None, pad_edge=False)
    for title in ("HOST", "LEVEL", "DEVICE", "DRIVER", "POWER", "TOOK", "MACHINE", "WHY"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            _text(row.host),
            _text(row.level),
            _text(row.device),
            _text(row.driver),
            _text(row.power, "red" if row.error else "green"),
            _text(span(row.took_s)),
            _text(row.machine),
            _text(row.error),
        )
    return table


def fencing_test(levels: Iterable[LevelTest]) -> Table:
    """What came of a fencing test, a device a row."""
    table = Table(box=None, pad_edge=False)
    for title in ("LEVEL", "DEVICE", "DRIVER", "BEFORE", "OFF", "ON", "HEARD", "VERDICT", "WHY"):
        table.add_column(title, overflow="fold")
    for level in levels:
        for device in level.devices or (None,):
            table.add_row(
                _text(level.level),
                *(_text(cell) for cell in _cells(device)),
                _text("" if level.back_s is None else span(level.back_s)),
                _text(level.verdict, "red" if level.verdict is LevelVerdict.FAILED else "green"),
                _text(level.why),
            )
    return table


def _cells(device: DeviceTest | None) -> tuple[str, ...]:
    if device is None:
        return ("",) * 5
    off = "" if device.off_s is None else f" {span(device.off_s)}"
    on = "" if device.on_s is None else f" {span(device.on_s)}"
    return device.device, device.driver, str(device.before), f"{device.off}{off}", f"{device.on}{on}"


def _would(row: ServerProgress) -> str:
    words = {"waiting": "moved", "held": "held until proven off elsewhere", "not_moved": "left"}
    return words.get(row.stage, str(row.stage))


def _text(value: object, style: str = "") -> Text:
    return Text(clean(value), style=style)


def _line(text: str, style: str = "") -> Text:
    return Text(clean(text), style=style)
