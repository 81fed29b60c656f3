"""Commands that only look."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.common import SOCKET, HostArgument, JsonOption, SocketOption, client, print_json, say
from ha_agent.errors import UsageError
from ha_agent.model import ServerStage

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ha_agent.cli.client import Client

WATCH_S = 2.0
FEW = 40  # so many hosts are listed in any case; of more only those in trouble
WIDE = 4000
CLEAR = "\x1b[H\x1b[2J"


def status(
    every: Annotated[bool, typer.Option("--all", "-a", help="Every host, also in a large cloud.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every two seconds, until Ctrl-C.")] = False,
    socket: SocketOption = SOCKET,
    json: JsonOption = False,
) -> None:
    """Show who leads, what every host is, and what is being done."""
    controller = client(socket)
    if not watch:
        _print_status(controller, every=every, json=json)
        return
    try:
        while True:
            if sys.stdout.isatty() and not json:
                print(CLEAR, end="")
            _print_status(controller, every=every, json=json, compact=True)
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


def _print_status(controller: Client, *, every: bool, json: bool, compact: bool = False) -> None:
    found = controller.status()
    # In a small cloud every host is worth a line.
    hosts = controller.hosts() if every or json or found.hosts <= FEW else []
    if json:
        print_json({"status": found, "hosts": hosts}, compact=compact)
        return
    from ha_agent.cli import tables

    print_page(tables.status(found, everything=bool(hosts), rows=hosts))


def health(socket: SocketOption = SOCKET) -> None:
    """Say whether the controller is alive: 0 where its loop turns, whether it leads or stands by; 1 where it hangs or is not there."""
    say(f"alive: {client(socket).health()}")


def explain(host: HostArgument, socket: SocketOption = SOCKET, json: JsonOption = False) -> None:
    """Tell the story of a host: what was seen, believed and done, why, and what it waits for."""
    from ha_agent.cli.story import story

    found = client(socket).host(host)
    if json:
        print_json(found)
        return
    for text in story(found):
        say(text)


def incidents(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that have work left.")] = False,
    socket: SocketOption = SOCKET,
    json: JsonOption = False,
) -> None:
    """List what happened, the newest first."""
    found = client(socket).incidents(phase="open" if open_only else "")
    if json:
        print_json(found)
    elif not found:
        say("no incidents")
    else:
        from ha_agent.cli import tables

        print_page(tables.incidents(found))


def evacuate(
    host: HostArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, change nothing. There is no other way.")] = False,
    socket: SocketOption = SOCKET,
    json: JsonOption = False,
) -> None:
    """Tell what an evacuation of a host would do with each of its servers."""
    if not dry_run:
        raise UsageError(
            "only the controller evacuates, and only from a host that is proven off",
            f"look: ha-agent evacuate {host} --dry-run; switch it off and move its servers: ha-agent fence {host}",
        )
    found = client(socket).dry_run(host)
    if json:
        print_json(found)
        return
    from ha_agent.cli import tables

    stay = sum(each.stage is ServerStage.NOT_MOVED for each in found)
    say(f"{host}: {len(found) - stay} of {len(found)} servers would be moved, {stay} would stay. Nothing was changed.")
    if found:
        print_page(tables.servers(found))


def print_page(page: RenderableType) -> None:
    """A page: as wide as the terminal, or as wide as it needs to be where no person looks."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(markup=False, highlight=False, emoji=False).print(page)
        return
    plain = Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, color_system=None, width=WIDE)
    with plain.capture() as captured:
        plain.print(page)
    for text in captured.get().splitlines():
        print(text.rstrip())


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("status")(status)
    app.command("health")(health)
    app.command("explain")(explain)
    app.command("incidents")(incidents)
    app.command("evacuate")(evacuate)
