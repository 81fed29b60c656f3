"""A fence agent's process: what it is given, what is kept of what it says, and that nothing of it lives on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.model import Power
from ha_agent.programs.run import OUTPUT_MAX
from ha_agent.system import SystemClock
from tests.integration.fencing_contract.agent_script import PASSWORD, AgentScript
from tests.integration.fencing_contract.bad import Bad
from tests.integration.fencing_contract.test_contract import alive


def program(directory: Path, body: str) -> list[str]:
    path = directory / "fence_test"
    path.write_text(f"#!{sys.executable} -SE\nimport os, signal, sys, time\n{body}\n")
    path.chmod(0o755)
    return [str(path)]


_APART = """\
import json, sys
from ha_agent.errors import DriverError
from ha_agent.programs import below
from ha_agent.programs.run import run
from ha_agent.errors import OutOfTime
below.adopt_orphans()
command, given, timeout_s = json.loads(sys.stdin.read())
try:
    code, out, err = run(command, given.encode(), timeout_s)
    print(json.dumps([code, out.decode(), err.decode()]))
except (DriverError, OutOfTime) as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def run(command: list[str], given: str = "", timeout_s: float = 5.0) -> list[object]:
    """In a process of its own, as a worker is one: all that is below it gets killed. [code, out, err] or [error, text]."""
    done = subprocess.run(
        [sys.executable, "-c", _APART],
        input=json.dumps([command, given, timeout_s]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: list[object] = json.loads(done.stdout)
    return result


def test_input_output_and_code(tmp_path: Path) -> None:
    ran = run(program(tmp_path, "print(sys.stdin.read().upper()); sys.stderr.write('e'); sys.exit(7)"), "abc\n")
    assert ran == [7, "ABC\n\n", "e"]


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    flood = "w = os.write\nfor n in range(2000): w(1, b'o' * 65536); w(2, b'e' * 65536)"
    assert run(program(tmp_path, flood), timeout_s=20) == [0, "o" * OUTPUT_MAX, "e" * OUTPUT_MAX]


def test_a_flood_without_end_ends_at_the_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run(program(tmp_path, "while True: os.write(1, b'x' * 65536)"), timeout_s=0.7)[0] == "OutOfTime"
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "body",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(100)",
        "os.close(0); os.close(1); os.close(2); time.sleep(100)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["deaf", "closed", "frozen"],
)
def test_one_that_does_not_end_is_killed(tmp_path: Path, body: str) -> None:
    started = time.monotonic()
    ran = run(program(tmp_path, body), "x" * 10_000, 0.5)
    assert ran == ["OutOfTime", "fence_test did not end in time and was killed"]
    assert time.monotonic() - started < 4


def test_what_it_leaves_behind_dies_with_it(tmp_path: Path) -> None:
    """A daemon of its own session, orphaned twice, that would switch off later, and holds the pipes."""
    left = tmp_path / "left"
    body = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(left)!r}, 'w').write(str(os.getpid()))
        time.sleep(100)
    os._exit(0)
