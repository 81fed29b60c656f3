"""The resource agents as Pacemaker runs them: real daemons that hang, die and end, and ClusterLabs' own judge of agents."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from ha_agent.heartbeat.pki import Pki
from tests.integration.debian import need
from tests.integration.test_privileges import public
from tests.unit.heartbeat_support import closed_port

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "resource_agents"
AGENTS = ("controller", "remote")
SOMEBODY = "nobody"
OK, GENERIC, ARGS, UNIMPLEMENTED, INSTALLED, CONFIGURED, NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7


@dataclass
class Resource:
    """A resource of a cluster: an agent and its parameters."""

    agent: str
    ocf: Path
    parameters: dict[str, str]
    name: str = "r"
    reason: str = field(default="", init=False)  # what the last action said on stderr

    def act(self, action: str, timeout_s: float = 30, **changes: str) -> int:
        """An action, with what Pacemaker sets around it. It must end within its time-out, as Pacemaker would kill it."""
        parameters = {f"OCF_RESKEY_{name}": value for name, value in {**self.parameters, **changes}.items()}
        done = subprocess.run(
            [str(self.ocf / "resource.d" / "ha-agent" / self.agent), action],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "OCF_ROOT": str(self.ocf),
                "OCF_RESOURCE_INSTANCE": self.name,
                "OCF_RESKEY_CRM_meta_timeout": str(int(timeout_s * 1000)),
                "OCF_RESKEY_CRM_meta_interval": "10000",
                "HA_RSCTMP": str(self.ocf / "tmp"),
                **parameters,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            start_new_session=True,
        )
        self.reason = done.stderr
        return done.returncode

    @property
    def record(self) -> Path:
        return self.ocf / "tmp" / f"ha-agent-{self.agent}-{self.name}.pid"

    @property
    def pid(self) -> int:
        return int(self.record.read_text().split()[0])


def lives(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def group(pgid: int) -> list[int]:
    """Its living processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(") ")[2].split()[2] == str(pgid) and lives(int(stat.parent.name)):
                found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The agents as they are installed, keys, and a program that `nobody` can run. Not below pytest's directory, which is closed to others."""
    need("resource-agents", "libxml2-utils", "shellcheck")
    with tempfile.TemporaryDirectory(prefix="ha-agent-ocf-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        _install(directory)
        yield directory


def _install(directory: Path) -> None:
    (directory / "resource.d" / "ha-agent").mkdir(parents=True)
    (directory / "lib" / "ha-agent").mkdir(parents=True)
    (directory / "tmp").mkdir()
    (directory / "lib" / "heartbeat").symlink_to("/usr/lib/ocf/lib/heartbeat")
    for agent in AGENTS:
        shutil.copy(SOURCE / agent, directory / "resource.d" / "ha-agent")
    shutil.copy(SOURCE / "lib" / "daemon.sh", directory / "lib" / "ha-agent")
    python = Path(sys.executable)
    if not public(python.resolve()):
        python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    libraries = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    program = directory / "ha-agent"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={libraries} PYTHONDONTWRITEBYTECODE=1 exec {python} -P -m ha_agent "$@"\n'
    )
    program.chmod(0o755)
    authority = Pki(directory / "ca")
    authority.init()
    account = pwd.getpwnam(SOMEBODY)
    for role, name in (("controller", "controller-1"), ("host", "compute-1")):
        authority.issue(role, name, directory / name)
        for file in (directory / name, *(directory / name).iterdir()):
            os.chown(file, account.pw_uid, account.pw_gid)


