"""All commands in one tree."""

from __future__ import annotations

from typing import Annotated

import typer

from ha_agent import __version__
from ha_agent.cli import configs, daemons, fencings, orders, pkis, readiness, reading, sims

app = typer.Typer(
    name="ha-agent",
    help="Keeps virtual machines running on OpenStack when the hypervisor under them dies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"ha-agent {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for module in (reading, readiness, orders, fencings, daemons, configs, pkis, sims):
    module.add(app)
