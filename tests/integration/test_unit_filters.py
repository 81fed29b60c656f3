"""The remote's unit forbids nothing that the remote does: what a real one asks of the kernel, against the unit's filters."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.debian import need
from tests.integration.honest import ROOT, World, monitored
from tests.integration.libvirt_rig import Libvirt
from tests.unit.heartbeat_support import until
from tests.unit.test_systemd import REMOTE, settings

NOT_HERE = "6f0d3a52-7d2c-4b8c-9d0e-3c1b0f5a7e11"  # a server
# libnuma, which libvirt loads, tries what the kernel can do. Here it is refused as the unit would, and libvirt is asked all the same.
DISPENSABLE = "set_mempolicy"
# PR_SET_MDWE: no memory becomes executable, as with MemoryDenyWriteExecute. Kernels before 6.3 do not know it.
NO_NEW_CODE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
CALL = re.compile(r"^\d+ +(\w+)\(")


def filter_sets() -> Mapping[str, set[str]]:
    """systemd's sets of system calls by name, their members as they are written there."""
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, set[str]] = {}
    members: set[str] = set()
    for line in said.splitlines():
        if line.startswith("@"):
            members = found[line.strip()] = set()
        elif line.startswith(" ") and "#" not in line:
            members.add(line.strip())
    return found


def expanded(name: str, sets: Mapping[str, set[str]]) -> set[str]:
    """A set without sets in it."""
    if not name.startswith("@"):
        return {name}
    return set().union(*(expanded(member, sets) for member in sets[name]))


def allowed(lines: list[str]) -> set[str]:
    """What the SystemCallFilter= lines of a unit leave."""
    sets, left = filter_sets(), set[str]()
    for line in lines:
        for name in line.removeprefix("~").split():
            left = left - expanded(name, sets) if line.startswith("~") else left | expanded(name, sets)
    return left


@pytest.mark.root
async def test_the_unit_forbids_nothing_that_is_needed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A heartbeat, a witness's answer, a gate, a status, a systemctl, a libvirt that has a guest, and an end."""
    need("strace", "systemd")
    with Libvirt(tmp_path_factory.mktemp("v") / "l") as libvirt:
        await asyncio.to_thread(libvirt.start)
        await asyncio.to_thread(libvirt.guest, "well")
        await nothing_needed_is_forbidden(tmp_path, libvirt)


async def nothing_needed_is_forbidden(tmp_path: Path, libvirt: Libvirt) -> None:
    world = World(tmp_path, ("compute-1", "compute-2"))
    traced = tmp_path / "trace"
    config = world.configure("compute-1", health={}, guests={"libvirt": libvirt.read_only_uri})
    for made in ("state",):
        (world.home / made).mkdir()  # as systemd does
    command = [
        "strace",
        "-f",
        "-s",
        "0",
        "-e",
        f"inject={DISPENSABLE}:error=EPERM",
        "-o",
        str(traced),
        sys.executable,
        "-c",
        NO_NEW_CODE,
        sys.executable,
        "-m",
        "ha_agent",
        "remote",
        "-c",
        str(config),
    ]
    with world.remote("compute-2"), subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as strace:  # noqa: ASYNC220 -- it is short
        for host in world.ports:
            await world.ready(host)
        async with monitored(world, world.ports, 0.5) as (watch, heard):
            await until(lambda: heard.beats.keys() == world.ports.keys())
            watch.probe("compute-1", "compute-2", "1" * 32, 5.0)
            watch.probe("compute-2", "compute-1", "2" * 32, 5.0)
            await until(lambda: len(heard.answers) == 2)
            async with asyncio.timeout(30.0):
                while (await watch.domain("compute-1", NOT_HERE, 5.0)).present is None:  # noqa: ASYNC110 -- another process asks libvirt
                    await asyncio.sleep(0.1)
            assert (await watch.domain("compute-1", NOT_HERE, 5.0)).present is False
            await watch.open_gate("compute-1", Path("/proc/sys/kernel/random/boot_id").read_text().strip(), 10.0)  # noqa: ASYNC240
            assert (await world.status()).gate_open
        os.kill(int(traced.read_text().split(maxsplit=1)[0]), signal.SIGTERM)  # the first that it traced
        assert await asyncio.to_thread(strace.wait, 20.0) == 0
    lines = traced.read_text().splitlines()
    # As root it lowers a limit and gives up more rights, which under systemd is done before.
    lines = [line for line in lines if "PR_SET_NO_NEW_PRIVS" not in line and "RLIMIT_CORE" not in line]
    unit = settings(REMOTE)
    used = {match[1] for match in map(CALL.match, lines) if match}
    assert {"execve", "accept4", "fsync", "memfd_create"} <= used
    assert used - allowed(unit["SystemCallFilter"]) <= {DISPENSABLE}
    families = {found for line in lines for found in re.findall(r"socket\((AF_\w+)", line)}
    assert families <= set(unit["RestrictAddressFamilies"][0].split())
    # libvirt's GLib compiles expressions to machine code, and interprets them where the kernel refuses that, as it does here.
    (watcher,) = {line.split()[0] for line in lines if "PR_SET_PDEATHSIG" in line}
    lines = [line for line in lines if line.split()[0] != watcher]
    executable = [line for line in lines if "PROT_EXEC" in line and ("PROT_WRITE" in line or "mprotect(" in line)]
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    assert executable == []


@pytest.mark.root
def test_what_is_forbidden_would_be_seen() -> None:
    need("systemd")
    left = allowed(settings(REMOTE)["SystemCallFilter"])
    assert {"read", "memfd_create", "accept4"} <= left
    assert not {"setuid", "chown", "mount", "setgroups", "reboot", "ptrace"} & left
