"""The daemons: `controller` and `remote`, and the gate that nova-compute waits at."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from ha_agent.cli.common import JsonOption, print_json, say
from ha_agent.errors import HaAgentError, UsageError

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Its configuration.")]
RemoteSocketOption = Annotated[
    Path, typer.Option("--socket", envvar="HA_AGENT_REMOTE_SOCKET", help="The remote's Unix socket.")
]
REMOTE_SOCKET = Path("/run/ha-agent/remote.sock")

QUIET = frozenset({"connections", "probes"})  # of the remote's counters: no trouble

remote = typer.Typer(
    help="The small daemon on a hypervisor (without a subcommand: run it).",
    invoke_without_command=True,
    rich_markup_mode=None,
)


def controller(config: ConfigOption = Path("/etc/ha-agent/controller.yaml")) -> None:
    """Run the controller."""
    from ha_agent.config import load
    from ha_agent.controller.compose import run

    raise typer.Exit(run(load(config)))


@remote.callback()
def run_remote(context: typer.Context, config: ConfigOption = Path("/etc/ha-agent/remote.yaml")) -> None:
    """The small daemon on a hypervisor (without a subcommand: run it)."""
    if context.invoked_subcommand is not None:
        return
    from ha_agent.cli.remote_main import run
    from ha_agent.config import load_remote

    run(load_remote(config))


@remote.command("gate")
def gate(
    socket: RemoteSocketOption = REMOTE_SOCKET,
    override: Annotated[bool, typer.Option("--override", help="Open it by hand; it is audited.")] = False,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why it is overridden.")] = "",
) -> None:
    """Wait until nova-compute may start on this host (its ExecStartPre). No time-out opens the gate."""
    from ha_agent.heartbeat import gate as gates

    if not override:
        if reason:
            raise UsageError("--reason is for --override", "add --override, or leave it out")
        asyncio.run(gates.wait(socket, say))
        return
    if not reason.strip() and sys.stdin.isatty():
        reason = typer.prompt("Servers that were moved run twice if you are wrong. Why do you open it?", err=True)
    if not reason.strip():
        raise UsageError("an override needs a reason: it is audited", "ha-agent remote gate --override --reason TEXT")
    asyncio.run(gates.override(socket, reason))
    say("gate: open for this boot, by override; it is audited")


@remote.command("status")
def status(socket: RemoteSocketOption = REMOTE_SOCKET, json: JsonOption = False) -> None:
    """How the remote of this host is."""
    from ha_agent.heartbeat import control

    try:
        answer = asyncio.run(control.ask(socket, control.AskStatus()))
    except OSError as error:
        raise HaAgentError(
            f"the remote does not answer at {socket}: {error.strerror or error}", "systemctl status ha-agent-remote"
        ) from None
    if isinstance(answer, control.Failure):
        raise HaAgentError(answer.error, answer.hint)
    if json or not isinstance(answer, control.RemoteStatus):
        print_json(answer)
        return
    gate_text = "open" if answer.gate_open else "closed; nova-compute waits" if answer.waiting_gate else "closed"
    say(f"{answer.name} in boot {answer.boot_id}, port {answer.port}")
    say(f"  gate          {gate_text}")
    say(f"  nova-compute  {answer.nova_compute}")
    say(f"  libvirt       {answer.libvirt}")
    say(f"  controllers   {', '.join(answer.controllers) or 'none connected'}")
    say(f"  machine       {answer.machine or 'unknown'}")
    if answer.certificate_days is not None and answer.authority_days is not None:
        say(f"  certificate   {answer.certificate_days:.0f} days left; its authority {answer.authority_days:.0f}")
    trouble = {name: count for name, count in answer.counters.items() if count and name not in QUIET}
    say(f"  refused       {', '.join(f'{name} {count}' for name, count in trouble.items()) or 'nothing'}")
    for note in answer.notes:
        say(f"  note: {note}")


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("controller")(controller)
    app.add_typer(remote, name="remote")
