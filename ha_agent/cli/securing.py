"""Certificates: a small authority of our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.options import Json

if TYPE_CHECKING:
    from ha_agent.heartbeat.pki import CertificateInfo

Directory = Annotated[
    Path, typer.Option("--directory", "-d", metavar="DIR", help="Where the authority is. Keep it off the hosts.")
]
HERE = Path("pki")

pki_app = typer.Typer(help="The certificates of hosts and controllers.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(pki_app, name="pki")


@pki_app.command("init")
def init(directory: Directory = HERE) -> None:
    """Make the authority. Nothing is overwritten."""
    from ha_agent.heartbeat.pki import Pki

    _tell(Pki(directory).init())


@pki_app.command("issue")
def issue(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="host or controller.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host, as Nova names it; or the controller's name.")],
    directory: Directory = HERE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to. Default: DIR/ROLE/NAME.")
    ] = None,
) -> None:
    """Issue ca.pem, cert.pem and key.pem of one host or controller; prints where they are."""
    from ha_agent.cli import show
    from ha_agent.heartbeat.pki import Pki

    show.line(str(Pki(directory).issue(role, name, out)))


@pki_app.command("show")
def show_certificate(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A certificate, or the directory that holds cert.pem.")],
    json: Json = False,
) -> None:
    """Show whose a certificate is and how long it is valid."""
    import msgspec

    from ha_agent.cli import show
    from ha_agent.heartbeat import pki

    info = pki.show(path)
    if json:
        show.print_json(msgspec.to_builtins(info))
    else:
        _tell(info)


def _tell(info: CertificateInfo) -> None:
    from ha_agent.cli import show

    whose = f"{info.role} {info.name}" if info.role else f"an authority ({info.subject})"
    show.line(f"whose: {whose}")
    show.line(f"valid until: {info.not_after}")
    show.line(f"SHA-256: {info.fingerprint}")
