"""Pacemaker's fencer on one machine, without a cluster around it: corosync and pacemaker-fenced in namespaces of their own.

    fencer = PacemakerFencer(directory, agents={"fence_ha_agent": Path(".venv/bin/fence_ha_agent")})
    fencer.start()
    done = fencer.admin("--fence", "compute-1", "--timeout", "30")     # stonith_admin
    fencer.stop()

Needs root and Debian's pacemaker, corosync and pacemaker-cli-utils. What they write is theirs alone: /etc, /usr/sbin and /var are covered, /run and /dev/shm
are empty ones. They see our loopback, where the BMCs listen; their own sockets are files under that /run, so that two of them do not meet.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

_COROSYNC = """\
totem {{
    version: 2
    cluster_name: lab
    transport: udpu
    interface {{
        ringnumber: 0
        bindnetaddr: 127.0.0.1
        mcastport: {port}
    }}
}}
system {{
    sched_rr: no
    move_to_root_cgroup: no
}}
quorum {{
    provider: corosync_votequorum
}}
logging {{
    to_stderr: yes
    to_syslog: no
}}
nodelist {{
    node {{
        ring0_addr: 127.0.0.1
        name: pcmk-1
        nodeid: 1
    }}
}}
"""

# init of the namespaces: it must not die before its children.
_INIT = """\
set -e
cd {directory}
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs cover
for place in /etc /usr/sbin /var; do
    mkdir -p "cover$place/upper" "cover$place/work"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$PWD/cover$place/upper,workdir=$PWD/cover$place/work" "$place"
done
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/crm /etc/libqb /etc/corosync
chown hacluster:haclient /run/crm
touch /etc/libqb/force-filesystem-sockets
cp corosync.conf /etc/corosync/corosync.conf
hostname pcmk-1
{links}
export PCMK_logfile={directory}/pacemaker.log PCMK_logfacility=none HOME=/root
corosync -f > corosync.log 2>&1 &
tries=300
until corosync-cfgtool -s > /dev/null 2>&1; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.05
done
/usr/lib/pacemaker/pacemaker-fenced --stand-alone-w-cpg -l {directory}/fenced.log > fenced.out 2>&1 &
echo up > up
while :; do sleep 0.2; done
"""


class PacemakerFencer:
    """See the module. `agents`: what is to be found under /usr/sbin, and what it is a link to."""

    def __init__(self, directory: Path, agents: Mapping[str, Path]) -> None:
        self.directory = directory
        self._agents = agents
        self._outer: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the fencer answers. Raises RuntimeError with what it said."""
        self.directory.mkdir(parents=True)
        (self.directory / "cover").mkdir()
        (self.directory / "corosync.conf").write_text(_COROSYNC.format(port=_free_port()))
        links = "\n".join(f"ln -sf {shlex.quote(str(to))} /usr/sbin/{name}" for name, to in self._agents.items())
        init = _INIT.format(directory=shlex.quote(str(self.directory)), links=links)
        (self.directory / "init").write_text(init)
        with (self.directory / "init.log").open("wb") as log:
            self._outer = subprocess.Popen(
                ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "/bin/sh", "-u", "init"],
                cwd=self.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 30
        while not (self.directory / "up").exists() or self.admin("--list-registered", check=False).returncode != 0:
            if self._outer.poll() is not None or time.monotonic() > end:
                said = self.said()
                self.stop()
                raise RuntimeError(f"pacemaker-fenced does not answer: {said}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Nothing of it is alive when it returns: the end of their init ends them all."""
        if self._outer is not None:
            self._outer.kill()
            self._outer.wait()
            self._outer = None

    def admin(self, *words: str, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """stonith_admin. Raises AssertionError with what it said where it fails, unless `check` is False."""
        done = self.run("stonith_admin", *words, timeout_s=timeout_s)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.said()}"
        return done

    def run(self, *command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command among them."""
        assert self._outer is not None, "start it first"
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        inner = children[0] if children else str(self._outer.pid)
        return subprocess.run(
            ["nsenter", "-t", inner, "--mount", "--uts", "--ipc", "--pid", "--", *command],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def said(self) -> str:
        """The end of every log."""
        logs = [self.directory / name for name in ("init.log", "corosync.log", "fenced.out", "fenced.log")]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs if log.exists())


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C"}


def _free_port() -> int:
    """corosync takes this one and the one below."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