while not os.path.exists({str(left)!r}) or not open({str(left)!r}).read(): time.sleep(0.01)
print('done')
"""
    started = time.monotonic()
    ran = run(program(tmp_path, body), timeout_s=20)
    assert time.monotonic() - started < 10, "it waited for the daemon"
    assert ran == [0, "done\n", ""]
    assert not alive(int(left.read_text()))


def test_what_cannot_run_certainly_did_nothing(tmp_path: Path) -> None:
    [path] = program(tmp_path, "")
    Path(path).write_text("no program")
    for command, words in (([path], "cannot be started"), ([str(tmp_path / "none")], "No such file")):
        error, text = run(command)
        assert error == "DriverError"
        assert words in str(text)


class Lab:
    def __init__(self, directory: Path, bad: Bad) -> None:
        self.script = AgentScript(directory, bad)
        (directory / "password").write_text(PASSWORD)
        self.device = Device(
            name="pdu",
            driver="fence_agent",
            agent=str(self.script.path),
            port=0,
            username="apc",
            plug="7",
            password_file=str(directory / "password"),
        )
        self.fencer = WorkerFencer(
            Topology(levels={"host": ((self.device,),)}), SystemClock(), pool=WorkerPool(idle=1), poll_s=0.2
        )

    async def agent(self) -> int:
        """The process of the agent, as soon as there is one."""
        async with asyncio.timeout(5):
            while not self.script.pids:  # noqa: ASYNC110  # a file of another process
                await asyncio.sleep(0.02)
        return self.script.pids[-1]


async def test_the_password_is_on_stdin_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "of-the-controller")
    lab = Lab(tmp_path, Bad.NOTHING)
    readings = await lab.fencer.off("host", 0, 5.0)
    await lab.fencer.close()
    assert [r.power for r in readings] == [Power.OFF, Power.OFF]
    assert PASSWORD not in lab.script.file("argv") + lab.script.file("environment")
    assert set(lab.script.file("argv").split()) == {str(lab.script.path)}
    assert "of-the-controller" not in lab.script.file("environment")
    assert "PYTHONPATH" not in lab.script.file("environment")
    assert "'plug': '7'" in lab.script.file("options")


@pytest.mark.parametrize("who", ["worker", "agent", "both"])
async def test_frozen_in_the_middle_and_thawed_it_switches_nothing(tmp_path: Path, who: str) -> None:
    """By real SIGSTOP; the thaw comes when the attempt is long over."""
    lab = Lab(tmp_path, Bad.HANGS_BEFORE_LOGIN)
    attempt = asyncio.create_task(lab.fencer.off("host", 0, 2.5))
    agent = await lab.agent()
    frozen = {"worker": lab.fencer.pids[:1], "agent": [agent], "both": [*lab.fencer.pids, agent]}[who]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    readings = await attempt
    assert [pid for pid in lab.script.pids if alive(pid)] == [], "alive when the next level starts"
    assert readings[-1].power is Power.UNKNOWN
    assert readings[-1].error
    for pid in frozen:
        if alive(pid):  # a worker that only waits
            os.kill(pid, signal.SIGCONT)
    await lab.fencer.close()
    assert lab.script.on
    assert lab.script.offs == 0


def test_an_agent_that_was_frozen_with_its_worker_dies_of_its_alarm(tmp_path: Path) -> None:
    """As when the whole controller stands still, so that nobody kills anything: thawed, the agent does nothing more."""
    mark = tmp_path / "switched"
    body = f"""
open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid()))
time.sleep(0.6)
open({str(mark)!r}, 'w').write('off')
"""
    command = program(tmp_path, body)
    script = f"from ha_agent.programs.run import run\nrun({command!r}, b'', 0.5)\n"
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.defpath}
    worker = os.posix_spawn(sys.executable, [sys.executable, "-c", script], environment)
    end = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    agent = int((tmp_path / "pid").read_text())
    os.kill(worker, signal.SIGSTOP)
    os.kill(agent, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(agent, signal.SIGCONT)  # the agent first: nobody is there to kill it
    time.sleep(0.8)
    assert not alive(agent)
    assert not mark.exists()
    os.kill(worker, signal.SIGCONT)
    os.waitpid(worker, 0)


async def test_an_agent_dies_with_its_controller_s_worker(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Bad.HANGS_BEFORE_LOGIN)
    attempt = asyncio.create_task(lab.fencer.off("host", 0, 20.0))
    agent = await lab.agent()
    for pid in lab.fencer.pids:
        os.kill(pid, signal.SIGKILL)
    [reading] = await attempt
    await lab.fencer.close()
    assert "died" in reading.error
    assert not alive(agent)


async def test_cancel_leaves_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Bad.HANGS_AFTER_LOGIN)  # the agent starts a helper of its own session
    attempt = asyncio.create_task(lab.fencer.off("host", 0, 20.0))
    async with asyncio.timeout(5):
        while len(lab.script.pids) < 2:  # noqa: ASYNC110  # a file of another process
            await asyncio.sleep(0.02)
    started = time.monotonic()
    await lab.fencer.cancel("host")
    assert time.monotonic() - started < 1.5
    assert [pid for pid in lab.script.pids if alive(pid)] == []
    await attempt
    await lab.fencer.close()


async def test_a_program_that_everyone_may_write_is_not_run(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Bad.NOTHING)
    lab.script.path.chmod(lab.script.path.stat().st_mode | stat.S_IWOTH)
    [reading] = await lab.fencer.off("host", 0, 3.0)
    await lab.fencer.close()
    assert "written by everyone" in reading.error
    assert lab.script.offs == 0
