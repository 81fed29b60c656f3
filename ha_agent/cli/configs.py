"""config check and config show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ha_agent.cli.common import JsonOption, print_json, say
from ha_agent.errors import ConfigError

if TYPE_CHECKING:
    from ha_agent.config import Loaded

group = typer.Typer(help="Look at a configuration before it is used.", no_args_is_help=True, rich_markup_mode=None)
PathArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A controller's configuration.")]
FilesOption = Annotated[
    bool, typer.Option("--files/--no-files", help="Whether files with secrets must be there and readable.")
]
DEFAULT = Path("/etc/ha-agent/controller.yaml")


@group.command("check")
def check(file: PathArgument = DEFAULT, files: FilesOption = True, json: JsonOption = False) -> None:
    """Name every problem at once; print how long silence lasts until an alarm, and until evidence."""
    from ha_agent.bounds import bounds, hung
    from ha_agent.config import load

    try:
        loaded = load(file, check_files=files)
    except ConfigError as error:
        if not json:
            count = len(error.problems)
            typer.echo(f"{file} cannot be used: {count} problem{'s' if count > 1 else ''}", err=True)
            raise
        keys = ("field", "problem", "fix")
        print_json({"ok": False, "problems": [dict(zip(keys, each, strict=True)) for each in error.problems]})
        raise typer.Exit(error.exit_code) from None
    problems = _outside(loaded) if files else []
    if problems:
        if json:
            keys = ("field", "problem", "fix")
            print_json({"ok": False, "problems": [dict(zip(keys, each, strict=True)) for each in problems]})
            raise typer.Exit(ConfigError.exit_code)
        raise ConfigError(problems)
    alarm, evidence = bounds(loaded.policy)
    if json:
        print_json(
            {
                "ok": True,
                "hosts": len(loaded.hosts),
                "warnings": loaded.warnings,
                "silence_to_alarm_s": alarm,
                "silence_to_evidence_s": evidence,
                "silence_to_hung_s": hung(loaded.policy),
            }
        )
        return
    say(f"{file} is good: {len(loaded.hosts)} hosts")
    for warning in loaded.warnings:
        say(f"  note: {warning}")
    say(f"  silence to alarm: at most {alarm:g} s")
    for level, seconds in enumerate(evidence, start=1):
        say(f"  silence to evidence when fencing level {level} works: at most {seconds:g} s")
    if not evidence:
        say("  silence to evidence: no fencing level; a person confirms")
    say(
        f"  silence to the first off of a host that hangs (its kernel answers, it does nothing else): at most {hung(loaded.policy):g} s"
    )


def _outside(loaded: Loaded) -> list[tuple[str, str, str]]:
    """What the file names and is not in it: the certificate, and the cloud's entry."""
    from ha_agent.errors import UsageError
    from ha_agent.heartbeat import certs

    problems = []
    try:
        directory = Path(loaded.pki_directory)
        role, name = certs.identity(certs.load_certificates(directory / "cert.pem")[0])
        if (role, name) != ("controller", loaded.policy.controller):
            fix = f"issue one: ha-agent pki issue controller {loaded.policy.controller}"
            problems.append(("pki.directory", f"its certificate is of {role} {name}", fix))
        certs.client_context(directory)
    except UsageError as error:
        problems.append(("pki.directory", str(error), error.hint or "see: ha-agent pki"))
    from openstack.config import OpenStackConfig
    from openstack.exceptions import ConfigException

    try:
        OpenStackConfig().get_one(cloud=loaded.cloud)
    except ConfigException as error:
        problems.append(("cloud", f"{loaded.cloud} cannot be used: {error}", "add it to clouds.yaml"))
    return problems


@group.command("check-remote")
def check_remote(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A remote's configuration.")] = Path(
        "/etc/ha-agent/remote.yaml"
    ),
) -> None:
    """Name every problem of a remote's configuration at once."""
    from ha_agent.config import load_remote

    load_remote(file)
    say(f"{file} is good")


@group.command("show")
def show(
    file: PathArgument = DEFAULT,
    host: Annotated[str, typer.Option("--host", help="Only what holds for this host.")] = "",
    json: JsonOption = False,
) -> None:
    """Show what holds, with defaults, presets, templates and overrides worked out. Secrets are not shown."""
    import msgspec

    from ha_agent.config import load, without_secrets
    from ha_agent.errors import UsageError

    loaded = load(file, check_files=False)
    data: dict[str, Any] = msgspec.to_builtins(loaded)
    data["bus"]["url"] = without_secrets(loaded.bus.url)
    if host:
        if host not in loaded.hosts:
            raise UsageError(f"{host} is not in the inventory", f"see: ha-agent config show {file}")
        data = {
            "place": data["hosts"][host],
            "policy": data["policy"]["hosts"][host],
            "levels": data["levels"][host],
        }
    if json:
        print_json(data)
        return
    import yaml

    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=False, width=120), end="")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="config")
