"""Commands that only look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.options import CONTROLLER_SOCKET, Host, Json, Socket

if TYPE_CHECKING:
    from ha_agent.cli.client import Client

WATCH_S = 2.0
EVENTS = 1000

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen. Nothing else is possible.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("status")(status)
    app.command("explain")(explain)
    app.command("incidents")(incidents)
    app.command("evacuate")(evacuate)


def status(
    all_hosts: Annotated[bool, typer.Option("--all", "-a", help="Every host, also in a large cloud.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every two seconds, until Ctrl-C.")] = False,
    socket: Socket = CONTROLLER_SOCKET,
    json: Json = False,
) -> None:
    """Show who leads, what every host is, and what is being done."""
    from ha_agent.cli.client import Client
    from ha_agent.cli.show import terminal

    client = Client(socket)
    if not watch:
        _print_status(client, all_hosts, json)
        return
    try:
        while True:
            if terminal() and not json:
                print("\x1b[H\x1b[2J", end="")
            _print_status(client, all_hosts, json, compact=True)
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


def _print_status(client: Client, all_hosts: bool, json: bool, compact: bool = False) -> None:
    import msgspec

    from ha_agent.cli import show
    from ha_agent.cli.status import print_status

    found, hosts = client.status(), client.hosts()
    if json:
        document = {"status": msgspec.to_builtins(found), "hosts": msgspec.to_builtins(hosts)}
        show.print_json(document, compact=compact)
    else:
        print_status(found, hosts, every=all_hosts)


def explain(host: Host, socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Tell the story of a host: what was seen, believed and done, why, and what it waits for."""
    import msgspec

    from ha_agent.cli import show
    from ha_agent.cli.client import Client
    from ha_agent.cli.story import story

    client = Client(socket)
    found = client.host(host)
    lines = [line for line in client.events(EVENTS) if line.host == host]
    if json:
        show.print_json({**msgspec.to_builtins(found), "events": msgspec.to_builtins(lines)})
        return
    for part, text in story(found, lines, time.time()):
        if part:
            show.heading(part)
        for line in text:
            show.line(f"  {line}" if part else line)


def incidents(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that have work left.")] = False,
    socket: Socket = CONTROLLER_SOCKET,
    json: Json = False,
) -> None:
    """List what happened, the newest first."""
    import msgspec

    from ha_agent.cli import show
    from ha_agent.cli.client import Client
    from ha_agent.cli.status import print_incidents
    from ha_agent.model import Phase

    found = [row for row in Client(socket).incidents() if not open_only or row.phase is Phase.OPEN]
    if json:
        show.print_json(msgspec.to_builtins(found))
    else:
        print_incidents(found)


def evacuate(host: Host, dry_run: DryRun = False, socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Tell what an evacuation of a host would do with each of its servers (--dry-run)."""
    import msgspec

    from ha_agent.cli import show
    from ha_agent.cli.client import Client
    from ha_agent.cli.status import print_plan
    from ha_agent.errors import UsageError

    if not dry_run:
        raise UsageError(
            "servers are evacuated from a host that is proven off, by the controller, never by hand",
            f"ha-agent evacuate {host} --dry-run, or, to switch the host off and move them: ha-agent fence {host}",
        )
    found = Client(socket).dry_run(host)
    if json:
        show.print_json(msgspec.to_builtins(found))
    else:
        print_plan(host, found)
