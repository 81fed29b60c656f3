"""demo and simulate: the whole thing without hypervisors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.common import JsonOption
from ha_agent.errors import UsageError

if TYPE_CHECKING:
    from ha_agent.sim.simulation import Simulation

DAYS_MAX = 3650
EACH_MAX = 1_000_000
JOBS_MAX = 256


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


Seeds = Annotated[int | None, typer.Option(help="How many lives of a cloud.  [default: 10]", show_default=False)]
FirstSeed = Annotated[
    int | None, typer.Option(help="The first seed; a seed replays the same life.  [default: 1]", show_default=False)
]
Days = Annotated[float | None, typer.Option(help="Virtual days of each.  [default: 1]", show_default=False)]
LogOption = Annotated[bool, typer.Option("--log", help="Print every line of the lives.")]
Script = Annotated[Path | None, typer.Option(metavar="FILE", help="Replay the life of a script.")]
Matrix = Annotated[
    int | None,
    typer.Option(
        metavar="EACH", help="Strike with every fault at every step of the plans, until each pair counted so often."
    ),
]
Jobs = Annotated[int | None, typer.Option(help="With --matrix: processes.  [default: 1]", show_default=False)]
StrikeOption = Annotated[
    str | None, typer.Option(metavar="STEP/FAULT", help="Replay one strike of the matrix, of --first-seed.")
]

ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain", help="With --strike, --script or --seeds 1: what `ha-agent explain` says of each host that failed."
    ),
]


def simulate(
    seeds: Seeds = None,
    first_seed: FirstSeed = None,
    days: Days = None,
    json: JsonOption = False,
    log: LogOption = False,
    script: Script = None,
    matrix: Matrix = None,
    jobs: Jobs = None,
    strike: StrikeOption = None,
    explain: ExplainOption = False,
) -> None:
    """Lives of a cloud in virtual time, with faults of every kind; a judge watches that no instance runs twice.

    The same seed gives the same bytes everywhere; any whole number is a seed. --script, --matrix and --strike do one other thing each.
    """
    given = {
        "--seeds": seeds is not None,
        "--first-seed": first_seed is not None,
        "--days": days is not None,
        "--json": json,
        "--log": log,
        "--script": script is not None,
        "--matrix": matrix is not None,
        "--jobs": jobs is not None,
        "--strike": strike is not None,
        "--explain": explain,
    }
    ended = _explain if explain else _nothing
    # Only once a command is chosen is its part of the simulator loaded.
    if script is not None:
        _only(given, "--script", "--explain")
        from ha_agent.sim.simulate import replay_script

        raise typer.Exit(replay_script(script, ended=ended))
    if matrix is not None:
        _only(given, "--matrix", "--jobs", "--first-seed")
        _within("--matrix", matrix, 1, EACH_MAX)
        _within("--jobs", 1 if jobs is None else jobs, 1, JOBS_MAX)
        from ha_agent.sim.matrix import run as fill

        raise typer.Exit(fill(matrix, jobs or 1, 0 if first_seed is None else first_seed))
    if strike is not None:
        _only(given, "--strike", "--first-seed", "--explain")
        step, slash, fault = strike.partition("/")
        if not slash:
            raise UsageError(f"--strike wants STEP/FAULT, not {strike!r}", "for example: --strike 'fence/Nova 503'")
        if first_seed is None:
            raise UsageError("--strike wants the seed of its story", "add --first-seed")
        from ha_agent.sim.strikes import replay

        raise typer.Exit(replay(first_seed, step, fault, ended=ended))
    if jobs is not None:
        raise UsageError("--jobs goes with --matrix only", "leave it out")
    if json and log:
        raise UsageError("--log prints text, and --json JSON", "leave one of them out")
    seeds, days = 10 if seeds is None else seeds, 1.0 if days is None else days
    if seeds < 1 or not 0 < days <= DAYS_MAX:
        raise UsageError("nothing would be simulated", f"use --seeds from 1, --days above 0 and at most {DAYS_MAX}")
    if explain and (seeds > 1 or json):
        raise UsageError(
            "--explain tells of one cloud, in text", "use it with --strike, --script, or --seeds 1 without --json"
        )
    from ha_agent.sim.simulate import run

    raise typer.Exit(run(seeds, 1 if first_seed is None else first_seed, days, json, log=log, ended=ended))


def _nothing(sim: Simulation) -> None:
    """Nobody asked."""


def _explain(sim: Simulation) -> None:
    """As `ha-agent explain HOST` would, at the end, of each host that had an incident."""
    from ha_agent.api.views import detail
    from ha_agent.cli.story import story
    from ha_agent.controller.summaries import summaries

    leader = sim.leader
    if leader is None or leader.engine is None:
        typer.echo("no controller leads")
        return
    state = leader.engine.state
    failed = {each.host for each in state.incidents.values()}
    for host, view in sorted(summaries(leader.engine).items()):
        if host in failed:
            typer.echo("\n".join(["", *story(detail(view, state, (), leader.now()))]))


def _only(given: Mapping[str, bool], option: str, *others: str) -> None:
    """Raises UsageError where an option was given that does not go with `option`."""
    wrong = [name for name, is_given in given.items() if is_given and name not in (option, *others)]
    if wrong:
        goes = " and ".join(others) if others else "nothing else"
        raise UsageError(f"{', '.join(wrong)} cannot be used with {option}", f"use {goes} with it")


def _within(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{option} is {value}", f"use {least} to {most}")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("demo")(demo)
    app.command("simulate")(simulate)
