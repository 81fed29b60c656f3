"""A hypervisor on the network of namespaces: what runs on it from power on to power off, and what may befall its processes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import msgspec
import yaml

from ha_agent.heartbeat.files import write_durably
from ha_agent.heartbeat.sources import HealthReport
from ha_agent.model import Health
from tests.integration.ipmi_sim import IpmiSim
from tests.integration.netns import Network

ROOT = Path(__file__).resolve().parents[2]
NEW_ID = Path("/proc/sys/kernel/random/uuid")

# All that runs on a host, from power on to power off. The boot id is a file of its own in a mount namespace of its own. Like systemd,
# it starts a remote that ended again, unless `broken` is there. `$1`: the host's directory, then the remote's command.
INIT = """\
cd "$1" || exit 1
shift
cat /proc/sys/kernel/random/uuid > boot_id
mount --bind boot_id /proc/sys/kernel/random/boot_id || exit 1
while :; do
    "$@" >> log 2>&1 &
    echo $! > remote.pid
    wait $!
    while sleep 0.1; [ -e broken ]; do :; done
done
"""


class Host:
    """One hypervisor: its processes, as somebody in front of it might treat them."""

    def __init__(self, directory: Path, network: Network, bmc_at: str) -> None:
        """`directory`: its own, named as it is, with its certificate in `pki`; its BMC is on the loopback of the machine `bmc_at`."""
        self.directory = directory
        self.socket = directory / "remote.sock"
        config = {
            "version": 1,
            "user": "root",  # it shares its directory with the tests
            "listen": [f"{network.address(directory.name, plane)}:7420" for plane in network.planes(directory.name)],
            "pki": {"directory": "pki"},
            "socket": self.socket.name,
            "state_directory": "remote",
            "machine_file": None,
            "health": {"file": "health.json"},
        }
        (directory / "remote.yaml").write_text(yaml.safe_dump(config))
        (directory / "init").write_text(INIT)
        init = ["sh", directory / "init", directory]
        remote = [sys.executable, "-m", "ha_agent", "remote", "--config", directory / "remote.yaml"]
        command = ["ip", "netns", "exec", network.namespace(directory.name), *init, *remote]
        line = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(map(str, command))}"
        self.compute(Health.UP)
        with network.inside(bmc_at):
            self.bmc = IpmiSim(directory / "bmc", directory.name, line)
            self.bmc.start()

    @property
    def on(self) -> bool:
        """Whether it has power."""
        return self.bmc.host_alive()

    def boot_id(self) -> str:
        """Of the last boot; empty while it boots for the first time."""
        try:
            return (self.directory / "boot_id").read_text().strip()
        except FileNotFoundError:
            return ""

    def compute(self, health: Health) -> None:
        """What its remote is told of its nova-compute."""
        report = HealthReport(nova_compute=health, libvirt=Health.UP)
        write_durably(self.directory / "health.json", msgspec.json.encode(report))

    def freeze_remote(self) -> None:
        """Its remote stops in the middle of whatever it does; its kernel and all else run on."""
        os.kill(self._remote(), signal.SIGSTOP)

    def break_remote(self) -> None:
        """Its remote dies, and is not started again."""
        (self.directory / "broken").touch()
        os.kill(self._remote(), signal.SIGKILL)

    def freeze(self) -> None:
        """All its processes stop; only its kernel still answers."""
        leader = self.bmc.host_pid()
        assert leader is not None, "it is on"
        os.killpg(leader, signal.SIGSTOP)

    def heal(self) -> None:
        """Undoes all of the above."""
        (self.directory / "broken").unlink(missing_ok=True)
        leader = self.bmc.host_pid()
        if leader is not None:
            os.killpg(leader, signal.SIGCONT)

    def reboot(self) -> str:
        """It boots anew, quicker than anybody misses it. Returns the new boot id."""
        boot_id = NEW_ID.read_text()
        (self.directory / "boot_id").write_text(boot_id)  # in place: the mount shows this very file
        os.kill(self._remote(), signal.SIGKILL)
        return boot_id.strip()

    def _remote(self) -> int:
        return int((self.directory / "remote.pid").read_text())
