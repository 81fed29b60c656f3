"""Which driver drives a device. Each is imported where it is used: their libraries are slow to load, and most clouds need one."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from ha_agent.errors import DriverError
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.ports import PowerDevice

MODULES = {
    "ipmi": "ha_agent.fencing.ipmi",
    "redfish": "ha_agent.fencing.redfish",
    "fence_agent": "ha_agent.fencing.fence_agent",
}


class Connection(PowerDevice, Protocol):
    """A PowerDevice that can be closed."""

    def close(self) -> None: ...


@runtime_checkable
class Reusable(Protocol):
    """A Connection that may serve a later read of the same device."""

    def again(self, window: Window) -> bool: ...
    def close(self) -> None: ...


def load(names: Iterable[str]) -> None:
    """Imports what these drivers need. A driver that there is not is left for `connect` to refuse."""
    for name in names:
        if name in MODULES:
            importlib.import_module(MODULES[name])


def connect(device: Device, window: Window) -> Connection:
    """The device, ready to be asked; nothing is sent yet. Raises DriverError where it cannot even be tried."""
    match device.driver:
        case "ipmi":
            from ha_agent.fencing.ipmi import IpmiDevice

            return IpmiDevice.of(device, window)
        case "redfish":
            from ha_agent.fencing.redfish import RedfishDevice

            return RedfishDevice.of(device, window)
        case "fence_agent":
            from ha_agent.fencing.fence_agent import FenceAgent

            return FenceAgent.of(device, window)
        case other:
            raise DriverError(f"there is no driver {other}")
