"""The fencer against OpenIPMI's ipmi_sim, which shares no code with it, on hosts that really die."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Device, Topology
from ha_agent.model import Power, Reading
from tests.integration.debian import need
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim

pytestmark = pytest.mark.root

StartHost = Callable[[str], IpmiSim]


class RealClock:
    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    def boot_id(self) -> str:
        return "this"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[StartHost]:
    need("openipmi")
    with contextlib.ExitStack() as stack:

        def start(name: str) -> IpmiSim:
            sim = IpmiSim(tmp_path, name)
            sim.start()
            stack.callback(sim.stop)
            return sim

        yield start


@contextlib.asynccontextmanager
async def fencing(tmp_path: Path, *sims: IpmiSim, expect: str | None = None) -> AsyncIterator[WorkerFencer]:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    levels: dict[str, tuple[tuple[Device, ...], ...]] = {
        sim.name: ((Device(name="bmc", address=sim.address, port=sim.port, username=USER, password_file=str(secret)),),)
        for sim in sims
    }
    fencer = WorkerFencer(Topology(levels=levels), RealClock(), lambda host, device: expect)
    try:
        await fencer.start()
        yield fencer
    finally:
        await fencer.close()


def powers(readings: Sequence[Reading]) -> list[Power]:
    return [reading.power for reading in readings]


async def test_off_kills_the_host_and_on_brings_it_back(host: StartHost, tmp_path: Path) -> None:
    sim = host("compute-1")
    first = sim.host_pid()
    async with fencing(tmp_path, sim) as fencer:
        assert powers(await fencer.read("compute-1", 0, 5)) == [Power.ON]
        readings = await fencer.off("compute-1", 0, 10)
        assert powers(readings) == [Power.OFF, Power.OFF]
        assert not sim.host_alive()
        assert powers(await fencer.off("compute-1", 0, 10)) == [Power.OFF, Power.OFF]
        assert powers(await fencer.on("compute-1", 0, 10))[-1] is Power.ON
        assert sim.host_pid() not in (None, first)
        assert sim.log() == ["on", "off", "on"]


async def test_it_says_which_machine_it_is_and_another_is_left_alone(host: StartHost, tmp_path: Path) -> None:
    sim = host("compute-1")
    async with fencing(tmp_path, sim) as fencer:
        [reading] = await fencer.read("compute-1", 0, 5)
        assert uuid.UUID(reading.machine)
    async with fencing(tmp_path, sim, expect=str(uuid.uuid4())) as fencer:
        [reading] = await fencer.off("compute-1", 0, 5)
    assert "wrong machine" in reading.error
    assert sim.host_alive()


async def test_faults_are_never_taken_for_off(host: StartHost, tmp_path: Path) -> None:
    sims = {name: host(name) for name in ("ignores", "slow", "refuses", "unreadable", "stalls")}
    sims["ignores"].fault("ignore_off")
    sims["slow"].fault("slow_off", 1.0)
    sims["refuses"].fault("refuse")
    sims["unreadable"].fault("unreadable")
    sims["stalls"].fault("stall", 30.0)
    async with fencing(tmp_path, *sims.values()) as fencer:
        results = await asyncio.gather(*(fencer.off(name, 0, 5) for name in sims))
        read = dict(zip(sims, results, strict=True))
    assert powers(read["slow"]) == [Power.OFF, Power.OFF]
    assert not sims["slow"].host_alive()
    for name in ("ignores", "refuses", "unreadable", "stalls"):
        assert Power.OFF not in powers(read[name]), name
        assert read[name][-1].error, name
    assert powers(read["ignores"])[-1] is Power.ON
    assert "refused" in read["refuses"][-1].error


async def test_a_frozen_bmc_costs_its_deadline_and_works_when_it_is_back(host: StartHost, tmp_path: Path) -> None:
    sim = host("compute-1")
    async with fencing(tmp_path, sim) as fencer:
        sim.freeze()
        started = time.monotonic()
        [reading] = await fencer.off("compute-1", 0, 5)
        assert time.monotonic() - started < 7.0
        assert reading.power is Power.UNKNOWN
        assert reading.error.startswith("unreachable")
        sim.thaw()
        assert powers(await fencer.off("compute-1", 0, 10)) == [Power.OFF, Power.OFF]
    assert not sim.host_alive()


async def test_a_bmc_that_freezes_in_the_middle_is_unknown(host: StartHost, tmp_path: Path) -> None:
    sim = host("compute-1")
    sim.fault("ignore_off")
    async with fencing(tmp_path, sim) as fencer:
        attempt = asyncio.create_task(fencer.off("compute-1", 0, 6))
        async with asyncio.timeout(5):
            while "ignored" not in sim.log():  # noqa: ASYNC110  # a file of another process
                await asyncio.sleep(0.02)
        sim.freeze()
        readings = await attempt
        assert readings[-1].power is Power.UNKNOWN
        assert readings[-1].error


async def test_a_wrong_password_is_told_without_it(host: StartHost, tmp_path: Path) -> None:
    sim = host("compute-1")
    async with fencing(tmp_path, sim) as fencer:
        (tmp_path / "password").write_text("mistaken")
        [reading] = await fencer.off("compute-1", 0, 5)
        assert reading.error.startswith("wrong password")
        assert "mistaken" not in reading.error
        assert sim.host_alive()
        (tmp_path / "password").write_text(PASSWORD)
        assert powers(await fencer.off("compute-1", 0, 5)) == [Power.OFF, Power.OFF]


async def test_many_at_once_of_which_some_are_frozen(host: StartHost, tmp_path: Path) -> None:
    sims = [host(f"compute-{n}") for n in range(20)]
    frozen = {sim.name for sim in sims[::5]}
    for sim in sims[::5]:
        sim.freeze()
    ended: dict[str, float] = {}

    async def off(fencer: WorkerFencer, name: str) -> Sequence[Reading]:
        result = await fencer.off(name, 0, 10)
        ended[name] = time.monotonic()
        return result

    async with fencing(tmp_path, *sims) as fencer:
        started = time.monotonic()
        results = await asyncio.gather(*(off(fencer, sim.name) for sim in sims))
    for sim, readings in zip(sims, results, strict=True):
        if sim.name in frozen:
            assert Power.OFF not in powers(readings)
        else:
            assert powers(readings) == [Power.OFF, Power.OFF], (sim.name, readings)
            assert not sim.host_alive()
    healthy = max(ended[sim.name] for sim in sims if sim.name not in frozen) - started
    print(f"{len(sims) - len(frozen)} healthy of {len(sims)} proven off in {healthy:.2f} s")
    assert healthy < 8
