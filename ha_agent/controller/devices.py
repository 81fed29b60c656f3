"""The health of fencing devices, looked at all the time: nobody should learn that a password changed in the night it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ha_agent.api.facade import DeviceHealth
from ha_agent.controller.engine import Engine
from ha_agent.model import MachineSeen, Power, PowerRead, Reading, Verdict
from ha_agent.ports import Clock

Tell = Callable[[str, dict[str, Any]], None]


class Devices:
    """The last look at every device. `drivers`: (host, device) -> driver name, for reports."""

    def __init__(self, engine: Engine, clock: Clock, drivers: dict[tuple[str, str], str]) -> None:
        self.drivers = drivers
        self._engine = engine
        self._clock = clock
        self._health: dict[tuple[str, str], tuple[DeviceHealth, float]] = {}

    def expected(self, host: str, device: str) -> str | None:
        """Which machine the device said it is while the host was known alive."""
        record = self._engine.state.hosts.get(host)
        return record.machine.get(device) if record else None

    def result(self, host: str, level: int, readings: Sequence[Reading]) -> None:
        """A periodic look ended. A change of health is told; the identity is learned once. What another machine reads says nothing
        of this host."""
        errors = [self._error(host, reading) for reading in readings]
        own = tuple(reading for reading, error in zip(readings, errors, strict=True) if not error)
        if any(r.power is Power.ON for r in own):
            self._engine.feed(PowerRead(host=host, readings=own))
        for reading, error in zip(readings, errors, strict=True):
            self._note(host, level, reading, error)
        for reading in own:
            known = self.expected(host, reading.device)
            if not known and reading.machine and self._alive(host) and reading.power is Power.ON:
                self._engine.feed(MachineSeen(host=host, device=reading.device, machine=reading.machine))

    def _error(self, host: str, reading: Reading) -> str:
        if reading.power is Power.UNKNOWN:
            return reading.error
        known = self.expected(host, reading.device)
        if known and reading.machine and reading.machine.lower() != known.lower():
            return f"it says that it is machine {reading.machine}; it was {known} before"
        return ""

    def _alive(self, host: str) -> bool:
        view = self._engine.views.get(host)
        return view is not None and view.verdict is Verdict.ALIVE and view.heard_at is not None

    def _note(self, host: str, level: int, reading: Reading, error: str) -> None:
        key = (host, reading.device)
        if self.drivers.get(key) == "manual":
            error = ""
        health = DeviceHealth(
            host=host,
            device=reading.device,
            level=level + 1,
            driver=self.drivers.get(key, ""),
            ok=not error,
            power=reading.power,
            error=error,
        )
        before = self._health.get(key)
        self._health[key] = (health, reading.at)
        if before is not None and before[0].ok == health.ok:
            return
        if before is None and health.ok:
            return
        self._engine.tell(
            "fencing_device.restored" if health.ok else "fencing_device.failed",
            {
                "host": host,
                "device": reading.device,
                "level": level,
                "power": str(reading.power),
                "machine": reading.machine,
                "error": error,
            },
        )

    def all(self) -> list[DeviceHealth]:
        """Every device, looked at or not."""
        now = self._clock.now()
        result = []
        for (host, device), driver in sorted(self.drivers.items()):
            known = self._health.get((host, device))
            if known is None:
                result.append(DeviceHealth(host=host, device=device, level=0, driver=driver, error="not looked at yet"))
            else:
                result.append(msgspec.structs.replace(known[0], checked_age_s=max(0.0, now - known[1])))
        return result
