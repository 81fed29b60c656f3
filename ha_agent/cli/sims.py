"""demo and simulate: the whole thing without hypervisors."""

from __future__ import annotations

from typing import Annotated

import typer

from ha_agent.cli.common import JsonOption
from ha_agent.errors import UsageError


def demo(
    hosts: Annotated[int, typer.Option(help="Hypervisors.")] = 6,
    instances: Annotated[int, typer.Option(help="Instances on them.")] = 30,
    failure: Annotated[str, typer.Option(help="power | hang | network | reboot | bmc-dead | agent-crash")] = "power",
    seed: Annotated[int, typer.Option(help="Of what is chosen at random.")] = 1,
    json: JsonOption = False,
) -> None:
    """A hypervisor dies on loopback, through the real code: no root, no cloud, under a minute."""
    from ha_agent.sim.demo import DemoOptions, run

    raise typer.Exit(run(DemoOptions(hosts=hosts, instances=instances, failure=failure, seed=seed, json=json)))


def simulate(
    seeds: Annotated[int, typer.Option(help="How many lives of a cloud.")] = 10,
    first_seed: Annotated[int, typer.Option(help="The first seed; a seed replays the same life.")] = 1,
    days: Annotated[float, typer.Option(help="Virtual days of each.")] = 1.0,
    json: JsonOption = False,
) -> None:
    """Lives of a cloud in virtual time, with faults of every kind; a judge watches that no instance runs twice."""
    if seeds < 1 or not 0 < days <= 3650:
        raise UsageError("nothing would be simulated", "use --seeds from 1, --days above 0 and at most 3650")
    from ha_agent.sim.simulate import run

    raise typer.Exit(run(seeds, first_seed, days, json))


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("demo")(demo)
    app.command("simulate")(simulate)
