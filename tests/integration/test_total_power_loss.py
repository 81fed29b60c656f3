"""A host loses its power supply, and its BMC with it: nothing at its address answers, so IPMI can never prove anything.

Everything is real but Nova: ipmi_sim's processes are killed, a real fence agent reads the outlet, a person types the command.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ha_agent.sim.nova_state import SimServer
from tests.integration.debian import need
from tests.integration.ipmi_sim import PASSWORD, USER, IpmiSim
from tests.integration.rig import HOSTS, TAG, Rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]
HOST = HOSTS[0]
BUSY_S = 1.0  # the bound holds for a controller that is not kept waiting by tests


def protected(rig: Rig) -> list[SimServer]:
    return [s for s in rig.nova.servers.values() if TAG in s.tags]


def moved(rig: Rig) -> bool:
    """Whether every protected server runs on exactly one other host, or is stopped there as it was."""
    return all(
        s.host != HOST and rig.nova.runs.get(s.id, set()) == ({s.host} if s.vm_state == "active" else set())
        for s in protected(rig)
    )


def power_is_gone(rig: Rig) -> None:
    rig.bmcs[HOST].lose_supply()
    assert not rig.bmcs[HOST].host_alive()


async def alarm_bound_s(rig: Rig) -> float:
    """As `config check` prints it."""
    code, text = await rig.cli("config", "check", str(rig.directory / "controller.yaml"))
    assert code == 0, text
    found = re.search(r"alarm(?:ed)?\D*([0-9.]+) s", text)
    assert found, text
    return float(found[1])


async def blocked(rig: Rig) -> str:
    """The power goes. Waits until `status` says that the host is down and that its fencing fails, within the bound. What it says then."""
    alarm_s = await alarm_bound_s(rig)
    power_is_gone(rig)
    await rig.until(lambda: bool(rig.incidents()), alarm_s + BUSY_S, "somebody is told within the printed bound")
    await rig.until(lambda: any(i.blocked for i in rig.incidents()), 30, "level 1 fails")
    return (await rig.cli("status"))[1]


async def test_a_fence_agent_at_level_2_proves_it_off(tmp_path: Path) -> None:
    need("openipmi", "fence-agents")
    outlet = IpmiSim(tmp_path, "outlet")
    outlet.start()
    secret = tmp_path / "outlet-password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    second = {
        "driver": "fence_agent",
        "agent": "fence_ipmilan",
        "address": "127.0.0.1",
        "port": outlet.port,
        "username": USER,
        "password_file": str(secret),
        "options": {"lanplus": 1, "cipher": 3, "power_wait": 0, "ipmitool_timeout": 1},
    }
    try:
        async with Rig(tmp_path / "rig", second) as rig:
            await rig.start_controller()
            await rig.ready()
            power_is_gone(rig)
            await rig.until(lambda: moved(rig), 60, "the servers run elsewhere")
            assert rig.nova.told == [(HOST, True)]
            assert "off" in outlet.log()
            code, text = await rig.cli("explain", HOST)
            assert code == 0, text
            assert re.search(r"level 2.*second read off twice|second read off twice", text), text
            assert "scratch" in {s.name for s in rig.nova.servers.values() if s.host == HOST}, "nobody chose it"
    finally:
        outlet.stop()


async def test_without_one_it_says_what_to_type_and_goes_on_when_the_bmc_is_back(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        text = await blocked(rig)
        assert f"ha-agent confirm-fenced {HOST}" in text
        assert rig.nova.told == [], "nothing is believed without evidence"
        assert not any(i.evidence for i in rig.incidents())

        rig.bmcs[HOST].regain_supply()
        await rig.until(lambda: moved(rig), 60, "it resumes by itself")
        assert rig.nova.told == [(HOST, True)]
        assert rig.bmcs[HOST].log().count("off") <= 1


async def test_a_person_who_holds_the_plug_confirms(tmp_path: Path) -> None:
    need("openipmi")
    async with Rig(tmp_path / "rig") as rig:
        await rig.start_controller()
        await rig.ready()
        await blocked(rig)
        code, text = await rig.cli("confirm-fenced", HOST, "--reason", "both plugs are out", "--yes")
        assert code == 0, text
        await rig.until(lambda: moved(rig), 60, "the servers run elsewhere")
        code, text = await rig.cli("explain", HOST)
        assert "both plugs are out" in text
        assert rig.nova.told == [(HOST, True)]
