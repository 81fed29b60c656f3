"""What the commands share: options, questions, JSON, and text from elsewhere made harmless. Tables are in `show`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ha_agent.errors import HaAgentError, UsageError

if TYPE_CHECKING:
    from ha_agent.cli.client import Client

SocketOption = Annotated[
    str, typer.Option("--socket", envvar="HA_AGENT_SOCKET", help="The controller's Unix socket.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the history.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _host(name: str) -> str:
    """What can be the name of a host, or UsageError. Bytes that are no UTF-8 arrive as unprintable characters."""
    if not name or not name.isprintable():
        raise UsageError(f"{name!r} is not the name of a host", "see: ha-agent status --all")
    return name


HostArgument = Annotated[
    str, typer.Argument(metavar="HOST", callback=_host, help="As `openstack compute service list` names it.")
]
SOCKET = "/run/ha-agent/controller.sock"


def client(socket: str) -> Client:
    """The controller."""
    from ha_agent.cli.client import Client

    return Client(socket)


def clean(text: object) -> str:
    """Text for a terminal. Names of servers are their owners' choice: no control characters get through."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in str(text)
    )


def print_json(value: Any, *, compact: bool = False) -> None:
    """A value, as JSON in ASCII."""
    import msgspec

    print(json.dumps(msgspec.to_builtins(value), indent=None if compact else 2), flush=True)


def say(text: str = "") -> None:
    """One line for a human."""
    print(clean(text), flush=True)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something that cannot be undone. Raises UsageError where there is nobody to ask, or the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked; nothing was done", "if you are sure: add --yes")
    if not typer.confirm(clean(question), err=True):
        raise HaAgentError("not confirmed; nothing was done")


def clock(wall: float) -> str:
    """A wall-clock time of day, local."""
    return _local("%H:%M:%S", wall) if wall else "--:--:--"


def day(wall: float) -> str:
    """A wall-clock date and time, local."""
    return _local("%Y-%m-%d %H:%M:%S", wall)


def _local(form: str, wall: float) -> str:
    try:
        return time.strftime(form, time.localtime(wall))
    except (OverflowError, ValueError, OSError):  # no calendar goes so far
        return "no time"


def span(seconds: float) -> str:
    """A duration that a human reads at a glance."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
