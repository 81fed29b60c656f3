"""pki: certificates for controllers and hosts, where there is no PKI to be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.common import JsonOption, print_json, say
from ha_agent.errors import UsageError

if TYPE_CHECKING:
    from ha_agent.heartbeat.pki import Issued

group = typer.Typer(help="A small certificate authority of our own.", no_args_is_help=True, rich_markup_mode=None)
rotate = typer.Typer(
    help="Replace the authority by a new one, in three steps; hosts are heard all the time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DirectoryOption = Annotated[Path, typer.Option("--directory", "-d", help="Of the authority; keep it off the hosts.")]
RoleArgument = Annotated[str, typer.Argument(help="host | controller")]
NameArgument = Annotated[
    str, typer.Argument(help="Host: as its nova-compute service is called. Controller: its `name`.")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Where its files go; default below the authority.")]
DEFAULT = Path()
PLACE = "/etc/ha-agent/pki"
ALL_MACHINES = "of every host and controller; no restart is needed"


def _role(role: str) -> str:
    if role not in ("host", "controller"):
        raise UsageError(f"there is no role {role!r}", "use host or controller")
    return role


@group.command("init")
def init(directory: DirectoryOption = DEFAULT) -> None:
    """Makes the authority."""
    from ha_agent.heartbeat import pki

    info = pki.Pki(directory).init()
    say(f"made an authority in {directory}, valid until {info.not_after}")
    say(f"keep {directory / 'ca-key.pem'} safe: who has it can speak for every host")


@group.command("issue")
def issue(role: RoleArgument, name: NameArgument, directory: DirectoryOption = DEFAULT, out: OutOption = None) -> None:
    """Issues the first certificate of a host or a controller."""
    from ha_agent.heartbeat import pki

    made = pki.Pki(directory).issue(_role(role), name, out)
    say(f"issued {role} {name} in {made}")
    say(f"copy ca.pem, cert.pem and key.pem to {PLACE} of that machine, readable by the user ha-agent only")


@group.command("renew")
def renew(
    role: Annotated[str, typer.Argument(help="host | controller")] = "",
    name: Annotated[str, typer.Argument(help="As it was issued.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Whatever has less than a third of its life left, or an old authority.")
    ] = False,
    directory: DirectoryOption = DEFAULT,
    out: OutOption = None,
) -> None:
    """Issues a new key and certificate; the old one stays valid until its end."""
    from ha_agent.heartbeat import pki

    authority = pki.Pki(directory)
    if every == bool(role or name) or (every and out is not None):
        raise UsageError("renew what?", "ha-agent pki renew host NAME, or: ha-agent pki renew --all")
    if every:
        done = authority.renew_all()
    else:
        done = [(role, name, authority.renew(_role(role), name, out))]
    for made_role, made_name, made in done:
        say(f"renewed {made_role} {made_name} in {made}")
    if done:
        say(f"copy key.pem, then cert.pem, to {PLACE} of that machine; its daemon takes them without a restart")
    else:
        say("nothing needs to be renewed")


@group.command("replace")
def replace(
    role: RoleArgument, name: NameArgument, directory: DirectoryOption = DEFAULT, out: OutOption = None
) -> None:
    """Issues a new key and certificate and revokes all earlier ones: stolen, lost, or a host that was re-installed."""
    from ha_agent.heartbeat import pki

    made = pki.Pki(directory).replace(_role(role), name, out)
    say(f"issued {role} {name} anew in {made}; its earlier certificates are revoked")
    say(f"1. copy ca.pem, crl.pem, key.pem and cert.pem to {PLACE} of that machine")
    say(f"2. then copy {directory / 'crl.pem'} to {PLACE} {ALL_MACHINES}")


@group.command("revoke")
def revoke(
    role: Annotated[str, typer.Argument(help="host | controller")] = "",
    name: Annotated[str, typer.Argument(help="As it was issued.")] = "",
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="This certificate only, instead of all of a name.")
    ] = None,
    directory: DirectoryOption = DEFAULT,
) -> None:
    """Revokes the certificates of a host that is gone for good, or one certificate."""
    from ha_agent.heartbeat import pki

    authority = pki.Pki(directory)
    if (certificate is not None) == bool(role or name):
        raise UsageError("revoke what?", "ha-agent pki revoke host NAME, or: ha-agent pki revoke --certificate FILE")
    if certificate is not None:
        infos = [authority.revoke_certificate(certificate)]
    else:
        infos = authority.revoke(_role(role), name)
    for info in infos:
        say(f"revoked {info.role} {info.name}, certificate {info.serial}")
    say(f"copy {directory / 'crl.pem'} to {PLACE} {ALL_MACHINES}")


@group.command("list")
def list_issued(directory: DirectoryOption = DEFAULT, json: JsonOption = False) -> None:
    """Lists every certificate that was issued here, and where a rotation of the authority stands."""
    from ha_agent.heartbeat import pki

    authority = pki.Pki(directory)
    found = authority.issued()
    if json:
        print_json({"rotation": authority.rotation(), "certificates": found})
        return
    for each in found:
        info = each.info
        say(f"{info.role:<10}  {info.name:<24}  until {info.not_after[:10]}  {_state(each):<28}  {info.serial}")
    following = {"started": "ha-agent pki rotate switch", "switched": "ha-agent pki rotate finish"}
    if authority.rotation():
        say(f"the authority is being rotated; next: {following[authority.rotation()]}")


def _state(each: Issued) -> str:
    """A word or two."""
    if each.revoked:
        return "REVOKED"
    age = "newest" if each.newest else "superseded"
    return age if each.authority == "current" else f"{age}, {each.authority or 'former'} authority"


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
    say(f"  issued by    {info.issuer}")
    say(f"  serial       {info.serial}")
    say(f"  valid until  {info.not_after}")
    say(f"  sha256       {info.fingerprint}")


@rotate.command("start")
def rotate_start(directory: DirectoryOption = DEFAULT) -> None:
    """1. Makes the next authority; both are trusted, the old one issues."""
    from ha_agent.heartbeat import pki

    info = pki.Pki(directory).rotate_start()
    say(f"made the next authority, {info.subject}, valid until {info.not_after}; it does not issue yet")
    say(f"copy {directory / 'ca.pem'} (both authorities) to {PLACE} {ALL_MACHINES}")
    say("when every machine has it: ha-agent pki rotate switch")


@rotate.command("switch")
def rotate_switch(directory: DirectoryOption = DEFAULT) -> None:
    """2. The next authority issues; both are trusted."""
    from ha_agent.heartbeat import pki

    info = pki.Pki(directory).rotate_switch()
    say(f"{info.subject} issues from now on")
    say("issue everybody's certificate anew: ha-agent pki renew --all")
    say("when every machine has its own, and `ha-agent status` names none of the old one: ha-agent pki rotate finish")


@rotate.command("finish")
def rotate_finish(
    directory: DirectoryOption = DEFAULT,
    force: Annotated[
        bool, typer.Option("--force", help="Also where somebody has no certificate of the new authority.")
    ] = False,
) -> None:
    """3. The old authority is trusted no more, and its key is deleted."""
    from ha_agent.heartbeat import pki

    info = pki.Pki(directory).rotate_finish(force=force)
    say(f"only {info.subject} is trusted; the old authority's key is deleted")
    say(f"copy {directory / 'ca.pem'} to {PLACE} {ALL_MACHINES}")


group.add_typer(rotate, name="rotate")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="pki")
