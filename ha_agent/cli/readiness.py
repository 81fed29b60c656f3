"""Would the servers of each host live on if it died now? For people, and for cron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.client import unknown_host
from ha_agent.cli.common import SOCKET, JsonOption, SocketOption, client, print_json, say

if TYPE_CHECKING:
    from ha_agent.api.readiness import HostReadiness, Readiness

NAMED_MAX = 40


def readiness(
    host: Annotated[str, typer.Argument(metavar="[HOST]", help="One host; none: every host.")] = "",
    every: Annotated[bool, typer.Option("--all", "-a", help="Also in a large cloud: name every host.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="What only should be known counts as well.")] = False,
    socket: SocketOption = SOCKET,
    json: JsonOption = False,
) -> None:
    """Tell whether the servers of each host would live on if it died now.

    Exit code 0: yes; 1: a recovery would stop somewhere. Where another controller leads, only that is told, with 0: ask it.
    """
    found = client(socket).readiness()
    if host:
        found = _only(found, host)
    if json:
        print_json(found)
    else:
        for line in told(found, every=every or bool(host)):
            say(line)
    if not found.standby and not well(found, strict=strict):
        raise typer.Exit(1)


def well(found: Readiness, *, strict: bool = False) -> bool:
    """Whether nobody has to do anything. `strict`: nor to know anything."""
    noted = bool(found.notes) or any(each.findings for each in found.hosts)
    return found.ready and not (strict and noted)


def _only(found: Readiness, host: str) -> Readiness:
    import msgspec

    mine = tuple(each for each in found.hosts if each.host == host)
    if not mine:
        raise unknown_host(host, [each.host for each in found.hosts])
    return msgspec.structs.replace(found, ready=not found.controller and mine[0].ready, hosts=mine)


def told(found: Readiness, *, every: bool = False) -> list[str]:
    """In sentences: what is well is counted, what is not is named, with what to do."""
    if found.standby:
        return [f"this controller stands by; {found.standby} leads: ask it"]
    lines = [f"NOT READY: {reason}" for reason in found.controller] + [f"note: {note}" for note in found.notes]
    troubled = [each for each in found.hosts if each.findings]
    shown = troubled if every else troubled[:NAMED_MAX]
    for each in shown:
        lines += _host(each)
    if len(troubled) > len(shown):
        lines.append(f"and {len(troubled) - len(shown)} more hosts; all: ha-agent readiness --all")
    if every:
        lines += [f"{each.host}: ready{_servers(each)}" for each in found.hosts if not each.findings]
    return [*lines, *_sums(found.hosts)]


def _host(each: HostReadiness) -> list[str]:
    lines = [f"{each.host}: {'ready' if each.ready else 'NOT READY'}{_servers(each)}"]
    for finding in each.findings:
        lines.append(f"  {'' if finding.stops else 'note: '}{finding.text}")
        if finding.fix:
            lines.append(f"    {finding.fix}")
    return lines


def _servers(each: HostReadiness) -> str:
    servers = each.servers
    if servers is None:
        return "; its servers were not counted yet"
    return f"; servers: {servers.protected} protected, {servers.at_risk} at risk, {servers.unprotected} unprotected"


def _sums(hosts: Sequence[HostReadiness]) -> list[str]:
    ready = sum(each.ready for each in hosts)
    counted = [each.servers for each in hosts if each.servers is not None]
    lines = [f"{ready} of {len(hosts)} hosts ready"]
    if counted:
        lines.append(
            f"servers of {len(counted)} hosts: {sum(s.protected for s in counted)} protected, "
            f"{sum(s.at_risk for s in counted)} at risk, {sum(s.unprotected for s in counted)} unprotected"
        )
    return lines


def add(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("readiness")(readiness)
