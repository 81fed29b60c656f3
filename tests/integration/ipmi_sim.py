"""A host with a real BMC: OpenIPMI's `ipmi_sim` and a process group that it really kills.

    sim = IpmiSim(tmp_path, "compute-1")                  # or command="exec python3 my-host.py"
    sim.start()
    ... IPMI at 127.0.0.1:sim.port, USER, PASSWORD ...
    sim.fault("ignore_off"); sim.freeze(); sim.host_alive()
    sim.stop()

Needs Debian's `openipmi`. The switch is a shell program of ours that ipmi_sim runs for every look at and change of the power; the
host is whatever process group runs, so that the power state cannot differ from the truth.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

USER = "admin"
PASSWORD = "s3cret"

# The only faults there are. With an argument: seconds.
FAULTS = frozenset({"ignore_off", "slow_off", "refuse", "unreadable", "stall", "flaps", "comes_back", "dies"})

_RMCP_PING = bytes.fromhex("0600ff06000011be80000000")

_LAN = """\
name "{name}"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 {port}
  priv_limit admin
  allowed_auths_callback none md2 md5 straight
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid {guid}
{key}endlan
chassis_control "/bin/sh {switch} {directory}"
user 1 false "" "none" user 10 none md2 md5 straight
user 2 true "{user}" "{password}" admin 20 none md2 md5 straight
"""

# One management controller is the whole machine.
_EMULATION = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""

# switch DIRECTORY get power | switch DIRECTORY set power 0|1. In DIRECTORY: `command` (the host), `pid` (its process group), `fault`
# (a name and perhaps seconds), `log` (one line for each change). A dead group leader that nobody waited for counts as dead.
_SWITCH = """\
#!/bin/sh
cd "$1" || exit 1
action=$2
shift 2
[ -f fault ] && read -r fault seconds < fault

running() {
    pid=$(cat pid 2>/dev/null) || return 1
    [ -n "$pid" ] || return 1
    state=$(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null)
    [ -n "$state" ] && [ "$state" != Z ] && [ "$state" != X ]
}
settle() { # settle yes|no: waits until the host runs, or does not
    tries=200
    while [ $tries -gt 0 ]; do
        if running; then now=yes; else now=no; fi
        [ $now = "$1" ] && return
        sleep 0.01
        tries=$((tries - 1))
    done
}
up() {
    running && return
    rm -f pid
    setsid --fork sh -c 'echo $$ > pid; . ./command' < /dev/null > host.log 2>&1
    settle yes
    echo on >> log
}
down() {
    running || return
    kill -s KILL -- "-$pid"
    settle no
    echo off >> log
}

look() {
    if running; then echo power:1; return; fi
    echo x >> looks
    case $fault in
    flaps) [ $(($(wc -l < looks) % 2)) = 1 ]; echo power:$? ;;
    comes_back) echo power:0; up ;;
    *) echo power:0 ;;
    esac
}

[ "$fault" = stall ] && sleep "$seconds"
if [ "$action" = get ]; then
    [ "$fault" = unreadable ] && { echo "no sensor"; exit 1; }
    for what in "$@"; do
        case $what in
        power) look ;;
        *) echo "$what:default" ;;
        esac
    done
    exit 0
fi
[ "$fault" = refuse ] && { echo refused >> log; echo "switch is stuck"; exit 1; }
while [ $# -ge 2 ]; do
    case "$1 $2" in
    "power 1") up ;;
    "power 0"|shutdown*)
        case $fault in
        ignore_off) echo ignored >> log ;;
        dies) echo died >> log; exec sleep 100000 ;;
        slow_off) (sleep "$seconds"; down) < /dev/null > /dev/null 2>&1 & ;;
        *) down ;;
        esac ;;
    reset*) down; up ;;
    esac
    shift 2
