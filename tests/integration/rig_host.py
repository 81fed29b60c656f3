"""The software of a hypervisor of the rig: what its power switch starts and kills. `python -m tests.integration.rig_host DIRECTORY`

A boot with an id of its own; the real remote with its certificate; the real gate; then "nova-compute", which is a word to Nova's
simulator. It keeps one connection to the rig: its end is how the rig knows that the power is gone.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import msgspec

from ha_agent.heartbeat import gate
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.sources import FileGuests, FileHealth, HealthReport
from ha_agent.model import Health
from ha_agent.system import SystemClock


async def life(directory: Path) -> None:
    """From power on to power off. Only a kill ends it."""
    _health(directory, Health.DOWN)
    remote = await start_remote(directory, str(uuid.uuid4()))
    reader, writer = await asyncio.open_unix_connection(directory.parent / "rig.sock")
    writer.write(f"boot {directory.name} {remote.port}\n".encode())
    await reader.readline()
    await gate.wait(directory / "remote.sock")
    writer.write(b"compute\n")
    await reader.readline()
    _health(directory, Health.UP)
    await reader.read()  # for ever: the rig outlives every host


async def start_remote(directory: Path, boot_id: str) -> Remote:
    """The remote of a host whose keys, health and guests are files in the directory."""
    clock = SystemClock()
    state = directory / "remote"
    if not state.exists():  # the first boot is the one in which everything already ran when the story begins
        state.mkdir()
        word = gate.Cleared(boot_id=boot_id, by="installation", wall=clock.wall())
        write_durably(state / gate.STATE, msgspec.json.encode(word))
    config = RemoteConfig(
        pki=directory / "pki",
        state_directory=state,
        control_socket=directory / "remote.sock",
        listen="127.0.0.1",
        port=0,
        boot_id=boot_id,
        health_poll_s=0.3,
    )
    remote = Remote(config, clock, FileHealth(directory / "health.json"), FileGuests(directory / "guests.json"))
    await remote.start()
    return remote


def _health(directory: Path, compute: Health) -> None:
    report = HealthReport(nova_compute=compute, libvirt=Health.UP)
    write_durably(directory / "health.json", msgspec.json.encode(report))


if __name__ == "__main__":
    asyncio.run(life(Path(sys.argv[1])))
