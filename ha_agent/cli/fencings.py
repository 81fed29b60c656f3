"""Fencing, looked at and tried before it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli import fencing_tests
from ha_agent.cli.common import SOCKET, HostArgument, JsonOption, SocketOption, client, print_json, say
from ha_agent.model import Mode

if TYPE_CHECKING:
    from ha_agent.api.facade import DeviceLook, FencingPlan

group = typer.Typer(
    help="Look at the fencing devices and at what a fence would do, and try them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
AT_ONCE = 4  # hosts


@group.command("check")
def check(
    host: Annotated[str, typer.Argument(metavar="[HOST]", help="One host; none: every host.")] = "",
    socket: SocketOption = SOCKET,
    json: JsonOption = False,
) -> None:
    """Read every fencing device now. Exit code 1 where one does not answer as it should."""
    controller = client(socket)
    names = [host] if host else [row.view.host for row in controller.hosts()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [look for looks in pool.map(controller.fencing_check, names) for look in looks]
    failed = sum(bool(look.error) for look in found)
    bare = sorted(set(names) - {look.host for look in found})
    if json:
        print_json(found)
    else:
        _print_looks(found, bare)
        say(f"{_some(len(found), 'device')} of {_some(len(names) - len(bare), 'host')} read, {failed} failed")
    if failed or bare:
        raise typer.Exit(1)


def _print_looks(found: Sequence[DeviceLook], bare: Sequence[str]) -> None:
    from ha_agent.cli import tables
    from ha_agent.cli.reading import print_page

    if found:
        print_page(tables.looks(found))
    for name in bare:
        say(f"{name} has no fencing device")


@group.command("plan")
def plan(host: HostArgument, socket: SocketOption = SOCKET, json: JsonOption = False) -> None:
    """Tell what would happen to a host that falls silent: who is asked to switch it off, and how long it takes at most."""
    found = client(socket).fencing_plan(host)
    if json:
        print_json(found)
        return
    for line in told(found):
        say(line)


def told(found: FencingPlan) -> list[str]:
    """The plan in sentences."""
    if not found.fence:
        return [
            f"{found.host} is never fenced by its policy (recovery.fence: false)",
            f"  silent: an alarm within {found.alarm_s:g} s, and nothing else",
        ]
    lines = [
        f"if {found.host} falls silent and nobody reaches it, there is an alarm within {found.alarm_s:g} s, and then:"
    ]
    for level in found.levels:
        lines.append(
            f"  level {level.level}: off is sent to {' and '.join(d.device for d in level.devices)}; each must read off twice"
        )
        for device in level.devices:
            how = "" if device.ok else f" (at the last look: {device.error or 'not looked at yet'})"
            lines.append(f"    {device.device}: {device.driver or 'not known to the daemon'}{how}")
        lines.append(f"    proven off within {level.evidence_s:g} s of silence if this level works")
    if not found.levels:
        lines.append(f"  no fencing device: it waits for a person (ha-agent confirm-fenced {found.host})")
    servers = (
        "its tagged servers are evacuated" if found.mode is Mode.AUTO else "it is only told; others move its servers"
    )
    lines.append(f"  once it is proven off: Nova is told, {servers}")
    if found.forbidden:
        lines.append(f"NOT NOW: {found.forbidden} (release: {found.release})")
    return lines


def _some(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    group.command("test")(fencing_tests.switch_off_and_on)
    app.add_typer(group, name="fencing")
