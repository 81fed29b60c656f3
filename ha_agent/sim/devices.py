"""The fencing devices of a simulated world, and what can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ha_agent.model import Power


class DeviceFault(StrEnum):
    """What is wrong with a fencing device."""

    NONE = "none"
    DEAD = "dead"  # nobody answers
    HANG = "hang"  # the session opens, then nothing
    REFUSE = "refuse"  # it answers, and refuses the session (a changed password)
    SLOW = "slow"  # each answer takes SLOW_S
    IGNORE_OFF = "ignore_off"  # says yes and does nothing
    SLOW_OFF = "slow_off"  # off takes `off_s`
    FLAKY = "flaky"  # every other reading fails
    FLAPS = "flaps"  # it does not switch, and every other reading says off
    RESTORES = "restores"  # its policy is "always on": on again RESTORE_S after an off, or after the policy was set
    ELSEWHERE = "elsewhere"  # its address leads to another machine's device by now
    LYING = "lying"  # reads off while the host is on: a documented limit


SLOW_S = 3.0
SLOW_OFF_S = 7.0
RESTORE_S = 4.0
HANG_S = 5.0  # until the reader gives up

MUTE = {
    DeviceFault.DEAD: "no answer in time",
    DeviceFault.HANG: "no answer in time",
    DeviceFault.REFUSE: "the session is refused: wrong password",
}
"""Faults with which neither a reading nor an order comes about, and what the reader is told."""


@dataclass
class Device:
    """One fencing device of one host. `off_s`: how long an off takes where it is slow. `known`: it was asked which machine it is while
    its host was alive, so whoever fences can know."""

    name: str
    fault: DeviceFault = DeviceFault.NONE
    looks: int = 0
    off_s: float = SLOW_OFF_S
    known: bool = False

    def read(self, *, powered: bool) -> tuple[Power, str]:
        """One look at it, and why it is unknown."""
        self.looks += 1
        if self.fault in MUTE:
            return Power.UNKNOWN, MUTE[self.fault]
        if self.fault is DeviceFault.FLAKY and self.looks % 2:
            return Power.UNKNOWN, "the session was lost"
        if self.fault is DeviceFault.LYING or (self.fault is DeviceFault.FLAPS and self.looks % 2):
            return Power.OFF, ""
        return (Power.ON if powered else Power.OFF), ""

    @property
    def takes_s(self) -> float:
        """How much longer than usual an answer of it takes."""
        return {DeviceFault.HANG: HANG_S, DeviceFault.SLOW: SLOW_S}.get(self.fault, 0.0)
