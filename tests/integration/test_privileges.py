"""Started by root, the remote is nobody's root a moment later: what the kernel says of its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ha_agent.heartbeat import control
from ha_agent.heartbeat.pki import Pki
from tests.integration.libvirt_rig import Libvirt
from tests.integration.test_remote_hangs import children
from tests.unit.heartbeat_support import closed_port, until

ROOT = Path(__file__).resolve().parents[2]
SOMEBODY = "nobody"  # every Debian has one; a name is a name


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A host's configuration that `nobody` can read, below directories that everybody may enter."""
    authority = Pki(tmp_path / "ca")
    authority.init()
    authority.issue("host", "compute-1", tmp_path / "host" / "pki")
    opened = [parent for parent in (tmp_path, *tmp_path.parents) if not parent.stat().st_mode & 0o001]
    before = {parent: parent.stat().st_mode for parent in opened}
    for parent in opened:
        parent.chmod(before[parent] | 0o001)
    yield tmp_path / "host"
    for parent in opened:
        if parent != tmp_path:
            parent.chmod(before[parent])


def configure(home: Path, **more: object) -> Path:
    settings = {
        "version": 1,
        "listen": f"127.0.0.1:{closed_port()}",
        "pki": {"directory": "pki"},
        "socket": "run/remote.sock",
        "state_directory": "state/remote",
        "machine_file": "run/machine",
        "health": {"file": "health.json"},
        **more,
    }
    path = home / "remote.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def public(path: Path) -> bool:
    """Whether everybody may read it."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def start(config: Path, log: Path | None = None) -> subprocess.Popen[str]:
    """By a Python that `nobody` can run as well: ours, or else Debian's of the same version with our libraries."""
    found = Path(sys.executable)
    if not public(found.resolve()):
        found = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    assert found.exists(), f"{sys.executable} is below a closed directory, and there is no {found} instead"
    command = [str(found), "-m", "ha_agent", "remote", "--config", str(config)]
    libraries = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    env = {**os.environ, "PYTHONPATH": libraries, "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w") if log is not None else contextlib.nullcontext(subprocess.PIPE) as stderr:
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=stderr, text=True)


def status(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


def core_limits(pid: int) -> list[str]:
    """Soft and hard, bytes."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


@pytest.mark.root
async def test_root_becomes_the_user_for_good(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account = pwd.getpwnam(SOMEBODY)
    (home / "pki").chmod(0o755)
    for file in (home / "pki").iterdir():
        shutil.chown(file, account.pw_uid, account.pw_gid)
    process = start(configure(home, user=SOMEBODY))
    try:
        await until(lambda: (home / "run" / "remote.sock").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        told = await control.ask(home / "run" / "remote.sock", control.AskStatus())
        assert isinstance(told, control.RemoteStatus)
        found = status(process.pid)
        assert found["Uid"] == [str(account.pw_uid)] * 4
        assert found["Gid"] == [str(account.pw_gid)] * 4
        assert set(found["Groups"]) == set(map(str, os.getgrouplist(SOMEBODY, account.pw_gid)))
        assert found["NoNewPrivs"] == ["1"]
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[kind][0], 16) == 0, kind
        assert core_limits(process.pid) == ["0", "0"]
        for made in ("run", "state/remote", "run/remote.sock"):
            assert (home / made).stat().st_uid == account.pw_uid, made
        named = ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs")
        with capsys.disabled():
            print("\n" + "\n".join(f"  {name}:\t{' '.join(found[name])}" for name in named))
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.root
async def test_libvirt_is_watched_without_root(home: Path, tmp_path: Path) -> None:
    """Through its read-only socket, by a process that has no more rights than the remote."""
    account = pwd.getpwnam(SOMEBODY)
    (home / "pki").chmod(0o755)
    for file in (home / "pki").iterdir():
        shutil.chown(file, account.pw_uid, account.pw_gid)
    with Libvirt(tmp_path / "l") as libvirt:
        await asyncio.to_thread(libvirt.start)
        await asyncio.to_thread(libvirt.guest, "well")
        log = tmp_path / "log"
        process = start(configure(home, user=SOMEBODY, guests={"libvirt": libvirt.read_only_uri}), log)
        try:
            await until(lambda: "guests are watched" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            (watcher,) = children(process.pid)
            found = status(watcher)
            assert found["Uid"] == [str(account.pw_uid)] * 4
            assert found["NoNewPrivs"] == ["1"]
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(found[kind][0], 16) == 0, kind
            await until((home / "state" / "remote" / "guests.json").exists)
            assert (home / "state" / "remote" / "guests.json").stat().st_uid == account.pw_uid
        finally:
            process.terminate()
            process.communicate(timeout=10)
        await until(lambda: not Path(f"/proc/{watcher}").exists())


@pytest.mark.root
def test_what_the_user_may_not_read_is_said_before_anybody_is_heard(home: Path) -> None:
    process = start(configure(home, user=SOMEBODY))  # the key is root's
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "key.pem" in said
    assert "Traceback" not in said


@pytest.mark.root
def test_a_user_who_cannot_run_it_is_named(home: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(sys.executable)
    code = "import sys; from ha_agent.cli import run; sys.executable = sys.argv[1]; sys.exit(run(['remote', '-c', sys.argv[2]]))"
    command = [sys.executable, "-c", code, str(closed / "python"), str(configure(home, user=SOMEBODY))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert f"{SOMEBODY} cannot run {closed}" in done.stderr
    assert "/opt" in done.stderr


@pytest.mark.root
def test_root_without_such_a_user_does_not_run(home: Path) -> None:
    process = start(configure(home, user="no-such-user"))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "useradd" in said


@pytest.mark.root
async def test_root_by_decision_is_told_of_it(home: Path) -> None:
    process = start(configure(home, user="root"))
    try:
        await until((home / "run" / "remote.sock").exists)
        assert status(process.pid)["Uid"] == ["0"] * 4
    finally:
        process.terminate()
        assert "runs as root" in process.communicate(timeout=10)[1]
