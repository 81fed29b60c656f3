"""Debian packages that integration tests need: one list, one way to install them.

`make test` as root installs the whole list first; a test says what it needs with `need("openipmi")`. Nothing that is installed
starts a service: a policy-rc.d that exits 101 stands in the way meanwhile, and is taken away afterwards.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "corosync": "what Pacemaker stands on",
    "fence-agents": "ClusterLabs' fence agents, which others wrote and everyone uses, and the schema of their metadata",
    "gcc": "compiles libvirt-python, which PyPI has as source only",
    "ipmitool": "an IPMI client that is not ours",
    "iproute2": "ip, which makes the networks that tests cut",
    "libvirt-daemon": "libvirtd, whose events a remote hears",
    "libvirt-daemon-driver-qemu": "its driver for QEMU",
    "libvirt-dev": "what libvirt-python is compiled against",
    "libxml2-utils": "xmllint, which holds metadata against a schema",
    "mariadb-server": "the database below Nova",
    "nftables": "nft, which cuts them between two machines",
    "openipmi": "ipmi_sim, an IPMI BMC that is not ours",
    "pacemaker": "its fencer, which runs our fence agents",
    "pacemaker-cli-utils": "stonith_admin",
    "pkg-config": "finds libvirt-dev",
    "prometheus": "a Prometheus that scrapes us, and promtool, which judges metrics, rules and alerts",
    "python3-systemd": "the journal's fields, without a compiler",
    "qemu-system-x86": "guests that hang for real",
    "rabbitmq-server": "the broker that OpenStack uses",
    "resource-agents": "what resource agents stand on, and ocf-tester, which judges them",
    "shellcheck": "which judges our shell scripts",
    "strace": "which tells what a daemon asks of the kernel, to be compared with its unit's filters",
    "systemd": "systemd-analyze, which judges our units",
}

POLICY = Path("/usr/sbin/policy-rc.d")
MARK = "# written by ha-agent's tests for the time of an installation"
UPDATE_TRIES = 4
PAUSE_S = 5.0
COMMAND_MAX_S = 900

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class Missing(RuntimeError):
    """A package is not there and cannot be installed. It fails a test; it never skips one."""


def need(*packages: str) -> None:
    """Makes sure that the packages are installed; installs them where we are root. Raises Missing."""
    unlisted = [p for p in packages if p not in PACKAGES]
    if unlisted:
        raise Missing(
            f"add {', '.join(unlisted)} to PACKAGES in tests/integration/debian.py, so that `make test` installs it"
        )
    if missing(packages):
        install(packages)


def missing(packages: Sequence[str]) -> list[str]:
    """Those that dpkg does not know as installed."""
    if shutil.which("dpkg-query") is None:
        raise Missing(
            f"the tests marked root need Debian, for its packages {', '.join(packages)}; dpkg-query is not here"
        )
    return [p for p in packages if "ok installed" not in _quiet(["dpkg-query", "-W", "-f", "${Status}", p]).stdout]


def install(packages: Sequence[str]) -> None:
    """By apt-get, with nothing started. Raises Missing."""
    if os.geteuid() != 0:
        raise Missing(
            f"not installed: {', '.join(missing(packages))}; run as root: apt-get install {' '.join(packages)}"
        )
    with _one_at_a_time():
        wanted = missing(packages)  # another process may just have done it
        if not wanted:
            return
        print(f"installing Debian packages: {', '.join(wanted)}", flush=True)
        with nothing_starts(POLICY):
            update(_quiet, time.sleep)
            done = _quiet(["apt-get", *_OPTIONS, "install", "-y", "--no-install-recommends", *wanted])
        if done.returncode != 0:
            raise Missing(f"apt-get install {' '.join(wanted)} failed:\n{_tail(done)}")


def update(run: Run, sleep: Callable[[float], None]) -> None:
    """`apt-get update`, a few times: mirrors have bad moments. Raises Missing."""
    for attempt in range(1, UPDATE_TRIES + 1):
        done = run(["apt-get", *_OPTIONS, "update"])
        if done.returncode == 0:
            return
        if attempt < UPDATE_TRIES:
            sleep(PAUSE_S * attempt)
    raise Missing(f"apt-get update failed {UPDATE_TRIES} times; is a Debian mirror reachable?\n{_tail(done)}")


@contextmanager
def nothing_starts(policy: Path) -> Iterator[None]:
    """While it lasts, package scripts may not start services. What was there before is there again afterwards, even after a run
    that was killed in the middle: the next one tidies up first."""
    saved = policy.with_name(policy.name + ".saved-by-ha-agent")
    _restore(policy, saved)
    if policy.exists():
        policy.rename(saved)
    policy.write_text(f"#!/bin/sh\n{MARK}\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    try:
        yield
    finally:
        _restore(policy, saved)


def _restore(policy: Path, saved: Path) -> None:
    if policy.exists() and MARK in policy.read_text(encoding="utf-8", errors="replace"):
        policy.unlink()
    if saved.exists():
        saved.rename(policy)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / "ha-agent-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_OPTIONS = ("-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")


def _quiet(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_MAX_S,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-15:])


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m tests.integration.debian install")
    try:
        install(list(PACKAGES))
    except Missing as error:
        sys.exit(f"error: {error}")
