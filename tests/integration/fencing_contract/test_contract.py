"""One contract for every driver: what an attempt on a device comes to, and that its word is true, whatever is wrong with the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Topology
from ha_agent.model import Power, Reading
from ha_agent.sim.bmc import BmcFarm
from ha_agent.system import SystemClock
from tests.integration.debian import need
from tests.integration.fencing_contract.bad import LASTING, MAY_PROVE_OFF, PROVES_OFF, SENDS_NOTHING, Bad
from tests.integration.fencing_contract.rigs import DRIVERS, Driver, Rig

LATE_S = 1.5  # how much later than its deadline an attempt may return on a busy machine
OTHER = "00000000-1111-4222-8333-444444444444"

CASES = [
    pytest.param(driver, bad, id=f"{driver.name}-{bad}", marks=pytest.mark.root if driver.packages else ())
    for driver in DRIVERS
    for bad in Bad
    if bad not in driver.skips
]


@pytest.fixture(scope="module")
def farm() -> Iterator[BmcFarm]:
    farm = BmcFarm()
    farm.start()
    yield farm
    farm.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def proven_off(readings: list[Reading]) -> bool:
    """As the core judges it: the last two, and both off."""
    return len(readings) >= 2 and all(reading.power is Power.OFF and not reading.error for reading in readings[-2:])


def fencing(rig: Rig, deadline_s: float, expect: str | None = None) -> WorkerFencer:
    return WorkerFencer(
        Topology(levels={"host": ((rig.device,),)}),
        SystemClock(),
        lambda host, device: expect,
        pool=WorkerPool(idle=1, drivers=(rig.device.driver,)),
        poll_s=0.2,
        send_within_s=deadline_s / 2,  # as in life: an off is sent early, and the rest of the time is for reading
    )


async def attempt(rig: Rig, deadline_s: float, expect: str | None) -> tuple[list[Reading], float]:
    fencer = fencing(rig, deadline_s, expect)
    try:
        await fencer.start()
        started = time.monotonic()
        readings = list(await fencer.off("host", 0, deadline_s))
        took_s = time.monotonic() - started
        assert [pid for pid in rig.processes() if alive(pid)] == [], "a process of the attempt outlives it"
        return readings, took_s
    finally:
        await fencer.close()
        assert fencer.pids == []


@pytest.mark.parametrize(("driver", "bad"), CASES)
async def test_an_off(driver: Driver, bad: Bad, tmp_path: Path, farm: BmcFarm) -> None:
    if driver.packages:
        need(*driver.packages)
    with driver.make(bad, tmp_path, farm) as rig:
        assert rig.on()
        foreign = "fence-agents" in driver.packages
        deadline_s = driver.short_s if bad in LASTING or (foreign and bad not in PROVES_OFF) else driver.deadline_s
        readings, took_s = await attempt(rig, deadline_s, OTHER if bad is Bad.OTHER_MACHINE else None)
        said = repr(readings)
        print(f"{driver.name}, {bad}: {took_s:.2f} s, {[str(r.power) for r in readings]} {readings[-1].error}")
        # the word is true
        if proven_off(readings):
            assert bad in PROVES_OFF | MAY_PROVE_OFF, said
            assert not rig.on(), said
        else:
            assert bad not in PROVES_OFF, said
            assert readings[-1].error or readings[-1].power is Power.ON, said
        # and it comes in time, harms nobody else, and keeps the secret
        assert took_s <= deadline_s + LATE_S
        if bad in SENDS_NOTHING:
            assert rig.offs() == 0
            assert rig.on()
        for secret in rig.secrets:
            assert secret not in said
        if bad is Bad.WRONG_PASSWORD and not driver.vague:
            assert "password" in said or "login" in said
        if bad is Bad.STAYS_ON:
            assert readings[-1].power is Power.ON, said
        if bad is Bad.OTHER_MACHINE:
            assert readings[-1].error.startswith("wrong machine"), said


LOOKS = (
    Bad.NOTHING,
    Bad.HANGS_BEFORE_LOGIN,
    Bad.HANGS_AFTER_LOGIN,
    Bad.WRONG_PASSWORD,
    Bad.WRONG_CIPHER,
    Bad.REPORTS_UNKNOWN,
    Bad.OTHER_MACHINE,
)


@pytest.mark.parametrize(("driver", "bad"), [case for case in CASES if case.values[1] in LOOKS])
async def test_a_look(driver: Driver, bad: Bad, tmp_path: Path, farm: BmcFarm) -> None:
    """What the periodic check sees. A look never switches anything."""
    if driver.packages:
        need(*driver.packages)
    with driver.make(bad, tmp_path, farm) as rig:
        fencer = fencing(rig, driver.short_s, OTHER if bad is Bad.OTHER_MACHINE else None)
        started = time.monotonic()
        [reading] = await fencer.read("host", 0, driver.short_s)
        assert time.monotonic() - started <= driver.short_s + LATE_S
        await fencer.close()
        assert reading.power is (Power.ON if bad is Bad.NOTHING else Power.UNKNOWN)
        assert bool(reading.error) is (bad is not Bad.NOTHING)
        assert rig.on()
        assert rig.offs() == 0
        assert [secret for secret in rig.secrets if secret in repr(reading)] == []
        assert [pid for pid in rig.processes() if alive(pid)] == []


@pytest.mark.parametrize(
    "driver",
    [pytest.param(driver, id=driver.name, marks=pytest.mark.root if driver.packages else ()) for driver in DRIVERS],
)
async def test_on_again(driver: Driver, tmp_path: Path, farm: BmcFarm) -> None:
    if driver.packages:
        need(*driver.packages)
    with driver.make(Bad.NOTHING, tmp_path, farm) as rig:
        fencer = fencing(rig, driver.deadline_s)
        assert proven_off(list(await fencer.off("host", 0, driver.deadline_s)))
        assert not rig.on()
        assert [r.power for r in await fencer.on("host", 0, driver.deadline_s)][-1] is Power.ON
        await fencer.close()
        assert rig.on()
