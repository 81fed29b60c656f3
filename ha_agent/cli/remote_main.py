"""Puts a remote together from its configuration, and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys
from pathlib import Path

from ha_agent import sdnotify
from ha_agent.config import RemoteLoaded
from ha_agent.errors import UsageError
from ha_agent.guests.source import LibvirtGuests
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.signing import Signer
from ha_agent.heartbeat.sources import FileGuests, FileHealth, HealthSource, NoGuests, ProcessHealth
from ha_agent.ports import Clock, GuestSource
from ha_agent.system import SystemClock, SystemRandom

STATUS_S = 1.0
GUESTS = "guests.json"


def compose(loaded: RemoteLoaded) -> Remote:
    """The remote that the configuration describes; nothing runs yet."""
    health: HealthSource
    if loaded.health_file:
        health = FileHealth(Path(loaded.health_file))
    else:
        health = ProcessHealth(loaded.nova_compute_units, loaded.libvirt_units)
    clock = SystemClock()
    watch = _libvirt(loaded, clock) if loaded.guests_libvirt else None
    guests: GuestSource = watch or (FileGuests(Path(loaded.guests_file)) if loaded.guests_file else NoGuests())
    config = RemoteConfig(
        pki=Path(loaded.pki_directory),
        expiry=Thresholds(warn_days=loaded.pki.warn_days, urgent_days=loaded.pki.urgent_days),
        state_directory=Path(loaded.state_directory),
        control_socket=Path(loaded.socket),
        listen=loaded.listen,
        port=loaded.port,
        machine_file=Path(loaded.machine_file) if loaded.machine_file else None,
    )
    return Remote(config, clock, health, guests, watch=watch)


def _libvirt(loaded: RemoteLoaded, clock: Clock) -> LibvirtGuests:
    """Raises UsageError where libvirt-python is missing: found out now, not when the first guest hangs."""
    if importlib.util.find_spec("libvirt") is None:
        raise UsageError(
            f"guests.libvirt is set in {loaded.path}, and libvirt-python is not installed here",
            f"run `{sys.executable} -m pip install 'ha-agent[guests]'`, or set guests.libvirt to null",
        )
    kept = Path(loaded.state_directory) / GUESTS
    return LibvirtGuests(
        loaded.guests_libvirt,
        read=kept.read_bytes,
        write=lambda data: write_durably(kept, data, 0o640),
        clock=clock,
        random=SystemRandom(),
    )


def run(loaded: RemoteLoaded) -> int:
    """Runs it. Raises UsageError where it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asyncio.run(_main(loaded))
    return 0


async def _main(loaded: RemoteLoaded) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    name = Signer(Path(loaded.pki_directory)).name
    if loaded.name and name != loaded.name:  # before it answers to anybody
        raise UsageError(
            f"the certificate is of {name}, the configuration says {loaded.name}",
            f"issue one with `ha-agent pki issue host {loaded.name}`, or set `name` to null",
        )
    remote = compose(loaded)
    await remote.start()
    try:
        sdnotify.notify("READY=1")
        await _report(remote, stop)
    finally:
        sdnotify.notify("STOPPING=1")
        await remote.stop()


async def _report(remote: Remote, stop: asyncio.Event) -> None:
    """systemd: STATUS when it changed, WATCHDOG while this loop turns; until `stop`."""
    watchdog = sdnotify.watchdog_interval_s()
    pause = min(STATUS_S, watchdog or STATUS_S)
    last = ""
    while not stop.is_set():
        status = remote.status()
        gate = "open" if status.gate_open else "closed"
        text = f"{status.name}: {len(status.controllers)} controllers connected, gate {gate}"
        if text != last:
            sdnotify.notify(f"STATUS={text}")
            last = text
        if watchdog is not None:
            sdnotify.notify("WATCHDOG=1")
        try:
            await asyncio.wait_for(stop.wait(), pause)
        except TimeoutError:
            pass
