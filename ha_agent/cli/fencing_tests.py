"""`ha-agent fencing test`: a host in maintenance is really switched off and on again, by day, by the fencing that is needed at night."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ha_agent.cli.common import (
    SOCKET,
    HostArgument,
    JsonOption,
    SocketOption,
    YesOption,
    client,
    confirm,
    print_json,
    say,
)
from ha_agent.errors import HaAgentError

if TYPE_CHECKING:
    from ha_agent.api.fencing_tests import FencingTest
    from ha_agent.cli.client import Client

POLL_S = 0.5


def switch_off_and_on(
    host: HostArgument,
    level: Annotated[
        int | None, typer.Option("--level", min=1, help="Only this one; default: all, one by one.")
    ] = None,
    with_servers: Annotated[
        bool, typer.Option("--with-servers", help="Whatever runs on the host may die: Nova is not asked.")
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=1, max=7200, help="Seconds that the host may take to be heard again.")
    ] = 900.0,
    follow: Annotated[
        bool, typer.Option("--follow", help="Begin nothing: watch the test that runs, or the last.")
    ] = False,
    socket: SocketOption = SOCKET,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Switch a host in maintenance off and on again by its fencing. Exit code 0 only if each level works and the host is back."""
    from ha_agent.api.fencing_tests import Asked

    controller = client(socket)
    if follow:
        found = controller.fencing_test(host)
    else:
        view = controller.host(host).row.view
        doubt = f" ({view.reason})" if view.reason else ""
        levels = f"level {level}" if level else "every fencing level"
        confirm(f"{host} is {view.verdict}{doubt}. Switch it off and on again, by {levels}?", yes=yes)
        asked = Asked(level=level, with_servers=with_servers, return_s=wait)
        found = controller.test_fencing(host, asked)
    try:
        found = _to_its_end(controller, found, quiet=json)
    except KeyboardInterrupt:
        print(f"the controller goes on; see: ha-agent fencing test {host} --follow", file=sys.stderr)
        raise
    if json:
        print_json(found)
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(1)


def _to_its_end(controller: Client, found: FencingTest, *, quiet: bool) -> FencingTest:
    """Says each line once, as it comes. Raises HaAgentError where the controller no longer knows of the test."""
    told, first = 0, found.id
    while True:
        for line in () if quiet else found.lines[told:]:
            say(line)
        told = len(found.lines)
        if found.ended:
            return found
        time.sleep(POLL_S)
        try:
            found = controller.fencing_test(found.host)
        except HaAgentError as error:
            raise HaAgentError(
                f"the test can no longer be watched: {error}",
                f"{found.host} may be off; look, and ask: ha-agent fencing test {found.host} --follow",
            ) from None
        if found.id != first:
            raise HaAgentError(
                f"another test of {found.host} began", f"see: ha-agent fencing test {found.host} --follow"
            )


def _print(found: FencingTest) -> None:
    from ha_agent.cli import tables
    from ha_agent.cli.reading import print_page

    print_page(tables.fencing_test(found.levels))
    say(f"the fencing of {found.host} " + ("works" if found.passed else "FAILED its test"))
