"""The configuration, before a daemon runs with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ha_agent.cli.options import CONTROLLER_YAML, REMOTE_YAML, Json

if TYPE_CHECKING:
    from ha_agent.config import Loaded, RemoteLoaded

FileArgument = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: the file below /etc/ha-agent.")]
OfRemote = Annotated[bool, typer.Option("--remote", help="It is a remote's configuration.")]

config_app = typer.Typer(help="Check and show a configuration.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(config_app, name="config")


@config_app.command("check")
def check(file: FileArgument = None, remote: OfRemote = False, json: Json = False) -> None:
    """Name every error at once, and how long silence lasts until an alarm and until evidence."""
    from ha_agent.bounds import bounds
    from ha_agent.cli import show
    from ha_agent.config import load, load_remote

    if remote:
        path = file or REMOTE_YAML
        load_remote(path)
        if json:
            show.print_json({"file": str(path), "ok": True})
        else:
            show.line(f"{path}: ok")
        return
    path = file or CONTROLLER_YAML
    loaded = load(path)
    alarm, evidence = bounds(loaded.policy)
    if json:
        show.print_json(
            {
                "file": str(path),
                "ok": True,
                "hosts": len(loaded.hosts),
                "warnings": list(loaded.warnings),
                "silence_to_alarm_s": alarm,
                "silence_to_evidence_s": evidence,
            }
        )
        return
    for warning in loaded.warnings:
        typer.echo(show.clean(f"warning: {warning}"), err=True)
    show.line(f"{path}: ok, {len(loaded.hosts)} hosts")
    show.line(f"silence to alarm: at most {alarm:.1f} s")
    for level, seconds in enumerate(evidence, start=1):
        show.line(f"silence to evidence, if fencing level {level} works: at most {seconds:.1f} s")
    if not evidence:
        show.line("silence to evidence: until somebody confirms it; no host has a fencing device")


@config_app.command("show")
def show_config(file: FileArgument = None, remote: OfRemote = False, json: Json = False) -> None:
    """Print what holds: defaults, presets, templates and overrides worked out. No secrets."""
    from ha_agent.cli import show
    from ha_agent.config import load, load_remote

    # Files with secrets are not needed for it, and who looks may be unable to read them.
    loaded = load_remote(file or REMOTE_YAML) if remote else load(file or CONTROLLER_YAML, check_files=False)
    found = effective(loaded)
    if json:
        show.print_json(found)
        return
    import yaml

    show.line(yaml.safe_dump(found, sort_keys=False, allow_unicode=True).rstrip())


def effective(loaded: Loaded | RemoteLoaded) -> dict[str, Any]:
    """A configuration as plain values, to be shown: a password in a URL is left out."""
    import msgspec

    from ha_agent.config import without_secrets

    found: dict[str, Any] = msgspec.to_builtins(loaded)
    bus = found.get("bus")
    if isinstance(bus, dict):
        bus["url"] = without_secrets(str(bus["url"]))
    return found
