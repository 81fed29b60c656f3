"""The hypervisors of a lab from outside: their power switches, and what really runs where, whatever Nova believes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import uuid

from tests.integration.ipmi_sim import IpmiSim
from tests.integration.nova import configuration
from tests.integration.nova.processes import began
from tests.integration.nova.settings import ROOT, Settings

RUNS = 1  # Nova's power state


def boot_id(pid: int) -> str:
    """Of the boot that the process leads. Known from the moment at which it exists: a guest of an earlier boot cannot be taken for its."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{pid} {began(pid)}"))


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
        """The id of its present boot; empty where it has no power."""
        pid = self.bmc.host_pid()
        return boot_id(pid) if pid else ""

    def remote(self) -> tuple[str, int]:
        """The boot whose remote listens, and its port; ("", 0) where none was started."""
        file = self.directory / "remote.port"
        boot, port = file.read_text().split() if file.exists() else ("", "0")
        return boot, int(port)

    def gated(self, yes: bool) -> None:
        """Whether nova-compute waits for a controller's word at each boot from now on."""
        flag = self.directory / "gated"
        if yes:
            flag.touch()
        else:
            flag.unlink(missing_ok=True)

    def guests(self) -> dict[str, bool]:
        """Every guest that is defined on it, and whether it runs."""
        boot = self.boot
        found: dict[str, bool] = {}
        for file in (self.directory / "guests").iterdir():
            with contextlib.suppress(FileNotFoundError):  # destroyed just now
                guest = json.loads(file.read_text())
                found[file.name] = guest["boot"] == boot and guest["state"] == RUNS
        return found

    def freeze(self) -> None:
        """Its nova-compute hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._signal(signal.SIGCONT)

    def faults(self, *, spawn_s: float = 0.0, spawn_error: str = "") -> None:
        """Of the guests that it spawns from now on; without arguments: none."""
        (self.directory / "faults.json").write_text(json.dumps({"spawn_s": spawn_s, "spawn_error": spawn_error}))

    def _signal(self, number: signal.Signals) -> None:
        os.kill(int((self.directory / "compute.pid").read_text()), number)
