"""`python -m tests.integration.nova up|down|status [DIRECTORY]`"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.integration.debian import Missing
from tests.integration.nova.lab import Lab
from tests.integration.nova.processes import LOGS, LabError

HERE = Path("build/nova-lab")


def up(directory: Path) -> None:
    """Starts a lab that outlives us."""
    began = time.monotonic()
    lab = Lab.up(directory, hosts=int(os.environ.get("HOSTS", "4")))
    print(
        f"up after {time.monotonic() - began:.0f} s: {len(lab.hosts)} hosts; clouds.yaml's entry: {lab.settings.cloud()}"
    )


def down(directory: Path) -> None:
    """Ends it, if there is one."""
    lab = Lab.of(directory)
    if lab is None:
        print(f"no lab is up in {directory}")
        return
    lab.down()
    print(f"down; its logs are in {directory / LOGS}")


def status(directory: Path) -> None:
    """Every process, every host and its guests. Ends non-zero where something that should run does not."""
    lab = Lab.of(directory)
    if lab is None:
        raise LabError(f"no lab is up in {directory}")
    for name in lab.processes.names():
        print(f"{name:<16} {lab.processes.pid(name) or 'dead'}")
    for name, host in lab.hosts.items():
        guests = host.guests()
        print(f"{name:<16} {'on' if host.alive() else 'off'}, {len(guests)} guests, {sum(guests.values())} of them run")
    if lab.dead():
        raise LabError(f"ended by themselves: {', '.join(lab.dead())}")


if __name__ == "__main__":
    commands = {"up": up, "down": down, "status": status}
    try:
        command = commands[sys.argv[1]]
    except (IndexError, KeyError):
        sys.exit(__doc__)
    try:
        command(Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
    except (LabError, Missing) as error:
        sys.exit(f"error: {error}")
