"""Orders to the controller. Each is journalled there with the name of who gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ha_agent.cli.options import CONTROLLER_SOCKET, Host, Json, Reason, Socket

OnOff = Annotated[str, typer.Argument(metavar="on|off", help="Whether the host is in maintenance.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("fence")(fence)
    app.command("confirm-fenced")(confirm_fenced)
    app.command("release")(release)
    app.command("ack")(ack)
    app.command("maintenance")(maintenance)
    app.command("arm")(arm)
    app.command("disarm")(disarm)
    app.command("pause")(pause)
    app.command("unpause")(unpause)


def fence(host: Host, reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Fence a host now, whatever the witnesses say."""
    _order(socket, "fence", reason, json, host=host)


def confirm_fenced(
    host: Host,
    incident: Annotated[
        str, typer.Option("--incident", metavar="ID", help="Only if this is the host's open incident.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Reason = "",
    socket: Socket = CONTROLLER_SOCKET,
    json: Json = False,
) -> None:
    """Confirm that a host is off and stays off. If it is not, its instances run twice and damage their disks."""
    from ha_agent.cli import show
    from ha_agent.cli.client import Client
    from ha_agent.errors import UsageError

    client = Client(socket)
    row = client.host(host).row
    if not row.incident:
        raise UsageError(f"{host} has no open incident, so there is nothing to confirm", "see: ha-agent incidents")
    if incident and incident != row.incident:
        raise UsageError(
            f"the open incident of {host} is {row.incident}, not {incident}; nothing was changed",
            f"look again: ha-agent explain {host}",
        )
    if not yes:
        if not show.asks():
            raise UsageError(
                "nobody can be asked here whether the host is off",
                f"ha-agent confirm-fenced {host} --incident {row.incident} --yes",
            )
        typer.echo(show.clean(f"{host} is believed {row.view.verdict}: {row.view.reason}"), err=True)
        typer.echo(f"The confirmation holds for its open incident {row.incident} only.", err=True)
        typer.confirm(f"Is {host} off, and will it stay off?", default=False, abort=True, err=True)
    _order(socket, "confirm_fenced", reason, json, host=host, incident=row.incident)


def release(host: Host, reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Stop retrying what could not be moved, and let a host that is proven off come back."""
    _order(socket, "release", reason, json, host=host)


def ack(host: Host, reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Say that you know of the host's open incident."""
    _order(socket, "ack", reason, json, host=host)


def maintenance(
    switch: OnOff, host: Host, reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False
) -> None:
    """Put a host into maintenance, or end it: nothing destructive is done to it meanwhile."""
    from ha_agent.errors import UsageError

    if switch not in ("on", "off"):
        raise UsageError(f"maintenance is on or off, not {switch!r}", f"ha-agent maintenance on {host}")
    _order(socket, f"maintenance_{switch}", reason, json, host=host)


def arm(reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Let the controller act. It stays armed over restarts."""
    _order(socket, "arm", reason, json)


def disarm(reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Let the controller watch and alarm only."""
    _order(socket, "disarm", reason, json)


def pause(reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """Hold back every destructive command for a while."""
    _order(socket, "pause", reason, json)


def unpause(reason: Reason = "", socket: Socket = CONTROLLER_SOCKET, json: Json = False) -> None:
    """End a pause."""
    _order(socket, "unpause", reason, json)


def _order(socket: Path, order: str, reason: str, json: bool, host: str = "", incident: str = "") -> None:
    """Gives it, and prints what the controller says."""
    from ha_agent.cli import show
    from ha_agent.cli.client import Client
    from ha_agent.model import Order

    said = Client(socket).order(Order(order), host=host, incident=incident, reason=reason)
    if json:
        show.print_json({"order": order, "host": host, "incident": incident, "text": said})
    else:
        show.line(said)
