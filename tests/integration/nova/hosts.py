"""The hypervisors of a lab from outside: their power switches, and what really runs where, whatever Nova believes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.ipmi_sim import IpmiSim
from tests.integration.nova import configuration
from tests.integration.nova.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
RUNS = 1  # Nova's power state


class Host:
    """One of them. Any process that knows the lab's directory may use it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.directory = settings.directory / "hosts" / name
        program = [sys.executable, "-m", "tests.integration.nova.host_main", str(settings.directory), name]
        log = shlex.quote(str(settings.directory / "log" / f"{name}.log"))
        self.bmc = IpmiSim(
            settings.directory / "bmc",
            name,
            f"export PYTHONPATH={shlex.quote(str(ROOT))}; exec {shlex.join(program)} >> {log} 2>&1",
            port=settings.ports[f"bmc-{name}"],
        )

    def install(self, settings: Settings) -> None:
        """Its files; nothing runs yet."""
        (self.directory / "guests").mkdir(parents=True)
        self.bmc.install()
        (settings.etc("nova") / f"{self.name}.conf").write_text(configuration.host(self.directory, self.name))

    def power(self, on: bool) -> None:
        """The switch itself, whatever the BMC does."""
        self.bmc.press(on)

    def alive(self) -> bool:
        """Whether it has power."""
        return self.bmc.host_alive()

    @property
    def boot(self) -> str:
        """The id of its newest boot; empty before the first."""
        file = self.directory / "boot"
        return file.read_text() if file.exists() else ""

    def guests(self) -> dict[str, bool]:
        """Every guest that is defined on it, and whether it runs."""
        powered, boot = self.alive(), self.boot
        found: dict[str, bool] = {}
        for file in (self.directory / "guests").iterdir():
            with contextlib.suppress(FileNotFoundError):  # destroyed just now
                guest = json.loads(file.read_text())
                found[file.name] = powered and guest["boot"] == boot and guest["state"] == RUNS
        return found

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its nova-compute hangs."""
        pid = int((self.directory / "compute.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def faults(self, *, spawn_s: float = 0.0, spawn_error: str = "") -> None:
        """Of the guests that it spawns from now on; without arguments: none."""
        (self.directory / "faults.json").write_text(json.dumps({"spawn_s": spawn_s, "spawn_error": spawn_error}))
