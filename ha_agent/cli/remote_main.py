"""From a remote's configuration to the small process that is the remote: everything of weight stays behind."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from ha_agent import privileges
from ha_agent.config import RemoteLoaded
from ha_agent.errors import UsageError
from ha_agent.heartbeat.daemon import Settings

MACHINE = Path("/sys/class/dmi/id/product_uuid")  # only root reads it


def settings(loaded: RemoteLoaded) -> Settings:
    """What the process needs of it."""
    return Settings(
        name=loaded.name,
        listen=loaded.listen,
        port=loaded.port,
        listen_also=loaded.listen_also,
        pki_directory=loaded.pki_directory,
        warn_days=loaded.pki.warn_days,
        urgent_days=loaded.pki.urgent_days,
        socket=loaded.socket,
        state_directory=loaded.state_directory,
        machine_file=loaded.machine_file,
        nova_compute_units=loaded.nova_compute_units,
        libvirt_units=loaded.libvirt_units,
        health_file=loaded.health_file,
        guests_file=loaded.guests_file,
    )


def run(loaded: RemoteLoaded) -> NoReturn:
    """Becomes the remote: this process, without root's rights and without the libraries of the command line. Raises UsageError."""
    machine = _machine()
    privileges.become(loaded.user, [Path(loaded.socket).parent, Path(loaded.state_directory)])
    if machine and loaded.machine_file:
        _leave(machine, Path(loaded.machine_file))
    descriptor = os.memfd_create("ha-agent-remote", 0)  # survives the exec
    os.write(descriptor, msgspec.json.encode(settings(loaded)))
    os.lseek(descriptor, 0, os.SEEK_SET)
    # -P: nothing is imported from the directory that somebody happened to start it in.
    command = [sys.executable, "-P", "-m", "ha_agent.heartbeat.daemon", str(descriptor)]
    try:
        os.execv(sys.executable, command)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        raise UsageError(
            f"{pwd.getpwuid(os.geteuid()).pw_name} cannot run {sys.executable}: {error.strerror or error}",
            "install ha-agent where that user may read it, for example in /opt/ha-agent",
        ) from None


def _machine() -> bytes:
    """Which machine this is, for whom we become. Under systemd we are not root, and the unit has told."""
    try:
        return MACHINE.read_bytes() if os.geteuid() == 0 else b""
    except OSError:
        return b""  # a machine without DMI runs without


def _leave(machine: bytes, path: Path) -> None:
    with contextlib.suppress(OSError):
        if not path.exists():
            path.write_bytes(machine)
