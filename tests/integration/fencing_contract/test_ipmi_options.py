"""IPMI in depth: addresses, cipher suites, keys, and sessions that serve more than one read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.pool import WorkerPool
from ha_agent.fencing.topology import Device, Topology
from ha_agent.model import Power, Reading
from ha_agent.sim.bmc import PASSWORD, USER, BmcFarm, Fault
from ha_agent.system import SystemClock
from tests.integration import ipmi_sim
from tests.integration.debian import need
from tests.integration.fencing_contract.udp_proxy import Loss, UdpProxy
from tests.integration.ipmi_sim import IpmiSim

KG = "16-letters-a-key"  # ipmi_sim takes no more; IPMI has 20


@pytest.fixture(scope="module")
def farm() -> Iterator[BmcFarm]:
    farm = BmcFarm()
    farm.start()
    yield farm
    farm.stop()


@contextlib.asynccontextmanager
async def fencing(**devices: Device) -> AsyncIterator[WorkerFencer]:
    levels: dict[str, tuple[tuple[Device, ...], ...]] = {name: ((device,),) for name, device in devices.items()}
    fencer = WorkerFencer(Topology(levels=levels), SystemClock(), pool=WorkerPool(idle=1), poll_s=0.2)
    try:
        await fencer.start()
        yield fencer
    finally:
        await fencer.close()
        assert fencer.pids == []


def device(directory: Path, port: int, address: str = "127.0.0.1", password: str = PASSWORD, **options: str) -> Device:
    file = directory / "password"
    file.write_text(password)
    return Device(name="bmc", address=address, port=port, username=USER, password_file=str(file), options=options)


async def read(fencer: WorkerFencer, host: str = "host") -> Reading:
    [reading] = await fencer.read(host, 0, 5.0)
    return reading


async def test_over_ipv6(farm: BmcFarm, tmp_path: Path) -> None:
    port = farm.add("six", lambda _: None)
    with UdpProxy(port, Loss.NONE, "::1") as proxy:
        async with fencing(host=device(tmp_path, proxy.port, "::1")) as fencer:
            assert [r.power for r in await fencer.off("host", 0, 5.0)] == [Power.OFF, Power.OFF]
            farm.fault("six", Fault.DEAD)
            assert f"[::1]:{proxy.port}" in (await read(fencer)).error
    assert farm.commands("six") == ["off"]


async def test_a_cipher_suite_alone(farm: BmcFarm, tmp_path: Path) -> None:
    """pyghmi's BMC speaks suite 3 only."""
    port = farm.add("sha1", lambda _: None)
    with UdpProxy(port, Loss.NONE) as proxy:
        async with fencing(
            three=device(tmp_path, proxy.port, cipher="3"),
            any=device(tmp_path, proxy.port),
            seventeen=device(tmp_path, proxy.port, cipher="17"),
        ) as fencer:
            assert (await read(fencer, "three")).power is Power.ON
            assert (await read(fencer, "any")).power is Power.ON
            assert "accepts no cipher suite 17" in (await read(fencer, "seventeen")).error


async def test_secrets_that_ipmi_cannot_carry(farm: BmcFarm, tmp_path: Path) -> None:
    port = farm.add("long", lambda _: None)
    async with fencing(host=device(tmp_path, port, password="x" * 21)) as fencer:
        assert "longer than 20 bytes" in (await read(fencer)).error
    (tmp_path / "kg").write_text("0x12zz")
    async with fencing(host=device(tmp_path, port, kg_file=str(tmp_path / "kg"))) as fencer:
        assert "not hexadecimal" in (await read(fencer)).error


@pytest.mark.root
async def test_the_bmc_s_own_key(tmp_path: Path) -> None:
    need("openipmi")
    sim = IpmiSim(tmp_path, "host", key=KG)
    sim.start()
    kg = tmp_path / "kg"
    try:
        right = device(tmp_path, sim.port, password=ipmi_sim.PASSWORD, kg_file=str(kg))
        without = device(tmp_path, sim.port, password=ipmi_sim.PASSWORD)
        async with fencing(right=right, without=without) as fencer:
            for text in (KG, "0x" + KG.encode().hex()):
                kg.write_text(text)
                assert (await read(fencer, "right")).power is Power.ON
            kg.write_text("another-key")
            wrong = await read(fencer, "right")
            assert "Kg" in wrong.error
            assert "another-key" not in wrong.error
            assert "Kg" in (await read(fencer, "without")).error
    finally:
        sim.stop()


async def packets(fencer: WorkerFencer, proxy: UdpProxy) -> int:
    before = proxy.seen
    assert (await read(fencer)).power is Power.ON
    return proxy.seen - before


async def test_a_session_serves_the_next_read_too(farm: BmcFarm, tmp_path: Path) -> None:
    port = farm.add("again", lambda _: None)
    with UdpProxy(port, Loss.NONE) as proxy:
        bmc = device(tmp_path, proxy.port)
        async with fencing(host=bmc) as fencer:
            first, second = await packets(fencer, proxy), await packets(fencer, proxy)
            assert second == 2  # the GUID and the power
            assert first > second + 4
            [worker] = fencer.pids
            # what the BMC forgot is asked for anew, in the same read
            proxy.forget()
            assert await packets(fencer, proxy) > first
            # a password that changed is noticed although the old session stands
            device(tmp_path, proxy.port, password="changed")
            assert "wrong password" in (await read(fencer)).error
            device(tmp_path, proxy.port)
            # and an off begins with a login of its own
            await packets(fencer, proxy)
            before = proxy.seen
            await fencer.off("host", 0, 5.0)
            assert proxy.seen - before > first
            assert worker not in fencer.pids


async def test_a_kept_session_is_no_other_device_s(farm: BmcFarm, tmp_path: Path) -> None:
    one, two = (farm.add(name, lambda _: None) for name in ("one", "two"))
    farm.set_power("two", False)
    bmc = device(tmp_path, one)
    async with fencing(one=bmc, two=msgspec.structs.replace(bmc, port=two)) as fencer:
        for _ in range(3):
            assert (await read(fencer, "one")).power is Power.ON
            assert (await read(fencer, "two")).power is Power.OFF
        assert (await read(fencer, "one")).machine == farm.guid("one")
        assert (await read(fencer, "two")).machine == farm.guid("two")
