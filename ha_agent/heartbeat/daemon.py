"""The process that a host's remote is: `python -m ha_agent.heartbeat.daemon FD`, as `ha-agent remote` starts it.

It runs on every hypervisor, so it is small: what reads the configuration and the command line is a program before this one, which
leaves its findings at FD and becomes this one. Nothing here may import the rest of ha-agent; a test holds that.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ha_agent import logs, sdnotify
from ha_agent.errors import HaAgentError, UsageError
from ha_agent.guests.source import LibvirtGuests
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.remote import Remote, RemoteConfig
from ha_agent.heartbeat.signing import Signer
from ha_agent.heartbeat.sources import FileGuests, FileHealth, HealthSource, NoGuests, ProcessHealth
from ha_agent.model import Value
from ha_agent.ports import Clock, GuestSource
from ha_agent.system import SystemClock, SystemRandom

log = logging.getLogger("ha_agent.remote")  # not "__main__"

STATUS_S = 1.0
DRAIN_S = 1.0
GUESTS = "guests.json"  # in the state directory


class Settings(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What remote.yaml says, checked. Paths are absolute; an empty one is none. `name`: the certificate must have it, unless empty."""

    name: str
    listen: str
    port: int
    listen_also: tuple[tuple[str, int], ...]
    pki_directory: str
    warn_days: float
    urgent_days: float
    socket: str
    state_directory: str
    machine_file: str
    nova_compute_units: tuple[str, ...]
    libvirt_units: tuple[str, ...]
    health_file: str
    guests_file: str
    guests_libvirt: str


def settings(arguments: Sequence[str]) -> Settings:
    """What the program before this one has left. Raises UsageError where it has not: nobody starts this one by hand."""
    try:
        (descriptor,) = map(int, arguments)
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(), type=Settings)
    except (OSError, ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        raise UsageError(f"the remote's settings cannot be read: {error}", "start it with `ha-agent remote`") from None


def compose(settings: Settings) -> Remote:
    """The remote that the settings describe; nothing runs yet."""
    health: HealthSource
    if settings.health_file:
        health = FileHealth(Path(settings.health_file))
    else:
        health = ProcessHealth(settings.nova_compute_units, settings.libvirt_units)
    clock = SystemClock()
    watch = _libvirt(settings, clock) if settings.guests_libvirt else None
    guests: GuestSource = watch or (FileGuests(Path(settings.guests_file)) if settings.guests_file else NoGuests())
    config = RemoteConfig(
        pki=Path(settings.pki_directory),
        expiry=Thresholds(warn_days=settings.warn_days, urgent_days=settings.urgent_days),
        state_directory=Path(settings.state_directory),
        control_socket=Path(settings.socket),
        listen=settings.listen,
        port=settings.port,
        listen_also=settings.listen_also,
        machine_file=Path(settings.machine_file) if settings.machine_file else None,
    )
    return Remote(config, clock, health, guests, watch=watch)


def _libvirt(settings: Settings, clock: Clock) -> LibvirtGuests:
    """libvirt is asked by a process of its own, which imports what this one may not."""
    kept = Path(settings.state_directory) / GUESTS
    return LibvirtGuests(
        settings.guests_libvirt,
        read=kept.read_bytes,
        write=lambda data: write_durably(kept, data, 0o640),
        clock=clock,
        random=SystemRandom(),
    )


def main() -> int:
    """Runs the remote until SIGTERM. Returns the exit code; errors are said in one sentence."""
    # With vfork, Python before 3.11.4 (Debian 12 has 3.11.2) stands still with all its threads until the new program has been read from
    # the disk, which may hang. A fork costs a millisecond of a process as small as this. The standard library documents this switch.
    subprocess._USE_VFORK = False  # type: ignore[misc]
    faulthandler.enable()  # on systemd's SIGABRT, for a loop that hangs, the log shows where each thread stood
    handler = logs.to(sys.stderr)
    try:
        found = settings(sys.argv[1:])
        if os.geteuid() == 0:
            log.warning("this runs as root, since `user` says so; it needs no such rights")
        asyncio.run(_main(found))
    except HaAgentError as error:
        handler.drain(DRAIN_S)
        hint = f"\n  {error.hint}" if error.hint else ""
        print(f"ha-agent: {error}{hint}", file=sys.stderr)
        return error.exit_code
    handler.drain(DRAIN_S)
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    name = Signer(Path(settings.pki_directory)).name
    if settings.name and name != settings.name:  # before it answers to anybody
        raise UsageError(
            f"the certificate is of {name}, the configuration says {settings.name}",
            f"issue one with `ha-agent pki issue host {settings.name}`, or set `name` to null",
        )
    remote = compose(settings)
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
        count = len(status.controllers)
        text = f"{status.name}: {count} controller{'' if count == 1 else 's'} connected, gate {gate}"
        if text != last:
            sdnotify.notify(f"STATUS={text}")
            last = text
        if watchdog is not None:
            sdnotify.notify("WATCHDOG=1")
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            pass


if __name__ == "__main__":
    # At once: a thread that hangs in a call (a disk, a resolver) must not keep the process from ending.
    os._exit(main())
