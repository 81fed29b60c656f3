"""The level of last resort: a person. It switches nothing and proves nothing by itself; the evidence is the operator's
confirmation."""

from __future__ import annotations

from ha_agent.fencing.topology import Device
from ha_agent.model import Power, Reading

WAITING = "waiting for confirm-fenced"


def reading(device: Device, at: float, wall: float) -> Reading:
    """What a manual device always reads."""
    return Reading(device=device.name, power=Power.UNKNOWN, at=at, wall=wall, error=WAITING)
