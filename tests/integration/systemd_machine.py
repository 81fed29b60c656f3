"""A machine whose pid 1 is a real systemd, in namespaces of its own.

    with Machine(directory, {"/etc/ha-agent": somewhere}) as machine:      # boots, in a second or two
        machine.run("systemctl", "start", "a.service")
        machine.show("a.service", "StatusText")

Its root is this machine's, and whatever it changes there is gone with it; `shared` are directories of ours that it sees elsewhere. Nothing
runs but systemd, its journal and what a test starts; it is on the network that its maker is on (netns.Network.inside). Needs root and Debian's
`systemd`. Limits on memory and CPU have no effect where this machine has no unified cgroups.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.integration.debian import need

BOOT_S = 30.0
COMMAND_S = 60.0
CGROUPS = "ha-agent-test-"

# In a mount and a pid namespace, as pid 1 of it: a group of its own below the unified hierarchy, which then is the root of what it sees.
ENTER = """\
set -e
mount --make-rprivate /
mkdir -p "$1/cgroups"
mount -t cgroup2 cgroup2 "$1/cgroups"
mkdir "$1/cgroups/$2"
echo 0 > "$1/cgroups/$2/cgroup.procs"
umount "$1/cgroups"
exec unshare --cgroup /bin/sh "$1/boot" "$1"
"""

# A root of layers: this machine's below, a file system in memory above.
BOOT = """\
set -e
layers=$1/layers root=$1/layers/root
mkdir -p "$layers"
mount -t tmpfs -o mode=755 tmpfs "$layers"
mkdir "$layers/changes" "$layers/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$layers/changes,workdir=$layers/work" overlay "$root"
for fresh in run tmp var/log var/tmp dev; do
    mount -t tmpfs -o mode=755 tmpfs "$root/$fresh"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done

# Nothing of what this machine would start: the journal, and what a test asks for.
cd "$root/lib/systemd"
rm -rf system-generators/* system-environment-generators/* system/*.target.wants/*
cd /
rm -rf "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system"
cp -r "$1/units/." "$root/etc/systemd/system/"
# The kernel has one audit, which is this machine's.
ln -s /dev/null "$root/etc/systemd/system/systemd-journald-audit.socket"
cat > "$root/etc/systemd/system/machine.target" <<'END'
[Unit]
Requires=basic.target systemd-journald.service
After=basic.target systemd-journald.service
END
: > "$root/etc/fstab"
echo machine > "$root/etc/hostname"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"

while read -r outside inside; do
    mkdir -p "$root$inside"
    mount --bind "$outside" "$root$inside"
done < "$1/shared"

cd "$root"
mkdir .before
pivot_root . .before
umount -l /.before
mount --make-rshared / # credentials are mounted in one namespace and seen in others
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system systemd.unit=machine.target
"""

# What is left of the group, when all its processes are gone.
LEAVE = """\
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1/cgroups"
find "$1/cgroups/$2" -depth -type d -exec rmdir {} +
"""


class Machine:
    """See the module. `directory` need not be there yet; what it puts into `units` before it boots is in /etc/systemd/system."""

    def __init__(self, directory: Path, shared: Mapping[str, Path]) -> None:
        self.units = directory / "units"
        self.units.mkdir(parents=True)
        self._directory = directory
        self._shared = shared
        self._group = f"{CGROUPS}{os.getpid()}-{time.monotonic_ns()}"
        self._outside: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        need("systemd")
        (self._directory / "enter").write_text(ENTER)
        (self._directory / "boot").write_text(BOOT)
        (self._directory / "shared").write_text("".join(f"{path} {at}\n" for at, path in self._shared.items()))
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        enter = ["/bin/sh", str(self._directory / "enter"), str(self._directory), self._group]
        with (self._directory / "console").open("wb") as console:
            # The kernel kills it with us, and all of it with its pid 1.
            self._outside = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *enter],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            self._wait_for_boot()
        except BaseException:
            self.off()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.off()

    def off(self) -> None:
        """Its power is gone. Nothing of it is left when this returns."""
        if self._outside is None:
            return
        outside, self._outside = self._outside, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(outside.pid, signal.SIGKILL)
        outside.wait()
        leave = ["unshare", "--mount", "/bin/sh", "-c", LEAVE, "sh", str(self._directory), self._group]
        end = time.monotonic() + BOOT_S
        while subprocess.run(leave, capture_output=True, check=False).returncode != 0:  # its processes end one by one
            assert time.monotonic() < end, f"the cgroup {self._group} cannot be removed"
            time.sleep(0.05)  # a real machine is looked at again

    # --- what is done on it ---

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As its root. Raises AssertionError with its complaint, unless not `check`."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._pid1()), "--all", "--", *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property, as systemctl shows it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.rstrip("\n")

    def processes(self, unit: str) -> list[int]:
        """All that run in its control group; as the machine numbers them."""
        group = self.show(unit, "ControlGroup")
        found = self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs", check=False).stdout if group else ""
        return [int(line) for line in found.split()]

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """What the unit said and what was said of it, oldest first, with its fields."""
        lines = self.run("journalctl", "--unit", unit, "--output", "json", "--all").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def log(self, unit: str) -> str:
        """The same as lines for people."""
        return "\n".join(str(entry.get("MESSAGE", "")) for entry in self.journal(unit))

    def _pid1(self) -> int:
        assert self._outside is not None, "it is off"
        words = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        assert words, f"it is gone\n{self._said()}"
        return int(words[0])

    def _said(self) -> str:
        return (self._directory / "console").read_text(errors="replace")

    def _wait_for_boot(self) -> None:
        assert self._outside is not None
        end = time.monotonic() + BOOT_S
        while True:
            assert self._outside.poll() is None, f"it does not boot\n{self._said()}"
            with contextlib.suppress(AssertionError):
                if self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                    return
            assert time.monotonic() < end, f"it does not boot within {BOOT_S:g} s\n{self._said()}"
            time.sleep(0.05)  # a real machine is looked at again