def controller_config(place: Path, work: Path, name: str = "controller") -> Path:
    path = work / f"{name}.yaml"
    settings = {
        "version": 1,
        "cloud": "nowhere",
        "pki": {"directory": str(place / "controller-1")},
        "fencing": {"devices": {"person": {"driver": "manual"}}, "levels": [["person"]]},
        "http": {"listen": f"127.0.0.1:{closed_port()}", "socket": f"run/{name}.sock"},
        "store": {"url": "sqlite:///state/store.db"},
        "hosts": {"compute-1": {"address": "127.0.0.1", "port": closed_port()}},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def resource(place: Path, work: Path, agent: str, name: str = "") -> Resource:
    """One whose files are in `work`."""
    name = name or agent
    parameters = {"binary": str(place / "ha-agent"), "log": str(work / f"{name}.log")}
    if agent == "controller":
        path = controller_config(place, work, name)
        auth = {"auth_url": f"http://127.0.0.1:{closed_port()}", "username": "u", "password": "p", "project_name": "p"}
        (work / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"nowhere": {"auth": auth}}}))
        parameters |= {"clouds": str(work / "clouds.yaml"), "user": SOMEBODY, "group": "nogroup"}
    else:
        path = work / "remote.yaml"
        settings = {
            "version": 1,
            "user": SOMEBODY,
            "listen": f"127.0.0.1:{closed_port()}",
            "pki": {"directory": str(place / "compute-1")},
            "socket": f"run/{name}.sock",
            "state_directory": "state/remote",
            "machine_file": "run/machine",
            "health": {"file": "health.json"},
        }
        path.write_text(yaml.safe_dump(settings))
    parameters |= {"config": str(path), "socket": str(work / "run" / f"{name}.sock")}
    return Resource(agent, place, parameters, f"{name}-{work.name}")


@pytest.fixture
def work(place: Path) -> Iterator[Path]:
    """A directory of one test. Whatever still runs afterwards is killed."""
    directory = Path(tempfile.mkdtemp(prefix="work-", dir=place))
    directory.chmod(0o755)
    (directory / "state").mkdir()
    shutil.chown(directory / "state", SOMEBODY)
    yield directory
    for record in (place / "tmp").glob("*.pid"):
        for pid in group(int(record.read_text().split()[0])):
            os.kill(pid, signal.SIGKILL)
        record.unlink()


@pytest.mark.parametrize("agent", AGENTS)
def test_a_life(place: Path, work: Path, agent: str) -> None:
    subject = resource(place, work, agent)
    assert subject.act("monitor") == NOT_RUNNING
    assert subject.act("stop") == OK
    assert subject.act("start") == OK, subject.reason
    first = subject.pid
    assert Path(f"/proc/{first}").stat().st_uid == pwd.getpwnam(SOMEBODY).pw_uid
    assert os.getpgid(first) == os.getsid(first) == first
    assert subject.act("monitor") == OK, subject.reason
    assert subject.act("start") == OK
    assert subject.pid == first

    os.kill(first, signal.SIGSTOP)
    assert subject.act("monitor", timeout_s=6) == GENERIC  # not killed for its time-out: it says why
    assert "does not answer within 3 s: its loop hangs" in subject.reason
    os.kill(first, signal.SIGCONT)
    assert subject.act("monitor") == OK, subject.reason

    os.kill(first, signal.SIGKILL)
    assert subject.act("monitor") == NOT_RUNNING
    assert f"process {first} has ended by itself or was killed" in subject.reason
    assert subject.act("start") == OK, subject.reason
    second = subject.pid
    assert second != first

    assert subject.act("stop") == OK
    assert group(second) == []
    assert not subject.record.exists()
    assert subject.act("stop") == OK
    assert subject.act("monitor") == NOT_RUNNING


def test_one_that_does_not_end_is_killed_in_time(place: Path, work: Path) -> None:
    subject = resource(place, work, "controller")
    assert subject.act("start") == OK, subject.reason
    pid = subject.pid
    helpers = group(pid)
    for each in helpers:
        os.kill(each, signal.SIGSTOP)
    began = time.monotonic()
    assert subject.act("stop", timeout_s=6) == OK
    assert time.monotonic() - began > 2  # it was given the time to end
    assert [each for each in helpers if lives(each)] == []


