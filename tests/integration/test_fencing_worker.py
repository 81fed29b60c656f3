"""The fencer through its real worker processes, against BMCs that speak real IPMI on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.fencing.worker import Request
from ha_agent.model import Power, Reading
from ha_agent.sim.bmc import PASSWORD, USER, BmcFarm

GUID = "5f0c3a52-0c07-4ec5-9d0a-0d5b0f6e9a01"


class RealClock:
    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    def boot_id(self) -> str:
        return "this"


@pytest.fixture(scope="module")
def farm() -> Iterator[BmcFarm]:
    farm = BmcFarm()
    farm.start()
    yield farm
    farm.stop()


class Lab:
    """Hosts with one BMC each, and a fencer that knows them."""

    def __init__(self, farm: BmcFarm, directory: Path) -> None:
        self.farm = farm
        self.password = directory / "password"
        self.password.write_text(PASSWORD + "\n")
        self.switched: list[tuple[str, bool]] = []
        self.levels: dict[str, tuple[tuple[Device, ...], ...]] = {}
        self.expected: dict[str, str] = {}

    def host(self, name: str, fault: str | None = None, username: str = USER, guid: str = "") -> str:
        def on_off(on: bool) -> None:
            self.switched.append((name, on))

        port = self.farm.add(name, on_off, guid=guid)
        self.farm.fault(name, fault, delay_s=0.4)
        device = Device(name="bmc", address="127.0.0.1", port=port, username=username, password_file=str(self.password))
        self.levels[name] = ((device,),)
        return name

    def password_file(self, host: str, path: Path) -> None:
        [[device]] = self.levels[host]
        self.levels[host] = ((msgspec.structs.replace(device, password_file=str(path)),),)

    @contextlib.asynccontextmanager
    async def fencer(self, idle: int = 1) -> AsyncIterator[WorkerFencer]:
        fencer = WorkerFencer(
            Topology(levels=self.levels),
            RealClock(),
            lambda host, device: self.expected.get(host),
            pool=WorkerPool(idle=idle),
            poll_s=0.2,
        )
        try:
            await fencer.start()
            yield fencer
        finally:
            await fencer.close()
            assert fencer.pids == []


@pytest.fixture
def lab(farm: BmcFarm, tmp_path: Path) -> Lab:
    return Lab(farm, tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def of_process(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # the condition is a file of another process
            await asyncio.sleep(0.01)


def powers(readings: object) -> list[Power]:
    assert isinstance(readings, list)
    return [reading.power for reading in readings if isinstance(reading, Reading)]


async def test_off_is_read_twice_then_on_again(lab: Lab) -> None:
    lab.host("plain", guid=GUID)
    async with lab.fencer() as fencer:
        before = RealClock().now()
        readings = await fencer.off("plain", 0, 5.0)
        assert powers(readings) == [Power.OFF, Power.OFF]
        assert readings[1].at - readings[0].at >= 0.5
        assert before <= readings[0].at
        assert {reading.machine for reading in readings} == {GUID}
        assert lab.switched == [("plain", False)]
        assert powers(await fencer.off("plain", 0, 5.0)) == [Power.OFF, Power.OFF]  # already off is success
        assert powers(await fencer.on("plain", 0, 5.0))[-1] is Power.ON
        assert lab.switched == [("plain", False), ("plain", True)]


async def test_slow_off_is_waited_for_and_ignored_off_is_never_off(lab: Lab) -> None:
    lab.host("slow", "slow_off")
    lab.host("deaf", "ignore_off")
    async with lab.fencer() as fencer:
        slow, deaf = await asyncio.gather(fencer.off("slow", 0, 10.0), fencer.off("deaf", 0, 4.0))
    assert powers(slow) == [Power.OFF, Power.OFF]
    assert Power.ON in powers(deaf)
    assert Power.OFF not in powers(deaf)
    assert "not off" in deaf[-1].error or "timed out" in deaf[-1].error, "the last reading may be cut short"
    assert lab.farm.commands("deaf") == ["off"]


async def test_each_failure_has_its_own_sentence_and_none_the_secret(lab: Lab, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-pass")
    lab.host("dead", "dead")
    lab.host("hang", "hang")
    lab.host("refuses", "refuse_off")
    lab.host("stranger", username="stranger")
    lab.host("pw")
    lab.password_file("pw", wrong)
    lab.host("nofile")
    lab.password_file("nofile", tmp_path / "missing")
    lab.levels["person"] = ((Device(name="person", driver="manual"),),)
    started = time.monotonic()
    async with lab.fencer() as fencer:
        results = await asyncio.gather(*(fencer.off(host, 0, 5.0) for host in lab.levels))
    assert time.monotonic() - started < 8.0
    said = {host: readings[-1].error for host, readings in zip(lab.levels, results, strict=True)}
    assert said["dead"].startswith("unreachable")
    assert said["hang"].startswith(("session lost", "timed out"))
    assert said["refuses"].startswith("refused")
    assert "unknown user" in said["stranger"]
    assert said["pw"].startswith("wrong password")
    assert "cannot be read" in said["nofile"]
    assert said["person"] == "waiting for confirm-fenced"
    everything = repr(results)
    assert PASSWORD not in everything
    assert "not-the-pass" not in everything
    assert not any(power is Power.OFF for readings in results for power in powers(readings))


async def test_a_changed_password_works_at_the_next_attempt(lab: Lab) -> None:
    lab.host("changed")
    lab.password.write_text("old")
    async with lab.fencer() as fencer:
        assert "wrong password" in (await fencer.read("changed", 0, 5.0))[0].error
        lab.password.write_text(PASSWORD)
        assert powers(await fencer.read("changed", 0, 5.0)) == [Power.ON]


async def test_a_machine_that_is_not_the_expected_one_gets_no_off(lab: Lab) -> None:
    lab.host("swapped", "wrong_guid", guid=GUID)
    lab.expected["swapped"] = GUID
    async with lab.fencer() as fencer:
        readings = await fencer.off("swapped", 0, 5.0)
        assert powers(readings) == [Power.UNKNOWN]
        assert GUID in readings[0].error
        assert "nothing was sent" in readings[0].error
        assert lab.farm.commands("swapped") == []
        assert powers(await fencer.read("swapped", 0, 5.0)) == [Power.UNKNOWN]


@pytest.mark.parametrize("frozen", [False, True])
async def test_cancel_kills_within_a_second_even_a_frozen_worker(lab: Lab, frozen: bool) -> None:
    name = lab.host(f"cancelled-{frozen}", "ignore_off")
    async with lab.fencer() as fencer:
        attempt = asyncio.create_task(fencer.off(name, 0, 20.0))
        await until(lambda: lab.farm.commands(name))
        workers = fencer.pids
        if frozen:
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        await fencer.cancel(name)
        assert time.monotonic() - started < 1.0
        assert len([pid for pid in workers if not alive(pid)]) >= 1
        assert powers(await attempt) == [Power.UNKNOWN]
        assert attempt.result()[0].error == "cancelled"


async def test_a_caller_that_is_cancelled_leaves_no_attempt_behind(lab: Lab) -> None:
    lab.host("abandoned", "hang")
    async with lab.fencer(idle=0) as fencer:
        attempt = asyncio.create_task(fencer.off("abandoned", 0, 20.0))
        await until(lambda: fencer.pids)
        [worker] = fencer.pids
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert not alive(worker)


async def test_a_frozen_worker_is_dead_when_the_deadline_returns(lab: Lab) -> None:
    lab.host("frozen", "ignore_off")
    async with lab.fencer(idle=0) as fencer:
        attempt = asyncio.create_task(fencer.off("frozen", 0, 4.0))
        await until(lambda: lab.farm.commands("frozen"))
        [worker] = fencer.pids
        os.kill(worker, signal.SIGSTOP)
        readings = await attempt
        assert not alive(worker)
        # the BMC notes the order a moment before the worker hears that it was taken
        while_doing = readings[-1].error.removeprefix("timed out after 4.0 s while ")
        assert while_doing.startswith(("sending off", "waiting for it to read off")), readings
        assert Power.OFF not in powers(readings)


async def test_a_waiting_worker_that_is_gone_or_frozen_costs_no_attempt(lab: Lab) -> None:
    lab.host("patient")
    async with lab.fencer(idle=2) as fencer:
        first, second = fencer.pids
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGKILL)
        assert powers(await fencer.off("patient", 0, 5.0)) == [Power.OFF, Power.OFF]


async def test_the_secret_is_in_no_argument_list_and_no_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", PASSWORD)
    lab.host("secret", "ignore_off")
    async with lab.fencer(idle=0) as fencer:
        attempt = asyncio.create_task(fencer.off("secret", 0, 3.0))
        await until(lambda: lab.farm.commands("secret"))
        [worker] = fencer.pids
        assert PASSWORD not in of_process(worker, "cmdline") + of_process(worker, "environ")
        await fencer.cancel("secret")
        await attempt


async def test_no_worker_outlives_the_controller(lab: Lab) -> None:
    """The controller is a process that starts a worker and dies by SIGKILL."""
    script = (
        "import asyncio\n"
        "from ha_agent.fencing.pool import WorkerPool\n"
        "async def main():\n"
        "    pool = WorkerPool(idle=1)\n"
        "    await pool.start()\n"
        "    print(pool.pids[0], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    controller = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert controller.stdout is not None
    worker = int(await controller.stdout.readline())
    assert alive(worker)
    os.kill(worker, signal.SIGSTOP)  # so that it cannot see the end of its stdin
    controller.kill()
    await controller.wait()
    await until(lambda: not alive(worker), 10.0)


class Worker:
    """One without a controller that would kill it in time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> Worker:
        """It waits for a request."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ha_agent.fencing.worker", str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert b"ready" in await process.stdout.readline()
        return cls(process)

    def ask(self, request: Request) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    async def thaw(self) -> str:
        """It goes on to its end. What it said."""
        self._process.send_signal(signal.SIGCONT)
        said, _ = await self._process.communicate(b"")  # no further request
        assert self._process.returncode == 0
        return said.decode()


async def test_a_worker_that_thaws_late_sends_nothing(lab: Lab) -> None:
    """Its controller was frozen with it, so that nobody killed it."""
    lab.host("late")
    now = RealClock().now()
    request = Request(op="off", device=lab.levels["late"][0][0], act_by=now + 0.2, until=now + 5.0)
    worker = await Worker.start()
    worker.freeze()
    worker.ask(request)
    await until(lambda: RealClock().now() > request.act_by)
    said = await worker.thaw()
    assert "too late" in said
    assert lab.farm.commands("late") == []
    assert lab.switched == []


@pytest.mark.parametrize("frozen_s", [2.0, pytest.param(60.0, marks=pytest.mark.full)])
@pytest.mark.parametrize(("fault", "sent"), [("dead", []), ("ignore_off", ["off"])])
async def test_a_worker_that_is_frozen_in_the_middle_of_an_off_powers_off_nothing_when_it_thaws(
    lab: Lab, fault: str, sent: list[str], frozen_s: float
) -> None:
    """In the middle of its login, or while it reads whether the host is off. By then the BMC is well, and somebody uses the host again."""
    name = lab.host(f"thawed-{fault}-{frozen_s:g}", fault)
    worker = await Worker.start()
    now = RealClock().now()
    request = Request(op="off", device=lab.levels[name][0][0], act_by=now + 1.5, until=now + 1.5)
    worker.ask(request)
    if sent:
        await until(lambda: lab.farm.commands(name) == sent)
    else:
        await asyncio.sleep(0.5)  # a real worker asks, and nobody answers
    worker.freeze()
    lab.farm.fault(name, None)
    await asyncio.sleep(frozen_s)  # a real process stands still
    said = await worker.thaw()
    # a login that is cut short, a reading that is cut short, or one that was made before it stood still
    assert "timed out" in said or "not off" in said
    assert lab.farm.commands(name) == sent
    assert lab.farm.power(name) is Power.ON
    assert lab.switched == []


async def test_hung_bmcs_delay_no_healthy_one(lab: Lab) -> None:
    hosts = [lab.host(f"many-{n}", "hang" if n in (0, 5) else None) for n in range(10)]
    async with lab.fencer(idle=2) as fencer:
        ended: dict[str, float] = {}

        async def off(host: str) -> list[Power]:
            result = powers(await fencer.off(host, 0, 5.0))
            ended[host] = time.monotonic()
            return result

        results = dict(zip(hosts, await asyncio.gather(*map(off, hosts)), strict=True))
    healthy = [host for host in hosts if host not in ("many-0", "many-5")]
    assert all(results[host] == [Power.OFF, Power.OFF] for host in healthy)
    assert results["many-0"] == results["many-5"] == [Power.UNKNOWN]
    assert max(ended[host] for host in healthy) < min(ended["many-0"], ended["many-5"])


async def test_periodic_checks_report_every_level_and_who_the_device_says_it_is(lab: Lab) -> None:
    lab.host("checked", guid=GUID)
    lab.host("broken", "dead")
    lab.levels["checked"] += ((Device(name="person", driver="manual"),),)
    seen: dict[tuple[str, int], list[Reading]] = {}
    async with lab.fencer() as fencer:
        await fencer.check_all(0.2, 3.0, lambda host, level, readings: seen.update({(host, level): list(readings)}))
    assert set(seen) == {("checked", 0), ("checked", 1), ("broken", 0)}
    assert seen["checked", 0][0].machine == GUID
    assert seen["broken", 0][0].power is Power.UNKNOWN
    assert lab.farm.commands("checked") == []
