"""What a facade says of fencing where nothing real is behind it: a BMC that answers, and on the second host a PDU that does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from ha_agent.api.facade import DeviceHealth, DeviceLook, FencingLevel, FencingPlan
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
