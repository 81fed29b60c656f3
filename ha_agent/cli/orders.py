"""Orders: all that changes something. Each is journalled with who gave it before its answer comes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ha_agent.cli.common import (
    SOCKET,
    HostArgument,
    JsonOption,
    ReasonOption,
    SocketOption,
    YesOption,
    clean,
    client,
    confirm,
    print_json,
    say,
)
from ha_agent.errors import UsageError
from ha_agent.model import Kind, Order, Phase

maintenance = typer.Typer(
    help="Planned work: nothing is done about a host in maintenance.", no_args_is_help=True, rich_markup_mode=None
)


def arm(socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Allow destructive commands. The first start is disarmed; arming lasts over restarts."""
    _order(socket, json, Order.ARM, reason=reason)


def disarm(socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Allow no destructive command until `arm`; running fences are cancelled."""
    _order(socket, json, Order.DISARM, reason=reason)


def pause(socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Hold everything destructive for a while: during work on the network, say."""
    _order(socket, json, Order.PAUSE, reason=reason)


def unpause(socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False) -> None:
    """End a pause."""
    _order(socket, json, Order.UNPAUSE, reason=reason)


@maintenance.command("on")
def maintenance_on(
    host: HostArgument, socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False
) -> None:
    """Begin planned work on a host."""
    _order(socket, json, Order.MAINTENANCE_ON, host=host, reason=reason)


@maintenance.command("off")
def maintenance_off(
    host: HostArgument, socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False
) -> None:
    """End planned work on a host."""
    _order(socket, json, Order.MAINTENANCE_OFF, host=host, reason=reason)


def fence(
    host: HostArgument,
    socket: SocketOption = SOCKET,
    reason: ReasonOption = "",
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Power a host off now, whatever the witnesses say, and recover its servers as its policy says."""
    if not yes and sys.stdin.isatty():  # a slip of the finger must not cost a host; a script means what it says
        view = client(socket).host(host).row.view
        confirm(f"{host} is {view.verdict}" + (f" ({view.reason})" if view.reason else "") + ". Power it off?", yes=yes)
    _order(socket, json, Order.FENCE, host=host, reason=reason)


def confirm_fenced(
    host: HostArgument,
    incident: Annotated[str, typer.Option("--incident", help="Id; default: the open one that is shown now.")] = "",
    socket: SocketOption = SOCKET,
    reason: ReasonOption = "",
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Declare that a host is off, because you made sure of it. If it is not, its servers run twice and lose data."""
    # Bound to what the operator sees now: a later incident of the host needs a confirmation of its own.
    detail = client(socket).host(host)
    found = next((i for i in detail.incidents if i.phase is Phase.OPEN and i.kind is Kind.HOST), None)
    if found is None:
        raise UsageError(f"{host} has no open incident, so there is nothing to confirm", "see: ha-agent incidents")
    if incident and incident != found.id:
        raise UsageError(
            f"the open incident of {host} is {found.id}, not {incident}; nothing was changed",
            f"look again: ha-agent explain {host}",
        )
    incident = found.id
    if not yes:
        typer.echo(clean(f"{host} is believed {found.verdict}: {found.reason}"), err=True)
        typer.echo(f"The confirmation holds for its open incident {incident} only.", err=True)
    confirm(f"Have you made sure that {host} is off and stays off? If it runs, its servers run twice.", yes=yes)
    _order(socket, json, Order.CONFIRM_FENCED, host=host, incident=incident, reason=reason)


def release(
    host: HostArgument,
    incident: Annotated[str, typer.Option("--incident", help="Id; default: the open one.")] = "",
    socket: SocketOption = SOCKET,
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Stop retrying: servers that could not be moved stay, and the host may come back."""
    _order(socket, json, Order.RELEASE, host=host, incident=incident, reason=reason)


def ack(host: HostArgument, socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Say that you have seen a host's incident."""
    _order(socket, json, Order.ACK, host=host, reason=reason)


def report(
    host: HostArgument, socket: SocketOption = SOCKET, reason: ReasonOption = "", json: JsonOption = False
) -> None:
    """Say that a host failed. It becomes a suspect and is looked at; what you say is never evidence."""
    _order(socket, json, Order.REPORT, host=host, reason=reason)


def _order(socket: str, json: bool, order: Order, *, host: str = "", incident: str = "", reason: str = "") -> None:
    text = client(socket).order(order, host=host, incident=incident, reason=reason)
    if json:
        print_json({"order": order, "host": host, "incident": incident, "text": text})
    else:
        say(text)


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    commands: dict[str, Callable[..., None]] = {
        "arm": arm,
        "disarm": disarm,
        "pause": pause,
        "unpause": unpause,
        "fence": fence,
        "confirm-fenced": confirm_fenced,
        "release": release,
        "ack": ack,
        "report": report,
    }
    for name, command in commands.items():
        app.command(name)(command)
    app.add_typer(maintenance, name="maintenance")
