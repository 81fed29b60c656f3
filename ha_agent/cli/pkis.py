"""pki: certificates for controllers and hosts, where there is no PKI to be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ha_agent.cli.common import JsonOption, print_json, say
from ha_agent.errors import UsageError

group = typer.Typer(help="A small certificate authority of our own.", no_args_is_help=True, rich_markup_mode=None)
DirectoryOption = Annotated[Path, typer.Option("--directory", "-d", help="Of the authority; keep it off the hosts.")]
DEFAULT = Path()


@group.command("init")
def init(directory: DirectoryOption = DEFAULT) -> None:
    """Makes the authority."""
    from ha_agent.heartbeat import pki

    info = pki.Pki(directory).init()
    say(f"made an authority in {directory}, valid until {info.not_after}")
    say(f"keep {directory / 'ca-key.pem'} safe: who has it can speak for every host")


@group.command("issue")
def issue(
    role: Annotated[str, typer.Argument(help="host | controller")],
    name: Annotated[str, typer.Argument(help="Host: as its nova-compute service is called. Controller: its `name`.")],
    directory: DirectoryOption = DEFAULT,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where its files go; default below the authority.")
    ] = None,
) -> None:
    """Issues a certificate."""
    from ha_agent.heartbeat import pki

    if role not in ("host", "controller"):
        raise UsageError(f"there is no role {role!r}", "use host or controller")
    made = pki.Pki(directory).issue(role, name, out)
    say(f"issued {role} {name} in {made}")
    say("copy ca.pem, cert.pem and key.pem to /etc/ha-agent/pki of that machine, readable by the user ha-agent only")


@group.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A certificate, or a directory that holds cert.pem.")],
    json: JsonOption = False,
) -> None:
    """Shows what is in a certificate."""
    from ha_agent.heartbeat import certs

    info = certs.show(path)
    if json:
        print_json(info)
        return
    say(f"{info.role or 'authority'} {info.name}".rstrip())
    say(f"  subject      {info.subject}")
    say(f"  valid until  {info.not_after}")
    say(f"  sha256       {info.fingerprint}")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="pki")
