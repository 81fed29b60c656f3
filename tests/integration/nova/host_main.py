"""What runs on one hypervisor of the lab, from power on to power off. `python -m tests.integration.nova.host_main LAB HOST`

A boot with an id of its own, then nova-compute. A host that has keys (`pki`) also runs the real remote, and where it is told to
(`gated`) the real gate before nova-compute. All of it is one process group, which the power switch kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec

from ha_agent.heartbeat import gate
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.sources import HealthReport
from ha_agent.model import Health
from tests.integration.nova.hosts import boot_id
from tests.integration.nova.settings import Settings
from tests.integration.rig_host import start_remote

COMPUTE = Path(__file__).with_name("nova_compute.py")
LOOK_S = 0.2


async def life(settings: Settings, name: str) -> None:
    """Only a kill ends it."""
    home = settings.directory / "hosts" / name
    boot = boot_id(os.getpid())
    write_durably(home / "boot", boot.encode())
    agent = (home / "pki").exists()
    if agent:
        _tell(home, Health.DOWN)
        _list_guests(home)
        remote = await start_remote(home, boot)
        write_durably(home / "remote.port", f"{boot} {remote.port}".encode())
        if (home / "gated").exists():
            await gate.wait(home / "remote.sock")
    nova = settings.etc("nova")
    files = [nova / "nova.conf", nova / f"{name}.conf"]
    compute = await asyncio.create_subprocess_exec(
        settings.bin("python"), "-P", COMPUTE, *[f"--config-file={file}" for file in files]
    )
    (home / "compute.pid").write_text(str(compute.pid))
    if agent:
        _tell(home, Health.UP)
    while compute.returncode is None:
        await asyncio.sleep(LOOK_S)
        if agent:
            _list_guests(home)
    print("nova-compute has ended", flush=True)
    if agent:
        _tell(home, Health.DOWN)
    await asyncio.Event().wait()


def _tell(home: Path, compute: Health) -> None:
    report = HealthReport(nova_compute=compute, libvirt=Health.UP)
    write_durably(home / "health.json", msgspec.json.encode(report))


def _list_guests(home: Path) -> None:
    """For the remote, as libvirt would list its domains."""
    listed = json.dumps({file.name: {} for file in sorted((home / "guests").iterdir())}).encode()
    file = home / "guests.json"
    if not file.exists() or file.read_bytes() != listed:
        write_durably(file, listed)


if __name__ == "__main__":
    found = Settings.of(Path(sys.argv[1]))
    assert found is not None
    asyncio.run(life(found, sys.argv[2]))