done
"""


class IpmiSim:
    """One host and its BMC. `command`: a line of shell that is the host, `exec`ed if it is one program; the default only sleeps.
    `guid`: 32 hexadecimal digits, which machine the BMC says it is. `key`: its Kg, up to 16 letters. Not thread-safe."""

    address = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        name: str,
        command: str = "exec sleep 100000",
        guid: str = "",
        key: str = "",
        port: int = 0,
    ) -> None:
        self._key = key
        self.name = name
        self.guid = guid or os.urandom(16).hex()
        self.port = port or free_udp_port()
        self._directory = directory / name
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def installed(self) -> bool:
        """Whether there is a switch to press."""
        return (self._directory / "switch").exists()

    def install(self) -> None:
        """Writes its files; nothing runs yet."""
        self._directory.mkdir(parents=True)
        (self._directory / "state").mkdir()
        (self._directory / "command").write_text(self._command + "\n")
        # sh reads it: a program that a child of ours, just forked, still holds open for writing could not be executed
        switch = self._directory / "switch"
        switch.write_text(_SWITCH)
        (self._directory / "lan").write_text(
            _LAN.format(
                name=self.name,
                port=self.port,
                guid=self.guid,
                key=f'  bmc_key "{self._key}"\n' if self._key else "",
                switch=switch,
                directory=self._directory,
                user=USER,
                password=PASSWORD,
            )
        )
        (self._directory / "emulation").write_text(_EMULATION)

    def program(self) -> list[str]:
        """The BMC itself, for those who start it themselves."""
        files = {"-c": "lan", "-f": "emulation", "-s": "state"}
        return [
            "ipmi_sim",
            "-n",
            *[part for flag, file in files.items() for part in (flag, str(self._directory / file))],
        ]

    def start(self, on: bool = True) -> None:
        """Starts the BMC and (if `on`) the host; returns when the BMC answers. Raises RuntimeError with its output if it does not."""
        self.install()
        if on:
            self.press(True)
        self._run()

    def _run(self) -> None:
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self.program(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if not self._answers():
            said = (self._directory / "output").read_text(errors="replace")
            self.stop()
            raise RuntimeError(f"ipmi_sim of {self.name} does not answer: {said or 'it says nothing'}")

    def stop(self) -> None:
        """The BMC and the host are dead when it returns."""
        self._die()
        self.fault(None)
        self.press(False)
        assert not self.host_alive(), f"the host of {self.name} survived its power off"

    def _die(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # and a switch that never ends
            self._process.wait()
            self._process = None

    def lose_supply(self) -> None:
        """What feeds the host and its BMC fails: both are gone."""
        self._die()
        self.press(False)

    def regain_supply(self) -> None:
        """The BMC starts, and answers when it returns; the host stays off. Raises RuntimeError."""
        self._run()

    def press(self, on: bool) -> None:
        """The power button: switches the host without its BMC (also: a host that dies, or is brought back, by itself)."""
        subprocess.run(
            ["/bin/sh", self._directory / "switch", self._directory, "set", "power", str(int(on))],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def fault(self, kind: str | None, seconds: float = 0.0) -> None:
        """Orders a fault, None ends it. ignore_off: says yes, does nothing · slow_off: off works `seconds` later · refuse: changes
        fail · unreadable: the state cannot be read · stall: everything takes `seconds`, and holds up the BMC · flaps: once off, it
        reads off and on by turns · comes_back: once it was read off, the host is on again by itself · dies: takes an off, does not
        do it, and answers nothing from then on."""
        path = self._directory / "fault"
        if kind is None:
            path.unlink(missing_ok=True)
            return
        if kind not in FAULTS:
            raise ValueError(f"there is no fault {kind}")
        path.write_text(f"{kind} {seconds:g}\n")

    def freeze(self) -> None:
        """The BMC stops in the middle of whatever it does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._signal(signal.SIGCONT)

    def host_pid(self) -> int | None:
        """The host's process group while it runs."""
        try:
            pid = int((self._directory / "pid").read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else pid

    def host_alive(self) -> bool:
        """Whether the host runs."""
        return self.host_pid() is not None

    def log(self) -> list[str]:
        """What the switch did, oldest first: on, off, ignored, refused. An off of a host that was off already leaves no line."""
        path = self._directory / "log"
        return path.read_text().split() if path.exists() else []

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "start it first"
        self._process.send_signal(number)

    def _answers(self, timeout_s: float = 5.0) -> bool:
        end = time.monotonic() + timeout_s
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.05)
            client.connect((self.address, self.port))
            while time.monotonic() < end:
                try:
                    client.send(_RMCP_PING)
                    return bool(client.recv(64))
                except OSError:  # refused until it listens
                    time.sleep(0.02)
        return False


def free_udp_port() -> int:
    """One that is free on loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
