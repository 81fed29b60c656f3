"""ha-agent installed on a machine with a real systemd, as docs/install.md says: the units as they are, the user, the directories, the keys.

What differs from a real one is short times, in a drop-in, and a way to make the controller's loop hang: SIGUSR2.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.integration.debian import need
from tests.integration.rig import Rig
from tests.integration.systemd_machine import Machine

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
CONTROLLER = "ha-agent-controller.service"
REMOTE = "ha-agent-remote.service"
WATCHDOG_S = 4
SHORT = f"[Service]\nWatchdogSec={WATCHDOG_S}\nRestartSec=0.2\n"
PROGRAM = """\
#!/opt/ha-agent/bin/python3
import signal
import time

from ha_agent.cli import main

# Only the thread of the event loop handles signals, so only that one stands still.
signal.signal(signal.SIGUSR2, lambda number, frame: time.sleep(3600))  # a real loop hangs
main()
"""


class Installation:
    """Below `directory`: what the machine has as /etc/ha-agent (`etc`), /var/lib/ha-agent (`state`) and /run/ha-agent (`run`)."""

    def __init__(self, directory: Path, units: Mapping[str, str]) -> None:
        """`units`: more files below /etc/systemd/system."""
        need("python3-systemd", "systemd")
        self.etc, self.state, self.run = (directory / name for name in ("etc", "state", "run"))
        program = directory / "opt"
        for made in (self.etc, self.state, self.run):
            made.mkdir(parents=True)
        _environment(program)
        shared = {"/opt/ha-agent": program, "/opt/src/ha-agent": ROOT, "/opt/libraries": _libraries()}
        shared |= {"/etc/ha-agent": self.etc, "/var/lib/ha-agent": self.state, "/run/ha-agent": self.run}
        self.machine = Machine(directory / "machine", shared)
        shutil.copytree(UNITS, self.machine.units, dirs_exist_ok=True)
        for unit in (CONTROLLER, REMOTE):
            (self.machine.units / f"{unit}.d").mkdir()
            (self.machine.units / f"{unit}.d" / "short.conf").write_text(SHORT)
        for name, text in units.items():
            (self.machine.units / name).write_text(text)

    def __enter__(self) -> Installation:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.off()

    def boot(self) -> None:
        """The machine runs; the user and the directories are made by systemd, from our files. The daemons do not run yet."""
        self.machine.__enter__()
        for kind, command in (("sysusers.d", ("systemd-sysusers",)), ("tmpfiles.d", ("systemd-tmpfiles", "--create"))):
            self.machine.run("mkdir", "-p", f"/etc/{kind}")
            self.machine.run("cp", f"/opt/src/ha-agent/systemd/{kind}/ha-agent.conf", f"/etc/{kind}/")
            self.machine.run(*command, f"/etc/{kind}/ha-agent.conf")

    def keys(self, pki: Path) -> None:
        """A certificate and its key are where the daemons look, the key readable by them only."""
        install = ("install", "-D", "-t", "/etc/ha-agent/pki")
        shutil.copytree(pki, self.etc / "new")
        self.machine.run(*install, "-o", "ha-agent", "-g", "ha-agent", "-m", "0600", "/etc/ha-agent/new/key.pem")
        for name in ("ca.pem", "cert.pem"):
            self.machine.run(*install, "-o", "root", "-g", "ha-agent", "-m", "0640", f"/etc/ha-agent/new/{name}")
        shutil.rmtree(self.etc / "new")

    def write(self, name: str, settings: Mapping[str, Any]) -> None:
        """/etc/ha-agent/NAME, as its owner would."""
        path = self.etc / name
        path.write_text(yaml.safe_dump(dict(settings)))
        path.chmod(0o644)


def _environment(directory: Path) -> None:
    """/opt/ha-agent: a virtual environment that finds our sources and libraries where the machine has them."""
    python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    assert python.exists(), f"{sys.executable} may be where the units see nothing, and there is no {python} instead"
    site = directory / "lib" / python.name / "site-packages"
    site.mkdir(parents=True)
    (directory / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (site / "ha-agent.pth").write_text("/opt/src/ha-agent\n/opt/libraries\n")
    (site / "systemd").symlink_to("/usr/lib/python3/dist-packages/systemd")
    (directory / "bin").mkdir()
    (directory / "bin" / "python3").symlink_to(python)
    (directory / "bin" / "ha-agent").write_text(PROGRAM)
    (directory / "bin" / "ha-agent").chmod(0o755)


def _libraries() -> Path:
    found = Path(sysconfig.get_path("purelib"))
    assert found == Path(sysconfig.get_path("platlib"))
    return found


class SystemdRig(Rig):
    """The rig's hosts, BMCs and Nova; its controller is a service of a machine. On a network of its own: see netns.Network.inside."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._installation: Installation | None = None

    @property
    def installation(self) -> Installation:
        """Where the controller is installed."""
        assert self._installation is not None, "enter the rig first"
        return self._installation

    @property
    def machine(self) -> Machine:
        """What it runs on."""
        return self.installation.machine

    # --- as the rig does it, on the machine ---

    def configure(self, *arguments: Any, **more: Any) -> None:
        """The same configuration where systemd's units look for it; its secrets are root's alone."""
        super().configure(*arguments, **more)
        self._installation = Installation(self.directory / "installed", {})
        self.installation.boot()
        self.installation.keys(self.directory / "pki")
        secrets = self.installation.etc / "secrets"
        for name in ("bmc-password", "clouds.yaml"):
            shutil.copyfile(self.directory / name, secrets / name)
            (secrets / name).chmod(0o600)
        self.change(lambda config: None)
        # Where the rig looks for the journal and the socket.
        (self.directory / "store.db").symlink_to(self.installation.state / "store.db")
        (self.directory / "controller.sock").symlink_to(self.installation.run / "controller.sock")

    def change(self, edit: Any) -> None:
        """Writes the configuration again. `edit`: changes it in place."""
        config = yaml.safe_load((self.directory / "controller.yaml").read_text())
        del config["pki"], config["http"]["socket"], config["store"]["url"]
        for place in (config["fencing"], *(each["fencing"] for each in config["overrides"])):
            for device in place.get("devices", {}).values():
                device["password_file"] = "secrets/bmc-password"
        edit(config)
        self.installation.write("controller.yaml", config)

    async def start_controller(self, stderr: int | None = None) -> None:
        """Returns when systemd says that it is ready; then it answers at once."""
        await self.systemctl("start", CONTROLLER)
        assert (await self.ask("GET", "/healthz"))[0] == 200

    def end_controller(self) -> None:
        """The machine's power is gone."""
        if self._installation is not None:
            self.machine.off()

    def log(self) -> str:
        """What the controllers said."""
        try:
            return self.machine.log(CONTROLLER)
        except AssertionError:
            return "the machine is off"

    # --- systemd ---

    async def systemctl(self, *words: str) -> None:
        """Raises AssertionError with its complaint, and the log."""
        try:
            await asyncio.to_thread(self.machine.run, "systemctl", *words)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-6000:]}") from None

    async def show(self, name: str) -> str:
        """A property of the controller's unit."""
        return await asyncio.to_thread(self.machine.show, CONTROLLER, name)

    async def status_until(self, words: str, timeout_s: float = 15.0) -> str:
        """The status line, when these words are in it."""
        end = time.monotonic() + timeout_s
        while words not in (text := await self.show("StatusText")):
            assert time.monotonic() < end, f"the status is {text!r}, without {words!r}\n{self.log()[-6000:]}"
            await asyncio.sleep(0.1)
        return text
