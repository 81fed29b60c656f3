"""Levels of several drivers: the host lost all power, and its BMC with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Topology
from ha_agent.model import Power, Reading
from ha_agent.sim.bmc import BmcFarm
from ha_agent.system import SystemClock
from tests.integration.fencing_contract.bad import Bad
from tests.integration.fencing_contract.rigs import ipmi_farm, redfish, scripted_agent
from tests.integration.fencing_contract.test_contract import proven_off


@pytest.fixture(scope="module")
def farm() -> Iterator[BmcFarm]:
    farm = BmcFarm()
    farm.start()
    yield farm
    farm.stop()


def of(readings: list[Reading], device: str) -> list[Reading]:
    return [reading for reading in readings if reading.device == device]


@pytest.mark.parametrize("second", [Bad.NOTHING, Bad.STAYS_ON])
async def test_the_bmc_is_gone_and_two_outlets_answer(farm: BmcFarm, tmp_path: Path, second: Bad) -> None:
    """With a Redfish BMC in the same level, which answers although the power is off: all must read off."""
    with contextlib.ExitStack() as stack:
        rigs = {}
        for name, make, bad in (
            ("bmc", ipmi_farm, Bad.HANGS_BEFORE_LOGIN),
            ("pdu_a", scripted_agent, Bad.NOTHING),
            ("pdu_b", scripted_agent, second),
            ("chassis", redfish, Bad.NOTHING),
        ):
            directory = tmp_path / name
            directory.mkdir()
            rigs[name] = stack.enter_context(make(bad, directory, farm))
        devices = {name: msgspec.structs.replace(rig.device, name=name) for name, rig in rigs.items()}
        levels = ((devices["bmc"],), (devices["pdu_a"], devices["pdu_b"], devices["chassis"]))
        fencer = WorkerFencer(Topology(levels={"host": levels}), SystemClock(), send_within_s=5.0)
        await fencer.start()
        first = list(await fencer.off("host", 0, 3.0))
        assert [reading.power for reading in first] == [Power.UNKNOWN]
        readings = list(await fencer.off("host", 1, 8.0))
        await fencer.close()
        assert proven_off(of(readings, "pdu_a"))
        assert proven_off(of(readings, "chassis"))
        assert proven_off(of(readings, "pdu_b")) is (second is Bad.NOTHING)
        assert [rigs[name].offs() for name in ("bmc", "pdu_a", "pdu_b", "chassis")] == [0, 1, 1, 1]
