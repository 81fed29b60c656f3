"""The demo and the simulator: what happens, shown without a cloud."""

from __future__ import annotations

from typing import Annotated

import typer

from ha_agent.cli.options import Json


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("demo")(demo)
    app.command("simulate")(simulate)


def demo(
    hosts: Annotated[int, typer.Option("--hosts", help="How many hosts.")] = 6,
    instances: Annotated[int, typer.Option("--instances", help="How many instances on them.")] = 30,
    failure: Annotated[
        str, typer.Option("--failure", help="power, hang, network, reboot, bmc-dead or agent-crash.")
    ] = "power",
    seed: Annotated[int, typer.Option("--seed", help="Who fails, and what is where.")] = 1,
    json: Json = False,
) -> None:
    """Kill a host of a small cloud on this machine and watch it being recovered, without root."""
    from ha_agent.sim.demo import DemoOptions, run

    raise typer.Exit(run(DemoOptions(hosts=hosts, instances=instances, failure=failure, seed=seed, json=json)))


def simulate(
    seeds: Annotated[int, typer.Option("--seeds", help="How many worlds.", min=1)] = 20,
    first_seed: Annotated[int, typer.Option("--first-seed", help="The seed of the first one.", min=0)] = 1,
    days: Annotated[float, typer.Option("--days", help="Virtual days that each lives.")] = 0.1,
    json: Json = False,
) -> None:
    """Live random failures in virtual time and judge every step. The same seed gives the same bytes."""
    from ha_agent.errors import UsageError
    from ha_agent.sim import simulate as simulator

    if not 0 < days <= 365:
        raise UsageError(f"{days:g} days are not simulated", "use --days above 0 and up to 365")
    raise typer.Exit(simulator.run(seeds, first_seed, days, json))