@pytest.mark.parametrize("agent", AGENTS)
def test_another_process_with_its_pid_is_left_alone(place: Path, work: Path, agent: str) -> None:
    subject = resource(place, work, agent)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()
            started = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(") ")[2].split()[19]
            for record in (
                f"{stranger.pid} {int(started) - 1} {boot}",
                f"{stranger.pid} {started} {boot[::-1].strip()}\n",
                f"{stranger.pid}\n",
                "",
            ):
                subject.record.write_text(record)
                assert subject.act("monitor") == NOT_RUNNING, record
                assert subject.act("stop") == OK
                assert stranger.poll() is None, record
        finally:
            stranger.kill()


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_wrong_is_named(place: Path, work: Path, agent: str) -> None:
    subject = resource(place, work, agent)
    assert subject.act("validate-all") == OK, subject.reason
    assert subject.act("dance") == UNIMPLEMENTED
    assert subject.act("validate-all", pidfile="here.pid") == CONFIGURED
    assert "pidfile must be an absolute path" in subject.reason
    assert subject.act("validate-all", binary="/nonexistent/ha-agent") == INSTALLED
    assert subject.act("monitor", binary="/nonexistent/ha-agent") == INSTALLED
    assert subject.act("start", config="/nonexistent/file.yaml") == INSTALLED
    assert "/nonexistent/file.yaml" in subject.reason
    broken = Path(subject.parameters["config"])
    broken.write_text(broken.read_text().replace("version: 1", "version: 1\nlistn: 7"))
    assert subject.act("validate-all") == CONFIGURED
    assert "listn" in subject.reason
    assert subject.act("start") == ARGS  # of this node: the file of another node may be good
    assert not subject.record.exists()
    if agent == "controller":
        assert subject.act("start", user="no-such-user") == INSTALLED
        assert "no-such-user" in subject.reason


def test_one_that_cannot_start_says_why(place: Path, work: Path) -> None:
    first, second = resource(place, work, "remote"), resource(place, work, "remote")
    second.name = "second"
    assert first.act("start") == OK, first.reason
    assert second.act("start") == GENERIC
    assert "which this resource has not started, answers at" in second.reason
    assert not second.record.exists()
    assert first.act("stop") == OK
    (place / "compute-1" / "key.pem").rename(work / "key.pem")
    try:
        assert second.act("start") == GENERIC
    finally:
        (work / "key.pem").rename(place / "compute-1" / "key.pem")
    assert "the ha-agent remote ended as soon as it was started: " in second.reason
    assert "key.pem" in second.reason
    assert second.act("stop") == OK


def test_a_standby_is_healthy_and_follows_a_leader_that_is_stopped(place: Path, work: Path) -> None:
    leader, standby = resource(place, work, "controller"), resource(place, work, "controller", "other")
    assert leader.act("start") == OK, leader.reason
    assert standby.act("start") == OK, standby.reason
    assert standby.act("monitor") == OK, standby.reason
    assert "alive: leads (epoch 1)" in leader.reason + health(leader)
    assert health(standby) == "alive: standby: controller-1 leads\n"
    assert leader.act("stop") == OK
    end = time.monotonic() + 8  # the lease is given away; else it would hold for 15 s
    while "leads (epoch 2)" not in health(standby):
        assert time.monotonic() < end
        time.sleep(0.2)  # a real process is asked again; it ends as soon as the answer is there
    assert standby.act("stop") == OK


def health(subject: Resource) -> str:
    command = [subject.parameters["binary"], "health", "--socket", subject.parameters["socket"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_ocf_tester_is_content(place: Path, work: Path) -> None:
    """It also holds the metadata against ra-api-1.dtd."""
    running = []
    for agent in AGENTS:
        subject = resource(place, work, agent)
        options = [word for name, value in subject.parameters.items() for word in ("-o", f"{name}={value}")]
        running.append(
            subprocess.Popen(
                ["ocf-tester", "-n", subject.name, *options, str(place / "resource.d" / "ha-agent" / agent)],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OCF_ROOT": str(place), "HA_RSCTMP": str(place / "tmp")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for tester in running:
        said, _ = tester.communicate(timeout=100)
        assert tester.returncode == 0, said
        assert "passed all tests" in said
        assert "does not conform" not in said


def test_shellcheck_is_content(place: Path) -> None:
    files = [str(SOURCE / agent) for agent in AGENTS] + [str(SOURCE / "lib" / "daemon.sh")]
    files += map(str, (ROOT / "examples" / "pacemaker").glob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
