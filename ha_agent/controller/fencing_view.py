"""Fencing as a person asks for it: what would be done about a host, and how its devices answer now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ha_agent import guards
from ha_agent.api.facade import DeviceHealth, DeviceLook, FencingLevel, FencingPlan
from ha_agent.bounds import host_bounds
from ha_agent.controller.devices import Devices
from ha_agent.errors import UsageError
from ha_agent.model import Power, Reading, State
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Clock, Fencer

LOOKS_AT_ONCE = 8  # hosts: each costs a worker process per device


class FencingView:
    """See the module. One for a daemon."""

    def __init__(self, fencer: Fencer, devices: Devices, clock: Clock) -> None:
        self._fencer = fencer
        self._devices = devices
        self._clock = clock
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def look(self, policy: Policy, host: str) -> Sequence[DeviceLook]:
        """All levels at once. What was read counts as a periodic look does. Raises UsageError for an unknown host."""
        deadline_s = known(policy, host).fencing.attempt_s
        async with self._looking:
            levels = range(self._fencer.levels(host))
            found = await asyncio.gather(*(self.level(host, level, deadline_s) for level in levels))
        return [look for level in found for look in level]

    async def level(self, host: str, level: int, deadline_s: float) -> list[DeviceLook]:
        """One level of a known host, counted from 0."""
        began = self._clock.now()
        readings = await self._fencer.read(host, level, deadline_s)
        took_s = self._clock.now() - began
        self._devices.result(host, level, readings)
        return [self._row(host, level, reading, took_s) for reading in readings]

    def _row(self, host: str, level: int, reading: Reading, took_s: float) -> DeviceLook:
        driver = self._devices.drivers.get((host, reading.device), "")
        unknown = reading.power is Power.UNKNOWN and driver != "manual"
        return DeviceLook(
            host=host,
            device=reading.device,
            level=level + 1,
            driver=driver,
            power=reading.power,
            machine=reading.machine,
            took_s=round(took_s, 3),
            error=(reading.error or "it says neither on nor off") if unknown else "",
        )


def known(policy: Policy, host: str) -> HostPolicy:
    """Raises UsageError."""
    found = policy.hosts.get(host)
    if found is None:
        raise UsageError(f"{host} is not in the inventory", "see: ha-agent status")
    return found


def plan(policy: Policy, state: State, devices: Sequence[DeviceHealth], host: str) -> FencingPlan:
    """Raises UsageError for an unknown host."""
    rules = known(policy, host)
    alarm_s, evidence_s = host_bounds(rules)
    by_name = {d.device: d for d in devices if d.host == host}
    forbidden, release = _forbidden(policy, state, host)
    return FencingPlan(
        host=host,
        mode=rules.recovery.mode,
        fence=rules.recovery.fence,
        alarm_s=alarm_s,
        attempt_s=rules.fencing.attempt_s,
        levels=tuple(
            FencingLevel(
                level=number,
                evidence_s=seconds,
                devices=tuple(
                    by_name.get(name) or DeviceHealth(host=host, device=name, level=number) for name in names
                ),
            )
            for number, (names, seconds) in enumerate(zip(rules.fencing.levels, evidence_s, strict=True), start=1)
        ),
        forbidden=forbidden,
        release=release,
    )


def _forbidden(policy: Policy, state: State, host: str) -> tuple[str, str]:
    refusal = guards.may_act(state, host, policy)
    if refusal is not None:
        return refusal.reason, refusal.release
    record = state.hosts.get(host)
    if record is None or not record.first_seen_wall:
        return f"{host} was never seen alive", f"ha-agent fence {host}"
    if record.contradiction:
        return record.contradiction, f"ha-agent fence {host}, once its devices are mended"
    if policy.hosts[host].recovery.fence and not policy.hosts[host].fencing.levels:
        return "no fencing device", f"ha-agent confirm-fenced {host}, once it is down and switched off by hand"
    return "", ""
