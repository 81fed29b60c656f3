"""What a facade says of fencing where nothing real is behind it: a BMC that answers, and on the second host a PDU that does not, or not to an off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from ha_agent.api.facade import DeviceHealth, DeviceLook, FencingLevel, FencingPlan
from ha_agent.api.fencing_tests import Asked, DeviceTest, FencingTest, LevelTest, LevelVerdict
from ha_agent.errors import UsageError
from ha_agent.model import Mode, Power

MUTE = ("h2", "compute-2")


class HasHosts(Protocol):
    """A fake of the facade that knows some hosts."""

    @property
    def hosts(self) -> Collection[str]: ...


class SaysOfFencing:
    """To be inherited by a fake of the facade."""

    async def look_at_devices(self: HasHosts, host: str) -> Sequence[DeviceLook]:
        known(self, host)
        on = DeviceLook(host=host, device="bmc", level=1, driver="ipmi", power=Power.ON, took_s=0.4, machine="4c4c")
        mute = DeviceLook(host=host, device="pdu", level=2, driver="fence_agent", error="wrong password", took_s=2.0)
        return [on, mute] if host in MUTE else [on]

    async def test_fencing(self: HasHosts, host: str, asked: Asked, actor: str) -> FencingTest:
        known(self, host)
        begun = FencingTest(id=f"{asked.level} {asked.with_servers}", host=host, actor=actor, began_wall=1.0)
        _tests(self)[host] = msgspec.structs.replace(begun, lines=("level 1: bmc reads on",))
        return begun

    def fencing_test(self: HasHosts, host: str) -> FencingTest:
        """It has ended when it is asked for the first time."""
        known(self, host)
        if host not in _tests(self):
            raise UsageError(f"no fencing of {host} was tested", "look")
        bmc = DeviceTest(device="bmc", before=Power.ON, off=Power.OFF, off_s=1.2, on=Power.ON, on_s=0.1)
        level = LevelTest(level=1, verdict=LevelVerdict.WORKS, devices=(bmc,), back_s=140.0)
        if host in MUTE:
            stays = msgspec.structs.replace(bmc, off=Power.ON, off_s=None)
            level = LevelTest(level=1, verdict=LevelVerdict.FAILED, devices=(stays,), why="bmc reads on")
        found, passed = _tests(self)[host], level.verdict is LevelVerdict.WORKS
        lines = (*found.lines, "level 1: off is sent")
        return msgspec.structs.replace(found, ended=True, passed=passed, levels=(level,), lines=lines)

    def fencing_plan(self: HasHosts, host: str) -> FencingPlan:
        known(self, host)
        bmc = DeviceHealth(host=host, device="bmc", level=1, driver="ipmi", ok=True)
        level = FencingLevel(level=1, evidence_s=31.5, devices=(bmc,))
        return FencingPlan(
            host=host,
            mode=Mode.AUTO,
            fence=True,
            alarm_s=11.5,
            attempt_s=20.0,
            levels=(level,),
            forbidden="x",
            release="y",
        )


def known(fake: HasHosts, host: str) -> None:
    """Raises UsageError for a host that the fake does not have."""
    if host not in fake.hosts:
        raise UsageError(f"{host} is not in the inventory", "see: ha-agent status")


def _tests(fake: HasHosts) -> dict[str, FencingTest]:
    """Those that were begun, by host."""
    found: dict[str, FencingTest] = vars(fake).setdefault("tests", {})
    return found
