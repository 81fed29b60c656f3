"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONTROLLER_YAML = Path("/etc/ha-agent/controller.yaml")
REMOTE_YAML = Path("/etc/ha-agent/remote.yaml")
CONTROLLER_SOCKET = Path("/run/ha-agent/controller.sock")
REMOTE_SOCKET = Path("/run/ha-agent/remote.sock")

Socket = Annotated[
    Path,
    typer.Option("--socket", envvar="HA_AGENT_SOCKET", metavar="PATH", help="The controller's unix socket."),
]
RemoteSocket = Annotated[
    Path,
    typer.Option("--socket", envvar="HA_AGENT_REMOTE_SOCKET", metavar="PATH", help="The remote's unix socket."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Host = Annotated[str, typer.Argument(metavar="HOST", help="The host, as `openstack compute service list` names it.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
